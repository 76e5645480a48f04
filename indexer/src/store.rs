//! Where an index lies, who may write it, and how its files are read and replaced.
//!
//! In the tree: `.elfuse` at the root, and a sidecar in every directory. Out of the tree: one directory that holds the store
//! alone; the loader cache has every sidecar's content. Without `--index-dir` that directory is
//! `$XDG_CACHE_HOME/elfuse/NAME-HASH`, named after the sysroot's path.
//!
//! A sysroot may come from anybody, and so may the `.elfuse` in it: what is opened there is opened below its descriptor, and no
//! symlink, FIFO or device node in the place of a file of ours is followed, waited for or written to.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use elfuse_format::FormatError;
use elfuse_format::generation;
use elfuse_format::header::{self, HEADER_LEN, Header};
use elfuse_format::names;
use elfuse_format::sidecar::Kind;
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::index::{Index, LoadError};
use crate::sys;

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

/// Holds other builders off while it lives, and is what puts files into the store.
#[derive(Debug)]
pub struct Lock {
    store: PathBuf,
    dir: OwnedFd,
    file: File,
    made: bool,
}

/// Name of the lock file.
pub const LOCK: &str = "lock";
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const MODE: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::RGRP)
    .union(Mode::ROTH);

fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

impl Lock {
    /// The lock file, which lies on the index's own file system.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The store.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Whether there was no store before.
    #[must_use]
    pub fn made_the_store(&self) -> bool {
        self.made
    }

    /// Puts a file into place, whole or not at all.
    ///
    /// # Errors
    /// If writing or renaming fails.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let temporary = temporary(name);
        let (new, name_bytes) = (temporary.as_bytes(), name.as_bytes());
        let done = sys::replace_file(&self.dir, new, name_bytes, bytes, false);
        done.with_context(|| format!("writing {}", self.store.join(name).display()))
    }

    /// Removes a file of the store, if it is there.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The stamp that attributes are captured under: of the store's generation file, which is made where there is none.
    ///
    /// # Errors
    /// If it cannot be read, made or written.
    pub fn attribute_stamp(&self) -> anyhow::Result<u64> {
        let path = || self.store.join(names::GENERATION);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = flags | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.dir, names::GENERATION, flags, Mode::empty());
        let found = opened.ok().and_then(|file| read_whole(&file.into()).ok());
        let found = found.as_deref().and_then(generation::stamp);
        if let Some(stamp) = found.filter(|stamp| *stamp != 0) {
            return Ok(stamp);
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let time_ns = now.unwrap_or_default().as_nanos() as u64;
        let mut seed = time_ns.to_le_bytes().to_vec();
        seed.extend_from_slice(&std::process::id().to_le_bytes());
        let stamp = names::hash(&seed).max(1);
        if found.is_some() {
            // Runs have it mapped: it must stay the same file.
            let write = || -> io::Result<()> {
                let flags = flags.difference(OFlags::RDONLY) | OFlags::RDWR;
                let file = rustix::fs::openat(&self.dir, names::GENERATION, flags, Mode::empty())?;
                rustix::io::pwrite(file, &stamp.to_le_bytes(), generation::STAMP as u64)?;
                Ok(())
            };
            write().with_context(|| format!("writing {}", path().display()))?;
            return Ok(stamp);
        }
        self.publish(names::GENERATION, &generation::new_file(time_ns, stamp))?;
        // All who run programs from the sysroot announce their changes there.
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::chmodat(&self.dir, names::GENERATION, mode, AtFlags::empty())
            .with_context(|| format!("setting the mode of {}", path().display()))?;
        // Only now: see `generation::SNAPSHOTS`.
        if self.store.join(names::RESIDENT).exists() {
            let write = || -> io::Result<()> {
                let flags = flags.difference(OFlags::RDONLY) | OFlags::RDWR;
                let file = rustix::fs::openat(&self.dir, names::GENERATION, flags, Mode::empty())?;
                rustix::io::pwrite(file, &1_u64.to_le_bytes(), generation::SNAPSHOTS as u64)?;
                Ok(())
            };
            write().with_context(|| format!("writing {}", path().display()))?;
        }
        Ok(stamp)
    }

    /// Says in the store's generation file, if there is one, that no change is in flight. Where a run died in the middle of one, the
    /// count would else stay up for ever and keep all others from believing anything without a look at the host.
    ///
    /// Runs that are changing something just now are not disturbed: they take the count no lower than 0, and until then what
    /// others believe was looked at after this.
    ///
    /// # Errors
    /// If the file may be opened and not written to. One that is none of ours is left alone: a run replaces it.
    pub fn reset_generation(&self) -> anyhow::Result<()> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = rustix::fs::openat(
            &self.dir,
            names::GENERATION,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        );
        // Without the right to write it, it is somebody else's to reset.
        let Ok(file) = opened.map(File::from) else {
            return Ok(());
        };
        let Ok(bytes) = read_whole(&file) else {
            return Ok(());
        };
        let is_one = Header::parse(&bytes)
            .is_ok_and(|header| header.kind == header::Kind::Generation as u16);
        let in_flight = HEADER_LEN..HEADER_LEN + 8;
        if !is_one || bytes.get(in_flight).is_none_or(|count| count == [0; 8]) {
            return Ok(());
        }
        let written = rustix::io::pwrite(&file, &[0; 8], HEADER_LEN as u64);
        written.map(drop).with_context(|| {
            let path = self.store.join(names::GENERATION);
            format!("setting the count of changes in {} to 0", path.display())
        })
    }

    /// Whether the lock that is held is the one that others will ask for: `clean` removes it, with or without the store.
    fn is_current(&self) -> bool {
        let id = |found: sys::Status| (found.identity.dev, found.identity.ino);
        let same = || -> io::Result<bool> {
            let dir = fs::metadata(&self.store)?;
            Ok((dir.dev(), dir.ino()) == id(sys::fstat(&self.dir)?)
                && id(sys::stat_at(&self.dir, LOCK.as_bytes())?) == id(sys::fstat(&self.file)?))
        };
        same().unwrap_or(false)
    }
}

