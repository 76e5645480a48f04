//! `.elfuse/loader-cache`: the roll-up of all sidecars (a run maps one file, not one a directory), the table of SONAMEs and
//! the programs' closures. Portable: it names nothing of the host.
//!
//! Directories are numbered breadth-first, the children of one directory consecutively in name order. So a name's
//! [`Entry::rank`](crate::sidecar::Entry::rank) leads from a directory to its child without a path being stored.

#[cfg(feature = "alloc")]
mod check;
#[cfg(feature = "alloc")]
mod write;

use rkyv::rancor::Failure;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::checksum::checksum;
use crate::elf_facts::ContentHash;
use crate::error::FormatError;
use crate::header::{File, Kind, PartKind};
use crate::sidecar::Block;
use crate::span::{ArchivedSpan, Span};

/// No directory, entry or object.
pub const NONE: u32 = u32::MAX;

/// One directory.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct DirRow {
    /// Number of the parent; of the root, 0.
    pub parent: u32,
    /// Number of this directory's entry in its parent; of the root, [`NONE`].
    pub entry: u32,
    /// Number of the first child directory.
    pub first_child: u32,
    /// How many child directories there are.
    pub child_count: u32,
    /// How many ELF rows the directories before this one have: this one's first row among [`crate::keys::FileKey`]s.
    pub first_elf: u32,
    /// Length of the block in bytes; 0: the directory is not covered (unreadable, a mount point).
    pub block_len: u32,
    /// Where the block starts in [`PartKind::Blocks`].
    pub block_offset: u64,
    /// [`checksum`] of the block.
    pub block_checksum: u64,
}

/// A configuration file that the closures were computed from. One that was looked for and is absent needs no row: its
/// directory's block says so.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct InputRow {
    /// Guest path.
    pub path: Span,
    /// BLAKE3-256 of its content.
    pub content_hash: ContentHash,
}

/// Part [`PartKind::Inputs`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Paths.
    #[rkyv(with = InlineAsBox)]
    pub strings: &'a [u8],
    /// Sorted by path.
    #[rkyv(with = InlineAsBox)]
    pub files: &'a [InputRow],
}

/// One SONAME.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct SonameRow {
    /// The name: a `DT_SONAME`, or the file name of a library that states none.
    pub name: Span,
    /// Rows of [`Sonames::candidates`].
    pub candidates: Span,
}

/// A file that may satisfy a SONAME.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct CandidateRow {
    /// Directory.
    pub dir: u32,
    /// Entry in it.
    pub entry: u32,
    /// Place of its directory among the default search directories; [`NONE`]: found through RUNPATH or the like only.
    pub search_rank: u32,
    /// `e_machine`.
    pub machine: u16,
    /// `e_ident[EI_CLASS]`.
    pub class: u8,
}

/// Part [`PartKind::Sonames`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Sonames<'a> {
    /// Names.
    #[rkyv(with = InlineAsBox)]
    pub strings: &'a [u8],
    /// Sorted by name.
    #[rkyv(with = InlineAsBox)]
    pub names: &'a [SonameRow],
    /// By SONAME; within one in search order.
    #[rkyv(with = InlineAsBox)]
    pub candidates: &'a [CandidateRow],
}

/// Why an object was found where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Not found.
    NotFound = 0,
    /// The program itself.
    Program = 1,
    /// The interpreter itself.
    Interpreter = 2,
    /// The name holds a slash.
    Path = 3,
    /// `DT_RPATH`.
    Rpath = 4,
    /// `LD_LIBRARY_PATH`.
    LibraryPath = 5,
    /// `DT_RUNPATH`.
    Runpath = 6,
    /// `ld.so.cache`.
    Cache = 7,
    /// A default directory.
    Default = 8,
    /// musl's path file or default path.
    SystemPath = 9,
    /// `LD_PRELOAD` or `/etc/ld.so.preload`.
    Preload = 10,
}

impl Reason {
    /// Every reason, by number.
    const ALL: [Self; 11] = [
        Self::NotFound,
        Self::Program,
        Self::Interpreter,
        Self::Path,
        Self::Rpath,
        Self::LibraryPath,
        Self::Runpath,
        Self::Cache,
        Self::Default,
        Self::SystemPath,
        Self::Preload,
    ];

