//! One line of the doctor's report.

use serde::Serialize;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Fine,
    /// Everything works; something takes longer.
    Slower,
    /// Something does not work that most guests do without.
    Missing,
    /// Guests cannot be run.
    Needed,
}

impl State {
    /// As the text shows it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            State::Fine => "fine",
            State::Slower => "slower",
            State::Missing => "missing",
            State::Needed => "NEEDED",
        }
    }
}

/// Under which heading a check is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// What the kernel can do.
    Kernel,
    /// CPU and clock.
    Cpu,
    /// Limits and policies of this process and system.
    Limits,
    /// The sysroot asked about.
    Sysroot,
}

impl Group {
    /// The heading.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Group::Kernel => "Kernel",
            Group::Cpu => "CPU and clock",
            Group::Limits => "Limits and policies",
            Group::Sysroot => "Sysroot",
        }
    }
}

/// What was looked at, what was found, and what follows from that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stays the same from version to version.
    pub id: &'static str,
    /// Heading.
    pub group: Group,
    /// What was looked at, for people.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What is slower or missing where it is not fine.
    pub without: &'static str,
    /// What can be done, where it is not fine and something can.
    pub advice: Option<String>,
}

/// A check whose state is still to be said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) id: &'static str,
    pub(super) group: Group,
    pub(super) what: &'static str,
    pub(super) without: &'static str,
}

impl Item {
    pub(super) fn fine(self, found: impl Into<String>) -> Check {
        self.check(State::Fine, found.into(), None)
    }

    pub(super) fn not(
        self,
        state: State,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Check {
        self.check(state, found.into(), Some(advice.into()))
    }

    fn check(self, state: State, found: String, advice: Option<String>) -> Check {
        Check {
            id: self.id,
            group: self.group,
            what: self.what,
            state,
            found,
            without: self.without,
            advice,
        }
    }
}
