//! The checksums of a file's pages: a tree of them ends every file that has parts, so that a reader who wants a few bytes reads, and
//! checks, the pages that hold them and nothing else.
//!
//! ```text
//!   header, part table, parts, zeros to the end of the page     the body: pages 0 to n - 1
//!   sums of the body's pages, zeros to the end of the page      level 0: pages n to m - 1
//!   sums of level 0's pages ...                                 level 1
//!   sums of the pages below                                     the top: one page at most, not filled up; its sum stands in the header
//! ```
//!
//! A page is the piece of [`PAGE_LEN`] bytes of the file that has its number; its sum is the [`checksum`] of its bytes, of page 0 without
//! the header, which has a checksum of its own and must be checked first: where the tree lies, and its top's sum, stand there.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use crate::checksum::checksum;
use crate::error::FormatError;
use crate::header::HEADER_LEN;

/// Length of a page in bytes.
pub const PAGE_LEN: usize = 512;
/// Length of the checksum of a page in bytes.
pub const SUM_LEN: usize = 8;
/// How many levels the tree of the longest file has.
const LEVELS: usize = 10;

const _: () = assert!(HEADER_LEN < PAGE_LEN && PAGE_LEN.is_multiple_of(SUM_LEN));
// Each level has at least `PAGE_LEN / SUM_LEN` times fewer pages than the one below.
const _: () =
    assert!((PAGE_LEN / SUM_LEN).ilog2() as usize * LEVELS + PAGE_LEN.ilog2() as usize >= 64);

/// Number of a page of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page(pub u64);

/// Where the checksum of a page stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// In the header: the page is the top.
    Header,
    /// At this offset from the start of the file, in a page of the next level.
    At(u64),
}

/// Where the pages of a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// First page of each level; behind the top the number of all pages.
    starts: [u64; LEVELS + 1],
    /// Number of levels.
    levels: usize,
    /// Length of the file in bytes.
    file_len: u64,
}

impl Page {
    /// The page that has the byte at this offset from the start of the file.
    #[must_use]
    pub const fn of(offset: u64) -> Self {
        Self(offset / PAGE_LEN as u64)
    }

    /// Its offset from the start of the file in bytes, which is that of a page inside a file.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0.saturating_mul(PAGE_LEN as u64)
    }

    /// The checksum of its bytes.
    #[must_use]
    pub fn checksum(self, bytes: &[u8]) -> u64 {
        let covered = match self.0 {
            0 => bytes.get(HEADER_LEN..).unwrap_or_default(),
            _ => bytes,
        };
        checksum(covered)
    }
}

impl Tree {
    /// The tree of a file whose header, part table and parts have so many bytes.
    #[must_use]
    pub fn new(body_len: u64) -> Self {
        let mut pages = body_len.div_ceil(PAGE_LEN as u64).max(1);
        let mut tree = Self {
            starts: [0; LEVELS + 1],
            levels: 0,
            file_len: 0,
        };
        let mut next = 0;
        loop {
            next += pages;
            tree.starts[tree.levels] = next;
            tree.levels += 1;
            let sums_len = pages * SUM_LEN as u64;
            if sums_len <= PAGE_LEN as u64 || tree.levels == LEVELS {
                tree.starts[tree.levels] = next + 1;
                tree.file_len = next
                    .saturating_mul(PAGE_LEN as u64)
                    .saturating_add(sums_len);
                return tree;
            }
            pages = sums_len.div_ceil(PAGE_LEN as u64);
        }
    }

    /// Length of the whole file in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Where the tree starts: the body's length in whole pages.
    #[must_use]
    pub fn start(&self) -> u64 {
        Page(self.starts[0]).offset()
    }

    /// How many pages the file has, the top included.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.starts[self.levels]
    }

    /// Length of a page in bytes; `None`: the file has none of this number.
    #[must_use]
    pub fn page_len(&self, page: Page) -> Option<usize> {
        let left = self.file_len.checked_sub(page.offset())?;
        let len = usize::try_from(left).unwrap_or(PAGE_LEN).min(PAGE_LEN);
        (len > 0).then_some(len)
    }

    /// Where the checksum of a page of the file stands.
    #[must_use]
    pub fn sum_of(&self, page: Page) -> Sum {
        let mut first = 0;
        for level in 0..self.levels {
            let end = self.starts[level];
            if page.0 < end {
                let sums = Page(end).offset();
                return Sum::At(sums + (page.0 - first) * SUM_LEN as u64);
            }
            first = end;
        }
        Sum::Header
    }

    /// Checks every page of a file against its sum, and that nothing but zeros fills pages up.
    ///
    /// # Errors
    /// [`FormatError::Length`]; [`FormatError::Page`] with the first page that is wrong, those of the tree before those of the body.
    pub fn check(&self, file: &[u8], top_checksum: u64, body_len: u64) -> Result<(), FormatError> {
        if file.len() as u64 != self.file_len {
            return Err(FormatError::Length {
                expected: self.file_len,
                found: file.len() as u64,
            });
        }
        let bytes = |from: u64, to: u64| {
            let range = usize::try_from(from).ok()?..usize::try_from(to).ok()?;
            file.get(range)
        };
        for number in (0..self.page_count()).rev() {
            let page = Page(number);
            let end = page.offset() + self.page_len(page).unwrap_or(0) as u64;
            let found = page.checksum(bytes(page.offset(), end).unwrap_or_default());
            let expected = match self.sum_of(page) {
                Sum::Header => top_checksum,
                Sum::At(at) => {
                    let stored = bytes(at, at + SUM_LEN as u64).and_then(|sum| sum.try_into().ok());
                    u64::from_le_bytes(stored.unwrap_or_default())
                }
            };
            if found != expected {
                return Err(FormatError::Page {
                    page: number,
                    expected,
                    found,
                });
            }
        }
        // Levels, each with where what it holds ends.
        let mut ends = [(0, 0); LEVELS];
        let (mut len, mut first) = (body_len, 0);
        for (level, gap) in ends.iter_mut().enumerate().take(self.levels) {
            let end = self.starts[level];
            *gap = (Page(first).offset() + len, Page(end).offset());
            (len, first) = ((end - first) * SUM_LEN as u64, end);
        }
        let gaps = ends.iter().filter_map(|(from, to)| bytes(*from, *to));
        match gaps.flatten().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(FormatError::Malformed {
                what: "end of a page",
            }),
        }
    }
}

