//! Signal stacks (sigaltstack(2)) that are too small to be interrupted by the runtime.
//!
//! A guest's signal stack holds the kernel's frame and what the guest's handler uses, and often no more: MINSIGSTKSZ was 2048 bytes for
//! decades. Under the runtime each call that it serves puts a second frame there, and what serving uses. So a small stack is remembered and
//! shown, and the kernel is told of a larger one in its place.
//!
//! Whether the stack that the kernel has is one of these is told by its address, and the one it stands for is written at its start.
//!
//! # Safety
//! A stack belongs to the thread that wrote its number into the stack's owner word, until that thread is no more: while it lives, a frame of
//! the kernel's may lie there that nobody knows of. A child of fork(2) has a copy of all of them; what was its parent's is nobody's there,
//! but for the stack of the thread that forked, and is left alone. Only the owner reads and writes the description at the start, which lies
//! below everything that the kernel and handlers put there.
#![allow(unsafe_code)]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::errno::Errno;
use crate::sys::abi::{PROT_READ, PROT_WRITE};
use crate::sys::memory::{Place, map, unmap};

/// How many there are; more threads than that with small stacks have their own.
const COUNT: usize = 64;
/// Bytes of each.
const LEN: usize = 64 * 1024;
/// Bytes of the description at its start.
const DESCRIPTION_LEN: usize = 64;
/// Bytes of a signal stack on which there is room for two frames of a processor with AVX-512, for serving a call, and for a handler of the
/// guest's. One that AMX was allowed for has larger frames: whoever uses that goes by AT_MINSIGSTKSZ.
pub const ENOUGH: usize = 16 * 1024;

/// `stack_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalStack {
    /// `ss_sp`.
    pub start: usize,
    /// `ss_flags`.
    pub flags: u32,
    /// `ss_size`.
    pub len: usize,
}

impl SignalStack {
    /// Bytes of a `stack_t`.
    pub const LEN: usize = 24;
    /// `SS_ONSTACK`.
    pub const ON: u32 = 1;
    /// `SS_DISABLE`.
    pub const DISABLED: u32 = 2;
    /// `SS_AUTODISARM`.
    pub const AUTODISARM: u32 = 1 << 31;

    /// From its words, as `struct ucontext` has them.
    #[must_use]
    pub const fn from_words([start, flags, len]: [usize; 3]) -> Self {
        Self {
            start,
            flags: flags as u32,
            len,
        }
    }

    /// Its words.
    #[must_use]
    pub const fn words(self) -> [usize; 3] {
        [self.start, self.flags as usize, self.len]
    }

    /// Whether a stack pointer is on it, by the kernel's rule.
    #[must_use]
    pub const fn holds(&self, pointer: usize) -> bool {
        self.flags & Self::AUTODISARM == 0
            && pointer > self.start
            && pointer - self.start <= self.len
    }
}

/// See the module.
#[derive(Debug)]
pub struct Stacks {
    /// Null: not mapped yet, as hardly a guest needs any.
    memory: AtomicPtr<u8>,
    owners: [AtomicU64; COUNT],
}

/// A thread, for [`Stacks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// Its process.
    pub process: u32,
    /// Its number.
    pub thread: u32,
}

impl Thread {
    const fn word(self) -> u64 {
        (self.process as u64) << 32 | self.thread as u64
    }
}

impl Default for Stacks {
    fn default() -> Self {
        Self::new()
    }
}

