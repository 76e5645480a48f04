//! `.elfuse-sidecar-index`: what one directory holds. The same payload stands as a *block* in the loader cache, so that
//! both are read by [`Block`] and share one checksum.
//!
//! Names are sorted bytewise; a slot table finds one without searching. The bytes are a function of the directory's
//! content alone: no times, no inode numbers, no path.

mod check;
mod find;
#[cfg(feature = "alloc")]
mod write;

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use rkyv::rancor::Failure;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::elf_facts::{ArchivedElfRow, ElfRow, MAX_STRINGS};
use crate::error::FormatError;
use crate::header::{File, Kind as FileKind};
use crate::span::{ArchivedSpan, Span};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A socket, FIFO or device node.
    Other = 4,
}

impl Kind {
    /// The kind a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::File),
            2 => Some(Self::Directory),
            3 => Some(Self::Symlink),
            4 => Some(Self::Other),
            _ => None,
        }
    }
}

/// Bits of [`EntryRow::flags`].
pub mod entry_flags {
    /// A file with facts; [`super::EntryRow::extra`] is the number of its row.
    pub const ELF: u8 = 1 << 0;
    /// A file that starts as ELF and is malformed.
    pub const BROKEN_ELF: u8 = 1 << 1;
    /// The name on the host is another: see [`super::Sidecar::hosts`].
    pub const HOST_SPELLING: u8 = 1 << 2;
}

/// One name.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct EntryRow {
    /// Where the name starts in [`Sidecar::strings`].
    pub name_start: u32,
    /// Number of the ELF row, of the symlink's target, or, of a directory, its rank among the directories here. Else 0.
    pub extra: u32,
    /// Length of the name in bytes, 1 to 255.
    pub name_len: u8,
    /// See [`Kind`].
    pub kind: u8,
    /// See [`entry_flags`].
    pub flags: u8,
}

/// A name whose spelling on the host differs (case-folding volumes).
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct HostRow {
    /// Number of the entry.
    pub entry: u32,
    /// The spelling, in [`Sidecar::strings`].
    pub spelling: Span,
}

/// The payload as it is written: tables over one blob of strings. What it takes to find a name comes last, so that of a long block who
/// looks for one touches the end alone.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Sidecar<'a> {
    /// Facts, sorted by entry.
    #[rkyv(with = InlineAsBox)]
    pub elves: &'a [ElfRow],
    /// The lists that the ELF rows name.
    #[rkyv(with = InlineAsBox)]
    pub lists: &'a [Span],
    /// Sorted by entry.
    #[rkyv(with = InlineAsBox)]
    pub hosts: &'a [HostRow],
    /// Names in order, then every other string, each once.
    #[rkyv(with = InlineAsBox)]
    pub strings: &'a [u8],
    /// Symlink targets.
    #[rkyv(with = InlineAsBox)]
    pub targets: &'a [Span],
    /// Sorted by name.
    #[rkyv(with = InlineAsBox)]
    pub entries: &'a [EntryRow],
    /// Open-addressed table of [`slot_count`] slots, probed linearly from the low bits of [`crate::names::hash`], [`PROBES`] of them at
    /// most. A slot is 0 (free) or `tag << 24 | entry + 1`, the tag being the hash's top eight bits.
    #[rkyv(with = InlineAsBox)]
    pub slots: &'a [u32],
}

/// A checked view of a payload.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    archive: &'a ArchivedSidecar<'a>,
}

impl core::fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Block")
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

/// One name of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    block: Block<'a>,
    row: &'a ArchivedEntryRow,
    /// Its number in the block.
    pub index: u32,
}

/// Facts of one file of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub struct Elf<'a> {
    block: Block<'a>,
    /// The row.
    pub row: &'a ArchivedElfRow,
}

/// How many slots are looked at for one name before the sorted names are searched instead.
pub const PROBES: usize = 64;
/// The longest text of a symlink in bytes: what Linux takes, PATH_MAX with its NUL.
pub const MAX_TARGET: usize = 4096;
/// The longest spelling on the host in bytes: 255 UTF-16 units of APFS take 765.
pub const MAX_HOST_SPELLING: usize = 1024;

