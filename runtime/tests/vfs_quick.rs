//! The short way through the index, against the walk and against the kernel.
#![cfg(target_os = "linux")]

mod vfs_support;

use elfuse_format::keys::Time;
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::shadow::Mismatch;
use elfuse_runtime::vfs::{
    Area, Arena, Catalogue, Coherence, Found, Generation, Host, HostStat, Kind, Last, Location,
    Mode, Moment, Prefixes, Quick, Room, Start, Vfs, Want,
};
use proptest::prelude::*;
use rustix::fs::ResolveFlags;
use vfs_support::index::build;
use vfs_support::{
    Node, RealHost, Strings, Tree, by_kernel, by_vfs, follow, let_the_clock_tick, path, plan, tree,
};

fn with_vfs<T>(
    tree: &Tree,
    mode: Mode,
    test: impl FnOnce(&Vfs<'_>, &RealHost, &Coherence<'_>) -> T,
) -> T {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; 4 << 20];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(mode, false, &generation);
    let store = build(&tree.sysroot());
    let catalogue = Catalogue::open(&store, &arena).unwrap();
    let vfs = (Vfs::new(&mounts))
        .with_index(&catalogue, &coherence)
        .with_prefixes(Prefixes::new(&arena).unwrap());
    let host = RealHost::new(&tree.sysroot());
    // No lease runs out.
    host.frozen_at.set(Some(1));
    test(&vfs, &host, &coherence)
}

/// What either way finds.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Fails(Errno),
    Text(Vec<u8>),
    Leads(Vec<u8>, Option<Kind>),
}

fn quick(vfs: &Vfs<'_>, host: &RealHost, path: &str, last: Last) -> Option<Said> {
    let mut room = Room::new();
    let found = vfs.quick(host, path.as_bytes(), Want::new(last), &mut room)?;
    Some(match found {
        Quick::Fails(errno) => Said::Fails(errno),
        Quick::Text(text) => Said::Text(text.to_vec()),
        Quick::AsGiven { kind } => Said::Leads(path.into(), Some(kind)),
        Quick::Leads { guest, kind } => {
            Said::Leads(guest.strip_suffix(b"\0").unwrap().to_vec(), Some(kind))
        }
    })
}

/// The same, if it takes no call of the host's.
fn unasked(vfs: &Vfs<'_>, host: &RealHost, path: &str, last: Last) -> Option<Said> {
    let before = (host.readlinks.get(), host.stats.get());
    let said = quick(vfs, host, path, last);
    said.filter(|_| (host.readlinks.get(), host.stats.get()) == before)
}

/// A relative path takes the long way.
fn walked(vfs: &Vfs<'_>, host: &RealHost, path: &str, last: Last) -> Said {
    let mut area = Area::new();
    let relative = path.trim_start_matches('/');
    let start = Start::Guest(b"/");
    match vfs.resolve(host, &mut area, start, relative.as_bytes(), Want::new(last)) {
        Found::Definite(errno) => Said::Fails(errno),
        Found::Text(text) => Said::Text(text.to_vec()),
        Found::Host(place) => Said::Leads(place.guest.to_vec(), place.kind),
        other => panic!("{other:?} of {path}"),
    }
}

const LASTS: [Last; 3] = [Last::Follow, Last::NoFollow, Last::Text];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn what_is_found_the_short_way_is_what_the_walk_and_the_kernel_find(
        plan in plan(), paths in prop::collection::vec(path(), 1..40), frozen in any::<bool>()
    ) {
        let tree = Tree::new(plan);
        let_the_clock_tick();
        let mode = if frozen { Mode::Frozen } else { Mode::Lease };
        with_vfs(&tree, mode, |vfs, host, _| {
            // Twice and once more: the walk makes the directories known, then their path, then that is used.
            for path in paths.iter().cycle().take(3 * paths.len()) {
                let path = format!("/{}", path.trim_start_matches('/'));
                for last in LASTS {
                    let Some(said) = quick(vfs, host, &path, last) else { continue };
                    // By itself it leads to the root, which is no relative path.
                    prop_assert_eq!(said, walked(vfs, host, &path, last), "{} {:?}", path, last);
                }
                for follows in [true, false] {
                    let expected = by_kernel(&tree.whole(), &path, follows, ResolveFlags::empty());
                    let found = by_vfs(vfs, host, "/", &path, follow(follows));
                    prop_assert_eq!(found, expected, "{}, following: {}", path, follows);
                }
            }
            Ok(())
        })?;
    }
}

