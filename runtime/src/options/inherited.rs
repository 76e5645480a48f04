//! What a run hands on when its guest executes another program: the runtime executes itself again, and finds all that the
//! command line once said, and what has been settled since, in one argument.
//!
//! ```text
//! elfuse-inherited/6 s19:/srv/sysroot/debian dfe01 i12d687 x- c0 w0 u1 m2 5:/proc= 8:/home/me14:/mnt/homes/bob h0 q1 z1 …
//! magic and version   then a letter a field, in a fixed order; numbers in hexadecimal, lengths of strings in decimal
//! ```
//!
//! Strings carry their length, so that nothing is escaped and [`Inherited::decode`] borrows them from the argument. There is
//! exactly one spelling of a value, and only that is read: whatever decodes, encodes to the same bytes.
//!
//! Anybody can start the runtime with such an argument, as they can with options: it grants nothing that they have not got. It
//! is still read as hostile bytes. Whether a descriptor or an inode is what it is said to be is for the host to tell.

mod mounts;
mod wire;

use core::fmt;

use super::{Coherence, Stats};
use crate::trace::TraceBits;
pub use mounts::{Mount, MountList};
use wire::{Reader, Writer};

/// The most mounts that are handed on: every `--bind`, and the default ones.
pub const MAX_MOUNTS: usize = super::MAX_BINDS + 8;

/// What the argument begins with; a change of the format changes the number.
const MAGIC: &[u8] = b"elfuse-inherited/6";

/// Everything that a runtime started by a guest's execve has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited<'a> {
    /// The sysroot, an absolute path of the host.
    pub sysroot: &'a [u8],
    /// `st_dev` of the sysroot.
    pub sysroot_dev: u64,
    /// `st_ino` of the sysroot.
    pub sysroot_ino: u64,
    /// A descriptor of the sysroot that stays open over exec, if the guest has not closed it.
    pub sysroot_fd: Option<i32>,
    /// `--index-dir`, made absolute.
    pub index_dir: Option<&'a [u8]>,
    /// When the index is believed.
    pub coherence: Coherence,
    /// Whether each answer of the index is compared with the walker's.
    pub shadow: bool,
    /// Whether patched copies are mapped where the index has them.
    pub patched: bool,
    /// All mounts, in the order in which they were made.
    pub mounts: MountList<'a>,
    /// Whether what the sysroot does not have is looked for on the host.
    pub host_fallback: bool,
    /// Whether CPUID is answered from a table.
    pub cpuid_table: bool,
    /// Whether programs that are kept resident go on from there.
    pub resident: bool,
    /// Whether memory that is going to be written to is populated.
    pub populate: bool,
    /// Whether counters are printed at the end, and how.
    pub stats: Stats,
    /// Where they go: a descriptor that was standard error when the run began; `None`: standard error as it is then.
    pub stats_fd: Option<i32>,
    /// A memory file that the processes of the run count in together.
    pub counters_fd: Option<i32>,
    /// What is traced.
    pub trace: TraceBits,
    /// Whether the filter of system calls is installed already; it stays over exec and is not stacked.
    pub filter_armed: bool,
    /// The descriptor of the executable, opened already.
    pub program_fd: i32,
    /// The descriptor of its interpreter, opened already, if it has one.
    pub interpreter_fd: Option<i32>,
    /// What `/proc/self/exe` shows: the guest's path of the executable, symlinks resolved.
    pub exe: &'a [u8],
    /// `AT_EXECFN`: the path as the guest gave it to execve, of any form.
    pub execfn: &'a [u8],
    /// The process that the run began with: the one that prints at the end. Above 0.
    pub top_level_pid: i32,
    /// The signals blocked before the filter's needs were taken out; signal N is bit N - 1.
    pub signal_mask: u64,
    /// The running kernel's boot id, if the process that executed this one has read it.
    pub boot_id: Option<BootId>,
}

/// A boot id: its first eight bytes and its last, each as a number with the first byte on top.
pub type BootId = [u64; 2];

/// The part of an [`Inherited`] that differs from one program to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executed<'a> {
    /// [`Inherited::sysroot_fd`].
    pub sysroot_fd: Option<i32>,
    /// [`Inherited::filter_armed`].
    pub filter_armed: bool,
    /// [`Inherited::populate`].
    pub populate: bool,
    /// [`Inherited::program_fd`].
    pub program_fd: i32,
    /// [`Inherited::interpreter_fd`].
    pub interpreter_fd: Option<i32>,
    /// [`Inherited::exe`].
    pub exe: &'a [u8],
    /// [`Inherited::execfn`].
    pub execfn: &'a [u8],
    /// [`Inherited::signal_mask`].
    pub signal_mask: u64,
    /// [`Inherited::boot_id`].
    pub boot_id: Option<BootId>,
}

