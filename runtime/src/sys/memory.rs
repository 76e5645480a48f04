//! Mappings.
//!
//! What is the runtime's own lies in one range of addresses, so that one comparison tells it from the guest's:
//!
//! ```text
//! 6f00_0000_0000  the image of `elfuse`, and close behind it what is kept: areas, tables, index
//! 6f00_8000_0000  what is kept, if the kernel cannot be told of another heap than the one behind the image
//! 6f00_c000_0000  what is mapped for the length of one call
//! 6f01_0000_0000
//! ```
//!
//! What lies close together shares page tables. Each range of 2 MiB takes a table of its own, which a start and each fork pay for as for
//! several pages.
//!
//! # Safety
//! A mapping made at an address that is in use replaces what is there, and one taken away leaves dangling references. Functions that
//! can do so are `unsafe`: the caller names the range and answers for nothing of Rust's living in it. [`anonymous`] only takes what is
//! free and is safe.
#![allow(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::abi::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PAGE,
    PROT_READ, PROT_WRITE,
};
use super::host::Fd;
use super::nr;
use super::raw::call;
use crate::errno::Errno;

/// Upper half of the runtime's own addresses.
pub const OWN_HIGH: u32 = 0x6f00;
/// The runtime's own addresses.
pub const OWN: Range<usize> = (OWN_HIGH as usize) << 32..(OWN_HIGH as usize + 1) << 32;

/// Hands out addresses one after the other. A child of vfork(2) uses the very same value, as it uses the same memory; a child of fork(2)
/// goes on from a copy of it.
struct Region {
    next: AtomicUsize,
    start: usize,
    end: usize,
}

static KEPT: Region = Region::new(FAR_FROM_IMAGE, 0xc000_0000);
static FOR_A_CALL: Region = Region::new(0xc000_0000, 0x1_0000_0000);

/// Where nothing is in the way of a heap behind the image. It starts up to 1 GiB behind it.
const FAR_FROM_IMAGE: usize = 0x8000_0000;

/// From now on what is kept lies behind the runtime's image, where no heap is going to be. Before anything is mapped.
pub fn keep_beside_image() {
    unsafe extern "C" {
        /// The linker's: the end of the image.
        safe static _end: u8;
    }
    let end = (&raw const _end).addr().next_multiple_of(PAGE);
    if OWN.contains(&end) {
        KEPT.next.store(end, Ordering::Relaxed);
    }
}

impl Region {
    const fn new(start: usize, end: usize) -> Self {
        Self {
            next: AtomicUsize::new(OWN.start + start),
            start: OWN.start + start,
            end: OWN.start + end,
        }
    }

    /// `len` bytes in it that nobody else is handed out before it is used up; then it starts over. `None`: it is smaller than that.
    fn place(&self, len: usize) -> Option<usize> {
        if len > self.end - self.start {
            return None;
        }
        let step = |next: usize| {
            let end = next.checked_add(len).filter(|end| *end <= self.end);
            Some(end.unwrap_or(self.start + len))
        };
        let before = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .ok()?;
        step(before)?.checked_sub(len)
    }

    /// Makes a mapping of `len` bytes in it, or where that cannot be, wherever the kernel likes.
    fn map(
        &self,
        len: usize,
        make: impl Fn(Place) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        /// Where somebody else maps on purpose there is not much: a few steps lead past it.
        const TRIES: usize = 16;
        let whole = len.checked_next_multiple_of(PAGE).ok_or(Errno::ENOMEM)?;
        for _ in 0..TRIES {
            let Some(at) = self.place(whole) else { break };
            match make(Place::Free(at)) {
                Err(Errno::EEXIST) => {}
                other => return other,
            }
        }
        make(Place::Anywhere)
    }
}

/// Where a mapping goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel likes.
    Anywhere,
    /// There, and only if nothing is there.
    Free(usize),
    /// There, whatever is there.
    Replace(usize),
    /// Among what the runtime keeps.
    Own,
    /// Among what the runtime needs for the length of one call.
    OwnForACall,
}

/// mmap(2), private. `file` with the offset of its first byte, or anonymous.
///
/// # Errors
/// Those of the call; EEXIST: [`Place::Free`] is not free.
///
/// # Safety
/// [`Place::Replace`]: nothing of Rust's lives in the range.
pub unsafe fn map(
    place: Place,
    len: usize,
    protection: usize,
    file: Option<(Fd, u64)>,
) -> Result<usize, Errno> {
    let (fd, offset, flags) = match file {
        Some((fd, offset)) => (fd.0 as isize as usize, offset as usize, MAP_PRIVATE),
        None => (usize::MAX, 0, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE),
    };
    // SAFETY: as the caller of this says.
    unsafe { map_with(place, len, protection, flags, fd, offset) }
}

/// mmap(2).
///
/// # Safety
/// As of [`map`].
unsafe fn map_with(
    place: Place,
    len: usize,
    protection: usize,
    flags: usize,
    fd: usize,
    offset: usize,
) -> Result<usize, Errno> {
    // SAFETY: a place that is free is replaced by nothing; for `Place::Replace` the caller answers.
    let again = |place| unsafe { map_with(place, len, protection, flags, fd, offset) };
    let (at, fixed) = match place {
        Place::Anywhere => (0, 0),
        Place::Free(at) => (at, MAP_FIXED_NOREPLACE),
        Place::Replace(at) => (at, MAP_FIXED),
        Place::Own => return KEPT.map(len, again),
        Place::OwnForACall => return FOR_A_CALL.map(len, again),
    };
    let args = [at, len, protection, flags | fixed, fd, offset];
    // SAFETY: the caller answers for the range.
    let at_found = unsafe { call(nr::MMAP, args) }.result()?;
    match place {
        // Kernels before 4.17 take MAP_FIXED_NOREPLACE for a hint.
        Place::Free(at) if at_found != at => {
            // SAFETY: made a moment ago and known to nobody.
            unsafe { unmap(at_found, len) };
            Err(Errno::EEXIST)
        }
        _ => Ok(at_found),
    }
}

