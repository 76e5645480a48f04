//! When the index is believed, and what happens when its files are broken.
#![cfg(target_os = "linux")]

mod vfs_support;

use std::os::unix::fs::PermissionsExt;

use elfuse_format::keys::{Seal, flags};
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::coherence::LEASE;
use elfuse_runtime::vfs::{
    Area, Arena, Catalogue, Coherence, Found, Generation, IndexFile, Last, Mode, Prefixes, Source,
    Start, Verdict, Verdicts, Vfs, Want,
};
use proptest::prelude::*;
use rustix::fs::ResolveFlags;
use vfs_support::index::{Store, build, build_where};
use vfs_support::{
    Node, RealHost, Strings, Tree, by_kernel, by_vfs, directories, follow, let_the_clock_tick,
    paths, plan, tree,
};

struct Guest<'a> {
    vfs: &'a Vfs<'a>,
    host: &'a RealHost,
    coherence: &'a Coherence<'a>,
    verdicts: &'a Verdicts,
}

impl Guest<'_> {
    fn find(&self, path: &str) -> vfs_support::Outcome {
        by_vfs(self.vfs, self.host, "/", path, follow(true))
    }

    fn count(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict)
    }
}

fn run<T>(
    tree: &Tree,
    store: &Store,
    mode: Mode,
    shadow: bool,
    test: impl FnOnce(&Guest<'_>) -> T,
) -> T {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; 4 << 20];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(mode, shadow, &generation);
    let verdicts = Verdicts::new();
    let catalogue = Catalogue::open(store, &arena);
    let vfs = Vfs::new(&mounts).with_verdicts(&verdicts);
    let vfs = match &catalogue {
        Ok(catalogue) => vfs
            .with_index(catalogue, &coherence)
            .with_prefixes(Prefixes::new(&arena).unwrap()),
        Err(_) => vfs,
    };
    test(&Guest {
        vfs: &vfs,
        host: &RealHost::new(&tree.sysroot()),
        coherence: &coherence,
        verdicts: &verdicts,
    })
}

fn small() -> Tree {
    tree(
        &[
            "dir/",
            "dir/file",
            "dir/link -> file",
            "dir/sub/",
            "private/",
            "private/file",
        ],
        &[],
    )
}

