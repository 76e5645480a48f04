//! What this process knows of its run. Made before the guest's first instruction; read from signal handlers ever after.
//!
//! # Safety
//! The state is reached through a pointer that only ever comes from a `&'static`; what changes in it is atomic.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use super::pool::Pool;
use super::stacks::Stacks;
use crate::errno::Errno;
use crate::options::Inherited;
use crate::sys::abi::{O_CLOEXEC, O_DIRECTORY, O_PATH, RLIMIT_NOFILE};
use crate::sys::host::{Fd, close, fstat, keep_from, openat, soft_limit};
use crate::sys::raw::Raw;
use crate::vfs::{Coherence, Vfs};

/// The run as this process has it.
#[derive(Debug)]
pub struct Process {
    /// What is handed on over exec.
    pub run: Inherited<'static>,
    /// What `/proc/self/exe` is on the host: the runtime's own file.
    pub runtime_path: &'static [u8],
    /// Whether the filter is installed.
    pub armed: AtomicBool,
    /// The sysroot's host path with a NUL.
    pub sysroot_path: &'static CStr,
    /// The cached descriptor of the sysroot; the guest may close or replace it, so it is compared before each use.
    pub sysroot_fd: AtomicI32,
    /// Work areas.
    pub pool: &'static Pool,
    /// Signal stacks that stand in for the guest's.
    pub stacks: &'static Stacks,
    /// Lookup.
    pub vfs: Vfs<'static>,
    /// Where changes are announced to the other runs on this sysroot; `None`: to nobody.
    pub coherence: Option<&'static Coherence<'static>>,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// Sets the process's state, for handlers to find.
pub fn set(process: &'static Process) -> &'static Process {
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

/// Opens the directory that a cached descriptor stands for, numbered as high as the limit allows: guests count on low numbers. It stays
/// open over exec, so that a guest without a number to spare can still be served.
///
/// # Errors
/// Those of open(2).
pub fn open_high(path: &CStr) -> Result<Fd, Errno> {
    let low = openat(Fd::CWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0)?;
    let limit = soft_limit(RLIMIT_NOFILE).unwrap_or(1024).min(1 << 20) as i32;
    for least in [limit - 24, limit / 2] {
        if let Ok(high) = keep_from(low, least.max(3)) {
            close(low);
            return Ok(high);
        }
    }
    Ok(low)
}

impl Process {
    /// The same state for another program.
    #[must_use]
    pub fn with_run(&self, run: Inherited<'static>) -> Self {
        Self {
            run,
            runtime_path: self.runtime_path,
            armed: AtomicBool::new(self.is_armed()),
            sysroot_path: self.sysroot_path,
            sysroot_fd: AtomicI32::new(self.cached_fd().0),
            pool: self.pool,
            stacks: self.stacks,
            vfs: self.vfs,
            coherence: self.coherence,
        }
    }

    /// The sysroot's descriptor, made sure to be it.
    ///
    /// # Errors
    /// Those of open(2), where it has to be opened again; ENOENT: something else lies at its path now.
    pub fn sysroot(&self) -> Result<Fd, Errno> {
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

    /// The cached descriptor's number, whatever it is now.
    #[must_use]
    pub fn cached_fd(&self) -> Fd {
        Fd(self.sysroot_fd.load(Ordering::Relaxed))
    }

    /// Whether the filter is installed: it stays over exec and is not stacked.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// Makes a call that may change what names there are.
    pub fn mutating(&self, change: impl FnOnce() -> Raw) -> Raw {
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