/// An [`Inherited`] cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// The buffer is too small; so many bytes are needed.
    NoRoom {
        /// Bytes.
        needed: usize,
    },
    /// A value breaks a rule that its field documents, such as a path that has to be absolute; or it holds a NUL byte.
    Field(&'static str),
}

/// An argument is not what [`Inherited::encode`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// It begins with something else.
    Magic,
    /// This field is malformed, or missing.
    Field(&'static str),
    /// More follows the last field.
    TrailingBytes,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::NoRoom { needed } => {
                write!(
                    f,
                    "what a child inherits takes {needed} bytes, more than there is room for"
                )
            }
            EncodeError::Field(field) => {
                write!(f, "what a child inherits cannot hold this {field}")
            }
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Magic => write!(
                f,
                "an inherited argument begins with {}; this one is of another version of elfuse, or none",
                crate::text::Shown(MAGIC)
            ),
            DecodeError::Field(field) => write!(f, "inherited argument: malformed {field}"),
            DecodeError::TrailingBytes => {
                write!(f, "inherited argument: something follows the last field")
            }
        }
    }
}

impl core::error::Error for EncodeError {}
impl core::error::Error for DecodeError {}

impl<'a> Inherited<'a> {
    /// Whether an argument claims to be one of these, of any version. [`Inherited::decode`] says whether it is.
    #[must_use]
    pub fn is_claimed_by(argument: &[u8]) -> bool {
        argument.starts_with(b"elfuse-inherited/")
    }

    /// Writes it to the beginning of `into`, without a NUL byte and without one behind, and says how long it is.
    ///
    /// # Errors
    /// [`EncodeError`]; `into` then holds nothing of use.
    pub fn encode(&self, into: &mut [u8]) -> Result<usize, EncodeError> {
        self.encode_for(&self.program(), into)
    }

    /// As [`Inherited::encode`], for another program: its values take the place of those here, of which a copy would be too large for the
    /// stack of a signal handler.
    ///
    /// # Errors
    /// [`EncodeError`]; `into` then holds nothing of use.
    pub fn encode_for(
        &self,
        program: &Executed<'_>,
        into: &mut [u8],
    ) -> Result<usize, EncodeError> {
        self.check()
            .and_then(|()| program.check())
            .map_err(EncodeError::Field)?;
        let mut out = Writer::new(into);
        out.bytes(MAGIC);
        out.letter(b's').string(self.sysroot);
        out.letter(b'd').hex(self.sysroot_dev);
        out.letter(b'i').hex(self.sysroot_ino);
        out.letter(b'r');
        match program.sysroot_fd {
            Some(fd) => out.hex(fd.unsigned_abs().into()),
            None => out.bytes(b"-"),
        };
        out.letter(b'x');
        match self.index_dir {
            Some(dir) => out.string(dir),
            None => out.bytes(b"-"),
        };
        out.letter(b'c').hex(self.coherence as u64);
        out.letter(b'w').flag(self.shadow);
        out.letter(b'u').flag(self.patched);
        self.mounts.encode(out.letter(b'm'));
        out.letter(b'h').flag(self.host_fallback);
        out.letter(b'q').flag(self.cpuid_table);
        out.letter(b'z').flag(self.resident);
        out.letter(b'v').flag(program.populate);
        out.letter(b't').hex(self.stats as u64);
        out.letter(b'o');
        match self.stats_fd {
            Some(fd) => out.hex(fd.unsigned_abs().into()),
            None => out.bytes(b"-"),
        };
        out.letter(b'j');
        match self.counters_fd {
            Some(fd) => out.hex(fd.unsigned_abs().into()),
            None => out.bytes(b"-"),
        };
        out.letter(b'b').hex(self.trace.number().into());
        out.letter(b'f').flag(program.filter_armed);
        out.letter(b'p')
            .hex(program.program_fd.unsigned_abs().into());
        out.letter(b'g');
        match program.interpreter_fd {
            Some(fd) => out.hex(fd.unsigned_abs().into()),
            None => out.bytes(b"-"),
        };
        out.letter(b'e').string(program.exe);
        out.letter(b'n').string(program.execfn);
        out.letter(b'l')
            .hex(self.top_level_pid.unsigned_abs().into());
        out.letter(b'y');
        match program.boot_id {
            Some([first, last]) => out.hex(first).bytes(b":").hex(last),
            None => out.bytes(b"-"),
        };
        out.letter(b'k').hex(program.signal_mask);
        out.finish()
            .map_err(|needed| EncodeError::NoRoom { needed })
    }

