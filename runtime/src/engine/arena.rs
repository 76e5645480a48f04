//! Memory for what lives as long as the process: strings, tables. Made before the guest runs, never given back.
//!
//! The first of it is the image's own: it lies in the 2 MiB of the runtime's code and data, which a page table maps anyway, and so close
//! together that a start touches few pages. A page table of its own costs a start as much as a page, and every fork again.
//!
//! # Safety
//! Each piece is cut from memory that was never used before, a fresh anonymous mapping or [`OWN`], and handed out once, so that it is nobody
//! else's.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::errno::Errno;
use crate::sys::abi::{PAGE, PATH_MAX};
use crate::sys::memory::anonymous;

/// Bytes that are mapped at once.
const CHUNK: usize = 256 * 1024;
/// Bytes of the image's own: several times what a start takes.
const OWN_LEN: usize = 16 * PAGE;

#[repr(C, align(16))]
struct Own {
    is_taken: AtomicBool,
    bytes: UnsafeCell<[u8; OWN_LEN]>,
}

// SAFETY: reached through the one reference that `own` gives away.
unsafe impl Sync for Own {}

static OWN: Own = Own {
    is_taken: AtomicBool::new(false),
    bytes: UnsafeCell::new([0; OWN_LEN]),
};

/// The image's own memory, the first time that it is asked for.
fn own() -> Option<&'static mut [u8]> {
    if OWN.is_taken.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: given away once.
    let bytes: &mut [u8] = unsafe { &mut *OWN.bytes.get() };
    let aligned = bytes.as_ptr().align_offset(16);
    bytes.get_mut(aligned..)
}

/// Hands out memory from one end to the other.
#[derive(Debug)]
pub struct Arena {
    left: &'static mut [u8],
}

impl Arena {
    /// An arena; its pages cost nothing until they are touched.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new() -> Result<Self, Errno> {
        let left = match own() {
            Some(own) => own,
            None => anonymous(CHUNK)?,
        };
        Ok(Self { left })
    }

    /// Bytes at a multiple of 16. They are zero, unless [`Arena::path`] wrote there and failed.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn bytes(&mut self, len: usize) -> Result<&'static mut [u8], Errno> {
        let whole = len.next_multiple_of(16);
        if whole > self.left.len() {
            self.left = anonymous(whole.max(CHUNK))?;
        }
        let (bytes, left) = core::mem::take(&mut self.left).split_at_mut(whole);
        self.left = left;
        Ok(&mut bytes[..len])
    }

    /// A copy of `text`, which has no NUL, and a NUL.
    ///
    /// # Errors
    /// ENOMEM; EINVAL: there is a NUL in it.
    pub fn string(&mut self, text: &[u8]) -> Result<&'static CStr, Errno> {
        let bytes = self.bytes(text.len() + 1)?;
        bytes[..text.len()].copy_from_slice(text);
        CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::EINVAL)
    }

    /// A path that `write` puts at the start of the room it is given, and says how long it is, and a NUL.
    ///
    /// # Errors
    /// ENOMEM; EINVAL: there is a NUL in it; those of `write`.
    pub fn path(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<&'static CStr, Errno> {
        const ROOM: usize = PATH_MAX + 1;
        if self.left.len() < ROOM {
            self.left = anonymous(CHUNK)?;
        }
        let room = self.left.get_mut(..ROOM).ok_or(Errno::ENOMEM)?;
        let len = write(&mut room[..PATH_MAX])?.min(PATH_MAX);
        room[len] = 0;
        let path = self.bytes(len + 1)?;
        CStr::from_bytes_with_nul(path).map_err(|_| Errno::EINVAL)
    }

    /// Keeps a value for ever.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn place<T>(&mut self, value: T) -> Result<&'static T, Errno> {
        self.place_mut(value).map(|kept| &*kept)
    }

    /// The same of a copy, which is made where it stays: of what is large nothing is to lie on the stack, which a start would touch for it.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn copy_mut<T: Copy>(&mut self, value: &T) -> Result<&'static mut T, Errno> {
        const { assert!(align_of::<T>() <= 16) };
        let bytes = self.bytes(size_of::<T>())?;
        let at = bytes.as_mut_ptr().cast::<T>();
        // SAFETY: room of the value's size and alignment that nothing else refers to; what may be copied has nothing to drop.
        unsafe {
            core::ptr::copy_nonoverlapping(value, at, 1);
            Ok(&mut *at)
        }
    }

    /// The same of a value that is still to be changed.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn place_mut<T>(&mut self, value: T) -> Result<&'static mut T, Errno> {
        const { assert!(align_of::<T>() <= 16) };
        let bytes = self.bytes(size_of::<T>())?;
        let at = bytes.as_mut_ptr().cast::<T>();
        // SAFETY: room of the value's size and alignment that nothing else refers to.
        unsafe {
            at.write(value);
            Ok(&mut *at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, PATH_MAX};
    use crate::errno::Errno;

    #[test]
    fn a_path_written_in_place_takes_what_it_is_long_and_one_that_fails_takes_nothing() {
        let mut arena = Arena::new().unwrap();
        let write = |text: &'static [u8]| {
            move |room: &mut [u8]| {
                assert_eq!(room.len(), PATH_MAX);
                room[..text.len()].copy_from_slice(text);
                Ok(text.len())
            }
        };
        let first = arena.path(write(b"/srv/sysroot")).unwrap();
        assert_eq!(arena.path(|_| Err(Errno::ENOENT)), Err(Errno::ENOENT));
        let second = arena.path(write(b"/home")).unwrap();
        assert_eq!((first, second), (c"/srv/sysroot", c"/home"));
        assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), 16);
        assert_eq!(arena.path(write(b"a\0b")), Err(Errno::EINVAL));
    }

    #[test]
    fn more_than_a_chunk_is_mapped_for_itself() {
        let mut arena = Arena::new().unwrap();
        let large = arena.bytes(super::CHUNK + 1).unwrap();
        assert!(large.len() == super::CHUNK + 1 && large.iter().all(|byte| *byte == 0));
        assert_eq!(arena.string(b"behind"), Ok(c"behind"));
    }
}