fn small() -> Tree {
    tree(
        &[
            "usr/",
            "usr/lib/",
            "usr/lib/deep/",
            "usr/lib/deep/file",
            "usr/lib/lib.so -> lib.so.1",
            "usr/lib/lib.so.1",
            "lib -> usr/lib",
            "abs -> /lib/deep/file",
            "up -> ../../usr/lib/deep",
            "mnt/",
            "mnt/x",
        ],
        &["mnt"],
    )
}

#[test]
fn each_of_these_is_answered_without_the_host_once_the_way_is_known() {
    use Kind::{Directory, File, Symlink};
    let leads = |path: &str, kind| Said::Leads(path.into(), Some(kind));
    let fails = Said::Fails;
    let cases = [
        ("/missing", Last::Follow, fails(Errno::ENOENT)),
        ("/usr", Last::NoFollow, leads("/usr", Directory)),
        ("/usr", Last::Text, fails(Errno::EINVAL)),
        (
            "/usr/lib/deep/missing",
            Last::NoFollow,
            fails(Errno::ENOENT),
        ),
        ("/usr/lib/missing/more", Last::Follow, fails(Errno::ENOENT)),
        (
            "/usr/lib/lib.so.1/more",
            Last::Follow,
            fails(Errno::ENOTDIR),
        ),
        ("/lib/deep/missing", Last::Text, fails(Errno::ENOENT)),
        (
            "/lib/deep/file",
            Last::Follow,
            leads("/usr/lib/deep/file", File),
        ),
        ("/lib/deep/file", Last::Text, fails(Errno::EINVAL)),
        (
            "/lib/lib.so",
            Last::Follow,
            leads("/usr/lib/lib.so.1", File),
        ),
        (
            "/lib/lib.so",
            Last::NoFollow,
            leads("/usr/lib/lib.so", Symlink),
        ),
        ("/lib/lib.so", Last::Text, Said::Text(b"lib.so.1".to_vec())),
        ("/abs", Last::Follow, leads("/usr/lib/deep/file", File)),
        ("/up/file", Last::Follow, leads("/usr/lib/deep/file", File)),
        (
            "/usr/lib/../lib/deep/../missing",
            Last::Follow,
            fails(Errno::ENOENT),
        ),
    ];
    let tree = small();
    let_the_clock_tick();
    for mode in [Mode::Lease, Mode::Frozen] {
        with_vfs(&tree, mode, |vfs, host, _| {
            for (path, last, said) in &cases {
                walked(vfs, host, path, *last);
                // Not known yet, then remembered.
                for _ in 0..3 {
                    assert_eq!(quick(vfs, host, path, *last).as_ref(), Some(said), "{path}");
                }
            }
            let before = (host.readlinks.get(), host.stats.get());
            for (path, last, said) in &cases {
                assert_eq!(quick(vfs, host, path, *last).as_ref(), Some(said), "{path}");
            }
            assert_eq!((host.readlinks.get(), host.stats.get()), before);
        });
    }
}

