//! Patched copies of ELF files, `.elfuse/text/HASH`: which system calls they jump away for, how a copy is laid out behind the
//! bytes of its original, and the two parts of [`crate::keys`] without which none is believed.
//!
//! ```text
//!   copy:  | original, windows patched | padding | data   | code  |       a window:  jmp *[slot i]; int3 ...
//!          0                           len       annex    ...     end
//!                                                  |        |
//!   mapped where the original was asked for        L ...    L + data_len ... below BLOCKS_END
//! ```
//!
//! Data and code are linked for the low address L, which follows from the content hash. All else that a stub needs (where the
//! runtime is, where the file was mapped) are words of the data that the runtime fills in, so that the code is never written to.

use core::cmp::Ordering;

use rkyv::{Archive, Serialize};

use crate::elf_facts::ContentHash;
use crate::keys::{ArchivedTime, State, Time, identity_hash};

mod calls;

pub use calls::{
    CONTROL, Class, DESCRIPTORS, ENDING, GROWING, GUARDED, KNOWN_LEN, LAST_SILENT_COMMAND, READING,
    SERVED, SET_VERSION, class,
};

/// Directory of the store that holds the copies.
pub const TEXT_DIR: &str = "text";

/// Name of a copy: 64 lower hexadecimal digits.
#[must_use]
pub fn copy_name(hash: &ContentHash) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut name = [0; 64];
    for (pair, byte) in name.as_chunks_mut::<2>().0.iter_mut().zip(hash) {
        *pair = [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ];
    }
    name
}

/// Data, code and annex are whole pages of this size.
pub const PAGE: u64 = 4096;
/// The lowest address of a block.
pub const BLOCKS_START: u64 = 0x1000_0000;
/// Where all blocks end: a slot's address is a positive 32-bit displacement.
pub const BLOCKS_END: u64 = 0x4000_0000;
/// Blocks begin at multiples of this from [`BLOCKS_START`].
pub const BLOCK_STEP: u64 = 0x1_0000;

/// Where the block of the copy with this content hash begins.
#[must_use]
pub fn block_start(hash: &ContentHash) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    let steps = (BLOCKS_END - BLOCKS_START) / BLOCK_STEP;
    BLOCKS_START + BLOCK_STEP * (u64::from_le_bytes(first) % steps)
}

/// Numbers of the words at the start of a block's data. All are 0 in the file.
pub mod word {
    /// Address of the runtime's entry for system calls.
    pub const ENTRY: u64 = 0;
    /// Address of the byte that ends leases.
    pub const FLAG: u64 = 1;
    /// Address of the runtime's entry for CPUID.
    pub const CPUID: u64 = 2;
    /// What is added to an address of the file to get the one in memory.
    pub const BASE: u64 = 3;
    /// Address of a byte for each descriptor below [`super::KNOWN_LEN`]: not 0 where it is known to be a file of the sysroot.
    pub const KNOWN: u64 = 4;
    /// Slot 0; before it three words are reserved.
    pub const SLOTS: u64 = 8;
}

/// Bytes that the words of so many slots take.
#[must_use]
pub const fn words_len(slots: u32) -> u64 {
    8 * (word::SLOTS + 2 * slots as u64)
}

/// How data that was made for `slots` slots lies in a block, and the block in the file and in memory. Only [`Layout::new`] makes
/// one, so its numbers fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    block: u64,
    data_len: u64,
    code_len: u64,
    slots: u32,
    annex: u64,
}

impl Layout {
    /// `None` where the numbers do not fit together, or the block not between [`BLOCKS_START`] and [`BLOCKS_END`].
    #[must_use]
    pub fn new(block: u64, data_len: u64, code_len: u64, slots: u32, annex: u64) -> Option<Self> {
        let pages = |number: u64| number.is_multiple_of(PAGE);
        let in_pages = pages(block) && pages(data_len) && pages(code_len) && pages(annex);
        let end = block.checked_add(data_len)?.checked_add(code_len)?;
        let fits = block >= BLOCKS_START && end <= BLOCKS_END && words_len(slots) <= data_len;
        annex.checked_add(data_len)?.checked_add(code_len)?;
        (in_pages && fits && slots > 0 && code_len > 0).then_some(Self {
            block,
            data_len,
            code_len,
            slots,
            annex,
        })
    }

