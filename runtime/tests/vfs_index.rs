//! The resolver with an index, against the kernel's: fresh, stale in parts, in every mode.
#![cfg(target_os = "linux")]

mod vfs_support;

use std::fs;
use std::os::unix::fs::MetadataExt;

use elfuse_format::pages::PAGE_LEN;
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::coherence::LEASE;
use elfuse_runtime::vfs::{
    Absences, Arena, Attributes, Catalogue, Coherence, Generation, Last, Mode, Prefixes, Said,
    Verdict, Verdicts, Vfs,
};
use proptest::prelude::*;
use rustix::fs::ResolveFlags;
use vfs_support::index::{STAMP, Store, build};
use vfs_support::{
    Node, RealHost, Strings, Tree, by_kernel, by_vfs, directories, follow, let_the_clock_tick,
    node, paths, place, plan, tree,
};

const ARENA: usize = 4 << 20;

/// Compares all paths from all directories with what the kernel says.
fn compare(
    vfs: &Vfs<'_>,
    host: &RealHost,
    tree: &Tree,
    paths: &[(String, bool)],
) -> Result<(), TestCaseError> {
    for start in directories(tree) {
        for (path, follows) in paths {
            let whole = if path.starts_with('/') {
                path.clone()
            } else {
                format!("{start}/{path}")
            };
            let expected = by_kernel(&tree.whole(), &whole, *follows, ResolveFlags::empty());
            let found = by_vfs(vfs, host, &start, path, follow(*follows));
            prop_assert_eq!(
                found,
                expected,
                "{} from {}, following: {}",
                path,
                start,
                follows
            );
        }
    }
    Ok(())
}

fn with_index(
    tree: &Tree,
    store: &Store,
    mode: Mode,
    shadow: bool,
    test: impl FnOnce(&Vfs<'_>, &RealHost, &Coherence<'_>, &Verdicts) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; ARENA];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(mode, shadow, &generation);
    let catalogue = Catalogue::open(store, &arena).unwrap();
    let verdicts = Verdicts::new();
    let absences = Absences::new(&arena).unwrap();
    let vfs = Vfs::new(&mounts)
        .with_index(&catalogue, &coherence)
        .with_absences(&absences, &coherence)
        .with_prefixes(Prefixes::new(&arena).unwrap())
        .with_verdicts(&verdicts);
    let host = RealHost::new(&tree.sysroot());
    test(&vfs, &host, &coherence, &verdicts)
}

