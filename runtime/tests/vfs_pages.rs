//! The index read by pages: long directories, files that change under it, and who asks for a page while it is being fetched.
#![cfg(target_os = "linux")]

mod vfs_support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use elfuse_format::pages::PAGE_LEN;
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::catalogue::WHOLE_BLOCK;
use elfuse_runtime::vfs::{
    Arena, Catalogue, Coherence, Fault, Generation, IndexFile, Mode, Prefixes, Source, Verdict,
    Verdicts, Vfs,
};
use rustix::fs::ResolveFlags;
use vfs_support::index::{Store, build};
use vfs_support::{
    Outcome, RealHost, Strings, Tree, by_kernel, by_vfs, follow, let_the_clock_tick, tree,
};

/// Files, symlinks, some that lead nowhere, and directories, so many that their block is long.
fn long() -> (Tree, Vec<String>) {
    let mut entries = vec!["long/".to_owned(), "short/".into(), "short/file".into()];
    for number in 0..400 {
        entries.push(match number % 4 {
            0 => format!("long/name{number}/"),
            1 => format!("long/name{number} -> name{}", number + 1),
            2 => format!("long/name{number}"),
            _ => format!("long/name{number} -> /short/none{number}"),
        });
    }
    let all: Vec<_> = entries.iter().map(String::as_str).collect();
    let tree = tree(&all, &[]);
    let_the_clock_tick();
    let names = (0..440).map(|number| format!("/long/name{number}"));
    let paths = names.flat_map(|name| [name.clone(), format!("{name}/none")]);
    (tree, paths.collect())
}

/// A guest with a view of a store.
fn with<T>(
    tree: &Tree,
    source: &dyn Source,
    mode: Mode,
    test: impl FnOnce(&Vfs<'_>, &Verdicts) -> T,
) -> T {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    let mut memory = vec![0; 4 << 20];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let coherence = Coherence::new(mode, false, &generation);
    let verdicts = Verdicts::new();
    let catalogue = Catalogue::open(source, &arena);
    let mut vfs = Vfs::new(&mounts).with_verdicts(&verdicts);
    if let Ok(catalogue) = &catalogue {
        vfs = vfs.with_index(catalogue, &coherence);
        vfs = vfs.with_prefixes(Prefixes::new(&arena).unwrap());
    }
    test(&vfs, &verdicts)
}

fn expected(tree: &Tree, path: &str, follows: bool) -> Outcome {
    by_kernel(&tree.whole(), path, follows, ResolveFlags::empty())
}

#[test]
fn a_long_directory_is_looked_up_as_the_kernel_does() {
    let (tree, paths) = long();
    let store = build(&tree.sysroot());
    let len = store.loader_cache.read().unwrap().len();
    assert!(
        len > 3 * WHOLE_BLOCK as usize,
        "the directory is a long one"
    );
    with(&tree, &store, Mode::Lease, |vfs, verdicts| {
        let host = RealHost::new(&tree.sysroot());
        for follows in [true, false, true] {
            for path in &paths {
                let found = by_vfs(vfs, &host, "/", path, follow(follows));
                assert_eq!(found, expected(&tree, path, follows), "{path}");
            }
        }
        assert!(verdicts.get(Verdict::Hit) > 1000);
        assert_eq!(verdicts.get(Verdict::Corrupt), 0);
        assert_eq!(host.readlinks.get(), 0, "all of it is told by the index");
    });
}

#[test]
fn a_bit_that_flips_in_any_page_of_either_file_changes_no_answer() {
    let (tree, paths) = long();
    let paths: Vec<_> = paths.iter().step_by(37).collect();
    let outcomes: Vec<_> = paths
        .iter()
        .map(|path| expected(&tree, path, true))
        .collect();
    let whole = build(&tree.sysroot());
    let files = [&whole.loader_cache, &whole.keys].map(|file| file.read().unwrap().clone());
    let mut refused = 0;
    for file in [0, 1] {
        let len = files[file].len();
        let ends = (0..len).step_by(PAGE_LEN).chain([len - 1]);
        for at in ends.flat_map(|start| [start, (start + 77).min(len - 1)]) {
            let mut damaged = files.clone();
            damaged[file][at] ^= 0x10;
            let [loader_cache, keys] = damaged;
            let store = Store::new(loader_cache, keys);
            with(&tree, &store, Mode::Lease, |vfs, verdicts| {
                let host = RealHost::new(&tree.sysroot());
                for (path, outcome) in paths.iter().zip(&outcomes) {
                    let found = by_vfs(vfs, &host, "/", path, follow(true));
                    assert_eq!(found, *outcome, "{path} with byte {at} of {file}");
                }
                refused += u32::from(verdicts.get(Verdict::Hit) == 0);
            });
        }
    }
    assert!(refused > 0, "headers and the trees' tops matter to all");
}

#[test]
fn a_file_that_is_cut_anywhere_before_or_while_it_is_read_changes_no_answer() {
    let (tree, paths) = long();
    let paths: Vec<_> = paths.iter().step_by(61).collect();
    let outcomes: Vec<_> = paths
        .iter()
        .map(|path| expected(&tree, path, true))
        .collect();
    let whole = build(&tree.sysroot());
    let files = [&whole.loader_cache, &whole.keys].map(|file| file.read().unwrap().clone());
    for file in [0, 1] {
        for len in (0..files[file].len()).step_by(PAGE_LEN / 2 + 13) {
            for after in [0, 3] {
                let store = Store::new(files[0].clone(), files[1].clone());
                let cut = || match file {
                    0 => store.loader_cache.write().unwrap().truncate(len),
                    _ => store.keys.write().unwrap().truncate(len),
                };
                if after == 0 {
                    cut();
                }
                with(&tree, &store, Mode::Lease, |vfs, _| {
                    let host = RealHost::new(&tree.sysroot());
                    for (number, (path, outcome)) in paths.iter().zip(&outcomes).enumerate() {
                        if number + 1 == after {
                            cut();
                        }
                        let found = by_vfs(vfs, &host, "/", path, follow(true));
                        assert_eq!(found, *outcome, "{path}, {file} of {len} bytes");
                    }
                });
            }
        }
    }
}

/// A store that is rewritten in place, page by page, with another tree's while it is read.
struct Rewritten<'a> {
    stores: [&'a Store; 2],
    copies: AtomicU32,
}

impl Source for Rewritten<'_> {
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        // The header and the first pages are of the first, then both alternate.
        let count = self.copies.fetch_add(1, Ordering::Relaxed);
        let which = usize::from(count > 6 && count.is_multiple_of(2));
        self.stores[which].copy(file, offset, into)
    }
}

