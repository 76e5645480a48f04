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
use elfuse_tests::ld_trace::Trace;
use elfuse_tests::need::tool;
use elfuse_tests::sysroot::{debian, store};
use rayon::prelude::*;
use walkdir::WalkDir;

use super::tools::{Ldconfig, SHELL, enterable, hard_linked_copy, listing_of, run, trace};

#[test]
fn without_runpaths_and_with_our_cache_the_store_resolves_the_same_files() {
    let bare = hard_linked_copy(store(), &["."]);
    let root = bare.path();
    enterable(root);
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
        (built.bytes, trace(root, SHELL, &guest(root, program), None))
    });

    without_runpaths(&files);
    for (program, (bytes, before)) in programs.iter().zip(with_runpaths) {
        assert!(
            before.list.len() > 20 && missing(&before) == 0,
            "{before:#?}"
        );
        let program = guest(root, program);
        let without = trace(root, SHELL, &program, None);
        assert!(
            missing(&without) > 0,
            "it needs no RUNPATH and shows nothing: {without:#?}"
        );

        fs::write(&cache, bytes).unwrap();
        assert_eq!(trace(root, SHELL, &program, None), before);
        fs::remove_file(&cache).unwrap();
    }
}

#[test]
fn a_cache_of_a_debian_program_lists_what_it_loads_and_ldconfig_reads_it() {
    let tree = LiveTree::open(debian()).unwrap();
    let built = build_for_programs(&tree, &[b"/usr/bin/ffmpeg"], &Warnings::default()).unwrap();
    let listed = Ldconfig::of(debian()).list(&built.bytes);
    assert_eq!(listing_of(&built.bytes), listed);

    let cache = LdSoCache::parse(&built.bytes).unwrap();
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let rows: BTreeMap<String, String> = cache
        .entries()
        .map(|entry| (text(entry.key), text(entry.value)))
        .collect();
    let loaded = trace(debian(), "/bin/sh", "/usr/bin/ffmpeg", None).list;
    assert!(loaded.len() > 200, "{loaded:#?}");
    // The loader is listed by its path.
    for (name, path) in loaded
        .into_iter()
        .filter(|(name, _)| !name.starts_with('/'))
    {
        assert_eq!(rows.get(&name), path.as_ref(), "{name}");
    }
}

fn missing(trace: &Trace) -> usize {
    trace.list.iter().filter(|(_, path)| path.is_none()).count()
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
        run(Command::new(tool("patchelf", "patchelf"))
            .arg("--remove-rpath")
            .arg(&own));
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