    /// Address of the data, and of the whole block.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.block
    }

    /// Length of the data in bytes.
    #[must_use]
    pub fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Address of the code.
    #[must_use]
    pub fn code(&self) -> u64 {
        self.block + self.data_len
    }

    /// Length of the code in bytes.
    #[must_use]
    pub fn code_len(&self) -> u64 {
        self.code_len
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Offset of the data in the copy.
    #[must_use]
    pub fn annex(&self) -> u64 {
        self.annex
    }

    /// Length of the whole copy in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.annex + self.data_len + self.code_len
    }

    /// Address of slot `index`.
    #[must_use]
    pub fn slot(&self, index: u32) -> u64 {
        self.block + 8 * (word::SLOTS + u64::from(index))
    }

    /// Address of the word that says where the file goes on behind window `index`.
    #[must_use]
    pub fn back(&self, index: u32) -> u64 {
        self.slot(index) + 8 * u64::from(self.slots)
    }

    /// Whether `data` is what a copy of this layout may hold: slots that lead into the code, ways back that lead into the one executable
    /// segment, all else zero. What it does not know of is whether the code is ours: that is for the checksum in the keys.
    #[must_use]
    pub fn accepts(&self, data: &[u8], segment: &Segment) -> bool {
        let (words, rest) = data.as_chunks::<8>();
        let slots = self.slots as usize;
        let Some((head, words)) = words.split_at_checked(word::SLOTS as usize) else {
            return false;
        };
        let (Some(jumps), Some(backs), Some(padding)) = (
            words.get(..slots),
            words.get(slots..2 * slots),
            words.get(2 * slots..),
        ) else {
            return false;
        };
        let code = self.code()..self.code() + self.code_len;
        let text = segment.vaddr..=segment.vaddr.saturating_add(segment.file_len);
        data.len() as u64 == self.data_len
            && rest.is_empty()
            && is_zero(head)
            && is_zero(padding)
            && jumps
                .iter()
                .all(|to| code.contains(&u64::from_le_bytes(*to)))
            && backs
                .iter()
                .all(|to| text.contains(&u64::from_le_bytes(*to)))
    }
}

/// Whether there is nothing but zeros. Most of a block's data is, and each start looks at it: so without a branch for each word.
fn is_zero(words: &[[u8; 8]]) -> bool {
    let ones = |ones, word: &[u8; 8]| ones | u64::from_ne_bytes(*word);
    words.iter().fold(0, ones) == 0
}

/// The one executable segment of a file that has a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// `p_offset`.
    pub offset: u64,
    /// `p_vaddr`.
    pub vaddr: u64,
    /// `p_filesz`.
    pub file_len: u64,
}

/// What may be mapped for a file, and whether what is mapped makes every call that matters through the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TextVerdict {
    /// Nothing that matters is in it: it is mapped as it is.
    Clean = 1,
    /// It has a copy in which every site that must be is patched.
    Complete = 2,
    /// It has a copy in which some are not.
    Partial = 3,
    /// It has sites and no copy.
    Unpatched = 4,
    /// It is no ELF file: there is a row for it because of the words in it that are relocated.
    Data = 5,
}

impl TextVerdict {
    /// The verdict that a byte stands for; one unknown here is none in the file's favour.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Clean,
            2 => Self::Complete,
            3 => Self::Partial,
            5 => Self::Data,
            _ => Self::Unpatched,
        }
    }
}

/// In [`TextIdentity::copy`]: none.
pub const NO_COPY: u32 = u32::MAX;

