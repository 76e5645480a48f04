//! Any bytes as a path and as an index: random ones, and an index that lies with all its checksums right.
#![cfg(target_os = "linux")]

mod hostile_paths;
mod vfs_support;

use std::path::Path;

use proptest::prelude::*;
use vfs_support::index::build;
use vfs_support::tree;

/// Every file in `fuzz/fixtures/vfs`: inputs that once broke the resolver.
#[test]
fn what_fuzzing_found_does_not_break_the_resolver_again() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fixtures/vfs");
    for entry in std::fs::read_dir(&dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        hostile_paths::resolve(&std::fs::read(&path).unwrap());
    }
}

fn loader_cache() -> Vec<u8> {
    let tree = tree(
        &[
            "usr/",
            "usr/lib/",
            "usr/lib/a",
            "usr/lib/b -> a",
            "usr/lib/c/",
            "usr/lib/c/d",
            "lib -> usr/lib",
            "loop -> loop",
            "up -> ../..",
            "abs -> /usr/lib/c/",
            "m/",
            "into -> m/a/nul",
        ],
        &[],
    );
    let store = build(&tree.sysroot());
    store.loader_cache.into_inner().unwrap()
}

fn name() -> impl Strategy<Value = &'static str> {
    const NAMES: &[&str] = &[
        "usr",
        "lib",
        "a",
        "b",
        "c",
        "d",
        "loop",
        "up",
        "abs",
        "m",
        "..",
        ".",
        "",
        "x",
        "proc",
        "self",
        "exe",
        ".elfuse",
        ".elfuse-sidecar-index",
    ];
    prop::sample::select(NAMES)
}

fn input(path: &str, file: &[u8]) -> Vec<u8> {
    let len = u16::try_from(path.len()).unwrap().to_le_bytes();
    [&len[..], &[0, 0], path.as_bytes(), file].concat()
}

#[test]
fn a_symlink_whose_text_has_a_nul_is_not_taken_from_an_index() {
    let mut file = loader_cache();
    let text = b"m/a/nul";
    let mut found = 0;
    for at in 0..file.len() - text.len() {
        if file[at..].starts_with(text) {
            file[at + 5] = 0;
            found += 1;
        }
    }
    assert_ne!(found, 0);
    for path in ["into", "into/", "into/a"] {
        hostile_paths::resolve(&input(path, &file));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn an_index_that_lies_leads_to_no_panic_and_to_no_place_that_is_none(
        head in any::<[u8; 2]>(),
        names in prop::collection::vec(name(), 1..8),
        absolute in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let path = format!("{}{}", if absolute { "/" } else { "" }, names.join("/"));
        let mut file = loader_cache();
        for (at, value) in &changes {
            let at = at.index(file.len());
            file[at] = *value;
        }
        let len = u16::try_from(path.len()).unwrap().to_le_bytes();
        let data = [&len[..], &head, path.as_bytes(), &file].concat();
        hostile_paths::resolve(&data);
    }

    #[test]
    fn any_bytes_are_a_path(
        head in any::<[u8; 2]>(),
        path in prop::collection::vec(prop_oneof![2 => Just(b'/'), 2 => Just(b'.'), 3 => any::<u8>()], 0..600),
    ) {
        let len = u16::try_from(path.len()).unwrap().to_le_bytes();
        hostile_paths::resolve(&[&len[..], &head, &path].concat());
    }
}
