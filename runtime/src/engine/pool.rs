//! Work areas for path calls: taken by compare-and-swap, given back when the call is done.
//!
//! A handler may be interrupted by a handler, may be left by siglongjmp(3) and then never gives its area back, and may run in a
//! child of vfork(2) that shares this memory. Therefore the owner of an area is written down: an area whose owner is gone is taken
//! over. When all [`AREAS`] are taken an area is mapped for one call and unmapped after it; what is lost then is time.
//! Most processes need one at a time: the first lies in the image, beside its data, the others are mapped when a second one is asked for.
//!
//! # Safety
//! An area belongs to whoever changed its owner word from 0 to their thread's number, until they change it back; no other reference
//! to it exists meanwhile. A child of fork(2) has copies of the words, with numbers of its parent's threads in them: a handler that its
//! fork interrupted may go on there, so that these areas too are taken over only when there is no other.
#![allow(unsafe_code)]

use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use super::descriptors;
use super::stacks::SignalStack;
use crate::errno::Errno;
use crate::sys::abi::{MADV_WIPEONFORK, PAGE, PATH_MAX, PROT_READ, PROT_WRITE};
use crate::sys::host::{getpid, getppid, gettid, share_memory, signal_stack, tgkill};
use crate::sys::memory::{Place, advise, anonymous, map, unmap};
use crate::sys::nr;
use crate::sys::raw::call;
use crate::vfs::path::{AT_ROOM, Area, PathBuf};

/// How many areas a process has before it maps more.
pub const AREAS: usize = 32;

/// Bytes of a path or text of the guest's.
pub type Text = [u8; PATH_MAX];

/// What one path call works in. None of it is cleared before it is used. The first of it lies beside the runtime's data in memory.
#[derive(Debug)]
#[repr(C)]
pub struct Work {
    /// Where the first path starts: the guest path of the working directory or of a dirfd.
    pub start: PathBuf<AT_ROOM>,
    /// The first path as the guest gave it.
    pub first: Text,
    /// The second one of calls that take two.
    pub second: Text,
    /// A path that the host told: of a working directory, of a descriptor.
    pub told: Text,
    /// The same of the second path.
    pub second_start: PathBuf<AT_ROOM>,
    /// Whatever else a call needs: results, lists, names.
    pub scratch: [u8; 16384],
    /// What is passed on over exec.
    pub state: [u8; 16384],
    /// An argument vector that is made for exec.
    pub vector: [usize; 2048],
    /// Resolution of the first path.
    pub area: Area,
    /// Resolution of the second path.
    pub second_area: Area,
}

/// How many such children there can be at a time: a thread that waits for each.
const MAX_TRACED: usize = 8;

/// What fork(2) clears in the child.
#[derive(Debug)]
#[repr(C)]
struct ForkPage {
    /// Process that this memory belongs to; 0: nobody has asked since a fork. A child of vfork(2) sees its parent's.
    process: AtomicU32,
    /// See [`Pool::sees_all_users`]. 0: nobody has asked since a fork.
    users: AtomicU32,
    /// Children of vfork(2) that asked to be traced and have not executed anything yet.
    to_be_traced: [AtomicU32; MAX_TRACED],
    /// What is known of descriptors.
    descriptors: descriptors::Table,
}

const _: () = assert!(size_of::<ForkPage>() <= PAGE);

/// Who has an area.
#[derive(Debug)]
struct Owner {
    /// Number of the thread; 0: nobody.
    thread: AtomicU32,
    /// Address on the stack of the handler that took it.
    frame: AtomicUsize,
}

/// The areas of a process.
#[derive(Debug)]
pub struct Pool {
    page: &'static ForkPage,
    owners: [Owner; AREAS],
    /// The areas behind the first one; null: not mapped yet.
    others: AtomicPtr<Work>,
}

/// The first area of the process's pool.
#[repr(C)]
struct First(UnsafeCell<MaybeUninit<Work>>);

// SAFETY: shared by the rule at the top.
unsafe impl Sync for First {}

static FIRST: First = First(UnsafeCell::new(MaybeUninit::zeroed()));

