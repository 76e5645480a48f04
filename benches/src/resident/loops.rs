//! Dillon's loop: one starter, many starts of one program, by the clock on the wall. DragonFly's `resident` was measured so.

use std::path::Path;
use std::process::Command;

use super::stores::{Stores, side};
use super::{LINKED, NATIVE, SLIDE, linked_statically, ratio, rows};
use crate::ground::{Ground, Root};
use crate::namespace::succeed;
use crate::report::{Goal, Section};
use crate::turns::{self, Rounds};

/// How many starts, of what, and how long all may take as a multiple of the native ones.
pub(super) struct Loop {
    pub(super) count: usize,
    pub(super) name: &'static str,
    pub(super) line: &'static [&'static str],
    pub(super) at_most: Option<f64>,
    /// Rounds: a loop is many starts by itself.
    pub(super) rounds: usize,
}

/// DragonFly's loop took 0.55 of what it took without.
pub(super) const LOOPS: [Loop; 2] = [
    Loop {
        count: 1000,
        name: "perl -e 1",
        line: &["/usr/bin/perl", "-e", "1"],
        at_most: Some(0.45),
        rounds: 3,
    },
    Loop {
        count: 100,
        name: "ffmpeg -version",
        line: &["/usr/bin/ffmpeg", "-version"],
        at_most: None,
        rounds: 1,
    },
];

/// Compiles the starter.
///
/// # Errors
/// It does not compile.
pub(super) fn compile(ground: &Ground, source: &Path) -> anyhow::Result<std::path::PathBuf> {
    let starter = ground.scratch("starter")?.join("starts");
    let mut cc = Command::new("cc");
    succeed(cc.args(["-O2", "-o"]).arg(&starter).arg(source))?;
    Ok(starter)
}

/// The starter, made to start a command.
fn many(ground: &Ground, starter: &Path, count: usize, command: &Command) -> Command {
    let mut many = ground.command(starter);
    many.arg(count.to_string()).arg(command.get_program());
    many.args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            many.env(key, value);
        }
    }
    many
}

/// Measures one.
///
/// # Errors
/// If the program does not start natively.
pub(super) fn measure(
    ground: &Ground,
    (stores, made): (&Stores, &Root),
    starter: &Path,
    one: &Loop,
    quick: bool,
) -> anyhow::Result<Section> {
    let count = if quick { one.count / 50 } else { one.count };
    let linked = linked_statically(ground, made, one.line);
    let linked = linked.map(|side| (LINKED, side.command));
    let ways = stores.ways(ground, one.line).into_iter();
    let mut sides: Vec<_> = ways
        .chain(linked)
        .map(|(name, command)| side(name, many(ground, starter, count, &command)))
        .collect();
    let rounds = Rounds {
        count: one.rounds,
        by_length: false,
        before: None,
    };
    let taken = turns::take(&mut sides, rounds)?;
    let goal = one.at_most.map(|at_most| Goal {
        what: SLIDE.to_owned(),
        at_most,
        found: ratio(&taken, SLIDE, NATIVE),
        unit: format!("x {NATIVE}"),
    });
    Ok(Section {
        title: format!("{count} starts of {}", one.name),
        about: vec![format!(
            "One starter, which runs the program {count} times, one after the other: time of the whole loop."
        )],
        peer: NATIVE.to_owned(),
        rows: rows(&taken, &taken[0]),
        tables: Vec::new(),
        goals: goal.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn the_starter_starts_as_often_as_it_is_told_and_passes_a_failure_on() {
        let scratch = tempfile::tempdir().unwrap();
        let starter = scratch.path().join("starts");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/starts.c");
        let mut cc = Command::new("cc");
        crate::namespace::succeed(cc.arg("-o").arg(&starter).arg(source)).unwrap();
        let mut starts = Command::new(&starter);
        let output = starts.args(["3", "/bin/echo", "started"]).output().unwrap();
        assert_eq!(output.stdout, b"started\nstarted\nstarted\n");
        let mut fails = Command::new(&starter);
        let status = fails.args(["3", "/bin/sh", "-c", "exit 7"]).status();
        assert_eq!(status.unwrap().code(), Some(7));
    }
}
