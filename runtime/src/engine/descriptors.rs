//! What is known of the guest's descriptors, so that neither is asked of the host each time: that the sysroot's own one is still it, and
//! which ones are files of the sysroot, so that reading them tells nothing of the world outside.
//!
//! Both hold until a call may close the number or make it another descriptor. As long as the filter is not armed all code of the guest is
//! patched, and every such call comes by the entry ([`elfuse_format::text::DESCRIPTORS`]), which forgets the number *before* it is made. What
//! merely makes descriptors (open, accept, recvmsg, F_DUPFD) takes numbers that stand for nothing, which are forgotten already. From the
//! arming on nothing is known.
//!
//! One memory may go with several tables of descriptors, of vfork(2)'s child and the like. They agree when they part, so what is known holds in
//! each until any of them says otherwise; only learning has to stop:
//! - The sysroot's descriptor is learnt once, before the guest's first instruction. A child that closes it says so of itself alone.
//! - Files are learnt as they are opened, until memory and descriptors part ([`split`]); after vfork(2) again when its caller goes on, as
//!   the child has left the memory then.
//!
//! A child of fork(2) begins without known files: while it is made another thread may close and open, and descriptors are copied
//! before memory.

use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering,
};

use elfuse_format::text::KNOWN_LEN;

use super::process::Process;
use crate::errno::Errno;
use crate::sys::clock;
use crate::sys::host::{Fd, getpid, tgkill};
use crate::vfs::coherence::Mode;

/// What is known of files: on a page that fork(2) clears.
#[derive(Debug)]
#[repr(C)]
pub struct Table {
    /// For each descriptor, 1: it is a regular file of the sysroot, opened to be read only.
    known: [AtomicU8; KNOWN_LEN as usize],
    /// 0: files are learnt. [`FOR_GOOD`]: none is any more. Else the thread that waits for its child of vfork(2): none is until it goes on.
    closed: AtomicU64,
    /// [`CHILD_WITHOUT`] is about a child of this very process.
    has_child_without: AtomicBool,
}

impl Table {
    /// Nothing is known.
    const fn new() -> Self {
        Self {
            known: [const { AtomicU8::new(0) }; KNOWN_LEN as usize],
            closed: AtomicU64::new(0),
            has_child_without: AtomicBool::new(false),
        }
    }
}

/// See [`Table::closed`].
const FOR_GOOD: u64 = u64::MAX;

/// In the place of a table where there is none yet.
static NONE_YET: Table = Table::new();
/// The table, whose first field the entry looks into.
pub(super) static TABLE: AtomicPtr<Table> = AtomicPtr::new((&raw const NONE_YET).cast_mut());

/// Stands for a number that no call names.
const NOBODY: i32 = i32::MIN;

/// The sysroot's descriptor while it is known to be it; else [`NOBODY`]. The entry compares what is closed with it.
pub(super) static OWN: AtomicI32 = AtomicI32::new(NOBODY);

/// All calls of this process are seen: it began so, and was not armed since. The entry looks at it, too.
pub(super) static SEES_ALL: AtomicBool = AtomicBool::new(false);

/// A child of vfork(2) in whose table it may be something else; 0: none.
static CHILD_WITHOUT: AtomicU32 = AtomicU32::new(0);

/// Says where files are known, before anything of the guest's is mapped.
pub fn set_table(table: &'static Table) {
    TABLE.store(core::ptr::from_ref(table).cast_mut(), Ordering::Release);
}

/// Address of a byte for each descriptor below [`KNOWN_LEN`], for stubs. It stays the same until the process executes another program.
#[must_use]
pub fn known_address() -> usize {
    TABLE.load(Ordering::Relaxed).addr()
}

/// Nothing of the guest's has run yet, and all its calls will be seen. `own`: the sysroot's descriptor, if it was compared.
pub fn begin(own: Option<Fd>) {
    SEES_ALL.store(true, Ordering::Release);
    OWN.store(own.map_or(NOBODY, |own| own.0), Ordering::Release);
}

