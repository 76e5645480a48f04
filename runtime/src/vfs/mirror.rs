//! A file of the store as a run holds it: memory as long as the file, into which pages are copied as they are asked for, each checked once
//! along the tree of checksums at the file's end.
//!
//! The file may be truncated, rewritten or rot at any moment, so nothing of it is looked at twice: what was copied and checked is used from
//! then on. A page that is just being fetched by somebody else (a thread, a handler that interrupts one, a process that was killed over it)
//! cannot be had, and nobody waits for it: the host is asked instead.
//!
//! # Safety
//! The memory is the mirror's alone. A page of it is written only by who moved its state from `EMPTY` to `BUSY`, before the state is `GOOD`,
//! and read only after that, when nobody writes it any more. Slices that are given out cover pages that are `GOOD`.
#![allow(unsafe_code)]

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use elfuse_format::FormatError;
use elfuse_format::header::{HEADER_LEN, Header, Kind, PartKind, PartRow, PartTable, rows};
use elfuse_format::pages::{PAGE_LEN, Page, SUM_LEN, Sum, Tree};

use super::arena::Arena;
use super::verdict::{Verdict, Verdicts};
use crate::index::IndexError;

/// The longest mirror in bytes. Of a longer file the beginning is mirrored, as far as that goes, and its tree.
pub const MIRROR_ROOM: u64 = 28 << 20;

/// A file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFile {
    /// `loader-cache`.
    LoaderCache,
    /// `keys`.
    Keys,
}

/// Bytes could not be read: the file is shorter than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// The store's files, as they were found when the run began.
pub trait Source: Sync {
    /// Copies bytes of a file from `offset` on. What they are is checked afterwards; that there are any is not.
    ///
    /// # Errors
    /// [`Fault`]: the file ends before.
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault>;
}

/// Why bytes of an index cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// Somebody else is fetching them: it may be otherwise the next time.
    Busy,
    /// It stays like this.
    Known(Verdict),
}

impl From<Miss> for Verdict {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Busy => Self::NotCovered,
            Miss::Known(verdict) => verdict,
        }
    }
}

impl From<FormatError> for Verdict {
    fn from(_: FormatError) -> Self {
        Self::Corrupt
    }
}

impl From<FormatError> for Miss {
    fn from(_: FormatError) -> Self {
        Self::Known(Verdict::Corrupt)
    }
}

const CORRUPT: Miss = Miss::Known(Verdict::Corrupt);

/// Nobody has asked for the page.
const EMPTY: u8 = 0;
/// Somebody is copying it.
const BUSY: u8 = 1;
/// It is there.
const GOOD: u8 = 2;
/// It could not be read, or is not what its checksum says.
const BAD: u8 = 3;

/// How many times pages are fetched as they are asked for. Who asks for more is going to ask for others: then their neighbours come with them.
const ALONE: u32 = 64;
/// Pages that come together: as many as a page of memory has.
const TOGETHER: usize = 4096 / PAGE_LEN;

/// A file, mirrored.
pub(super) struct Mirror<'a> {
    source: &'a dyn Source,
    file: IndexFile,
    header: Header,
    tree: Tree,
    memory: NonNull<u8>,
    /// How many bytes of the body have a place: they stand at the start, and the tree behind them.
    body: u64,
    /// A state for each page that has a place.
    states: &'a [AtomicU8],
    /// How many times pages were fetched.
    fetches: AtomicU32,
    verdicts: Option<&'a Verdicts>,
}

// SAFETY: the memory is the mirror's alone, and the states say who may write and who may read it.
unsafe impl Sync for Mirror<'_> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Mirror<'_> {}

