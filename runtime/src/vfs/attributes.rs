//! What stat returns, from the index of a tree that is frozen.
//!
//! An index answers names: those are vouched for by their directory's key. Of a file's size, mode and times nothing in the tree tells
//! that they are still what they were, but asking. So they are answered under a rule of their own:
//!
//! - The tree is declared frozen ([`Mode::Frozen`]), or lies on a file system that nobody can write to.
//! - The index has them, which it does on request only.
//! - The stamp of the store's generation is the one that they were captured under: nothing that may concern the sysroot has been
//!   changed, or opened for writing, by any run since. It is never that again, until they are captured anew. So a file that is open
//!   for writing anywhere, whoever writes to it when, ends this for good.
//! - The name itself may be believed, with all directories on the way.
//!
//! Times of access are those of the capture: reading changes them, and is no change here.

use elfuse_format::attributes::{
    ArchivedAttributeRow, ArchivedTerms, BASIC, BIRTH, MOUNT_ID, StoredNumber, Terms, row_flags,
    terms_flags,
};
use elfuse_format::header::PartKind;
use elfuse_format::keys::{ArchivedTime, Time};

use super::catalogue::Catalogue;
use super::coherence::{Coherence, Mode};
use super::mirror::Table;
use crate::index::DirId;

/// The parts of an index's keys.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    catalogue: &'a Catalogue<'a>,
    terms: Terms,
    is_unchangeable: bool,
    starts: Table<StoredNumber>,
    rows: Table<ArchivedAttributeRow>,
}

/// What is known of one place.
#[derive(Debug, Clone, Copy)]
pub struct Status<'a> {
    /// `st_dev`.
    pub dev: u64,
    row: &'a ArchivedAttributeRow,
    terms: &'a Terms,
}

impl<'a> Attributes<'a> {
    /// The parts of this index; `None`: it has none. `is_unchangeable`: the host says of the sysroot's file system that nobody can
    /// write to it.
    #[must_use]
    pub fn new(catalogue: &'a Catalogue<'a>, is_unchangeable: bool) -> Option<Self> {
        let terms: Table<ArchivedTerms> = catalogue.keys_table(PartKind::AttributeTerms)?;
        Some(Self {
            catalogue,
            terms: catalogue.keys_row(&terms, 0).ok()?.to_native(),
            is_unchangeable,
            starts: catalogue.keys_table(PartKind::AttributeStarts)?,
            rows: catalogue.keys_table(PartKind::Attributes)?,
        })
    }

    /// Whether they may be used just now.
    #[inline]
    pub(super) fn hold(&self, coherence: &Coherence<'_>) -> bool {
        match coherence.mode {
            Mode::Frozen => self.is_unchangeable || coherence.is_untouched_since(self.terms.stamp),
            Mode::Lease => self.is_unchangeable,
            Mode::Strict | Mode::Off => false,
        }
    }

    /// The row of an entry of a directory.
    #[inline]
    pub(super) fn entry(&self, dir: DirId, entry: u32) -> Option<&'a ArchivedAttributeRow> {
        let start = self.catalogue.keys_row(&self.starts, dir.get()).ok()?;
        self.row(start.to_native().checked_add(entry)?)
    }

    #[inline]
    fn row(&self, number: u32) -> Option<&'a ArchivedAttributeRow> {
        let row = self.catalogue.keys_row(&self.rows, number).ok()?;
        row.has(row_flags::KNOWN).then_some(row)
    }

    /// What is known of the root, for comparing with what the host says of it.
    #[must_use]
    pub fn root(&self, dev: u64) -> Option<Status<'_>> {
        Some(self.status(self.row(0)?, dev))
    }

    pub(super) fn status(&self, row: &'a ArchivedAttributeRow, dev: u64) -> Status<'_> {
        Status {
            dev,
            row,
            terms: &self.terms,
        }
    }
}

/// Words of a structure of the kernel's, in order.
struct Words<const N: usize> {
    bytes: [u8; N],
}

impl<const N: usize> Words<N> {
    #[inline]
    fn put<const L: usize>(&mut self, at: usize, bytes: [u8; L]) {
        if let Some(to) = self.bytes.get_mut(at..at + L) {
            to.copy_from_slice(&bytes);
        }
    }

    /// `struct statx_timestamp`.
    #[inline]
    fn put_time(&mut self, at: usize, time: &ArchivedTime) {
        let Time { secs, nanos } = time.to_native();
        self.put(at, secs.to_ne_bytes());
        self.put(at + 8, nanos.to_ne_bytes());
    }
}

/// Length of `struct stat` on x86-64.
pub const STAT_LEN: usize = 144;
/// Length of `struct statx`.
pub const STATX_LEN: usize = 256;

/// The two numbers of a device (include/linux/kdev_t.h, `new_decode_dev`).
fn major_minor(dev: u64) -> [u32; 2] {
    [
        ((dev >> 8) & 0xfff) as u32 | ((dev >> 32) as u32 & 0xffff_f000),
        (dev & 0xff) as u32 | ((dev >> 12) as u32 & 0xffff_ff00),
    ]
}