#[test]
fn the_text_of_a_symlink_and_that_a_file_is_none_are_told_without_the_host() {
    let tree = small();
    let store = build(&tree.sysroot());
    run(&tree, &store, Mode::Lease, false, |guest| {
        let mut area = Area::new();
        for (path, expected) in [
            ("dir/link", Found::Text(b"file")),
            ("dir/file", Found::Definite(Errno::EINVAL)),
            ("dir/sub", Found::Definite(Errno::EINVAL)),
            ("dir/sub/", Found::Definite(Errno::EINVAL)),
            ("dir/missing", Found::Definite(Errno::ENOENT)),
            ("dir/file/", Found::Definite(Errno::ENOTDIR)),
            ("dir/link/x", Found::Definite(Errno::ENOTDIR)),
        ] {
            let want = Want::new(Last::Text);
            let start = Start::Guest(b"/");
            let found = guest
                .vfs
                .resolve(guest.host, &mut area, start, path.as_bytes(), want);
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(guest.host.readlinks.get(), 0);
        assert_eq!(guest.count(Verdict::Hit), 7);
    });
}

#[test]
fn a_name_longer_than_255_bytes_is_too_long_and_not_absent() {
    let tree = small();
    let store = build(&tree.sysroot());
    run(&tree, &store, Mode::Lease, false, |guest| {
        for len in [255, 256, 1000] {
            for path in [
                format!("dir/{}", "n".repeat(len)),
                format!("missing/{}", "n".repeat(len)),
            ] {
                let expected = by_kernel(&tree.whole(), &path, true, ResolveFlags::empty());
                assert_eq!(guest.find(&path), expected, "{len} {path}");
            }
        }
        assert_eq!(guest.host.readlinks.get(), 0);
    });
}

#[test]
fn a_directory_is_looked_at_once_a_lease_and_again_after_each_change_by_the_guest() {
    let tree = small();
    let store = build(&tree.sysroot());
    run(&tree, &store, Mode::Lease, false, |guest| {
        guest.host.frozen_at.set(Some(5));
        let looks = || {
            let before = guest.host.stats.get();
            assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
            guest.host.stats.get() - before
        };
        assert_eq!(looks(), 2, "the root and dir");
        assert_eq!(looks(), 0);
        guest.host.frozen_at.set(Some(5 + LEASE));
        assert_eq!(looks(), 2);
        assert_eq!(looks(), 0);
        guest.coherence.mutate_begin();
        assert_eq!(looks(), 2);
        assert_eq!(looks(), 2);
        guest.coherence.mutate_end();
        assert_eq!(looks(), 2);
        assert_eq!(looks(), 0);
        guest.coherence.end_leases();
        assert_eq!(looks(), 2);
    });
}

#[test]
fn a_frozen_tree_is_looked_at_once_and_changes_of_it_go_unnoticed() {
    let tree = small();
    let store = build(&tree.sysroot());
    let_the_clock_tick();
    run(&tree, &store, Mode::Frozen, false, |guest| {
        assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
        let looks = guest.host.stats.get();
        tree.change("dir/missing", Some(&Node::File));
        guest.host.ahead.set(1 << 40);
        assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
        assert_eq!(guest.host.stats.get(), looks);
    });
}

#[test]
fn names_in_a_directory_that_not_everybody_may_search_are_asked_for() {
    let tree = small();
    let private = tree.sysroot().join("private");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    let store = build(&tree.sysroot());
    run(&tree, &store, Mode::Lease, false, |guest| {
        for round in 1..=2 {
            assert_eq!(guest.find("private/missing"), Err(Errno::ENOENT));
            assert_eq!(guest.host.readlinks.get(), round);
        }
        assert_eq!(guest.count(Verdict::Private), 2);
        assert_eq!(guest.count(Verdict::Hit), 0);
    });
}

#[test]
fn only_a_sealed_key_is_believed() {
    let tree = small();
    for (seal, verdict) in [
        (Seal::Racy, Verdict::Racy),
        (Seal::Changed, Verdict::Unsealed),
        (Seal::NotIndexed, Verdict::Unsealed),
    ] {
        let seal_of = |path: &std::path::Path| match path.to_str() {
            Some("dir") => seal,
            _ => Seal::Sealed,
        };
        let store = build_where(&tree.sysroot(), |_| true, seal_of, 0);
        run(&tree, &store, Mode::Lease, false, |guest| {
            assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
            assert_eq!(guest.host.readlinks.get(), 1);
            assert_eq!(guest.count(verdict), 1);
            assert_eq!(guest.find("dir/sub/missing"), Err(Errno::ENOENT));
            assert_eq!(guest.count(Verdict::Hit), 1, "below it the index goes on");
        });
    }
}

#[test]
fn an_index_of_a_file_system_whose_times_tell_nothing_is_used_for_a_frozen_tree_only() {
    let tree = small();
    let foreign = flags::FOREIGN_FILE_SYSTEM;
    let store = build_where(&tree.sysroot(), |_| true, |_| Seal::Sealed, foreign);
    for (mode, hits) in [(Mode::Lease, 0), (Mode::Strict, 0), (Mode::Frozen, 1)] {
        run(&tree, &store, mode, false, |guest| {
            assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
            assert_eq!(guest.count(Verdict::Hit), hits, "{mode:?}");
        });
    }
}

/// An index that says of `dir/file` that there is no such name, and is believed.
fn lying(tree: &Tree) -> Store {
    let lists = |path: &std::path::Path| path.to_str() != Some("dir/file");
    build_where(&tree.sysroot(), lists, |_| Seal::Sealed, 0)
}

#[test]
fn the_strict_mode_believes_the_host_and_not_the_index() {
    let tree = small();
    let store = lying(&tree);
    run(&tree, &store, Mode::Lease, false, |guest| {
        assert_eq!(guest.find("dir/file"), Err(Errno::ENOENT), "it does lie");
    });
    run(&tree, &store, Mode::Strict, false, |guest| {
        assert_eq!(guest.find("dir/file"), Ok("/dir/file".to_owned()));
        assert_eq!(guest.count(Verdict::Overruled), 1);
        assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
        assert_eq!(guest.count(Verdict::Overruled), 1);
    });
}

#[test]
fn the_shadow_mode_reports_that_index_and_walker_disagree() {
    let tree = small();
    let store = lying(&tree);
    run(&tree, &store, Mode::Lease, true, |guest| {
        assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
        guest.host.expects_mismatch.set(true);
        for (count, path) in [(1, "dir/file"), (2, "dir/link")] {
            assert_eq!(guest.find(path), Ok("/dir/file".to_owned()));
            assert_eq!(guest.host.mismatches.get(), count, "{path}");
        }
    });
}

#[test]
fn without_room_for_it_the_index_is_not_used_and_nothing_else_changes() {
    let tree = small();
    let store = build(&tree.sysroot());
    let strings = Strings::of(&tree);
    let mounts = strings.mounts();
    let mut hits = [0, 0];
    for room in (0..64 << 10).step_by(256) {
        let mut memory = vec![0; room];
        let arena = Arena::cleared(&mut memory);
        let generation = Generation::new();
        let coherence = Coherence::new(Mode::Lease, false, &generation);
        let verdicts = Verdicts::new();
        let catalogue = Catalogue::open(&store, &arena);
        let mut vfs = Vfs::new(&mounts).with_verdicts(&verdicts);
        if let Ok(catalogue) = &catalogue {
            vfs = vfs.with_index(catalogue, &coherence);
        }
        let host = RealHost::new(&tree.sysroot());
        let missing = by_vfs(&vfs, &host, "/", "dir/sub/missing", follow(true));
        assert_eq!(missing, Err(Errno::ENOENT), "{room}");
        hits[usize::from(verdicts.get(Verdict::Hit) > 0)] += 1;
    }
    assert!(hits[0] > 0 && hits[1] > 0, "{hits:?}");
}

/// What befalls a file of the store.
#[derive(Debug, Clone)]
struct Damage {
    keys: bool,
    at: prop::sample::Index,
    /// A bit to flip; `None`: the file ends there.
    bit: Option<u8>,
    /// How many paths are resolved before it happens; none: before the index is opened.
    after: usize,
}

fn damage() -> impl Strategy<Value = Damage> {
    let bit = prop::option::weighted(0.7, 0..8_u8);
    (any::<bool>(), any::<prop::sample::Index>(), bit, 0..8_usize).prop_map(
        |(keys, at, bit, after)| Damage {
            keys,
            at,
            bit,
            after,
        },
    )
}

impl Damage {
    fn befall(&self, store: &Store) {
        let file = if self.keys {
            &store.keys
        } else {
            &store.loader_cache
        };
        let mut bytes = file.write().unwrap();
        if bytes.is_empty() {
            return;
        }
        let at = self.at.index(bytes.len());
        match self.bit {
            Some(bit) => bytes[at] ^= 1 << bit,
            None => bytes.truncate(at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn files_that_are_cut_short_or_rot_change_no_answer(
        plan in plan(),
        paths in paths(),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let tree = Tree::new(plan);
        let store = build(&tree.sysroot());
        for damage in damages.iter().filter(|damage| damage.after == 0) {
            damage.befall(&store);
        }
        run(&tree, &store, Mode::Lease, false, |guest| {
            for start in directories(&tree) {
                for (number, (path, follows)) in paths.iter().enumerate() {
                    for damage in damages.iter().filter(|damage| damage.after == number + 1) {
                        damage.befall(&store);
                    }
                    let whole = if path.starts_with('/') { path.clone() } else { format!("{start}/{path}") };
                    let expected = by_kernel(&tree.whole(), &whole, *follows, ResolveFlags::empty());
                    let found = by_vfs(guest.vfs, guest.host, &start, path, follow(*follows));
                    prop_assert_eq!(found, expected, "{} from {}", path, start);
                }
            }
            Ok(())
        })?;
    }
}

#[test]
fn a_directory_that_was_read_before_its_file_broke_is_still_answered_from_the_copy() {
    // Names of several pages, which nobody has read before the file breaks.
    let names = (0..40).map(|number| format!("far/{number:060}"));
    let names: Vec<_> = ["dir/", "dir/file", "far/"]
        .map(String::from)
        .into_iter()
        .chain(names)
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let tree = tree(&names, &[]);
    let store = build(&tree.sysroot());
    run(&tree, &store, Mode::Lease, false, |guest| {
        assert_eq!(guest.find("dir/missing"), Err(Errno::ENOENT));
        store.loader_cache.write().unwrap().clear();
        store.keys.write().unwrap().clear();
        assert!(store.copy(IndexFile::Keys, 0, &mut [0]).is_err());
        assert_eq!(guest.find("dir/other"), Err(Errno::ENOENT));
        assert_eq!(guest.host.readlinks.get(), 0);
        assert_eq!(guest.find("far/missing"), Err(Errno::ENOENT));
        assert_eq!(guest.count(Verdict::Corrupt), 1);
        assert_eq!(guest.host.readlinks.get(), 1);
    });
}
