//! What this process knows of its run. Made before the guest's first instruction; read from signal handlers ever after.
//!
//! # Safety
//! The state is reached through a pointer that only ever comes from a `&'static`; what changes in it is atomic.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

use super::descriptors;
use super::pool::Pool;
use super::stacks::Stacks;
use super::text::Code;
use crate::errno::Errno;
use crate::options::Inherited;
use crate::sys::abi::{O_CLOEXEC, O_DIRECTORY, O_PATH, RLIMIT_NOFILE, SIG_SETMASK, SignalSet};
use crate::sys::clock;
use crate::sys::host::{Fd, close, fstat, keep_from, limits, openat, set_limits, signal_mask};
use crate::sys::raw::Raw;
use crate::vfs::coherence::LEASE;
use crate::vfs::{Coherence, Vfs};

/// The run as this process has it.
#[derive(Debug)]
pub struct Process {
    /// What is handed on over exec.
    pub run: Inherited<'static>,
    /// Whether the filter is installed. Ask [`Process::is_armed`].
    pub armed: AtomicBool,
    /// The sysroot's host path with a NUL.
    pub sysroot_path: &'static CStr,
    /// The cached descriptor of the sysroot; the guest may close or replace it, so it is compared before each use.
    pub sysroot_fd: AtomicI32,
    /// Since when that comparison may be left out.
    pub trust: Trust,
    /// Work areas.
    pub pool: &'static Pool,
    /// Signal stacks that stand in for the guest's.
    pub stacks: &'static Stacks,
    /// Lookup.
    pub vfs: Vfs<'static>,
    /// What is known of code; `None`: nothing, and the filter is armed from the start.
    pub code: Option<Code>,
    /// Where changes are announced to the other runs on this sysroot; `None`: to nobody.
    pub coherence: Option<&'static Coherence<'static>>,
}

/// How long the cached descriptor is used without being compared.
///
/// Nothing makes a descriptor whose number is not below the process's limit. So while the limit is as it was found, there is the sysroot or
/// nothing at a number above it, whatever the guest does; and what it does to its limit is trapped. What *others* do to it
/// (prlimit(2)) is found out with the next comparison.
#[derive(Debug)]
pub struct Trust {
    /// Changes of limits, see [`Process::changing_limits`]: in the lower half those that are being made. On a page that all processes have
    /// in common which may share their descriptors: exec(2) ends either. `None`: nothing is trusted.
    changes: Option<&'static AtomicU64>,
    /// The number, the count of changes before it was compared, and when that was.
    fd: AtomicI32,
    seen: AtomicU64,
    until: AtomicU64,
}

/// Stands for the descriptor where it is known that its number is no good.
const NONE: Fd = Fd(-1);