    /// The reason a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        if (byte as usize) < Self::ALL.len() {
            Some(Self::ALL[byte as usize])
        } else {
            None
        }
    }
}

/// Bits of [`ProgramRow::flags`].
pub mod program_flags {
    /// Some searched directory has `glibc-hwcaps`: on a better CPU other files may be chosen. The closure is the baseline's.
    pub const DEPENDS_ON_CPU: u32 = 1 << 0;
    /// Something needed was not found.
    pub const INCOMPLETE: u32 = 1 << 1;
    /// The loader would refuse a file with an error. No key vouches for that file: it may be mended in place.
    pub const FAILS: u32 = 1 << 2;
    /// An ELF file of another class or machine was passed over. Its facts decide too, and it is not among the objects.
    pub const PASSES_OVER: u32 = 1 << 3;
}

/// A program with an interpreter.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct ProgramRow {
    /// Directory.
    pub dir: u32,
    /// Entry in it.
    pub entry: u32,
    /// See [`program_flags`].
    pub flags: u32,
    /// Rows of [`Closures::objects`], in load order, the program itself not among them.
    pub objects: Span,
}

/// An object of a closure.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct ObjectRow {
    /// The name it was asked for by.
    pub name: Span,
    /// Directory it was found in, symlinks resolved; [`NONE`] if it was not found.
    pub dir: u32,
    /// Entry in it; [`NONE`] if it was not found.
    pub entry: u32,
    /// Which object asked: 0 is the program, n the closure's object n - 1.
    pub requester: u32,
    /// The search directory as the loader put it together; empty where there is none.
    pub search_dir: Span,
    /// See [`Reason`].
    pub reason: u8,
}

/// Part [`PartKind::Closures`].
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Closures<'a> {
    /// Names and search directories, each once.
    #[rkyv(with = InlineAsBox)]
    pub strings: &'a [u8],
    /// Sorted by (directory, entry).
    #[rkyv(with = InlineAsBox)]
    pub programs: &'a [ProgramRow],
    /// The programs' objects.
    #[rkyv(with = InlineAsBox)]
    pub objects: &'a [ObjectRow],
}

/// A loader cache whose header and part table are checked. Parts are checked when they are asked for.
#[derive(Debug, Clone, Copy)]
pub struct LoaderCache<'a> {
    file: File<'a>,
}

macro_rules! whole_part {
    ($name:ident, $archived:ident, $kind:ident, $doc:literal) => {
        #[doc = $doc]
        ///
        /// # Errors
        /// Those of [`File::part`]; [`FormatError::Malformed`].
        pub fn $name(&self) -> Result<&'a $archived<'a>, FormatError> {
            let bytes = self.file.part(PartKind::$kind)?;
            rkyv::api::low::access::<$archived<'a>, Failure>(bytes).map_err(|_| {
                FormatError::Malformed {
                    what: PartKind::$kind.name(),
                }
            })
        }
    };
}

