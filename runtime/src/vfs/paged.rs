//! The names of a long directory, looked up where they stand: of its block only the pages are touched that hold the slot, the entry, the name
//! and what a symlink says. What the block tells of ELF files is not looked at.

use elfuse_format::header::rows;
use elfuse_format::sidecar::{ArchivedEntryRow, Names, TAIL_LEN, Tables};
use elfuse_format::span::ArchivedSpan;

use super::mirror::{Mirror, Miss};
use super::verdict::Verdict;

const CORRUPT: Miss = Miss::Known(Verdict::Corrupt);

/// A block in a mirror.
#[derive(Clone, Copy)]
pub(super) struct Paged<'a> {
    mirror: &'a Mirror<'a>,
    /// Where the block starts in the file.
    offset: u64,
    tables: Tables,
}

impl core::fmt::Debug for Paged<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Paged")
            .field("offset", &self.offset)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl<'a> Paged<'a> {
    /// The block of `len` bytes at this offset.
    pub(super) fn open(mirror: &'a Mirror<'a>, offset: u64, len: u32) -> Result<Self, Miss> {
        let end = offset.checked_add(len.into()).ok_or(CORRUPT)?;
        let tail = end.checked_sub(TAIL_LEN as u64).ok_or(CORRUPT)?;
        let tail = mirror.bytes(tail, TAIL_LEN)?.try_into();
        let tables = Tables::parse(tail.map_err(|_| CORRUPT)?, len)?;
        Ok(Self {
            mirror,
            offset,
            tables,
        })
    }

    #[inline]
    fn bytes(&self, start: Option<u64>, len: usize) -> Result<&'a [u8], Miss> {
        self.mirror.bytes(self.offset + start.ok_or(CORRUPT)?, len)
    }

    #[inline]
    fn row<T: rows::Row>(&self, start: Option<u64>) -> Result<&'a T, Miss> {
        Ok(rows::one(self.bytes(start, size_of::<T>())?, "block")?)
    }
}

impl<'a> Names<'a> for Paged<'a> {
    type Error = Miss;

    #[inline]
    fn entry_count(&self) -> usize {
        self.tables.entries.rows as usize
    }

    #[inline]
    fn slot_count(&self) -> usize {
        self.tables.slots.rows as usize
    }

    #[inline]
    fn slot(&self, number: usize) -> Result<u32, Miss> {
        let slot = self.bytes(self.tables.slots.row(number, 4), 4)?;
        Ok(u32::from_le_bytes(slot.try_into().map_err(|_| CORRUPT)?))
    }

    #[inline]
    fn entry_row(&self, number: usize) -> Result<&'a ArchivedEntryRow, Miss> {
        self.row(
            self.tables
                .entries
                .row(number, size_of::<ArchivedEntryRow>()),
        )
    }

    #[inline]
    fn target_row(&self, number: usize) -> Result<&'a ArchivedSpan, Miss> {
        self.row(self.tables.targets.row(number, size_of::<ArchivedSpan>()))
    }

    #[inline]
    fn text(&self, start: usize, len: usize) -> Result<&'a [u8], Miss> {
        let strings = &self.tables.strings;
        let end = start.checked_add(len);
        let fits = end.is_some_and(|end| end <= strings.rows as usize);
        let at = u64::from(strings.start) + start as u64;
        self.bytes(fits.then_some(at), len)
    }
}
