//! Writing a cache, byte for byte as `ldconfig` does from the same rows.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{
    ENDIAN_LITTLE, EXTENSION_HEADER_BYTES, EXTENSION_MAGIC, Flags, Hwcap, ISA_LEVEL_MASK,
    NEW_HEADER_BYTES, NEW_MAGIC, NEW_ROW_BYTES, SECTION_BYTES, SECTION_GENERATOR, SECTION_HWCAPS,
    compare_names,
};
use crate::FormatError;

/// What the processor must have for a row to be used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// Any processor will do.
    Any,
    /// Bits that glibc before 2.37 understands and later ones skip.
    Legacy(u64),
    /// What a subdirectory of `glibc-hwcaps` stands for.
    Named {
        /// Its name, like `x86-64-v3`.
        directory: Vec<u8>,
        /// x86: the highest bit of the ISA levels that the library says it needs; 0 elsewhere.
        isa_level: u16,
    },
}

impl Need {
    /// The name of the `glibc-hwcaps` subdirectory, if it is one.
    #[must_use]
    pub fn directory(&self) -> Option<&[u8]> {
        match self {
            Need::Named { directory, .. } => Some(directory),
            Need::Any | Need::Legacy(_) => None,
        }
    }

    fn legacy_bits(&self) -> u64 {
        match self {
            Need::Legacy(bits) => *bits,
            Need::Any | Need::Named { .. } => 0,
        }
    }
}

/// A row to be written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Row {
    /// The SONAME that is asked for.
    pub key: Vec<u8>,
    /// The absolute path that answers.
    pub value: Vec<u8>,
    /// What kind of library.
    pub flags: Flags,
    /// What the processor must have.
    pub need: Need,
    /// The oldest kernel that will do; `ldconfig` writes 0 since glibc 2.36.
    pub os_version: u32,
}

impl Row {
    /// The place of `self` relative to `other` in a file. Names descend, so do flags; among rows of one name and kind the
    /// `glibc-hwcaps` ones come first, by directory, then those that need more legacy capabilities.
    ///
    /// Not a total order: numbers in names wrap, see [`compare_names`].
    #[must_use]
    pub fn file_order(&self, other: &Row) -> Ordering {
        let need = |row: &Row| {
            let bits = row.need.legacy_bits();
            (bits.count_ones(), bits, row.os_version)
        };
        compare_names(&other.key, &self.key)
            .then_with(|| other.flags.cmp(&self.flags))
            .then_with(|| match (self.need.directory(), other.need.directory()) {
                (Some(left), Some(right)) => left.cmp(right),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            })
            .then_with(|| need(other).cmp(&need(self)))
    }
}

/// Puts rows into the order of a file. Rows that compare equal stay in the order given, which is how the directory that
/// `ldconfig` visits first wins.
#[must_use]
pub fn in_file_order(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
    let mut sorted: Vec<Row> = Vec::new();
    for row in rows {
        // Not `sort_by`: it may panic where the order is not total, and file names choose what is compared here.
        let at = sorted.partition_point(|earlier| earlier.file_order(&row).is_le());
        sorted.insert(at, row);
    }
    sorted
}

