//! Attributes of every name, for trees that are frozen: captured last of all, when nothing of ours writes any more.

use std::io;
use std::os::fd::AsFd;

use elfuse_format::attributes::{
    AttributeRow, Attributes, BASIC, BIRTH, MOUNT_ID, Terms, row_flags, terms_flags,
};
use elfuse_format::keys::Time;
use elfuse_format::sidecar::{Entry, Kind};
use rayon::prelude::*;
use rustix::fs::{self, AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use crate::scan::{Scan, ScannedDir};
use crate::sys::{self, Root};

/// What statx says of one name.
struct Found {
    row: AttributeRow,
    dev: u64,
    mount: u64,
    answered: u32,
    attributes_mask: u64,
}

fn statx(dir: impl AsFd, name: &[u8], flags: AtFlags, mask: u32) -> io::Result<Found> {
    let flags = flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = fs::statx(dir, name, flags, StatxFlags::from_bits_retain(mask))?;
    let time = |time: fs::StatxTimestamp| Time {
        secs: time.tv_sec,
        nanos: time.tv_nsec,
    };
    let attributes = u32::try_from(found.stx_attributes.bits());
    Ok(Found {
        row: AttributeRow {
            ino: found.stx_ino,
            size: found.stx_size,
            blocks: found.stx_blocks,
            rdev: fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
            atime: time(found.stx_atime),
            btime: time(found.stx_btime),
            mtime: time(found.stx_mtime),
            ctime: time(found.stx_ctime),
            mode: found.stx_mode.into(),
            links: found.stx_nlink,
            user: found.stx_uid,
            group: found.stx_gid,
            block_size: found.stx_blksize,
            attributes: *attributes.as_ref().unwrap_or(&0),
            // Of one that has no room for all its bits nothing is said to statx(2).
            flags: if attributes.is_ok() {
                row_flags::STATX
            } else {
                0
            },
        },
        dev: fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        mount: found.stx_mnt_id,
        answered: found.stx_mask,
        attributes_mask: found.stx_attributes_mask.bits(),
    })
}

/// Inode of the initial user namespace's file (`PROC_USER_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

/// Whether users are seen here as the kernel has them. In another user namespace stat says other numbers, so what is captured there
/// is of no use elsewhere.
///
/// # Errors
/// If that cannot be found out.
pub fn sees_all_users() -> io::Result<bool> {
    let found = fs::stat("/proc/self/ns/user")?;
    Ok(found.st_ino == INITIAL_USER_NAMESPACE)
}

/// Captures the attributes of all names that a scan has. `stamp` was read before the scan began.
///
/// # Errors
/// If those of the root cannot be had.
pub fn capture(root: &Root, scan: &Scan, stamp: u64) -> io::Result<Attributes> {
    let of_root = |mask| statx(root.fd(), b"", AtFlags::EMPTY_PATH, mask);
    let found = of_root(BASIC | BIRTH)?;
    let basic = of_root(BASIC)?.answered;
    // Without the number of the mount what is mounted in the tree from the tree could not be told.
    if found.answered & MOUNT_ID == 0 {
        return Err(io::Error::from(Errno::NOSYS));
    }
    let mut flags = 0;
    if of_root(0)?.answered == basic && of_root(BIRTH)?.answered == found.answered {
        flags |= terms_flags::ANY_MASK;
    }
    let capturer = Capturer {
        root,
        mount: found.mount,
        terms: Terms {
            stamp,
            attributes_mask: found.attributes_mask,
            answered: found.answered,
            answered_basic: basic,
            flags,
        },
    };
    Ok(Attributes {
        terms: capturer.terms,
        entries: (scan.dirs.par_iter())
            .map(|dir| capturer.entries(dir))
            .collect(),
        root: capturer.row(found, root.dev()),
    })
}

struct Capturer<'a> {
    root: &'a Root,
    mount: u64,
    terms: Terms,
}

impl Capturer<'_> {
    fn entries(&self, dir: &ScannedDir) -> Vec<AttributeRow> {
        let Some(block) = dir.names() else {
            return Vec::new();
        };
        let opened = self.root.open_dir(&dir.path);
        let device = dir.identity.map(|identity| identity.dev);
        let row = |entry: Entry<'_>| {
            let (fd, dev) = opened.as_ref().ok().zip(device)?;
            let name = entry.name()?;
            let found = statx(fd, name, AtFlags::empty(), BASIC | BIRTH).ok()?;
            let kind = FileType::from_raw_mode(found.row.mode);
            let is_it = sys::kind_of(kind) == entry.kind();
            let mut row = is_it.then(|| self.row(found, dev))?;
            if entry.kind() != Some(Kind::Symlink) && !has_access_list(fd, name, kind) {
                row.flags |= row_flags::MODE_TELLS;
            }
            Some(row)
        };
        let rows = block.entries().map(|entry| row(entry).unwrap_or_default());
        rows.collect()
    }

    /// The row of what lies on device `dev` if it is of the sysroot's own mount.
    fn row(&self, found: Found, dev: u64) -> AttributeRow {
        let mut row = found.row;
        if found.dev == dev && found.mount == self.mount {
            row.flags |= row_flags::KNOWN;
        }
        let alike = (found.answered, found.attributes_mask)
            == (self.terms.answered, self.terms.attributes_mask);
        if !alike {
            row.flags &= !row_flags::STATX;
        }
        row
    }
}

/// Where that cannot be found out it counts as having one: only what can be opened for reading is asked for it.
fn has_access_list(dir: impl AsFd, name: &[u8], kind: FileType) -> bool {
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return true;
    }
    sys::open_file(dir, name).map_or(true, sys::has_access_list)
}
