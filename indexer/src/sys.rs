//! The host floor of the indexer: a sysroot's root as a descriptor, directories below it, identities, the file system's
//! clock. Nothing opened here leaves the sysroot through a symlink.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use elfuse_format::keys::{State, Time};
use elfuse_format::sidecar::Kind;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

mod list;

pub use list::{Listed, each_name, list};

/// What stat says that tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`, in bytes.
    pub size: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
}

impl Identity {
    /// As a key has it.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            dev: self.dev,
            ino: self.ino,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}

/// What stat gives, as far as it is used here.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Which state of which file.
    pub identity: Identity,
    /// What it is.
    pub kind: Kind,
    /// `st_nlink`.
    pub links: u64,
}

/// Kind of a file type; `None` where the file system does not tell in its listings.
#[must_use]
pub fn kind_of(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Unknown => None,
        _ => Some(Kind::Other),
    }
}

// The integers of `struct stat` differ from platform to platform: what is cast here for one is the type itself on another.
#[allow(
    clippy::unnecessary_cast,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::useless_conversion
)]
fn status(stat: &Stat) -> Status {
    Status {
        identity: Identity {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime: Time {
                secs: i64::from(stat.st_mtime),
                nanos: stat.st_mtime_nsec as u32,
            },
            ctime: Time {
                secs: i64::from(stat.st_ctime),
                nanos: stat.st_ctime_nsec as u32,
            },
        },
        kind: kind_of(FileType::from_raw_mode(stat.st_mode as _)).unwrap_or(Kind::Other),
        links: stat.st_nlink as u64,
    }
}

/// fstat(2).
///
/// # Errors
/// Its own.
pub fn fstat(fd: impl AsFd) -> io::Result<Status> {
    Ok(status(&fs::fstat(fd)?))
}

/// Whether a directory has a POSIX access control list, so that its mode bits do not tell who may search it. Where that cannot be found out
/// it counts as having one.
#[cfg(target_os = "linux")]
#[must_use]
pub fn has_access_list(dir: impl AsFd) -> bool {
    // The kernel keeps a list that says no more than the mode bits as these alone. What is asked for is the length.
    let mut nothing: [u8; 0] = [];
    let found = fs::fgetxattr(dir, "system.posix_acl_access", &mut nothing);
    !matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Whether a directory has a POSIX access control list. Hosts that have no such lists, or others, are not asked.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn has_access_list(_dir: impl AsFd) -> bool {
    false
}

/// stat of a name in a directory, a symlink not followed.
///
/// # Errors
/// Those of fstatat(2).
pub fn stat_at(dir: impl AsFd, name: &[u8]) -> io::Result<Status> {
    let found = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(status(&found))
}

/// Opens a file for reading. A FIFO put there in between does not block, a symlink is refused. That it is a regular file is for the
/// caller to see by [`fstat`].
///
/// Reading leaves no trace where the file is the caller's own: in a tree just unpacked the first read of each file would write
/// its inode again for the time of access.
///
/// # Errors
/// Those of openat(2).
pub fn open_file(dir: impl AsFd, name: &[u8]) -> io::Result<std::fs::File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    #[cfg(target_os = "linux")]
    match fs::openat(&dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => {}
        other => return Ok(other?.into()),
    }
    Ok(fs::openat(dir, name, flags, Mode::empty())?.into())
}

