//! Per-application caches: an unmodified loader, given one, finds without RUNPATHs what it found with them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_format::elf_facts::ElfFacts;
use elfuse_format::ld_so_cache::LdSoCache;
use elfuse_indexer::inspect::inspect_without_hash;
use elfuse_indexer::ldcache::build_for_programs;
use elfuse_indexer::live::LiveTree;
use elfuse_indexer::tree::Elf;
use elfuse_indexer::warning::Warnings;
use rayon::prelude::*;
use walkdir::WalkDir;

use super::tools::{Ldconfig, hard_linked_copy, listing_of, run, run_in, sysroot};

#[test]
fn without_runpaths_and_with_our_cache_the_store_resolves_the_same_files() {
    let store = sysroot("store");
    let bare = hard_linked_copy(&store);
    let root = bare.path();
    let cache = root.join("etc/ld.so.cache");
    // What the store came with must not answer for ours.
    let _ = fs::remove_file(&cache);
    fs::create_dir_all(cache.parent().unwrap()).unwrap();

    let files = elf_files(root);
    let programs = ["ffmpeg", "emacs"].map(|name| program(&files, root, name));
    let with_runpaths = programs.each_ref().map(|program| {
        let tree = LiveTree::open(root).unwrap();
        let built = build_for_programs(
            &tree,
            &[guest(root, program).as_bytes()],
            &Warnings::default(),
        )
        .unwrap();
        assert_eq!(built.conflicts, [], "{}", program.display());
        (built.bytes, Loaded::by(root, program, &files[program]))
    });

    without_runpaths(&files);
    for (program, (bytes, before)) in programs.iter().zip(with_runpaths) {
        assert_eq!(before.error, "", "{}", program.display());
        assert!(before.libraries.len() > 20, "{before:#?}");
        let without = Loaded::by(root, program, &files[program]);
        assert!(
            !without.error.is_empty(),
            "it needs no RUNPATH and shows nothing: {without:#?}"
        );

        fs::write(&cache, bytes).unwrap();
        assert_eq!(
            Loaded::by(root, program, &files[program]),
            before,
            "{}",
            program.display()
        );
        fs::remove_file(&cache).unwrap();
    }
}

#[test]
fn a_cache_of_a_debian_program_lists_what_it_loads_and_ldconfig_reads_it() {
    let debian = sysroot("debian");
    let tree = LiveTree::open(&debian).unwrap();
    let built = build_for_programs(&tree, &[b"/usr/bin/ffmpeg"], &Warnings::default()).unwrap();
    let listed = Ldconfig::of(&debian).list(&built.bytes);
    assert_eq!(listing_of(&built.bytes), listed);

    let program = debian.join("usr/bin/ffmpeg");
    let loaded = Loaded::by(&debian, &program, &elf_facts(&program).unwrap());
    let cache = LdSoCache::parse(&built.bytes).unwrap();
    let rows: BTreeMap<String, String> = cache
        .entries()
        .map(|entry| (text(entry.key.unwrap()), text(entry.value.unwrap())))
        .collect();
    // The loader and the vDSO are in the list without an arrow.
    let by_name: BTreeMap<_, _> = loaded
        .libraries
        .iter()
        .filter_map(|line| line.split_once(" => "))
        .collect();
    assert!(by_name.len() > 200, "{by_name:#?}");
    for (name, path) in by_name {
        assert_eq!(rows.get(name).map(String::as_str), Some(path), "{name}");
    }
}

/// What a loader says it would load, in its order, without addresses.
#[derive(Debug, PartialEq, Eq)]
struct Loaded {
    libraries: Vec<String>,
    /// Its complaint, empty if there is none.
    error: String,
}

impl Loaded {
    fn by(root: &Path, program: &Path, facts: &ElfFacts) -> Loaded {
        let interpreter = text(facts.interpreter.as_ref().expect("an interpreter"));
        // Not LD_TRACE_LOADED_OBJECTS: chroot would heed it itself.
        let output = run_in(root, &interpreter)
            .arg("--list")
            .arg(guest(root, program))
            .output()
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let name = |line: &str| {
            line.trim()
                .rsplit_once(" (0x")
                .map_or(line.trim(), |(name, _)| name)
                .to_owned()
        };
        Loaded {
            libraries: lines.lines().map(name).collect(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Removes every RPATH and RUNPATH of `files`.
fn without_runpaths(files: &BTreeMap<PathBuf, ElfFacts>) {
    let searching = files
        .iter()
        .filter(|(_, facts)| facts.rpath.is_some() || facts.runpath.is_some());
    let paths: Vec<&PathBuf> = searching.map(|(path, _)| path).collect();
    assert!(!paths.is_empty());
    paths.par_iter().for_each(|path| {
        // patchelf writes into the file, and the file is the pristine tree's too until it is replaced.
        let own = path.with_extension("own-copy");
        fs::copy(path, &own).unwrap();
        run(Command::new("patchelf").arg("--remove-rpath").arg(&own));
        fs::rename(&own, path).unwrap();
        let facts = elf_facts(path).unwrap();
        assert!(
            facts.rpath.is_none() && facts.runpath.is_none(),
            "{}",
            path.display()
        );
    });
}

/// Every regular ELF file below `root`.
fn elf_files(root: &Path) -> BTreeMap<PathBuf, ElfFacts> {
    let entries: Vec<_> = WalkDir::new(root)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let files = entries
        .into_par_iter()
        .filter(|entry| entry.file_type().is_file());
    files
        .filter_map(|entry| Some((entry.path().to_owned(), elf_facts(entry.path())?)))
        .collect()
}

fn elf_facts(path: &Path) -> Option<ElfFacts> {
    match inspect_without_hash(&fs::File::open(path).unwrap()).unwrap() {
        Elf::Facts(facts) => Some(facts.as_ref().clone()),
        Elf::NotElf | Elf::Broken(_) => None,
    }
}

/// The first program in a directory `bin` whose name starts with `name`.
fn program(files: &BTreeMap<PathBuf, ElfFacts>, root: &Path, name: &str) -> PathBuf {
    let is_it = |path: &Path| {
        path.parent().is_some_and(|parent| parent.ends_with("bin"))
            && path
                .file_name()
                .is_some_and(|file| file.as_bytes().starts_with(name.as_bytes()))
    };
    let mut found = files
        .iter()
        .filter(|(path, facts)| is_it(path) && facts.interpreter.is_some());
    let (path, _) = found
        .next()
        .unwrap_or_else(|| panic!("no program {name} in {}", root.display()));
    path.clone()
}

/// `path` as a process whose root is `root` sees it.
fn guest(root: &Path, path: &Path) -> String {
    format!("/{}", path.strip_prefix(root).unwrap().to_str().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
