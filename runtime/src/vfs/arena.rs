//! Memory that is handed out once and never given back, and cells in it that are filled once. Without locks: what is being filled by
//! somebody else counts as not there.
//!
//! # Safety
//! Two rules keep this sound, and both are kept in this file:
//! - The arena's memory is zeroed and nobody else's ([`Arena::new`] asks for that), and no byte of it is handed out twice: the only
//!   way forward is to move `small` or `used` by compare-and-swap, of which one ends where the other began.
//! - The value of a `Once` is written only by who moved it from `EMPTY` to `BUSY`, before it is `READY`, and read only
//!   after that, when nobody writes it any more.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use elfuse_format::pages::PAGE_LEN;

/// Zeroed memory, handed out from its start: what is small in front, so that it lies together, and what is large behind that.
#[derive(Debug)]
pub struct Arena<'a> {
    base: NonNull<u8>,
    len: usize,
    /// How much of the front has been handed out.
    small: AtomicUsize,
    /// Where the rest begins that has not: at least [`Arena::front`].
    used: AtomicUsize,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the memory is the arena's alone, and `small` and `used` give each byte to one caller only: they never meet.
unsafe impl Sync for Arena<'_> {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Arena<'_> {}

/// What may be made of zeroed bytes.
///
/// # Safety
/// All bytes zero is a value of the type, and it has nothing to drop.
pub(super) unsafe trait Zeroed: Sync {}

// SAFETY: zero is a number.
unsafe impl Zeroed for AtomicU64 {}
// SAFETY: zero is a number.
unsafe impl<const N: usize> Zeroed for [AtomicU64; N] {}
// SAFETY: zero is a number.
unsafe impl Zeroed for AtomicU8 {}
// SAFETY: state 0 is `EMPTY`, and then the value is not looked at; `T: Copy` has nothing to drop.
unsafe impl<T: Copy + Send + Sync> Zeroed for Once<T> {}

impl<'a> Arena<'a> {
    /// An arena over `len` bytes from `base`, as a fresh anonymous mapping has them. Memory that is not touched costs nothing, so it
    /// may be large.
    ///
    /// # Safety
    /// The memory is readable and writable, zeroed, and for all of `'a` used through this arena only.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self {
            base,
            len,
            small: AtomicUsize::new(0),
            used: AtomicUsize::new(Self::front(len)),
            memory: PhantomData,
        }
    }

    /// An arena over memory that is cleared first: for little of it.
    #[must_use]
    pub fn cleared(memory: &'a mut [u8]) -> Self {
        memory.fill(0);
        let len = memory.len();
        // SAFETY: the memory is borrowed for `'a`, and was just cleared.
        unsafe { Self::new(NonNull::from(memory).cast(), len) }
    }

    /// The most bytes that are small.
    const SMALL: usize = 512;

    /// How long the front is.
    const fn front(len: usize) -> usize {
        const MOST: usize = 2 << 10;
        if len / 8 < MOST { len / 8 } else { MOST }
    }

    /// How many bytes of what is large have not been handed out.
    pub(super) fn left(&self) -> usize {
        self.len - self.used.load(Ordering::Relaxed)
    }

    fn take(&self, size: usize, align: usize) -> Option<NonNull<u8>> {
        let front = (size <= Self::SMALL)
            .then(|| self.take_of(&self.small, Self::front(self.len), size, align))
            .flatten();
        front.or_else(|| self.take_of(&self.used, self.len, size, align))
    }

    /// Takes of the memory from where `from` says on, up to `most`.
    fn take_of(
        &self,
        from: &AtomicUsize,
        most: usize,
        size: usize,
        align: usize,
    ) -> Option<NonNull<u8>> {
        let base = self.base.as_ptr() as usize;
        let mut used = from.load(Ordering::Relaxed);
        loop {
            let start = base
                .checked_add(used)?
                .checked_next_multiple_of(align)?
                .checked_sub(base)?;
            let end = start.checked_add(size).filter(|&end| end <= most)?;
            match from.compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                // SAFETY: `start` is at most `end`, which is at most `len`: inside the memory, or one past its end.
                Ok(_) => return Some(unsafe { self.base.add(start) }),
                Err(now) => used = now,
            }
        }
    }

    /// So many zero bytes that are the caller's alone, from the start of a page, if they are more than one, of memory; `None` if there is no
    /// room.
    pub(super) fn pages(&self, len: usize) -> Option<NonNull<u8>> {
        const MEMORY_PAGE: usize = 4096;
        let is_long = len > MEMORY_PAGE;
        self.take(len, if is_long { MEMORY_PAGE } else { PAGE_LEN })
    }

    /// A place for a value, which is never dropped; `None` if there is no room.
    pub(super) fn place<T: Send + Sync + 'a>(&self, value: T) -> Option<&'a T> {
        let place = self.take(size_of::<T>(), align_of::<T>())?.cast::<T>();
        // SAFETY: `take` gives out bytes inside the memory, and none twice; aligned for `T`, and they live for `'a`.
        unsafe {
            place.write(value);
            Some(place.as_ref())
        }
    }

    /// So many values made of zero bytes; `None` if there is no room.
    pub(super) fn zeroed<T: Zeroed>(&self, count: usize) -> Option<&'a [T]> {
        let size = count.checked_mul(size_of::<T>())?;
        let start = self.take(size, align_of::<T>())?;
        // SAFETY: as in `place`; of `T` `T: Zeroed` says that zero bytes are one.
        Some(unsafe { slice::from_raw_parts(start.cast().as_ptr(), count) })
    }
}

