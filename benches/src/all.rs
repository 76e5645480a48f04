//! All benchmarks one after the other. Each is a process of its own: one that cannot be run does not keep the others from it, and what
//! it mounts is gone with it.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Context;

use crate::cli::AllOptions;
use crate::report::{self, Report};
use crate::workspace::Workspace;
use crate::{fuse, guest, indexer, lookups, resident, size, start, suite};

/// Those whose goals stand in one table, in its order.
const NAMES: [&str; 8] = [
    start::NAME,
    resident::NAME,
    fuse::NAME,
    guest::NAME,
    suite::NAME,
    size::NAME,
    lookups::NAME,
    indexer::NAME,
];

/// Runs them, and says at the end how each ended and how long it took.
///
/// # Errors
/// If none can be started at all.
pub fn run(options: &AllOptions, workspace: &Workspace) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("finding this program")?;
    let mut summary = Vec::new();
    let mut has_failed = false;
    for line in lines(options) {
        let began = Instant::now();
        let status = Command::new(&own).args(&line).status();
        let status = status.with_context(|| format!("starting {}", own.display()))?;
        has_failed |= !status.success();
        summary.push(format!(
            "{}: {} s, {status}",
            line[0],
            began.elapsed().as_secs()
        ));
    }
    if !options.within.quick && !options.within.check {
        let benches = workspace.benches();
        let reports = NAMES
            .iter()
            .filter_map(|name| Report::read(&benches, name).ok());
        let reports: Vec<_> = reports.collect();
        report::write_section(&benches, "goals", &report::goals(&reports))?;
    }
    for line in summary {
        eprintln!("{line}");
    }
    Ok(if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Their command lines.
fn lines(options: &AllOptions) -> Vec<Vec<String>> {
    let within = &options.within;
    let names = [
        start::NAME,
        resident::NAME,
        suite::NAME,
        guest::NAME,
        fuse::NAME,
        size::NAME,
    ];
    let mut lines = Vec::new();
    for name in names {
        let mut line = vec![name.to_owned()];
        line.extend(within.check.then(|| "--check".to_owned()));
        line.extend(within.quick.then(|| "--quick".to_owned()));
        line.extend(within.rounds.map(|rounds| format!("--rounds={rounds}")));
        line.extend((options.no_cold && name == start::NAME).then(|| "--no-cold".to_owned()));
        lines.push(line);
    }
    // They have neither rounds to be fewer nor a try-out.
    let mut others = Vec::new();
    if !within.quick || within.check {
        others.push(lookups::NAME);
        others.extend(options.with_indexer.then_some(indexer::NAME));
    }
    for name in others {
        let check = within.check.then(|| "--check".to_owned());
        lines.push(std::iter::once(name.to_owned()).chain(check).collect());
    }
    if let Some(cache) = &within.cache {
        for line in &mut lines {
            line.extend(["--cache".to_owned(), cache.to_string_lossy().into_owned()]);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn each_command_line_is_one_that_is_understood() {
        let all = [
            "elfuse-bench",
            "all",
            "--with-indexer",
            "--rounds",
            "5",
            "--no-cold",
            "--cache",
            "/tmp",
        ];
        for extra in [None, Some("--quick"), Some("--check")] {
            let Command::All(options) = Cli::parse_from(all.into_iter().chain(extra)).command
            else {
                panic!("another command");
            };
            for line in lines(&options) {
                let whole = std::iter::once("elfuse-bench".to_owned()).chain(line);
                assert!(Cli::try_parse_from(whole).is_ok());
            }
        }
    }
}