/// Whether this is known to be the one process in its memory.
#[inline]
#[must_use]
pub fn is_alone(table: &Table) -> bool {
    SEES_ALL.load(Ordering::Acquire) && table.closed.load(Ordering::SeqCst) == 0
}

/// Nothing is known or learnt any more: not all calls are seen, or not told apart.
pub fn distrust(process: &Process) {
    SEES_ALL.store(false, Ordering::SeqCst);
    OWN.store(NOBODY, Ordering::SeqCst);
    close(process.pool.descriptors(), FOR_GOOD);
}

/// Forgets all files, and learns none: for good, or until this thread goes on.
fn close(table: &Table, until: u64) {
    let order = Ordering::SeqCst;
    // One that waits, or its child, makes another one: who goes on first does not know of the other.
    if table
        .closed
        .compare_exchange(0, until, order, order)
        .is_err()
    {
        table.closed.store(FOR_GOOD, order);
    }
    forget(table, 0, u32::MAX);
}

/// The process that its memory belongs to is told that it is. If it was waiting for a child of vfork(2) in this thread, that is gone from the memory.
pub fn go_on(table: &Table) {
    let order = Ordering::SeqCst;
    let thread = clock::thread();
    if thread != FOR_GOOD {
        let _ = table.closed.compare_exchange(thread, 0, order, order);
    }
}

/// A handler begins in this thread. Where it interrupted what is about to make a child of vfork(2), it would be taken for what goes on after that
/// child: then nothing is learnt any more.
pub fn interrupted(table: &Table) {
    let order = Ordering::SeqCst;
    let _ = (table.closed).compare_exchange(clock::thread(), FOR_GOOD, order, order);
}

/// Forgets which of these descriptors are files.
fn forget(table: &Table, first: u32, last: u32) {
    let end = KNOWN_LEN.min(last.saturating_add(1)) as usize;
    for known in table.known.get(first as usize..end).unwrap_or_default() {
        known.store(0, Ordering::SeqCst);
    }
}

/// The sysroot's descriptor, if it is known to be it in the table of whoever asks.
#[inline]
#[must_use]
pub fn own(process: &Process) -> Option<Fd> {
    let own = OWN.load(Ordering::Acquire);
    if own == NOBODY || CHILD_WITHOUT.load(Ordering::Acquire) != 0 && is_without(process) {
        return None;
    }
    Some(Fd(own))
}

/// The sysroot's descriptor turned out not to be it, in whichever table.
pub fn distrust_own() {
    OWN.store(NOBODY, Ordering::Release);
}

#[cold]
fn is_without(process: &Process) -> bool {
    let child = CHILD_WITHOUT.load(Ordering::Acquire);
    if !process
        .pool
        .descriptors()
        .has_child_without
        .load(Ordering::Acquire)
    {
        // Of another process, which made this one by fork(2): perhaps that very child.
        distrust_own();
        return true;
    }
    if child == getpid() {
        return true;
    }
    if tgkill(child, child, 0) == Err(Errno::ESRCH) {
        let _ = CHILD_WITHOUT.compare_exchange(child, 0, Ordering::AcqRel, Ordering::Relaxed);
    }
    false
}

/// Descriptors from `first` to `last` are about to be closed or to become others.
pub fn closing(process: &Process, first: u32, last: u32) {
    let table = process.pool.descriptors();
    forget(table, first, last);
    let own = OWN.load(Ordering::Acquire);
    let is_own = u32::try_from(own).is_ok_and(|own| (first..=last).contains(&own));
    if !is_own {
        return;
    }
    if !process.pool.is_guest_in_memory() {
        return distrust_own();
    }
    // Its own table's: the parent goes on.
    table.has_child_without.store(true, Ordering::Release);
    let child = getpid();
    let order = (Ordering::AcqRel, Ordering::Acquire);
    match CHILD_WITHOUT.compare_exchange(0, child, order.0, order.1) {
        Err(other) if other != child => distrust_own(),
        _ => {}
    }
}