/// Of which memory pages of a table it is known that somebody has written there. Memory that was never touched and is read first is faulted in
/// twice: as a page of zeros that all share, and again when it is written to. So who finds a page not to be among these writes first.
///
/// It tells what is faster, never what is right: of tables of more than 64 pages the last bit is for many, and who has written says so later.
#[derive(Debug, Default)]
pub(super) struct Touched(AtomicU64);

impl Touched {
    /// The bit for one row of a table.
    #[inline(always)]
    fn bit<T>(table: &[T], row: usize) -> u64 {
        const MEMORY_PAGE: usize = 4096;
        let start = table.as_ptr().addr();
        let at = start.wrapping_add(row.wrapping_mul(size_of::<T>()));
        let page = at / MEMORY_PAGE - start / MEMORY_PAGE;
        1 << page.min(63)
    }

    /// Whether the row's page is known to have been written to.
    #[inline(always)]
    pub(super) fn has<T>(&self, table: &[T], row: usize) -> bool {
        self.0.load(Ordering::Relaxed) & Self::bit(table, row) != 0
    }

    /// The caller writes to the row.
    pub(super) fn add<T>(&self, table: &[T], row: usize) {
        self.0.fetch_or(Self::bit(table, row), Ordering::Relaxed);
    }
}

const EMPTY: u32 = 0;
const BUSY: u32 = 1;
const READY: u32 = 2;

/// A value that is made once, by whoever comes first.
#[derive(Debug)]
pub(super) struct Once<T> {
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is shared only once it is `READY`, and not written from then on.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }
}

impl<T: Copy> Once<T> {
    /// The value, if it has been made.
    #[inline]
    pub(super) fn get(&self) -> Option<&T> {
        // SAFETY: `READY` was read with Acquire: the value is written, and nobody writes it any more.
        let value = || unsafe { (*self.value.get()).assume_init_ref() };
        (self.state.load(Ordering::Acquire) == READY).then(value)
    }

