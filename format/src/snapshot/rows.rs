//! The rows of its tables.

use rkyv::{Archive, Serialize};

use super::Value;
use crate::keys::Time;
use crate::span::Span;

/// What the snapshot says once.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Head {
    /// The boot that it was captured in.
    pub boot_id: [u8; 16],
    /// Checksum of the vDSO; 0 where there is none.
    pub vdso_checksum: u64,
    /// Length of the vDSO in bytes.
    pub vdso_len: u64,
    /// RLIMIT_STACK: soft, hard.
    pub stack_limits: [u64; 2],
    /// Where the program goes on.
    pub resume: u64,
    /// AT_ENTRY, and what `rax` holds there.
    pub entry: u64,
    /// AT_PHDR.
    pub phdr: u64,
    /// AT_PHNUM.
    pub phnum: u64,
    /// AT_BASE.
    pub base: u64,
    /// What arch_prctl(ARCH_SET_FS) was given.
    pub thread_pointer: u64,
    /// What set_tid_address(2) was given; 0: not called.
    pub clear_tid: u64,
    /// What set_robust_list(2) was given: address, length; 0: not called.
    pub robust_list: [u64; 2],
    /// What rseq(2) was given: address, length, signature; 0: not called.
    pub rseq: [u64; 3],
    /// End of the program's last segment, where the heap may start.
    pub heap: u64,
    /// Code and data as `/proc/self/stat` has them: start, end, start, end.
    pub extent: [u64; 4],
    /// The program's path in the guest.
    pub exe: Span,
    /// See [`head_flags`].
    pub flags: u32,
}

/// Bits of [`Head::flags`].
pub mod head_flags {
    /// The program itself moves: `entry`, `phdr`, `heap`, `extent` do.
    pub const PROGRAM_MOVES: u32 = 1 << 0;
    /// It is to be mapped where it was captured, although it could move.
    pub const FIXED: u32 = 1 << 1;
}

/// A file that is mapped, or was read: its identity.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct File {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
}

/// A path that was looked up, and what was there.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Lookup {
    /// The guest's path.
    pub path: Span,
    /// See [`Outcome`].
    pub outcome: u32,
    /// The number of the file, or the error.
    pub value: u32,
}

/// What a lookup came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This file was opened.
    File(u32),
    /// It failed, with this error number.
    Error(u32),
    /// It is a directory.
    Directory,
    /// It is there, and no directory.
    Other,
}

impl Outcome {
    /// As a row has it.
    #[must_use]
    pub const fn to_words(self) -> (u32, u32) {
        match self {
            Self::File(file) => (1, file),
            Self::Error(errno) => (2, errno),
            Self::Directory => (3, 0),
            Self::Other => (4, 0),
        }
    }
}

/// A mapping.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Bytes, whole pages.
    pub len: u64,
    /// Offset in the file.
    pub offset: u64,
    /// The number of the file, or [`NO_FILE`].
    pub file: u32,
    /// Bits as PROT of mmap(2).
    pub protection: u16,
    /// See [`region_flags`].
    pub flags: u16,
}

/// Bits of [`Region::flags`].
pub mod region_flags {
    /// It moves.
    pub const MOVES: u16 = 1 << 0;
}

/// Pages of one region, one after the other, that differ from the file. Their content are the next pages of the snapshot.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Run {
    /// The number of the region.
    pub region: u32,
    /// How many pages of the region come before.
    pub first: u32,
    /// How many there are.
    pub pages: u32,
}

/// A word that each process has for itself.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct FixUp {
    /// What is added to the value.
    pub addend: u64,
    /// Which of the snapshot's pages it is in.
    pub page: u32,
    /// Offset in the page.
    pub at: u16,
    /// See [`Value`].
    pub value: u16,
}

/// A word of the auxiliary vector that has to be the same.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Word {
    /// Its key.
    pub key: u64,
    /// Its value.
    pub value: u64,
}

impl ArchivedHead {
    pub(super) fn to_native(self) -> Head {
        let span = Span {
            start: self.exe.start.to_native(),
            len: self.exe.len.to_native(),
        };
        Head {
            boot_id: self.boot_id,
            vdso_checksum: self.vdso_checksum.to_native(),
            vdso_len: self.vdso_len.to_native(),
            stack_limits: self.stack_limits.map(|word| word.to_native()),
            resume: self.resume.to_native(),
            entry: self.entry.to_native(),
            phdr: self.phdr.to_native(),
            phnum: self.phnum.to_native(),
            base: self.base.to_native(),
            thread_pointer: self.thread_pointer.to_native(),
            clear_tid: self.clear_tid.to_native(),
            robust_list: self.robust_list.map(|word| word.to_native()),
            rseq: self.rseq.map(|word| word.to_native()),
            heap: self.heap.to_native(),
            extent: self.extent.map(|word| word.to_native()),
            exe: span,
            flags: self.flags.to_native(),
        }
    }
}

impl ArchivedFile {
    /// In native integers.
    #[must_use]
    pub fn to_native(&self) -> File {
        File {
            dev: self.dev.to_native(),
            ino: self.ino.to_native(),
            size: self.size.to_native(),
            mtime: self.mtime.to_native(),
            ctime: self.ctime.to_native(),
        }
    }
}

impl ArchivedLookup {
    /// What it came to; `None`: a number unknown here.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let value = self.value.to_native();
        Some(match self.outcome.to_native() {
            1 => Outcome::File(value),
            2 => Outcome::Error(value),
            3 => Outcome::Directory,
            4 => Outcome::Other,
            _ => return None,
        })
    }
}

impl ArchivedRegion {
    /// Whether it moves.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.flags.to_native() & region_flags::MOVES != 0
    }

    /// Whether code runs from it.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        self.protection.to_native() & 4 != 0
    }
}

impl ArchivedFixUp {
    /// What it is filled in with; `None`: a number unknown here.
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        Value::from_number(self.value.to_native())
    }
}
