//! Counts how often a snapshot was used, and why it was not. Who may not write to the counters does not count.
//!
//! # Safety
//! The file is mapped shared for the length of this call and only used through atomics. It is the caller's own; its length was
//! compared, and what its owner cuts off it meanwhile, the owner's own start feels.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use elfuse_format::header::HEADER_LEN;
use elfuse_format::names::COUNTS_SUFFIX;
use elfuse_format::snapshot::counts::{LAST, LEN, Refusal, STARTS, WORDS};

use super::snap::Names;
use crate::sys::abi::{O_RDWR, S_IFMT, S_IFREG};
use crate::sys::host::{close, fstat};
use crate::sys::memory::{shared, unmap};

/// Counts a start, or that it was refused.
pub fn count(store: &CStr, names: &Names, outcome: Result<(), Refusal>) {
    let Ok(fd) = names.open(store, COUNTS_SUFFIX, O_RDWR) else {
        return;
    };
    let is_whole =
        fstat(fd).is_ok_and(|found| found.size == LEN as i64 && found.mode & S_IFMT == S_IFREG);
    let mapped = if is_whole { shared(fd, LEN).ok() } else { None };
    close(fd);
    let Some(start) = mapped else { return };
    // SAFETY: mapped above, page-aligned, as long as the file; words behind the header lie at multiples of eight.
    let words = unsafe { &*start.add(HEADER_LEN).cast::<[AtomicU64; WORDS]>() };
    match outcome {
        Ok(()) => {
            words[STARTS].fetch_add(1, Ordering::Relaxed);
        }
        Err(refusal) => {
            words[refusal as usize].fetch_add(1, Ordering::Relaxed);
            words[LAST].store(refusal as u64, Ordering::Relaxed);
        }
    }
    // SAFETY: mapped above; the words are not looked at any more.
    unsafe { unmap(start.addr(), LEN) };
}

const _: () = assert!(HEADER_LEN.is_multiple_of(align_of::<AtomicU64>()));