const MODES: [(Mode, bool); 5] = [
    (Mode::Lease, false),
    (Mode::Frozen, false),
    (Mode::Strict, false),
    (Mode::Off, false),
    (Mode::Lease, true),
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    #[test]
    fn with_a_fresh_index_every_path_leads_where_the_kernel_says(plan in plan(), paths in paths()) {
        let tree = Tree::new(plan);
        let store = build(&tree.sysroot());
        for (mode, shadow) in MODES {
            with_index(&tree, &store, mode, shadow, |vfs, host, _, _| compare(vfs, host, &tree, &paths))?;
        }
    }

    #[test]
    fn a_fresh_index_of_a_tree_without_mounts_leaves_nothing_to_be_asked(mut plan in plan(), paths in paths()) {
        plan.mounts.clear();
        let tree = Tree::new(plan);
        let store = build(&tree.sysroot());
        for mode in [Mode::Lease, Mode::Frozen] {
            with_index(&tree, &store, mode, false, |vfs, host, _, verdicts| {
                compare(vfs, host, &tree, &paths)?;
                let counts: Vec<_> = verdicts.all().collect();
                prop_assert_eq!(host.readlinks.get(), 0, "{:?}", counts);
                prop_assert_eq!(verdicts.get(Verdict::AskedHost), 0);
                prop_assert_eq!(verdicts.get(Verdict::Validated), host.stats.get());
                Ok(())
            })?;
        }
    }

    #[test]
    fn an_index_of_a_tree_that_has_changed_tells_nothing_that_is_no_longer_so(
        plan in plan(),
        paths in paths(),
        changes in prop::collection::vec((place(), prop::option::of(node())), 1..6),
    ) {
        let tree = Tree::new(plan);
        let store = build(&tree.sysroot());
        let_the_clock_tick();
        for (mode, shadow) in [(Mode::Lease, false), (Mode::Strict, false), (Mode::Lease, true)] {
            with_index(&tree, &store, mode, shadow, |vfs, host, coherence, _| {
                compare(vfs, host, &tree, &paths)?;
                // By others: it counts when the lease ends.
                let (half, rest) = changes.split_at(changes.len() / 2);
                for (path, node) in half {
                    tree.change(path, node.as_ref());
                }
                host.ahead.set(host.ahead.get() + LEASE);
                compare(vfs, host, &tree, &paths)?;
                // By the guest: it counts at once.
                for (path, node) in rest {
                    coherence.mutate_begin();
                    tree.change(path, node.as_ref());
                    coherence.mutate_end();
                }
                compare(vfs, host, &tree, &paths)?;
                coherence.mutate_begin();
                compare(vfs, host, &tree, &paths)
            })?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn a_name_that_was_absent_is_found_once_it_is_there(
        plan in plan(),
        paths in paths(),
        changes in prop::collection::vec((place(), prop::option::of(node())), 1..6),
    ) {
        let tree = Tree::new(plan);
        let strings = Strings::of(&tree);
        let mounts = strings.mounts();
        let mut memory = vec![0; ARENA];
        let arena = Arena::cleared(&mut memory);
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let absences = Absences::new(&arena).unwrap();
        let vfs = Vfs::new(&mounts).with_absences(&absences, &coherence);
        let host = RealHost::new(&tree.sysroot());
        host.file_time_ahead.set(10);
        // The first time a name is missed, the directory's state is not known; the third time the name is remembered.
        let compare = || (0..4).try_for_each(|_| compare(&vfs, &host, &tree, &paths));
        let_the_clock_tick();
        compare()?;
        let (half, rest) = changes.split_at(changes.len() / 2);
        for (path, node) in half {
            tree.change(path, node.as_ref());
        }
        let_the_clock_tick();
        host.ahead.set(host.ahead.get() + LEASE);
        compare()?;
        for (path, node) in rest {
            coherence.mutate_begin();
            tree.change(path, node.as_ref());
            coherence.mutate_end();
        }
        let_the_clock_tick();
        compare()?;
    }
}

#[test]
fn a_name_that_is_absent_is_asked_for_three_times_and_then_a_look_at_its_directory_a_lease_is_enough()
 {
    let tree = Tree::new(vfs_support::Plan {
        nodes: vec![("a".to_owned(), Node::Directory)],
        mounts: vec![],
    });
    let strings = Strings::of(&tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; ARENA];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let absences = Absences::new(&arena).unwrap();
    let verdicts = Verdicts::new();
    let vfs = (Vfs::new(&mounts))
        .with_absences(&absences, &coherence)
        .with_verdicts(&verdicts);
    let host = RealHost::new(&tree.sysroot());
    host.file_time_ahead.set(10);
    let_the_clock_tick();
    let miss = || {
        let (readlinks, stats) = (host.readlinks.get(), host.stats.get());
        let missing = by_vfs(&vfs, &host, "/a", "missing", follow(true));
        assert_eq!(missing, Err(elfuse_runtime::errno::Errno::ENOENT));
        (host.readlinks.get() - readlinks, host.stats.get() - stats)
    };
    host.frozen_at.set(Some(1));
    assert_eq!(miss(), (1, 0), "not worth a look yet");
    assert_eq!(miss(), (1, 1), "the state of its directory is seen");
    assert_eq!(miss(), (1, 0), "the name is remembered with it");
    assert_eq!(miss(), (0, 0));
    host.frozen_at.set(Some(1 + LEASE));
    assert_eq!(miss(), (0, 1));
    assert_eq!(miss(), (0, 0));
    assert_eq!(verdicts.get(Verdict::AbsenceHit), 3);
}

#[test]
fn a_directory_that_changed_does_not_cost_the_index_what_lies_below_it() {
    let plan = vfs_support::Plan {
        nodes: ["a", "a/b", "a/b/c"]
            .map(|path| (path.to_owned(), Node::Directory))
            .to_vec(),
        mounts: vec![],
    };
    let tree = Tree::new(plan);
    let store = build(&tree.sysroot());
    let_the_clock_tick();
    tree.change("d", Some(&Node::File));
    with_index(
        &tree,
        &store,
        Mode::Lease,
        false,
        |vfs, host, _, verdicts| {
            let missing = by_vfs(vfs, host, "/", "/a/b/c/missing", follow(true));
            assert_eq!(missing, Err(elfuse_runtime::errno::Errno::ENOENT));
            assert_eq!(
                host.readlinks.get(),
                1,
                "only /a, in the directory that changed"
            );
            assert_eq!(verdicts.get(Verdict::Hit), 1);
            assert_eq!(verdicts.get(Verdict::Stale), 1);
            // From a working directory the kernel has vouched for the way.
            let missing = by_vfs(vfs, host, "/a/b", "missing", follow(true));
            assert_eq!(missing, Err(elfuse_runtime::errno::Errno::ENOENT));
            assert_eq!(host.readlinks.get(), 1);
            Ok(())
        },
    )
    .unwrap();
}

/// Inode number and size, as `struct stat` has them.
fn said(vfs: &Vfs<'_>, host: &RealHost, path: &str) -> Option<Result<(u64, u64), Errno>> {
    match vfs.said(host, path.as_bytes(), Last::Follow)? {
        Said::Fails(errno) => Some(Err(errno)),
        Said::There(status) => {
            let stat = status.stat();
            let word = |at: usize| u64::from_ne_bytes(stat[at..at + 8].try_into().unwrap());
            Some(Ok((word(8), word(48))))
        }
    }
}

#[test]
fn a_frozen_tree_tells_what_stat_returns_until_something_in_it_is_touched() {
    let tree = tree(&["d/", "d/e/", "d/e/file", "d/link -> e/file"], &[]);
    let_the_clock_tick();
    let store = build(&tree.sysroot());
    let strings = Strings::of(&tree);
    let mounts = strings.mounts();
    for (mode, stamp, tells) in [
        (Mode::Frozen, STAMP, true),
        (Mode::Frozen, STAMP + 1, false),
        (Mode::Frozen, 0, false),
        (Mode::Lease, STAMP, false),
        (Mode::Strict, STAMP, false),
    ] {
        let mut memory = vec![0; ARENA];
        let arena = Arena::cleared(&mut memory);
        let generation = Generation::with_stamp(stamp);
        let coherence = Coherence::new(mode, false, &generation);
        let catalogue = Catalogue::open(&store, &arena).unwrap();
        let attributes = Attributes::new(&catalogue, false).unwrap();
        let vfs = Vfs::new(&mounts)
            .with_index(&catalogue, &coherence)
            .with_prefixes(Prefixes::new(&arena).unwrap())
            .with_attributes(&attributes);
        let host = RealHost::new(&tree.sysroot());
        // Directories are compared with their keys first.
        assert!(by_vfs(&vfs, &host, "/", "/d/e/file", follow(true)).is_ok());
        let file = fs::metadata(tree.sysroot().join("d/e/file")).unwrap();
        let there = Some(Ok((file.ino(), file.len()))).filter(|_| tells);
        for _ in 0..2 {
            assert_eq!(said(&vfs, &host, "/d/e/file"), there, "{mode:?} {stamp}");
            assert_eq!(said(&vfs, &host, "/d/link"), there);
            let absent = Some(Err(Errno::ENOENT)).filter(|_| tells);
            assert_eq!(said(&vfs, &host, "/d/e/none"), absent);
        }
        coherence.mutate_begin();
        assert_eq!(said(&vfs, &host, "/d/e/file"), None);
        coherence.mutate_end();
        assert!(by_vfs(&vfs, &host, "/", "/d/e/file", follow(true)).is_ok());
        assert_eq!(said(&vfs, &host, "/d/e/file"), there);
        coherence.touch();
        assert_eq!(said(&vfs, &host, "/d/e/file"), None);
    }
}

#[test]
fn what_is_copied_of_an_index_is_what_is_touched_and_that_once() {
    let names = (0..1500).flat_map(|number| [format!("d{number}/"), format!("d{number}/file")]);
    let names: Vec<_> = names.collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let tree = tree(&names, &[]);
    let_the_clock_tick();
    let store = build(&tree.sysroot());
    let strings = Strings::of(&tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; ARENA];
    let arena = Arena::cleared(&mut memory);
    let verdicts = Verdicts::new();
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let catalogue = Catalogue::open_counted(&store, &arena, Some(&verdicts)).unwrap();
    let vfs = Vfs::new(&mounts)
        .with_index(&catalogue, &coherence)
        .with_verdicts(&verdicts);
    let host = RealHost::new(&tree.sysroot());
    let len = |file: &std::sync::RwLock<Vec<u8>>| file.read().unwrap().len() as u64;
    let pages = |bytes: u64| bytes.div_ceil(PAGE_LEN as u64);
    // Of each file the first page, and of its checksums one of each level.
    let [_, opened] = verdicts.all_copied();
    assert!(pages(opened) <= 6, "{opened}");
    let look = |path: &str| {
        let found = by_vfs(&vfs, &host, "/", path, follow(true));
        assert_eq!(found.is_ok(), path.ends_with("/file"));
        verdicts.all_copied()
    };
    // Rows, keys and names of two directories, with the checksums of those pages; of the root's names, which are many, a few pages.
    let [pieces, bytes] = look("/d700/none");
    assert!(pages(bytes - opened) <= 16, "{}", bytes - opened);
    assert_eq!(look("/d700/file"), [pieces, bytes]);
    assert_eq!(look("/d700/none"), [pieces, bytes]);
    // Its neighbour stands on the same pages, or on the next.
    let [_, more] = look("/d701/file");
    assert!(pages(more - bytes) <= 8, "{}", more - bytes);
    assert!(more < (len(&store.loader_cache) + len(&store.keys)) / 4);
    let all = (0..1500).map(|number| format!("/d{number}/file"));
    all.for_each(|path| {
        look(&path);
    });
    // No page was copied twice.
    let [_, bytes] = verdicts.all_copied();
    assert!(bytes <= len(&store.loader_cache) + len(&store.keys));
}
