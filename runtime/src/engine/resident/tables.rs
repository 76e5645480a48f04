//! A snapshot's tables, and the memory that they lie in: large ones are given back when the program goes on, or turns out not to. Those of a
//! program with two hundred libraries take a quarter of a megabyte, most of what such a process has for itself of the runtime's.
//!
//! # Safety
//! A mapping of [`Own`] is referred to by the snapshot beside it alone, which is lent for no longer than both are there.
#![allow(unsafe_code)]

use elfuse_format::snapshot::Snapshot;
use elfuse_format::snapshot::counts::Refusal;

use crate::sys::memory::{anonymous, unmap};

/// The tables of a snapshot, checked.
#[derive(Debug)]
pub struct Tables {
    snapshot: Snapshot<'static>,
    _own: Option<Own>,
}

/// A mapping that ends with this.
#[derive(Debug)]
struct Own {
    /// Where it starts.
    at: usize,
    /// Its length in bytes.
    len: usize,
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: see the top.
        unsafe { unmap(self.at, self.len) };
    }
}

impl Tables {
    /// Those in memory that stays. `file_len`: bytes of the file.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(bytes: &'static [u8], file_len: u64) -> Result<Self, Refusal> {
        let snapshot = Snapshot::parse(bytes, file_len).map_err(|_| Refusal::Malformed)?;
        Ok(Self {
            snapshot,
            _own: None,
        })
    }

    /// `len` bytes that `read` puts into memory made for them.
    ///
    /// # Errors
    /// [`Refusal::Memory`], [`Refusal::Malformed`]; those of `read`.
    pub fn read(
        len: usize,
        file_len: u64,
        read: impl FnOnce(&mut [u8]) -> Result<(), Refusal>,
    ) -> Result<Self, Refusal> {
        let bytes = anonymous(len).map_err(|_| Refusal::Memory)?;
        let own = Own {
            at: bytes.as_ptr().addr(),
            len,
        };
        read(bytes)?;
        Ok(Self {
            _own: Some(own),
            ..Self::parse(bytes, file_len)?
        })
    }

    /// The snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot<'_> {
        &self.snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::Tables;
    use elfuse_format::snapshot::counts::Refusal;

    #[test]
    fn tables_that_are_none_are_refused_and_so_is_what_cannot_be_read() {
        let zeroes = Tables::read(1 << 16, 1 << 16, |room| {
            assert!(room.len() == 1 << 16 && room.iter().all(|byte| *byte == 0));
            Ok(())
        });
        assert_eq!(zeroes.err(), Some(Refusal::Malformed));
        let unread = Tables::read(1 << 16, 1 << 16, |_| Err(Refusal::Owner));
        assert_eq!(unread.err(), Some(Refusal::Owner));
        assert_eq!(Tables::parse(&[], 0).err(), Some(Refusal::Malformed));
    }
}
