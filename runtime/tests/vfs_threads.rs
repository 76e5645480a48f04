//! Many threads with one resolver, while names come and go.
#![cfg(target_os = "linux")]

mod vfs_support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::{
    Absences, Arena, Catalogue, Coherence, Generation, Mode, Prefixes, Verdict, Verdicts, Vfs,
};
use vfs_support::index::build;
use vfs_support::{Node, RealHost, Strings, Tree, by_vfs, follow, let_the_clock_tick, tree};

const FOR: Duration = Duration::from_millis(600);

/// Names come and go in one directory, each change made known as the engine does it, while four other threads look them up. Whoever
/// made a change sees it at once, and so does everybody who looks after that.
fn changes_are_seen_at_once(tree: &Tree, vfs: &Vfs<'_>, coherence: &Coherence<'_>) {
    let ends = Instant::now() + FOR;
    let is_over = AtomicBool::new(false);
    // How many changes have been made, the last one completely; and whether the name is there after it: even or odd.
    let made = AtomicU64::new(0);
    let looks = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let host = RealHost::new(&tree.sysroot());
                while !is_over.load(Ordering::SeqCst) {
                    let before = made.load(Ordering::SeqCst);
                    let found = by_vfs(vfs, &host, "/", "/dir/sub/name", follow(true));
                    let steady = by_vfs(vfs, &host, "/dir", "sub/../missing", follow(true));
                    assert_eq!(steady, Err(Errno::ENOENT));
                    // Unless a change was made or begun meanwhile, it is known what is there.
                    if before.is_multiple_of(2) && made.load(Ordering::SeqCst) == before {
                        let is_there = before / 2 % 2 == 1;
                        assert_eq!(found.is_ok(), is_there, "after change {before}: {found:?}");
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let host = RealHost::new(&tree.sysroot());
        let mut change = 0_u64;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < ends {
                change += 1;
                let node = (change % 2 == 1).then_some(Node::File);
                made.fetch_add(1, Ordering::SeqCst);
                coherence.mutate_begin();
                tree.change("dir/sub/name", node.as_ref());
                coherence.mutate_end();
                made.fetch_add(1, Ordering::SeqCst);
                let found = by_vfs(vfs, &host, "/dir/sub", "name", follow(true));
                assert_eq!(found.is_ok(), node.is_some(), "change {change}");
                thread::sleep(Duration::from_micros(500));
            }
        }));
        is_over.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(made.into_inner() > 100);
    assert!(looks.into_inner() > 100);
}

fn small() -> Tree {
    tree(&["dir/", "dir/sub/", "dir/file"], &[])
}

#[test]
fn with_an_index_a_change_is_seen_by_all_threads_at_once() {
    let tree = small();
    let strings = Strings::of(&tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; 1 << 20];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let store = build(&tree.sysroot());
    let catalogue = Catalogue::open(&store, &arena).unwrap();
    let verdicts = Verdicts::new();
    let vfs = (Vfs::new(&mounts))
        .with_index(&catalogue, &coherence)
        .with_prefixes(Prefixes::new(&arena).unwrap())
        .with_verdicts(&verdicts);
    let_the_clock_tick();
    changes_are_seen_at_once(&tree, &vfs, &coherence);
    assert!(verdicts.get(Verdict::Hit) > 100, "of dir/missing");
    assert!(verdicts.get(Verdict::Stale) > 100, "of dir/sub");
}

#[test]
fn without_an_index_a_change_is_seen_by_all_threads_at_once() {
    let tree = small();
    let strings = Strings::of(&tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; 1 << 20];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let absences = Absences::new(&arena).unwrap();
    let verdicts = Verdicts::new();
    let vfs = (Vfs::new(&mounts))
        .with_absences(&absences, &coherence)
        .with_verdicts(&verdicts);
    // Nothing is remembered of a directory that is younger.
    thread::sleep(Duration::from_millis(2100));
    changes_are_seen_at_once(&tree, &vfs, &coherence);
    assert!(verdicts.get(Verdict::AbsenceHit) > 100, "of dir/missing");
}