#[test]
fn what_is_not_for_the_index_to_say_is_left_to_the_walk() {
    let tree = small();
    let_the_clock_tick();
    with_vfs(&tree, Mode::Lease, |vfs, host, _| {
        for path in [
            "/",
            "/.",
            "/usr/",
            "/usr/.",
            "/usr/lib/..",
            "/mnt",
            "/mnt/x",
            "/mnt/missing",
            "usr",
            "/usr/lib/.elfuse-sidecar-index",
            "/.elfuse",
            "/usr//lib/missing",
        ] {
            by_vfs(vfs, host, "/", path, follow(true)).ok();
            for last in LASTS {
                assert_eq!(quick(vfs, host, path, last), None, "{path}");
            }
        }
        for last in [Last::Create, Last::Parent] {
            assert_eq!(quick(vfs, host, "/usr/lib/missing", last), None);
        }
        let limited = Want {
            no_symlinks: true,
            ..Want::new(Last::Follow)
        };
        assert!(
            vfs.quick(host, b"/usr/lib/missing", limited, &mut Room::new())
                .is_none()
        );
    });
    for mode in [Mode::Strict, Mode::Off] {
        with_vfs(&tree, mode, |vfs, host, _| {
            for _ in 0..3 {
                walked(vfs, host, "/usr/lib/missing", Last::Follow);
                assert_eq!(quick(vfs, host, "/usr/lib/missing", Last::Follow), None);
            }
        });
    }
}

/// Makes the way to a name known, and its directory remembered.
fn made_known(vfs: &Vfs<'_>, host: &RealHost, path: &str) {
    for _ in 0..3 {
        assert_eq!(
            walked(vfs, host, path, Last::Follow),
            Said::Fails(Errno::ENOENT)
        );
        quick(vfs, host, path, Last::Follow);
    }
    assert!(unasked(vfs, host, path, Last::Follow).is_some());
}

#[test]
fn nothing_is_remembered_beyond_the_leases_it_was_made_of() {
    const PATH: &str = "/usr/lib/deep/missing";
    let tree = small();
    let_the_clock_tick();
    with_vfs(&tree, Mode::Lease, |vfs, host, coherence| {
        let ends = |what: &str, end: &dyn Fn()| {
            made_known(vfs, host, PATH);
            end();
            assert_eq!(unasked(vfs, host, PATH, Last::Follow), None, "{what}");
        };
        let later = |by| move || host.frozen_at.set(host.frozen_at.get().map(|at| at + by));
        ends(
            "their time is over",
            &later(elfuse_runtime::vfs::coherence::LEASE),
        );
        ends("the thread is another", &|| {
            host.thread.set(host.thread.get() + 1)
        });
        ends("a change was made", &|| {
            coherence.mutate_begin();
            coherence.mutate_end();
        });
        ends("a change is being made", &|| coherence.mutate_begin());
        coherence.mutate_end();
        ends("the flag was set", &|| {
            coherence.ended_flag().store(
                elfuse_runtime::vfs::coherence::ENDED,
                std::sync::atomic::Ordering::Relaxed,
            );
        });
        // The directory in the middle was looked at earlier than the others: what is made of it ends when it does.
        coherence.end_leases();
        walked(vfs, host, "/usr/missing", Last::Follow);
        later(1_000_000)();
        made_known(vfs, host, PATH);
        later(1_100_000)();
        assert_eq!(unasked(vfs, host, PATH, Last::Follow), None);
        walked(vfs, host, "/usr/lib/missing", Last::Follow);
    });
}

#[test]
fn directories_whose_leases_are_over_are_compared_on_the_short_way_and_each_once_a_lease() {
    let tree = small();
    let_the_clock_tick();
    with_vfs(&tree, Mode::Lease, |vfs, host, coherence| {
        let compared = |path: &str| {
            let before = host.stats.get();
            let said = quick(vfs, host, path, Last::Follow);
            assert_eq!(said, Some(Said::Fails(Errno::ENOENT)), "{path}");
            host.stats.get() - before
        };
        for _ in 0..2 {
            // The root, usr, usr/lib and usr/lib/deep.
            assert_eq!(compared("/usr/lib/deep/missing"), 4);
            assert_eq!(compared("/usr/lib/deep/other"), 0);
            assert_eq!(compared("/lib/deep/other"), 0);
            assert_eq!(compared("/usr/missing/more"), 0);
            coherence.end_leases();
            assert_eq!(compared("/usr/missing"), 2);
            assert_eq!(compared("/lib/missing"), 1);
            coherence.end_leases();
        }
    });
    with_vfs(&tree, Mode::Frozen, |vfs, host, _| {
        let first = quick(vfs, host, "/lib/deep/missing", Last::Follow);
        assert_eq!(first, Some(Said::Fails(Errno::ENOENT)));
        assert!(unasked(vfs, host, "/usr/lib/missing", Last::Follow).is_some());
    });
}

