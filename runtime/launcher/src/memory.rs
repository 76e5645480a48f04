//! The functions on memory that the compiler calls by name, since there is no libc.
//!
//! # Safety
//! Each has the contract of its C namesake, which is what the compiler upholds. Where a loop would be compiled into a call of the very
//! function it stands in, they are written with string instructions.
#![allow(unsafe_code)]

use core::arch::asm;

use elfuse_runtime::sys::compare::compare;

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller's ranges; the direction flag is clear by the C ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: going up does not overwrite what is still to be read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller's ranges, from their ends down; the direction flag is set back at once.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _,
            inout("rdi") to.add(len).sub(1) => _, inout("rsi") from.add(len).sub(1) => _,
            options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller's range.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// The memory that C means by an address and a length.
///
/// # Safety
/// It is live, and nobody writes there as long as it is borrowed; but of length 0 the address may be any.
#[inline(always)]
unsafe fn piece<'m>(at: *const u8, len: usize) -> &'m [u8] {
    match len {
        0 => &[],
        // SAFETY: the caller's.
        _ => unsafe { core::slice::from_raw_parts(at, len) },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's ranges, for the time of this call.
    let (left, right) = unsafe { (piece(left, len), piece(right, len)) };
    compare(left, right) as i32
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: as the caller says.
    unsafe { memcmp(left, right, len) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut len = 0;
    // SAFETY: a C string, says the caller: it ends.
    while unsafe { text.add(len).read() } != 0 {
        len += 1;
    }
    len
}
