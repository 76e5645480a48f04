//! Finding a name in a block, whether the reader has all of it or fetches the few bytes that it takes.

use core::cmp::Ordering;

use super::{ArchivedEntryRow, Block, Entry, Kind, MALFORMED, PROBES};
use crate::error::FormatError;
use crate::names;
use crate::span::ArchivedSpan;

/// What a name is looked up in: the tables of a block, row by row.
pub trait Names<'a> {
    /// Why a row cannot be had: what lies, and what else the reader knows.
    type Error: From<FormatError>;

    /// How many entries there are.
    fn entry_count(&self) -> usize;

    /// How many slots there are.
    fn slot_count(&self) -> usize;

    /// A slot.
    ///
    /// # Errors
    /// There is none of this number, or it cannot be had.
    fn slot(&self, number: usize) -> Result<u32, Self::Error>;

    /// An entry.
    ///
    /// # Errors
    /// There is none of this number, or it cannot be had.
    fn entry_row(&self, number: usize) -> Result<&'a ArchivedEntryRow, Self::Error>;

    /// A target.
    ///
    /// # Errors
    /// There is none of this number, or it cannot be had.
    fn target_row(&self, number: usize) -> Result<&'a ArchivedSpan, Self::Error>;

    /// Bytes of the strings.
    ///
    /// # Errors
    /// They end before, or they cannot be had.
    fn text(&self, start: usize, len: usize) -> Result<&'a [u8], Self::Error>;
}

/// An entry that was found.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Its number in the block.
    pub index: u32,
    /// Its row.
    pub row: &'a ArchivedEntryRow,
}

impl<'a> Found<'a> {
    /// What it is; `None` if the row lies.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_byte(self.row.kind)
    }

    /// Text of a symlink, out of the block that it was found in.
    ///
    /// # Errors
    /// Those of [`Names`]; [`FormatError::Malformed`] if it is no symlink.
    pub fn target<N: Names<'a>>(&self, names: &N) -> Result<&'a [u8], N::Error> {
        if self.kind() != Some(Kind::Symlink) {
            return Err(MALFORMED.into());
        }
        let span = names.target_row(self.row.extra.to_native() as usize)?;
        names.text(
            span.start.to_native() as usize,
            span.len.to_native() as usize,
        )
    }

    /// Of a directory: its rank among the directories of the block.
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        (self.kind() == Some(Kind::Directory)).then(|| self.row.extra.to_native())
    }
}

/// What the slots say of a name.
pub(super) enum Probed<'a> {
    Slot(Found<'a>),
    Absent,
    /// All slots within reach are taken by others.
    OutOfReach,
}

/// The entry called `name`; `None`: there is none.
///
/// # Errors
/// [`FormatError::Malformed`] where slots or names lie: then neither answer may be given. Those of [`Names`].
pub fn find<'a, N: Names<'a>>(names: &N, name: &[u8]) -> Result<Option<Found<'a>>, N::Error> {
    Ok(match probe(names, name)? {
        Probed::Slot(found) => Some(found),
        Probed::Absent => None,
        Probed::OutOfReach => search(names, name)?,
    })
}

#[inline(always)]
fn name_of<'a, N: Names<'a>>(names: &N, row: &ArchivedEntryRow) -> Result<&'a [u8], N::Error> {
    names.text(row.name_start.to_native() as usize, row.name_len.into())
}

#[inline]
pub(super) fn probe<'a, N: Names<'a>>(names: &N, name: &[u8]) -> Result<Probed<'a>, N::Error> {
    let slots = names.slot_count();
    if slots == 0 && names.entry_count() == 0 {
        return Ok(Probed::Absent);
    }
    if !slots.is_power_of_two() {
        return Err(MALFORMED.into());
    }
    let hash = names::hash(name);
    let (mask, tag) = (slots - 1, (hash >> 56) as u32);
    for i in 0..PROBES.min(slots) {
        let slot = names.slot((hash as usize).wrapping_add(i) & mask)?;
        if slot == 0 {
            return Ok(Probed::Absent);
        }
        if slot >> 24 == tag {
            let index = (slot & 0x00ff_ffff).checked_sub(1).ok_or(MALFORMED)?;
            let row = names.entry_row(index as usize)?;
            if name_of(names, row)? == name {
                return Ok(Probed::Slot(Found { index, row }));
            }
        }
    }
    // At least half of the slots are free in what our writer makes.
    if slots <= PROBES {
        return Err(MALFORMED.into());
    }
    Ok(Probed::OutOfReach)
}

