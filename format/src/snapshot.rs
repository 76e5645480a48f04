//! `.elfuse/resident/*.snap`: a program as its dynamic linker leaves it, mapped and relocated, before its first constructor runs.
//!
//! A file with parts: tables that are checked when the file is opened, and behind them, at a multiple of a page, the pages that differ from
//! the files they were mapped from. Those are mapped, and not checked at a start, as a library is not.
//!
//! Addresses are those of the process that was captured. A region either *moves*, with all others that do, by one distance chosen at a start,
//! or lies where it was linked to. [`Snapshot::parse`] has compared every row with what it points into, so that who follows them
//! need not.

pub mod counts;

use rkyv::{Archive, Serialize};

use crate::checksum::checksum;
use crate::error::FormatError;
use crate::header::rows::{self, Row};
use crate::header::{Header, Kind, PartKind, PartTable};
use crate::keys::Time;
use crate::span::Span;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The end of what a process can address.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// Bytes of a page's bitmap: bit `n` of it says that word `n` of the page is the address of something that moves.
pub const SLIDE_LEN: usize = 64;
/// In [`Region::file`]: zeros.
pub const NO_FILE: u32 = u32::MAX;
/// The file that the program is; the others were found by lookups.
pub const PROGRAM: u32 = 0;
/// The most pages that are kept: 4 GiB.
pub const MAX_PAGES: u64 = 1 << 20;

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

/// What a fix-up is filled in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Value {
    /// The initial stack pointer, which is where argc lies.
    StackPointer = 1,
    /// argv.
    Arguments = 2,
    /// envp.
    Environment = 3,
    /// The auxiliary vector.
    Auxiliary = 4,
    /// AT_RANDOM: an address.
    Random = 5,
    /// AT_PLATFORM: an address.
    Platform = 6,
    /// AT_EXECFN: an address.
    ExecFn = 7,
    /// Address of the first argument.
    FirstArgument = 8,
    /// Address of the vDSO.
    Vdso = 9,
    /// The first eight random bytes, the lowest one zero: glibc's canary.
    Canary = 10,
    /// The second eight random bytes: glibc's pointer guard, musl's secret of malloc.
    Guard = 11,
    /// Where the heap starts.
    Break = 12,
    /// argc, four bytes.
    ArgumentCount = 13,
    /// The thread's number, four bytes.
    ThreadId = 14,
    /// The time stamp counter: when the dynamic linker began.
    Ticks = 15,
}

impl Value {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::StackPointer,
        Self::Arguments,
        Self::Environment,
        Self::Auxiliary,
        Self::Random,
        Self::Platform,
        Self::ExecFn,
        Self::FirstArgument,
        Self::Vdso,
        Self::Canary,
        Self::Guard,
        Self::Break,
        Self::ArgumentCount,
        Self::ThreadId,
        Self::Ticks,
    ];

    /// The value that a number stands for.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        let index = usize::from(number).checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Bytes that it takes.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::ArgumentCount | Self::ThreadId => 4,
            _ => 8,
        }
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StackPointer => "stack pointer",
            Self::Arguments => "argv",
            Self::Environment => "envp",
            Self::Auxiliary => "auxiliary vector",
            Self::Random => "AT_RANDOM",
            Self::Platform => "AT_PLATFORM",
            Self::ExecFn => "AT_EXECFN",
            Self::FirstArgument => "argv[0]",
            Self::Vdso => "vDSO",
            Self::Canary => "canary",
            Self::Guard => "pointer guard",
            Self::Break => "start of the heap",
            Self::ArgumentCount => "argc",
            Self::ThreadId => "thread id",
            Self::Ticks => "time stamp counter",
        }
    }
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

/// A snapshot whose tables have been checked.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    head: &'a ArchivedHead,
    /// See [`File`].
    pub files: &'a [ArchivedFile],
    /// See [`Lookup`].
    pub lookups: &'a [ArchivedLookup],
    /// See [`Region`]; ascending, and none lies in another.
    pub regions: &'a [ArchivedRegion],
    /// See [`Run`]; ascending.
    pub runs: &'a [ArchivedRun],
    /// See [`FixUp`]; ascending.
    pub fix_ups: &'a [ArchivedFixUp],
    /// See [`Word`].
    pub auxiliary: &'a [ArchivedWord],
    slides: &'a [[u8; SLIDE_LEN]],
    paths: &'a [u8],
    /// Offset of the pages in the file.
    pub pages_at: u64,
}

