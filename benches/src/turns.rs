//! One start after the other, A B C A B C, each timed from outside and each looked at: a start that prints or ends otherwise than
//! it should is no start, and has no time.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, getpriority_process, kill_process_group, setpriority_process};
use rustix::thread::CpuSet;
use wait4::Wait4;

use crate::measure::Quartiles;
use crate::report::Row;

/// How long a start may take before it is ended, as a fault.
const LIMIT: Duration = Duration::from_secs(60);

/// A way slower than this and than [`SLOW_RATIO`] times its peer takes part in every [`SLOW_EVERY`]th round.
const SLOW_SECONDS: f64 = 0.15;
const SLOW_RATIO: f64 = 2.0;
const SLOW_EVERY: usize = 6;

/// What a start has to do to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// End with status 0.
    Success,
    /// That, and print what the first side printed.
    SameOutput,
}

/// A side of a comparison. The first of them is the peer.
pub struct Side {
    /// Its name.
    pub name: String,
    /// What is started.
    pub command: Command,
    /// When it counts.
    pub expected: Expected,
}

/// One start that counts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// From before the process is made to after it was waited for.
    pub seconds: f64,
    /// Processor time of it and its children.
    pub cpu_seconds: f64,
    /// `ru_maxrss`.
    pub peak_bytes: u64,
}

/// What came of one side.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Its name.
    pub name: String,
    /// By round; `None` where it had no turn.
    pub starts: Vec<Option<Start>>,
    /// What was wrong with it: it was not started again after that.
    pub fault: Option<String>,
    /// What it printed in its first start, if that counted.
    pub output: Vec<u8>,
}

impl Taken {
    /// Starts that were timed.
    pub fn timed(&self) -> impl Iterator<Item = &Start> {
        self.starts.iter().flatten()
    }

    /// How many.
    #[must_use]
    pub fn n(&self) -> usize {
        self.timed().count()
    }

    /// Quartiles of the time.
    #[must_use]
    pub fn seconds(&self) -> Quartiles {
        Quartiles::of(self.timed().map(|start| start.seconds).collect())
    }

    /// Quartiles of the ratios to another side, of the rounds in which both had a turn.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> Quartiles {
        Quartiles::of(self.pairs(other, |own, peer| own / peer))
    }

    /// Quartiles of the differences in seconds, likewise.
    #[must_use]
    pub fn over(&self, other: &Self) -> Quartiles {
        Quartiles::of(self.pairs(other, |own, peer| own - peer))
    }

    /// Its row in a section whose ratios are to `peer`.
    #[must_use]
    pub fn row(&self, name: String, peer: &Self, at_most: Option<f64>) -> Row {
        Row {
            name,
            command: String::new(),
            n: self.n(),
            seconds: self.seconds(),
            elapsed_seconds: self.seconds(),
            ratio: self.ratio_to(peer),
            cpu_seconds: Quartiles::of(self.timed().map(|start| start.cpu_seconds).collect()),
            peak_bytes: self
                .timed()
                .map(|start| start.peak_bytes)
                .max()
                .unwrap_or(0),
            at_most,
        }
    }

    fn pairs(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
        let rounds = self.starts.iter().zip(&other.starts);
        let both = rounds.filter_map(|(own, other)| Some((own.as_ref()?, other.as_ref()?)));
        both.map(|(own, other)| of(own.seconds, other.seconds))
            .collect()
    }
}

/// How often, and what comes before each start.
pub struct Rounds<'a> {
    /// Rounds that are kept. One before them is not.
    pub count: usize,
    /// Whether there are twice as many where the peer's start takes less than 5 ms, and two thirds where it takes more than 30 ms.
    pub by_length: bool,
    /// Done before each start, not timed.
    pub before: Option<&'a mut dyn FnMut() -> anyhow::Result<()>>,
}

/// Starts all sides once a round. The first must work, the others have a fault if they do not.
///
/// # Errors
/// If the first side is at fault, or processes cannot be made.
pub fn take(sides: &mut [Side], rounds: Rounds<'_>) -> anyhow::Result<Vec<Taken>> {
    take_telling(sides, rounds, &mut |_, _| Ok(()))
}

/// Told of each start that counted: number of the side, and what it printed.
pub type Tell<'a> = dyn FnMut(usize, &[u8]) -> anyhow::Result<()> + 'a;