/// The bytes of a cache in the new layout that holds `rows`, in the order in which ld.so needs them. `generator` is what
/// `ldconfig -p` says wrote it. The same rows in the same order give the same bytes.
///
/// ```
/// use elfuse_format::ld_so_cache::{Flags, LdSoCache, Need, Row, Wanted, write};
/// let row = Row {
///     key: b"libz.so.1".to_vec(),
///     value: b"/lib/libz.so.1".to_vec(),
///     flags: Flags::X86_64,
///     need: Need::Any,
///     os_version: 0,
/// };
/// let bytes = write([row], b"an example")?;
/// let cache = LdSoCache::parse(&bytes)?;
/// let found = cache.lookup(b"libz.so.1", &Wanted::new(Flags::X86_64), &[b""; 0]);
/// assert_eq!(found.and_then(|entry| entry.value), Some(&b"/lib/libz.so.1"[..]));
/// # Ok::<(), elfuse_format::FormatError>(())
/// ```
///
/// # Errors
/// A name, path or directory with a NUL in it, an ISA level over 1023, more than 4 GiB.
pub fn write(
    rows: impl IntoIterator<Item = Row>,
    generator: &[u8],
) -> Result<Vec<u8>, FormatError> {
    let rows = in_file_order(rows);
    let directories: BTreeSet<&[u8]> = rows.iter().filter_map(|row| row.need.directory()).collect();

    let strings = Strings::new(
        rows.iter()
            .flat_map(|row| [row.key.as_slice(), &row.value])
            .chain(directories.iter().copied()),
    )?;
    let strings_start = NEW_HEADER_BYTES + rows.len() * NEW_ROW_BYTES;
    let extensions_start = (strings_start + strings.bytes.len()).next_multiple_of(4);
    let offset_of = |string: &[u8]| fits(strings_start + strings.offset_of(string));

    let mut out = Vec::with_capacity(extensions_start + 64 + generator.len());
    out.extend_from_slice(NEW_MAGIC);
    push(&mut out, fits(rows.len())?);
    push(&mut out, fits(strings.bytes.len())?);
    out.extend_from_slice(&[ENDIAN_LITTLE, 0, 0, 0]);
    push(&mut out, fits(extensions_start)?);
    out.resize(NEW_HEADER_BYTES, 0);

    for row in &rows {
        let hwcap = match &row.need {
            Need::Any => Hwcap::Any,
            Need::Legacy(bits) => Hwcap::Legacy(*bits),
            Need::Named { isa_level, .. } if u64::from(*isa_level) > ISA_LEVEL_MASK => {
                return Err(FormatError::TooLarge {
                    what: "an ISA level",
                });
            }
            Need::Named {
                directory,
                isa_level,
            } => Hwcap::Named {
                index: fits(directories.range(..directory.as_slice()).count())?,
                isa_level: *isa_level,
            },
        };
        push(&mut out, row.flags.0.cast_unsigned());
        push(&mut out, offset_of(&row.key)?);
        push(&mut out, offset_of(&row.value)?);
        push(&mut out, row.os_version);
        out.extend_from_slice(&hwcap.bits().to_le_bytes());
    }
    out.extend_from_slice(&strings.bytes);
    out.resize(extensions_start, 0);

    let section_count = if directories.is_empty() { 1 } else { 2 };
    let hwcaps_start = extensions_start + EXTENSION_HEADER_BYTES + section_count * SECTION_BYTES;
    let hwcaps_bytes = directories.len() * 4;
    push(&mut out, EXTENSION_MAGIC);
    push(&mut out, fits(section_count)?);
    let mut section = |tag: u32, start: usize, size: usize| {
        push(&mut out, tag);
        push(&mut out, 0);
        push(&mut out, fits(start)?);
        push(&mut out, fits(size)?);
        Ok(())
    };
    section(
        SECTION_GENERATOR,
        hwcaps_start + hwcaps_bytes,
        generator.len(),
    )?;
    if !directories.is_empty() {
        section(SECTION_HWCAPS, hwcaps_start, hwcaps_bytes)?;
    }
    for directory in &directories {
        push(&mut out, offset_of(directory)?);
    }
    out.extend_from_slice(generator);
    fits(out.len())?;
    Ok(out)
}

/// A table in which a string that is another one's end shares its bytes.
struct Strings<'a> {
    bytes: Vec<u8>,
    /// Sorted as [`Strings::order`] has it, with the offset of each.
    placed: Vec<(&'a [u8], usize)>,
}

impl<'a> Strings<'a> {
    fn new(strings: impl Iterator<Item = &'a [u8]>) -> Result<Self, FormatError> {
        let mut sorted: Vec<&[u8]> = strings.collect();
        if sorted.iter().any(|string| string.contains(&0)) {
            return Err(FormatError::Malformed {
                what: "name for ld.so.cache: it contains a NUL",
            });
        }
        sorted.sort_unstable_by(|left, right| Self::order(left, right));
        sorted.dedup();
        let mut table = Strings {
            bytes: Vec::new(),
            placed: Vec::with_capacity(sorted.len()),
        };
        for string in sorted {
            let offset = match table.placed.last() {
                Some((longer, offset)) if longer.ends_with(string) => {
                    offset + longer.len() - string.len()
                }
                _ => {
                    let offset = table.bytes.len();
                    table.bytes.extend_from_slice(string);
                    table.bytes.push(0);
                    offset
                }
            };
            table.placed.push((string, offset));
        }
        Ok(table)
    }

    /// Descending by the reversed strings, so that a string comes right after those it is the end of.
    fn order(left: &[u8], right: &[u8]) -> Ordering {
        right.iter().rev().cmp(left.iter().rev())
    }

    /// Where `string` lies; it was among the strings that the table was made of.
    fn offset_of(&self, string: &[u8]) -> usize {
        match self
            .placed
            .binary_search_by(|(placed, _)| Self::order(placed, string))
        {
            Ok(at) => self.placed[at].1,
            Err(_) => unreachable!("every string written was put into the table"),
        }
    }
}

fn push(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn fits(number: usize) -> Result<u32, FormatError> {
    u32::try_from(number).map_err(|_| FormatError::TooLarge {
        what: "an ld.so.cache of over 4 GiB",
    })
}
