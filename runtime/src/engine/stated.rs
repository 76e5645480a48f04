//! What a frozen tree's index says of a file without the host: [`Vfs::said`](crate::vfs::Vfs::said). And the other half of the
//! bargain: who changes something in the sysroot, or gets hold of it for writing, says so first.

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

use super::call::{At, Call};
use super::descriptors;
use super::process::Process;
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{AT_EMPTY_PATH, CLONE_FILES, S_IFMT, S_IFREG};
use crate::sys::host::{Fd, fstat, readlinkat};
use crate::sys::nr;
use crate::sys::raw::Raw;
use crate::vfs::attributes::{STATX_LEN, Status};
use crate::vfs::{Base, Last, SHORT, Said};

/// access(2)'s mode for searching a directory.
const X_OK: usize = 1;

/// `stx_mnt_id` of the sysroot, plus [`FIRST`]; or one of the two below.
static MOUNT: AtomicU64 = AtomicU64::new(UNKNOWN);
const UNKNOWN: u64 = 0;
const NEVER: u64 = 1;
const FIRST: u64 = 2;

/// Where a call's place lies, as far as attributes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In the sysroot, or it is not known where.
    Inside,
    /// Elsewhere on the host.
    Outside,
    /// Where a descriptor leads.
    Descriptor,
}

impl Call<'_> {
    /// Answers a call about the path at `from`; `None`: it is the host's.
    #[inline]
    pub(super) fn said(
        &self,
        from: Address,
        last: Last,
        then: impl FnOnce(&Status<'_>) -> Option<Raw>,
    ) -> Option<Raw> {
        let process = self.process;
        if !process.vfs.says_attributes() || process.run.host_fallback {
            return None;
        }
        let mut room = MaybeUninit::<[u8; SHORT]>::uninit();
        let path = self.memory.read_short(from, &mut room)?.to_bytes();
        // A directory's `.` is the directory, for who may search it: that is how Emacs, for one, finds out, by `directory/./`.
        let whole = path.strip_suffix(b"/").unwrap_or(path);
        let directory = whole.strip_suffix(b"/.");
        let (path, last) = directory.map_or((path, last), |path| (path, Last::Follow));
        match process.vfs.said(process, path, last)? {
            Said::Fails(errno) => Some(errno.into()),
            Said::There(status) if directory.is_none() || status.is_open_to_all(X_OK) => {
                then(&status)
            }
            Said::There(_) => None,
        }
    }

    /// stat(2) and its kin.
    #[inline]
    pub(super) fn said_stat(&self, from: Address, last: Last, into: usize) -> Option<Raw> {
        self.said(from, last, |status| {
            let written = sees_all_users(self.process)
                .then(|| self.memory.write(Address(into), &status.stat()))?;
            Some(written.map_or_else(Errno::into, |()| Raw(0)))
        })
    }

    /// statx(2).
    pub(super) fn said_statx(
        &self,
        from: Address,
        last: Last,
        mask: u32,
        into: usize,
    ) -> Option<Raw> {
        self.said(from, last, |status| {
            if !status.has_statx(mask) || !sees_all_users(self.process) {
                return None;
            }
            let statx = status.statx(mask, mount(self.process)?);
            let written = self.memory.write(Address(into), &statx);
            Some(written.map_or_else(Errno::into, |()| Raw(0)))
        })
    }

    /// access(2) and its kin for `R_OK` and so on, where it succeeds whoever asks.
    #[inline]
    pub(super) fn said_access(&self, from: Address, last: Last, mode: usize) -> Option<Raw> {
        self.said(from, last, |status| {
            status.is_open_to_all(mode).then_some(Raw(0))
        })
    }
}

/// Whether this process sees owners as the kernel has them: in another user namespace stat says other numbers. Asked once a process, as
/// clone(2) may put a child into another; unshare(2) and setns(2) are served for that.
fn sees_all_users(process: &Process) -> bool {
    process.pool.sees_all_users(|| {
        let mut text = [0; 32];
        let len = readlinkat(Fd::CWD, c"/proc/self/ns/user", &mut text);
        // PROC_USER_INIT_INO of include/linux/proc_ns.h.
        len.is_ok_and(|len| text.get(..len) == Some(b"user:[4026531837]"))
    })
}

