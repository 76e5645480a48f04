//! Loader caches against glibc's own ldconfig: what it lists of ours, and what it would have written itself.

#![cfg(target_os = "linux")]

mod application;
mod oddities;
mod tools;

use elfuse_format::ld_so_cache::{Layout, LdSoCache, write};
use elfuse_indexer::ldcache::scan::{ScanOptions, scan};
use elfuse_indexer::ldcache::{GENERATOR, build_for_sysroot};
use elfuse_indexer::live::LiveTree;
use elfuse_indexer::resolve::{Outcome, Question, Role, Start, resolve};
use elfuse_indexer::warning::Warnings;
use elfuse_tests::sysroot::debian;

use tools::{LIBRARY_PARTS, Ldconfig, Listing, SHELL, hard_linked_copy, listing_of, trace};

#[test]
fn our_cache_of_the_debian_sysroot_lists_what_its_own_ldconfig_lists() {
    let ldconfig = Ldconfig::of(debian());
    let copy = hard_linked_copy(debian(), &LIBRARY_PARTS);
    let theirs = ldconfig.make(copy.path(), &[]);
    let ours = build_for_sysroot(
        &LiveTree::open(copy.path()).unwrap(),
        &ScanOptions::default(),
        &Warnings::default(),
    )
    .unwrap()
    .bytes;

    let listed = ldconfig.list(&ours);
    assert!(listed.rows.len() > 300, "only {} rows", listed.rows.len());
    assert_eq!(listed.rows, ldconfig.list(&theirs).rows);
    assert_eq!(listed.generator, String::from_utf8_lossy(GENERATOR));

    // And with its signature it would be the same file.
    let cache = LdSoCache::parse(&ours).unwrap();
    let rows = cache.entries().filter_map(|entry| cache.to_row(entry));
    let generator = LdSoCache::parse(&theirs).unwrap().generator().unwrap();
    assert!(
        write(rows, generator).unwrap() == theirs,
        "the same rows give other bytes than ldconfig's"
    );
}

#[test]
fn the_cache_that_debian_was_configured_with_is_the_one_we_make() {
    let there = std::fs::read(debian().join("etc/ld.so.cache")).unwrap();
    let tree = LiveTree::open(debian()).unwrap();
    let ours = build_for_sysroot(&tree, &ScanOptions::default(), &Warnings::default()).unwrap();
    assert_eq!(listing_of(&ours.bytes).rows, listing_of(&there).rows);
}

#[test]
fn our_reader_lists_every_layout_as_ldconfig_does() {
    let ldconfig = Ldconfig::of(debian());
    let copy = hard_linked_copy(debian(), &LIBRARY_PARTS);
    for (format, layout) in [
        ("new", Layout::New),
        ("compat", Layout::Compat),
        ("old", Layout::Old),
    ] {
        let bytes = ldconfig.make(copy.path(), &["-c", format]);
        assert_eq!(LdSoCache::parse(&bytes).unwrap().layout(), layout);
        let Listing { rows, generator } = ldconfig.list(&bytes);
        let ours = listing_of(&bytes);
        assert_eq!(ours.rows, rows, "format {format}");
        assert_eq!(ours.generator, generator, "format {format}");
    }
}

#[test]
fn a_tree_of_oddities_is_listed_as_ldconfig_lists_it() {
    let ldconfig = Ldconfig::of(debian());
    let tree = oddities::make(debian());
    let theirs = ldconfig.make(tree.path(), &[]);
    let live = LiveTree::open(tree.path()).unwrap();
    let ours = build_for_sysroot(&live, &ScanOptions::default(), &Warnings::default()).unwrap();

    let listed = ldconfig.list(&ours.bytes);
    assert_eq!(listed.rows, ldconfig.list(&theirs).rows);
    assert_eq!(listing_of(&ours.bytes).rows, listed.rows);
    let kinds = [
        "x86-64-v3",
        "hwcap: 0x0004000000000004",
        "hwcap: 0x8000000000000000",
        "(ELF)",
        "(libc6, hwcap",
    ];
    for kind in kinds {
        assert!(
            listed.rows.iter().any(|row| row.contains(kind)),
            "the tree has nothing with {kind}: {listed:#?}"
        );
    }
}

#[test]
fn links_reported_missing_are_those_that_ldconfig_makes() {
    let ldconfig = Ldconfig::of(debian());
    let tree = oddities::make(debian());
    let live = LiveTree::open(tree.path()).unwrap();
    let found = scan(&live, &ScanOptions::default(), &Warnings::default());
    assert!(!found.missing_links.is_empty());

    ldconfig.make_with_links(tree.path());
    for link in &found.missing_links {
        let path = tree
            .path()
            .join(link.path.to_string().trim_start_matches('/'));
        let target = std::fs::read_link(&path).unwrap();
        assert_eq!(
            target.to_str().unwrap(),
            link.target.to_string(),
            "{}",
            path.display()
        );
    }
    let live = LiveTree::open(tree.path()).unwrap();
    assert_eq!(
        scan(&live, &ScanOptions::default(), &Warnings::default()).missing_links,
        []
    );
}

#[test]
fn the_loader_takes_from_our_cache_what_our_search_of_it_says() {
    let tree = oddities::make(debian());
    let root = tree.path();
    // With links, so that everything listed can be opened.
    Ldconfig::of(debian()).make_with_links(root);
    let asked = oddities::library_that_needs_all(root);
    let live = LiveTree::open(root).unwrap();
    let built = build_for_sysroot(&live, &ScanOptions::default(), &Warnings::default()).unwrap();
    std::fs::write(root.join("etc/ld.so.cache"), &built.bytes).unwrap();

    let theirs = trace(root, SHELL, &asked, Some(oddities::LOADER));
    assert_eq!(theirs.status, 0, "{theirs:#?}");
    let question = Question {
        start: Start::By(oddities::LOADER.into()),
        ..Question::new(asked)
    };
    // Not the tree from before: it remembers that there was no such cache.
    let live = LiveTree::open(root).unwrap();
    let Outcome::Linked(linked) = resolve(&live, &question).unwrap() else {
        panic!("not linked");
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let loaded = linked
        .order
        .iter()
        .map(|&id| linked.object(id))
        .filter(|object| object.role == Role::Library);
    let ours: Vec<_> = loaded
        .map(|object| (text(&object.name), Some(text(&object.path))))
        .collect();
    let loader = |row: &(String, Option<String>)| row.0.contains("ld-linux");
    let theirs: Vec<_> = theirs.list.into_iter().filter(|row| !loader(row)).collect();
    assert!(theirs.len() > 10, "{theirs:#?}");
    assert_eq!(ours, theirs);
}
