//! The command line of `elfuse run`, and what a run hands on when a guest executes another program.
//!
//! Parsing does no work: it looks at no file, and nothing is copied. Options that may be repeated are counted and read again when they are
//! wanted, as there is no allocator to keep them in, and room for as many as there may be would be pages that each start touches. The help of
//! these options is written where there is an allocator to lay it out, in `elfuse-tools`; a test there compares the two lists of names.

mod error;
mod given;
pub mod inherited;
mod list;
mod spec;

use core::fmt;

pub use error::UsageError;
use error::nearest;
use given::{Given, OptionGiven, Word};
pub use inherited::{Executed, Inherited};
pub use list::{Full, List};
use spec::Opt;
pub use spec::{OPTIONS, OptionSpec, Takes};

use crate::trace::TraceBits;

/// How often `--bind` may be given.
pub const MAX_BINDS: usize = 64;
/// How often `--env` may be given.
pub const MAX_ENV_EDITS: usize = 256;

/// The directories of the host that a guest sees whatever its sysroot has there, but with `--no-default-binds`.
pub const DEFAULT_MOUNTS: [&[u8]; 4] = [b"/proc", b"/sys", b"/dev", b"/tmp"];

/// The environment variable that stands for `--sysroot`.
pub const SYSROOT_VARIABLE: &str = "ELFUSE_SYSROOT";
/// The environment variable that switches the index off, or has each of its answers checked.
pub const INDEX_VARIABLE: &str = "ELFUSE_INDEX";
/// The environment variable that switches patched copies of libraries off: each call of the guest's then traps.
pub const PATCHED_VARIABLE: &str = "ELFUSE_PATCHED";
/// The environment variable that asks for a trace of the start.
pub const TRACE_VARIABLE: &str = "ELFUSE_STARTUP_TRACE";

/// What a command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// `run`, without `--help`.
    Run(RunOptions<'a>),
    /// Whatever the std sibling answers: another verb, help, no verb at all.
    Other,
}

/// When an answer of the index may be given without asking the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Coherence {
    /// A directory is validated on first touch, and again when a lease of 2 ms has run out.
    #[default]
    Lease = 0,
    /// The tree does not change.
    Frozen = 1,
    /// Each definite answer is checked with the host.
    Strict = 2,
    /// No index is used.
    Off = 3,
}

impl Coherence {
    const ALL: [Coherence; 4] = [
        Coherence::Lease,
        Coherence::Frozen,
        Coherence::Strict,
        Coherence::Off,
    ];
    /// Values of `--coherence`, in the order of the variants.
    pub const NAMES: &'static [&'static str] = &["lease", "frozen", "strict", "off"];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The mode with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let number = usize::try_from(number).ok()?;
        Self::ALL.get(number).copied()
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        let at = Self::NAMES.iter().position(|one| one.as_bytes() == name)?;
        Some(Self::ALL[at])
    }
}

impl fmt::Display for Coherence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether counters are printed when the run ends, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Stats {
    /// Not printed.
    #[default]
    Off = 0,
    /// `--stats` or `--stats=text`: a table for people.
    Text = 1,
    /// `--stats=json`: one JSON document on one line.
    Json = 2,
}

impl Stats {
    /// Values of `--stats`.
    pub const NAMES: &'static [&'static str] = &["text", "json"];

    /// The form with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Stats::Off),
            1 => Some(Stats::Text),
            2 => Some(Stats::Json),
            _ => None,
        }
    }
}

/// `--bind HOST[:GUEST]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// A path of the host, as typed: relative to the caller's working directory if it does not begin with `/`.
    pub host: &'a [u8],
    /// Where the guest sees it, absolute; `None`: at the host's own path.
    pub guest: Option<&'a [u8]>,
}

impl<'a> Bind<'a> {
    /// Splits at the last `:` that a `/` follows, since a guest path begins with one: a host path may hold colons, as
    /// those of `/dev/disk/by-path` do.
    fn parse(value: &'a [u8]) -> Option<Self> {
        let colon = value.windows(2).rposition(|pair| pair == b":/");
        let (host, guest) = match colon {
            Some(colon) => (&value[..colon], Some(&value[colon + 1..])),
            None => (value, None),
        };
        (!host.is_empty()).then_some(Self { host, guest })
    }
}

