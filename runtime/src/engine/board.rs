//! Where one user's runs tell each other which directories of a frozen tree they have compared: a file in memory, which does not outlast
//! the machine's boot. See [`elfuse_format::compared`].
//!
//! It is opened, or made, before the guest begins, and mapped: afterwards no call is made for it, which a guest's descriptors, limits and
//! filters would be in the way of.
//!
//! # Safety
//! The mapping is shared with whoever else maps the file, is only ever used through atomics, and is never taken away. Where the file is cut under
//! it, [`heal`] puts memory of the process's own in its place.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use elfuse_format::compared::{Bound, HEAD_LEN, MAX_DIRECTORIES};

use super::arena::Arena;
use super::say::Line;
use crate::errno::Errno;
use crate::guest::{Address, Memory};
use crate::options::Inherited;
use crate::sys::abi::{
    O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDWR, PAGE, RLIMIT_FSIZE, S_IFMT, S_IFREG,
};
use crate::sys::host::{
    Fd, chmod, close, fstat, getpid, getuid, openat, pread, rename, soft_limit, truncate, unlink,
    write,
};
use crate::sys::memory::{replace_shared, shared};
use crate::vfs::{Catalogue, Coherence, Compared};

const FLAGS: usize = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;

/// Where the file is mapped, and how many bytes of it; 0: nowhere.
static AT: AtomicUsize = AtomicUsize::new(0);
static LEN: AtomicUsize = AtomicUsize::new(0);

/// A descriptor that is closed when it goes.
struct Held(Fd);

impl Drop for Held {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// Puts memory in the place of a file that has been cut, if that is what `address` lies in: what is noted there is told to nobody.
pub fn heal(address: usize) -> bool {
    let (at, len) = (AT.load(Ordering::Relaxed), LEN.load(Ordering::Relaxed));
    if at == 0 || !(at..at + len).contains(&address) {
        return false;
    }
    // SAFETY: pages of the mapping, which is used through atomics only.
    unsafe { replace_shared(address & !(PAGE - 1), PAGE) }.is_ok()
}

/// Makes sure that nothing of it faults while SIGBUS or SIGSEGV is blocked.
pub fn probe() {
    let (at, len) = (AT.load(Ordering::Relaxed), LEN.load(Ordering::Relaxed));
    for page in (at..at + len).step_by(PAGE) {
        if Memory::ByKernel.read_word(Address(page)).is_err() {
            heal(page);
        }
    }
}

fn whole_len(bound: &Bound) -> usize {
    HEAD_LEN + bound.bits_len()
}

/// Opens the file if it is this user's own and bound to this.
fn open(path: &CStr, bound: &Bound) -> Result<Held, Errno> {
    let file = Held(openat(Fd::CWD, path, FLAGS, 0)?);
    let found = fstat(file.0)?;
    let is_own = found.uid == getuid() && found.mode & 0o022 == 0;
    if found.mode & S_IFMT != S_IFREG || !is_own {
        return Err(Errno::EPERM);
    }
    let mut head = [0; HEAD_LEN];
    let len = pread(file.0, &mut head, 0)?;
    let is_whole = found.size.cast_unsigned() == whole_len(bound) as u64;
    let is_bound = is_whole && len == HEAD_LEN && head == bound.head();
    is_bound.then_some(file).ok_or(Errno::ESTALE)
}

/// Puts a file in the place of one that is bound to something else, or of none.
fn make(path: &CStr, temporary: &CStr, bound: &Bound) -> Result<Held, Errno> {
    let len = whole_len(bound) as u64;
    // Beyond the limit comes a signal.
    if soft_limit(RLIMIT_FSIZE)? < len {
        return Err(Errno::EFBIG);
    }
    // Left by a process that had this one's number.
    unlink(temporary);
    let flags = FLAGS | O_CREAT | O_EXCL;
    let file = Held(openat(Fd::CWD, temporary, flags, 0o600)?);
    let made = chmod(file.0, 0o600)
        .and_then(|()| truncate(file.0, len))
        .and_then(|()| write(file.0, &bound.head()))
        .and_then(|_| rename(temporary, path));
    if let Err(errno) = made {
        unlink(temporary);
        return Err(errno);
    }
    Ok(file)
}

/// What runs before this one have compared, in a tree that is said to be frozen. `None`: there is no file for it, or a change is being made
/// just now.
pub fn compared(
    arena: &mut Arena,
    run: &Inherited<'_>,
    catalogue: &Catalogue<'_>,
    coherence: &Coherence<'_>,
) -> Option<&'static Compared<'static>> {
    let bound = catalogue.bound(coherence.settled_generation()?);
    if bound.directories > MAX_DIRECTORIES {
        return None;
    }
    let mut name = Line::new();
    name.put(format_args!(
        "/dev/shm/elfuse-{}-{:x}-{:x}-compared",
        getuid(),
        run.sysroot_dev,
        run.sysroot_ino
    ));
    let path = arena.string(name.bytes()).ok()?;
    let file = match open(path, &bound) {
        Err(Errno::ENOENT | Errno::ESTALE) => {
            name.put(format_args!(".{}.tmp", getpid()));
            make(path, arena.string(name.bytes()).ok()?, &bound).ok()?
        }
        opened => opened.ok()?,
    };
    let len = whole_len(&bound);
    let at = shared(file.0, len).ok()?;
    AT.store(at.addr(), Ordering::Relaxed);
    LEN.store(len.next_multiple_of(PAGE), Ordering::Relaxed);
    // SAFETY: mapped a moment ago, as long as that, for ever; an atomic byte is laid out as a byte.
    let bits = unsafe {
        core::slice::from_raw_parts(at.add(HEAD_LEN).cast::<AtomicU8>(), bound.bits_len())
    };
    arena.place(Compared::new(bound, bits)?).ok()
}