impl Trust {
    /// Nothing is trusted so far.
    #[must_use]
    pub const fn new(changes: Option<&'static AtomicU64>) -> Self {
        Self {
            changes,
            fd: AtomicI32::new(-1),
            seen: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    fn changes(&self) -> Option<u64> {
        let changes = self.changes?.load(Ordering::SeqCst);
        (changes as u32 == 0).then_some(changes)
    }

    fn trusted(&self, now: u64) -> Option<Fd> {
        let until = self.until.load(Ordering::Acquire);
        let fd = Fd(self.fd.load(Ordering::Acquire));
        let seen = self.seen.load(Ordering::Acquire);
        let is_new = until > now && until - now <= LEASE;
        (is_new && self.changes() == Some(seen)).then_some(fd)
    }
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// Sets the process's state, for handlers to find.
pub fn set(process: &'static Process) -> &'static Process {
    if let Some(coherence) = process.coherence {
        super::patched::set_flag(coherence.ended_flag());
    }
    descriptors::set_table(process.pool.descriptors());
    PROCESS.store(core::ptr::from_ref(process).cast_mut(), Ordering::Release);
    process
}

/// The process's state.
///
/// # Panics
/// If it is not set: nothing that asks runs before.
#[must_use]
pub fn process() -> &'static Process {
    let at = PROCESS.load(Ordering::Acquire);
    // SAFETY: null, or what `set` stored: a reference that lasts as long as the process.
    unsafe { at.as_ref() }.expect("the process's state is set before its handlers")
}

/// Opens the directory that a cached descriptor stands for. Its number lies above the guest's limit where that is no more than [`CHEAP`] and the
/// hard limit leaves room or may be raised: there no dup2(2) reaches it, and none of the guest's numbers is taken. Else it is as high as
/// is cheap, as guests count on low ones: each fork(2) copies the table of descriptors up to the highest one.
/// It stays open over exec, so that a guest without a number to spare can still be served.
///
/// # Errors
/// Those of open(2).
pub fn open_high(path: &CStr) -> Result<Fd, Errno> {
    let open = || openat(Fd::CWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    let limits = limits(RLIMIT_NOFILE).unwrap_or([1024, 1024]);
    let high = above_limit(limits, |least| {
        let low = open()?;
        moved(low, least).inspect_err(|_| close(low))
    });
    match high {
        Some(high) => Ok(high),
        None => Ok(moved_below(limits, open()?)),
    }
}

/// Gives the sysroot's descriptor, when it is opened for the first time, a number as [`open_high`] does.
#[must_use]
pub fn keep_high(low: Fd) -> Fd {
    let limits = limits(RLIMIT_NOFILE).unwrap_or([1024, 1024]);
    above_limit(limits, |least| moved(low, least)).unwrap_or_else(|| moved_below(limits, low))
}

/// Makes a descriptor above the soft limit, where that is possible. `make`: with which number or a greater one.
fn above_limit([soft, hard]: [u64; 2], make: impl FnOnce(i32) -> Result<Fd, Errno>) -> Option<Fd> {
    // Who may raise the hard limit has room above it, too.
    let raised = if soft < hard {
        [hard.min(soft + ABOVE), hard]
    } else {
        [hard.saturating_add(ABOVE); 2]
    };
    if soft <= CHEAP && soft < raised[0] {
        // A handler of the guest's that left by a jump would leave the limit raised.
        let mask = signal_mask(SIG_SETMASK, SignalSet(!0));
        let raised = set_limits(RLIMIT_NOFILE, raised);
        let high = raised.and_then(|()| make(soft as i32));
        // What it was is always allowed.
        let _ = set_limits(RLIMIT_NOFILE, [soft, hard]);
        signal_mask(SIG_SETMASK, mask);
        return high.ok();
    }
    None
}

/// Moves a descriptor to a number that is as high as the limit allows and as is cheap; leaves it where it is, if there is none.
fn moved_below([soft, _]: [u64; 2], low: Fd) -> Fd {
    let soft = soft.min(CHEAP) as i32;
    let moved = moved(low, (soft - 24).max(3)).or_else(|_| moved(low, (soft / 2).max(3)));
    moved.unwrap_or(low)
}

/// Up to which number a descriptor costs a fork little: some pages of pointers in the kernel.
const CHEAP: u64 = 1024;
/// How many numbers above the guest's limit are tried.
const ABOVE: u64 = 16;

/// A copy numbered `least` or more in the place of a descriptor.
fn moved(fd: Fd, least: i32) -> Result<Fd, Errno> {
    let high = keep_from(fd, least)?;
    close(fd);
    Ok(high)
}

impl Process {
    /// The same state for another program.
    #[must_use]
    pub fn with_run(&self, run: Inherited<'static>) -> Self {
        Self {
            run,
            armed: AtomicBool::new(self.is_armed()),
            sysroot_path: self.sysroot_path,
            sysroot_fd: AtomicI32::new(self.cached_fd().0),
            trust: Trust::new(self.trust.changes),
            pool: self.pool,
            stacks: self.stacks,
            vfs: self.vfs,
            code: self.code,
            coherence: self.coherence,
        }
    }

    /// The sysroot's descriptor, made sure to be it.
    ///
    /// # Errors
    /// Those of open(2), where it has to be opened again; ENOENT: something else lies at its path now.
    pub fn sysroot(&self) -> Result<Fd, Errno> {
        if let Some(own) = descriptors::own(self) {
            return Ok(own);
        }
        let cached = Fd(self.sysroot_fd.load(Ordering::Relaxed));
        if self.is_sysroot(cached) {
            return Ok(cached);
        }
        let opened = open_high(self.sysroot_path)?;
        if !self.is_sysroot(opened) {
            close(opened);
            return Err(Errno::ENOENT);
        }
        // In a child of vfork this number is of another table than the parent's: the parent will compare and open its own.
        let (old, new) = (cached.0, opened.0);
        match self
            .sysroot_fd
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => Ok(opened),
            Err(other) if self.is_sysroot(Fd(other)) => {
                close(opened);
                Ok(Fd(other))
            }
            Err(_) => Ok(opened),
        }
    }

    /// The sysroot's descriptor, which may have been closed since it was compared, but is nothing else: a call that says EBADF has to be
    /// made again after [`Process::distrust`].
    ///
    /// # Errors
    /// As of [`Process::sysroot`].
    #[inline]
    pub fn trusted_sysroot(&self) -> Result<Fd, Errno> {
        match descriptors::own(self) {
            Some(own) => Ok(own),
            None => self.sysroot_below_limit(),
        }
    }

    fn sysroot_below_limit(&self) -> Result<Fd, Errno> {
        let now = clock::ticks();
        match self.trust.trusted(now) {
            Some(NONE) => return self.sysroot(),
            Some(fd) => return Ok(fd),
            None => {}
        }
        let changes = self.trust.changes();
        let fd = self.sysroot()?;
        // A child of vfork has descriptors of its own, and its parent's memory.
        if let Some(changes) = changes
            && let Ok([soft, _]) = limits(RLIMIT_NOFILE)
            && !self.pool.is_guest_in_memory()
        {
            let is_above = u64::try_from(fd.0).is_ok_and(|number| number >= soft);
            let Fd(number) = if is_above { fd } else { NONE };
            let trust = &self.trust;
            trust.until.store(0, Ordering::Release);
            trust.fd.store(number, Ordering::Release);
            trust.seen.store(changes, Ordering::Release);
            trust
                .until
                .store(now.saturating_add(LEASE), Ordering::Release);
        }
        Ok(fd)
    }

    /// Whether the cached descriptor's number is none that a call could make another descriptor at: only then is it ever trusted.
    #[must_use]
    pub fn is_above_limit(&self, limit: u64) -> bool {
        let number = u64::try_from(self.cached_fd().0);
        number.is_ok_and(|number| number >= limit)
    }

    /// The cached descriptor is to be compared before it is used again.
    pub fn distrust(&self) {
        descriptors::distrust_own();
        self.trust.until.store(0, Ordering::Release);
    }

    /// Makes a call that may change a limit.
    pub fn changing_limits(&self, change: impl FnOnce() -> Raw) -> Raw {
        let Some(changes) = self.trust.changes else {
            return change();
        };
        changes.fetch_add(1, Ordering::SeqCst);
        let result = change();
        changes.fetch_add((1 << 32) - 1, Ordering::SeqCst);
        result
    }

    /// The cached descriptor's number, whatever it is now.
    #[must_use]
    pub fn cached_fd(&self) -> Fd {
        let cached = || Fd(self.sysroot_fd.load(Ordering::Relaxed));
        descriptors::own(self).unwrap_or_else(cached)
    }

    /// Whether the filter is installed: it stays over exec and is not stacked.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        super::arm::is_armed(self)
    }

    /// Makes a call that may change what names there are, it is not known where.
    pub fn mutating(&self, change: impl FnOnce() -> Raw) -> Raw {
        self.touch();
        let result = self.announcing(change);
        self.touch();
        result
    }

    /// Tells the other runs of a change of names.
    pub(super) fn announcing(&self, change: impl FnOnce() -> Raw) -> Raw {
        let Some(coherence) = self.coherence else {
            return change();
        };
        coherence.mutate_begin();
        let result = change();
        coherence.mutate_end();
        result
    }

    fn is_sysroot(&self, fd: Fd) -> bool {
        fstat(fd).is_ok_and(|found| {
            found.dev == self.run.sysroot_dev && found.ino == self.run.sysroot_ino
        })
    }
}
