//! Exit statuses. `--help` documents them; scripts rely on them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; and the answer, where there is a question, is yes.
    Success,
    /// The answer is no: a difference, a library that was not found, nothing that needs it.
    No,
    /// Done, with gaps: something could not be read and is left out.
    Gaps,
    /// The command line does not make sense. The same number as clap's.
    Usage,
    /// `elfuse-index` itself failed: the number env(1) and the runtime use for their own failures.
    Failure,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Gaps => 3,
            Exit::Failure => 125,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
