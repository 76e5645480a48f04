//! What earlier runs have compared in a frozen tree.
#![cfg(target_os = "linux")]

mod vfs_support;

use std::sync::atomic::{AtomicU8, Ordering};

use elfuse_runtime::vfs::{
    Arena, Catalogue, Coherence, Compared, Generation, Mode, Prefixes, Verdict, Verdicts, Vfs,
};
use vfs_support::index::{Store, build};
use vfs_support::{RealHost, Strings, Tree, by_vfs, follow, tree};

/// How many directories are said to have been compared.
fn noted(bits: &[AtomicU8]) -> u32 {
    let ones = |byte: &AtomicU8| byte.load(Ordering::Relaxed).count_ones();
    bits.iter().map(ones).sum()
}

/// A run: it looks for these paths, and changes something where one of them is `!`.
fn run(
    (tree, store): (&Tree, &Store),
    (mode, generation): (Mode, &Generation),
    bits: &[AtomicU8],
    paths: &[&str],
) -> u64 {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; 4 << 20];
    let arena = Arena::cleared(&mut memory);
    let coherence = Coherence::new(mode, false, generation);
    let verdicts = Verdicts::new();
    let catalogue = Catalogue::open(store, &arena).unwrap();
    let bound = catalogue.bound(coherence.settled_generation().unwrap());
    let compared = Compared::new(bound, bits).unwrap();
    let vfs = Vfs::new(&mounts)
        .with_verdicts(&verdicts)
        .with_index(&catalogue, &coherence)
        .with_prefixes(Prefixes::new(&arena).unwrap())
        .with_compared(&compared);
    let host = RealHost::new(&tree.sysroot());
    for path in paths {
        if *path == "!" {
            coherence.mutate_begin();
            coherence.mutate_end();
        } else {
            let found = by_vfs(&vfs, &host, "/", path, follow(true));
            assert!(found.is_err(), "{path}: {found:?}");
        }
    }
    verdicts.get(Verdict::Validated)
}

fn small() -> (Tree, Store) {
    let tree = tree(&["a/", "a/b/", "a/b/file", "c/", "c/file"], &[]);
    let store = build(&tree.sysroot());
    (tree, store)
}

fn bits() -> Vec<AtomicU8> {
    (0..8).map(|_| AtomicU8::new(0)).collect()
}

const PATHS: &[&str] = &["a/b/missing", "a/missing", "a/b/file/x", "c/missing"];

#[test]
fn a_directory_that_an_earlier_run_compared_is_not_compared_again() {
    let (tree, store) = small();
    let (bits, generation) = (bits(), Generation::new());
    let all = (&tree, &store);
    let run = || run(all, (Mode::Frozen, &generation), &bits, PATHS);
    assert_eq!(run(), 4, "the root, a, a/b and c");
    assert_eq!(noted(&bits), 4);
    assert_eq!(run(), 0);
    assert_eq!(noted(&bits), 4);
}

#[test]
fn under_other_rules_nothing_is_told_or_taken_from_others() {
    let (tree, store) = small();
    let generation = Generation::new();
    for mode in [Mode::Lease, Mode::Strict] {
        for all in [0, 0xff] {
            let bits: Vec<_> = bits().iter().map(|_| AtomicU8::new(all)).collect();
            let asked = run((&tree, &store), (mode, &generation), &bits, PATHS);
            assert!(asked >= 4, "{mode:?}");
            assert_eq!(noted(&bits), bits.len() as u32 * all.count_ones());
        }
    }
}

#[test]
fn after_a_change_directories_are_compared_again_and_not_told() {
    let (tree, store) = small();
    let (bits, generation) = (bits(), Generation::new());
    let (all, rule) = ((&tree, &store), (Mode::Frozen, &generation));
    // The bits of a file are bound to a generation, so that the next run begins with others.
    let paths = [&["!"], PATHS].concat();
    assert_eq!(run(all, rule, &bits, &paths), 4);
    assert_eq!(noted(&bits), 0);
}

#[test]
fn a_directory_that_is_not_as_its_key_says_is_never_told() {
    let (tree, store) = small();
    let (bits, generation) = (bits(), Generation::new());
    let (all, rule) = ((&tree, &store), (Mode::Frozen, &generation));
    vfs_support::let_the_clock_tick();
    std::fs::write(tree.sysroot().join("a/b/made-by-somebody"), "").unwrap();
    run(all, rule, &bits, PATHS);
    assert_eq!(noted(&bits), 3, "all but a/b");
}

#[test]
fn fewer_bits_than_directories_are_none() {
    let (tree, store) = small();
    let mut memory = vec![0; 4 << 20];
    let arena = Arena::cleared(&mut memory);
    let catalogue = Catalogue::open(&store, &arena).unwrap();
    assert!(Compared::new(catalogue.bound(0), &[]).is_none());
    drop(tree);
}