/// How many slots the table of `names` names has: the least power of two that is at least twice that; none for none.
#[must_use]
pub const fn slot_count(names: usize) -> usize {
    match names {
        0 => 0,
        names => (2 * names).next_power_of_two(),
    }
}

const MALFORMED: FormatError = FormatError::Malformed {
    what: "directory block",
};

/// The payload of a whole sidecar file.
///
/// # Errors
/// Those of [`File::parse`].
pub fn payload(file: &[u8]) -> Result<&[u8], FormatError> {
    let file = File::parse(file, FileKind::Sidecar)?;
    // With parts, the checksum of the header would be that of their table and not of the payload.
    if file.header().part_count != 0 {
        return Err(FormatError::Length {
            expected: crate::header::HEADER_LEN as u64,
            found: file.header().header_len.into(),
        });
    }
    Ok(file.payload())
}

impl<'a> Block<'a> {
    /// A view of a payload whose checksum was compared by the caller. Only the tables' bounds are checked here; rows are
    /// checked when they are touched, or all at once by [`Block::check`].
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, FormatError> {
        let archive = rkyv::api::low::access::<ArchivedSidecar<'a>, Failure>(payload)
            .map_err(|_| MALFORMED)?;
        Ok(Self { archive })
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.archive.entries.len()
    }

    /// Whether the directory is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many ELF files have facts here.
    #[must_use]
    pub fn elf_count(&self) -> usize {
        self.archive.elves.len()
    }

    /// Entry number `index` in name order.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Entry<'a>> {
        Some(Entry {
            block: *self,
            row: self.archive.entries.get().get(index)?,
            index: u32::try_from(index).ok()?,
        })
    }

    /// All entries in name order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let block = *self;
        (0..self.len()).filter_map(move |i| block.entry(i))
    }

    /// Facts row number `index`.
    #[must_use]
    pub fn elf(&self, index: usize) -> Option<Elf<'a>> {
        let row = self.archive.elves.get().get(index)?;
        Some(Elf { block: *self, row })
    }

    fn string(&self, span: &ArchivedSpan) -> Option<&'a [u8]> {
        span.of(self.archive.strings.get())
    }
}

impl<'a> Entry<'a> {
    /// The guest's name; `None` if the row lies.
    #[must_use]
    pub fn name(&self) -> Option<&'a [u8]> {
        let start = usize::try_from(self.row.name_start.to_native()).ok()?;
        let len = usize::from(self.row.name_len);
        self.block
            .archive
            .strings
            .get()
            .get(start..start.checked_add(len)?)
    }

    /// What it is; `None` if the row lies.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_byte(self.row.kind)
    }

    /// Text of a symlink.
    #[must_use]
    pub fn target(&self) -> Option<&'a [u8]> {
        let archive = self.block.archive;
        let is_link = self.kind() == Some(Kind::Symlink);
        let row = is_link.then(|| {
            archive
                .targets
                .get()
                .get(self.row.extra.to_native() as usize)
        })??;
        self.block.string(row)
    }

    /// Of a directory: its rank among the directories here. Child number `rank` of the directory's row in the loader cache.
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        (self.kind() == Some(Kind::Directory)).then(|| self.row.extra.to_native())
    }

    /// Number of the facts row of an ELF file.
    #[must_use]
    pub fn elf_index(&self) -> Option<u32> {
        let is_elf = self.kind() == Some(Kind::File) && self.row.flags & entry_flags::ELF != 0;
        is_elf.then(|| self.row.extra.to_native())
    }

    /// Facts of an ELF file.
    #[must_use]
    pub fn elf(&self) -> Option<Elf<'a>> {
        self.block.elf(self.elf_index()? as usize)
    }

    /// Whether it starts as ELF and is malformed.
    #[must_use]
    pub fn is_broken_elf(&self) -> bool {
        self.row.flags & entry_flags::BROKEN_ELF != 0
    }

    /// The name on the host where it differs.
    #[must_use]
    pub fn host_spelling(&self) -> Option<&'a [u8]> {
        if self.row.flags & entry_flags::HOST_SPELLING == 0 {
            return None;
        }
        let hosts = self.block.archive.hosts.get();
        let at = hosts.binary_search_by_key(&self.index, |row| row.entry.to_native());
        self.block.string(&hosts.get(at.ok()?)?.spelling)
    }
}

