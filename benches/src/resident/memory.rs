//! What memory processes have for themselves while they wait: one, and fifty at once.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::FIXED;
use super::stores::Stores;
use crate::ground::Ground;
use crate::report::{Goal, Section, Table, number};

/// A program that reads its standard input, which has no end for as long as it is looked at.
pub(super) struct Waiting {
    pub(super) name: &'static str,
    pub(super) line: &'static [&'static str],
    /// The most private dirty memory of one that is resident at fixed addresses, as a part of a native one's.
    pub(super) fixed: Option<f64>,
}

pub(super) const WAITING: [Waiting; 3] = [
    Waiting {
        name: "perl",
        line: &["/usr/bin/perl", "-e", "<STDIN>"],
        fixed: None,
    },
    Waiting {
        name: "python3",
        line: &["/usr/bin/python3", "-c", "import sys; sys.stdin.read()"],
        fixed: None,
    },
    Waiting {
        name: "ffmpeg",
        line: &[
            "/usr/bin/ffmpeg",
            "-loglevel",
            "quiet",
            "-f",
            "u8",
            "-i",
            "-",
            "-f",
            "null",
            "-",
        ],
        fixed: Some(0.12),
    },
];

/// How many run at once besides one alone.
const MANY: usize = 50;

/// KiB of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Memory {
    /// Written to, and nobody else's.
    private_dirty: u64,
    /// All of it, what is shared divided by who has it.
    proportional: u64,
}

impl Memory {
    /// Of `/proc/PID/smaps_rollup`.
    fn of(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().strip_suffix(" kB")?.parse().ok()
        };
        Some(Self {
            private_dirty: field("Private_Dirty")?,
            proportional: field("Pss")?,
        })
    }
}

/// A process that is ended when nobody looks at it any more.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// State and ticks of processor time, of `/proc/PID/stat`.
fn activity(stat: &str) -> Option<(char, u64)> {
    // The name before may have blanks and brackets.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((state, user + system))
}

impl Process {
    fn start(command: &mut Command) -> io::Result<Self> {
        let quiet = command.stdin(Stdio::piped()).stdout(Stdio::null());
        quiet.stderr(Stdio::null()).spawn().map(Self)
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{name}", self.0.id());
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }

    /// Its state and processor time.
    fn activity(&mut self) -> anyhow::Result<(char, u64)> {
        if let Some(status) = self.0.try_wait()? {
            anyhow::bail!("it ended: {status}");
        }
        activity(&self.read("stat")?).context("its state")
    }

    fn memory(&self) -> anyhow::Result<Memory> {
        Memory::of(&self.read("smaps_rollup")?).context("what it has of memory")
    }
}

/// Waits until all of them wait: they sleep, and have used no time of the processor's for a while.
fn settle(all: &mut [Process]) -> anyhow::Result<()> {
    const STEP: Duration = Duration::from_millis(20);
    const STEPS: usize = 5;
    const LIMIT: Duration = Duration::from_secs(30);
    let (began, mut last, mut steps) = (Instant::now(), Vec::new(), 0);
    while steps < STEPS {
        anyhow::ensure!(began.elapsed() < LIMIT, "it does not come to rest");
        sleep(STEP);
        let now = all.iter_mut().map(Process::activity);
        let now: Vec<_> = now.collect::<anyhow::Result<_>>()?;
        let is_quiet = now == last && now.iter().all(|(state, _)| *state == 'S');
        steps = if is_quiet { steps + 1 } else { 0 };
        last = now;
    }
    Ok(())
}

/// The mean of so many processes at once.
fn mean(command: &mut Command, count: usize) -> anyhow::Result<Memory> {
    let start = || Process::start(command);
    let mut all: Vec<_> = std::iter::repeat_with(start)
        .take(count)
        .collect::<io::Result<_>>()?;
    settle(&mut all)?;
    let mut sum = Memory::default();
    for process in &all {
        let memory = process.memory()?;
        sum.private_dirty += memory.private_dirty;
        sum.proportional += memory.proportional;
    }
    let count = count as u64;
    Ok(Memory {
        private_dirty: sum.private_dirty / count,
        proportional: sum.proportional / count,
    })
}

/// Of a way: one alone, and the mean of many at once. What it says instead, where that is not to be had.
type Found = Result<[Memory; 2], String>;

/// Measures one program. A way that does not work has a row that says so.
pub(super) fn measure(ground: &Ground, stores: &Stores, waiting: &Waiting, quick: bool) -> Section {
    let many = if quick { 3 } else { MANY };
    let ways = stores.ways(ground, waiting.line).into_iter();
    let found: Vec<(&str, Found)> = ways
        .map(|(name, mut command)| {
            let both = mean(&mut command, 1).and_then(|one| Ok([one, mean(&mut command, many)?]));
            (name, both.map_err(|error| format!("{error:#}")))
        })
        .collect();
    section(waiting, many, &found)
}

