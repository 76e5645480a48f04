//! Commands run in turn, A B C A B C, and what each run cost as seen from outside.
//!
//! One after the other rather than one at a time: what else the machine does then hits all sides alike, and the ratio of
//! two runs of one round means something where their times do not.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use wait4::Wait4;

/// Numbers that a command tells of itself, by name.
pub type Figures = BTreeMap<String, f64>;

/// Finds them in what the command prints.
pub type ReadFigures = fn(&[u8]) -> anyhow::Result<Figures>;

/// Done between runs, not timed.
pub type Prepare<'a> = Box<dyn FnMut() -> anyhow::Result<()> + 'a>;

/// One side of a comparison.
pub struct Subject<'a> {
    /// What tables call it.
    pub name: &'static str,
    /// Makes the command. Its standard output goes to `/dev/null` unless `figures` reads it.
    pub command: Box<dyn Fn() -> Command + 'a>,
    /// Brings about the state that each run starts from.
    pub prepare: Prepare<'a>,
    /// Reads what the command says of itself.
    pub figures: Option<ReadFigures>,
    /// The figure that is taken off the time: seconds the command slept and was not at work.
    pub idle: Option<&'static str>,
}

impl<'a> Subject<'a> {
    /// A command that needs no preparation and whose output nobody reads.
    pub fn new(name: &'static str, command: impl Fn() -> Command + 'a) -> Self {
        Self {
            name,
            command: Box::new(command),
            prepare: Box::new(|| Ok(())),
            figures: None,
            idle: None,
        }
    }

    /// With a preparation.
    #[must_use]
    pub fn after(mut self, prepare: impl FnMut() -> anyhow::Result<()> + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// With a reader of its output.
    #[must_use]
    pub fn telling(mut self, figures: ReadFigures) -> Self {
        self.figures = Some(figures);
        self
    }

    /// With a figure that is taken off the time.
    #[must_use]
    pub fn without(mut self, idle: &'static str) -> Self {
        self.idle = Some(idle);
        self
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// From before the process was made to after it was waited for.
    pub elapsed_seconds: f64,
    /// The same without the idle figure.
    pub seconds: f64,
    /// Processor time of the process and its children, user and system.
    pub cpu_seconds: f64,
    /// `ru_maxrss`. Not below what this program itself has in memory: the kernel carries that over exec.
    pub peak_bytes: u64,
    /// What the command says of itself.
    pub figures: Figures,
}

/// All runs of one subject, in the order of the rounds.
#[derive(Debug)]
pub struct Series {
    /// The subject's name.
    pub name: &'static str,
    /// The command as one would type it, with the programs on `PATH`.
    pub command: String,
    /// One a round.
    pub samples: Vec<Sample>,
}

impl Series {
    /// Quartiles of anything that a sample holds.
    #[must_use]
    pub fn quartiles(&self, of: impl Fn(&Sample) -> f64) -> Quartiles {
        Quartiles::of(self.samples.iter().map(of).collect())
    }

    /// Quartiles of the ratios of this series to another, round by round.
    #[must_use]
    pub fn ratio_to(&self, base: &Series) -> Quartiles {
        let pairs = self.samples.iter().zip(&base.samples);
        Quartiles::of(
            pairs
                .map(|(own, base)| own.seconds / base.seconds)
                .collect(),
        )
    }

    /// The largest peak of any run.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let peaks = self.samples.iter().map(|sample| sample.peak_bytes);
        peaks.max().unwrap_or(0)
    }
}

/// Where the quarters of a set of numbers end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Quartiles {
    /// A quarter is below.
    #[serde(deserialize_with = "nan_if_null")]
    pub p25: f64,
    /// The median.
    #[serde(deserialize_with = "nan_if_null")]
    pub p50: f64,
    /// A quarter is above.
    #[serde(deserialize_with = "nan_if_null")]
    pub p75: f64,
}

impl Quartiles {
    /// Of any numbers, interpolated linearly between neighbours; NaN of none.
    #[must_use]
    pub fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let Some(last) = numbers.len().checked_sub(1) else {
                return f64::NAN;
            };
            let (low, rest) = (quarter * last / 4, quarter * last % 4);
            let high = (low + 1).min(last);
            numbers[low] + (numbers[high] - numbers[low]) * rest as f64 / 4.0
        };
        Self {
            p25: at(1),
            p50: at(2),
            p75: at(3),
        }
    }
}

/// JSON has no NaN, and what could not be measured is written as null.
///
/// # Errors
/// If it is neither null nor a number.
pub fn nan_if_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// How often.
#[derive(Debug, Clone, Copy)]
pub struct Rounds {
    /// Not kept.
    pub warm_up: usize,
    /// Kept.
    pub measured: usize,
}

