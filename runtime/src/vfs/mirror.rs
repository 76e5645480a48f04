//! A file of the store as a run holds it: the pages of it that were asked for, each copied once and checked along the tree of checksums at
//! the file's end.
//!
//! Pages lie in [slots] in the order in which they were asked for, so that eight share a page of memory wherever in the file they are. A
//! state for each page of the file says which slot is its. Bytes that go over the end of a page are wanted in one piece: where their pages
//! do not lie one behind the other, they are put together in other slots. That is remembered of each page and the one behind it. More than two
//! at once are wanted of blocks, once, and of very long symlinks: these pages are found in their new slots from then on.
//!
//! The file may be truncated, rewritten or rot at any moment, so nothing of it is looked at twice: what was copied and checked is used from
//! then on. A page that is just being fetched by somebody else (a thread, a handler that interrupts one, a process that was killed over it)
//! cannot be had, and nobody waits for it: the host is asked instead.
//!
//! # Safety
//! A state names a slot only after its memory was written by who took it, and nobody writes it any more. So what is given out of slots that
//! states name, read with Acquire, does not change. [`Known`] is of numbers only, of which zero is one.
#![allow(unsafe_code)]

mod slots;
#[cfg(test)]
mod tests;

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use elfuse_format::FormatError;
use elfuse_format::header::{HEADER_LEN, Header, Kind, PartKind, PartRow, PartTable, rows};
use elfuse_format::pages::{PAGE_LEN, Page, SUM_LEN, Sum, Tree};

use super::arena::{Arena, Touched, Zeroed};
use super::verdict::{Verdict, Verdicts};
use crate::index::IndexError;
pub(super) use slots::Slots;
use slots::{Run, Slot};

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
const EMPTY: u16 = 0;
/// Somebody is copying it.
const BUSY: u16 = 1;
/// It could not be read, or is not what its checksum says.
const BAD: u16 = 2;
/// From here on: it is there, in this slot.
const GOOD: u16 = Slot::FIRST;

const _: () = assert!(BAD < GOOD);

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
    slots: &'a Slots<'a>,
    /// What is known of each page of the file.
    pages: &'a [Known],
    touched: Touched,
    /// How many times pages were fetched.
    fetches: AtomicU32,
    verdicts: Option<&'a Verdicts>,
}

/// What is known of a page. Both stand together, as memory that is touched costs.
#[derive(Debug)]
#[repr(C)]
struct Known {
    state: AtomicU16,
    /// The slots in which it was put together with the page behind it; less than `GOOD`: none.
    pair: AtomicU16,
}

