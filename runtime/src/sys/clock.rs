//! The time that leases are measured by, and which thread asks, without a host call.
//!
//! `rdtsc` and `rdfsbase` are used where the kernel says in the auxiliary vector that `rdfsbase` may be (Linux 5.9 and Ivy Bridge on): every
//! processor that has it counts its time stamps at one rate, of 1 GHz at least, also while it sleeps. Otherwise, or once a guest has had
//! `rdtsc` forbidden (`PR_SET_TSC`), the host is asked.
//!
//! # Safety
//! Neither instruction touches memory. `rdtsc` may fault: [`crate::guest::fix_up`] then goes on behind it, with a time of 0.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::host::{gettid, monotonic_ns, prctl};

// elfuse_time_stamp() -> the time stamp counter, or 0 where that is forbidden.
global_asm!(
    ".globl elfuse_time_stamp, elfuse_time_stamp_faults, elfuse_time_stamp_fixed",
    "elfuse_time_stamp:",
    "elfuse_time_stamp_faults:",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "ret",
    "elfuse_time_stamp_fixed:",
    "xor eax, eax",
    "ret",
);

unsafe extern "C" {
    fn elfuse_time_stamp() -> u64;
    static elfuse_time_stamp_faults: u8;
    static elfuse_time_stamp_fixed: u8;
}

/// Bit of `AT_HWCAP2`: user space may use `rdfsbase`.
const HWCAP2_FSGSBASE: usize = 1 << 1;

/// Whether user space may use `rdfsbase`.
pub static HAS_FSGSBASE: AtomicBool = AtomicBool::new(false);
/// One of the following.
static TIME_STAMPS: AtomicU8 = AtomicU8::new(NONE);
/// The host is asked for the time.
const NONE: u8 = 0;
/// The processor has them. What a guest forbids lasts over exec, when no handler of ours is there yet: so the first to want one asks.
const NOT_ASKED: u8 = 1;
/// They may be read; else that faults, which is mended.
const READABLE: u8 = 2;

/// What the auxiliary vector says of the processor (`AT_HWCAP2`); before that is told the host is asked.
pub fn begin(hwcap2: usize) {
    let has = hwcap2 & HWCAP2_FSGSBASE != 0;
    HAS_FSGSBASE.store(has, Ordering::Relaxed);
    TIME_STAMPS.store(if has { NOT_ASKED } else { NONE }, Ordering::Relaxed);
}

/// Where execution goes on after a fault at `rip`, if that is the reading of the counter.
#[must_use]
pub fn fix_up(rip: usize) -> Option<usize> {
    (rip == (&raw const elfuse_time_stamp_faults).addr())
        .then(|| (&raw const elfuse_time_stamp_fixed).addr())
}

/// Whether this thread may read the counter is found out now: a fault could not be mended, as the guest blocks its signal.
pub fn probe() {
    const PR_GET_TSC: usize = 25;
    const PR_TSC_SIGSEGV: usize = 2;
    if TIME_STAMPS.load(Ordering::Relaxed) == NONE {
        return;
    }
    let mut state = 0_u32;
    let at = (&raw mut state).addr();
    let is_forbidden =
        prctl(PR_GET_TSC, [at, 0, 0, 0]).is_err() || state as usize == PR_TSC_SIGSEGV;
    let found = if is_forbidden { NONE } else { READABLE };
    TIME_STAMPS.store(found, Ordering::Relaxed);
}

/// Time in ticks of which there is at least one a nanosecond.
///
/// Where the counter can be read no more, what follows lies far above all times that it said.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    if TIME_STAMPS.load(Ordering::Relaxed) == READABLE {
        // SAFETY: see the top.
        let stamp = unsafe { elfuse_time_stamp() };
        if stamp != 0 {
            return stamp;
        }
        TIME_STAMPS.store(NONE, Ordering::Relaxed);
    }
    other_ticks()
}

#[cold]
fn other_ticks() -> u64 {
    if TIME_STAMPS.load(Ordering::Relaxed) == NOT_ASKED {
        probe();
        return ticks();
    }
    monotonic_ns() | 1 << 63
}

/// A number that tells this thread from the others that share its memory: its thread pointer; where that cannot be read, its number.
///
/// A thread without a thread pointer, as each is until its C library has given it one, goes by the 64 KiB of stack that it is in. So it may
/// have several numbers, one after the other, and shares one only with a neighbour in a stack that is smaller. Threads that somebody gave
/// one thread pointer count as one.
#[inline]
#[must_use]
pub fn thread() -> u64 {
    if !HAS_FSGSBASE.load(Ordering::Relaxed) {
        return u64::from(gettid());
    }
    let pointer: u64;
    // SAFETY: see the top; the kernel has allowed it.
    unsafe {
        asm!("rdfsbase {}", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    if pointer != 0 {
        return pointer;
    }
    let here = 0_u8;
    // No address of user space has the highest bit.
    1 << 63 | (&raw const here).addr() as u64 >> 16
}