/// The same, and tells what each start that counted has printed, but for those of the round that is not kept.
///
/// # Errors
/// As [`take`], and those of `tell`.
pub fn take_telling(
    sides: &mut [Side],
    rounds: Rounds<'_>,
    tell: &mut Tell<'_>,
) -> anyhow::Result<Vec<Taken>> {
    let watchdog = Watchdog::new();
    let _pinned = Pinned::to_one_processor()?;
    let Rounds {
        mut count,
        by_length,
        mut before,
    } = rounds;
    let mut prepare = || before.as_mut().map_or(Ok(()), |before| before());
    let mut taken: Vec<Taken> = Vec::new();
    let mut every = Vec::new();
    for side in &mut *sides {
        let mut runner = Runner::new(&mut side.command)?;
        let first = taken.first().map(|first| first.output.clone());
        let expected = match side.expected {
            Expected::SameOutput => first.as_deref(),
            Expected::Success => None,
        };
        prepare()?;
        let tried = runner.start(&mut side.command, expected, &watchdog)?;
        let mut all = Taken {
            name: side.name.clone(),
            starts: Vec::new(),
            fault: None,
            output: runner.printed()?,
        };
        let mut turn = 1;
        match (tried, taken.first()) {
            (Ok(start), None) => {
                count = match start.seconds {
                    _ if !by_length => count,
                    ..0.005 => count * 2,
                    0.03.. => (count * 2).div_ceil(3),
                    _ => count,
                };
                all.starts.push(Some(start));
            }
            (Ok(start), Some(peer)) => {
                let peer = peer.starts[0].map_or(f64::NAN, |start| start.seconds);
                if start.seconds > SLOW_SECONDS && start.seconds > SLOW_RATIO * peer {
                    turn = SLOW_EVERY;
                }
            }
            (Err(fault), None) => anyhow::bail!("{}: {fault}: {:?}", side.name, side.command),
            (Err(fault), Some(_)) => all.fault = Some(fault),
        }
        taken.push(all);
        every.push(turn);
    }
    let expected = taken[0].output.clone();
    taken[0].starts.clear();
    for round in 0..count {
        let turns = sides.iter_mut().zip(&mut taken).zip(&every).enumerate();
        for (number, ((side, all), every)) in turns {
            if all.fault.is_some() || round % every != 0 {
                all.starts.push(None);
                continue;
            }
            prepare()?;
            let mut runner = Runner::new(&mut side.command)?;
            let expected = (side.expected == Expected::SameOutput).then_some(&*expected);
            match runner.start(&mut side.command, expected, &watchdog)? {
                Ok(start) => {
                    all.starts.push(Some(start));
                    tell(number, &runner.printed()?)?;
                }
                Err(fault) => {
                    let done = all.n();
                    all.fault = Some(format!("{fault}, after {done} that were right"));
                    all.starts.push(None);
                }
            }
        }
    }
    Ok(taken)
}

/// Where a start writes to.
struct Runner {
    output: File,
    errors: File,
}

impl Runner {
    /// Files in memory: what is printed costs all sides the same, and can be compared.
    fn new(command: &mut Command) -> anyhow::Result<Self> {
        let file = || memfd_create("elfuse-bench", MemfdFlags::CLOEXEC).map(File::from);
        let (output, errors) = (file()?, file()?);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(errors.try_clone()?)
            .process_group(0);
        Ok(Self { output, errors })
    }

    fn start(
        &mut self,
        command: &mut Command,
        expected: Option<&[u8]>,
        watchdog: &Watchdog,
    ) -> anyhow::Result<Result<Start, String>> {
        let began = Instant::now();
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(Err(format!("cannot be started: {error}"))),
        };
        watchdog.watch(Some(child.id()));
        let used = child.wait4();
        let seconds = began.elapsed().as_secs_f64();
        watchdog.watch(None);
        let used = used.context("waiting for a start")?;
        if !used.status.success() {
            let how = match (used.status.code(), used.status.signal()) {
                (Some(status), _) => format!("exit status {status}"),
                (_, Some(9)) if seconds >= LIMIT.as_secs_f64() => "did not end in time".to_owned(),
                (_, signal) => format!("signal {}", signal.unwrap_or(0)),
            };
            return Ok(Err(format!("{how}{}", self.complaint()?)));
        }
        if expected.is_some_and(|expected| self.printed().is_ok_and(|found| found != expected)) {
            return Ok(Err(format!("wrong output{}", self.complaint()?)));
        }
        Ok(Ok(Start {
            seconds,
            cpu_seconds: (used.rusage.utime + used.rusage.stime).as_secs_f64(),
            peak_bytes: used.rusage.maxrss,
        }))
    }

    fn printed(&mut self) -> anyhow::Result<Vec<u8>> {
        whole(&mut self.output)
    }

    /// The last line of what it complained of.
    fn complaint(&mut self) -> anyhow::Result<String> {
        let errors = whole(&mut self.errors)?;
        let text = String::from_utf8_lossy(&errors);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        Ok(last.map_or_else(String::new, |line| {
            format!(": {}", line.trim().chars().take(160).collect::<String>())
        }))
    }
}

