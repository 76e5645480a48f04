//! `elfuse-bench`: one command a benchmark.

use std::process::ExitCode;

use clap::Parser;
use elfuse_benches::cli::{Cli, Command};
use elfuse_benches::indexer;
use elfuse_benches::report::Report;
use elfuse_benches::workspace::Workspace;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use elfuse_benches::{
    all, cli::Within, fuse, guest, lookups, namespace, profile, resident, size, start, suite,
};

fn main() -> anyhow::Result<ExitCode> {
    let command = Cli::parse().command;
    let workspace = Workspace::find()?;
    let benches = workspace.benches();
    let report = match command {
        Command::Indexer(options) if options.check => Report::read(&benches, indexer::NAME)?,
        Command::Indexer(options) => indexer::run(&options, &workspace)?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Lookups(options) if options.check => Report::read(&benches, lookups::NAME)?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Lookups(options) => lookups::run(&options, &workspace)?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Start(options) => within(&options.within, start::NAME, &workspace, || {
            start::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Profile(options) => within(&options.within, profile::NAME, &workspace, || {
            profile::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Guest(options) => within(&options, guest::NAME, &workspace, || {
            guest::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Suite(options) => within(&options, suite::NAME, &workspace, || {
            suite::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Fuse(options) => within(&options, fuse::NAME, &workspace, || {
            fuse::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Size(options) => within(&options, size::NAME, &workspace, || {
            size::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Resident(options) => within(&options, resident::NAME, &workspace, || {
            resident::run(&options, &workspace)
        })?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::All(options) => return all::run(&options, &workspace),
    };
    print!("{}", report.verdicts());
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    if suite::is_beyond(&report) {
        eprintln!("a ceiling of the guardrail was exceeded");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// A benchmark in a mount namespace, or its last results.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn within(
    options: &Within,
    name: &str,
    workspace: &Workspace,
    run: impl FnOnce() -> anyhow::Result<Report>,
) -> anyhow::Result<Report> {
    if options.check {
        return Report::read(&workspace.benches(), name);
    }
    namespace::enter()?;
    run()
}