/// A sealed ELF file with executable code, or another file with a [`RelocatedRun`], as part 8 of the keys has it.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct TextIdentity {
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
    /// Number of the copy, or [`NO_COPY`].
    pub copy: u32,
    /// Row of the device table.
    pub device: u16,
    /// See [`TextVerdict`].
    pub verdict: u8,
}

/// Bits of [`TextCopy::flags`].
pub mod copy_flags {
    /// Some calls that should end leases do not.
    pub const ENDINGS_LEFT: u16 = 1 << 0;
    /// Has CPUID sites.
    pub const CPUID: u16 = 1 << 1;
}

/// A patched copy, as part 9 of the keys has it.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct TextCopy {
    /// Of the original; the copy's name.
    pub content_hash: ContentHash,
    /// Where data and code belong.
    pub block: u32,
    /// Bytes of data.
    pub data_len: u32,
    /// Bytes of code.
    pub code_len: u32,
    /// Slots.
    pub slots: u32,
    /// Where in the copy the data begins.
    pub annex: u64,
    /// `p_offset` of the executable segment.
    pub p_offset: u64,
    /// `p_vaddr` of it.
    pub p_vaddr: u64,
    /// `p_filesz` of it.
    pub p_filesz: u64,
    /// Checksum of data and code.
    pub checksum: u64,
    /// `st_ino` of the copy.
    pub ino: u64,
    /// `st_size` of the copy.
    pub size: u64,
    /// `st_mtim` of the copy.
    pub mtime: Time,
    /// `st_ctim` of the copy.
    pub ctime: Time,
    /// [`SET_VERSION`] when it was made.
    pub set_version: u32,
    /// Row of the device table for the copy.
    pub device: u16,
    /// See [`copy_flags`].
    pub flags: u16,
}

/// Pages of a file's data that are certain to be written to when it is relocated, as part 12 of the keys has it: a row for each
/// [`TextIdentity`], in their order.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct RelocatedRun {
    /// The first page of the file, in pages from its start.
    pub first: u32,
    /// How many; 0: there is no run that is worth anything.
    pub pages: u32,
}

impl RelocatedRun {
    /// The part of a mapping that is to be written to, as offset and length in bytes from the mapping's start. `offset` is where in the file
    /// the mapping of `len` bytes begins, a multiple of a page.
    #[must_use]
    pub fn within(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let start = u64::from(self.first) * PAGE;
        let end = start + u64::from(self.pages) * PAGE;
        let from = start.max(offset);
        let to = end.min(offset.checked_add(len)?.checked_next_multiple_of(PAGE)?);
        (from < to).then(|| (from - offset, to - from))
    }
}

impl ArchivedRelocatedRun {
    /// In native integers.
    #[must_use]
    pub fn to_native(&self) -> RelocatedRun {
        RelocatedRun {
            first: self.first.to_native(),
            pages: self.pages.to_native(),
        }
    }
}

/// Finds the row of an identity, and its number, among `count` rows that are sorted by hash, then inode, then device; `row` gives them by number. A few
/// rows close to each other are looked at, as hashes are spread evenly; of rows that are not sorted some may not be found.
///
/// # Errors
/// The first of `row`.
pub fn find_identity<'a, E>(
    count: u32,
    (device, ino): (u16, u64),
    mut row: impl FnMut(u32) -> Result<&'a ArchivedTextIdentity, E>,
) -> Result<Option<(u32, &'a ArchivedTextIdentity)>, E> {
    let wanted = order(device, ino);
    let (mut low, mut high) = (0, count);
    let guess = (u128::from(wanted.0) * u128::from(count)) >> 64;
    let (mut at, mut step) = (u32::try_from(guess).unwrap_or(0), 8_u32);
    while low < high {
        if !(low..high).contains(&at) {
            at = low.midpoint(high);
        }
        let found = row(at)?;
        match order(found.device.to_native(), found.ino.to_native()).cmp(&wanted) {
            Ordering::Equal => return Ok(Some((at, found))),
            Ordering::Less => {
                low = at + 1;
                at = at.saturating_add(step);
            }
            Ordering::Greater => {
                high = at;
                at = at.saturating_sub(step);
            }
        }
        // Out of bounds from some step on: by halving then.
        step = step.saturating_mul(2);
    }
    Ok(None)
}