#[test]
fn a_file_that_is_rewritten_in_place_while_a_guest_runs_changes_no_answer() {
    let (tree, paths) = long();
    let other = crate::tree(&["long/", "long/name1", "short/", "short/none3/"], &[]);
    let stores = [build(&tree.sysroot()), build(&other.sysroot())];
    let source = Rewritten {
        stores: [&stores[0], &stores[1]],
        copies: AtomicU32::new(0),
    };
    with(&tree, &source, Mode::Lease, |vfs, verdicts| {
        let host = RealHost::new(&tree.sysroot());
        for path in &paths {
            let found = by_vfs(vfs, &host, "/", path, follow(true));
            assert_eq!(found, expected(&tree, path, true), "{path}");
        }
        assert!(verdicts.get(Verdict::Corrupt) > 0);
    });
}

/// A store whose next reader is stopped in the middle of a copy.
struct Stopping<'a> {
    store: &'a Store,
    is_armed: AtomicBool,
    /// What happens to the reader.
    stop: &'a (dyn Fn() + Sync),
}

impl Source for Stopping<'_> {
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        if self.is_armed.swap(false, Ordering::SeqCst) {
            (self.stop)();
        }
        self.store.copy(file, offset, into)
    }
}

#[test]
fn who_asks_for_a_page_that_is_being_fetched_does_not_wait_and_asks_the_host() {
    let (tree, _) = long();
    let store = build(&tree.sysroot());
    let (entered, left) = (Barrier::new(2), Barrier::new(2));
    let source = Stopping {
        store: &store,
        is_armed: AtomicBool::new(false),
        stop: &|| {
            entered.wait();
            left.wait();
        },
    };
    with(&tree, &source, Mode::Lease, |vfs, _| {
        source.is_armed.store(true, Ordering::SeqCst);
        let look = |host: &RealHost| by_vfs(vfs, host, "/", "/short/none", follow(true));
        thread::scope(|scope| {
            let stopped = scope.spawn(|| look(&RealHost::new(&tree.sysroot())));
            entered.wait();
            let host = RealHost::new(&tree.sysroot());
            assert_eq!(look(&host), Err(Errno::ENOENT));
            assert!(host.readlinks.get() > 0, "the host was asked");
            left.wait();
            assert_eq!(stopped.join().unwrap(), Err(Errno::ENOENT));
        });
        // What was not to be had then is now.
        let host = RealHost::new(&tree.sysroot());
        for _ in 0..2 {
            assert_eq!(look(&host), Err(Errno::ENOENT));
        }
        assert_eq!(host.readlinks.get(), 0);
    });
}

#[test]
fn a_page_whose_reader_was_killed_over_it_costs_speed_and_nothing_else() {
    let (tree, paths) = long();
    let store = build(&tree.sysroot());
    let source = Stopping {
        store: &store,
        is_armed: AtomicBool::new(false),
        stop: &|| panic!("killed"),
    };
    with(&tree, &source, Mode::Lease, |vfs, verdicts| {
        source.is_armed.store(true, Ordering::SeqCst);
        let killed = thread::scope(|scope| {
            let host = || RealHost::new(&tree.sysroot());
            let look = move || by_vfs(vfs, &host(), "/", "/short/none", follow(true));
            scope.spawn(look).join()
        });
        assert!(killed.is_err());
        let host = RealHost::new(&tree.sysroot());
        for path in paths.iter().step_by(17) {
            let found = by_vfs(vfs, &host, "/", path, follow(true));
            assert_eq!(found, expected(&tree, path, true), "{path}");
        }
        assert!(verdicts.get(Verdict::NotCovered) > 0);
    });
}

#[test]
fn many_threads_that_look_at_once_are_told_the_same() {
    let (tree, paths) = long();
    let store = build(&tree.sysroot());
    let outcomes: Vec<_> = paths
        .iter()
        .map(|path| expected(&tree, path, true))
        .collect();
    with(&tree, &store, Mode::Frozen, |vfs, verdicts| {
        thread::scope(|scope| {
            for start in 0..4 {
                let (tree, paths, outcomes) = (&tree, &paths, &outcomes);
                scope.spawn(move || {
                    let host = RealHost::new(&tree.sysroot());
                    for at in 0..paths.len() {
                        let at = (at * 7 + start * 101) % paths.len();
                        let found = by_vfs(vfs, &host, "/", &paths[at], follow(true));
                        assert_eq!(found, outcomes[at], "{}", paths[at]);
                    }
                });
            }
        });
        assert!(verdicts.get(Verdict::Hit) > 0);
    });
}
