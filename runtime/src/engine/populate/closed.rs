//! Memory that is mapped before it can be written to, and opened by mprotect(2): the mapping of that kind that was made last, and what of it
//! is then going to be written to.
//!
//! | mapping | who maps so | what is populated when it can be written to |
//! |---|---|---|
//! | a file, privately, to be read | Guile: its modules, whose data it opens and relocates | the first part that is opened, if that is no more than a MiB |
//! | nothing, reserved | V8: the blocks of its heap | the same, of blocks only: a power of two of bytes, at a multiple of it |
//!
//! Dynamic linkers open nothing so: they map a file as one that is not to be written to from outside, or at a fixed place. Who opens a file and
//! writes little to it has the rest in memory all the same, once for each mapping. Stacks of threads and arenas of C libraries are no blocks.
//!
//! Only the last one is remembered, until a part of it was opened, or any file was mapped to be shared or executed: pages of a shared file are
//! never to be populated, as that changes its times. What is unmapped is not seen, and other memory may be in its place by then, but of that kind
//! it is only if it was put there by mremap(2), or by code that no copy stands in for.
//!
//! Of a file that is changed after its data was opened the guest sees no more in pages that it has not written to: whether it would is unspecified
//! (mmap(2), `MAP_PRIVATE`). And where faults are served by the guest itself (userfaultfd(2)), opening memory waits for that.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::{LEAST, populate};
use crate::engine::text::Asked;
use crate::sys::abi::{MAP_ANONYMOUS, MAP_SHARED, PAGE, PROT_READ, PROT_WRITE};
use crate::trace::Reason;

/// The most that is populated at once, in bytes.
const MOST: usize = 1 << 20;

/// The smallest block of reserved memory, in bytes.
const LEAST_BLOCK: usize = 64 << 10;

/// Address of the mapping; the entry for patched calls compares with it.
pub static START: AtomicUsize = AtomicUsize::new(0);
/// Its length in bytes; 0: there is none.
pub static LEN: AtomicUsize = AtomicUsize::new(0);
static IS_FILE: AtomicBool = AtomicBool::new(false);
/// A thread is writing the three. A child of fork(2) that was made meanwhile remembers nothing any more.
static IS_WRITTEN: AtomicBool = AtomicBool::new(false);
/// How often something was forgotten: what is written meanwhile is, too.
static FORGOTTEN: AtomicU32 = AtomicU32::new(0);

/// A mapping that cannot be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Closed {
    start: usize,
    len: usize,
    is_file: bool,
}

impl Closed {
    /// The bytes to populate of a part that is opened.
    fn opened(self, at: usize, len: usize) -> usize {
        let Some(len) = len.checked_next_multiple_of(PAGE) else {
            return 0;
        };
        let is_inside = at
            .checked_sub(self.start)
            .and_then(|from| from.checked_add(len))
            .is_some_and(|end| end <= self.len);
        let is_block = len >= LEAST_BLOCK && len.is_power_of_two() && at.is_multiple_of(len);
        let is_fit = (LEAST..=MOST).contains(&len) && (self.is_file || is_block);
        if is_inside && is_fit { len } else { 0 }
    }
}

/// Nothing is remembered.
pub fn forget() {
    FORGOTTEN.fetch_add(1, Ordering::SeqCst);
    LEN.store(0, Ordering::SeqCst);
}

/// Remembers a mapping, unless another one is being remembered just then, or everything forgotten.
fn remember(closed: Closed) {
    let before = FORGOTTEN.load(Ordering::SeqCst);
    if IS_WRITTEN.swap(true, Ordering::SeqCst) {
        return;
    }
    START.store(closed.start, Ordering::SeqCst);
    IS_FILE.store(closed.is_file, Ordering::SeqCst);
    LEN.store(closed.len, Ordering::SeqCst);
    if FORGOTTEN.load(Ordering::SeqCst) != before {
        LEN.store(0, Ordering::SeqCst);
    }
    IS_WRITTEN.store(false, Ordering::SeqCst);
}

/// What is remembered, as one thread wrote it.
fn remembered() -> Option<Closed> {
    let before = FORGOTTEN.load(Ordering::SeqCst);
    let closed = Closed {
        start: START.load(Ordering::SeqCst),
        len: LEN.load(Ordering::SeqCst),
        is_file: IS_FILE.load(Ordering::SeqCst),
    };
    let is_whole = !IS_WRITTEN.load(Ordering::SeqCst) && FORGOTTEN.load(Ordering::SeqCst) == before;
    is_whole.then_some(closed)
}

/// Something was mapped at `at` that is not to be executed: a file to be shared, or what cannot be written to.
pub fn mapped(asked: &Asked, at: usize) {
    forget();
    let len = usize::try_from(asked.len).ok();
    let len = len.and_then(|len| len.checked_next_multiple_of(PAGE));
    if let (0, Some(len)) = (asked.flags & MAP_SHARED, len) {
        remember(Closed {
            start: at,
            len,
            is_file: asked.flags & MAP_ANONYMOUS == 0,
        });
    }
}

/// Memory may be used so from now on.
pub fn protected(at: usize, len: usize, protection: usize) {
    if protection != PROT_READ | PROT_WRITE {
        return;
    }
    let len = remembered().map_or(0, |closed| closed.opened(at, len));
    if len != 0 {
        forget();
        populate(at, len, Reason::Opened);
    }
}

#[cfg(test)]
mod tests {
    use super::{Closed, LEAST, MOST, PAGE};

    const FILE: Closed = Closed {
        start: 0x7f00_0012_3000,
        len: 4 << 20,
        is_file: true,
    };

    #[test]
    fn of_a_file_what_is_opened_is_populated_up_to_a_mebibyte() {
        let at = FILE.start + PAGE;
        assert_eq!(FILE.opened(at, LEAST - 1), LEAST, "the kernel rounds up");
        assert_eq!(FILE.opened(at, MOST), MOST);
        assert_eq!(FILE.opened(at, MOST + 1), 0);
        assert_eq!(FILE.opened(at, LEAST - PAGE), 0, "not worth a call");
    }

    #[test]
    fn what_lies_outside_is_left_alone() {
        let end = FILE.start + FILE.len;
        assert_eq!(FILE.opened(end - LEAST, LEAST), LEAST);
        assert_eq!(FILE.opened(end - LEAST, LEAST + 1), 0);
        assert_eq!(FILE.opened(FILE.start - PAGE, LEAST), 0);
        for (at, len) in [
            (end, LEAST),
            (0, LEAST),
            (FILE.start, usize::MAX),
            (usize::MAX, LEAST),
        ] {
            assert_eq!(FILE.opened(at, len), 0, "{at:#x} {len:#x}");
        }
        assert_eq!(Closed { len: 0, ..FILE }.opened(FILE.start, LEAST), 0);
    }

    #[test]
    fn of_reserved_memory_only_blocks_are_populated() {
        let reserved = Closed {
            start: 0x7f00_0000_0000,
            is_file: false,
            ..FILE
        };
        let opened = |at: usize, len| reserved.opened(reserved.start + at, len);
        let block = 256 << 10;
        assert_eq!(opened(block, block), block);
        assert_eq!(opened(0, 64 << 10), 64 << 10);
        assert_eq!(opened(0, 32 << 10), 0);
        // An arena's first step, and a stack.
        assert_eq!(opened(0, 132 << 10), 0);
        assert_eq!(opened(PAGE, block), 0);
        assert_eq!(opened(0, 2 * MOST), 0);
    }
}
