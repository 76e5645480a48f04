//! Where an index lies, and loading it whole.
//!
//! In the tree: `.elfuse` at the root, and a sidecar in every directory. Out of the tree: one directory that holds the store
//! alone; the loader cache has every sidecar's content. Without `--index-dir` that directory is
//! `$XDG_CACHE_HOME/elfuse/NAME-HASH`, named after the sysroot's path.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use elfuse_format::FormatError;
use elfuse_format::header::CHUNK_ROWS;
use elfuse_format::keys::{ArchivedDirKey, ArchivedFileKey, Keys, Seal};
use elfuse_format::loader_cache::{ArchivedDirRow, LoaderCache};
use elfuse_format::names;

use crate::sys::Identity;

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

impl Store {
    /// Where the index of `root` is, or would be looked for: `--index-dir` if given, else in the tree, else the default
    /// directory outside where one lies there.
    #[must_use]
    pub fn find(root: &Path, index_dir: Option<&Path>) -> Self {
        let inside = Self {
            dir: root.join(".elfuse"),
            in_tree: true,
        };
        if let Some(dir) = index_dir {
            return Self {
                in_tree: dir == inside.dir,
                dir: dir.to_owned(),
            };
        }
        if !inside.dir.exists()
            && let Some(dir) = default_outside(root).filter(|dir| dir.exists())
        {
            let in_tree = false;
            return Self { dir, in_tree };
        }
        inside
    }

    /// A store to write to. Falls back to the default directory outside where the tree may not be written to.
    ///
    /// # Errors
    /// If no directory can be made, or `--index-dir` lies inside the sysroot.
    pub fn create(root: &Path, index_dir: Option<&Path>) -> anyhow::Result<Self> {
        let make = |store: Self| -> anyhow::Result<Self> {
            fs::create_dir_all(&store.dir)
                .with_context(|| format!("making the index's directory {}", store.dir.display()))?;
            Ok(store)
        };
        let found = Self::find(root, index_dir);
        if let Some(dir) = index_dir {
            let store = make(found)?;
            let real = dir
                .canonicalize()
                .with_context(|| format!("resolving the index's directory {}", dir.display()))?;
            anyhow::ensure!(
                store.in_tree || !real.starts_with(root),
                "{} lies inside the sysroot {}, where it would index itself; \
                 give a directory outside, or leave --index-dir away",
                real.display(),
                root.display()
            );
            return Ok(store);
        }
        let inside = Self {
            dir: root.join(".elfuse"),
            in_tree: true,
        };
        match fs::create_dir(&inside.dir) {
            Ok(()) => Ok(inside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_dir = fs::symlink_metadata(&inside.dir).is_ok_and(|found| found.is_dir());
                anyhow::ensure!(
                    is_dir,
                    "{} is not a directory; it is the name of the index: remove it, or use --index-dir",
                    inside.dir.display()
                );
                Ok(inside)
            }
            Err(error) => {
                let dir = default_outside(root).with_context(|| {
                    format!(
                        "{} cannot be made ({error}) and there is no HOME to keep the index in; use --index-dir",
                        inside.dir.display()
                    )
                })?;
                make(Self {
                    dir,
                    in_tree: false,
                })
            }
        }
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

    /// Waits until no other process builds here.
    ///
    /// # Errors
    /// If the lock file cannot be made or locked.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("opening the lock {}", path.display()))?;
        file.lock()
            .with_context(|| format!("locking {}", path.display()))?;
        Ok(Lock { file })
    }

    /// Puts a file into place, whole or not at all. Call with the lock held.
    ///
    /// # Errors
    /// If writing or renaming fails.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let temporary = self.dir.join(format!("{name}.tmp"));
        let path = self.dir.join(name);
        let attempt = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            drop(file);
            fs::rename(&temporary, &path)
        };
        attempt().with_context(|| format!("writing {}", path.display()))
    }

    /// Loads the index; `None` if there is none.
    ///
    /// # Errors
    /// [`LoadError`]: there is one, and it cannot be used.
    pub fn load(&self) -> Result<Option<Index>, LoadError> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            match fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    Ok(None)
                }
                Err(source) => Err(LoadError::Read { path, source }),
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

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("reading {path}", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {source}", path = path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
}