/// Who takes areas: one run of the handler. What it has taken itself is in use, wherever it was when it took that.
#[derive(Debug, Default)]
pub struct Taker {
    /// Bit n: it took area n.
    taken: Cell<u32>,
    /// The signal stack of its thread; `None`: the kernel is to be asked.
    signal_stack: Option<SignalStack>,
    /// It is the start of a process, whose one thread has the process's number.
    is_start: bool,
}

const _: () = assert!(AREAS <= u32::BITS as usize);

impl Taker {
    /// In a thread with this signal stack.
    #[must_use]
    pub fn on(signal_stack: SignalStack) -> Self {
        Self {
            taken: Cell::new(0),
            signal_stack: Some(signal_stack),
            is_start: false,
        }
    }

    /// The start of a process, before the guest's first instruction.
    #[must_use]
    pub fn at_start() -> Self {
        Self {
            is_start: true,
            ..Self::default()
        }
    }

    /// In a thread of which it is not known whether it has one.
    #[must_use]
    pub fn on_any_stack() -> Self {
        Self::default()
    }

    /// Whether the frame in which this thread took another area was left by siglongjmp(3): it would have to lie deeper in the same stack
    /// than `here`. Who is not on the signal stack any more has left all that was there.
    fn has_left(&self, frame: usize, here: usize) -> bool {
        const SAME_STACK: usize = 1 << 20;
        let ask = || SignalStack::from_words(signal_stack());
        let stack = self.signal_stack.unwrap_or_else(ask);
        let is_on = |at: usize| at.wrapping_sub(stack.start) < stack.len;
        match (is_on(here), is_on(frame)) {
            (false, true) => true,
            (true, false) => false,
            _ => here.wrapping_sub(frame) < SAME_STACK,
        }
    }
}

/// An area in use.
#[derive(Debug)]
pub struct Taken<'p> {
    work: *mut Work,
    owner: &'p AtomicU32,
    /// It was mapped for this call alone.
    is_extra: bool,
}

/// Owner word of areas that are mapped for one call.
static EXTRA: AtomicU32 = AtomicU32::new(0);

impl Pool {
    /// The process's pool, of which there is one: its first area is [`FIRST`]. `process`: its number.
    ///
    /// # Errors
    /// ENOMEM; others where the kernel lacks MADV_WIPEONFORK (before 4.14).
    pub fn new(process: u32) -> Result<Self, Errno> {
        let page = anonymous(PAGE)?;
        advise(page.as_ptr().expose_provenance(), PAGE, MADV_WIPEONFORK)?;
        // SAFETY: a zeroed page is a `ForkPage`: atomics of 0; page-aligned, never unmapped.
        let page = unsafe { &*page.as_ptr().cast::<ForkPage>() };
        page.process.store(process, Ordering::Relaxed);
        Ok(Self {
            page,
            owners: [const {
                Owner {
                    thread: AtomicU32::new(0),
                    frame: AtomicUsize::new(0),
                }
            }; AREAS],
            others: AtomicPtr::new(null_mut()),
        })
    }

    /// Memory of an area.
    fn area(&self, number: usize) -> Result<*mut Work, Errno> {
        let Some(behind_first) = number.checked_sub(1) else {
            return Ok(FIRST.0.get().cast());
        };
        let known = self.others.load(Ordering::Acquire);
        if !known.is_null() {
            return Ok(known.wrapping_add(behind_first));
        }
        let len = (AREAS - 1) * size_of::<Work>();
        // SAFETY: only a free range is taken.
        let at = unsafe { map(Place::Own, len, PROT_READ | PROT_WRITE, None) }?;
        let made = core::ptr::with_exposed_provenance_mut::<Work>(at);
        let placed =
            (self.others).compare_exchange(null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
        let others = placed.map_or_else(
            |other| {
                // SAFETY: mapped a moment ago and known to nobody.
                unsafe { unmap(at, len) };
                other
            },
            |_| made,
        );
        Ok(others.wrapping_add(behind_first))
    }

    /// What `ask` says, asked once a process: it stands on the page that fork clears, as the child may be in another namespace.
    pub fn sees_all_users(&self, ask: impl FnOnce() -> bool) -> bool {
        const YES: u32 = 1;
        const NO: u32 = 2;
        match self.page.users.load(Ordering::Relaxed) {
            0 => {
                let sees = ask();
                let kept = if sees { YES } else { NO };
                self.page.users.store(kept, Ordering::Relaxed);
                sees
            }
            kept => kept == YES,
        }
    }

    /// That may be otherwise now.
    pub fn forget_users(&self) {
        self.page.users.store(0, Ordering::Relaxed);
    }

    /// What is known of descriptors.
    #[inline]
    #[must_use]
    pub fn descriptors(&self) -> &'static descriptors::Table {
        &self.page.descriptors
    }

