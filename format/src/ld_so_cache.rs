//! `ld.so.cache`, the loader cache of glibc, in glibc's own format: read and written.
//!
//! ```text
//! new layout                          compat layout                       old layout
//! +--------------------+ 0            +--------------------+ 0            +--------------------+ 0
//! | header, 48 bytes   |              | old header, 16     |              | old header, 16     |
//! +--------------------+ 48           | old rows, 12 each  |              | old rows, 12 each  |
//! | rows, 24 bytes each|              +--------------------+ aligned to 8 +--------------------+ <- strings
//! +--------------------+              | new header         | <- strings   | strings            |
//! | strings            |              | rows, strings      |    count     +--------------------+
//! +--------------------+ aligned to 4 | extensions         |    from here
//! | extension directory|              +--------------------+
//! | glibc-hwcaps names |              String offsets count from the start of the header of the layout they belong to;
//! | generator          |              those of the old rows from the end of the old rows. Offsets of and in the
//! +--------------------+              extension directory count from the start of the file.
//! ```
//!
//! The rows are sorted, descending by [`compare_names`], so that ld.so can halve its way to a name.

mod flags;
mod listing;
mod lookup;
mod order;
#[cfg(all(test, feature = "alloc"))]
mod tests;
#[cfg(feature = "alloc")]
mod write;

use core::fmt;

use crate::FormatError;
use listing::Listing;

pub use flags::Flags;
pub use lookup::{LegacyHwcaps, Wanted};
pub use order::compare_names;
#[cfg(feature = "alloc")]
pub use write::{Need, Row, in_file_order, write};

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const OLD_HEADER_BYTES: usize = 16;
const OLD_ROW_BYTES: usize = 12;
const NEW_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const NEW_HEADER_BYTES: usize = 48;
const NEW_ROW_BYTES: usize = 24;
/// What the new header is aligned to inside an old file.
const NEW_HEADER_ALIGNMENT: usize = 8;

const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const EXTENSION_HEADER_BYTES: usize = 8;
const SECTION_BYTES: usize = 16;
const SECTION_GENERATOR: u32 = 0;
const SECTION_HWCAPS: u32 = 1;

const ENDIAN_UNSET: u8 = 0;
const ENDIAN_LITTLE: u8 = 2;
const ENDIAN_MASK: u8 = 3;

const HWCAP_EXTENSION: u64 = 1 << 62;
const ISA_LEVEL_MASK: u64 = 0x3ff;

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Only the format of libc5 and the first glibc 2.
    Old,
    /// Only the format of glibc 2.2 and later: what `ldconfig` has written since glibc 2.32.
    New,
    /// Both: the new one hidden behind the rows of the old one.
    Compat,
}

/// What the processor must have for an entry to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hwcap {
    /// Any processor will do.
    Any,
    /// The bits of glibc before 2.37: a library in a directory like `haswell/avx512_1`.
    Legacy(u64),
    /// A library in a subdirectory of `glibc-hwcaps`.
    Named {
        /// Number of the subdirectory: see [`LdSoCache::hwcaps`].
        index: u32,
        /// x86: the highest bit of the ISA levels that the library says it needs; 0 elsewhere.
        isa_level: u16,
    },
}

impl Hwcap {
    fn of_bits(bits: u64) -> Hwcap {
        let high = bits >> 32;
        if bits == 0 {
            Hwcap::Any
        } else if high & !ISA_LEVEL_MASK == HWCAP_EXTENSION >> 32 {
            // The masks leave 32 and 10 bits.
            #[allow(clippy::cast_possible_truncation)]
            Hwcap::Named {
                index: bits as u32,
                isa_level: (high & ISA_LEVEL_MASK) as u16,
            }
        } else {
            Hwcap::Legacy(bits)
        }
    }

    /// The field as it is in the file.
    #[must_use]
    pub fn bits(self) -> u64 {
        match self {
            Hwcap::Any => 0,
            Hwcap::Legacy(bits) => bits,
            Hwcap::Named { index, isa_level } => {
                HWCAP_EXTENSION | (u64::from(isa_level) & ISA_LEVEL_MASK) << 32 | u64::from(index)
            }
        }
    }
}

/// One row of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What kind of library.
    pub flags: Flags,
    /// The SONAME asked for. `None` when its offset lies outside the file or the string is not terminated.
    pub key: Option<&'a [u8]>,
    /// The path that answers. `None` as for [`Entry::key`].
    pub value: Option<&'a [u8]>,
    /// The oldest kernel that will do, 0 for any. Not written, and not read, since glibc 2.36.
    pub os_version: u32,
    /// What the processor must have.
    pub hwcap: Hwcap,
}