/// What `elfuse run` was asked to do. All slices are those of the arguments and the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions<'a> {
    /// `--sysroot`, else `ELFUSE_SYSROOT`: the root of the guest, a path of the host.
    pub sysroot: &'a [u8],
    /// `--index-dir`: where the store is, if not in the sysroot or at its place in the user's cache.
    pub index_dir: Option<&'a [u8]>,
    /// `--coherence`; [`Coherence::Off`] also by `ELFUSE_INDEX=off`.
    pub coherence: Coherence,
    /// `ELFUSE_INDEX=shadow`: each answer of the index is compared with the live walker's. Never together with
    /// [`Coherence::Off`].
    pub shadow: bool,
    /// Whether patched copies are mapped where the index has them: not with `ELFUSE_PATCHED=off`.
    pub patched: bool,
    /// How many `--bind` there are: see [`binds`].
    pub bind_count: usize,
    /// Whether there are `/proc`, `/sys`, `/dev`, `/tmp`, home and working directory: not with `--no-default-binds`.
    pub default_binds: bool,
    /// `--host-fallback`: what the sysroot does not have is looked for on the host.
    pub host_fallback: bool,
    /// Whether ld.so's CPUID is answered from a table: not with `--no-cpuid-table`.
    pub cpuid_table: bool,
    /// Whether programs that are kept resident go on from there: not with `--no-resident`.
    pub resident: bool,
    /// Whether memory that is going to be written to is made the guest's own at once: not with `--no-populate`.
    pub populate: bool,
    /// `--workdir`: the guest's working directory, absolute.
    pub workdir: Option<&'a [u8]>,
    /// How many `--env` there are: see [`RunOptions::guest_environment`].
    pub edit_count: usize,
    /// `--clear-env`: the guest gets nothing of the caller's environment.
    pub clear_env: bool,
    /// `--stats`.
    pub stats: Stats,
    /// `ELFUSE_STARTUP_TRACE`.
    pub trace: TraceBits,
    /// The first word of `ELFUSE_STARTUP_TRACE` that means nothing. A warning, not an error: a trace decides nothing.
    pub unknown_trace_word: Option<&'a [u8]>,
    /// The program: a guest path if there is a `/` in it, else looked for in the guest's PATH.
    pub program: &'a [u8],
    /// Which of the arguments given to [`parse`] the program is; what follows it are the guest's own.
    pub program_at: usize,
}

impl<'a> RunOptions<'a> {
    fn new() -> Self {
        Self {
            sysroot: b"",
            index_dir: None,
            coherence: Coherence::default(),
            shadow: false,
            patched: true,
            bind_count: 0,
            default_binds: true,
            host_fallback: false,
            cpuid_table: true,
            resident: true,
            populate: true,
            workdir: None,
            edit_count: 0,
            clear_env: false,
            stats: Stats::default(),
            trace: TraceBits::NONE,
            unknown_trace_word: None,
            program: b"",
            program_at: 0,
        }
    }

    /// The guest's environment: the caller's `env` without what is edited (nothing of it with `--clear-env`), then the
    /// edits of the arguments that were parsed; of several for one name the last.
    pub fn guest_environment<'s>(
        &'s self,
        args: impl Iterator<Item = &'a [u8]> + Clone + 's,
        env: impl Iterator<Item = &'a [u8]> + Clone + 's,
    ) -> impl Iterator<Item = &'a [u8]> + Clone + 's
    where
        'a: 's,
    {
        let edits = values(args, Opt::Env).take(self.edit_count);
        let later_edits = edits.clone();
        let kept = env.filter(move |variable| {
            let by = |edit| variable_name(edit) == variable_name(variable);
            !self.clear_env && !later_edits.clone().any(by)
        });
        let all = edits.clone();
        let last = edits.enumerate().filter_map(move |(at, edit)| {
            let again = |later| variable_name(later) == variable_name(edit);
            let is_last = !all.clone().skip(at + 1).any(again);
            is_last.then_some(edit)
        });
        kept.chain(last)
    }
}

/// The `--bind` of arguments that were parsed, in order.
pub fn binds<'a>(
    args: impl Iterator<Item = &'a [u8]> + Clone,
) -> impl Iterator<Item = Bind<'a>> + Clone {
    values(args, Opt::Bind).filter_map(Bind::parse)
}

/// The values of one option of arguments that were parsed, in order.
fn values<'a>(
    args: impl Iterator<Item = &'a [u8]> + Clone,
    wanted: Opt,
) -> impl Iterator<Item = &'a [u8]> + Clone {
    let given = Given::new(args.skip(1)).map_while(Result::ok);
    given.filter_map(move |word| match word {
        Word::Option(given) if given.spec.opt == wanted => Some(given.value),
        _ => None,
    })
}

/// The name of a `NAME=VALUE`; glibc takes a `=` in front as part of the name, and so does this.
fn variable_name(variable: &[u8]) -> &[u8] {
    let end = variable.iter().skip(1).position(|&byte| byte == b'=');
    end.map_or(variable, |end| &variable[..=end])
}