/// What the rows are sorted by.
pub(crate) fn order(device: u16, ino: u64) -> (u64, u64, u16) {
    (identity_hash(device, ino), ino, device)
}

fn is_state(
    (ino, mtime, ctime): (u64, &ArchivedTime, &ArchivedTime),
    dev: Option<u64>,
    found: &State,
) -> bool {
    let state = dev.map(|dev| State {
        dev,
        ino,
        mtime: mtime.to_native(),
        ctime: ctime.to_native(),
    });
    state == Some(*found)
}

impl ArchivedTextIdentity {
    /// Whether the row was made from the state `found` of a file of `size` bytes. `dev` is what the device table has for its device;
    /// `None` never holds.
    #[must_use]
    pub fn holds(&self, dev: Option<u64>, found: &State, size: u64) -> bool {
        let own = (self.ino.to_native(), &self.mtime, &self.ctime);
        self.size.to_native() == size && is_state(own, dev, found)
    }

    /// What may be mapped.
    #[must_use]
    pub fn verdict(&self) -> TextVerdict {
        TextVerdict::from_byte(self.verdict)
    }

    /// Number of the copy, where the verdict says that there is one.
    #[must_use]
    pub fn copy(&self) -> Option<u32> {
        let has_one = matches!(self.verdict(), TextVerdict::Complete | TextVerdict::Partial);
        Some(self.copy.to_native()).filter(|copy| has_one && *copy != NO_COPY)
    }
}

impl ArchivedTextCopy {
    /// In native integers.
    #[must_use]
    pub fn to_native(&self) -> TextCopy {
        TextCopy {
            content_hash: self.content_hash,
            block: self.block.to_native(),
            data_len: self.data_len.to_native(),
            code_len: self.code_len.to_native(),
            slots: self.slots.to_native(),
            annex: self.annex.to_native(),
            p_offset: self.p_offset.to_native(),
            p_vaddr: self.p_vaddr.to_native(),
            p_filesz: self.p_filesz.to_native(),
            checksum: self.checksum.to_native(),
            ino: self.ino.to_native(),
            size: self.size.to_native(),
            mtime: self.mtime.to_native(),
            ctime: self.ctime.to_native(),
            set_version: self.set_version.to_native(),
            device: self.device.to_native(),
            flags: self.flags.to_native(),
        }
    }

    /// Whether the row was made from the state `found` of a copy of `size` bytes, for the runtime that asks.
    #[must_use]
    pub fn holds(&self, dev: Option<u64>, found: &State, size: u64) -> bool {
        let own = (self.ino.to_native(), &self.mtime, &self.ctime);
        self.set_version.to_native() == SET_VERSION
            && self.size.to_native() == size
            && is_state(own, dev, found)
    }

    /// Where its pieces are; `None` if the row contradicts itself or its own file's size.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        let layout = Layout::new(
            self.block.to_native().into(),
            self.data_len.to_native().into(),
            self.code_len.to_native().into(),
            self.slots.to_native(),
            self.annex.to_native(),
        )?;
        let is_own = block_start(&self.content_hash) == layout.data();
        (is_own && layout.file_len() == self.size.to_native()).then_some(layout)
    }

    /// The executable segment; `None` if it cannot be mapped or does not lie in front of the annex.
    #[must_use]
    pub fn segment(&self) -> Option<Segment> {
        let segment = Segment {
            offset: self.p_offset.to_native(),
            vaddr: self.p_vaddr.to_native(),
            file_len: self.p_filesz.to_native(),
        };
        let congruent = segment.offset % PAGE == segment.vaddr % PAGE;
        let inside = segment.offset.checked_add(segment.file_len)? <= self.annex.to_native();
        segment.vaddr.checked_add(segment.file_len)?;
        (congruent && inside && segment.file_len > 0).then_some(segment)
    }
}

