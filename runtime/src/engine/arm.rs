//! Installs the filter, for all threads of the process.
//!
//! # Safety
//! The kernel is handed a program that lives until the call returns, and copies it. It lets the runtime's own calls through; what it traps
//! comes to a handler that is installed before the first arming.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use super::process::Process;
use super::{descriptors, dispatch};
use crate::errno::Errno;
use crate::options::Stats;
use crate::sys::abi::{
    PR_SET_NO_NEW_PRIVS, SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_SET_MODE_FILTER, SIG_UNBLOCK, SIGSYS,
    SignalSet, SockFprog,
};
use crate::sys::host::{getpid, prctl, signal_mask};
use crate::sys::nr;
use crate::sys::raw::call;
use crate::trace::TraceBits;

/// A child of vfork(2) that has the filter while its parent, whose memory this is, has not; 0: none. Of several the last one counts: another
/// one installs a second filter, which costs time and changes nothing.
static ARMED_CHILD: AtomicU32 = AtomicU32::new(0);

/// Whether this process has the filter.
#[must_use]
pub fn is_armed(process: &Process) -> bool {
    if process.armed.load(Ordering::Relaxed) {
        return true;
    }
    let child = ARMED_CHILD.load(Ordering::Relaxed);
    child != 0 && child == getpid()
}

/// Makes sure that all threads have the filter: from now on every call that names a path is trapped, wherever it comes from. Two threads that
/// come here at once may install it twice.
///
/// # Errors
/// Those of seccomp(2); EBUSY: a thread has a filter of its own.
pub fn arm(process: &Process) -> Result<(), Errno> {
    if is_armed(process) {
        return Ok(());
    }
    descriptors::distrust(process);
    let counts = process.run.stats != Stats::Off;
    let traces = process.run.trace.has(TraceBits::SYSCALLS);
    let filter = dispatch::filter(counts, traces);
    let program = SockFprog {
        len: filter.code().len() as u16,
        filter: filter.code().as_ptr(),
    };
    let at = core::ptr::from_ref(&program).addr();
    // A handler may have blocked it in the mask that it returned to, which nobody saw.
    signal_mask(SIG_UNBLOCK, SignalSet::of(SIGSYS));
    prctl(PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0])?;
    let args = [
        SECCOMP_SET_MODE_FILTER,
        SECCOMP_FILTER_FLAG_TSYNC,
        at,
        0,
        0,
        0,
    ];
    // SAFETY: see the top.
    let refused = unsafe { call(nr::SECCOMP, args) }.result()?;
    if refused != 0 {
        return Err(Errno::EBUSY);
    }
    if process.pool.is_guest_in_memory() {
        ARMED_CHILD.store(getpid(), Ordering::Relaxed);
    } else {
        process.armed.store(true, Ordering::Relaxed);
    }
    Ok(())
}
