//! The plain header that every file starts with, and the table of parts behind it.
//!
//! Both are fixed-width little-endian integers at fixed places, read without rkyv, so that a file of another version is
//! told apart and refused at the cost of 64 bytes. Magic and version keep their places in every version to come.

mod kinds;
mod parts;
pub mod rows;
#[cfg(feature = "alloc")]
mod write;

pub use kinds::{Kind, PartKind};
pub use parts::{PartRow, PartTable};
#[cfg(feature = "alloc")]
pub use write::{Writer, wrap};

use crate::checksum::checksum;
use crate::error::FormatError;
use crate::pages::Tree;

/// First eight bytes. The first is not ASCII and the last is a newline, as PNG has it, so that a transfer in text mode shows.
pub const MAGIC: [u8; 8] = *b"\x89elfuse\n";
/// The version this build writes, and the only one it reads.
pub const VERSION: u16 = 3;
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 64;
/// Length of a row of the part table in bytes.
pub const PART_ROW_LEN: usize = 32;
/// Parts start at multiples of this many bytes from the start of the file.
pub const PART_ALIGN: usize = 8;

/// The header, decoded. Byte offsets stand at the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// 10: see [`Kind`].
    pub kind: u16,
    /// 12: length of header and part table in bytes; the payload starts here.
    pub header_len: u32,
    /// 16: bytes from `header_len` to the end of the last part; in a file without parts, of the file.
    pub payload_len: u64,
    /// 24: [`checksum`] of the payload; in a file with parts, of the part table, whose rows hold the parts' checksums.
    pub payload_checksum: u64,
    /// 32: bits that depend on the kind.
    pub flags: u32,
    /// 36: rows of the part table.
    pub part_count: u16,
    /// 40: in keys, the `payload_checksum` of the loader cache they were made for; else 0.
    pub bound_to: u64,
    /// 48: in a file with parts, the checksum of the top of its [`Tree`]; else 0.
    pub top_checksum: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut le = [0; 2];
    le.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(le)
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut le = [0; 4];
    le.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(le)
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(le)
}

impl Header {
    /// Length of header, part table and parts (or payload) in bytes.
    #[must_use]
    pub fn body_len(&self) -> u64 {
        self.payload_len.saturating_add(self.header_len.into())
    }

    /// Where the pages of the file lie, and their checksums; `None`: it has no parts, and no checksums of pages.
    #[must_use]
    pub fn tree(&self) -> Option<Tree> {
        (self.part_count != 0).then(|| Tree::new(self.body_len()))
    }

    /// Length of the whole file in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.tree().map_or(self.body_len(), |tree| tree.file_len())
    }

    /// Reads and checks the first 64 bytes, in the order that gives the most useful error: magic, version, checksum.
    ///
    /// # Errors
    /// [`FormatError::TooShort`], [`FormatError::NotOurs`], [`FormatError::Version`], [`FormatError::Checksum`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(head) = bytes.get(..HEADER_LEN) else {
            return Err(FormatError::TooShort {
                expected: HEADER_LEN as u64,
                found: bytes.len() as u64,
            });
        };
        if head[..8] != MAGIC {
            let mut found = [0; 8];
            found.copy_from_slice(&head[..8]);
            return Err(FormatError::NotOurs { found });
        }
        let version = u16_at(head, 8);
        if version != VERSION {
            return Err(FormatError::Version {
                expected: VERSION,
                found: version,
            });
        }
        let (expected, found) = (u64_at(head, 56), checksum(&head[..56]));
        if expected != found {
            return Err(FormatError::Checksum {
                of: "header",
                expected,
                found,
            });
        }
        Ok(Self {
            kind: u16_at(head, 10),
            header_len: u32_at(head, 12),
            payload_len: u64_at(head, 16),
            payload_checksum: u64_at(head, 24),
            flags: u32_at(head, 32),
            part_count: u16_at(head, 36),
            bound_to: u64_at(head, 40),
            top_checksum: u64_at(head, 48),
        })
    }

    /// The 64 bytes of this header.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&self.kind.to_le_bytes());
        out[12..16].copy_from_slice(&self.header_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.payload_len.to_le_bytes());
        out[24..32].copy_from_slice(&self.payload_checksum.to_le_bytes());
        out[32..36].copy_from_slice(&self.flags.to_le_bytes());
        out[36..38].copy_from_slice(&self.part_count.to_le_bytes());
        out[40..48].copy_from_slice(&self.bound_to.to_le_bytes());
        out[48..56].copy_from_slice(&self.top_checksum.to_le_bytes());
        let sum = checksum(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// A file whose header, length and part table (or, without parts, whole payload) have been checked.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    bytes: &'a [u8],
    header: Header,
}

