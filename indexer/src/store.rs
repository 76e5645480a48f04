//! Where an index lies, who may write it, and how its files are read and replaced.
//!
//! In the tree: `.elfuse` at the root, and a sidecar in every directory. Out of the tree: one directory that holds the store
//! alone; the loader cache has every sidecar's content. Without `--index-dir` that directory is
//! `$XDG_CACHE_HOME/elfuse/NAME-HASH`, named after the sysroot's path.
//!
//! `.elfuse` may come with an image somebody else made: nothing in it is followed through a symlink.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use elfuse_format::names;
use rustix::fs::{Access, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::index::{Index, LoadError};
use crate::sys;

/// Largest file of a store that is read: some ten million entries.
const MAX_FILE: u64 = 2 << 30;
/// Name of the file that a builder locks.
const LOCK: &str = "lock";

/// The directory that holds an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    dir: PathBuf,
    in_tree: bool,
}

/// Where an index of the sysroot at `root` lies by default when it cannot lie inside. `None` without a home.
#[must_use]
pub fn default_outside(root: &Path) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let hash = names::hash(root.as_os_str().as_bytes());
    let name = root.file_name().unwrap_or("root".as_ref());
    let mut name = name.to_os_string();
    name.push(format!("-{hash:016x}"));
    Some(cache.join("elfuse").join(name))
}

/// Holds other builders off while it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// The lock file, which lies on the index's own file system.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// The directory that `path` is, or that it would be made in.
fn nearest_existing(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut rest = path.ancestors();
    rest.find_map(|path| path.canonicalize().ok())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Store {
    fn inside(root: &Path) -> Self {
        Self {
            dir: root.join(OsStr::from_bytes(names::STORE)),
            in_tree: true,
        }
    }

    /// Where the index of `root` is, or would be looked for: `--index-dir` if given; else in the tree; else, where the tree has none
    /// or may not be written to, the default directory outside if one lies there.
    #[must_use]
    pub fn find(root: &Path, index_dir: Option<&Path>) -> Self {
        let inside = Self::inside(root);
        if let Some(dir) = index_dir {
            return Self {
                in_tree: dir == inside.dir,
                dir: dir.to_owned(),
            };
        }
        if is_directory(&inside.dir) && is_writable(&inside.dir) {
            return inside;
        }
        match default_outside(root).filter(|dir| dir.is_dir()) {
            Some(dir) => Self {
                dir,
                in_tree: false,
            },
            None => inside,
        }
    }

    /// A store to write to. Falls back to the default directory outside where the tree may not be written to.
    ///
    /// # Errors
    /// If no directory can be made, `--index-dir` lies inside the sysroot, or something else has the store's name.
    pub fn create(root: &Path, index_dir: Option<&Path>) -> anyhow::Result<Self> {
        let make = |store: Self| -> anyhow::Result<Self> {
            fs::create_dir_all(&store.dir)
                .with_context(|| format!("making the index's directory {}", store.dir.display()))?;
            Ok(store)
        };
        if let Some(dir) = index_dir {
            let store = Self::find(root, index_dir);
            let real = nearest_existing(dir)
                .with_context(|| format!("resolving the index's directory {}", dir.display()))?;
            anyhow::ensure!(
                store.in_tree || !real.starts_with(root),
                "{} lies inside the sysroot {}, where it would index itself; \
                 give a directory outside, or leave --index-dir away",
                dir.display(),
                root.display()
            );
            return make(store);
        }
        let inside = Self::inside(root);
        let made = fs::create_dir(&inside.dir);
        let refused = match made {
            Ok(()) => return Ok(inside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                anyhow::ensure!(
                    is_directory(&inside.dir),
                    "{} is not a directory; it is the name of the index: remove it, or use --index-dir",
                    inside.dir.display()
                );
                if is_writable(&inside.dir) {
                    return Ok(inside);
                }
                io::Error::from(Errno::ACCESS)
            }
            Err(error) => error,
        };
        let dir = default_outside(root).with_context(|| {
            format!(
                "{} cannot be written ({refused}) and there is no HOME to keep the index in; use --index-dir",
                inside.dir.display()
            )
        })?;
        make(Self {
            dir,
            in_tree: false,
        })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it lies at the sysroot's root, and sidecars in its directories.
    #[must_use]
    pub fn in_tree(&self) -> bool {
        self.in_tree
    }

    /// Opens the directory. In the tree a symlink in its place is refused; a directory that the user named may be one.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self) -> io::Result<OwnedFd> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.in_tree {
            flags |= OFlags::NOFOLLOW;
        }
        Ok(rustix::fs::openat(CWD, &self.dir, flags, Mode::empty())?)
    }

    /// Waits until no other process builds here.
    ///
    /// # Errors
    /// If the lock file cannot be made or locked.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let attempt = || -> io::Result<File> {
            loop {
                let dir = self.open()?;
                let file = File::from(rustix::fs::openat(&dir, LOCK, flags, mode)?);
                let own = sys::fstat(&file)?;
                if own.kind != elfuse_format::sidecar::Kind::File {
                    return Err(io::Error::other("not a regular file"));
                }
                file.lock()?;
                // `clean` may have removed the file, with the whole store, while it was waited for.
                let named = sys::stat_at(&dir, LOCK.as_bytes()).map(|found| found.identity.ino);
                if named.is_ok_and(|ino| ino == own.identity.ino) {
                    return Ok(file);
                }
            }
        };
        let file =
            attempt().with_context(|| format!("locking {}", self.dir.join(LOCK).display()))?;
        Ok(Lock { file })
    }

    /// Puts a file into place, whole or not at all. Call with the lock held.
    ///
    /// # Errors
    /// If writing or renaming fails.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let attempt = || {
            let temporary = format!("{name}.tmp");
            let dir = self.open()?;
            sys::replace_file(dir, temporary.as_bytes(), name.as_bytes(), bytes, false)
        };
        attempt().with_context(|| format!("writing {}", self.dir.join(name).display()))
    }

    /// Loads the index; `None` if there is none.
    ///
    /// # Errors
    /// [`LoadError`]: there is one, and it cannot be used.
    pub fn load(&self) -> Result<Option<Index>, LoadError> {
        let absent = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        };
        let failed = |name: &str, source| LoadError::Read {
            path: self.dir.join(name),
            source,
        };
        let dir = match self.open() {
            Err(error) if absent(&error) => return Ok(None),
            other => other.map_err(|source| failed("", source))?,
        };
        let read = |name: &str| match sys::read_file(&dir, name.as_bytes(), MAX_FILE) {
            Err(error) if absent(&error) => Ok(None),
            other => other.map(Some).map_err(|source| failed(name, source)),
        };
        // The keys first: they are published last, so that what they are bound to is there when they are seen.
        let keys = read(names::KEYS)?;
        let Some(loader_cache) = read(names::LOADER_CACHE)? else {
            return Ok(None);
        };
        Index::new(loader_cache, keys, &self.dir).map(Some)
    }
}
