//! The `syscall` instruction, and nothing else.
//!
//! # Safety
//! A system call can do anything to this process's memory. Each function here is therefore `unsafe`; whoever calls one upholds
//! what the man page of that call demands of its pointers and lengths. The kernel clobbers rcx and r11 only.
//!
//! The seccomp filter lets calls through by the address they come from: every system call of the runtime has to come from this
//! image, which is why no other crate's wrappers are used.
#![allow(unsafe_code)]

use core::arch::asm;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::errno::Errno;
use crate::trace::HostCalls;

/// Number of a system call (`arch/x86/entry/syscalls/syscall_64.tbl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nr(pub u32);

/// A system call's six argument registers: rdi, rsi, rdx, r10, r8, r9.
pub type Args = [usize; 6];

/// What a system call left in rax: a value, or a negated errno in the last page of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw(pub isize);

impl Raw {
    /// Value or errno.
    ///
    /// # Errors
    /// The errno the kernel returned.
    pub fn result(self) -> Result<usize, Errno> {
        match self.0 {
            -4095..=-1 => Err(Errno(self.0.unsigned_abs() as u16)),
            value => Ok(value.cast_unsigned()),
        }
    }
}

impl From<Errno> for Raw {
    fn from(errno: Errno) -> Self {
        Raw(-(errno.0 as isize))
    }
}

impl From<Result<usize, Errno>> for Raw {
    fn from(result: Result<usize, Errno>) -> Self {
        match result {
            Ok(value) => Raw(value.cast_signed()),
            Err(errno) => errno.into(),
        }
    }
}

/// Where calls are counted; null: nowhere.
static COUNTERS: AtomicPtr<HostCalls> = AtomicPtr::new(null_mut());

/// Counts every call from now on.
pub fn count_in(counters: &'static HostCalls) {
    COUNTERS.store(core::ptr::from_ref(counters).cast_mut(), Ordering::Relaxed);
}

#[cold]
fn count(counters: *const HostCalls, nr: Nr, result: Raw) {
    // SAFETY: not null, so it came from a reference that lasts as long as the process.
    let counters = unsafe { &*counters };
    counters.record(nr.0 as usize, result.result().err().map(|errno| errno.0));
}

/// One system call with all six argument registers.
///
/// # Safety
/// What the call's man page demands.
#[inline(always)]
pub unsafe fn call(nr: Nr, args: Args) -> Raw {
    // Before the call: behind it the processor would wait for this to come back into its caches.
    let counters = COUNTERS.load(Ordering::Relaxed);
    let out: isize;
    // SAFETY: the caller upholds the call's own contract; the kernel's calling convention is as written here.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr.0 as isize => out,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if !counters.is_null() {
        count(counters, nr, Raw(out));
    }
    Raw(out)
}