    /// Whether this is a child of vfork(2) or the like: a process that runs in another one's memory.
    #[must_use]
    pub fn is_guest_in_memory(&self) -> bool {
        let descriptors = self.descriptors();
        if descriptors::is_alone(descriptors) {
            return false;
        }
        let is_guest = self.process() != getpid();
        if !is_guest {
            descriptors::go_on(descriptors);
        }
        is_guest
    }

    /// Remembers that this child of vfork(2) is to be traced from its exec on; false: it is none, or there are too many.
    #[must_use]
    pub fn trace_from_exec(&self) -> bool {
        let own = getpid();
        let take = |word: &AtomicU32| {
            let taken = word.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok()
        };
        self.is_guest_in_memory() && self.page.to_be_traced.iter().any(take)
    }

    /// Whether this process asked for it; it is forgotten now.
    #[must_use]
    pub fn is_traced_from_exec(&self) -> bool {
        let own = getpid();
        let forget = |word: &AtomicU32| {
            let found = word.compare_exchange(own, 0, Ordering::Relaxed, Ordering::Relaxed);
            found.is_ok()
        };
        self.page.to_be_traced.iter().any(forget)
    }

    /// The process that this memory belongs to.
    fn process(&self) -> u32 {
        let known = self.page.process.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        // A fork has cleared it. Who asks first is the process that was made, or a child of its own that shares its memory.
        let (own, parent) = (getpid(), getppid());
        let process = if share_memory(own, parent) {
            parent
        } else {
            own
        };
        self.page.process.store(process, Ordering::Relaxed);
        process
    }