/// A table of a file: rows one after the other.
#[derive(Debug)]
pub(super) struct Table<T> {
    offset: u64,
    count: u32,
    row: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T: rows::Row> Table<T> {
    /// How many rows it has.
    pub(super) fn count(&self) -> u32 {
        self.count
    }
}

impl<'a> Mirror<'a> {
    /// Reads the header and the page that it stands on.
    pub(super) fn open(
        source: &'a dyn Source,
        arena: &Arena<'a>,
        file: (IndexFile, Kind),
        verdicts: Option<&'a Verdicts>,
        fail: fn(FormatError) -> IndexError,
    ) -> Result<Self, IndexError> {
        Self::open_within(source, arena, file, verdicts, fail, MIRROR_ROOM)
    }

    fn open_within(
        source: &'a dyn Source,
        arena: &Arena<'a>,
        (file, kind): (IndexFile, Kind),
        verdicts: Option<&'a Verdicts>,
        fail: fn(FormatError) -> IndexError,
        room: u64,
    ) -> Result<Self, IndexError> {
        let mut first = [0; PAGE_LEN];
        let read = source.copy(file, 0, &mut first);
        read.map_err(|Fault| IndexError::Fault)?;
        let header = Header::parse(&first).map_err(fail)?;
        PartTable::byte_len(&header, kind).map_err(fail)?;
        let tree = header
            .tree()
            .ok_or(fail(FormatError::MissingPart { part: 0 }))?;
        let tree_len = tree.file_len() - tree.start();
        let left = room.checked_sub(tree_len).ok_or(IndexError::NoRoom)?;
        let body = Page::of(left).offset().min(tree.start());
        if body == 0 {
            return Err(IndexError::NoRoom);
        }
        let len = usize::try_from(body + tree_len).map_err(|_| IndexError::NoRoom)?;
        let mirror = Self {
            source,
            file,
            header,
            tree,
            memory: arena.pages(len).ok_or(IndexError::NoRoom)?,
            body,
            states: arena
                .zeroed(len.div_ceil(PAGE_LEN))
                .ok_or(IndexError::NoRoom)?,
            fetches: AtomicU32::new(0),
            verdicts,
        };
        if let Some(verdicts) = verdicts {
            verdicts.copied(PAGE_LEN as u64);
        }
        // Nobody else knows of the mirror.
        mirror.states[0].store(BUSY, Ordering::Relaxed);
        mirror.pages_mut(0..PAGE_LEN).copy_from_slice(&first);
        let is_good = mirror.is_as_its_sum_says(Page(0), &first);
        mirror.settle(0, is_good == Ok(true));
        match is_good {
            Ok(true) => Ok(mirror),
            _ => Err(fail(FormatError::Page {
                page: 0,
                expected: 0,
                found: Page(0).checksum(&first),
            })),
        }
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// Length of the file in bytes.
    pub(super) fn file_len(&self) -> u64 {
        self.tree.file_len()
    }

    /// The part table.
    pub(super) fn parts(
        &self,
        fail: fn(FormatError) -> IndexError,
    ) -> Result<PartTable<'a>, IndexError> {
        let len = self.header.header_len as usize - HEADER_LEN;
        let rows = self.bytes(HEADER_LEN as u64, len);
        let rows = rows.map_err(|_| IndexError::Fault)?;
        PartTable::parse(&self.header, rows).map_err(fail)
    }

    /// A part that is a table.
    pub(super) fn table<T: rows::Row>(
        parts: &PartTable<'_>,
        kind: PartKind,
    ) -> Result<Table<T>, FormatError> {
        let PartRow { offset, len, .. } = parts.find(kind)?;
        let count = rows::count::<T>(len).ok_or(FormatError::Malformed { what: kind.name() })?;
        Ok(Table {
            offset,
            count,
            row: PhantomData,
        })
    }

    /// A row of a table.
    #[inline]
    pub(super) fn row<T: rows::Row>(&self, table: &Table<T>, number: u32) -> Result<&'a T, Miss> {
        if number >= table.count {
            return Err(CORRUPT);
        }
        let at = u64::from(number) * size_of::<T>() as u64;
        let offset = table.offset.checked_add(at).ok_or(CORRUPT)?;
        Ok(rows::one(self.bytes(offset, size_of::<T>())?, "row")?)
    }