/// By halving. Whoever may choose the names in a directory can make them crowd the same slots, so the slots alone would not
/// bound what finding one costs.
#[cold]
fn search<'a, N: Names<'a>>(names: &N, name: &[u8]) -> Result<Option<Found<'a>>, N::Error> {
    let (mut low, mut high) = (0, names.entry_count());
    while low < high {
        let middle = low.midpoint(high);
        let row = names.entry_row(middle)?;
        match name_of(names, row)?.cmp(name) {
            Ordering::Equal => {
                let index = u32::try_from(middle).map_err(|_| MALFORMED)?;
                return Ok(Some(Found { index, row }));
            }
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(None)
}

impl<'a> Names<'a> for Block<'a> {
    type Error = FormatError;

    #[inline]
    fn entry_count(&self) -> usize {
        self.archive.entries.len()
    }

    #[inline]
    fn slot_count(&self) -> usize {
        self.archive.slots.len()
    }

    #[inline]
    fn slot(&self, number: usize) -> Result<u32, FormatError> {
        let slot = self.archive.slots.get().get(number);
        Ok(slot.ok_or(MALFORMED)?.to_native())
    }

    #[inline]
    fn entry_row(&self, number: usize) -> Result<&'a ArchivedEntryRow, FormatError> {
        self.archive.entries.get().get(number).ok_or(MALFORMED)
    }

    #[inline]
    fn target_row(&self, number: usize) -> Result<&'a ArchivedSpan, FormatError> {
        self.archive.targets.get().get(number).ok_or(MALFORMED)
    }

    #[inline]
    fn text(&self, start: usize, len: usize) -> Result<&'a [u8], FormatError> {
        let end = start.checked_add(len).ok_or(MALFORMED)?;
        self.archive.strings.get().get(start..end).ok_or(MALFORMED)
    }
}

impl<'a> Block<'a> {
    /// The entry called `name`, `None` if the directory has none.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] where slots or names lie: then neither answer may be given.
    pub fn find(&self, name: &[u8]) -> Result<Option<Entry<'a>>, FormatError> {
        Ok(find(self, name)?.map(|found| Entry {
            block: *self,
            row: found.row,
            index: found.index,
        }))
    }
}

/// Where the tables that finding a name takes lie in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// Strings, of one byte each.
    pub strings: Table,
    /// Targets.
    pub targets: Table,
    /// Entries.
    pub entries: Table,
    /// Slots.
    pub slots: Table,
}

/// A table of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Where it starts in the block, in bytes.
    pub start: u32,
    /// How many rows it has.
    pub rows: u32,
}

/// Length in bytes of the end of a block that says where its tables are.
pub const TAIL_LEN: usize = 32;

impl Tables {
    /// The tables of a block of `block_len` bytes which ends with `tail`.
    ///
    /// # Errors
    /// [`FormatError::Malformed`]: they do not lie in the block, one after the other.
    pub fn parse(tail: &[u8; TAIL_LEN], block_len: u32) -> Result<Self, FormatError> {
        let references = block_len.checked_sub(TAIL_LEN as u32).ok_or(MALFORMED)?;
        let mut end = 0;
        let mut table = |number: u32, row_len: usize| {
            let (distance, rows) = {
                let (_, reference) = tail.split_at(number as usize * 8);
                let word = |at: usize| reference.get(at..at + 4)?.try_into().ok();
                let distance = word(0).map(i32::from_le_bytes);
                (distance, word(4).map(u32::from_le_bytes))
            };
            let (distance, rows) = distance.zip(rows).ok_or(MALFORMED)?;
            if rows == 0 {
                return Ok(Table { start: 0, rows });
            }
            let start = (references + 8 * number).checked_add_signed(distance);
            let start = start.filter(|start| *start >= end).ok_or(MALFORMED)?;
            let len = u32::try_from(row_len)
                .ok()
                .and_then(|len| len.checked_mul(rows));
            let last = len.and_then(|len| start.checked_add(len));
            end = last.filter(|last| *last <= references).ok_or(MALFORMED)?;
            Ok::<_, FormatError>(Table { start, rows })
        };
        Ok(Self {
            strings: table(0, 1)?,
            targets: table(1, size_of::<ArchivedSpan>())?,
            entries: table(2, size_of::<ArchivedEntryRow>())?,
            slots: table(3, 4)?,
        })
    }
}

impl Table {
    /// Where in the block the row of this number is, whose length in bytes is `row_len`; `None`: there is none.
    #[inline]
    #[must_use]
    pub fn row(&self, number: usize, row_len: usize) -> Option<u64> {
        let start = u64::from(self.start) + number as u64 * row_len as u64;
        (number < self.rows as usize).then_some(start)
    }
}