/// This child of vfork(2) leaves the memory that it shares, by executing something: whether it has to come back where that fails.
#[must_use]
pub fn leave() -> bool {
    let child = CHILD_WITHOUT.load(Ordering::Acquire);
    child != 0
        && child == getpid()
        && (CHILD_WITHOUT.compare_exchange(child, 0, Ordering::AcqRel, Ordering::Relaxed)).is_ok()
}

/// [`leave`] said that it was one, and is here still.
pub fn come_back() {
    // Another one may be in its place, so that neither is told from the parent.
    let own = getpid();
    if (CHILD_WITHOUT.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed)).is_err() {
        distrust_own();
    }
}

/// From now on two tables of descriptors may go with this memory; `waits`: only until this thread goes on.
pub fn split(process: &Process, waits: bool) {
    let until = if waits { clock::thread() } else { FOR_GOOD };
    close(process.pool.descriptors(), until);
    // A child of such a child has its parent's table, and a number of its own.
    if own(process).is_none() {
        distrust_own();
    }
}

/// A regular file of the sysroot was opened to be read only, and has this number.
#[inline]
pub fn learn_file(process: &Process, fd: usize) {
    let is_of_use = process
        .coherence
        .is_some_and(|coherence| coherence.mode == Mode::Lease);
    let table = process.pool.descriptors();
    let Some(known) = table.known.get(fd).filter(|_| is_of_use) else {
        return;
    };
    if !is_alone(table) {
        // Asking who this is takes a call of the host's.
        let has_waited = table.closed.load(Ordering::Relaxed) == clock::thread();
        if !has_waited || process.pool.is_guest_in_memory() || !is_alone(table) {
            return;
        }
    }
    known.store(1, Ordering::SeqCst);
    // It may have been closed meanwhile, by who forgot all files before this one was known.
    if !is_alone(table) {
        known.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::{FOR_GOOD, KNOWN_LEN, Table, clock, close, forget, go_on};

    fn known(table: &Table) -> usize {
        let is_known = |known: &&core::sync::atomic::AtomicU8| known.load(Ordering::Relaxed) != 0;
        table.known.iter().filter(is_known).count()
    }

    #[test]
    fn any_range_of_numbers_can_be_forgotten_and_no_others_are() {
        for (first, last, left) in [
            (0, u32::MAX, 0),
            (3, 3, KNOWN_LEN - 1),
            (u32::MAX, u32::MAX, KNOWN_LEN),
            (KNOWN_LEN, u32::MAX, KNOWN_LEN),
            (KNOWN_LEN - 1, KNOWN_LEN, KNOWN_LEN - 1),
            (5, 4, KNOWN_LEN),
        ] {
            let table = Table::new();
            for known in &table.known {
                known.store(1, Ordering::Relaxed);
            }
            forget(&table, first, last);
            assert_eq!(known(&table), left as usize, "{first} to {last}");
        }
    }

    #[test]
    fn a_closed_table_knows_nothing() {
        let table = Table::new();
        table.known[7].store(1, Ordering::Relaxed);
        close(&table, FOR_GOOD);
        assert_eq!(known(&table), 0);
        go_on(&table);
        assert_eq!(table.closed.load(Ordering::Relaxed), FOR_GOOD);
    }

    #[test]
    fn a_table_that_was_closed_by_a_thread_is_opened_when_that_goes_on_unless_it_was_closed_again()
    {
        let closed = |table: &Table| table.closed.load(Ordering::Relaxed);
        let (table, own) = (Table::new(), clock::thread());
        close(&table, own);
        assert_eq!(closed(&table), own);
        go_on(&table);
        assert_eq!(closed(&table), 0);
        close(&table, own ^ 1);
        go_on(&table);
        assert_eq!(closed(&table), own ^ 1);
        close(&table, own);
        go_on(&table);
        assert_eq!(closed(&table), FOR_GOOD);
    }
}
