//! The arguments behind `run`, read one after the other by the table of options.

use super::error::{UsageError, nearest};
use super::spec::{OPTIONS, OptionSpec, Takes};

/// An option as it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct OptionGiven<'a> {
    pub(super) spec: &'static OptionSpec,
    /// What stands behind `=`.
    pub(super) inline: Option<&'a [u8]>,
    /// That, or the next argument; empty where there is none.
    pub(super) value: &'a [u8],
}

/// What stands on a command line.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word<'a> {
    Option(OptionGiven<'a>),
    /// The program, which ends it.
    Program(&'a [u8]),
}

/// The arguments behind `run`, read one option after the other.
#[derive(Debug, Clone)]
pub(super) struct Given<I> {
    args: I,
    /// Which of all arguments was read last: `run` is the first.
    pub(super) at: usize,
    is_done: bool,
}

impl<'a, I: Iterator<Item = &'a [u8]>> Given<I> {
    pub(super) fn new(args: I) -> Self {
        Self {
            args,
            at: 0,
            is_done: false,
        }
    }

    fn argument(&mut self) -> Option<&'a [u8]> {
        self.args.next().inspect(|_| self.at += 1)
    }

    fn word(&mut self, arg: &'a [u8]) -> Result<Word<'a>, UsageError<'a>> {
        let (spec, inline) = find(arg)?;
        let value = match (spec.takes, inline) {
            (Takes::Nothing, Some(_)) => {
                return Err(UsageError::UnexpectedValue { option: spec.name });
            }
            (Takes::Nothing | Takes::ValueBehindEquals, inline) => inline.unwrap_or_default(),
            (Takes::Value(value), inline) => {
                let given = match inline {
                    Some(inline) => inline,
                    None => {
                        let next = self.argument();
                        // An option that was forgotten its value would otherwise swallow the next one.
                        next.filter(|next| !next.starts_with(b"--")).ok_or(
                            UsageError::MissingValue {
                                option: spec.name,
                                value,
                                next,
                            },
                        )?
                    }
                };
                if given.is_empty() {
                    return Err(UsageError::EmptyValue {
                        option: spec.name,
                        value,
                    });
                }
                given
            }
        };
        Ok(Word::Option(OptionGiven {
            spec,
            inline,
            value,
        }))
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Iterator for Given<I> {
    type Item = Result<Word<'a>, UsageError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let arg = self.argument()?;
        let program = match arg {
            b"--" => self.argument()?,
            [b'-', _, ..] => return Some(self.word(arg)),
            _ => arg,
        };
        self.is_done = true;
        Some(Ok(Word::Program(program)))
    }
}

/// The option that `arg` is, and the value it carries behind `=`.
fn find<'a>(arg: &'a [u8]) -> Result<(&'static OptionSpec, Option<&'a [u8]>), UsageError<'a>> {
    let equals = arg.iter().position(|&byte| byte == b'=');
    let (given, inline) = match equals {
        Some(equals) => (&arg[..equals], Some(&arg[equals + 1..])),
        None => (arg, None),
    };
    let found = OPTIONS.iter().find(|spec| spec.name.as_bytes() == given);
    let spec = found.ok_or_else(|| UsageError::UnknownOption {
        given,
        nearest: nearest(given, OPTIONS.iter().map(|spec| spec.name)),
    })?;
    Ok((spec, inline))
}