    /// Bytes of the file, checked.
    #[inline]
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Result<&'a [u8], Miss> {
        let start = self.place(offset, len)?;
        if len == 0 {
            return Ok(&[]);
        }
        let (first, last) = (start / PAGE_LEN, (start + len - 1) / PAGE_LEN);
        let states = self.states.get(first..=last).ok_or(CORRUPT)?;
        if states
            .iter()
            .any(|state| state.load(Ordering::Acquire) != GOOD)
        {
            self.fetch(first, last)?;
        }
        // SAFETY: `place` gives a range inside the memory. Its pages are `GOOD`, read with Acquire here or in `fetch`: they are written,
        // and nobody writes them any more.
        Ok(unsafe { slice::from_raw_parts(self.memory.as_ptr().add(start), len) })
    }

    /// Where in the memory bytes of the file have their place.
    #[inline]
    fn place(&self, offset: u64, len: usize) -> Result<usize, Miss> {
        let end = offset.checked_add(len as u64).ok_or(CORRUPT)?;
        let start = if end <= self.body {
            offset
        } else if offset >= self.tree.start() && end <= self.tree.file_len() {
            offset - self.tree.start() + self.body
        } else if end <= self.tree.start() {
            return Err(Miss::Known(Verdict::NotCovered));
        } else {
            return Err(CORRUPT);
        };
        // Below `MIRROR_ROOM`.
        Ok(start as usize)
    }

    /// The page of the file that has its place here.
    fn page_at(&self, index: usize) -> Page {
        let start = index as u64 * PAGE_LEN as u64;
        Page::of(match start.checked_sub(self.body) {
            None => start,
            Some(within) => self.tree.start() + within,
        })
    }

    /// Memory of pages that the caller has claimed.
    fn pages_mut(&self, range: Range<usize>) -> &'a mut [u8] {
        // SAFETY: the range lies inside the memory. The caller alone has moved the states of its pages to `BUSY`, so nobody else writes
        // or reads them.
        unsafe { slice::from_raw_parts_mut(self.memory.as_ptr().add(range.start), range.len()) }
    }

    fn claim(&self, index: usize) -> Result<(), u8> {
        let state = self.states.get(index).ok_or(BAD)?;
        state
            .compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire)
            .map(drop)
    }

    fn settle(&self, index: usize, is_good: bool) {
        self.states[index].store(if is_good { GOOD } else { BAD }, Ordering::Release);
    }

    /// Makes sure of pages, those that follow each other at once.
    #[cold]
    fn fetch(&self, first: usize, last: usize) -> Result<(), Miss> {
        let mut at = first;
        while at <= last {
            match self.claim(at) {
                Ok(()) => {}
                Err(GOOD) => {
                    at += 1;
                    continue;
                }
                Err(BAD) => return Err(CORRUPT),
                Err(_) => return Err(Miss::Busy),
            }
            let mut end = at + 1;
            while end <= last && self.claim(end).is_ok() {
                end += 1;
            }
            let asked = at..end;
            if let Err(Miss::Busy) = self.fill(self.with_neighbours(asked.clone())) {
                return Err(Miss::Busy);
            }
            // A neighbour that is bad is another's misfortune.
            let states = &self.states[asked];
            if states
                .iter()
                .any(|state| state.load(Ordering::Acquire) != GOOD)
            {
                return Err(CORRUPT);
            }
            at = end;
        }
        Ok(())
    }

    /// Pages that were claimed, and those around them that it pays to fetch with them, claimed too.
    fn with_neighbours(&self, claimed: Range<usize>) -> Range<usize> {
        let body = self.body as usize / PAGE_LEN;
        let count = self.fetches.fetch_add(1, Ordering::Relaxed);
        if count < ALONE || claimed.end > body {
            return claimed;
        }
        let Range { mut start, mut end } = claimed;
        while !start.is_multiple_of(TOGETHER) && self.claim(start - 1).is_ok() {
            start -= 1;
        }
        while !end.is_multiple_of(TOGETHER) && end < body && self.claim(end).is_ok() {
            end += 1;
        }
        start..end
    }

    /// Copies and checks pages that were claimed.
    fn fill(&self, claimed: Range<usize>) -> Result<(), Miss> {
        let first = self.page_at(claimed.start);
        // The sums stand in pages of their own, which come first. Neither body nor level ends between the pages of one range.
        if let Err(miss) = self.make_sure_of_sums(first, claimed.len()) {
            for index in claimed {
                match miss {
                    Miss::Busy => self.states[index].store(EMPTY, Ordering::Release),
                    Miss::Known(_) => self.settle(index, false),
                }
            }
            return Err(miss);
        }
        let left = self.tree.file_len() - first.offset();
        let len = (claimed.len() * PAGE_LEN).min(left as usize);
        let start = claimed.start * PAGE_LEN;
        let memory = self.pages_mut(start..start + len);
        let copied = self.source.copy(self.file, first.offset(), memory);
        if let Some(verdicts) = self.verdicts {
            verdicts.copied(len as u64);
        }
        let mut all = Ok(());
        for (index, bytes) in claimed.zip(memory.chunks(PAGE_LEN)) {
            let is_good =
                copied.is_ok() && self.is_as_its_sum_says(self.page_at(index), bytes) == Ok(true);
            self.settle(index, is_good);
            if !is_good {
                all = Err(CORRUPT);
            }
        }
        all
    }

    fn make_sure_of_sums(&self, first: Page, count: usize) -> Result<(), Miss> {
        match self.tree.sum_of(first) {
            Sum::Header => Ok(()),
            Sum::At(at) => self.bytes(at, count * SUM_LEN).map(drop),
        }
    }

    fn is_as_its_sum_says(&self, page: Page, bytes: &[u8]) -> Result<bool, Miss> {
        let sum = match self.tree.sum_of(page) {
            Sum::Header => self.header.top_checksum,
            Sum::At(at) => {
                let stored = self.bytes(at, SUM_LEN)?.try_into();
                u64::from_le_bytes(stored.unwrap_or_default())
            }
        };
        Ok(page.checksum(bytes) == sum)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::sync::atomic::{AtomicU32, Ordering};
    use std::vec;
    use std::vec::Vec;

    use elfuse_format::header::{Header, Kind, PartKind, Writer, rows};
    use elfuse_format::keys::{ArchivedDeviceRow, DeviceRow};
    use elfuse_format::pages::{PAGE_LEN, SUM_LEN, Tree};

    use super::{Arena, Fault, IndexError, IndexFile, Mirror, Miss, Source, Verdict, Verdicts};

    const ROWS: u64 = 4000;

    struct Bytes {
        file: Vec<u8>,
        copies: AtomicU32,
    }

    impl Source for Bytes {
        fn copy(&self, _: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
            self.copies.fetch_add(1, Ordering::Relaxed);
            let from = self.file.get(offset as usize..).ok_or(Fault)?;
            into.copy_from_slice(from.get(..into.len()).ok_or(Fault)?);
            Ok(())
        }
    }

    /// A file of one table, whose rows say which they are.
    fn source() -> Bytes {
        let row = |dev| DeviceRow {
            dev,
            fs_type: dev * 3,
            fs_id: !dev,
        };
        let mut file = Writer::new();
        let table: Vec<_> = (0..ROWS).map(row).collect();
        file.part(PartKind::Devices, rows::encode(&table));
        Bytes {
            file: file.finish(Kind::Keys, 0, 0).unwrap(),
            copies: AtomicU32::new(0),
        }
    }

    fn tree_of(source: &Bytes) -> Tree {
        Header::parse(&source.file).unwrap().tree().unwrap()
    }

    fn with<T>(
        source: &Bytes,
        room: u64,
        test: impl FnOnce(Result<&Mirror<'_>, IndexError>, &Verdicts) -> T,
    ) -> T {
        let mut memory = vec![0; 1 << 20];
        let arena = Arena::cleared(&mut memory);
        let verdicts = Verdicts::new();
        let file = (IndexFile::Keys, Kind::Keys);
        let fail = IndexError::Keys;
        let mirror = Mirror::open_within(source, &arena, file, Some(&verdicts), fail, room);
        test(mirror.as_ref().map_err(|error| *error), &verdicts)
    }

    fn row(mirror: &Mirror<'_>, number: u32) -> Result<u64, Miss> {
        let parts = mirror.parts(IndexError::Keys).unwrap();
        let table = Mirror::table::<ArchivedDeviceRow>(&parts, PartKind::Devices).unwrap();
        let row = mirror.row(&table, number)?;
        let dev = row.dev.to_native();
        let rest = (row.fs_type.to_native(), row.fs_id.to_native());
        assert_eq!(rest, (dev * 3, !dev));
        Ok(dev)
    }

    #[test]
    fn each_row_is_what_was_written_and_no_page_is_copied_twice() {
        let source = source();
        with(&source, 1 << 20, |mirror, verdicts| {
            let mirror = mirror.unwrap();
            for _ in 0..2 {
                for number in (0..ROWS as u32).rev() {
                    assert_eq!(row(mirror, number), Ok(number.into()));
                }
            }
            let [_, bytes] = verdicts.all_copied();
            assert_eq!(bytes, source.file.len() as u64);
            assert_eq!(row(mirror, ROWS as u32), Err(Miss::Known(Verdict::Corrupt)));
        });
    }

    #[test]
    fn a_file_longer_than_the_room_is_read_as_far_as_that_goes() {
        let source = source();
        let len = source.file.len() as u64;
        let tree_len = len - tree_of(&source).start();
        for room in (0..len + 4 * PAGE_LEN as u64).step_by(1000) {
            with(&source, room, |mirror, _| {
                let Ok(mirror) = mirror else {
                    assert!(room < tree_len + PAGE_LEN as u64, "{room}");
                    return;
                };
                let found: Vec<_> = (0..ROWS as u32).map(|number| row(mirror, number)).collect();
                let count = found.iter().take_while(|row| row.is_ok()).count();
                let uncovered = Err(Miss::Known(Verdict::NotCovered));
                assert!(found[count..].iter().all(|row| *row == uncovered), "{room}");
                let least = room.saturating_sub(tree_len + 2 * PAGE_LEN as u64) / 24;
                assert!(count as u64 >= least.min(ROWS), "{count} in {room}");
                assert_eq!(count == ROWS as usize, room >= len, "{room}");
            });
        }
    }

    #[test]
    fn a_page_that_rots_takes_its_own_rows_and_a_page_of_sums_those_below() {
        let whole = source();
        let tree = elfuse_format::header::Header::parse(&whole.file)
            .unwrap()
            .tree()
            .unwrap();
        let lost = |at: u64| {
            let mut source = source();
            source.file[at as usize] ^= 1;
            with(&source, 1 << 20, |mirror, _| {
                let mirror = mirror.unwrap();
                let rows = (0..ROWS as u32).map(|number| row(mirror, number));
                let lost = rows.filter(|row| *row == Err(Miss::Known(Verdict::Corrupt)));
                lost.count()
            })
        };
        let of_a_page = lost(10 * PAGE_LEN as u64);
        assert!(
            (PAGE_LEN / 24..=PAGE_LEN / 24 + 2).contains(&of_a_page),
            "{of_a_page}"
        );
        let of_sums = lost(tree.start() + PAGE_LEN as u64);
        let pages = PAGE_LEN / SUM_LEN;
        assert!((pages * PAGE_LEN / 24..=pages * PAGE_LEN / 24 + 2).contains(&of_sums));
    }
}
