//! The portable files are functions of the tree: not of the number of threads, of the order in which names were made, of what
//! was built before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Random, Scratch, age, seed};
use elfuse_tests::sysroot;

/// Every portable file of an index, by path.
fn portable(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = elfuse_tests::scratch::index_files(root).into_iter();
    let portable = files
        .filter(|path| path.ends_with(".elfuse-sidecar-index") || path.ends_with("loader-cache"));
    portable
        .map(|path| (path.clone(), fs::read(root.join(path)).unwrap()))
        .collect()
}

#[track_caller]
fn assert_same(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) {
    let paths = a.keys().chain(b.keys());
    let different: Vec<_> = paths.filter(|path| a.get(*path) != b.get(*path)).collect();
    assert!(different.is_empty(), "{different:?} differ");
}

/// Makes something in a tree.
type Part = Box<dyn Fn(&Scratch)>;

/// What is made, as a list that can be shuffled: directories are made on the way.
fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for number in 0..200_u64 {
        let directory = format!("d{}/e{}", number % 7, number % 31);
        parts.push(Box::new(move |tree| {
            let library = Elf::library(&format!("lib{number}.so")).needing("libc.so.6");
            tree.elf(format!("{directory}/lib{number}.so"), &library);
        }));
        parts.push(Box::new(move |tree| {
            drop(tree.file(format!("f{}/text{number}", number % 3), "text"))
        }));
        parts.push(Box::new(move |tree| {
            drop(tree.link(format!("links/{number}"), format!("../f0/text{number}")))
        }));
        parts.push(Box::new(move |tree| {
            let program =
                Elf::program("/lib64/ld-linux-x86-64.so.2").needing(&format!("lib{number}.so"));
            tree.elf(format!("bin/prog{number}"), &program);
        }));
    }
    parts
}

#[test]
fn neither_threads_nor_the_order_of_creation_change_a_byte() {
    let mut random = Random(seed());
    let mut first = None;
    for jobs in ["1", "2", "7"] {
        let tree = Scratch::in_memory().populated();
        let mut parts = parts();
        for at in (1..parts.len()).rev() {
            parts.swap(at, random.below(at + 1));
        }
        for part in &parts {
            part(&tree);
        }
        elfuse_index!()
            .build(tree.root(), &["--no-wait", "--jobs", jobs])
            .succeeded();
        let files = portable(tree.root());
        // And the same again, by a build that reads all and by one that takes sidecars over.
        elfuse_index!()
            .build(tree.root(), &["--no-wait", "--full", "--jobs", "3"])
            .succeeded();
        assert_same(&files, &portable(tree.root()));
        elfuse_index!()
            .seal(tree.root(), &["--no-wait", "--jobs", "3"])
            .succeeded();
        assert_same(&files, &portable(tree.root()));
        match &first {
            None => first = Some(files),
            Some(first) => assert_same(first, &files),
        }
    }
}

#[test]
fn on_a_whole_debian_system_the_number_of_threads_changes_no_byte() {
    // Outside the tree, so that nothing is written there: its blocks are the sidecars' payloads.
    let beside = Scratch::new();
    let mut first: Option<Vec<u8>> = None;
    for jobs in ["1", "2", "7"] {
        let store = beside.beside(jobs);
        let arguments = [
            "--no-wait",
            "--jobs",
            jobs,
            "--index-dir",
            store.to_str().unwrap(),
        ];
        let ran = elfuse_index!().build(sysroot::debian(), &arguments);
        // 3 where the sysroot has directories that only root may read.
        assert!([0, 3].contains(&ran.status), "{}", ran.notes);
        let cache = fs::read(store.join("loader-cache")).unwrap();
        match &first {
            None => first = Some(cache),
            Some(first) => assert!(
                *first == cache,
                "with {jobs} threads the loader cache is another"
            ),
        }
    }
}

#[test]
fn what_builds_made_step_by_step_is_what_one_build_would_make() {
    let seed = seed();
    let mut random = Random(seed);
    let tree = Scratch::in_memory().populated();
    for part in parts().iter().step_by(5) {
        part(&tree);
    }
    elfuse_index!().build(tree.root(), &[]).succeeded();
    let files: Vec<PathBuf> = files_of(tree.root());
    for round in 0..12 {
        for _ in 0..1 + random.below(6) {
            mutate(&tree, &files, &mut random);
        }
        if round % 6 == 5 {
            age();
        }
        elfuse_index!()
            .build(tree.root(), &["--no-wait"])
            .succeeded();
        no_stale_key_validates(tree.root());
        // Of the same tree elsewhere, which has no index yet.
        let copy = Scratch::in_memory();
        let copied = Command::new("cp")
            .args(["-a", "--"])
            .arg(tree.root().join("."))
            .arg(copy.root())
            .status();
        assert!(copied.unwrap().success());
        fs::remove_dir_all(copy.path(".elfuse")).unwrap();
        for path in copy.index_files() {
            fs::remove_file(copy.path(path)).unwrap();
        }
        elfuse_index!()
            .build(copy.root(), &["--no-wait", "--full"])
            .succeeded();
        assert_same(&portable(tree.root()), &portable(copy.root()));
    }
}

/// The files of a tree that are not an index's.
fn files_of(root: &Path) -> Vec<PathBuf> {
    let ours = elfuse_tests::scratch::index_files(root);
    let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter();
    let files = walk
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file());
    let paths = files.map(|entry| entry.path().strip_prefix(root).unwrap().to_owned());
    paths.filter(|path| !ours.contains(path)).collect()
}

fn mutate(tree: &Scratch, files: &[PathBuf], random: &mut Random) {
    let path = tree.path(&files[random.below(files.len())]);
    let exists = path.exists();
    match random.below(7) {
        0 if exists => fs::remove_file(path).unwrap(),
        1 => drop(fs::write(&path, "text")),
        2 => drop(fs::write(
            &path,
            Elf::library("libnew.so")
                .with_filler(random.number())
                .bytes(),
        )),
        3 => drop(fs::write(&path, &Elf::library("libhalf.so").bytes()[..90])),
        4 => drop(fs::rename(
            &path,
            path.with_file_name(format!("renamed-{}", random.below(9))),
        )),
        5 => drop(tree.file(
            format!("d{}/new-{}/text", random.below(7), random.below(5)),
            "text",
        )),
        _ => drop(tree.file(
            "etc/ld.so.conf",
            format!("/opt/lib\n/d{}/e1\n", random.below(7)),
        )),
    }
}