/// A loader cache and, where they belong to it, its keys: in memory, so that nothing changes after it was checked.
#[derive(Debug)]
pub struct Index {
    loader_cache: Vec<u8>,
    keys: Option<Vec<u8>>,
    dirs: Vec<ArchivedDirRow>,
    dir_keys: Vec<ArchivedDirKey>,
    file_keys: Vec<ArchivedFileKey>,
    devices: Vec<u64>,
}

impl Index {
    fn new(loader_cache: Vec<u8>, keys: Option<Vec<u8>>, dir: &Path) -> Result<Self, LoadError> {
        let format = |name: &str| {
            let path = dir.join(name);
            move |source| LoadError::Format { path, source }
        };
        let mut index = Self {
            loader_cache,
            keys,
            dirs: Vec::new(),
            dir_keys: Vec::new(),
            file_keys: Vec::new(),
            devices: Vec::new(),
        };
        index.read_dirs().map_err(format(names::LOADER_CACHE))?;
        let bound = index.read_keys().map_err(format(names::KEYS))?;
        if !bound {
            index.keys = None;
            index.dir_keys.clear();
            index.file_keys.clear();
        }
        Ok(index)
    }

    fn read_dirs(&mut self) -> Result<(), FormatError> {
        let cache = LoaderCache::parse(&self.loader_cache)?;
        let chunks =
            (0..).take_while(|&i| cache.file().has(elfuse_format::header::PartKind::Dirs, i));
        for chunk in chunks {
            self.dirs.extend_from_slice(cache.dir_chunk(chunk)?);
        }
        // Children come after their parents and lie inside the table, so that walking down ends.
        for (number, row) in self.dirs.iter().enumerate() {
            let first = row.first_child.to_native() as usize;
            let end = first + row.child_count.to_native() as usize;
            if row.child_count.to_native() > 0 && (first <= number || end > self.dirs.len()) {
                return Err(FormatError::Malformed {
                    what: "directory rows",
                });
            }
        }
        Ok(())
    }

    /// Whether there are keys and they belong to this loader cache.
    fn read_keys(&mut self) -> Result<bool, FormatError> {
        let Some(bytes) = &self.keys else {
            return Ok(false);
        };
        let keys = Keys::parse(bytes)?;
        let binding = LoaderCache::parse(&self.loader_cache)?.binding();
        if keys.bound_to() != binding {
            return Ok(false);
        }
        self.devices = keys
            .devices()?
            .iter()
            .map(|row| row.dev.to_native())
            .collect();
        let chunk_count =
            |rows: usize| u32::try_from(rows.div_ceil(CHUNK_ROWS)).unwrap_or(u32::MAX);
        for chunk in 0..chunk_count(self.dirs.len()) {
            self.dir_keys.extend_from_slice(keys.dir_chunk(chunk)?);
        }
        let chunks = (0..).take_while(|&i| {
            keys.file()
                .has(elfuse_format::header::PartKind::FileKeys, i)
        });
        for chunk in chunks {
            self.file_keys.extend_from_slice(keys.file_chunk(chunk)?);
        }
        if self.dir_keys.len() != self.dirs.len() {
            return Err(FormatError::Malformed {
                what: "directory keys",
            });
        }
        Ok(true)
    }

