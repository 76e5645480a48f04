//! Whether a bad pointer may be found out by touching it, in a call from a patched site.
//!
//! A copy that faults raises SIGSEGV or SIGBUS, which the runtime's handler makes EFAULT of; to a thread that blocks these the fault is
//! deadly. A trap has the thread's signal mask in its frame. A call from a patched site has not, and to ask the kernel costs more than
//! most answers. So it is remembered which threads were asked about and found to block neither, and all others are asked about, each time.
//! A thread is forgotten, and so asked about again, by whatever may have made its mask another one:
//!
//! - rt_sigprocmask(2), which the runtime serves unless it cannot block one of the two. Where it blocks one of the two, all threads are forgotten, as those that are made
//!   now begin with the mask of the one that makes them.
//! - A handler, which is entered through the runtime with whatever its action blocks in addition ([`super::handlers`]). What is found out
//!   in a handler does not count when it has returned, to a mask that it may even have written: so what is remembered of a
//!   thread holds for the depth of its stack at which it was asked about, and deeper. A handler on a signal stack that lies above the stack
//!   that it interrupted would defeat this; once there is one, nothing is remembered any more.
//! - Calls that wait with a mask of their own, under which handlers run.
//! - fork(2) and exec keep the mask of the thread that makes them. A child of vfork(2) has a mask of its own and the memory and thread pointer
//!   of its parent: nothing is remembered by one.
//!
//! At the start nothing is known of anybody. Threads without a thread pointer go by the stack that they are in. Threads that somebody gave one
//! thread pointer, within one process, count as one: no C library makes such.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::arm::is_armed;
use super::descriptors;
use super::process::process;
use crate::guest::Memory;
use crate::sys::abi::{SIG_BLOCK, SignalSet, UContext};
use crate::sys::clock::thread;
use crate::sys::host::signal_mask;

/// A thread that blocks neither signal.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Open {
    /// 0: none.
    thread: AtomicU64,
    /// Stack pointer of the call in which it was asked about.
    depth: AtomicUsize,
}

/// How many are remembered; threads that meet in one place push each other out.
const COUNT: usize = 64;

impl Open {
    /// Whether this thread blocks neither signal in a call that is made with this stack pointer, or below such a call.
    #[inline]
    fn is_known(&self, thread: u64, stack_pointer: usize) -> bool {
        self.thread.load(Ordering::Acquire) == thread
            && stack_pointer <= self.depth.load(Ordering::Relaxed)
    }
}

static OPEN: [Open; COUNT] = [const {
    Open {
        thread: AtomicU64::new(0),
        depth: AtomicUsize::new(0),
    }
}; COUNT];

/// Nothing is remembered any more.
static IN_DOUBT: AtomicBool = AtomicBool::new(false);

/// Thread pointers differ by the length of a stack, in the middle bits: a multiplication brings them up (Knuth, 6.4).
pub(super) const HASH: u64 = 0x9e37_79b9_7f4a_7c15;
/// How far down they are moved then.
pub(super) const HASH_SHIFT: u32 = u64::BITS - COUNT.ilog2();
/// What is remembered, the binary logarithm of how long each is, and where its depth stands: for the entry, which looks as [`memory`] does.
pub(super) static OPEN_AT: &[Open; COUNT] = &OPEN;
/// See [`OPEN_AT`].
pub(super) const OPEN_SHIFT: u32 = size_of::<Open>().ilog2();
/// See [`OPEN_AT`].
pub(super) const DEPTH: usize = core::mem::offset_of!(Open, depth);
const _: () = assert!(COUNT.is_power_of_two() && size_of::<Open>() == 1 << OPEN_SHIFT);
const _: () = assert!(core::mem::offset_of!(Open, thread) == 0);

fn place(thread: u64) -> &'static Open {
    let hash = thread.wrapping_mul(HASH) >> HASH_SHIFT;
    &OPEN[hash as usize % COUNT]
}

/// How guest memory may be reached in a call made with this stack pointer.
#[inline]
#[must_use]
pub fn memory(stack_pointer: usize) -> Memory {
    let thread = thread();
    let open = place(thread);
    if open.is_known(thread, stack_pointer) {
        Memory::Direct
    } else {
        ask(open, thread, stack_pointer)
    }
}

/// How memory that may fault can be reached here, below a call of the guest's. Nothing is learnt by it.
#[must_use]
pub fn memory_here() -> Memory {
    let process = process();
    if process.pool.is_guest_in_memory() {
        // It may have been made without handlers.
        return Memory::ByKernel;
    }
    let thread = thread();
    let here = 0_u8;
    // A trap may be served on a signal stack, which tells nothing of how deep the guest's is.
    let is_known = !is_armed(process) && place(thread).is_known(thread, (&raw const here).addr());
    if is_known {
        Memory::Direct
    } else {
        Memory::under(signal_mask(SIG_BLOCK, SignalSet::default()))
    }
}

#[cold]
fn ask(open: &Open, thread: u64, stack_pointer: usize) -> Memory {
    let memory = Memory::under(signal_mask(SIG_BLOCK, SignalSet::default()));
    if memory == Memory::Direct
        && !IN_DOUBT.load(Ordering::Relaxed)
        && !process().pool.is_guest_in_memory()
    {
        open.thread.store(0, Ordering::Relaxed);
        open.depth.store(stack_pointer, Ordering::Release);
        open.thread.store(thread, Ordering::Release);
    }
    memory
}

fn forget(thread: u64) {
    let open = place(thread);
    if open.thread.load(Ordering::Relaxed) == thread {
        open.thread.store(0, Ordering::Release);
    }
}

fn forget_all() {
    for open in &OPEN {
        open.thread.store(0, Ordering::Release);
    }
}

/// This thread's mask was changed.
pub fn mask_changed([before, after]: [SignalSet; 2]) {
    let blocks = |mask| Memory::under(mask) == Memory::ByKernel;
    if blocks(after) && !blocks(before) {
        forget_all();
    }
}

/// This thread is about to wait under another mask.
pub fn waits_under(mask: SignalSet) {
    if Memory::under(mask) == Memory::ByKernel {
        forget(thread());
    }
}

/// Handlers of the guest's are entered by the kernel from now on, and nobody sees under which masks.
pub fn handlers_go_unseen() {
    IN_DOUBT.store(true, Ordering::Relaxed);
    forget_all();
}

/// A handler of the guest's is about to be entered on this frame.
pub fn handler_entered(frame: &UContext) {
    if core::ptr::from_ref(frame).addr() > frame.context.rsp {
        IN_DOUBT.store(true, Ordering::Relaxed);
    }
    forget(thread());
    descriptors::interrupted(process().pool.descriptors());
}
