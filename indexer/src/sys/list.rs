//! Listing directories. Not by [`rustix::fs::Dir`] where that can be helped: it opens the directory a second time and copies
//! each name.

use std::io;
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use elfuse_format::sidecar::Kind;
use rustix::fs::{self, FileType};
#[cfg(target_os = "linux")]
use rustix::io::Errno;

use super::{kind_of, stat_at};

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: Kind,
}

/// The names in a directory without `.` and `..`, unsorted; at most `cap` + 1 of them.
///
/// # Errors
/// Those of [`each_name`].
pub fn list(dir: BorrowedFd<'_>, cap: usize) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    each_name(dir, |name, kind| {
        let name = name.into();
        all.push(Listed { name, kind });
        Ok(if all.len() > cap {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(all)
}

/// Calls `each` with every name in a directory but `.` and `..`, in the host's order, until it breaks.
///
/// # Errors
/// Those of getdents(2), of stat where the file system's listings do not tell the kind, and of `each`.
pub fn each_name(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8], Kind) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    each_entry(dir, |name, file_type| {
        if name == b"." || name == b".." {
            return Ok(ControlFlow::Continue(()));
        }
        let kind = match kind_of(file_type) {
            Some(kind) => kind,
            None => match stat_at(dir, name) {
                Ok(status) => status.kind,
                // Gone since it was listed: its directory's times tell.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(ControlFlow::Continue(()));
                }
                Err(error) => return Err(error),
            },
        };
        each(name, kind)
    })
}

#[cfg(target_os = "linux")]
fn each_entry(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8], FileType) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    // It may have been listed through this descriptor before.
    fs::seek(dir, fs::SeekFrom::Start(0))?;
    // Enough for all of most directories at once.
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut listing = fs::RawDir::new(dir, &mut buffer);
    loop {
        let entry = match listing.next() {
            Some(Ok(entry)) => entry,
            Some(Err(Errno::INTR)) => continue,
            // At the end, or in a directory that was removed.
            None | Some(Err(Errno::NOENT)) => return Ok(()),
            Some(Err(error)) => return Err(error.into()),
        };
        if each(entry.file_name().to_bytes(), entry.file_type())?.is_break() {
            return Ok(());
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn each_entry(
    dir: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8], FileType) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        if each(entry.file_name().to_bytes(), entry.file_type())?.is_break() {
            break;
        }
    }
    Ok(())
}