/// A view of a cache file.
#[derive(Debug, Clone, Copy)]
pub struct LdSoCache<'a> {
    file: &'a [u8],
    layout: Layout,
    rows: &'a [u8],
    strings: &'a [u8],
    hwcaps: &'a [u8],
    generator: Option<&'a [u8]>,
    damaged_extensions: bool,
}

impl<'a> LdSoCache<'a> {
    /// Looks at the headers of `bytes`; rows and strings are looked at when they are asked for.
    ///
    /// Accepted is what ld.so accepts, with one exception: a compat file whose new rows reach beyond its end is refused
    /// (ld.so would read there).
    ///
    /// # Errors
    /// Not a cache, fewer bytes than the declared number of rows needs, or a cache of a big-endian machine.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        if bytes.starts_with(NEW_MAGIC) {
            return Self::parse_new(bytes, 0);
        }
        if !bytes.starts_with(OLD_MAGIC) {
            return Err(FormatError::Malformed {
                what: "ld.so.cache: it starts with neither magic number of glibc",
            });
        }
        let count = u32_at(bytes, 12).ok_or(too_short(bytes, OLD_HEADER_BYTES))?;
        let rows = rows(bytes, OLD_HEADER_BYTES, count, OLD_ROW_BYTES)?;
        let end = OLD_HEADER_BYTES + rows.len();
        let start = end.next_multiple_of(NEW_HEADER_ALIGNMENT);
        match bytes.get(start..) {
            Some(new) if new.len() >= NEW_HEADER_BYTES && new.starts_with(NEW_MAGIC) => {
                Self::parse_new(bytes, start)
            }
            _ => Ok(LdSoCache {
                file: bytes,
                layout: Layout::Old,
                rows,
                strings: bytes.get(end..).unwrap_or_default(),
                hwcaps: &[],
                generator: None,
                damaged_extensions: false,
            }),
        }
    }

    fn parse_new(file: &'a [u8], start: usize) -> Result<Self, FormatError> {
        let new = file.get(start..).unwrap_or_default();
        let (Some(count), Some(&endian), Some(extensions)) =
            (u32_at(new, 20), new.get(28), u32_at(new, 32))
        else {
            return Err(too_short(new, NEW_HEADER_BYTES));
        };
        if endian != ENDIAN_UNSET && endian & ENDIAN_MASK != ENDIAN_LITTLE {
            return Err(FormatError::Malformed {
                what: "ld.so.cache: not marked as little-endian",
            });
        }
        let mut cache = LdSoCache {
            file,
            layout: if start == 0 {
                Layout::New
            } else {
                Layout::Compat
            },
            rows: rows(new, NEW_HEADER_BYTES, count, NEW_ROW_BYTES)?,
            strings: new,
            hwcaps: &[],
            generator: None,
            damaged_extensions: false,
        };
        if extensions != 0 {
            match Extensions::parse(file, extensions) {
                Some(found) => {
                    cache.hwcaps = found.hwcaps;
                    cache.generator = found.generator;
                }
                None => cache.damaged_extensions = true,
            }
        }
        Ok(cache)
    }

    /// How the file is laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() / self.row_bytes()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Row `number`, counted from 0.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Entry<'a>> {
        let width = self.row_bytes();
        let start = number.checked_mul(width)?;
        let row = self.rows.get(start..start.checked_add(width)?)?;
        let (os_version, hwcap) = match self.layout {
            Layout::Old => (0, 0),
            Layout::New | Layout::Compat => (u32_at(row, 12)?, u64_at(row, 16)?),
        };
        Some(Entry {
            flags: Flags(u32_at(row, 0)?.cast_signed()),
            key: string(self.strings, u32_at(row, 4)?),
            value: string(self.strings, u32_at(row, 8)?),
            os_version,
            hwcap: Hwcap::of_bits(hwcap),
        })
    }

    /// The rows in file order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let cache = *self;
        (0..cache.len()).filter_map(move |number| cache.get(number))
    }

    /// Number of `glibc-hwcaps` subdirectories that the file names.
    #[must_use]
    pub fn hwcaps_len(&self) -> usize {
        self.hwcaps.len() / 4
    }

    /// Name of `glibc-hwcaps` subdirectory `index`. `None` when there is no such number or its string is not there.
    #[must_use]
    pub fn hwcaps_name(&self, index: u32) -> Option<&'a [u8]> {
        let at = usize::try_from(index).ok()?.checked_mul(4)?;
        // Offsets count from the start of the *file*. In a compat file of ours and of glibc that is not where the
        // strings start; glibc's own writer forgets that, and so its loader does not find these names there.
        string(self.file, u32_at(self.hwcaps, at)?)
    }

    /// Names of the `glibc-hwcaps` subdirectories, in file order.
    pub fn hwcaps(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let cache = *self;
        (0..)
            .take(cache.hwcaps_len())
            .map(move |index| cache.hwcaps_name(index))
    }

    /// What wrote the file, by its own account.
    #[must_use]
    pub fn generator(&self) -> Option<&'a [u8]> {
        self.generator
    }

    /// Whether there is an extension directory that contradicts itself. ld.so then uses no `glibc-hwcaps` entry, and
    /// `ldconfig -p` refuses the file.
    #[must_use]
    pub fn has_damaged_extensions(&self) -> bool {
        self.damaged_extensions
    }

    /// `entry` as a row to be written. `None` when one of its strings is not there.
    #[cfg(feature = "alloc")]
    #[must_use]
    pub fn to_row(&self, entry: Entry<'a>) -> Option<Row> {
        Some(Row {
            key: entry.key?.to_vec(),
            value: entry.value?.to_vec(),
            flags: entry.flags,
            need: match entry.hwcap {
                Hwcap::Any => Need::Any,
                Hwcap::Legacy(bits) => Need::Legacy(bits),
                Hwcap::Named { index, isa_level } => Need::Named {
                    directory: self.hwcaps_name(index)?.to_vec(),
                    isa_level,
                },
            },
            os_version: entry.os_version,
        })
    }

    /// One row as `ldconfig -p` prints it, without the tab before and the newline after.
    pub fn listing(&self, entry: Entry<'a>) -> impl fmt::Display + use<'a> {
        let directory = match entry.hwcap {
            Hwcap::Named { index, .. } => self.hwcaps_name(index),
            Hwcap::Any | Hwcap::Legacy(_) => None,
        };
        Listing { entry, directory }
    }

    fn row_bytes(&self) -> usize {
        match self.layout {
            Layout::Old => OLD_ROW_BYTES,
            Layout::New | Layout::Compat => NEW_ROW_BYTES,
        }
    }
}