// SAFETY: zero is a number.
unsafe impl Zeroed for Known {}

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
        (arena, slots): (&Arena<'a>, &'a Slots<'a>),
        (file, kind): (IndexFile, Kind),
        verdicts: Option<&'a Verdicts>,
        fail: fn(FormatError) -> IndexError,
    ) -> Result<Self, IndexError> {
        let Run { slot, memory } = slots.take(1).map_err(|_| IndexError::NoRoom)?;
        let read = source.copy(file, 0, memory);
        read.map_err(|Fault| IndexError::Fault)?;
        let first: &[u8] = memory;
        let header = Header::parse(first).map_err(fail)?;
        PartTable::byte_len(&header, kind).map_err(fail)?;
        let tree = header
            .tree()
            .ok_or(fail(FormatError::MissingPart { part: 0 }))?;
        let count = usize::try_from(tree.page_count()).map_err(|_| IndexError::NoRoom)?;
        let mirror = Self {
            source,
            file,
            header,
            tree,
            slots,
            pages: arena.zeroed(count).ok_or(IndexError::NoRoom)?,
            touched: Touched::default(),
            fetches: AtomicU32::new(0),
            verdicts,
        };
        if let Some(verdicts) = verdicts {
            verdicts.copied(PAGE_LEN as u64);
        }
        match mirror.is_as_its_sum_says(Page(0), first) {
            Ok(true) => {
                mirror.pages[0].state.store(slot.0, Ordering::Release);
                Ok(mirror)
            }
            _ => Err(fail(FormatError::Page {
                page: 0,
                expected: 0,
                found: Page(0).checksum(first),
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
        let end = offset.checked_add(len as u64).ok_or(CORRUPT)?;
        let is_across = offset < self.tree.start() && end > self.tree.start();
        if end > self.tree.file_len() || is_across {
            return Err(CORRUPT);
        }
        if len == 0 {
            return Ok(&[]);
        }
        // Both are numbers of pages that have a state, or `get` refuses them.
        let [first, last] = [offset, end - 1].map(|at| (at / PAGE_LEN as u64) as usize);
        let pages = self.pages.get(first..=last).ok_or(CORRUPT)?;
        let is_touched = self.touched.has(self.pages, first);
        let slot = match is_touched.then(|| together(pages)).flatten() {
            Some(slot) => slot,
            None => self.fetch(first..last + 1)?,
        };
        let start = (offset % PAGE_LEN as u64) as usize;
        // SAFETY: the slots from this one on, as many as there are pages, are those that states name, read with Acquire here or in `fetch`.
        Ok(unsafe { self.slots.bytes(slot, start, len) })
    }

    fn claim(&self, index: usize) -> Result<(), u16> {
        let page = self.pages.get(index).ok_or(BAD)?;
        (page.state)
            .compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire)
            .map(drop)
    }

    /// Claims all of these pages that nobody has asked for: how many. The others are there.
    fn claim_all(&self, pages: Range<usize>) -> Result<usize, Miss> {
        let mut count = 0;
        for index in pages.clone() {
            match self.claim(index) {
                Ok(()) => count += 1,
                Err(GOOD..) => {}
                Err(other) => {
                    self.release(pages.start..index);
                    return Err(if other == BAD { CORRUPT } else { Miss::Busy });
                }
            }
        }
        Ok(count)
    }

    /// Gives up what the caller has claimed among these pages, of which nobody else has claimed any.
    fn release(&self, pages: Range<usize>) {
        let (ordering, failed) = (Ordering::Release, Ordering::Relaxed);
        for page in &self.pages[pages] {
            let _ = (page.state).compare_exchange(BUSY, EMPTY, ordering, failed);
        }
    }

    /// Makes sure of pages, and that they lie one behind the other: where the first one lies.
    #[cold]
    fn fetch(&self, asked: Range<usize>) -> Result<Slot, Miss> {
        self.touched.add(self.pages, asked.start);
        let claimed = self.claim_all(asked.clone())?;
        if claimed == 0
            && let Some(slot) = together(&self.pages[asked.clone()])
        {
            return Ok(slot);
        }
        let pair = (asked.len() == 2).then(|| &self.pages[asked.start].pair);
        let pages = match claimed == asked.len() {
            true => self.with_neighbours(asked.clone()),
            false => asked.clone(),
        };
        // Where one of them is new the pair cannot have been put together.
        if let Some(pair) = pair.filter(|_| claimed == 0)
            && let known @ GOOD.. = pair.load(Ordering::Acquire)
        {
            return Ok(Slot(known));
        }
        // The sums stand in pages of their own, which come first, and at once: no level ends between the pages of one range. One that is
        // wrong is for the pages that it is of.
        let sums = self.make_sure_of_sums(page(pages.start), pages.len());
        let run = match sums {
            Err(Miss::Busy) => Err(Miss::Busy),
            _ => self.slots.take(pages.len()),
        };
        let run = run.inspect_err(|_| self.release(pages.clone()))?;
        let slot = run.slot.behind(asked.start - pages.start);
        // A neighbour that is bad is another's misfortune.
        self.fill(pages, run, &asked, pair.is_none())?;
        if let Some(pair) = pair.filter(|_| claimed < asked.len()) {
            pair.store(slot.0, Ordering::Release);
        }
        Ok(slot)
    }

    /// Pages that were claimed, and those around them that it pays to fetch with them, claimed too.
    fn with_neighbours(&self, claimed: Range<usize>) -> Range<usize> {
        let body = Page::of(self.tree.start()).0 as usize;
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

    /// Copies and checks those of the pages that were claimed, and puts the others beside them, where they are found from then on if they
    /// move. What went wrong with those that were asked for.
    fn fill(
        &self,
        pages: Range<usize>,
        Run { slot, memory }: Run<'a>,
        asked: &Range<usize>,
        others_move: bool,
    ) -> Result<(), Miss> {
        let state = |index: usize| self.pages[index].state.load(Ordering::Acquire);
        let mut at = pages.start;
        while at < pages.end {
            let into = &mut memory[(at - pages.start) * PAGE_LEN..];
            let known = state(at);
            at += if known == BUSY {
                let others = (at + 1..pages.end).take_while(|index| state(*index) == BUSY);
                let count = 1 + others.count();
                self.copy(at..at + count, into);
                count
            } else {
                // SAFETY: those that were not claimed are there: the state names a slot.
                let known = unsafe { self.slots.bytes(Slot(known), 0, PAGE_LEN) };
                into[..PAGE_LEN].copy_from_slice(known);
                1
            };
        }
        let memory: &[u8] = memory;
        let mut all = Ok(());
        for (index, bytes) in pages.clone().zip(memory.chunks(PAGE_LEN)) {
            let judged = match state(index) {
                BUSY => self.judge(page(index), bytes),
                _ if others_move => Ok(()),
                _ => continue,
            };
            let settled = match judged {
                Ok(()) => slot.behind(index - pages.start).0,
                Err(Miss::Busy) => EMPTY,
                Err(Miss::Known(_)) => BAD,
            };
            self.pages[index].state.store(settled, Ordering::Release);
            if asked.contains(&index) {
                all = all.and(judged);
            }
        }
        all
    }

    /// Copies pages that follow each other. Where they cannot be read zeros stay there, which their checksums know.
    fn copy(&self, pages: Range<usize>, into: &mut [u8]) {
        let offset = page(pages.start).offset();
        let left = (self.tree.file_len() - offset) as usize;
        let into = &mut into[..(pages.len() * PAGE_LEN).min(left)];
        if self.source.copy(self.file, offset, into).is_err() {
            into.fill(0);
        }
        if let Some(verdicts) = self.verdicts {
            verdicts.copied(into.len() as u64);
        }
    }

    /// Whether this is what the page has to be.
    fn judge(&self, page: Page, bytes: &[u8]) -> Result<(), Miss> {
        let len = self.tree.page_len(page).ok_or(CORRUPT)?;
        match self.is_as_its_sum_says(page, &bytes[..len])? {
            true => Ok(()),
            false => Err(CORRUPT),
        }
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

fn page(index: usize) -> Page {
    Page(index as u64)
}

/// Where the first of pages lies, if all are there and lie one behind the other.
#[inline]
fn together(pages: &[Known]) -> Option<Slot> {
    let (first, others) = pages.split_first()?;
    let first = first.state.load(Ordering::Acquire);
    let is_next =
        |(page, number): (&Known, u32)| u32::from(page.state.load(Ordering::Acquire)) == number;
    let are_next = others.iter().zip(u32::from(first) + 1..).all(is_next);
    (first >= GOOD && are_next).then_some(Slot(first))
}
