//! Files without facts: text, data, what is broken or cannot be read. The index claims nothing of their content, but closures
//! are computed as if they were no ELF files. So each directory's keys hold one digest of their states, and the next build
//! looks at their first bytes again where it is another.

use std::io;
use std::os::fd::AsFd;

use elfuse_format::keys::{PlainState, Time, plain_digest};
use elfuse_format::sidecar::{Block, Kind};

use crate::inspect;
use crate::sys::{self, Identity};
use crate::tree::Elf;

/// The files without facts of one directory, in short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlainFiles {
    /// See [`plain_digest`]; 0 where a state is not known.
    pub digest: u64,
    /// The latest ctime among them.
    pub youngest: Time,
    /// Whether an earlier index says the same: nothing has to be written down.
    pub sealed: bool,
}

impl PlainFiles {
    /// Of a directory that is not covered.
    pub const UNKNOWN: Self = Self {
        digest: 0,
        youngest: Time { secs: 0, nanos: 0 },
        sealed: true,
    };

    /// Of files in name order; `None` stands for one that could not be read.
    #[must_use]
    pub fn of(files: impl IntoIterator<Item = Option<Identity>>, device: u64) -> Self {
        let mut youngest = Time::default();
        let mut known = true;
        let states = files.into_iter().map_while(|found| {
            // What is mounted over a file is not of this tree.
            let found = found.filter(|found| found.dev == device);
            known &= found.is_some();
            let found = found?;
            youngest = youngest.max(found.ctime);
            Some(PlainState {
                ino: found.ino,
                size: found.size,
                mtime: found.mtime,
                ctime: found.ctime,
            })
        });
        let digest = plain_digest(states);
        Self {
            digest: if known { digest } else { 0 },
            youngest,
            sealed: false,
        }
    }

    /// As they are now.
    #[must_use]
    pub fn now(dir: impl AsFd, block: &Block<'_>, device: u64) -> Self {
        let each = names(block).map(|(name, _)| {
            let found = sys::stat_at(&dir, name).ok()?;
            (found.kind == Kind::File).then_some(found.identity)
        });
        Self::of(each, device)
    }
}

/// Names of the files without facts, and whether each is known to be broken.
pub fn names<'a>(block: &Block<'a>) -> impl Iterator<Item = (&'a [u8], bool)> + use<'a> {
    let plain = block.entries().filter(|entry| {
        let is_elf = entry.elf_index().is_some();
        entry.kind() == Some(Kind::File) && !is_elf
    });
    plain.filter_map(|entry| Some((entry.name()?, entry.is_broken_elf())))
}

/// Whether the first bytes of all of them are still those of no ELF file, or of a broken one.
///
/// # Errors
/// What opening or reading one of them gives.
pub fn are_still_plain(dir: impl AsFd, block: &Block<'_>) -> io::Result<bool> {
    for (name, is_broken) in names(block) {
        let file = sys::open_file(&dir, name)?;
        let same = match inspect::inspect_without_hash(&file)? {
            Elf::Facts(_) => false,
            Elf::Broken(_) => is_broken,
            Elf::NotElf => !is_broken,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}
