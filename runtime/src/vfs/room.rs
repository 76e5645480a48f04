//! Room for a short path on the caller's stack, which is not cleared first.
//!
//! # Safety
//! The first `len` bytes are initialised: they are only ever written in front of `len`, or copied from there.
#![allow(unsafe_code)]

use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, Ordering};

/// The longest path that fits, its NUL included. Longer ones are walked in an [`super::Area`].
pub const SHORT: usize = 256;

/// A path of at most [`SHORT`] bytes.
pub struct Room {
    len: usize,
    bytes: [MaybeUninit<u8>; SHORT],
}

impl core::fmt::Debug for Room {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl Room {
    /// Nothing is in it.
    #[inline(always)]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            len: 0,
            bytes: [MaybeUninit::uninit(); SHORT],
        }
    }

    /// What is in it.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: initialised, see the top.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }

    /// Puts `bytes` in the place of what stands from `start` to `end`; `None`: it would not fit, and nothing is changed. A byte for a NUL
    /// is left.
    #[inline]
    pub(super) fn replace(&mut self, start: usize, end: usize, bytes: &[u8]) -> Option<()> {
        let tail = self.move_tail(start, end, bytes.len())?;
        for (to, byte) in self.bytes[start..tail].iter_mut().zip(bytes) {
            to.write(*byte);
        }
        Some(())
    }

    /// The same with the first `len` bytes of words.
    #[inline]
    pub(super) fn replace_by_words(
        &mut self,
        end: usize,
        words: &[AtomicU64],
        len: usize,
    ) -> Option<()> {
        if words.len() * 8 < len {
            return None;
        }
        let tail = self.move_tail(0, end, len)?;
        for (to, word) in self.bytes[..tail].chunks_mut(8).zip(words) {
            let word = word.load(Ordering::Relaxed).to_le_bytes();
            for (to, byte) in to.iter_mut().zip(word) {
                to.write(byte);
            }
        }
        Some(())
    }

    /// Moves what stands behind `end` to `len` bytes behind `start`, and says where that is. The caller writes what lies between.
    #[inline]
    fn move_tail(&mut self, start: usize, end: usize, len: usize) -> Option<usize> {
        let tail = start.checked_add(len)?;
        let whole = tail.checked_add(self.len.checked_sub(end)?)?;
        if whole >= SHORT || start > end {
            return None;
        }
        if tail != end {
            self.bytes.copy_within(end..self.len, tail);
        }
        self.len = whole;
        Some(tail)
    }

    /// Makes it these bytes.
    #[inline]
    pub(super) fn set(&mut self, bytes: &[u8]) -> Option<()> {
        self.len = 0;
        self.replace(0, 0, bytes)
    }

    /// What `with` makes of the first `len` bytes of the path and a NUL.
    pub(super) fn with_front<T>(&mut self, len: usize, with: impl FnOnce(&[u8]) -> T) -> T {
        // What changes the length leaves room for it.
        let len = len.min(self.len).min(SHORT - 1);
        let kept = self.bytes[len];
        self.bytes[len].write(0);
        // SAFETY: a part of the path, and the byte that was just written.
        let front = unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), len + 1) };
        let made = with(front);
        self.bytes[len] = kept;
        made
    }

    /// The path and a NUL.
    #[inline]
    pub(super) fn with_nul(&mut self) -> &[u8] {
        // What changes the length leaves room for it.
        let len = self.len.min(SHORT - 1);
        self.bytes[len].write(0);
        // SAFETY: the path, and the byte that was just written.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), len + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::{AtomicU64, Room, SHORT};

    #[test]
    fn a_part_is_replaced_by_a_longer_one_and_by_a_shorter_one() {
        let mut room = Room::new();
        room.set(b"/lib/x/name").unwrap();
        room.replace(1, 4, b"usr/lib").unwrap();
        assert_eq!(room.as_bytes(), b"/usr/lib/x/name");
        room.replace(8, 10, b"").unwrap();
        assert_eq!(room.as_bytes(), b"/usr/lib/name");
        let words = [u64::from_le_bytes(*b"/opt/len"), 0x67].map(AtomicU64::new);
        room.replace_by_words(8, &words, 9).unwrap();
        assert_eq!(room.with_nul(), b"/opt/leng/name\0");
        room.replace_by_words(9, &words, 4).unwrap();
        assert_eq!(room.as_bytes(), b"/opt/name");
        assert!(room.replace_by_words(4, &words, 17).is_none());
    }

    #[test]
    fn a_front_ends_with_a_nul_and_what_stood_there_comes_back() {
        let mut room = Room::new();
        room.set(b"/usr/lib").unwrap();
        for (len, front) in [(0, &b"\0"[..]), (4, b"/usr\0"), (8, b"/usr/lib\0")] {
            assert!(room.with_front(len, |found| found == front), "{len}");
            assert_eq!(room.as_bytes(), b"/usr/lib");
        }
    }

    #[test]
    fn what_does_not_fit_with_its_nul_leaves_it_as_it_was() {
        let mut room = Room::new();
        room.set(b"/a").unwrap();
        assert!(room.replace(2, 2, &[b'x'; SHORT - 2]).is_none());
        assert_eq!(room.as_bytes(), b"/a");
        room.replace(2, 2, &[b'x'; SHORT - 3]).unwrap();
        assert_eq!(room.with_nul().len(), SHORT);
        assert!(room.replace(3, 2, b"").is_none() && room.replace(0, SHORT, b"").is_none());
    }
}