/// munmap(2).
///
/// # Safety
/// Nothing refers to the range any more.
pub unsafe fn unmap(at: usize, len: usize) {
    // SAFETY: the caller answers for the range.
    let _ = unsafe { call(nr::MUNMAP, [at, len, 0, 0, 0, 0]) };
}

/// mprotect(2).
///
/// # Errors
/// Those of the call.
///
/// # Safety
/// No live reference is used in a way that the new protection refuses.
pub unsafe fn protect(at: usize, len: usize, protection: usize) -> Result<(), Errno> {
    // SAFETY: the caller answers for the range.
    unsafe { call(nr::MPROTECT, [at, len, protection, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// madvise(2) with advice that keeps the content.
///
/// # Errors
/// Those of the call.
pub fn advise(at: usize, len: usize, advice: usize) -> Result<(), Errno> {
    // SAFETY: advice about forks and huge pages changes no content.
    unsafe { call(nr::MADVISE, [at, len, advice, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// Zeroed memory of the process's own, never given back. Pages cost nothing until they are touched.
///
/// # Errors
/// ENOMEM.
pub fn anonymous(len: usize) -> Result<&'static mut [u8], Errno> {
    // SAFETY: only a free range is taken, so nothing refers to it.
    unsafe {
        let at = map(Place::Own, len, PROT_READ | PROT_WRITE, None)?;
        Ok(core::slice::from_raw_parts_mut(
            core::ptr::with_exposed_provenance_mut(at),
            len,
        ))
    }
}

/// A file's first `len` bytes, shared with whoever else maps them, readable and writable. Not a slice: others write to it, and it
/// faults where the file has been cut.
///
/// # Errors
/// Those of mmap(2).
pub fn shared(fd: Fd, len: usize) -> Result<*mut u8, Errno> {
    let file = fd.0 as isize as usize;
    // SAFETY: only a free range is taken.
    let at = unsafe { map_with(Place::Own, len, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) }?;
    Ok(core::ptr::with_exposed_provenance_mut(at))
}

/// A file's first `len` bytes to be copied from, by fault-safe copies only: the file may be cut or written to at any time.
///
/// # Errors
/// Those of mmap(2).
pub fn hostile(fd: Fd, len: usize) -> Result<*const u8, Errno> {
    // SAFETY: only a free range is taken.
    let at = unsafe { map(Place::Own, len, PROT_READ, Some((fd, 0))) }?;
    Ok(core::ptr::with_exposed_provenance(at))
}

/// Zeroed memory that this process shares with its children, never given back.
///
/// # Errors
/// ENOMEM.
pub fn anonymous_shared(len: usize) -> Result<*mut u8, Errno> {
    let flags = MAP_SHARED | MAP_ANONYMOUS;
    let protection = PROT_READ | PROT_WRITE;
    // SAFETY: only a free range is taken.
    let at = unsafe { map_with(Place::Own, len, protection, flags, usize::MAX, 0) }?;
    Ok(core::ptr::with_exposed_provenance_mut(at))
}

/// The same at a place where something of that length is.
///
/// # Errors
/// ENOMEM.
///
/// # Safety
/// What is there is used through atomics only, of which zero is a value.
pub unsafe fn replace_shared(at: usize, len: usize) -> Result<(), Errno> {
    let flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
    let args = [at, len, PROT_READ | PROT_WRITE, flags, usize::MAX, 0];
    // SAFETY: the caller answers for the range.
    unsafe { call(nr::MMAP, args) }.result().map(drop)
}

#[cfg(test)]
mod tests {
    use super::{OWN, PAGE, Place, Region, anonymous, map, unmap};
    use crate::errno::Errno;

    #[test]
    fn a_region_is_handed_out_piece_by_piece_and_then_again() {
        let region = Region::new(0, 4 * PAGE);
        let pages = |len| region.place(len * PAGE).map(|at| (at - OWN.start) / PAGE);
        assert_eq!(pages(1), Some(0));
        assert_eq!(pages(2), Some(1));
        assert_eq!(pages(2), Some(0));
        assert_eq!(pages(4), Some(0));
        assert_eq!(pages(5), None);
    }

    #[test]
    fn what_is_in_use_is_stepped_over_and_a_full_region_leaves_the_choice_to_the_kernel() {
        let region = Region::new(0, 4 * PAGE);
        let first_is_taken = |place| match place {
            Place::Free(at) if at == OWN.start => Err(Errno::EEXIST),
            Place::Free(at) => Ok(at),
            _ => Ok(7),
        };
        assert_eq!(region.map(1, first_is_taken), Ok(OWN.start + PAGE));
        let all_is_taken = |place| match place {
            Place::Free(_) => Err(Errno::EEXIST),
            _ => Ok(7),
        };
        assert_eq!(region.map(1, all_is_taken), Ok(7));
        assert_eq!(region.map(5 * PAGE, all_is_taken), Ok(7));
    }

    #[test]
    fn own_memory_lies_among_the_own_addresses() {
        let kept = anonymous(PAGE).unwrap();
        assert!(OWN.contains(&kept.as_ptr().addr()));
        assert!(kept.iter().all(|byte| *byte == 0));
        // SAFETY: a mapping of this test's own, taken away once.
        unsafe {
            let at = map(Place::OwnForACall, PAGE, 0, None).unwrap();
            assert!(OWN.contains(&at));
            unmap(at, PAGE);
        }
    }
}