/// The sections of the extension directory that we know.
struct Extensions<'a> {
    hwcaps: &'a [u8],
    generator: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    fn parse(file: &'a [u8], offset: u32) -> Option<Self> {
        let start = usize::try_from(offset).ok()?;
        let directory = file.get(start..)?;
        if !start.is_multiple_of(4) || u32_at(directory, 0)? != EXTENSION_MAGIC {
            return None;
        }
        let count = usize::try_from(u32_at(directory, 4)?).ok()?;
        let end = count
            .checked_mul(SECTION_BYTES)?
            .checked_add(EXTENSION_HEADER_BYTES)?;
        let sections = directory.get(EXTENSION_HEADER_BYTES..end)?;
        let mut found = Extensions {
            hwcaps: &[],
            generator: None,
        };
        for section in sections.chunks_exact(SECTION_BYTES) {
            let offset = usize::try_from(u32_at(section, 8)?).ok()?;
            let size = usize::try_from(u32_at(section, 12)?).ok()?;
            let data = file.get(offset..offset.checked_add(size)?)?;
            match u32_at(section, 0)? {
                SECTION_GENERATOR => found.generator = Some(data),
                // A misaligned section is as good as none. Of two with one tag the last counts.
                SECTION_HWCAPS if offset.is_multiple_of(4) && size.is_multiple_of(4) => {
                    found.hwcaps = data
                }
                SECTION_HWCAPS => found.hwcaps = &[],
                _ => {}
            }
        }
        Some(found)
    }
}

fn rows(bytes: &[u8], start: usize, count: u32, row_bytes: usize) -> Result<&[u8], FormatError> {
    // ld.so wants at least one byte beyond the header.
    if bytes.len() <= start {
        return Err(too_short(bytes, start + 1));
    }
    let expected = u64::from(count) * row_bytes as u64 + start as u64;
    usize::try_from(expected)
        .ok()
        .and_then(|end| bytes.get(start..end))
        .ok_or(FormatError::TooShort {
            expected,
            found: bytes.len() as u64,
        })
}

fn too_short(bytes: &[u8], expected: usize) -> FormatError {
    FormatError::TooShort {
        expected: expected as u64,
        found: bytes.len() as u64,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at.checked_add(8)?)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}

/// The NUL-terminated string at `offset`, without its NUL.
fn string(bytes: &[u8], offset: u32) -> Option<&[u8]> {
    let tail = bytes.get(usize::try_from(offset).ok()?..)?;
    tail.get(..tail.iter().position(|&byte| byte == 0)?)
}