/// The value of a variable, as getenv(3) has it.
fn variable<'a>(mut env: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    env.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

/// Reads a command line: `args` are those behind the program's own name, `env` the environment as `NAME=VALUE`.
///
/// Options end at the first argument that does not begin with `-`, or behind `--`. Of an option that is not meant to be
/// repeated the last one counts.
///
/// # Errors
/// [`UsageError`].
pub fn parse<'a>(
    mut args: impl Iterator<Item = &'a [u8]> + Clone,
    env: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<Command<'a>, UsageError<'a>> {
    if args.next() != Some(b"run") {
        return Ok(Command::Other);
    }
    let mut options = RunOptions::new();
    let mut given_sysroot = None;
    let mut given = Given::new(&mut args);
    let program = loop {
        let OptionGiven {
            spec,
            inline,
            value,
        } = match given.next().transpose()? {
            None => break None,
            Some(Word::Program(program)) => break Some(program),
            Some(Word::Option(option)) => option,
        };
        let count = |count: &mut usize, most| {
            *count += 1;
            let option = spec.name;
            (*count <= most)
                .then_some(())
                .ok_or(UsageError::TooMany { option, most })
        };
        match spec.opt {
            Opt::Help => return Ok(Command::Other),
            Opt::Sysroot => given_sysroot = Some(value),
            Opt::IndexDir => options.index_dir = Some(value),
            Opt::Coherence => {
                options.coherence = Coherence::from_name(value).ok_or(unknown(
                    spec.name,
                    value,
                    Coherence::NAMES,
                ))?;
            }
            Opt::Bind => {
                Bind::parse(value).ok_or(UsageError::EmptyValue {
                    option: spec.name,
                    value: "HOST[:GUEST], with a path of the host in front of the colon",
                })?;
                count(&mut options.bind_count, MAX_BINDS)?;
            }
            Opt::NoDefaultBinds => options.default_binds = false,
            Opt::HostFallback => options.host_fallback = true,
            Opt::NoCpuidTable => options.cpuid_table = false,
            Opt::NoResident => options.resident = false,
            Opt::NoPopulate => options.populate = false,
            Opt::Workdir => {
                if !value.starts_with(b"/") {
                    return Err(UsageError::NotAbsolute {
                        option: spec.name,
                        given: value,
                    });
                }
                options.workdir = Some(value);
            }
            Opt::Env => {
                if variable_name(value) == value || value.starts_with(b"=") {
                    return Err(UsageError::NotAnAssignment { given: value });
                }
                count(&mut options.edit_count, MAX_ENV_EDITS)?;
            }
            Opt::ClearEnv => options.clear_env = true,
            Opt::Stats => {
                options.stats = match (inline, value) {
                    (None, _) | (Some(_), b"text") => Stats::Text,
                    (Some(_), b"json") => Stats::Json,
                    (Some(_), other) => return Err(unknown(spec.name, other, Stats::NAMES)),
                }
            }
        }
    };
    let Some(program) = program else {
        return Err(UsageError::NoProgram);
    };
    options.program = program;
    options.program_at = given.at;

    let set = |name| variable(env.clone(), name).filter(|value: &&[u8]| !value.is_empty());
    options.sysroot = match given_sysroot.or_else(|| set(SYSROOT_VARIABLE)) {
        Some(sysroot) => sysroot,
        None => {
            let misplaced = |arg: &[u8]| arg == b"--sysroot" || arg.starts_with(b"--sysroot=");
            return Err(UsageError::NoSysroot {
                behind: args.any(misplaced).then_some(program),
            });
        }
    };
    match set(INDEX_VARIABLE) {
        None | Some(b"on") => {}
        Some(b"off") => options.coherence = Coherence::Off,
        // Without an index there is nothing to compare.
        Some(b"shadow") => options.shadow = options.coherence != Coherence::Off,
        Some(other) => return Err(unknown(INDEX_VARIABLE, other, &["on", "off", "shadow"])),
    }
    match set(PATCHED_VARIABLE) {
        None | Some(b"on") => {}
        Some(b"off") => options.patched = false,
        Some(other) => return Err(unknown(PATCHED_VARIABLE, other, &["on", "off"])),
    }
    if let Some(words) = set(TRACE_VARIABLE) {
        (options.trace, options.unknown_trace_word) = TraceBits::parse(words);
    }
    Ok(Command::Run(options))
}

fn unknown<'a>(
    of: &'static str,
    given: &'a [u8],
    expected: &'static [&'static str],
) -> UsageError<'a> {
    UsageError::UnknownValue {
        of,
        given,
        expected,
        nearest: nearest(given, expected.iter().copied()),
    }
}
