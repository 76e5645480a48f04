//! A host that makes the system's own calls and counts them, and whose clocks can be set.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use elfuse_format::keys::Time;
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::shadow::Mismatch;
use elfuse_runtime::vfs::{Base, Host, HostStat, Location, Moment};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno(u16::try_from(error.raw_os_error()).unwrap())
}

static HOSTS: AtomicU64 = AtomicU64::new(1);

/// The system's own calls.
pub(crate) struct RealHost {
    root: OwnedFd,
    /// How often a symlink was read.
    pub(crate) readlinks: Cell<u64>,
    /// How often a directory was looked at.
    pub(crate) stats: Cell<u64>,
    /// How far the clock is ahead, in nanoseconds.
    pub(crate) ahead: Cell<u64>,
    /// Whether index and walker may disagree, and how often they did.
    pub(crate) expects_mismatch: Cell<bool>,
    pub(crate) mismatches: Cell<u64>,
    /// The thread that asks: each host is one's.
    pub(crate) thread: Cell<u64>,
    /// What the clock says instead, in nanoseconds.
    pub(crate) frozen_at: Cell<Option<u64>>,
    /// How far the file system's clock is, in seconds.
    pub(crate) file_time_ahead: Cell<i64>,
}

impl RealHost {
    pub(crate) fn new(root: &Path) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            root: rustix::fs::open(root, flags, Mode::empty()).unwrap(),
            readlinks: Cell::new(0),
            stats: Cell::new(0),
            ahead: Cell::new(0),
            expects_mismatch: Cell::new(false),
            mismatches: Cell::new(0),
            thread: Cell::new(HOSTS.fetch_add(1, Ordering::Relaxed)),
            frozen_at: Cell::new(None),
            file_time_ahead: Cell::new(0),
        }
    }

    fn call<T>(
        &self,
        at: Location<'_>,
        call: impl FnOnce(std::os::fd::BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, Errno> {
        use std::os::fd::AsFd;
        assert_eq!(at.path.last(), Some(&0), "a location ends in a NUL");
        let path = at.without_nul();
        assert_eq!(path.starts_with(b"/"), at.base == Base::Host);
        let base = match at.base {
            Base::Sysroot => self.root.as_fd(),
            Base::Host => CWD,
        };
        call(base, path).map_err(errno)
    }

    /// Opens a place to find out whether something is there.
    pub(crate) fn open(&self, at: Location<'_>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.call(at, |base, path| {
            rustix::fs::openat(base, path, flags, Mode::empty())
        })
    }
}

impl Host for RealHost {
    fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        self.readlinks.set(self.readlinks.get() + 1);
        self.call(at, |base, path| {
            rustix::fs::readlinkat_raw(base, path, &mut *into)
        })
    }

    fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno> {
        self.stats.set(self.stats.get() + 1);
        let stat = self.call(at, |base, path| {
            rustix::fs::statat(base, path, AtFlags::SYMLINK_NOFOLLOW)
        })?;
        let time = |secs, nanos| Time {
            secs,
            nanos: u32::try_from(nanos).unwrap(),
        };
        Ok(HostStat {
            dev: stat.st_dev,
            ino: stat.st_ino,
            mode: stat.st_mode,
            is_open_to_caller: false,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn now(&self) -> Moment {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap();
        Moment {
            ticks: self.frozen_at.get().unwrap_or(now + self.ahead.get()),
            thread: self.thread.get(),
        }
    }

    fn file_time(&self) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Time {
            secs: now.tv_sec + self.file_time_ahead.get(),
            nanos: u32::try_from(now.tv_nsec).unwrap(),
        }
    }

    fn mismatch(&self, mismatch: &Mismatch<'_>) {
        assert!(self.expects_mismatch.get(), "{mismatch:?}");
        self.mismatches.set(self.mismatches.get() + 1);
    }
}
