//! A store's loader cache and keys as one: which directory a name leads to, and what has to hold for that to be believed.
//!
//! Nothing here asks the host. A step says what the index knows; whether that may be believed is decided by comparing
//! [`Index::key`] of every directory on the way with what the host says of it now.

use elfuse_format::FormatError;
use elfuse_format::keys::{ArchivedDirKey, Keys, Seal};
use elfuse_format::loader_cache::{ArchivedDirRow, LoaderCache};
use elfuse_format::sidecar::{Block, Kind, Names, find};

/// Number of a directory in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(u32);

impl DirId {
    /// The sysroot's root.
    pub const ROOT: DirId = DirId(0);

    /// The number itself.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }
}

/// What the index knows of one name in one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A directory.
    Directory(DirId),
    /// A symlink and its text.
    Symlink(&'a [u8]),
    /// A regular file.
    File,
    /// A socket, FIFO or device node.
    Other,
    /// There is no such name.
    Absent,
    /// The directory is not covered: ask the host.
    NotCovered,
}

/// A loader cache, and the keys that belong to it.
#[derive(Debug, Clone, Copy)]
pub struct Index<'a> {
    cache: LoaderCache<'a>,
    keys: Keys<'a>,
}

/// Why there is no usable index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexError {
    /// The loader cache is malformed.
    LoaderCache(FormatError),
    /// The keys are malformed.
    Keys(FormatError),
    /// The keys were made for another loader cache: one of the two was just being published.
    Unbound,
    /// A file is shorter than its header says, or cannot be read.
    Fault,
    /// There is too little memory for the tables.
    NoRoom,
}

/// The directories that names in one directory lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Children {
    dir: u32,
    first: u32,
    count: u32,
}

impl Children {
    pub(crate) fn of(dir: DirId, row: &ArchivedDirRow) -> Self {
        Self {
            dir: dir.0,
            first: row.first_child.to_native(),
            count: row.child_count.to_native(),
        }
    }

    fn child(&self, rank: u32) -> Option<DirId> {
        let child = self.first.checked_add(rank)?;
        // A child before its parent would let a walk go round in circles.
        (rank < self.count && child > self.dir).then_some(DirId(child))
    }
}

/// What `name` is in the directory that has these names.
#[inline(always)]
pub(crate) fn step<'a, N, E>(
    names: &N,
    name: &[u8],
    children: impl FnOnce() -> Result<Children, E>,
) -> Result<Step<'a>, E>
where
    N: Names<'a>,
    E: From<N::Error> + From<FormatError>,
{
    const MALFORMED: FormatError = FormatError::Malformed {
        what: "directory block",
    };
    let entry = match find(names, name) {
        Ok(Some(entry)) => entry,
        Ok(None) => return Ok(Step::Absent),
        Err(why) => return Err(why.into()),
    };
    match entry.kind() {
        Some(Kind::File) => Ok(Step::File),
        Some(Kind::Other) => Ok(Step::Other),
        Some(Kind::Symlink) => Ok(Step::Symlink(entry.target(names)?)),
        Some(Kind::Directory) => {
            let rank = entry.rank().ok_or(MALFORMED)?;
            let child = children()?.child(rank).ok_or(MALFORMED)?;
            Ok(Step::Directory(child))
        }
        None => Err(MALFORMED.into()),
    }
}

impl<'a> Index<'a> {
    /// Checks headers and part tables, some hundred bytes of each file; the rest is checked when it is touched.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn parse(loader_cache: &'a [u8], keys: &'a [u8]) -> Result<Self, IndexError> {
        let cache = LoaderCache::parse(loader_cache).map_err(IndexError::LoaderCache)?;
        let keys = Keys::parse(keys).map_err(IndexError::Keys)?;
        if keys.bound_to() != cache.binding() {
            return Err(IndexError::Unbound);
        }
        Ok(Self { cache, keys })
    }

    fn row(&self, dir: DirId) -> Result<&'a ArchivedDirRow, FormatError> {
        self.cache.dir(dir.0)
    }

    /// The names of a directory; `None`: not covered. Checks the block's checksum: keep it to ask for several names.
    ///
    /// # Errors
    /// [`FormatError`]: the index lies; ask the host.
    pub fn block(&self, dir: DirId) -> Result<Option<Block<'a>>, FormatError> {
        self.cache.block(self.row(dir)?)
    }

    /// What `name` is in `dir`.
    ///
    /// # Errors
    /// [`FormatError`]: the index lies; ask the host.
    pub fn step(&self, dir: DirId, name: &[u8]) -> Result<Step<'a>, FormatError> {
        match self.block(dir)? {
            None => Ok(Step::NotCovered),
            Some(block) => self.step_in(dir, block, name),
        }
    }

    /// What `name` is in `dir`, whose names `block` are.
    ///
    /// # Errors
    /// [`FormatError`]: the index lies; ask the host.
    pub fn step_in(
        &self,
        dir: DirId,
        block: Block<'a>,
        name: &[u8],
    ) -> Result<Step<'a>, FormatError> {
        step(&block, name, || Ok(Children::of(dir, self.row(dir)?)))
    }

    /// What must be so on the host for the names of `dir` to be believed; `None`: they may not be, whatever the host says.
    ///
    /// # Errors
    /// [`FormatError`]: the index lies; ask the host.
    pub fn key(&self, dir: DirId) -> Result<Option<&'a ArchivedDirKey>, FormatError> {
        let row = self.row(dir)?;
        let key = self.keys.dirs()?.get(dir.0 as usize);
        Ok(key.filter(|key| {
            Seal::from_byte(key.seal) == Seal::Sealed && key.block_checksum == row.block_checksum
        }))
    }

    /// `st_dev` of a key's device when it was made.
    ///
    /// # Errors
    /// [`FormatError`]: the index lies; ask the host.
    pub fn device(&self, key: &ArchivedDirKey) -> Result<Option<u64>, FormatError> {
        let devices = self.keys.devices()?;
        let row = devices.get(usize::from(key.device.to_native()));
        Ok(row.map(|row| row.dev.to_native()))
    }
}