impl Status<'_> {
    /// `struct stat` of x86-64 (arch/x86/include/uapi/asm/stat.h).
    #[inline]
    #[must_use]
    pub fn stat(&self) -> [u8; STAT_LEN] {
        let row = self.row;
        let mut stat = Words {
            bytes: [0; STAT_LEN],
        };
        stat.put(0, self.dev.to_ne_bytes());
        stat.put(8, row.ino.to_native().to_ne_bytes());
        stat.put(16, u64::from(row.links.to_native()).to_ne_bytes());
        stat.put(24, row.mode.to_native().to_ne_bytes());
        stat.put(28, row.user.to_native().to_ne_bytes());
        stat.put(32, row.group.to_native().to_ne_bytes());
        stat.put(40, row.rdev.to_native().to_ne_bytes());
        stat.put(48, row.size.to_native().to_ne_bytes());
        stat.put(56, u64::from(row.block_size.to_native()).to_ne_bytes());
        stat.put(64, row.blocks.to_native().to_ne_bytes());
        for (at, time) in [(72, &row.atime), (88, &row.mtime), (104, &row.ctime)] {
            stat.put_time(at, time);
        }
        stat.bytes
    }

    /// Whether what statx(2) returns when it is asked for `mask` is known.
    #[must_use]
    pub fn has_statx(&self, mask: u32) -> bool {
        let is_known = mask & !(BASIC | BIRTH) == 0
            && self.terms.answered & !(BASIC | BIRTH | MOUNT_ID) == 0
            && self.row.has(row_flags::STATX);
        let any = self.terms.flags & terms_flags::ANY_MASK != 0;
        is_known && (any || mask & BASIC == BASIC)
    }

    /// `struct statx` (include/uapi/linux/stat.h), where [`Status::has_statx`]. `mount`: `stx_mnt_id` of the sysroot.
    #[must_use]
    pub fn statx(&self, mask: u32, mount: u64) -> [u8; STATX_LEN] {
        let row = self.row;
        let answered = match mask & BIRTH {
            0 => self.terms.answered_basic,
            _ => self.terms.answered,
        };
        let mut statx = Words {
            bytes: [0; STATX_LEN],
        };
        statx.put(0, answered.to_ne_bytes());
        statx.put(4, row.block_size.to_native().to_ne_bytes());
        statx.put(8, u64::from(row.attributes.to_native()).to_ne_bytes());
        statx.put(16, row.links.to_native().to_ne_bytes());
        statx.put(20, row.user.to_native().to_ne_bytes());
        statx.put(24, row.group.to_native().to_ne_bytes());
        statx.put(28, (row.mode.to_native() as u16).to_ne_bytes());
        statx.put(32, row.ino.to_native().to_ne_bytes());
        statx.put(40, row.size.to_native().to_ne_bytes());
        statx.put(48, row.blocks.to_native().to_ne_bytes());
        statx.put(56, self.terms.attributes_mask.to_ne_bytes());
        statx.put_time(64, &row.atime);
        if answered & BIRTH != 0 {
            statx.put_time(80, &row.btime);
        }
        statx.put_time(96, &row.ctime);
        statx.put_time(112, &row.mtime);
        let [major, minor] = major_minor(row.rdev.to_native());
        statx.put(128, major.to_ne_bytes());
        statx.put(132, minor.to_ne_bytes());
        let [major, minor] = major_minor(self.dev);
        statx.put(136, major.to_ne_bytes());
        statx.put(140, minor.to_ne_bytes());
        statx.put(144, mount.to_ne_bytes());
        statx.bytes
    }

    /// Whether access(2) for `mode` (`R_OK` and so on) succeeds whoever asks. Where it does not, it is the host's to say: owners, groups,
    /// capabilities and the mount have a say in that.
    #[must_use]
    pub fn is_open_to_all(&self, mode: usize) -> bool {
        const R_OK: usize = 4;
        const X_OK: usize = 1;
        const S_IFMT: u32 = 0o170_000;
        const S_IFDIR: u32 = 0o040_000;
        let bits = self.row.mode.to_native();
        let all = |bit: u32| bits & (bit * 0o111) == bit * 0o111;
        let is_directory = bits & S_IFMT == S_IFDIR;
        // A file on a mount with `noexec` cannot be executed whatever its mode is; a directory can be searched.
        mode & !(R_OK | X_OK) == 0
            && self.row.has(row_flags::MODE_TELLS)
            && (mode & R_OK == 0 || all(4))
            && (mode & X_OK == 0 || is_directory && all(1))
    }
}

#[cfg(test)]
mod tests {
    use super::major_minor;

    #[test]
    fn a_device_has_the_two_numbers_that_makedev_put_together() {
        for (major, minor) in [
            (254, 0),
            (7, 255),
            (7, 256),
            (0xfff, 0xf_ffff),
            (0x1_2345, 9),
        ] {
            let (wide_major, wide_minor) = (u64::from(major), u64::from(minor));
            // As makedev(3) has it.
            let dev = (wide_major & 0xfff) << 8
                | (wide_major & !0xfff) << 32
                | wide_minor & 0xff
                | (wide_minor & !0xff) << 12;
            assert_eq!(major_minor(dev), [major, minor]);
        }
    }
}
