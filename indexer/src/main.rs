//! `elfuse-index`: see `elfuse-index --help`.

use std::process::ExitCode;

use clap::Parser;
use elfuse_indexer::cli::Cli;
use elfuse_indexer::options::{CommonOptions, Request};
use elfuse_indexer::report::Output;
use elfuse_indexer::run;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::to_standard_streams(&CommonOptions::from(&cli.common));
    let done = Request::from_command(cli.command)
        .and_then(|request| run::run(&request, &mut out))
        .and_then(|exit| out.finish(exit));
    done.unwrap_or_else(|error| out.error(&error)).into()
}