impl Stacks {
    /// None is anybody's. Their memory is mapped for the first one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            memory: AtomicPtr::new(null_mut()),
            owners: [const { AtomicU64::new(0) }; COUNT],
        }
    }

    fn memory(&self) -> Result<*mut u8, Errno> {
        let known = self.memory.load(Ordering::Acquire);
        if !known.is_null() {
            return Ok(known);
        }
        // SAFETY: only a free range is taken.
        let at = unsafe { map(Place::Own, COUNT * LEN, PROT_READ | PROT_WRITE, None) }?;
        let made = core::ptr::with_exposed_provenance_mut(at);
        let placed =
            (self.memory).compare_exchange(null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
        Ok(placed.map_or_else(
            |other| {
                // SAFETY: mapped a moment ago and known to nobody.
                unsafe { unmap(at, COUNT * LEN) };
                other
            },
            |_| made,
        ))
    }

    /// A stack for the kernel in the place of `guests`, for the thread `own`; that itself, where it is large enough or no other is left.
    /// `is_gone` tells whether a thread of the same process is no more.
    pub fn stand_in(
        &self,
        guests: SignalStack,
        own: Thread,
        is_gone: impl Fn(Thread) -> bool,
    ) -> SignalStack {
        if guests.len >= ENOUGH {
            return guests;
        }
        let Ok(memory) = self.memory() else {
            return guests;
        };
        let Some(number) = self.take(own, is_gone) else {
            return guests;
        };
        let at = memory.wrapping_add(number * LEN);
        // SAFETY: of `COUNT` stacks one that is this thread's; aligned, any bytes are a description.
        unsafe { at.cast::<SignalStack>().write(guests) };
        SignalStack {
            start: at.addr() + DESCRIPTION_LEN,
            flags: guests.flags,
            len: LEN - DESCRIPTION_LEN,
        }
    }

    /// The stack that `own` has had before, else one that is nobody's, else one whose owner is gone.
    fn take(&self, own: Thread, is_gone: impl Fn(Thread) -> bool) -> Option<usize> {
        let word = own.word();
        let has = |owner: &AtomicU64| owner.load(Ordering::Relaxed) == word;
        if let Some(number) = self.owners.iter().position(has) {
            return Some(number);
        }
        let become_owner = |owner: &AtomicU64, of: u64| {
            (owner.compare_exchange(of, word, Ordering::Relaxed, Ordering::Relaxed)).is_ok()
        };
        let free = |owner: &AtomicU64| become_owner(owner, 0);
        let left = |owner: &AtomicU64| {
            let of = owner.load(Ordering::Relaxed);
            let other = Thread {
                process: (of >> 32) as u32,
                thread: of as u32,
            };
            other.process == own.process && is_gone(other) && become_owner(owner, of)
        };
        (self.owners.iter().position(free)).or_else(|| self.owners.iter().position(left))
    }

    /// The stack that `kernels`, which this thread has, stands for: itself, where it is none of these.
    #[must_use]
    pub fn guests(&self, kernels: SignalStack) -> SignalStack {
        let Some(at) = self.description(kernels) else {
            return kernels;
        };
        // SAFETY: a stack of this thread's, whose description was written when it was taken.
        let guests = unsafe { at.read() };
        SignalStack {
            flags: kernels.flags,
            ..guests
        }
    }

    /// Where the description of a stack lies, if it is one of these.
    fn description(&self, stack: SignalStack) -> Option<*const SignalStack> {
        let memory = self.memory.load(Ordering::Acquire);
        let offset = stack.start.checked_sub(memory.addr())?;
        let (number, into) = (offset / LEN, offset % LEN);
        let is_one = !memory.is_null() && number < COUNT && into == DESCRIPTION_LEN;
        is_one.then(|| memory.wrapping_add(number * LEN).cast_const().cast())
    }
}

const _: () = assert!(size_of::<SignalStack>() <= DESCRIPTION_LEN);

#[cfg(test)]
mod tests {
    use super::{COUNT, ENOUGH, LEN, SignalStack, Stacks, Thread};

    fn small(start: usize) -> SignalStack {
        SignalStack {
            start,
            flags: 0,
            len: 2048,
        }
    }

    fn thread(thread: usize) -> Thread {
        Thread {
            process: 1,
            thread: thread as u32,
        }
    }

    fn all_live(_: Thread) -> bool {
        false
    }

    #[test]
    fn a_thread_has_one_stand_in_that_tells_what_it_stands_for() {
        let stacks = Stacks::new();
        let kernels = stacks.stand_in(small(0x1000), thread(7), all_live);
        assert!(kernels.len > LEN - 4096 && kernels.start != 0x1000);
        assert_eq!(stacks.guests(kernels), small(0x1000));
        let others = stacks.stand_in(small(0x2000), thread(8), all_live);
        assert_ne!(others.start, kernels.start);
        let again = stacks.stand_in(small(0x3000), thread(7), all_live);
        assert_eq!(again.start, kernels.start);
        assert_eq!(stacks.guests(again), small(0x3000));
        assert_eq!(stacks.guests(others), small(0x2000));
    }

    #[test]
    fn a_stack_that_is_large_enough_is_left_alone() {
        let stacks = Stacks::new();
        let large = SignalStack {
            start: 0x1000,
            flags: 0,
            len: ENOUGH,
        };
        assert_eq!(stacks.stand_in(large, thread(7), all_live), large);
        assert_eq!(stacks.guests(large), large);
    }

    #[test]
    fn when_none_is_left_that_of_a_thread_that_is_gone_is_taken_and_else_the_guests_own() {
        let stacks = Stacks::new();
        for number in 1..=COUNT {
            let kernels = stacks.stand_in(small(0x1000), thread(number), all_live);
            assert_ne!(kernels, small(0x1000));
        }
        let guests = small(0x5000);
        assert_eq!(stacks.stand_in(guests, thread(COUNT + 1), all_live), guests);
        let gone = |other| other == thread(3);
        let third = stacks.stand_in(guests, thread(3), all_live);
        let taken = stacks.stand_in(guests, thread(COUNT + 1), gone);
        assert_eq!(taken.start, third.start);
    }

    #[test]
    fn what_another_process_had_is_left_alone() {
        let stacks = Stacks::new();
        for number in 1..=COUNT {
            stacks.stand_in(small(0x1000), thread(number), all_live);
        }
        let in_child = Thread {
            process: 2,
            thread: 2,
        };
        let guests = small(0x5000);
        assert_eq!(stacks.stand_in(guests, in_child, |_| true), guests);
    }

    #[test]
    fn a_stack_pointer_is_on_a_stack_by_the_kernels_rule() {
        let stack = small(0x1000);
        assert!(!stack.holds(0x1000) && stack.holds(0x1001) && stack.holds(0x1800));
        assert!(!stack.holds(0x1801));
        let disarmed = SignalStack {
            flags: SignalStack::AUTODISARM,
            ..stack
        };
        assert!(!disarmed.holds(0x1400));
        assert_eq!(SignalStack::from_words(disarmed.words()), disarmed);
    }
}