    /// Reads it back; strings are slices of `argument`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(argument: &'a [u8]) -> Result<Self, DecodeError> {
        let rest = argument.strip_prefix(MAGIC).ok_or(DecodeError::Magic)?;
        let mut from = Reader::new(rest);
        let inherited = Self {
            sysroot: from.field(b's', "sysroot", Reader::string)?,
            sysroot_dev: from.field(b'd', "sysroot device", Reader::hex)?,
            sysroot_ino: from.field(b'i', "sysroot inode", Reader::hex)?,
            sysroot_fd: from.field(b'r', "sysroot's descriptor", |from| {
                from.unless_dash(Reader::positive)
            })?,
            index_dir: from.field(b'x', "index directory", |from| {
                from.unless_dash(Reader::string)
            })?,
            coherence: from.field(b'c', "coherence", |from| {
                Coherence::from_number(from.hex()?)
            })?,
            shadow: from.field(b'w', "shadow flag", Reader::flag)?,
            patched: from.field(b'u', "flag of patched copies", Reader::flag)?,
            mounts: from.field(b'm', "mounts", MountList::decode)?,
            host_fallback: from.field(b'h', "host fallback flag", Reader::flag)?,
            cpuid_table: from.field(b'q', "CPUID table flag", Reader::flag)?,
            resident: from.field(b'z', "flag of resident programs", Reader::flag)?,
            populate: from.field(b'v', "flag of populating", Reader::flag)?,
            stats: from.field(b't', "stats", |from| Stats::from_number(from.hex()?))?,
            stats_fd: from.field(b'o', "stats descriptor", |from| {
                from.unless_dash(Reader::positive)
            })?,
            counters_fd: from.field(b'j', "counters' descriptor", |from| {
                from.unless_dash(Reader::positive)
            })?,
            trace: from.field(b'b', "trace bits", |from| {
                TraceBits::from_number(from.hex()?)
            })?,
            filter_armed: from.field(b'f', "filter flag", Reader::flag)?,
            program_fd: from.field(b'p', "program descriptor", Reader::positive)?,
            interpreter_fd: from.field(b'g', "interpreter's descriptor", |from| {
                from.unless_dash(Reader::positive)
            })?,
            exe: from.field(b'e', "path of the executable", Reader::string)?,
            execfn: from.field(b'n', "execfn", Reader::string)?,
            top_level_pid: from.field(b'l', "top-level process", Reader::positive)?,
            boot_id: from.field(b'y', "boot id", |from| {
                from.unless_dash(|from| {
                    let first = from.hex()?;
                    from.exactly(b":")?;
                    Some([first, from.hex()?])
                })
            })?,
            signal_mask: from.field(b'k', "signal mask", Reader::hex)?,
        };
        if !from.is_at_end() {
            return Err(DecodeError::TrailingBytes);
        }
        inherited
            .check()
            .and_then(|()| inherited.program().check())
            .map_err(DecodeError::Field)?;
        Ok(inherited)
    }

    fn program(&self) -> Executed<'a> {
        Executed {
            sysroot_fd: self.sysroot_fd,
            filter_armed: self.filter_armed,
            populate: self.populate,
            program_fd: self.program_fd,
            interpreter_fd: self.interpreter_fd,
            exe: self.exe,
            execfn: self.execfn,
            signal_mask: self.signal_mask,
            boot_id: self.boot_id,
        }
    }

    /// The rules that the types do not state; names the field that breaks one.
    fn check(&self) -> Result<(), &'static str> {
        let rules = [
            (absolute(self.sysroot), "sysroot"),
            (self.index_dir.is_none_or(absolute), "index directory"),
            (
                !(self.shadow && self.coherence == Coherence::Off),
                "shadow flag",
            ),
            (self.stats_fd.is_none_or(|fd| fd >= 0), "stats descriptor"),
            (
                self.counters_fd.is_none_or(|fd| fd >= 0),
                "counters' descriptor",
            ),
            (self.top_level_pid > 0, "top-level process"),
        ];
        first_broken(&rules)
    }
}

impl Executed<'_> {
    /// As of [`Inherited`].
    fn check(&self) -> Result<(), &'static str> {
        first_broken(&[
            (
                self.sysroot_fd.is_none_or(|fd| fd >= 0),
                "sysroot's descriptor",
            ),
            (self.program_fd >= 0, "program descriptor"),
            (
                self.interpreter_fd.is_none_or(|fd| fd >= 0),
                "interpreter's descriptor",
            ),
            (absolute(self.exe), "path of the executable"),
            (!self.execfn.contains(&0), "execfn"),
        ])
    }
}

fn absolute(path: &[u8]) -> bool {
    path.starts_with(b"/") && !path.contains(&0)
}

/// Of rules, each with the field that it is about, the first that does not hold.
fn first_broken(rules: &[(bool, &'static str)]) -> Result<(), &'static str> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, field)) => Err(field),
        None => Ok(()),
    }
}