/// The whole of a regular file of at most `cap` bytes.
///
/// # Errors
/// Those of openat(2) and read(2); `InvalidData` for anything but a regular file, or a larger one.
pub fn read_file(dir: impl AsFd, name: &[u8], cap: u64) -> io::Result<Vec<u8>> {
    let file = open_file(dir, name)?;
    let status = fstat(&file)?;
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if status.kind != Kind::File {
        return Err(refuse("not a regular file".to_owned()));
    }
    let size = status.identity.size;
    if size > cap {
        return Err(refuse(format!(
            "{size} bytes, where at most {cap} are read"
        )));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(cap).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes `temporary` in `dir` and renames it to `name`: a reader sees the old file or the new one. A symlink under either name is
/// replaced, not followed. With `sync` the content is on disk before the name is.
///
/// # Errors
/// Those of openat(2), write(2), fsync(2) and renameat(2); `EISDIR` if `name` is a directory.
pub fn replace_file(
    dir: impl AsFd,
    temporary: &[u8],
    name: &[u8],
    content: &[u8],
    sync: bool,
) -> io::Result<()> {
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    replace_file_with_mode(dir, temporary, name, content, sync, mode)
}

/// As [`replace_file`], for a file that nobody may write to.
///
/// # Errors
/// As [`replace_file`].
pub fn replace_read_only(
    dir: impl AsFd,
    temporary: &[u8],
    name: &[u8],
    content: &[u8],
) -> io::Result<()> {
    let mode = Mode::RUSR | Mode::RGRP | Mode::ROTH;
    replace_file_with_mode(dir, temporary, name, content, false, mode)
}

fn replace_file_with_mode(
    dir: impl AsFd,
    temporary: &[u8],
    name: &[u8],
    content: &[u8],
    sync: bool,
    mode: Mode,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match fs::openat(&dir, temporary, flags, mode) {
        // Left by one that died under the same number.
        Err(Errno::EXIST) => {
            fs::unlinkat(&dir, temporary, AtFlags::empty())?;
            fs::openat(&dir, temporary, flags, mode)?
        }
        other => other?,
    };
    let mut file = std::fs::File::from(file);
    let mut write = || -> io::Result<()> {
        file.write_all(content)?;
        if sync {
            file.sync_all()?;
        }
        Ok(fs::renameat(&dir, temporary, &dir, name)?)
    };
    let written = write();
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs::unlinkat(&dir, temporary, AtFlags::empty());
    }
    written
}

/// Text of a symlink.
///
/// # Errors
/// Those of readlinkat(2).
pub fn read_link(dir: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The root of a sysroot.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
    status: Status,
}

impl Root {
    /// Opens `path`, a symlink followed: it is the caller's own.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty())?;
        let status = fstat(&fd)?;
        let path = path.to_owned();
        Ok(Self { path, fd, status })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// `st_dev` of the root.
    #[must_use]
    pub fn dev(&self) -> u64 {
        self.status.identity.dev
    }

    /// Host path of a directory or file, for messages.
    #[must_use]
    pub fn host_path(&self, relative: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(relative))
    }

    /// Opens a directory by its path from the root, no slash in front; empty is the root. A symlink anywhere is refused, so
    /// that whatever is swapped meanwhile, nothing outside is opened.
    ///
    /// # Errors
    /// Those of openat(2); `ELOOP` or `ENOTDIR` at a symlink.
    pub fn open_dir(&self, relative: &[u8]) -> io::Result<OwnedFd> {
        if relative.is_empty() {
            return Ok(fs::openat(&self.fd, ".", OPEN_DIR, Mode::empty())?);
        }
        match open_beneath(self.fd(), relative) {
            Some(opened) => Ok(opened?),
            None => self.open_stepwise(relative),
        }
    }

    fn open_stepwise(&self, relative: &[u8]) -> io::Result<OwnedFd> {
        let mut components = relative.split(|&byte| byte == b'/');
        let first = components.next().unwrap_or_default();
        let mut fd = fs::openat(&self.fd, first, OPEN_DIR, Mode::empty())?;
        for component in components {
            fd = fs::openat(&fd, component, OPEN_DIR, Mode::empty())?;
        }
        Ok(fd)
    }

    /// stat of a path from the root, not following a last symlink; empty is the root. Others on the way are followed: for
    /// comparing with an identity that is known, not for finding out.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn stat(&self, relative: &[u8]) -> io::Result<Status> {
        if relative.is_empty() {
            return fstat(&self.fd);
        }
        match stat_at(&self.fd, relative) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) => {
                let at = relative.iter().rposition(|&byte| byte == b'/');
                let (parent, name) = at.map_or((&b""[..], relative), |at| {
                    (&relative[..at], &relative[at + 1..])
                });
                stat_at(self.open_dir(parent)?, name)
            }
            other => other,
        }
    }
}

