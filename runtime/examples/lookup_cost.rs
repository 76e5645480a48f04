//! What a lookup that the index answers costs in the resolver alone: `cargo run --release -p elfuse-runtime --example lookup_cost`.
//!
//! Each is done with the clock and the thread of the engine, so leases run out as they do in a run. Without a sysroot to name, a small
//! tree is made and indexed.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[path = "../tests/vfs_support/mod.rs"]
mod vfs_support;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() {
    cost::print();
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod cost {
    use std::hint::black_box;
    use std::time::Instant;

    use elfuse_runtime::errno::Errno;
    use elfuse_runtime::sys::clock;
    use elfuse_runtime::vfs::shadow::Mismatch;
    use elfuse_runtime::vfs::{
        Area, Arena, Catalogue, Coherence, Generation, Host, HostStat, Last, Location, Mode,
        Moment, Prefixes, Room, Start, Vfs, Want,
    };

    use super::vfs_support::index::build;
    use super::vfs_support::{RealHost, Strings, let_the_clock_tick, tree};

    /// The host's answers, and the engine's clock.
    struct Timed(RealHost);

    impl Host for Timed {
        fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno> {
            self.0.readlink(at, into)
        }

        fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno> {
            self.0.stat(at)
        }

        fn now(&self) -> Moment {
            Moment {
                ticks: clock::ticks(),
                thread: clock::thread(),
            }
        }

        fn file_time(&self) -> elfuse_format::keys::Time {
            self.0.file_time()
        }

        fn mismatch(&self, mismatch: &Mismatch<'_>) {
            panic!("{mismatch:?}");
        }
    }

    /// Nanoseconds of one, the median of many turns.
    fn median(mut one: impl FnMut()) -> f64 {
        const TURN: u32 = 200;
        let mut turns: Vec<f64> = (0..301)
            .map(|_| {
                let before = Instant::now();
                (0..TURN).for_each(|_| one());
                before.elapsed().as_secs_f64() * 1e9 / f64::from(TURN)
            })
            .collect();
        turns.sort_by(f64::total_cmp);
        turns[turns.len() / 2]
    }

    pub(super) fn print() {
        // `AT_HWCAP2` as the kernel gave it to this process: the pair behind its key.
        let words = std::fs::read("/proc/self/auxv").expect("procfs is there");
        let words: Vec<usize> = (words.as_chunks::<8>().0.iter())
            .map(|word| usize::from_ne_bytes(*word))
            .collect();
        let pair = words.as_chunks::<2>().0.iter().find(|pair| pair[0] == 26);
        clock::begin(pair.map_or(0, |pair| pair[1]));
        // More names than fit a block that is made sure of as a whole.
        let names: Vec<String> = (0..1000)
            .map(|number| format!("usr/bin/program{number}"))
            .collect();
        let mut entries = vec![
            "usr/",
            "usr/bin/",
            "usr/bin/file",
            "usr/lib/",
            "usr/lib/python3/",
            "usr/lib/python3/dist-packages/",
            "usr/lib/python3/dist-packages/numpy/",
            "lib -> usr/lib",
            "file",
            "usr/lib/file",
            "usr/lib/python3/dist-packages/numpy/file",
        ];
        entries.extend(names.iter().map(String::as_str));
        let tree = tree(&entries, &[]);
        let_the_clock_tick();
        let strings = Strings::of(&tree);
        let store = build(&tree.sysroot());
        let host = Timed(RealHost::new(&tree.sysroot()));
        let mut area = Box::new(Area::new());
        println!("ns a lookup, median         mode     short way   with a place");
        for (mode, label) in [(Mode::Lease, "lease"), (Mode::Frozen, "frozen")] {
            let mut memory = vec![0; 4 << 20];
            let arena = Arena::cleared(&mut memory);
            let generation = Generation::new();
            let mounts = strings.mounts();
            let catalogue = Catalogue::open(&store, &arena).expect("it was just made");
            let coherence = Coherence::new(mode, false, &generation);
            let vfs = (Vfs::new(&mounts))
                .with_index(&catalogue, &coherence)
                .with_prefixes(Prefixes::new(&arena).expect("there is room"));
            for directory in [
                "",
                "/usr/lib",
                "/usr/bin",
                "/usr/lib/python3/dist-packages/numpy",
                "/lib",
            ] {
                for (what, name, last) in [
                    ("missing", "missing", Last::Follow),
                    ("found", "file", Last::Follow),
                    ("no symlink", "file", Last::Text),
                ] {
                    let path = format!("{directory}/{name}");
                    let want = Want::new(last);
                    let short = median(|| {
                        let mut room = Room::new();
                        let found = vfs.quick(&host, black_box(path.as_bytes()), want, &mut room);
                        if black_box(found).is_none() {
                            let start = Start::Guest(b"/");
                            black_box(vfs.resolve(&host, &mut area, start, path.as_bytes(), want));
                        }
                    });
                    let placed = median(|| {
                        let start = Start::Guest(b"/");
                        black_box(vfs.resolve(
                            &host,
                            &mut area,
                            start,
                            black_box(path.as_bytes()),
                            want,
                        ));
                    });
                    let depth = path.matches('/').count();
                    println!(
                        "depth {depth} {what:<12} {label:>12} {short:>13.1} {placed:>14.1}   {path}"
                    );
                }
            }
        }
    }
}