#[cfg(feature = "alloc")]
pub(crate) use write::sorted_identities;

#[cfg(feature = "alloc")]
mod write {
    use alloc::vec::Vec;

    use super::{RelocatedRun, TextIdentity, order};

    /// The rows of parts 8 and 12. Of two rows with one identity (hard links, bind mounts) one is kept.
    #[must_use]
    pub(crate) fn sorted_identities(
        rows: &[(TextIdentity, RelocatedRun)],
    ) -> (Vec<TextIdentity>, Vec<RelocatedRun>) {
        let mut sorted = rows.to_vec();
        sorted.sort_by_cached_key(|(row, _)| order(row.device, row.ino));
        sorted.dedup_by_key(|(row, _)| (row.ino, row.device));
        sorted.into_iter().unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BLOCK_STEP, BLOCKS_END, BLOCKS_START, Layout, PAGE, Segment, block_start, copy_name,
        words_len,
    };

    #[test]
    fn a_block_lies_in_the_room_for_blocks_whatever_the_hash() {
        for first in [0, 1, 12_287, 12_288, u64::MAX] {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&first.to_le_bytes());
            let start = block_start(&hash);
            assert!((BLOCKS_START..=BLOCKS_END - BLOCK_STEP).contains(&start));
        }
    }

    #[test]
    fn the_name_of_a_copy_is_the_hash_in_lower_digits() {
        let mut hash = [0; 32];
        (hash[0], hash[31]) = (0xab, 0x01);
        let name = copy_name(&hash);
        assert!(name.starts_with(b"ab00") && name.ends_with(b"0001"));
    }

    #[test]
    fn a_layout_that_leaves_the_room_for_blocks_is_none() {
        assert!(Layout::new(BLOCKS_START, PAGE, PAGE, 1, 0).is_some());
        assert!(Layout::new(BLOCKS_START - PAGE, PAGE, PAGE, 1, 0).is_none());
        assert!(Layout::new(BLOCKS_END - PAGE, PAGE, PAGE, 1, 0).is_none());
        assert!(Layout::new(BLOCKS_START, PAGE, PAGE, 253, 0).is_none());
        assert!(Layout::new(BLOCKS_START, PAGE, 100, 1, 0).is_none());
        assert!(Layout::new(u64::MAX - 4095, PAGE, PAGE, 1, 0).is_none());
        assert!(Layout::new(BLOCKS_START, PAGE, PAGE, 1, u64::MAX - 4095).is_none());
    }

    #[test]
    fn data_whose_words_lead_elsewhere_are_not_accepted() {
        let layout = Layout::new(BLOCKS_START, PAGE, PAGE, 2, 0).unwrap();
        let segment = Segment {
            offset: 0,
            vaddr: 0x1000,
            file_len: 0x100,
        };
        let mut data = std::vec![0; PAGE as usize];
        let code = layout.code().to_le_bytes();
        for (at, word) in [(64, code), (72, code), (80, [0, 0x10, 0, 0, 0, 0, 0, 0])] {
            data[at..at + 8].copy_from_slice(&word);
        }
        data[88..96].copy_from_slice(&0x1100_u64.to_le_bytes());
        assert_eq!(words_len(2), 96);
        assert!(layout.accepts(&data, &segment));
        for (at, word) in [(0, 1), (64, 0), (72, layout.data()), (88, 0x1101), (96, 1)] {
            let mut wrong = data.clone();
            wrong[at..at + 8].copy_from_slice(&word.to_le_bytes());
            assert!(!layout.accepts(&wrong, &segment), "{at}");
        }
        assert!(!layout.accepts(&data[..64], &segment));
    }
}