impl<'a> File<'a> {
    /// Checks that `bytes` are a whole file of `kind`.
    ///
    /// # Errors
    /// Every variant of [`FormatError`] but [`FormatError::Malformed`] and [`FormatError::TooLarge`].
    pub fn parse(bytes: &'a [u8], kind: Kind) -> Result<Self, FormatError> {
        let header = Header::parse(bytes)?;
        let table_len = PartTable::byte_len(&header, kind)?;
        let (expected, found) = (header.file_len(), bytes.len() as u64);
        if expected != found {
            return Err(FormatError::Length { expected, found });
        }
        let (of, covered) = if header.part_count == 0 {
            ("payload", &bytes[HEADER_LEN..])
        } else {
            ("part table", &bytes[HEADER_LEN..HEADER_LEN + table_len])
        };
        let found = checksum(covered);
        if found != header.payload_checksum {
            return Err(FormatError::Checksum {
                of,
                expected: header.payload_checksum,
                found,
            });
        }
        Ok(Self { bytes, header })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What is behind the header of a file without parts.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes
            .get(self.header.header_len as usize..)
            .unwrap_or_default()
    }

    fn table(&self) -> PartTable<'a> {
        let rows = self.bytes.get(HEADER_LEN..self.header.header_len as usize);
        PartTable {
            rows: rows.unwrap_or_default(),
        }
    }

    /// The rows of the part table, sorted by kind.
    pub fn parts(&self) -> impl Iterator<Item = PartRow> + use<'a> {
        self.table().rows()
    }

    fn row_of(&self, kind: PartKind) -> Result<PartRow, FormatError> {
        self.table().find(kind)
    }

    fn bytes_of(&self, row: PartRow) -> Result<&'a [u8], FormatError> {
        let end = row.offset.checked_add(row.len);
        end.and_then(|end| {
            self.bytes
                .get(usize::try_from(row.offset).ok()?..usize::try_from(end).ok()?)
        })
        .ok_or(FormatError::TooShort {
            expected: end.unwrap_or(u64::MAX),
            found: self.bytes.len() as u64,
        })
    }

    /// The bytes of a part, checked against the checksum in its row. The check is made anew at each call: keep the slice.
    ///
    /// # Errors
    /// [`FormatError::MissingPart`], [`FormatError::TooShort`], [`FormatError::Checksum`].
    pub fn part(&self, kind: PartKind) -> Result<&'a [u8], FormatError> {
        let row = self.row_of(kind)?;
        let bytes = self.bytes_of(row)?;
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

    /// The bytes of a part that is checked piece by piece elsewhere ([`PartKind::Blocks`]).
    ///
    /// # Errors
    /// [`FormatError::MissingPart`], [`FormatError::TooShort`].
    pub fn part_unchecked(&self, kind: PartKind) -> Result<&'a [u8], FormatError> {
        self.bytes_of(self.row_of(kind)?)
    }

    /// Rows of a table.
    ///
    /// # Errors
    /// As [`File::part`], and [`FormatError::Malformed`].
    pub fn rows<T: rows::Row>(&self, kind: PartKind) -> Result<&'a [T], FormatError> {
        rows::decode(self.part(kind)?, kind.name())
    }

    /// Reads all of it: every part and every page against its checksum, every byte between parts. The rows of [`PartKind::Blocks`] are left
    /// to [`crate::loader_cache::LoaderCache::check`]. For tools: a run checks what it touches.
    ///
    /// # Errors
    /// Those of [`File::part`] and [`Tree::check`]; [`FormatError::Malformed`] where parts are out of order or do not join, or a byte that means nothing
    /// is not zero.
    pub fn check(&self) -> Result<(), FormatError> {
        let zeros = |range: core::ops::Range<usize>| {
            let bytes = self.bytes.get(range).unwrap_or(&[1]);
            bytes.iter().all(|&byte| byte == 0)
        };
        let tree = self.header.tree();
        if !zeros(38..40) || (tree.is_none() && self.header.top_checksum != 0) {
            return Err(FormatError::Malformed { what: "header" });
        }
        let table = FormatError::Malformed { what: "part table" };
        let mut end = self.header.header_len as usize;
        let mut previous = None;
        for (number, row) in self.parts().enumerate() {
            let kind = PartKind::from_number(row.kind).ok_or(table)?;
            let bytes = match kind {
                PartKind::Blocks => self.bytes_of(row)?,
                _ => self.part(kind)?,
            };
            let start = end.next_multiple_of(PART_ALIGN);
            let at = HEADER_LEN + number * PART_ROW_LEN;
            let joins = row.offset == start as u64 && zeros(end..start) && zeros(at + 2..at + 8);
            if !joins || previous >= Some(row.kind) {
                return Err(table);
            }
            previous = Some(row.kind);
            end = start + bytes.len();
        }
        let Some(tree) = tree else {
            return Ok(());
        };
        let body_len = self.header.body_len();
        if end as u64 != body_len {
            return Err(table);
        }
        tree.check(self.bytes, self.header.top_checksum, body_len)
    }

    /// Whether there is such a part at all.
    #[must_use]
    pub fn has(&self, kind: PartKind) -> bool {
        self.row_of(kind).is_ok()
    }
}
