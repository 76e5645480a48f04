//! What can be wrong with a command line, and how it is said.

use core::fmt;

use crate::text::Shown;

/// The command line, or an environment variable that `run` reads, does not make sense. Exit status 125, as env(1) has it.
///
/// Its `Display` is one line without a program name in front and without a line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageError<'a> {
    /// There is no such option.
    UnknownOption {
        /// As typed, without `=` and what follows it.
        given: &'a [u8],
        /// The option that is spelled most like it, if one is near enough.
        nearest: Option<&'static str>,
    },
    /// An option needs a value, and none follows.
    MissingValue {
        /// The option.
        option: &'static str,
        /// What its value is called in the help.
        value: &'static str,
        /// What follows it, if that looks like another option.
        next: Option<&'a [u8]>,
    },
    /// An option that takes no value was given one by `=`.
    UnexpectedValue {
        /// The option.
        option: &'static str,
    },
    /// The value of an option is the empty string.
    EmptyValue {
        /// The option.
        option: &'static str,
        /// What its value is called in the help.
        value: &'static str,
    },
    /// A value is none of those that there are.
    UnknownValue {
        /// The option or environment variable.
        of: &'static str,
        /// As typed.
        given: &'a [u8],
        /// All values that there are.
        expected: &'static [&'static str],
        /// The one that is spelled most like it, if one is near enough.
        nearest: Option<&'static str>,
    },
    /// A path of the guest has to begin with `/`.
    NotAbsolute {
        /// The option.
        option: &'static str,
        /// As typed.
        given: &'a [u8],
    },
    /// `--env` was given something else than `NAME=VALUE`.
    NotAnAssignment {
        /// As typed.
        given: &'a [u8],
    },
    /// An option was repeated more often than there is room for.
    TooMany {
        /// The option.
        option: &'static str,
        /// How often it may be given.
        most: usize,
    },
    /// Neither `--sysroot` nor `ELFUSE_SYSROOT`.
    NoSysroot {
        /// The program, if a `--sysroot` stands behind it, where it is the program's.
        behind: Option<&'a [u8]>,
    },
    /// There is nothing to run.
    NoProgram,
}

impl fmt::Display for UsageError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            UsageError::UnknownOption { given, nearest } => {
                write!(f, "run has no option {}", Shown(given))?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {nearest}?"),
                    None => write!(f, "; `elfuse run --help` lists them"),
                }
            }
            UsageError::MissingValue {
                option,
                value,
                next,
            } => {
                write!(f, "{option} needs a value: {option} {value}")?;
                match next {
                    Some(next) => write!(f, " (write {option}={0} if {0} is one)", Shown(next)),
                    None => Ok(()),
                }
            }
            UsageError::UnexpectedValue { option } => {
                write!(
                    f,
                    "{option} takes no value; leave out the = and what follows"
                )
            }
            UsageError::EmptyValue { option, value } => {
                write!(f, "the value of {option} is empty; it should be {value}")
            }
            UsageError::UnknownValue {
                of,
                given,
                expected,
                nearest,
            } => {
                write!(f, "{of} cannot be {:?}; it is one of ", Quoted(given))?;
                for (at, value) in expected.iter().enumerate() {
                    let before = if at == 0 { "" } else { ", " };
                    write!(f, "{before}{value}")?;
                }
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {nearest}?"),
                    None => Ok(()),
                }
            }
            UsageError::NotAbsolute { option, given } => write!(
                f,
                "{option} {:?}: a path inside the guest begins with /",
                Quoted(given)
            ),
            UsageError::NotAnAssignment { given } => write!(
                f,
                "--env {:?}: write --env NAME=VALUE, with a name before the =",
                Quoted(given)
            ),
            UsageError::TooMany { option, most } => {
                write!(
                    f,
                    "{option} was given more than {most} times, which is the most there is room for"
                )
            }
            UsageError::NoSysroot { behind: None } => write!(
                f,
                "no sysroot to run in: give --sysroot DIR before the program, or set ELFUSE_SYSROOT"
            ),
            UsageError::NoSysroot {
                behind: Some(program),
            } => write!(
                f,
                "no sysroot to run in: the --sysroot behind {0} is an argument of {0}; put it in front, or set ELFUSE_SYSROOT",
                Shown(program)
            ),
            UsageError::NoProgram => write!(
                f,
                "no program to run: write elfuse run --sysroot DIR PROG [ARG…]"
            ),
        }
    }
}

impl core::error::Error for UsageError<'_> {}

/// In double quotes.
struct Quoted<'a>(&'a [u8]);

impl fmt::Debug for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Shown(self.0))
    }
}

/// The longest spelling that is compared with the ones that there are.
const LONGEST_COMPARED: usize = 32;

/// Which of `candidates` is spelled most like `given`: one that it is the beginning of, else the one with the fewest
/// edits, if they are at most a third of its length.
pub(super) fn nearest(
    given: &[u8],
    candidates: impl Iterator<Item = &'static str> + Clone,
) -> Option<&'static str> {
    // "--" alone is the beginning of everything.
    if given.len() > 3
        && let Some(longer) = candidates
            .clone()
            .find(|candidate| candidate.as_bytes().starts_with(given))
    {
        return Some(longer);
    }
    candidates
        .map(|candidate| (edits(given, candidate.as_bytes()), candidate))
        .filter(|&(edits, candidate)| edits <= candidate.trim_start_matches('-').len().div_ceil(3))
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, in bytes; that of too long spellings is `usize::MAX`.
fn edits(one: &[u8], other: &[u8]) -> usize {
    if one.len() > LONGEST_COMPARED || other.len() > LONGEST_COMPARED {
        return usize::MAX;
    }
    // row[j]: edits between what was read of `one` and the first j bytes of `other`.
    let mut row = [0; LONGEST_COMPARED + 1];
    for (j, cell) in row.iter_mut().enumerate() {
        *cell = j;
    }
    for (i, byte) in one.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, with) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(byte != with);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