/// What a path would be without symlinks. What is not there yet is none.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for known in absolute.ancestors() {
        let Ok(mut real) = known.canonicalize() else {
            continue;
        };
        let rest = absolute.strip_prefix(known).unwrap_or(Path::new(""));
        for component in rest.components() {
            match component {
                Component::ParentDir => drop(real.pop()),
                other => real.push(other),
            }
        }
        return Ok(real);
    }
    Ok(absolute)
}

impl Store {
    fn inside(root: &Path) -> Self {
        Self {
            dir: root.join(".elfuse"),
            in_tree: true,
        }
    }

    fn outside(dir: PathBuf) -> Self {
        let in_tree = false;
        Self { dir, in_tree }
    }

    /// Whether it is a directory, and this process may write there.
    fn is_writable(&self) -> bool {
        let is_dir = fs::symlink_metadata(&self.dir).is_ok_and(|found| found.is_dir());
        is_dir && rustix::fs::access(&self.dir, Access::WRITE_OK).is_ok()
    }

    /// Where the index of `root` is, or would be looked for: `--index-dir` if given, else in the tree, else the default
    /// directory outside where one lies there. That one goes before an index in the tree that cannot be written: it was sealed
    /// on this host.
    #[must_use]
    pub fn find(root: &Path, index_dir: Option<&Path>) -> Self {
        let inside = Self::inside(root);
        if let Some(dir) = index_dir {
            if resolved(dir).is_ok_and(|real| real == inside.dir) {
                return inside;
            }
            return Self::outside(dir.to_owned());
        }
        if !inside.is_writable()
            && let Some(dir) = default_outside(root).filter(|dir| dir.is_dir())
        {
            return Self::outside(dir);
        }
        inside
    }

