//! `elfuse-tools`: what `elfuse` executes for every verb but `run`. See `elfuse --help`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use elfuse_tools::cli::Cli;
use elfuse_tools::exit::Exit;
use elfuse_tools::verbs;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::BufWriter::new(io::stdout());
    let done = verbs::run(&cli.command, &mut out).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match done {
        Ok(exit) => exit.into(),
        Err(error) if is_closed_pipe(&error) => Exit::Success.into(),
        Err(error) => {
            eprintln!("elfuse: {error:#}");
            Exit::Failure.into()
        }
    }
}

/// Whoever read the output has seen enough, as in `elfuse doctor | head -3`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
