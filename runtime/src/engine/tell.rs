//! What a run says of itself: steps of the start, the histogram of system calls, the counters at its end.
//!
//! # Safety
//! The counters of `--stats` lie in a memory file that all processes of the run map. They are atomics of which every value is valid, so
//! it does not matter who writes what to them. A guest that closes the file's descriptor is no longer counted with the others after its
//! next exec.
#![allow(unsafe_code)]

use core::fmt;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::process::process;
use super::say::Stream;
use crate::errno::Errno;
use crate::options::{Inherited, Stats};
use crate::sys::host::{Fd, close, getpid, keep_from, memory_file, monotonic_ns, truncate};
use crate::sys::memory::shared;
use crate::sys::names;
use crate::sys::raw::{Nr, Raw, count_in};
use crate::trace::{
    Histogram, HostCalls, Outcome, Populated, Reason, Report, Steps, TraceBits, is_failing_lookup,
};
use crate::vfs::verdict::Verdicts;

/// A step of a start, in the order they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// The command line was read.
    Options,
    /// Sysroot, mounts and index are settled.
    Settled,
    /// The program was found and opened.
    Found,
    /// Its headers, and those of its interpreter, were read.
    Inspected,
    /// The program is mapped.
    Mapped,
    /// Its interpreter is mapped.
    Interpreter,
    /// The stack is the guest's.
    Stack,
    /// Signals and filter are in place.
    Armed,
}

static STEPS: Steps = Steps::new(&[
    "options",
    "sysroot, mounts, index",
    "program found",
    "headers read",
    "program mapped",
    "interpreter mapped",
    "stack, /proc",
    "signals, filter",
]);
static HISTOGRAM: Histogram = Histogram::new();
/// The process that is traced; 0: none.
static TRACED: AtomicU32 = AtomicU32::new(0);

/// What the processes of a run count together.
#[derive(Debug)]
#[repr(C)]
pub struct Counters {
    calls: HostCalls,
    verdicts: Verdicts,
    populated: Populated,
}

static COUNTERS: AtomicPtr<Counters> = AtomicPtr::new(core::ptr::null_mut());

/// The counters, if the run has any.
fn counters() -> Option<&'static Counters> {
    let at = COUNTERS.load(Ordering::Relaxed);
    // SAFETY: a shared mapping that is never taken away, of atomics.
    (!at.is_null()).then(|| unsafe { &*at })
}

/// Where verdicts are counted.
#[must_use]
pub fn verdicts() -> Option<&'static Verdicts> {
    counters().map(|counters| &counters.verdicts)
}

/// Pages were populated.
pub fn populated(reason: Reason, pages: u64) {
    if let Some(counters) = counters() {
        counters.populated.record(reason, pages);
    }
}

/// The runtime's first instant.
pub fn begin() {
    STEPS.start(monotonic_ns());
}

/// A step of the start is done.
pub fn done(step: Step, trace: TraceBits) {
    if trace.has(TraceBits::STEPS) {
        STEPS.done(step as usize, monotonic_ns());
    }
}

/// A descriptor of what standard error is now, to print to at the end: many programs close theirs before they end. `None`: it is closed
/// already, and there is nothing to print to.
#[must_use]
pub fn error_now() -> Option<i32> {
    keep_high(Fd(2)).ok().map(|fd| fd.0)
}

/// Makes the counters of a run that begins: the memory file's descriptor.
///
/// # Errors
/// Those of memfd_create(2), ftruncate(2) and fcntl(2).
pub fn create() -> Result<i32, Errno> {
    let low = memory_file(c"elfuse-counters")?;
    truncate(low, size_of::<Counters>() as u64)?;
    let file = keep_high(low);
    close(low);
    file.map(|fd| fd.0)
}

/// A copy that stays over exec, numbered high.
fn keep_high(fd: Fd) -> Result<Fd, Errno> {
    use crate::sys::abi::RLIMIT_NOFILE;
    let limit = crate::sys::host::soft_limit(RLIMIT_NOFILE)
        .unwrap_or(1024)
        .min(1 << 20) as i32;
    keep_from(fd, (limit - 16).max(3))
}