impl<'a> LoaderCache<'a> {
    /// Checks header and part table.
    ///
    /// # Errors
    /// Those of [`File::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        Ok(Self {
            file: File::parse(bytes, Kind::LoaderCache)?,
        })
    }

    /// The file underneath.
    #[must_use]
    pub fn file(&self) -> &File<'a> {
        &self.file
    }

    /// What keys made for this file state as `bound_to`.
    #[must_use]
    pub fn binding(&self) -> u64 {
        self.file.header().payload_checksum
    }

    /// The directories. Their checksum is compared at each call: keep the slice.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn dirs(&self) -> Result<&'a [ArchivedDirRow], FormatError> {
        self.file.rows(PartKind::Dirs)
    }

    /// Row of directory `dir`, as [`LoaderCache::dirs`] has it.
    ///
    /// # Errors
    /// Those of [`File::rows`]; [`FormatError::Malformed`] if there is no such row.
    pub fn dir(&self, dir: u32) -> Result<&'a ArchivedDirRow, FormatError> {
        self.dirs()?
            .get(dir as usize)
            .ok_or(FormatError::Malformed {
                what: "directory rows",
            })
    }

    /// The block of a directory, checked against the checksum in its row; `None`: not covered.
    ///
    /// # Errors
    /// Those of [`File::part_unchecked`]; [`FormatError::Checksum`]; [`FormatError::Malformed`].
    pub fn block(&self, row: &ArchivedDirRow) -> Result<Option<Block<'a>>, FormatError> {
        self.block_bytes(row)?.map(Block::parse).transpose()
    }

    /// The bytes of a directory's block, checked against the checksum in its row; `None`: not covered.
    ///
    /// # Errors
    /// Those of [`File::part_unchecked`]; [`FormatError::Checksum`]; [`FormatError::Malformed`].
    pub fn block_bytes(&self, row: &ArchivedDirRow) -> Result<Option<&'a [u8]>, FormatError> {
        if row.block_len.to_native() == 0 {
            return Ok(None);
        }
        let blocks = self.file.part_unchecked(PartKind::Blocks)?;
        let start = row.block_offset.to_native();
        let end = start.saturating_add(u64::from(row.block_len.to_native()));
        let bytes = (usize::try_from(start).ok())
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| blocks.get(start..end))
            .ok_or(FormatError::Malformed {
                what: "directory rows",
            })?;
        let (expected, found) = (row.block_checksum.to_native(), checksum(bytes));
        if expected != found {
            return Err(FormatError::Checksum {
                of: "directory block",
                expected,
                found,
            });
        }
        Ok(Some(bytes))
    }

    whole_part!(inputs, ArchivedInputs, Inputs, "The inputs.");
    whole_part!(sonames, ArchivedSonames, Sonames, "The SONAME table.");
    whole_part!(closures, ArchivedClosures, Closures, "The closures.");
}

impl<'a> ArchivedInputs<'a> {
    /// Path and row of each input; rows that lie are left out.
    pub fn rows(&'a self) -> impl Iterator<Item = (&'a [u8], &'a ArchivedInputRow)> {
        let strings = self.strings.get();
        (self.files.get().iter()).filter_map(move |row| Some((row.path.of(strings)?, row)))
    }
}

impl<'a> ArchivedSonames<'a> {
    /// The candidates for `soname` in search order; empty if there are none.
    #[must_use]
    pub fn candidates(&'a self, soname: &[u8]) -> &'a [ArchivedCandidateRow] {
        let (names, strings) = (self.names.get(), self.strings.get());
        let name_of = |row: &ArchivedSonameRow| row.name.of(strings).unwrap_or_default();
        let at = names.binary_search_by(|row| name_of(row).cmp(soname));
        (at.ok().and_then(|at| names.get(at)))
            .and_then(|row| row.candidates.of(self.candidates.get()))
            .unwrap_or_default()
    }

    /// All names in order.
    pub fn rows(&'a self) -> impl Iterator<Item = (&'a [u8], &'a [ArchivedCandidateRow])> {
        let (strings, candidates) = (self.strings.get(), self.candidates.get());
        (self.names.get().iter())
            .filter_map(move |row| Some((row.name.of(strings)?, row.candidates.of(candidates)?)))
    }
}

impl<'a> ArchivedClosures<'a> {
    /// The program that is entry `entry` of directory `dir`, if it has a closure.
    #[must_use]
    pub fn program(&'a self, dir: u32, entry: u32) -> Option<&'a ArchivedProgramRow> {
        let programs = self.programs.get();
        let key = |row: &ArchivedProgramRow| (row.dir.to_native(), row.entry.to_native());
        let at = programs.binary_search_by_key(&(dir, entry), key).ok()?;
        programs.get(at)
    }

    /// The objects of a program in load order; empty if the row lies.
    #[must_use]
    pub fn objects(&'a self, program: &ArchivedProgramRow) -> &'a [ArchivedObjectRow] {
        program.objects.of(self.objects.get()).unwrap_or_default()
    }

    /// A string that an object's row names; empty if the row lies.
    #[must_use]
    pub fn string(&'a self, span: &ArchivedSpan) -> &'a [u8] {
        span.of(self.strings.get()).unwrap_or_default()
    }
}

#[cfg(feature = "alloc")]
pub use write::{Interner, LoaderCacheContent, NewDir, NewInput, NewObject, NewProgram, NewSoname};