fn whole(file: &mut File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Keeps this thread, and with it what it starts, on one processor for as long as it lives, and ahead of what else wants that.
pub(crate) struct Pinned {
    before: CpuSet,
    nice: i32,
}

impl Pinned {
    /// The last that may be used: the first has most of the interrupts.
    pub(crate) fn to_one_processor() -> anyhow::Result<Self> {
        let before = rustix::thread::sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| before.is_set(cpu));
        let mut one = CpuSet::new();
        one.set(last.context("no processor may be used")?);
        rustix::thread::sched_setaffinity(None, &one)?;
        let nice = getpriority_process(None)?;
        // Takes root. Without, neighbours are in the times of all sides.
        let _ = setpriority_process(None, -20);
        Ok(Self { before, nice })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was so before, and what fails here only makes the rest slower.
        let _ = setpriority_process(None, self.nice);
        let _ = rustix::thread::sched_setaffinity(None, &self.before);
    }
}

/// Ends what does not end by itself. It polls, so that the thread that measures does nothing but store a number.
struct Watchdog {
    watched: Arc<Mutex<Option<(u32, Instant)>>>,
}

impl Watchdog {
    fn new() -> Self {
        let watched = Arc::new(Mutex::new(None::<(u32, Instant)>));
        let weak = Arc::downgrade(&watched);
        std::thread::spawn(move || {
            while let Some(watched) = weak.upgrade() {
                {
                    // Held while it kills, so that who has just waited for this process starts no other meanwhile.
                    let mut watched = watched.lock().expect("nothing panics here");
                    if let Some((id, since)) = *watched
                        && since.elapsed() > LIMIT
                        && let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw)
                    {
                        let _ = kill_process_group(group, Signal::KILL);
                        *watched = None;
                    }
                }
                drop(watched);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Self { watched }
    }

    fn watch(&self, id: Option<u32>) {
        let watched = id.map(|id| (id, Instant::now()));
        *self.watched.lock().expect("nothing panics here") = watched;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(name: &str, script: &str) -> Side {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Side {
            name: name.to_owned(),
            command,
            expected: Expected::SameOutput,
        }
    }

    fn two() -> Rounds<'static> {
        Rounds {
            count: 2,
            by_length: false,
            before: None,
        }
    }

    #[test]
    fn what_prints_or_ends_otherwise_than_the_first_has_no_time() -> anyhow::Result<()> {
        let mut sides = [
            side("peer", "echo right"),
            side("same", "echo right; echo noise >&2"),
            side("other text", "echo wrong"),
            side("other status", "echo right; echo why >&2; exit 3"),
        ];
        let taken = take(&mut sides, two())?;
        assert_eq!((taken[0].n(), taken[1].n()), (2, 2));
        assert_eq!((taken[2].n(), taken[3].n()), (0, 0));
        assert_eq!(taken[2].fault.as_deref(), Some("wrong output"));
        assert_eq!(taken[3].fault.as_deref(), Some("exit status 3: why"));
        Ok(())
    }

    #[test]
    fn what_goes_wrong_later_is_told_too() -> anyhow::Result<()> {
        let scratch = tempfile::tempdir()?;
        let once = scratch.path().join("once");
        let script = format!("[ ! -e {0} ] || echo more; touch {0}", once.display());
        let taken = take(&mut [side("peer", ":"), side("changes", &script)], two())?;
        let fault = taken[1].fault.as_deref();
        assert_eq!(fault, Some("wrong output, after 0 that were right"));
        Ok(())
    }

    #[test]
    fn without_a_peer_there_is_nothing() {
        let error = take(&mut [side("peer", "exit 7")], two()).unwrap_err();
        assert!(format!("{error:#}").contains("exit status 7"), "{error:#}");
    }

    #[test]
    fn a_ratio_needs_a_turn_of_both() {
        let taken = |seconds: [Option<f64>; 3]| Taken {
            name: String::new(),
            starts: seconds
                .map(|seconds| {
                    Some(Start {
                        seconds: seconds?,
                        cpu_seconds: 0.0,
                        peak_bytes: 0,
                    })
                })
                .to_vec(),
            fault: None,
            output: Vec::new(),
        };
        let peer = taken([Some(1.0), Some(10.0), Some(100.0)]);
        let own = taken([Some(2.0), None, Some(200.0)]);
        let ratio = own.ratio_to(&peer);
        assert_eq!((ratio.p25, ratio.p50, ratio.p75), (2.0, 2.0, 2.0));
        assert_eq!(own.n(), 2);
    }
}
