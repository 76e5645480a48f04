//! `.elfuse/resident/*.snap`: a program as its dynamic linker leaves it, mapped and relocated, before its first constructor runs.
//!
//! A file with parts: tables that are checked when the file is opened, and behind them, at a multiple of a page, the pages that differ from
//! the files they were mapped from. Those are mapped, and not checked at a start, as a library is not.
//!
//! Addresses are those of the process that was captured. A region either *moves*, with all others that do, by one distance chosen at a start,
//! or lies where it was linked to. [`Snapshot::parse`] has compared every row with what it points into, so that who follows them
//! need not.

mod check;
pub mod counts;
mod rows;
mod value;
#[cfg(feature = "alloc")]
mod write;

use crate::checksum::checksum;
use crate::error::FormatError;
use crate::header::rows::{Row, decode};
use crate::header::{Header, Kind, PartKind, PartTable};

pub use rows::{
    ArchivedFile, ArchivedFixUp, ArchivedHead, ArchivedLookup, ArchivedRegion, ArchivedRun,
    ArchivedWord, File, FixUp, Head, Lookup, Outcome, Region, Run, Word, head_flags, region_flags,
};
pub use value::Value;
#[cfg(feature = "alloc")]
pub use write::Content;

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
            decode(part(tables, table, kind)?, kind.name())
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
}