    /// The loader cache.
    ///
    /// # Panics
    /// Never: it was parsed when the index was loaded, and the bytes are private.
    #[must_use]
    pub fn loader_cache(&self) -> LoaderCache<'_> {
        LoaderCache::parse(&self.loader_cache).expect("parsed when loaded")
    }

    /// The loader cache's bytes.
    #[must_use]
    pub fn loader_cache_bytes(&self) -> &[u8] {
        &self.loader_cache
    }

    /// The keys, if there are any that belong to the loader cache.
    #[must_use]
    pub fn keys(&self) -> Option<Keys<'_>> {
        Keys::parse(self.keys.as_deref()?).ok()
    }

    /// Rows of the directories.
    #[must_use]
    pub fn dirs(&self) -> &[ArchivedDirRow] {
        &self.dirs
    }

    /// Bytes of a directory's block; `None` if it is not covered or does not match its checksum.
    #[must_use]
    pub fn block_bytes(&self, dir: u32) -> Option<&[u8]> {
        let row = self.dirs.get(dir as usize)?;
        self.loader_cache().block_bytes(row).ok()?
    }

    /// Number of the child of `dir` that has `rank` among its directories.
    #[must_use]
    pub fn child(&self, dir: u32, rank: u32) -> Option<u32> {
        let row = self.dirs.get(dir as usize)?;
        let inside = rank < row.child_count.to_native();
        inside.then(|| row.first_child.to_native() + rank)
    }

    fn matches(&self, device: u16, seal: u8, of: (u64, keys_time::Pair), found: &Identity) -> bool {
        Seal::from_byte(seal) == Seal::Sealed
            && self.devices.get(usize::from(device)) == Some(&found.dev)
            && of == (found.ino, (found.mtime, found.ctime))
    }

    /// Whether the key of `dir` is sealed and `found` is the very state it was made from, for the block it stands beside.
    #[must_use]
    pub fn dir_key_holds(&self, dir: u32, found: &Identity) -> bool {
        let (Some(key), Some(row)) = (self.dir_keys.get(dir as usize), self.dirs.get(dir as usize))
        else {
            return false;
        };
        let times = (key.mtime.to_native(), key.ctime.to_native());
        key.block_checksum == row.block_checksum
            && self.matches(
                key.device.to_native(),
                key.seal,
                (key.ino.to_native(), times),
                found,
            )
    }

    /// Whether the key of ELF row `elf` of `dir` is sealed and `found` is the very state it was made from.
    #[must_use]
    pub fn file_key_holds(&self, dir: u32, elf: u32, found: &Identity) -> bool {
        let row = self
            .dirs
            .get(dir as usize)
            .map(|row| row.first_elf.to_native() as usize);
        let Some(key) = row.and_then(|first| self.file_keys.get(first + elf as usize)) else {
            return false;
        };
        let times = (key.mtime.to_native(), key.ctime.to_native());
        key.size.to_native() == found.size
            && self.matches(
                key.device.to_native(),
                key.seal,
                (key.ino.to_native(), times),
                found,
            )
    }

    /// Whether the key of ELF row `elf` of `dir` claims anything.
    #[must_use]
    pub fn file_key_is_sealed(&self, dir: u32, elf: u32) -> bool {
        let row = self
            .dirs
            .get(dir as usize)
            .map(|row| row.first_elf.to_native() as usize);
        let key = row.and_then(|first| self.file_keys.get(first + elf as usize));
        key.is_some_and(|key| Seal::from_byte(key.seal) == Seal::Sealed)
    }

    /// Key of a directory, if there are keys.
    #[must_use]
    pub fn dir_key(&self, dir: u32) -> Option<&ArchivedDirKey> {
        self.dir_keys.get(dir as usize)
    }

    /// Whether the key of the loader cache's input number `input` is sealed and `found` is the very state it was made from.
    #[must_use]
    pub fn input_key_holds(&self, input: usize, found: &Identity) -> bool {
        let keys = self.keys().and_then(|keys| keys.inputs().ok());
        let Some(key) = keys.and_then(|keys| keys.get(input)) else {
            return false;
        };
        let times = (key.mtime.to_native(), key.ctime.to_native());
        let of = (key.ino.to_native(), times);
        key.size.to_native() == found.size
            && self.matches(key.device.to_native(), key.seal, of, found)
    }
}

mod keys_time {
    use elfuse_format::keys::Time;
    /// (mtime, ctime).
    pub(super) type Pair = (Time, Time);
}