const MALFORMED: fn(&'static str) -> FormatError = |what| FormatError::Malformed { what };

/// How many bytes of a file there are in front of its pages: what [`Snapshot::parse`] takes. `start`: the header and the part table, at
/// least.
///
/// # Errors
/// Those of [`Header::parse`] and [`PartTable::parse`].
pub fn tables_len(start: &[u8], file_len: u64) -> Result<u64, FormatError> {
    let (header, table) = part_table(start, file_len)?;
    let pages = table.find(PartKind::SnapshotPages)?;
    if pages.offset > header.body_len() {
        return Err(MALFORMED("place of the pages"));
    }
    Ok(pages.offset)
}

fn part_table(start: &[u8], file_len: u64) -> Result<(Header, PartTable<'_>), FormatError> {
    let header = Header::parse(start)?;
    let len = PartTable::byte_len(&header, Kind::Snapshot)?;
    let expected = header.file_len();
    if expected != file_len {
        return Err(FormatError::Length {
            expected,
            found: file_len,
        });
    }
    let rows = start
        .get(crate::header::HEADER_LEN..)
        .and_then(|rows| rows.get(..len))
        .ok_or(FormatError::TooShort {
            expected: u64::from(header.header_len),
            found: start.len() as u64,
        })?;
    Ok((header, PartTable::parse(&header, rows)?))
}

/// A part among `tables`, checked.
fn part<'a>(
    tables: &'a [u8],
    table: &PartTable<'_>,
    kind: PartKind,
) -> Result<&'a [u8], FormatError> {
    let row = table.find(kind)?;
    let range = || {
        let start = usize::try_from(row.offset).ok()?;
        tables.get(start..start.checked_add(usize::try_from(row.len).ok()?)?)
    };
    let bytes = range().ok_or(FormatError::TooShort {
        expected: row.offset.saturating_add(row.len),
        found: tables.len() as u64,
    })?;
    let found = checksum(bytes);
    if found != row.checksum {
        return Err(FormatError::Checksum {
            of: kind.name(),
            expected: row.checksum,
            found,
        });
    }
    Ok(bytes)
}