fn section(waiting: &Waiting, many: usize, found: &[(&str, Found)]) -> Section {
    let (peer_name, peer) = &found[0];
    let peer = peer.as_ref().ok();
    let ratio = |own: u64, of: fn(&[Memory; 2]) -> u64| {
        peer.map_or(f64::NAN, |peer| own as f64 / of(peer) as f64)
    };
    let row = |(name, found): &(&str, Found)| match found {
        Ok(found) => {
            let [one, all] = found;
            let cell = |own: u64, of| vec![own.to_string(), number(ratio(own, of))];
            let cells = [
                cell(one.private_dirty, |peer| peer[0].private_dirty),
                cell(all.private_dirty, |peer| peer[1].private_dirty),
                cell(all.proportional, |peer| peer[1].proportional),
            ];
            [vec![(*name).to_owned()], cells.concat()].concat()
        }
        Err(fault) => {
            let mut cells = vec![format!("{name}: {fault}")];
            cells.resize(7, String::new());
            cells
        }
    };
    let fixed = found.iter().find(|(name, _)| *name == FIXED);
    let fixed = fixed.and_then(|(_, found)| found.as_ref().ok());
    let goal = waiting.fixed.map(|at_most| Goal {
        what: format!("private dirty memory of {}, {FIXED}", waiting.name),
        at_most,
        found: fixed.map_or(f64::NAN, |[one, _]| {
            ratio(one.private_dirty, |peer| peer[0].private_dirty)
        }),
        unit: format!("x {peer_name}"),
    });
    let columns = [
        "".to_owned(),
        "private dirty, of one, KiB".to_owned(),
        format!("x {peer_name}"),
        format!("private dirty, each of {many}, KiB"),
        format!("x {peer_name}"),
        format!("PSS, each of {many}, KiB"),
        format!("x {peer_name}"),
    ];
    Section {
        title: format!("Memory of {} waiting for input", waiting.name),
        about: Vec::new(),
        peer: (*peer_name).to_owned(),
        rows: Vec::new(),
        tables: vec![Table {
            title: format!(
                "`/proc/PID/smaps_rollup` of `{}` with a pipe that nobody writes to, once it sleeps and uses no more processor time: of one process, and the \
                 mean of {many} that run at once. It has done its own work up to there, and what it has allocated for that is the same in all ways.",
                waiting.line.join(" ")
            ),
            columns: columns.to_vec(),
            rows: found.iter().map(row).collect(),
        }],
        goals: goal.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLUP: &str = "5600-7fff ---p 00000000 00:00 0    [rollup]\nRss:       5000 kB\nPss:       1200 kB\nPss_Dirty:  900 kB\n\
        Shared_Dirty:  0 kB\nPrivate_Clean: 20 kB\nPrivate_Dirty: 880 kB\n";

    #[test]
    fn what_a_process_has_for_itself_is_read() {
        let expected = Memory {
            private_dirty: 880,
            proportional: 1200,
        };
        assert_eq!(Memory::of(ROLLUP), Some(expected));
        assert_eq!(Memory::of("Pss: 12 kB\n"), None);
    }

    #[test]
    fn a_process_s_state_is_read_behind_whatever_it_is_called() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194304 100 0 0 0 3 4 0 0 20 0 1 0";
        assert_eq!(activity(stat), Some(('S', 7)));
        assert_eq!(activity("7 (a"), None);
    }

    #[test]
    fn memory_is_that_of_processes_that_wait() {
        let one = mean(&mut Command::new("cat"), 2).unwrap();
        assert!(one.private_dirty > 0 && one.proportional > 0, "{one:?}");
        let error = mean(&mut Command::new("true"), 1).unwrap_err();
        assert!(format!("{error:#}").contains("ended"), "{error:#}");
    }

    #[test]
    fn a_way_that_does_not_work_reaches_no_goal() {
        let memory = |private_dirty| Memory {
            private_dirty,
            proportional: 1,
        };
        let ffmpeg = &WAITING[2];
        let met = |fixed: Found| {
            let native = Ok([memory(1000), memory(1000)]);
            section(ffmpeg, 50, &[("native", native), (FIXED, fixed)]).goals[0].met()
        };
        assert!(met(Ok([memory(120), memory(500)])));
        assert!(!met(Ok([memory(121), memory(100)])));
        assert!(!met(Err("it ended".to_owned())));
    }
}
