//! The part table behind the header.

use super::{HEADER_LEN, Header, Kind, PART_ROW_LEN, PartKind, u16_at, u64_at};
use crate::checksum::checksum;
use crate::error::FormatError;

/// A row of the part table, decoded. Byte offsets within the row stand at the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRow {
    /// 0: see [`PartKind`].
    pub kind: u16,
    /// 8: offset from the start of the file in bytes.
    pub offset: u64,
    /// 16: length in bytes.
    pub len: u64,
    /// 24: [`checksum`] of the part; 0 for [`PartKind::Blocks`].
    pub checksum: u64,
}

/// A part table apart from the rest of its file, for who copies pieces out of a file that may change meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct PartTable<'a> {
    pub(super) rows: &'a [u8],
}

impl<'a> PartTable<'a> {
    /// Length in bytes of the table that `header` announces, for a file of `kind`.
    ///
    /// # Errors
    /// [`FormatError::Kind`]; [`FormatError::Length`] where header and table do not agree.
    pub fn byte_len(header: &Header, kind: Kind) -> Result<usize, FormatError> {
        if header.kind != kind as u16 {
            return Err(FormatError::Kind {
                expected: kind as u16,
                found: header.kind,
            });
        }
        let table_len = PART_ROW_LEN * usize::from(header.part_count);
        let expected = (HEADER_LEN + table_len) as u64;
        if u64::from(header.header_len) != expected {
            return Err(FormatError::Length {
                expected,
                found: u64::from(header.header_len),
            });
        }
        Ok(table_len)
    }

    /// The table in `rows`, which stood behind `header`.
    ///
    /// # Errors
    /// [`FormatError::Checksum`].
    pub fn parse(header: &Header, rows: &'a [u8]) -> Result<Self, FormatError> {
        let found = checksum(rows);
        if found != header.payload_checksum {
            return Err(FormatError::Checksum {
                of: "part table",
                expected: header.payload_checksum,
                found,
            });
        }
        Ok(Self { rows })
    }

    fn row(&self, number: usize) -> Option<PartRow> {
        let start = number.checked_mul(PART_ROW_LEN)?;
        let row = self.rows.get(start..start.checked_add(PART_ROW_LEN)?)?;
        Some(PartRow {
            kind: u16_at(row, 0),
            offset: u64_at(row, 8),
            len: u64_at(row, 16),
            checksum: u64_at(row, 24),
        })
    }

    /// The rows, sorted by kind.
    pub fn rows(&self) -> impl Iterator<Item = PartRow> + use<'a> {
        let table = *self;
        (0..self.rows.len() / PART_ROW_LEN).filter_map(move |number| table.row(number))
    }

    /// The row of a part.
    ///
    /// # Errors
    /// [`FormatError::MissingPart`].
    pub fn find(&self, kind: PartKind) -> Result<PartRow, FormatError> {
        let mut rows = self.rows();
        rows.find(|row| row.kind == kind as u16)
            .ok_or(FormatError::MissingPart { part: kind as u16 })
    }
}