/// `stx_mnt_id` of the sysroot; `None`: the kernel says more or less of it than when its attributes were captured.
fn mount(process: &Process) -> Option<u64> {
    match MOUNT.load(Ordering::Relaxed) {
        UNKNOWN => {
            let found = ask_mount(process);
            let kept = found.map_or(NEVER, |mount| mount.wrapping_add(FIRST));
            MOUNT.store(kept, Ordering::Relaxed);
            found
        }
        NEVER => None,
        mount => Some(mount.wrapping_sub(FIRST)),
    }
}

#[cold]
fn ask_mount(process: &Process) -> Option<u64> {
    const MASK: u32 = 0xfff;
    /// Where the time of access stands, which is not compared.
    const ATIME: core::ops::Range<usize> = 64..80;
    let mut found = [0; STATX_LEN];
    let asked =
        crate::sys::host::statx_of(process.sysroot().ok()?, AT_EMPTY_PATH, MASK, &mut found);
    asked.ok()?;
    let mut mount = [0; 8];
    mount.copy_from_slice(&found[144..152]);
    let mount = u64::from_ne_bytes(mount);
    let root = process.vfs.said_root(process.run.sysroot_dev)?;
    let mut known = root.has_statx(MASK).then(|| root.statx(MASK, mount))?;
    found[ATIME].fill(0);
    known[ATIME].fill(0);
    (found == known).then_some(mount)
}

fn place(process: &Process, at: &At<'_>) -> Where {
    if at.is_magic_link {
        return Where::Descriptor;
    }
    let Some(host) = at.host.filter(|_| !at.magic && at.base == Base::Host) else {
        return Where::Inside;
    };
    let sysroot = process.run.sysroot;
    match host.to_bytes().strip_prefix(sysroot) {
        Some([] | [b'/', ..]) => Where::Inside,
        Some(_) if sysroot == b"/" => Where::Inside,
        _ => Where::Outside,
    }
}

impl Process {
    /// Makes a call that may change what stat returns of what lies at any of these places.
    pub fn touching(&self, places: &[&At<'_>], change: impl FnOnce() -> Raw) -> Raw {
        if places.iter().all(|at| place(self, at) == Where::Outside) {
            return change();
        }
        self.touch();
        let result = change();
        self.touch();
        result
    }

    /// Something in the sysroot may be about to change, or have changed.
    pub fn touch(&self) {
        if let Some(coherence) = self.coherence {
            coherence.touch();
        }
    }

    /// Makes a call that may change what names there are, at these places.
    pub fn mutating_at(&self, places: &[&At<'_>], change: impl FnOnce() -> Raw) -> Raw {
        self.touching(places, || self.announcing(change))
    }

    /// Opens something. Who gets it may write to it whenever they like, so that is as if they did.
    pub fn opening(&self, at: &At<'_>, writes: bool, open: impl FnOnce() -> Raw) -> Raw {
        if !writes {
            return open();
        }
        match place(self, at) {
            Where::Outside => open(),
            Where::Inside => self.touching(&[at], open),
            Where::Descriptor => {
                let result = open();
                let opened = result.result().map(|fd| fstat(Fd(fd as i32)));
                let is_elsewhere = opened.is_ok_and(|found| {
                    found.is_ok_and(|found| {
                        found.mode & S_IFMT != S_IFREG && found.dev != self.run.sysroot_dev
                    })
                });
                if !is_elsewhere {
                    self.touch();
                }
                result
            }
        }
    }
}

/// unshare(2), setns(2): owners may have other numbers afterwards, and memory may go with another table of descriptors.
pub fn namespaces(call: &mut Call<'_>) -> Raw {
    if call.nr == nr::UNSHARE && call.args[0] & CLONE_FILES != 0 {
        descriptors::split(call.process, false);
    }
    let result = call.as_given();
    call.process.pool.forget_users();
    result
}
