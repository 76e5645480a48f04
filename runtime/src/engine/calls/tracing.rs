//! A child that asks to be traced.
//!
//! From then on every signal stops it until its tracer lets it go on, and the SIGSYS of a trapped call is one. A child of vfork(2) has a
//! tracer that cannot: it waits until the child has executed a program, as gdb does. So there the request is made at the very last
//! moment before that, between which and the exec nothing is trapped.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::engine::call::Call;
use crate::sys::host::{getpid, tgkill};
use crate::sys::nr;
use crate::sys::raw::Raw;

const PTRACE_TRACEME: usize = 0;

/// The process whose request is still to be made, in memory that a child of vfork(2) shares. Children of several threads' are rare
/// enough for one place: who finds another one waiting is traced at once.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// ptrace(2).
pub fn ptrace(call: &mut Call<'_>) -> Raw {
    let waits =
        call.args[0] == PTRACE_TRACEME && call.process.pool.is_guest_in_memory() && has_place();
    if waits { Raw(0) } else { call.as_given() }
}

fn has_place() -> bool {
    let own = getpid();
    let before = WAITING.load(Ordering::Relaxed);
    // One that has ended instead of executing anything has left its number behind.
    let is_free = before == 0 || before == own || tgkill(before, before, 0).is_err();
    is_free
        && WAITING
            .compare_exchange(before, own, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
}

/// Makes the request that this process has been told is made.
pub fn before_exec(call: &Call<'_>) {
    let own = WAITING.compare_exchange(getpid(), 0, Ordering::Relaxed, Ordering::Relaxed);
    if own.is_ok() {
        let _ = call.host(nr::PTRACE, [PTRACE_TRACEME, 0, 0, 0, 0, 0]);
    }
}