    /// The value, made by `make` if nobody has made it yet; `None` while somebody else is at it. That may be for good: a thread that
    /// is at it when its process forks does not exist in the child.
    ///
    /// Where `make` makes none it is as if it had not been asked.
    #[inline]
    pub(super) fn get_or_try(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != READY {
            self.fill(make)?;
        }
        // SAFETY: `READY` was read with Acquire, here or in `fill`: the value is written, and nobody writes it any more.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// The same, where the value is likely not to have been made: it is written to before it is read.
    pub(super) fn make_or_get(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        self.fill(make)?;
        // SAFETY: `READY` was read with Acquire in `fill`: the value is written, and nobody writes it any more.
        Some(unsafe { (*self.value.get()).assume_init_ref() })
    }

    #[cold]
    fn fill(&self, make: impl FnOnce() -> Option<T>) -> Option<()> {
        match self
            .state
            .compare_exchange(EMPTY, BUSY, Ordering::Acquire, Ordering::Acquire)
        {
            Err(READY) => return Some(()),
            Err(_) => return None,
            Ok(_) => {}
        }
        let Some(value) = make() else {
            self.state.store(EMPTY, Ordering::Release);
            return None;
        };
        // SAFETY: only who moved the state from `EMPTY` to `BUSY` writes, and nobody reads before `READY`.
        unsafe { (*self.value.get()).write(value) };
        self.state.store(READY, Ordering::Release);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::{Arena, AtomicU64, Once, PAGE_LEN, Touched};
    use core::sync::atomic::Ordering;

    fn with_arena(test: impl FnOnce(&Arena<'_>)) {
        #[repr(align(8))]
        struct Aligned([u8; 128]);
        test(&Arena::cleared(&mut Aligned([7; 128]).0));
    }

    #[test]
    fn no_byte_is_handed_out_twice_and_none_beyond_the_end() {
        with_arena(|arena| {
            // Of 128 bytes the first 16 are for what is small.
            let first = arena.place([1_u8; 3]).unwrap();
            let numbers = arena.zeroed::<AtomicU64>(2).unwrap();
            assert!(numbers.iter().all(|n| n.load(Ordering::Relaxed) == 0));
            assert_eq!(numbers.as_ptr() as usize % align_of::<AtomicU64>(), 0);
            assert!(arena.place([2_u8; 97]).is_none());
            let last = arena.place([2_u8; 96]).unwrap();
            assert!(arena.place([3_u8; 14]).is_none());
            let beside = arena.place([3_u8; 13]).unwrap();
            assert_eq!(beside.as_ptr().addr() - first.as_ptr().addr(), 3);
            assert!(arena.place(4_u8).is_none());
            assert!(arena.zeroed::<AtomicU64>(usize::MAX).is_none());
            assert_eq!((first, beside, last), (&[1; 3], &[3; 13], &[2; 96]));
            assert!(numbers.iter().all(|n| n.load(Ordering::Relaxed) == 0));
        });
    }

    #[test]
    fn pages_start_where_a_page_does() {
        let mut memory = std::vec![7; 4 * PAGE_LEN];
        let arena = Arena::cleared(&mut memory);
        arena.place(1_u8).unwrap();
        let pages = arena.pages(PAGE_LEN + 1).unwrap();
        assert!(pages.addr().get().is_multiple_of(PAGE_LEN));
        assert!(arena.pages(2 * PAGE_LEN).is_none());
    }

    #[test]
    fn a_value_is_made_once_and_is_not_there_while_it_is_being_made() {
        with_arena(|arena| {
            let once = &arena.zeroed::<Once<u32>>(1).unwrap()[0];
            assert_eq!(once.get_or_try(|| None), None);
            let made = once.get_or_try(|| {
                // As a signal handler would, that interrupts the making.
                assert_eq!(once.get_or_try(|| unreachable!()), None);
                assert_eq!(once.make_or_get(|| unreachable!()), None);
                Some(7)
            });
            assert_eq!(made, Some(&7));
            assert_eq!(once.get_or_try(|| Some(8)), Some(&7));
            assert_eq!(once.make_or_get(|| Some(8)), Some(&7));
        });
    }

    #[test]
    fn a_row_is_touched_with_its_page_and_with_no_page_before_it() {
        let mut memory = std::vec![0_u64; 70 * 512 + 512];
        let aligned = memory.as_ptr().align_offset(4096);
        let table = &mut memory[aligned..][..70 * 512];
        let touched = Touched::default();
        assert!(!touched.has(table, 512));
        touched.add(table, 1023);
        assert!(touched.has(table, 512) && touched.has(table, 1023));
        assert!(!touched.has(table, 511) && !touched.has(table, 1024));
        assert!(!touched.has(table, 63 * 512));
        touched.add(table, 69 * 512);
        assert!(touched.has(table, 63 * 512) && !touched.has(table, 62 * 512));
    }
}