/// Runs all subjects once a round, in their order, and gives their series in that order. `each_round` comes first in each.
///
/// # Errors
/// If a command cannot be run or fails: a time of what did not work is none.
pub fn interleave(
    subjects: &mut [Subject<'_>],
    rounds: Rounds,
    mut each_round: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Series>> {
    let mut all: Vec<Series> = subjects
        .iter()
        .map(|subject| Series {
            name: subject.name,
            command: Shown(&(subject.command)()).to_string(),
            samples: Vec::with_capacity(rounds.measured),
        })
        .collect();
    for round in 0..rounds.warm_up + rounds.measured {
        each_round()?;
        for (subject, series) in subjects.iter_mut().zip(&mut all) {
            let sample = run(subject).with_context(|| series.command.clone())?;
            if round >= rounds.warm_up {
                series.samples.push(sample);
            }
        }
        let done = (round + 1).saturating_sub(rounds.warm_up);
        eprintln!("round {done} of {}", rounds.measured);
    }
    Ok(all)
}

fn run(subject: &mut Subject<'_>) -> anyhow::Result<Sample> {
    (subject.prepare)()?;
    let mut command = (subject.command)();
    let mut errors = tempfile::tempfile()?;
    let mut output = tempfile::tempfile()?;
    // find and its like write faster to /dev/null than to any file; what is not read costs them as little as it can.
    let stdout = match subject.figures {
        Some(_) => Stdio::from(output.try_clone()?),
        None => Stdio::null(),
    };
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(errors.try_clone()?);
    let began = Instant::now();
    let used = command.spawn()?.wait4()?;
    let elapsed_seconds = began.elapsed().as_secs_f64();
    anyhow::ensure!(
        used.status.success(),
        "{}: {}",
        used.status,
        String::from_utf8_lossy(&whole(&mut errors)?)
    );
    let figures = match subject.figures {
        Some(read) => read(&whole(&mut output)?)?,
        None => Figures::new(),
    };
    let idle = match subject.idle {
        Some(name) => *figures
            .get(name)
            .with_context(|| format!("its output has no {name}"))?,
        None => 0.0,
    };
    Ok(Sample {
        elapsed_seconds,
        seconds: elapsed_seconds - idle,
        cpu_seconds: (used.rusage.utime + used.rusage.stime).as_secs_f64(),
        peak_bytes: used.rusage.maxrss,
        figures,
    })
}

/// All of a file that a child wrote to through a descriptor of its own.
fn whole(file: &mut File) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A command as one would type it, with the programs on `PATH`.
struct Shown<'a>(&'a Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = Path::new(self.0.get_program());
        write!(f, "{}", program.file_name().unwrap_or_default().display())?;
        for word in self.0.get_args() {
            let word = word.display().to_string();
            let is_plain = !word.contains([' ', '\\', '*', '\'']);
            let quote = if is_plain { "" } else { "'" };
            write!(f, " {quote}{word}{quote}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_neighbours() {
        let quartiles = Quartiles::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!(
            (quartiles.p25, quartiles.p50, quartiles.p75),
            (1.75, 2.5, 3.25)
        );
        let one = Quartiles::of(vec![7.0]);
        assert_eq!((one.p25, one.p50, one.p75), (7.0, 7.0, 7.0));
        assert!(Quartiles::of(Vec::new()).p50.is_nan());
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let series = |name, seconds: [f64; 2]| Series {
            name,
            command: String::new(),
            samples: seconds
                .map(|seconds| Sample {
                    elapsed_seconds: seconds,
                    seconds,
                    cpu_seconds: 0.0,
                    peak_bytes: 0,
                    figures: Figures::new(),
                })
                .to_vec(),
        };
        // Twice the time in a quiet round and in a busy one.
        let ratio = series("a", [2.0, 20.0]).ratio_to(&series("b", [1.0, 10.0]));
        assert_eq!((ratio.p25, ratio.p50, ratio.p75), (2.0, 2.0, 2.0));
    }

    #[test]
    fn subjects_take_turns_and_warm_up_rounds_are_not_kept() -> anyhow::Result<()> {
        let turns = std::cell::RefCell::new(String::new());
        let subject = |name: &'static str| {
            let turns = &turns;
            Subject::new(name, move || Command::new("true")).after(move || {
                turns.borrow_mut().push_str(name);
                Ok(())
            })
        };
        let rounds = Rounds {
            warm_up: 1,
            measured: 2,
        };
        let all = interleave(&mut [subject("a"), subject("b")], rounds, || Ok(()))?;
        assert_eq!(*turns.borrow(), "ababab");
        assert!(all.iter().all(|series| series.samples.len() == 2));
        Ok(())
    }

    #[test]
    fn a_command_is_shown_without_the_place_of_its_program() {
        let mut command = Command::new("/opt/bin/find");
        command.args([".", "-printf", "%p\\n"]);
        assert_eq!(Shown(&command).to_string(), "find . -printf '%p\\n'");
    }

    #[test]
    fn a_failing_command_is_an_error_with_its_own_words() {
        let failing = Subject::new("fails", || {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no such thing >&2; exit 3"]);
            command
        });
        let rounds = Rounds {
            warm_up: 0,
            measured: 1,
        };
        let error = interleave(&mut [failing], rounds, || Ok(())).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("no such thing") && text.contains("exit status: 3"),
            "{text}"
        );
    }

    #[test]
    fn what_a_command_slept_is_taken_off() -> anyhow::Result<()> {
        let sleeping = Subject::new("sleeps", || {
            let mut command = Command::new("sh");
            command.args(["-c", "sleep 0.2; echo 0.2"]);
            command
        })
        .telling(|output| {
            let slept = std::str::from_utf8(output)?.trim().parse()?;
            Ok(Figures::from([("slept".to_owned(), slept)]))
        })
        .without("slept");
        let rounds = Rounds {
            warm_up: 0,
            measured: 1,
        };
        let all = interleave(&mut [sleeping], rounds, || Ok(()))?;
        let sample = &all[0].samples[0];
        assert!((sample.elapsed_seconds - sample.seconds - 0.2).abs() < 1e-9);
        Ok(())
    }
}
