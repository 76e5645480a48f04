//! Memory for what lives as long as the process: strings, tables. Made before the guest runs, never given back.
//!
//! # Safety
//! Each piece is cut from a fresh anonymous mapping and handed out once, so that it is nobody else's.
#![allow(unsafe_code)]

use core::ffi::CStr;

use crate::errno::Errno;
use crate::sys::memory::anonymous;
use crate::vfs::path::Area;

/// Bytes that are mapped at once.
const CHUNK: usize = 256 * 1024;

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
        Ok(Self {
            left: anonymous(CHUNK)?,
        })
    }

    /// Zeroed bytes at a multiple of 16.
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

    /// Room for resolving a path.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn area(&mut self) -> Result<&'static mut Area, Errno> {
        let bytes = self.bytes(size_of::<Area>())?;
        // SAFETY: room of the size and alignment, nobody else's; every pattern of bytes is an area.
        Ok(unsafe { &mut *bytes.as_mut_ptr().cast() })
    }

    /// Keeps a value for ever.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn place<T>(&mut self, value: T) -> Result<&'static T, Errno> {
        const { assert!(align_of::<T>() <= 16) };
        let bytes = self.bytes(size_of::<T>())?;
        let at = bytes.as_mut_ptr().cast::<T>();
        // SAFETY: room of the value's size and alignment that nothing else refers to.
        unsafe {
            at.write(value);
            Ok(&*at)
        }
    }
}
