//! The time that leases are measured by, and which thread asks, without a host call.
//!
//! How long a tick of the processor's counter is, is measured once the counter has gone on by some: twice the host's clock is read, before the counter
//! at first and behind it in the end, so that a tick may be found longer than it is where something comes between, and never shorter. Until then it counts as a
//! nanosecond, which it is at most. From where it is known [`ticks`] goes on more slowly.
//!
//! `rdtsc` and `rdfsbase` are used where the kernel says in the auxiliary vector that `rdfsbase` may be (Linux 5.9 and Ivy Bridge on): every
//! processor that has it counts its time stamps at one rate, of 1 GHz at least, also while it sleeps. Otherwise, or once a guest has had
//! `rdtsc` forbidden (`PR_SET_TSC`), the host is asked.
//!
//! # Safety
//! Neither instruction touches memory. `rdtsc` may fault: [`crate::guest::fix_up`] then goes on behind it, with a time of 0.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::host::{gettid, monotonic_ns, prctl, since_boot_ns};

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

/// A nanosecond, as lengths of ticks are kept.
const NANOSECOND: u64 = 1 << 32;
/// How long a tick is, from where the counter said [`SLOWER_FROM`]; before, a nanosecond. It is stored last.
static SLOWER_FROM: AtomicU64 = AtomicU64::new(0);
/// See [`SLOWER_FROM`].
static TICK: AtomicU64 = AtomicU64::new(NANOSECOND);
/// After how many ticks that is measured: then reading the clock takes a small part of the time.
const MEASURED_AFTER: u64 = 4_000_000;
/// When: what the counter has to say. [`NEVER`]: it is not being measured.
static MEASURED_AT: AtomicU64 = AtomicU64::new(NEVER);
const NEVER: u64 = u64::MAX;
/// What clock and counter said at first. Both belong to whoever put [`NEVER`] in the place of the moment above.
static FIRST_NS: AtomicU64 = AtomicU64::new(0);
static FIRST_STAMP: AtomicU64 = AtomicU64::new(0);

/// How long a tick is at most, if `ns` went by while the counter went on by `ticks`. `None`: these numbers do not tell.
fn tick(ns: u64, ticks: u64) -> Option<u64> {
    let tick = ns.checked_mul(NANOSECOND)?.div_ceil(ticks.max(1));
    // The clock may be slewed by a two-thousandth.
    let tick = tick + tick / 1024;
    (tick >= NANOSECOND / 8).then_some(tick.min(NANOSECOND))
}

fn begin_to_measure() {
    FIRST_NS.store(since_boot_ns(), Ordering::Relaxed);
    let stamp = counter();
    FIRST_STAMP.store(stamp, Ordering::Relaxed);
    MEASURED_AT.store(stamp.saturating_add(MEASURED_AFTER), Ordering::Release);
}

/// The counter has come to where it is measured, and says `stamp`.
#[cold]
fn measure(at: u64, stamp: u64) {
    let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
    if (MEASURED_AT.compare_exchange(at, NEVER, order, failed)).is_err() {
        return;
    }
    let ns = since_boot_ns().saturating_sub(FIRST_NS.load(Ordering::Relaxed));
    let went_on = stamp.saturating_sub(FIRST_STAMP.load(Ordering::Relaxed));
    match tick(ns, went_on) {
        Some(tick) => {
            SLOWER_FROM.store(stamp, Ordering::Relaxed);
            TICK.store(tick, Ordering::Release);
        }
        None => begin_to_measure(),
    }
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
    let before = TIME_STAMPS.swap(found, Ordering::Relaxed);
    let is_known = TICK.load(Ordering::Relaxed) != NANOSECOND;
    if before == NOT_ASKED && found == READABLE && !is_known {
        begin_to_measure();
    }
}

/// Time in ticks of which there is at least one a nanosecond, and not many more once that has been measured.
///
/// Where the counter can be read no more, what follows lies far above all times that it said.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    let stamp = counter();
    if stamp & OTHER != 0 {
        return stamp;
    }
    let measured_at = MEASURED_AT.load(Ordering::Relaxed);
    if stamp >= measured_at {
        measure(measured_at, stamp);
    }
    let tick = TICK.load(Ordering::Acquire);
    let from = SLOWER_FROM.load(Ordering::Relaxed);
    let since = u128::from(stamp.saturating_sub(from)) * u128::from(tick);
    from + (since >> 32) as u64
}

/// In times that are not the counter's.
const OTHER: u64 = 1 << 63;

/// What the processor's counter says; else the host's clock.
#[inline]
#[must_use]
pub fn counter() -> u64 {
    if TIME_STAMPS.load(Ordering::Relaxed) == READABLE {
        // SAFETY: see the top.
        let stamp = unsafe { elfuse_time_stamp() };
        if stamp != 0 {
            return stamp;
        }
        TIME_STAMPS.store(NONE, Ordering::Relaxed);
    }
    other_counter()
}

#[cold]
fn other_counter() -> u64 {
    if TIME_STAMPS.load(Ordering::Relaxed) == NOT_ASKED {
        probe();
        return counter();
    }
    monotonic_ns() | OTHER
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

#[cfg(test)]
mod tests {
    use super::{NANOSECOND, tick};

    #[test]
    fn a_tick_is_found_no_shorter_than_it_is_and_a_nanosecond_at_most() {
        // 2.6 GHz: 10 of 26 nanoseconds.
        let found = tick(10_000_000, 26_000_000).unwrap();
        assert!(found * 26 >= NANOSECOND * 10 && found * 26 < NANOSECOND * 10 * 1002 / 1000);
        // Something came between: longer, not shorter.
        assert!(tick(12_000_000, 26_000_000).unwrap() > found);
        assert_eq!(tick(27_000_000, 26_000_000), Some(NANOSECOND));
        assert_eq!(tick(1, 0), Some(NANOSECOND));
    }

    #[test]
    fn numbers_that_no_processor_makes_tell_nothing() {
        // More than 8 GHz: the clock stood still meanwhile, or was read out of a pause.
        assert_eq!(tick(1_000_000, 26_000_000), None);
        assert_eq!(tick(0, 26_000_000), None);
        // So long ago that it does not fit.
        assert_eq!(tick(1 << 32, 26_000_000), None);
    }
}