impl<'a> Snapshot<'a> {
    /// Checks the tables: `tables` are the first bytes of a file of `file_len` bytes, as many as [`tables_len`] says.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(tables: &'a [u8], file_len: u64) -> Result<Self, FormatError> {
        let (header, table) = part_table(tables, file_len)?;
        let end = Some(header.body_len());
        fn rows_of<'a, T: Row>(
            tables: &'a [u8],
            table: &PartTable<'_>,
            kind: PartKind,
        ) -> Result<&'a [T], FormatError> {
            rows::decode(part(tables, table, kind)?, kind.name())
        }
        let heads: &[ArchivedHead] = rows_of(tables, &table, PartKind::SnapshotHead)?;
        let [head] = heads else {
            return Err(MALFORMED("snapshot head"));
        };
        let (slides, rest) = part(tables, &table, PartKind::SnapshotSlides)?.as_chunks();
        if !rest.is_empty() {
            return Err(MALFORMED("snapshot slides"));
        }
        let pages = table.find(PartKind::SnapshotPages)?;
        let pages_at = pages.offset.checked_next_multiple_of(PAGE);
        let pages_len = (slides.len() as u64) * PAGE;
        let pages_at = pages_at
            .filter(|at| at.checked_add(pages_len) == end)
            .filter(|_| pages.offset.checked_add(pages.len) == end)
            .ok_or(MALFORMED("place of the pages"))?;
        let snapshot = Self {
            head,
            files: rows_of(tables, &table, PartKind::SnapshotFiles)?,
            lookups: rows_of(tables, &table, PartKind::SnapshotLookups)?,
            regions: rows_of(tables, &table, PartKind::SnapshotRegions)?,
            runs: rows_of(tables, &table, PartKind::SnapshotRuns)?,
            fix_ups: rows_of(tables, &table, PartKind::SnapshotFixUps)?,
            auxiliary: rows_of(tables, &table, PartKind::SnapshotAuxiliary)?,
            slides,
            paths: part(tables, &table, PartKind::SnapshotPaths)?,
            pages_at,
        };
        snapshot.check()?;
        Ok(snapshot)
    }

    /// The head, in native integers.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head.to_native()
    }

    /// How many pages there are.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.slides.len()
    }

    /// Which words of page `page` move; of one that is not there, none.
    #[must_use]
    pub fn slide(&self, page: usize) -> [u8; SLIDE_LEN] {
        self.slides.get(page).copied().unwrap_or([0; SLIDE_LEN])
    }

    /// The program's path in the guest.
    #[must_use]
    pub fn exe(&self) -> &'a [u8] {
        self.head.exe.of(self.paths).unwrap_or_default()
    }

    /// The path of a lookup.
    #[must_use]
    pub fn path(&self, lookup: &ArchivedLookup) -> &'a [u8] {
        lookup.path.of(self.paths).unwrap_or_default()
    }

    /// Whether there is anything that moves.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.regions.iter().any(ArchivedRegion::moves)
    }

    fn check(&self) -> Result<(), FormatError> {
        let when = |is_good: bool, what: &'static str| {
            if is_good {
                Ok(())
            } else {
                Err(MALFORMED(what))
            }
        };
        let files = self.files.len() as u64;
        when(files > u64::from(PROGRAM), "snapshot files")?;
        when(self.head.exe.of(self.paths).is_some(), "snapshot head")?;
        for lookup in self.lookups {
            let path = lookup.path.of(self.paths);
            let is_path = path.is_some_and(|path| path.starts_with(b"/") && !path.contains(&0));
            let is_known = match lookup.outcome() {
                Some(Outcome::File(file)) => u64::from(file) < files,
                Some(Outcome::Error(errno)) => (1..4096).contains(&errno),
                Some(Outcome::Directory | Outcome::Other) => true,
                None => false,
            };
            when(is_path && is_known, "snapshot lookups")?;
        }
        let mut end = PAGE;
        for region in self.regions {
            let (start, len) = (region.start.to_native(), region.len.to_native());
            let file = region.file.to_native();
            let protection = region.protection.to_native();
            let is_good = start.is_multiple_of(PAGE)
                && len.is_multiple_of(PAGE)
                && len > 0
                && region.offset.to_native().is_multiple_of(PAGE)
                && start >= end
                && start
                    .checked_add(len)
                    .is_some_and(|region_end| region_end <= TASK_SIZE)
                && (file == NO_FILE || u64::from(file) < files)
                // What can be written and executed is captured from nobody.
                && protection < 8 && protection & 6 != 6
                && region.flags.to_native() <= region_flags::MOVES;
            when(is_good, "snapshot regions")?;
            end = start + len;
        }
        let (mut pages, mut previous) = (0_u64, (0, 0_u64));
        for run in self.runs {
            let number = run.region.to_native();
            let region = self.regions.get(number as usize);
            let (first, count) = (
                u64::from(run.first.to_native()),
                u64::from(run.pages.to_native()),
            );
            let fits = region.is_some_and(|region| {
                (first + count) * PAGE <= region.len.to_native() && !region.is_executable()
            });
            when(
                fits && count > 0 && (number, first) >= previous,
                "snapshot runs",
            )?;
            previous = (number, first + count);
            pages += count;
        }
        when(
            pages == self.slides.len() as u64 && pages <= MAX_PAGES,
            "snapshot runs",
        )?;
        let mut previous = (0, 0);
        for fix_up in self.fix_ups {
            let (page, at) = (fix_up.page.to_native(), fix_up.at.to_native());
            let width = fix_up.value().map_or(0, Value::width);
            let is_good = width != 0
                && u64::from(page) < pages
                && usize::from(at).is_multiple_of(width)
                && u64::from(at) < PAGE
                && (page, at) >= previous;
            when(is_good, "snapshot fix-ups")?;
            previous = (page, at + width as u16);
        }
        Ok(())
    }
}

impl ArchivedHead {
    fn to_native(self) -> Head {
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

#[cfg(feature = "alloc")]
mod write;
#[cfg(feature = "alloc")]
pub use write::Content;