/// Fills up the last page of a body and puts its tree behind it; the checksum of the top, for the header. The header's own bytes may be
/// written afterwards.
///
/// # Panics
/// Never: what is in memory has a length.
#[cfg(feature = "alloc")]
#[must_use]
pub fn finish(file: &mut Vec<u8>) -> u64 {
    let tree = Tree::new(file.len() as u64);
    let mut first = 0;
    for level in 0..tree.levels {
        let start = first * PAGE_LEN;
        file.resize(
            (file.len() - start)
                .next_multiple_of(PAGE_LEN)
                .max(PAGE_LEN)
                + start,
            0,
        );
        let pages = file[start..].chunks(PAGE_LEN);
        let sums: Vec<u8> = (first as u64..)
            .zip(pages)
            .flat_map(|(number, bytes)| Page(number).checksum(bytes).to_le_bytes())
            .collect();
        file.extend_from_slice(&sums);
        first = usize::try_from(tree.starts[level]).expect("the file is in memory");
    }
    Page(first as u64).checksum(&file[first * PAGE_LEN..])
}

#[cfg(test)]
mod tests {
    use super::{PAGE_LEN, Page, SUM_LEN, Sum, Tree, finish};
    use crate::error::FormatError;

    const FAN: u64 = (PAGE_LEN / SUM_LEN) as u64;
    const LEN: u64 = PAGE_LEN as u64;

    #[test]
    fn a_tree_has_as_many_levels_as_it_takes_for_the_last_to_fit_a_page() {
        for (pages, tree_pages, top) in [
            (1, 1, 1),
            (FAN, 1, FAN),
            (FAN + 1, 3, 2),
            (FAN * FAN, FAN + 1, FAN),
            (FAN * FAN + 1, FAN + 1 + 2 + 1, 2),
        ] {
            let tree = Tree::new(pages * LEN);
            assert_eq!(tree.start(), pages * LEN);
            assert_eq!(tree.page_count(), pages + tree_pages, "{pages}");
            let last = Page(tree.page_count() - 1);
            assert_eq!(tree.file_len(), last.offset() + top * SUM_LEN as u64);
            assert_eq!(tree.sum_of(last), Sum::Header);
            assert_eq!(tree.page_len(Page(tree.page_count())), None);
        }
        assert_eq!(Tree::new(0), Tree::new(LEN));
        // No length makes it anything but long.
        assert!(Tree::new(u64::MAX).file_len() > u64::MAX / 2);
    }

    #[test]
    fn each_sum_has_a_place_of_its_own_behind_its_page() {
        let tree = Tree::new((FAN * FAN + FAN) * LEN + 1);
        let places: std::vec::Vec<u64> = (0..tree.page_count() - 1)
            .map(|number| match tree.sum_of(Page(number)) {
                Sum::At(at) => {
                    assert!(Page::of(at) > Page(number));
                    at
                }
                Sum::Header => panic!("page {number} is not the top"),
            })
            .collect();
        assert!(places.is_sorted_by(|a, b| a < b));
        assert!(places.last().is_some_and(|at| *at < tree.file_len()));
    }

    #[test]
    fn what_was_finished_checks_and_no_byte_of_it_can_change() {
        for body_len in [100, PAGE_LEN, PAGE_LEN + 1, 3 * PAGE_LEN - 1] {
            let mut file = std::vec![7; body_len];
            let top = finish(&mut file);
            let tree = Tree::new(body_len as u64);
            assert_eq!(file.len() as u64, tree.file_len());
            assert_eq!(tree.check(&file, top, body_len as u64), Ok(()));
            for at in 64..file.len() {
                file[at] ^= 1;
                assert!(tree.check(&file, top, body_len as u64).is_err(), "{at}");
                file[at] ^= 1;
            }
            assert!(matches!(
                tree.check(&file[1..], top, body_len as u64),
                Err(FormatError::Length { .. })
            ));
        }
    }

    #[test]
    fn only_zeros_fill_a_page_up() {
        let mut file = std::vec![7; PAGE_LEN];
        file[PAGE_LEN - 1] = 1;
        let top = finish(&mut file);
        let body_len = PAGE_LEN as u64 - 1;
        let found = Tree::new(body_len).check(&file, top, body_len);
        assert!(matches!(found, Err(FormatError::Malformed { .. })));
    }
}
