//! The same of a portable dump of Emacs, which Emacs maps and relocates by itself: data whose words are addresses in the dump or in the program.
//!
//! ```text
//!   | magic | fingerprint | tables | hot: relocated     | copied out | cold: left as it is | relocations ...
//!   0       16            48       |                    |            |                     |
//!                                  header               discardable  cold                  as the tables say
//! ```
//!
//! Up to `cold` it is mapped privately, to be written to, in two pieces. Each relocation is one word of 32 bits: the offset of what it writes
//! to in units of 4 bytes, and in the upper 5 bits what is written. There are three tables of them, for three times at which Emacs does so
//! ([pdumper.c] of Emacs 28 and later; with the one table of Emacs 27 a dump has no run).
//!
//! [pdumper.c]: https://git.savannah.gnu.org/cgit/emacs.git/tree/src/pdumper.c

use std::io;

use elfuse_format::text::{PAGE, RelocatedRun};

use super::{MAX_TABLE, best_run, each_row, read, run_at};
use crate::inspect::ReadAt;

/// What the name of a dump ends in.
pub const SUFFIX: &[u8] = b".pdmp";

const MAGIC: &[u8] = b"DUMPEDGNUEMACS\0\0";

/// Where the header's numbers begin, behind magic and fingerprint; each has 4 bytes.
const NUMBERS: usize = 48;

/// Tables of relocations: early, late, and very late ones.
const TABLES: usize = 3;
/// Behind them are two more tables, of which each has an offset and a number of rows.
const DISCARDABLE: usize = 2 * (TABLES + 2);
const COLD: usize = DISCARDABLE + 1;
const HEADER: u64 = (NUMBERS + 4 * (COLD + 1)) as u64;

/// Bytes of a row.
const ROW: usize = 4;
/// Bits of a row that are the offset.
const OFFSET: u32 = (1 << 27) - 1;
/// Bytes that it counts in.
const UNIT: u64 = 4;

fn u32_at(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_le_bytes)
}

/// What the header says, where it adds up.
struct Header {
    /// Offset and length in bytes of each table.
    tables: [(u64, u64); TABLES],
    /// Bytes that are mapped to be written to.
    hot: u64,
}

impl Header {
    /// `None`: it is no dump of `size` bytes.
    fn parse(head: &[u8], size: u64) -> Option<Self> {
        let numbers = head.get(NUMBERS..).filter(|_| head.starts_with(MAGIC))?;
        let number = |at: usize| u32_at(numbers.get(4 * at..)?).map(u64::from);
        let (discardable, hot) = (number(DISCARDABLE)?, number(COLD)?);
        if discardable > hot || !hot.is_multiple_of(PAGE) {
            return None;
        }
        let mut tables = [(0, 0); TABLES];
        // They follow one another behind what is mapped, in this order.
        let mut end = hot;
        for (at, table) in tables.iter_mut().enumerate() {
            let (offset, rows) = (number(2 * at)?, number(2 * at + 1)?);
            let len = ROW as u64 * rows;
            // A table relocates no word twice.
            if offset < end || len > MAX_TABLE.min(hot) {
                return None;
            }
            (*table, end) = ((offset, len), offset + len);
        }
        (end <= size).then_some(Self { tables, hot })
    }
}

/// The run of a dump of `size` bytes, if it is one and has one.
///
/// # Errors
/// What reading gives.
pub(crate) fn dumped(file: &impl ReadAt, size: u64) -> io::Result<Option<RelocatedRun>> {
    let Some(header) = Header::parse(&read(file, 0, HEADER)?, size) else {
        return Ok(None);
    };
    let mut written = vec![false; usize::try_from(header.hot / PAGE).unwrap_or(0)];
    for table in header.tables {
        each_row(file, table, ROW, |row| {
            let page = u32_at(row).map(|row| UNIT * u64::from(row & OFFSET) / PAGE);
            let page = page.and_then(|page| usize::try_from(page).ok());
            if let Some(page) = page.and_then(|page| written.get_mut(page)) {
                *page = true;
            }
        })?;
    }
    Ok(best_run(&written).and_then(|(start, len, _)| run_at(start as u64, len)))
}

/// The same of a dump that is in memory.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> Option<RelocatedRun> {
    // Reading memory cannot fail.
    dumped(&bytes, bytes.len() as u64).ok().flatten()
}

#[cfg(test)]
mod tests;