/// Opens without following any symlink in one call; `None` where that has to be done step by step.
#[cfg(target_os = "linux")]
fn open_beneath(root: BorrowedFd<'_>, relative: &[u8]) -> Option<Result<OwnedFd, Errno>> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(root, relative, OPEN_DIR, Mode::empty(), resolve) {
        // An old kernel, a seccomp filter, a rename meanwhile, or a path over PATH_MAX.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN | Errno::NAMETOOLONG) => None,
        other => Some(other),
    }
}

/// Opens without following any symlink in one call; `None` where that has to be done step by step.
#[cfg(not(target_os = "linux"))]
fn open_beneath(_root: BorrowedFd<'_>, _relative: &[u8]) -> Option<Result<OwnedFd, Errno>> {
    None
}

/// What statfs says of the file system a sysroot lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `f_type`; on macOS, 0.
    pub magic: u64,
    /// `f_fsid`.
    pub id: u64,
    /// Its name, as far as it is known here.
    pub name: String,
    /// Whether its time stamps are known to tell every change.
    pub trusted: bool,
    /// Whether it is an image that nobody can write to.
    pub unchangeable: bool,
}

/// The file system that `fd` lies on.
///
/// # Errors
/// Those of fstatfs(2).
#[cfg(target_os = "linux")]
#[allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast
)]
pub fn file_system(fd: impl AsFd) -> io::Result<FileSystem> {
    let found = fs::fstatfs(&fd)?;
    let magic = found.f_type as u64 & 0xffff_ffff;
    let known = elfuse_format::file_systems::known(magic);
    let vfs = fs::fstatvfs(fd)?;
    Ok(FileSystem {
        magic,
        id: vfs.f_fsid,
        name: known.map_or_else(|| format!("{magic:#x}"), |known| known.name.to_owned()),
        trusted: known.is_some_and(|known| known.trusted),
        unchangeable: known.is_some_and(|known| known.unchangeable),
    })
}

/// The file system that `fd` lies on.
///
/// # Errors
/// Those of fstatfs(2).
#[cfg(not(target_os = "linux"))]
#[allow(clippy::cast_sign_loss)]
pub fn file_system(fd: impl AsFd) -> io::Result<FileSystem> {
    let found = fs::fstatfs(&fd)?;
    let name = found.f_fstypename.iter().take_while(|byte| **byte != 0);
    let name: Vec<u8> = name.map(|byte| *byte as u8).collect();
    Ok(FileSystem {
        magic: 0,
        id: fs::fstatvfs(fd)?.f_fsid,
        trusted: name == b"apfs",
        unchangeable: false,
        name: String::from_utf8_lossy(&name).into_owned(),
    })
}

/// Writes out what the file system of `fd` holds in memory, as far as the host can.
///
/// # Errors
/// Those of syncfs(2).
pub fn sync(fd: impl AsFd) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    fs::syncfs(fd)?;
    #[cfg(not(target_os = "linux"))]
    fs::fsync(fd)?;
    Ok(())
}

/// What time the file system that `file` lies on believes it is: its clock, not the machine's, stamps what changes.
///
/// # Errors
/// Those of futimens(2) and fstat(2).
pub fn file_system_clock(file: impl AsFd) -> io::Result<Time> {
    let now = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let both = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    fs::futimens(&file, &both)?;
    Ok(fstat(file)?.identity.ctime)
}

/// Sets a directory's mtime back to what it was.
///
/// # Errors
/// Those of futimens(2).
pub fn restore_mtime(dir: impl AsFd, mtime: Time) -> io::Result<()> {
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: mtime.secs,
            tv_nsec: mtime.nanos.into(),
        },
    };
    Ok(fs::futimens(dir, &times)?)
}