impl<'a> Elf<'a> {
    fn list(&self, span: &ArchivedSpan) -> Option<&'a [ArchivedSpan]> {
        span.of(self.block.archive.lists.get())
    }

    /// `PT_INTERP`.
    #[must_use]
    pub fn interpreter(&self) -> Option<&'a [u8]> {
        self.block.string(&self.row.interpreter)
    }

    /// `DT_SONAME`.
    #[must_use]
    pub fn soname(&self) -> Option<&'a [u8]> {
        self.block.string(&self.row.soname)
    }

    /// `DT_RPATH`, as it stands.
    #[must_use]
    pub fn rpath(&self) -> Option<&'a [u8]> {
        self.block.string(&self.row.rpath)
    }

    /// `DT_RUNPATH`, as it stands.
    #[must_use]
    pub fn runpath(&self) -> Option<&'a [u8]> {
        self.block.string(&self.row.runpath)
    }

    /// `DT_NEEDED` in order.
    pub fn needed(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let block = self.block;
        let list = self.list(&self.row.needed).unwrap_or_default();
        list.iter().filter_map(move |span| block.string(span))
    }

    /// What the strings of the row are counted as, `None` if one lies outside or they are over [`MAX_STRINGS`]. Spans may
    /// overlap: a short file could else stand for any amount of memory.
    fn strings_len(&self) -> Option<usize> {
        let row = self.row;
        let single = [
            &row.interpreter,
            &row.soname,
            &row.rpath,
            &row.runpath,
            &row.build_id,
        ];
        let single = single.into_iter().filter(|span| !span.is_absent());
        let lists = self
            .list(&row.needed)?
            .iter()
            .chain(self.list(&row.filters)?);
        let mut total = 0_usize;
        for span in single.chain(lists) {
            total = total.checked_add(self.block.string(span)?.len() + 1)?;
            if total > MAX_STRINGS {
                return None;
            }
        }
        Some(total)
    }

    /// The facts in memory of their own; `None` if the row lies.
    #[cfg(feature = "alloc")]
    #[must_use]
    pub fn to_facts(&self) -> Option<crate::elf_facts::ElfFacts> {
        let row = self.row;
        self.strings_len()?;
        let optional = |span: &ArchivedSpan| match span.is_absent() {
            true => Some(None),
            false => self.block.string(span).map(|s| Some(s.to_vec())),
        };
        let list = |span: &ArchivedSpan| {
            let strings = self
                .list(span)?
                .iter()
                .map(|s| Some(self.block.string(s)?.to_vec()));
            strings.collect::<Option<Vec<_>>>()
        };
        Some(crate::elf_facts::ElfFacts {
            size: row.size.to_native(),
            content_hash: row.content_hash,
            class: row.class,
            data: row.data,
            os_abi: row.os_abi,
            abi_version: row.abi_version,
            elf_type: row.elf_type.to_native(),
            machine: row.machine.to_native(),
            e_flags: row.e_flags.to_native(),
            flags: row.flags.to_native(),
            dt_flags_1: row.dt_flags_1.to_native(),
            x86_isa_needed: row.x86_isa_needed.to_native(),
            interpreter: optional(&row.interpreter)?,
            soname: optional(&row.soname)?,
            rpath: optional(&row.rpath)?,
            runpath: optional(&row.runpath)?,
            build_id: optional(&row.build_id)?,
            needed: list(&row.needed)?,
            filters: list(&row.filters)?,
        })
    }
}

pub use find::{Found, Names, TAIL_LEN, Table, Tables, find};
#[cfg(feature = "alloc")]
pub use write::{Content, NewEntry, encode};