    /// Takes an area.
    ///
    /// # Errors
    /// ENOMEM: all are taken and no more can be mapped.
    pub fn take(&self, taker: &Taker) -> Result<Taken<'_>, Errno> {
        let thread = if taker.is_start {
            self.page.process.load(Ordering::Relaxed)
        } else {
            gettid()
        };
        let here = 0_u8;
        let frame = (&raw const here).addr();
        if let Some(taken) = self.take_free(thread, frame, taker) {
            return Ok(taken);
        }
        self.reclaim(thread, frame, taker);
        if let Some(taken) = self.take_free(thread, frame, taker) {
            return Ok(taken);
        }
        // SAFETY: only a free range is taken.
        let at = unsafe {
            map(
                Place::OwnForACall,
                size_of::<Work>(),
                PROT_READ | PROT_WRITE,
                None,
            )
        }?;
        let work = core::ptr::with_exposed_provenance_mut(at);
        Ok(Taken {
            work,
            owner: &EXTRA,
            is_extra: true,
        })
    }

    fn take_free(&self, thread: u32, frame: usize, taker: &Taker) -> Option<Taken<'_>> {
        for (number, owner) in self.owners.iter().enumerate() {
            let Owner {
                thread: owner,
                frame: of,
            } = owner;
            if owner
                .compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                let Ok(work) = self.area(number) else {
                    owner.store(0, Ordering::Release);
                    return None;
                };
                of.store(frame, Ordering::Relaxed);
                taker.taken.set(taker.taken.get() | 1 << number);
                return Some(Taken {
                    work,
                    owner,
                    is_extra: false,
                });
            }
        }
        None
    }

    /// Frees areas whose owners are gone: threads that ended, children of vfork that were killed, and handlers of this very thread that
    /// siglongjmp(3) left.
    fn reclaim(&self, asking: u32, here: usize, taker: &Taker) {
        let process = self.process();
        let is_gone = |of, thread| tgkill(of, thread, 0) == Err(Errno::ESRCH);
        for (number, owner) in self.owners.iter().enumerate() {
            let Owner {
                thread: owner,
                frame,
            } = owner;
            let thread = owner.load(Ordering::Relaxed);
            let is_own = taker.taken.get() & 1 << number != 0;
            let left =
                thread == asking && !is_own && taker.has_left(frame.load(Ordering::Relaxed), here);
            // A child of vfork is a process of its own.
            let gone = thread != 0 && is_gone(process, thread) && is_gone(thread, thread);
            if left || gone {
                let _ = owner.compare_exchange(thread, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

impl Taken<'_> {
    /// The area.
    pub fn work(&mut self) -> &mut Work {
        // SAFETY: owned, see the top; zeroed when it was made, and every byte pattern is a `Work`.
        unsafe { &mut *self.work }
    }

    /// The word that holds the owner's number.
    #[must_use]
    pub fn owner(&self) -> &AtomicU32 {
        self.owner
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.is_extra {
            // SAFETY: mapped by `take` for this value alone.
            unsafe { unmap(self.work.addr(), size_of::<Work>()) };
        } else {
            self.owner.store(0, Ordering::Release);
        }
    }
}

/// For a child of vfork(2) that is about to execute another program: has the kernel clear the area's owner word when this process
/// leaves the memory that it shares, as it does with a thread's number (set_tid_address(2)).
pub fn leave_with_image(owner: *const AtomicU32) {
    // SAFETY: the address of a word that lasts as long as the memory; the kernel writes 0 to it.
    let _ = unsafe { call(nr::SET_TID_ADDRESS, [owner.addr(), 0, 0, 0, 0, 0]) };
}

/// Takes [`leave_with_image`] back: the exec failed.
pub fn stay_with_image() {
    // SAFETY: no address.
    let _ = unsafe { call(nr::SET_TID_ADDRESS, [0; 6]) };
}

#[cfg(test)]
mod tests {
    use super::{FIRST, Pool, Taker};
    use crate::engine::stacks::SignalStack;
    use crate::sys::host::getpid;

    #[test]
    fn the_first_area_is_the_images_and_each_taken_meanwhile_another_one() {
        let pool = Pool::new(getpid()).unwrap();
        let taker = Taker::at_start();
        let address = |taken: &mut super::Taken<'_>| core::ptr::from_mut(taken.work()).addr();
        let mut first = pool.take(&taker).unwrap();
        let mut second = pool.take(&taker).unwrap();
        let mut third = pool.take(&taker).unwrap();
        let [one, two, three] = [&mut first, &mut second, &mut third].map(address);
        assert_eq!(one, FIRST.0.get().addr());
        assert!(one != two && two != three && three != one);
        assert_eq!(three - two, size_of::<super::Work>());
        drop(second);
        assert_eq!(address(&mut pool.take(&taker).unwrap()), two);
    }

    #[test]
    fn a_frame_deeper_in_the_same_stack_was_left_and_one_further_up_was_not() {
        let taker = Taker::default();
        assert!(taker.has_left(0x7000_0000, 0x7000_0000));
        assert!(taker.has_left(0x7000_0000, 0x7000_0800));
        assert!(!taker.has_left(0x7000_0800, 0x7000_0000));
        assert!(!taker.has_left(0x6000_0000, 0x7000_0000));
    }

    #[test]
    fn what_was_on_the_signal_stack_was_left_by_who_is_not_there_and_nothing_else_by_who_is() {
        let taker = Taker::on(SignalStack {
            start: 0x7000_1000,
            flags: 0,
            len: 0x1000,
        });
        let (on, below, above) = (0x7000_1800, 0x7000_0800, 0x7000_2800);
        assert!(taker.has_left(on, below) && taker.has_left(on, above));
        assert!(!taker.has_left(below, on) && !taker.has_left(above, on));
        assert!(
            taker.has_left(on, on) && taker.has_left(on - 8, on) && !taker.has_left(on + 8, on)
        );
    }
}