    /// A store to write to, which [`Store::lock`] makes. Outside, in the default directory, where the tree may not be written
    /// to.
    ///
    /// # Errors
    /// If there is no place for it, or `--index-dir` lies inside the sysroot.
    pub fn create(root: &Path, index_dir: Option<&Path>) -> anyhow::Result<Self> {
        let inside = Self::inside(root);
        if let Some(dir) = index_dir {
            let found = Self::find(root, index_dir);
            let real = resolved(dir)
                .with_context(|| format!("resolving the index's directory {}", dir.display()))?;
            anyhow::ensure!(
                found.in_tree || !real.starts_with(root),
                "{} lies inside the sysroot {}, where it would index itself; \
                 give a directory outside, or leave --index-dir away",
                real.display(),
                root.display()
            );
            return Ok(found);
        }
        let why = match fs::symlink_metadata(&inside.dir) {
            Ok(found) if !found.is_dir() => {
                anyhow::bail!(
                    "{} is not a directory; it is the name of the index: remove it, or use --index-dir",
                    inside.dir.display()
                );
            }
            Ok(_) if inside.is_writable() => return Ok(inside),
            Ok(_) => "cannot be written",
            Err(_) if rustix::fs::access(root, Access::WRITE_OK).is_ok() => return Ok(inside),
            Err(_) => "cannot be made",
        };
        let dir = default_outside(root).with_context(|| {
            format!(
                "{} {why} and there is no HOME to keep the index in; use --index-dir",
                inside.dir.display()
            )
        })?;
        Ok(Self::outside(dir))
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

    fn open(&self) -> io::Result<OwnedFd> {
        let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A directory of the user's own may be given through a symlink; one in a sysroot may not lead out of it.
        flags.set(OFlags::NOFOLLOW, self.in_tree);
        Ok(rustix::fs::open(&self.dir, flags, Mode::empty())?)
    }

    /// Makes the store if it is not there, waits until no other process builds here, and removes what one left that was killed.
    ///
    /// # Errors
    /// If the store or its lock file cannot be made, opened or locked.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        loop {
            let made = match fs::create_dir(&self.dir) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.in_tree => {
                    fs::create_dir_all(&self.dir).with_context(|| self.making())?;
                    true
                }
                Err(error) => return Err(error).with_context(|| self.making()),
            };
            if let Some(mut lock) = self.lock_existing()? {
                lock.made = made;
                for name in [names::KEYS, names::LOADER_CACHE] {
                    lock.remove(&temporary(name))
                        .with_context(|| format!("tidying {}", self.dir.display()))?;
                }
                return Ok(lock);
            }
        }
    }

    fn making(&self) -> String {
        format!("making the index's directory {}", self.dir.display())
    }

    /// As [`Store::lock`] where there is a store; `None` where there is none, or none any more.
    ///
    /// # Errors
    /// If the lock file cannot be made, opened or locked.
    pub fn lock_existing(&self) -> anyhow::Result<Option<Lock>> {
        let opening = || format!("opening the index's directory {}", self.dir.display());
        let dir = match self.open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(opening)?,
        };
        let path = self.dir.join(LOCK);
        let opened = match rustix::fs::openat(&dir, LOCK, NEW_FILE, MODE) {
            // The directory was removed after it was opened.
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(io::Error::from).and_then(|file| {
                let is_file = sys::fstat(&file)?.kind == Kind::File;
                is_file.then_some(file).ok_or_else(not_regular)
            }),
        };
        let file =
            File::from(opened.with_context(|| format!("opening the lock {}", path.display()))?);
        file.lock()
            .with_context(|| format!("locking {}", path.display()))?;
        let lock = Lock {
            store: self.dir.clone(),
            dir,
            file,
            made: false,
        };
        Ok(lock.is_current().then_some(lock))
    }

    /// Loads the index; `None` if there is none.
    ///
    /// # Errors
    /// [`LoadError`]: there is one, and it cannot be used.
    pub fn load(&self) -> Result<Option<Index>, LoadError> {
        let missing = |error: &io::Error| {
            let errno = Errno::from_io_error(error);
            matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
        };
        let read_error = |path: PathBuf| move |source| LoadError::Read { path, source };
        let dir = match self.open() {
            Err(error) if missing(&error) => return Ok(None),
            other => other.map_err(read_error(self.dir.clone()))?,
        };
        let read = |name: &str| {
            let path = self.dir.join(name);
            match sys::open_file(&dir, name.as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(LoadError::Read { path, source }),
                Ok(file) => read_whole(&file).map(Some).map_err(|error| match error {
                    ReadError::Io(source) => LoadError::Read { path, source },
                    ReadError::Format(source) => LoadError::Format { path, source },
                }),
            }
        };
        // The keys first: they are published last, so that what they are bound to is there when they are seen.
        let keys = read(names::KEYS)?;
        let Some(loader_cache) = read(names::LOADER_CACHE)? else {
            return Ok(None);
        };
        Index::new(loader_cache, keys, &self.dir).map(Some)
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Why a file of ours was not read.
#[derive(Debug)]
pub enum ReadError {
    /// What the host said.
    Io(io::Error),
    /// It is not as long as it says, or does not start as one.
    Format(FormatError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The bytes of a file that starts with our header and is as long as that says. Anything else is not read: it may be sparse and
/// larger than memory.
///
/// # Errors
/// [`ReadError`].
pub fn read_whole(file: &File) -> Result<Vec<u8>, ReadError> {
    let status = sys::fstat(file)?;
    if status.kind != Kind::File {
        return Err(not_regular().into());
    }
    let mut bytes = Vec::with_capacity(HEADER_LEN);
    file.take(HEADER_LEN as u64).read_to_end(&mut bytes)?;
    let header = Header::parse(&bytes).map_err(ReadError::Format)?;
    let expected = header.file_len();
    let found = status.identity.size;
    if expected != found {
        return Err(ReadError::Format(FormatError::Length { expected, found }));
    }
    let rest = usize::try_from(found).unwrap_or(usize::MAX) - bytes.len();
    let reserved = bytes.try_reserve_exact(rest);
    reserved.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    file.take(rest as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
