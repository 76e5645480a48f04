//! What stat and statx return for every name of a tree that is frozen: three parts of [`crate::keys`], written on request only.
//!
//! ```text
//!   starts   [dir] -> number of the row of its first entry; the others follow in entry order
//!   rows     0: the root   1...: all entries of directory 0, of directory 1, ...
//!   terms    one row: when they may be used at all
//! ```
//!
//! A directory's own attributes are those of its name in its parent.

use rkyv::{Archive, Serialize};

use crate::keys::{ArchivedTime, Time};

/// Length in bytes of a row.
pub const ROW_LEN: usize = 108;

/// `STATX_BASIC_STATS`: all that stat(2) returns.
pub const BASIC: u32 = 0x7ff;
/// `STATX_BTIME`: when a file was made.
pub const BIRTH: u32 = 0x800;
/// `STATX_MNT_ID`: returned whether it is asked for or not, and another each time a file system is mounted.
pub const MOUNT_ID: u32 = 0x1000;

/// Bits of a row's `flags`.
pub mod row_flags {
    /// The row may be used. It is not where the name is another file system's, could not be asked for, or changed.
    pub const KNOWN: u32 = 1 << 0;
    /// statx(2) returned, besides the row, what [`super::Terms`] says it returns for all.
    pub const STATX: u32 = 1 << 1;
    /// There is no access control list, so the mode bits are all there is to say who may do what.
    pub const MODE_TELLS: u32 = 1 << 2;
}

/// Attributes of one name, a symlink not followed.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct AttributeRow {
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_blocks`.
    pub blocks: u64,
    /// `st_rdev`.
    pub rdev: u64,
    /// `st_atim`, as it was.
    pub atime: Time,
    /// `stx_btime`.
    pub btime: Time,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
    /// `st_mode`.
    pub mode: u32,
    /// `st_nlink`.
    pub links: u32,
    /// `st_uid`, as the initial user namespace has it.
    pub user: u32,
    /// `st_gid`, likewise.
    pub group: u32,
    /// `st_blksize`.
    pub block_size: u32,
    /// `stx_attributes`.
    pub attributes: u32,
    /// See [`row_flags`].
    pub flags: u32,
}

/// Bits of [`Terms::flags`].
pub mod terms_flags {
    /// statx(2) fills in the same whatever part of [`super::BASIC`] it is asked for.
    pub const ANY_MASK: u32 = 1 << 0;
}

/// When the rows may be used.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Terms {
    /// The stamp of the store's generation file when the first row was about to be captured: while it is that, nothing
    /// has been changed through elfuse since. 0 is none.
    pub stamp: u64,
    /// `stx_attributes_mask`.
    pub attributes_mask: u64,
    /// `stx_mask` that [`BASIC`] with [`BIRTH`] gave.
    pub answered: u32,
    /// `stx_mask` that [`BASIC`] gave.
    pub answered_basic: u32,
    /// See [`terms_flags`].
    pub flags: u32,
}

impl ArchivedAttributeRow {
    /// Whether all bits of `flags` ([`row_flags`]) are set.
    #[must_use]
    pub fn has(&self, flags: u32) -> bool {
        self.flags.to_native() & flags == flags
    }

    /// Whether its times are times.
    #[must_use]
    pub fn is_legal(&self) -> bool {
        let is_time = |time: &ArchivedTime| time.nanos.to_native() < 1_000_000_000;
        [&self.atime, &self.btime, &self.mtime, &self.ctime]
            .into_iter()
            .all(is_time)
    }
}

/// A row's number, as it is stored.
pub type StoredNumber = rkyv::rend::unaligned::u32_ule;

impl ArchivedTerms {
    /// In native integers.
    #[must_use]
    pub fn to_native(&self) -> Terms {
        Terms {
            stamp: self.stamp.to_native(),
            attributes_mask: self.attributes_mask.to_native(),
            answered: self.answered.to_native(),
            answered_basic: self.answered_basic.to_native(),
            flags: self.flags.to_native(),
        }
    }
}

#[cfg(feature = "alloc")]
pub use write::Attributes;

#[cfg(feature = "alloc")]
mod write {
    use alloc::vec::Vec;

    use super::{AttributeRow, Terms};
    use crate::header::{PartKind, Writer};

    /// What goes into the three parts.
    #[derive(Debug, Clone, Default)]
    pub struct Attributes {
        /// When they may be used.
        pub terms: Terms,
        /// The root's.
        pub root: AttributeRow,
        /// For each directory of the loader cache the rows of its entries, in entry order; none where it is not covered.
        pub entries: Vec<Vec<AttributeRow>>,
    }

    impl Attributes {
        pub(crate) fn put(&self, file: &mut Writer) {
            let mut next = 1_u32;
            let mut starts = Vec::with_capacity(self.entries.len());
            let mut all = Vec::new();
            all.push(self.root);
            for rows in &self.entries {
                starts.push(next);
                next = next.saturating_add(u32::try_from(rows.len()).unwrap_or(u32::MAX));
                all.extend_from_slice(rows);
            }
            file.table(PartKind::Attributes, &all);
            file.table(PartKind::AttributeStarts, &starts);
            file.table(PartKind::AttributeTerms, &[self.terms]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ArchivedAttributeRow, ArchivedTerms, ROW_LEN};

    #[test]
    fn rows_are_as_long_as_the_page_says() {
        assert_eq!(size_of::<ArchivedAttributeRow>(), ROW_LEN);
        assert_eq!(size_of::<ArchivedTerms>(), 28);
    }
}
