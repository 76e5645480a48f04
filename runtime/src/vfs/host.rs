//! What resolving asks of the host, and how a place there is named.

use elfuse_format::keys::{State, Time};

use super::shadow::Mismatch;
use crate::errno::Errno;

/// Where a [`Location`] starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// At the sysroot's own directory.
    Sysroot,
    /// At the host's root: the path is absolute.
    Host,
}

/// A place on the host. Symlinks are resolved, so calls are to be made without following the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location<'p> {
    /// Where the path starts.
    pub base: Base,
    /// The path with a NUL at its end. In the sysroot relative and never empty: the sysroot itself is `.`. It may be longer than
    /// `PATH_MAX` where a guest works that deep: the host then refuses it.
    pub path: &'p [u8],
}

impl<'p> Location<'p> {
    /// The path without its NUL.
    #[must_use]
    pub fn without_nul(&self) -> &'p [u8] {
        self.path.strip_suffix(b"\0").unwrap_or(self.path)
    }
}

/// When something is asked, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time, by a clock that goes at least once a nanosecond.
    pub ticks: u64,
    /// What tells a thread from all others that share its memory. Neither 0 nor [`u64::MAX`].
    pub thread: u64,
}

/// What validating a directory needs of stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostStat {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Whether the host knows that this process may search it, though not everybody may.
    pub is_open_to_caller: bool,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
}

impl HostStat {
    const TYPE: u32 = 0o170_000;
    const DIRECTORY: u32 = 0o040_000;
    const SEARCH_BY_ALL: u32 = 0o111;

    /// What a key is compared with.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            dev: self.dev,
            ino: self.ino,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & Self::TYPE == Self::DIRECTORY
    }

    /// Whether it is a directory that everybody may search by its mode: only then does the kernel's answer for a name in it not
    /// depend on who asks. (A directory with an access control list, which could still shut out a single user, is never sealed.)
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.is_directory() && self.mode & Self::SEARCH_BY_ALL == Self::SEARCH_BY_ALL
    }

    /// Whether it is a directory that this process may search: everybody may, or it is known of this one.
    #[must_use]
    pub fn is_searchable(&self) -> bool {
        self.is_public() || self.is_directory() && self.is_open_to_caller
    }
}

/// The host as resolving sees it. Called from a signal handler: an implementation neither allocates nor locks.
pub trait Host {
    /// readlinkat(2): how many bytes of the text were written to the start of `into`.
    ///
    /// # Errors
    /// [`Errno::EINVAL`]: it exists and is no symlink. Else what the kernel says.
    fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno>;

    /// fstatat(2) with `AT_SYMLINK_NOFOLLOW`.
    ///
    /// # Errors
    /// What the kernel says.
    fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno>;

    /// The same with less care, where that costs less: of a place that may not be this one. What is in the state of a directory's key is that
    /// directory all the same; of what is not, [`Host::stat`] is to be asked.
    fn glance(&self, at: Location<'_>) -> Option<HostStat> {
        let _ = at;
        None
    }

    /// The moment. Asked once a resolution at most.
    fn now(&self) -> Moment;

    /// The clock that files are stamped by: `CLOCK_REALTIME_COARSE`.
    fn file_time(&self) -> Time;

    /// In shadow mode: the index and the walker disagree. The engine prints both and aborts.
    fn mismatch(&self, mismatch: &Mismatch<'_>);
}