/// Maps the counters that the run has.
pub fn open(run: &Inherited<'_>) {
    let Some(fd) = run.counters_fd else { return };
    let is_ours = crate::sys::host::fstat(Fd(fd))
        .is_ok_and(|found| found.size == size_of::<Counters>() as i64);
    if !is_ours {
        return;
    }
    if let Ok(at) = shared(Fd(fd), size_of::<Counters>()) {
        COUNTERS.store(at.cast(), Ordering::Relaxed);
        if let Some(counters) = counters() {
            count_in(&counters.calls);
        }
    }
}

/// Prints the steps, when the guest is about to start; and begins to count its calls.
pub fn entered(run: &Inherited<'_>) {
    if run.trace.has(TraceBits::STEPS) {
        let mut out = Stream::new(error_of(run));
        let _ = STEPS.text(&mut out);
    }
    let is_first = || getpid().cast_signed() == run.top_level_pid;
    if run.trace.has(TraceBits::SYSCALLS) && is_first() {
        TRACED.store(getpid(), Ordering::Relaxed);
        HISTOGRAM.start();
    }
}

fn error_of(run: &Inherited<'_>) -> Fd {
    Fd(run.stats_fd.unwrap_or(2))
}

/// Whether calls are counted. The histogram itself lies where nothing else does.
#[inline(always)]
fn is_counted() -> bool {
    TRACED.load(Ordering::Relaxed) != 0 && HISTOGRAM.enabled()
}

/// Serves a call, timed if this process is traced: neither children of fork nor of vfork are.
#[inline(always)]
pub fn timed(nr: Nr, serve: impl FnOnce() -> Raw) -> Raw {
    if is_counted() {
        return in_histogram(nr, serve);
    }
    serve()
}

#[cold]
fn in_histogram(nr: Nr, serve: impl FnOnce() -> Raw) -> Raw {
    if TRACED.load(Ordering::Relaxed) != getpid() {
        return serve();
    }
    let before = monotonic_ns();
    let result = serve();
    let took_ns = monotonic_ns().saturating_sub(before);
    let number = nr.0 as usize;
    let outcome = match result.result() {
        Ok(_) => Outcome::Done,
        Err(errno) if names_path(nr) && is_failing_lookup(number, errno.0) => Outcome::PathFailed,
        Err(_) => Outcome::Failed,
    };
    HISTOGRAM.record(number, took_ns, outcome);
    result
}

fn names_path(nr: Nr) -> bool {
    super::dispatch::serve(nr).is_some()
}

/// Ends the histogram and prints it: at the first exec that is about to succeed, or at the end.
pub fn freeze() {
    if TRACED.load(Ordering::Relaxed) == getpid() && HISTOGRAM.freeze() {
        let mut out = Stream::new(error_of(&process().run));
        let _ = HISTOGRAM.text(&mut out, names::name);
    }
}

/// The process ends: the one that the run began with prints what was counted.
///
/// Nearly all have nothing to say. They are told so where they stand: a child of fork(2) would have to find the pages of what follows.
#[inline]
pub fn end() {
    if counters().is_some() || is_counted() {
        print_at_end();
    }
}

#[cold]
#[inline(never)]
fn print_at_end() {
    let run = &process().run;
    if getpid().cast_signed() != run.top_level_pid {
        return;
    }
    freeze();
    let Some(counters) = counters() else { return };
    let mut verdicts = [("", 0); crate::vfs::verdict::Verdict::ALL.len()];
    for (row, (verdict, count)) in verdicts.iter_mut().zip(counters.verdicts.all()) {
        *row = (verdict.label(), count);
    }
    let report = Report {
        verdicts: &verdicts,
        index_copied: counters.verdicts.all_copied(),
        populated: &counters.populated,
        host_calls: &counters.calls,
        steps: None,
        histogram: None,
        call_name: names::name,
    };
    let mut out = Stream::new(error_of(run));
    let _: fmt::Result = match run.stats {
        Stats::Off => Ok(()),
        Stats::Text => report.text(&mut out),
        Stats::Json => report.json(&mut out),
    };
}
