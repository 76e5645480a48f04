//! The plain header that every file starts with, and the table of parts behind it.
//!
//! Both are fixed-width little-endian integers at fixed places, read without rkyv, so that a file of another version is
//! told apart and refused at the cost of 64 bytes. Magic and version keep their places in every version to come.

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

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// `.elfuse-sidecar-index`.
    Sidecar = 1,
    /// `.elfuse/keys`.
    Keys = 2,
    /// `.elfuse/loader-cache`.
    LoaderCache = 3,
    /// `.elfuse/generation`. Reserved: written by the runtime.
    Generation = 4,
    /// `.elfuse/resident/*.snap`: [`crate::snapshot`], written by `elfuse resident`.
    Snapshot = 5,
    /// `.elfuse/cpuid`: [`crate::cpuid`], written by the runtime.
    Cpuid = 6,
    /// `.elfuse/resident/*.count`: [`crate::snapshot::counts`], written by the runtime.
    Counts = 7,
    /// `/dev/shm/elfuse-…-compared`: [`crate::compared`], written by the runtime.
    Compared = 8,
}

impl Kind {
    /// The kind that a number stands for.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Sidecar,
            2 => Self::Keys,
            3 => Self::LoaderCache,
            4 => Self::Generation,
            5 => Self::Snapshot,
            6 => Self::Cpuid,
            7 => Self::Counts,
            8 => Self::Compared,
            _ => return None,
        })
    }

    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Keys => "keys",
            Self::LoaderCache => "loader cache",
            Self::Generation => "generation",
            Self::Snapshot => "snapshot",
            Self::Cpuid => "CPUID table",
            Self::Counts => "resident program's counters",
            Self::Compared => "compared directories",
        }
    }
}

/// What a part of a file holds. The numbers are of all files together, so that a part is never taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PartKind {
    /// Keys: [`crate::keys::DeviceRow`].
    Devices = 1,
    /// Keys: [`crate::keys::DirKey`], a row a directory of the loader cache.
    DirKeys = 2,
    /// Keys: [`crate::keys::FileKey`], a row an ELF file with facts.
    FileKeys = 3,
    /// Keys: [`crate::keys::FileKey`], a row a configuration file that the closures depend on.
    InputKeys = 4,
    /// Keys: [`crate::attributes::AttributeRow`], a row an entry of the loader cache.
    Attributes = 6,
    /// Keys: a 64-bit digest a directory of the loader cache; see [`crate::keys::plain_digest`].
    PlainFiles = 7,
    /// Keys: [`crate::text::TextIdentity`], sorted by the identity's hash.
    TextIdentities = 8,
    /// Keys: [`crate::text::TextCopy`].
    TextCopies = 9,
    /// Keys: the number of a directory's first row of [`PartKind::Attributes`].
    AttributeStarts = 10,
    /// Keys: one row of [`crate::attributes::Terms`].
    AttributeTerms = 11,
    /// Keys: [`crate::text::RelocatedRun`], a row a text identity.
    RelocatedRuns = 12,
    /// Loader cache: [`crate::loader_cache::DirRow`].
    Dirs = 16,
    /// Loader cache: the sidecars' payloads. Not checksummed as a part: each row of [`PartKind::Dirs`] has its block's.
    Blocks = 17,
    /// Loader cache: [`crate::loader_cache::Inputs`].
    Inputs = 18,
    /// Loader cache: [`crate::loader_cache::Sonames`].
    Sonames = 19,
    /// Loader cache: [`crate::loader_cache::Closures`].
    Closures = 20,
    /// Loader cache, reserved: syscall sites of interpreters and libraries.
    Sites = 21,
    /// Snapshot: one row of [`crate::snapshot::Head`].
    SnapshotHead = 32,
    /// Snapshot: [`crate::snapshot::File`].
    SnapshotFiles = 33,
    /// Snapshot: [`crate::snapshot::Lookup`].
    SnapshotLookups = 34,
    /// Snapshot: [`crate::snapshot::Region`].
    SnapshotRegions = 35,
    /// Snapshot: [`crate::snapshot::Run`].
    SnapshotRuns = 36,
    /// Snapshot: [`crate::snapshot::FixUp`].
    SnapshotFixUps = 37,
    /// Snapshot: [`crate::snapshot::Word`].
    SnapshotAuxiliary = 38,
    /// Snapshot: a bitmap of 64 bytes a page.
    SnapshotSlides = 39,
    /// Snapshot: the bytes of its paths.
    SnapshotPaths = 40,
    /// Snapshot: its pages. The last part, so that what is in front of it can be read at once.
    SnapshotPages = 41,
}

impl PartKind {
    /// The kind that a number stands for.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Devices,
            2 => Self::DirKeys,
            3 => Self::FileKeys,
            4 => Self::InputKeys,
            6 => Self::Attributes,
            7 => Self::PlainFiles,
            8 => Self::TextIdentities,
            9 => Self::TextCopies,
            10 => Self::AttributeStarts,
            11 => Self::AttributeTerms,
            12 => Self::RelocatedRuns,
            16 => Self::Dirs,
            17 => Self::Blocks,
            18 => Self::Inputs,
            19 => Self::Sonames,
            20 => Self::Closures,
            21 => Self::Sites,
            32 => Self::SnapshotHead,
            33 => Self::SnapshotFiles,
            34 => Self::SnapshotLookups,
            35 => Self::SnapshotRegions,
            36 => Self::SnapshotRuns,
            37 => Self::SnapshotFixUps,
            38 => Self::SnapshotAuxiliary,
            39 => Self::SnapshotSlides,
            40 => Self::SnapshotPaths,
            41 => Self::SnapshotPages,
            _ => return None,
        })
    }

    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Devices => "device table",
            Self::DirKeys => "directory keys",
            Self::FileKeys => "file keys",
            Self::InputKeys => "input keys",
            Self::Attributes => "attributes",
            Self::PlainFiles => "states of plain files",
            Self::TextIdentities => "text identities",
            Self::TextCopies => "text copies",
            Self::AttributeStarts => "starts of attributes",
            Self::AttributeTerms => "terms of attributes",
            Self::RelocatedRuns => "relocated runs",
            Self::Dirs => "directory rows",
            Self::Blocks => "blocks",
            Self::Inputs => "inputs",
            Self::Sonames => "SONAME table",
            Self::Closures => "closures",
            Self::Sites => "syscall sites",
            Self::SnapshotHead => "snapshot head",
            Self::SnapshotFiles => "snapshot files",
            Self::SnapshotLookups => "snapshot lookups",
            Self::SnapshotRegions => "snapshot regions",
            Self::SnapshotRuns => "snapshot runs",
            Self::SnapshotFixUps => "snapshot fix-ups",
            Self::SnapshotAuxiliary => "snapshot auxiliary words",
            Self::SnapshotSlides => "snapshot slides",
            Self::SnapshotPaths => "snapshot paths",
            Self::SnapshotPages => "snapshot pages",
        }
    }
}

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
    rows: &'a [u8],
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

pub mod rows;
#[cfg(feature = "alloc")]
mod write;

#[cfg(feature = "alloc")]
pub use write::{Writer, wrap};
