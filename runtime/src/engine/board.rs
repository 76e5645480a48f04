//! Where one user's runs tell each other which directories of a frozen tree they have compared: a file in memory, which does not outlast
//! the machine's boot. See [`elfuse_format::compared`].
//!
//! It is read as a whole when a program starts, and written a bit at a time, as directories are compared; each time it is opened anew,
//! as descriptors are the guest's. Two runs that write to the same byte at once may lose one of the bits: a later run compares again.
//!
//! # Safety
//! The bits are cut from an arena, belong to nobody else, and are used through atomics from then on.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use elfuse_format::compared::{Bound, HEAD_LEN, MAX_DIRECTORIES, place};

use super::arena::Arena;
use super::arm::is_armed;
use super::process::process;
use super::say::Line;
use crate::errno::Errno;
use crate::index::DirId;
use crate::options::Inherited;
use crate::sys::abi::{
    O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDWR, S_IFMT, S_IFREG,
};
use crate::sys::host::{
    Fd, close, fstat, getpid, getuid, openat, pread, pwrite, rename, unlink, write,
};
use crate::vfs::{Board, Catalogue, Coherence, Compared};

/// What is done to a file on the board, and found in it.
const OPEN: usize = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;

/// The board of a sysroot.
#[derive(Debug)]
pub struct File {
    path: &'static CStr,
    /// Where a file is written that is to take its place.
    temporary: &'static CStr,
    /// The bits as this process has them.
    bits: &'static [AtomicU8],
    /// It could not be written to, and is not tried again.
    is_useless: AtomicBool,
}

/// A descriptor that is closed when it goes.
struct Held(Fd);

impl Drop for Held {
    fn drop(&mut self) {
        close(self.0);
    }
}

impl File {
    /// Opens the file if it may be trusted and is bound to this.
    fn open(&self, bound: &Bound) -> Result<Held, Errno> {
        let file = Held(openat(Fd::CWD, self.path, OPEN, 0)?);
        let found = fstat(file.0)?;
        let is_own = found.uid == getuid() && found.mode & 0o022 == 0;
        if found.mode & S_IFMT != S_IFREG || !is_own {
            return Err(Errno::EPERM);
        }
        let mut head = [0; HEAD_LEN];
        let len = pread(file.0, &mut head, 0)?;
        let is_bound = len == HEAD_LEN && head == bound.head();
        is_bound.then_some(file).ok_or(Errno::ESTALE)
    }

    /// Puts a file in the place of one that is bound to something else, or of none.
    fn make(&self, bound: &Bound) -> Result<(), Errno> {
        // Left by a process that had this one's number; or just now being written by a child of it, which is not harmed: what is cut short has
        // no bits.
        unlink(self.temporary);
        let flags = OPEN | O_CREAT | O_EXCL;
        let file = Held(openat(Fd::CWD, self.temporary, flags, 0o600)?);
        let written = self.write(&file, bound);
        let placed = written.and_then(|()| rename(self.temporary, self.path));
        if placed.is_err() {
            unlink(self.temporary);
        }
        placed
    }

    fn write(&self, file: &Held, bound: &Bound) -> Result<(), Errno> {
        const PIECE: usize = 64;
        let whole = |len, expected| {
            if len == expected {
                Ok(())
            } else {
                Err(Errno::EIO)
            }
        };
        write(file.0, &bound.head()).and_then(|len| whole(len, HEAD_LEN))?;
        for bits in self.bits.chunks(PIECE) {
            let mut piece = [0; PIECE];
            let piece = &mut piece[..bits.len()];
            for (byte, bits) in piece.iter_mut().zip(bits) {
                *byte = bits.load(Ordering::Relaxed);
            }
            write(file.0, piece).and_then(|len| whole(len, bits.len()))?;
        }
        Ok(())
    }

    fn set(&self, bound: &Bound, dir: DirId) -> Result<(), Errno> {
        let file = match self.open(bound) {
            Err(Errno::ENOENT | Errno::ESTALE) => return self.make(bound),
            other => other?,
        };
        let (byte, bit) = place(dir.get());
        let offset = (HEAD_LEN + byte) as u64;
        let mut bits = [0];
        pread(file.0, &mut bits, offset)?;
        pwrite(file.0, &[bits[0] | bit], offset).map(drop)
    }
}

impl Board for File {
    fn tell(&self, bound: &Bound, dir: DirId) {
        // A guest that restricts its calls arms the filter before: it might not be allowed these.
        let is_possible = !is_armed(process()) && !self.is_useless.load(Ordering::Relaxed);
        if is_possible && self.set(bound, dir).is_err() {
            self.is_useless.store(true, Ordering::Relaxed);
        }
    }
}

/// What runs before this one have compared, in a tree that is said to be frozen. `None`: no memory, or a change is being made just now.
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
    name.put(format_args!(".{}.tmp", getpid()));
    let temporary = arena.string(name.bytes()).ok()?;
    let bytes: &'static mut [u8] = arena.bytes(bound.bits_len()).ok()?;
    let mut file = File {
        path,
        temporary,
        bits: &[],
        is_useless: AtomicBool::new(false),
    };
    match file
        .open(&bound)
        .map(|held| pread(held.0, bytes, HEAD_LEN as u64))
    {
        Ok(Ok(len)) if len == bytes.len() => {}
        _ => bytes.fill(0),
    }
    // SAFETY: nobody else has these bytes, which live as long as the process, and an atomic byte is laid out as a byte.
    file.bits = unsafe { &*(core::ptr::from_ref::<[u8]>(bytes) as *const [AtomicU8]) };
    let file: &'static File = arena.place(file).ok()?;
    arena.place(Compared::new(bound, file.bits, file)?).ok()
}
