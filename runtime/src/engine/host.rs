//! The host as the resolver sees it, by system calls.

use core::ffi::CStr;

use elfuse_format::keys::Time;

use super::descriptors;
use super::process::Process;
use crate::errno::Errno;
use crate::sys::abi::{AT_EACCESS, AT_SYMLINK_NOFOLLOW, S_IFDIR, S_IFMT, TimeSpec};
use crate::sys::clock;
use crate::sys::host::{Fd, exit, faccessat2, lstatat, readlinkat, wall_clock, write};
use crate::vfs::shadow::Mismatch;
use crate::vfs::{Base, Host, HostStat, Location, Moment};

/// A time stamp as keys have it.
#[must_use]
pub fn time(of: TimeSpec) -> Time {
    Time {
        secs: of.secs,
        nanos: of.nanos as u32,
    }
}

/// Search permission of everybody.
const SEARCH: u32 = 0o111;
const X_OK: usize = 1;

impl Process {
    fn place<'p>(&self, at: Location<'p>) -> Result<(Fd, &'p CStr), Errno> {
        let path = CStr::from_bytes_with_nul(at.path).map_err(|_| Errno::EINVAL)?;
        let dir = match at.base {
            Base::Sysroot => self.sysroot()?,
            Base::Host => Fd::CWD,
        };
        Ok((dir, path))
    }
}

fn stat(dir: Fd, path: &CStr) -> Result<HostStat, Errno> {
    let found = lstatat(dir, path)?;
    let is_private = found.mode & S_IFMT == S_IFDIR && found.mode & SEARCH != SEARCH;
    let flags = AT_EACCESS | AT_SYMLINK_NOFOLLOW;
    Ok(HostStat {
        dev: found.dev,
        ino: found.ino,
        mode: found.mode,
        is_open_to_caller: is_private && faccessat2(dir, path, X_OK, flags).is_ok(),
        mtime: time(found.mtime),
        ctime: time(found.ctime),
    })
}

impl Host for Process {
    fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        let (dir, path) = self.place(at)?;
        readlinkat(dir, path, into)
    }

    fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno> {
        let (dir, path) = self.place(at)?;
        stat(dir, path)
    }

    fn glance(&self, at: Location<'_>) -> Option<HostStat> {
        // Where the sysroot's descriptor is known to be it, nothing is saved.
        if at.base != Base::Sysroot || descriptors::own(self).is_some() {
            return None;
        }
        let path = CStr::from_bytes_with_nul(at.path).ok()?;
        stat(self.cached_fd(), path).ok()
    }

    fn now(&self) -> Moment {
        Moment {
            ticks: clock::ticks(),
            thread: clock::thread(),
        }
    }

    fn file_time(&self) -> Time {
        time(wall_clock())
    }

    fn mismatch(&self, mismatch: &Mismatch<'_>) {
        let mut message = super::say::Line::new();
        message.put(format_args!("elfuse: shadow: {mismatch:?}\n"));
        let _ = write(Fd(2), message.bytes());
        exit(125);
    }
}
