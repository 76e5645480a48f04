//! `elfuse-bench`: one command a benchmark.

use clap::Parser;
use elfuse_benches::cli::{Cli, Command};
use elfuse_benches::indexer;
use elfuse_benches::report::Report;
use elfuse_benches::workspace::Workspace;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use elfuse_benches::{lookups, namespace, start};

fn main() -> anyhow::Result<()> {
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
        Command::Start(options) if options.within.check => Report::read(&benches, start::NAME)?,
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Start(options) => {
            namespace::enter()?;
            start::run(&options, &workspace)?
        }
    };
    print!("{}", report.verdicts());
    Ok(())
}