/// A host that is glanced at where another one is.
struct Careless<'h> {
    host: &'h RealHost,
    glanced_at: &'h RealHost,
}

impl Host for Careless<'_> {
    fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        self.host.readlink(at, into)
    }
    fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno> {
        self.host.stat(at)
    }
    fn glance(&self, at: Location<'_>) -> Option<HostStat> {
        self.glanced_at.stat(at).ok()
    }
    fn now(&self) -> Moment {
        self.host.now()
    }
    fn file_time(&self) -> Time {
        self.host.file_time()
    }
    fn mismatch(&self, mismatch: &Mismatch<'_>) {
        self.host.mismatch(mismatch);
    }
}

#[test]
fn a_glance_is_enough_for_a_directory_that_is_as_its_key_says_and_says_nothing_of_any_other() {
    let (tree, other) = (small(), small());
    let_the_clock_tick();
    with_vfs(&tree, Mode::Lease, |vfs, host, coherence| {
        for (glanced_at, asked) in [(&tree, 0), (&other, 4)] {
            let glanced_at = RealHost::new(&glanced_at.sysroot());
            let careless = Careless {
                host,
                glanced_at: &glanced_at,
            };
            coherence.end_leases();
            let before = host.stats.get();
            let mut room = Room::new();
            let (path, want) = (b"/usr/lib/deep/missing", Want::new(Last::Follow));
            let said = vfs.quick(&careless, path, want, &mut room);
            assert_eq!(said, Some(Quick::Fails(Errno::ENOENT)));
            assert_eq!(host.stats.get() - before, asked);
            assert_eq!(glanced_at.stats.get(), 4);
        }
    });
}

#[test]
fn what_is_found_changed_on_the_short_way_is_left_to_the_walk_which_does_not_ask_again() {
    let tree = small();
    let_the_clock_tick();
    with_vfs(&tree, Mode::Lease, |vfs, host, coherence| {
        made_known(vfs, host, "/usr/lib/deep/missing");
        tree.change("usr/lib/deep/missing", Some(&Node::File));
        coherence.end_leases();
        for path in ["/usr/lib/deep/missing", "/usr/lib/deep/other"] {
            assert_eq!(quick(vfs, host, path, Last::Follow), None, "{path}");
        }
        let before = host.stats.get();
        by_vfs(vfs, host, "/", "/usr/lib/deep/missing", follow(true)).unwrap();
        by_vfs(vfs, host, "/", "/usr/lib/deep/other", follow(true)).unwrap_err();
        // The name is asked for, not the state of a directory.
        assert_eq!(host.stats.get(), before);
    });
}

#[test]
fn a_directory_that_another_thread_finds_changed_is_believed_by_none_any_more() {
    let tree = small();
    let_the_clock_tick();
    with_vfs(&tree, Mode::Lease, |vfs, host, _| {
        made_known(vfs, host, "/usr/lib/deep/missing");
        tree.change("usr/lib/deep/missing", Some(&Node::File));
        let other = RealHost::new(&tree.sysroot());
        other.frozen_at.set(host.frozen_at.get());
        by_vfs(vfs, &other, "/usr/lib/deep", "missing", follow(true)).unwrap();
        by_vfs(vfs, host, "/", "/usr/lib/deep/missing", follow(true)).unwrap();
    });
}
