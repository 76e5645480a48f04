//! Exit statuses. `--help` documents them; scripts rely on them.

use std::process::ExitCode;

/// How a command ended. A command line that does not make sense is clap's to say, with 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// `doctor`: something that is needed is missing.
    No,
    /// `elfuse` itself failed: env(1)'s number for its own failures.
    Failure,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::No => 1,
            Exit::Failure => 125,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
