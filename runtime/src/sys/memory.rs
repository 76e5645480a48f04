//! Mappings.
//!
//! # Safety
//! A mapping made at an address that is in use replaces what is there, and one taken away leaves dangling references. Functions that
//! can do so are `unsafe`: the caller names the range and answers for nothing of Rust's living in it. [`anonymous`] lets the kernel
//! choose and is safe.
#![allow(unsafe_code)]

use super::abi::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED,
    PROT_READ, PROT_WRITE,
};
use super::host::Fd;
use super::nr;
use super::raw::call;
use crate::errno::Errno;

/// Where a mapping goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the kernel likes.
    Anywhere,
    /// There, and only if nothing is there.
    Free(usize),
    /// There, whatever is there.
    Replace(usize),
}

/// mmap(2), private. `fd` with the offset of its first byte, or anonymous.
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
    let (at, flags) = match place {
        Place::Anywhere => (0, 0),
        Place::Free(at) => (at, MAP_FIXED_NOREPLACE),
        Place::Replace(at) => (at, MAP_FIXED),
    };
    let (fd, offset, flags) = match file {
        Some((fd, offset)) => (fd.0 as isize as usize, offset as usize, flags | MAP_PRIVATE),
        None => (
            usize::MAX,
            0,
            flags | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        ),
    };
    // SAFETY: the caller answers for the range.
    let at_found = unsafe { call(nr::MMAP, [at, len, protection, flags, fd, offset]) }.result()?;
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
    // SAFETY: the kernel chooses a free range, which therefore nothing refers to.
    unsafe {
        let at = map(Place::Anywhere, len, PROT_READ | PROT_WRITE, None)?;
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
    let args = [
        0,
        len,
        PROT_READ | PROT_WRITE,
        MAP_SHARED,
        fd.0 as isize as usize,
        0,
    ];
    // SAFETY: the kernel chooses a free range.
    let at = unsafe { call(nr::MMAP, args) }.result()?;
    Ok(core::ptr::with_exposed_provenance_mut(at))
}

/// A file's first `len` bytes to be copied from, by fault-safe copies only: the file may be cut or written to at any time.
///
/// # Errors
/// Those of mmap(2).
pub fn hostile(fd: Fd, len: usize) -> Result<*const u8, Errno> {
    // SAFETY: the kernel chooses a free range.
    let at = unsafe { map(Place::Anywhere, len, PROT_READ, Some((fd, 0))) }?;
    Ok(core::ptr::with_exposed_provenance(at))
}

/// Zeroed memory that this process shares with its children, never given back.
///
/// # Errors
/// ENOMEM.
pub fn anonymous_shared(len: usize) -> Result<*mut u8, Errno> {
    let flags = MAP_SHARED | MAP_ANONYMOUS;
    let args = [0, len, PROT_READ | PROT_WRITE, flags, usize::MAX, 0];
    // SAFETY: the kernel chooses a free range.
    let at = unsafe { call(nr::MMAP, args) }.result()?;
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
