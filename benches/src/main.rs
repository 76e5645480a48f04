//! `elfuse-bench`: one command a benchmark.

use clap::Parser;
use elfuse_benches::cli::{Cli, Command};
use elfuse_benches::indexer;
use elfuse_benches::report::Report;
use elfuse_benches::workspace::Workspace;

fn main() -> anyhow::Result<()> {
    let Command::Indexer(options) = Cli::parse().command;
    let workspace = Workspace::find()?;
    let report = if options.check {
        Report::read(&workspace.benches(), indexer::NAME)?
    } else {
        indexer::run(&options, &workspace)?
    };
    print!("{}", report.verdicts());
    Ok(())
}
