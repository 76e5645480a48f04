//! An index in memory: read whole, checked whole, then only asked.

use std::io;
use std::path::{Path, PathBuf};

use elfuse_format::FormatError;
use elfuse_format::elf_facts::ContentHash;
use elfuse_format::header::PartKind;
use elfuse_format::keys::{ArchivedDirKey, ArchivedFileKey, Keys, Seal};
use elfuse_format::loader_cache::{ArchivedDirRow, LoaderCache};
use elfuse_format::names;
use elfuse_format::sidecar::Block;
use elfuse_format::text::{ArchivedTextCopy, ArchivedTextIdentity, RelocatedRun, TextVerdict};

use crate::sys::Identity;

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
    #[error("{path}", path = path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
}

/// A loader cache and, where they belong to it, its keys. Nothing changes after it was checked, as the bytes are private.
#[derive(Debug)]
pub struct Index {
    loader_cache: Vec<u8>,
    keys: Option<Vec<u8>>,
    dirs: Vec<ArchivedDirRow>,
    /// Where the blocks start in `loader_cache`.
    blocks: usize,
    dir_keys: Vec<ArchivedDirKey>,
    file_keys: Vec<ArchivedFileKey>,
    input_keys: Vec<ArchivedFileKey>,
    plain: Vec<u64>,
    /// Sorted by inode and device.
    texts: Vec<(ArchivedTextIdentity, Option<RelocatedRun>)>,
    text_copies: Vec<ArchivedTextCopy>,
    devices: Vec<u64>,
    has_attributes: bool,
    has_relocated_runs: bool,
}

const MISMATCH: FormatError = FormatError::Malformed {
    what: "keys: not a row for each directory and file of the loader cache",
};

impl Index {
    /// Checks all of both files. Keys that belong to another loader cache are left out: one of the two was just being published.
    ///
    /// # Errors
    /// [`LoadError::Format`].
    pub fn new(
        loader_cache: Vec<u8>,
        keys: Option<Vec<u8>>,
        dir: &Path,
    ) -> Result<Self, LoadError> {
        let format = |name: &str| {
            let path = dir.join(name);
            move |source| LoadError::Format { path, source }
        };
        let mut index = Self {
            loader_cache,
            keys,
            dirs: Vec::new(),
            blocks: 0,
            dir_keys: Vec::new(),
            file_keys: Vec::new(),
            input_keys: Vec::new(),
            plain: Vec::new(),
            texts: Vec::new(),
            text_copies: Vec::new(),
            devices: Vec::new(),
            has_attributes: false,
            has_relocated_runs: false,
        };
        index.read_dirs().map_err(format(names::LOADER_CACHE))?;
        if !index.read_keys().map_err(format(names::KEYS))? {
            index.keys = None;
        }
        Ok(index)
    }

    fn read_dirs(&mut self) -> Result<(), FormatError> {
        let cache = LoaderCache::parse(&self.loader_cache)?;
        cache.check()?;
        self.dirs.extend_from_slice(cache.dirs()?);
        let blocks = cache.file().part_unchecked(PartKind::Blocks)?;
        // Both slices are of the same bytes.
        self.blocks = blocks.as_ptr() as usize - self.loader_cache.as_ptr() as usize;
        Ok(())
    }

    /// Whether the keys say what stat returns.
    #[must_use]
    pub fn has_attributes(&self) -> bool {
        self.has_attributes
    }

    /// Whether the keys say what of the files' data is certain to be written to.
    #[must_use]
    pub fn has_relocated_runs(&self) -> bool {
        self.has_relocated_runs
    }

    /// Whether there are keys and they belong to this loader cache.
    fn read_keys(&mut self) -> Result<bool, FormatError> {
        let Some(bytes) = &self.keys else {
            return Ok(false);
        };
        let keys = Keys::parse(bytes)?;
        if keys.bound_to() != LoaderCache::parse(&self.loader_cache)?.binding() {
            return Ok(false);
        }
        keys.check()?;
        self.has_attributes = keys.attribute_terms()?.is_some();
        let devices = keys.devices()?.iter();
        self.devices = devices.map(|row| row.dev.to_native()).collect();
        self.dir_keys.extend_from_slice(keys.dirs()?);
        let digests = keys.plain()?.iter();
        self.plain.extend(digests.map(|digest| digest.to_native()));
        self.file_keys.extend_from_slice(keys.files()?);
        self.has_relocated_runs = keys.relocated_runs()?.is_some();
        let runs = keys.relocated_runs()?.unwrap_or_default().iter();
        let runs = runs.map(|run| Some(run.to_native()));
        let runs = runs.chain(std::iter::repeat(None));
        self.texts
            .extend(keys.text_identities()?.iter().copied().zip(runs));
        self.texts
            .sort_by_key(|(row, _)| (row.ino.to_native(), row.device.to_native()));
        self.text_copies.extend_from_slice(keys.text_copies()?);
        self.input_keys.extend_from_slice(keys.inputs()?);
        let inputs = LoaderCache::parse(&self.loader_cache)?
            .inputs()?
            .rows()
            .count();
        let elves = (0..)
            .zip(&self.dirs)
            .map(|(dir, _)| self.elf_count(dir))
            .sum::<usize>();
        let fits = self.dir_keys.len() == self.dirs.len()
            && self.file_keys.len() == elves
            && self.input_keys.len() == inputs;
        if fits { Ok(true) } else { Err(MISMATCH) }
    }

    fn elf_count(&self, dir: u32) -> usize {
        let block = self
            .block_bytes(dir)
            .map(elfuse_format::sidecar::Block::parse);
        block
            .and_then(Result::ok)
            .map_or(0, |block| block.elf_count())
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

    /// Bytes of a directory's block, whose checksum was compared when the index was loaded; `None` if it is not covered.
    #[must_use]
    pub fn block_bytes(&self, dir: u32) -> Option<&[u8]> {
        let row = self.dirs.get(dir as usize)?;
        let start = self.blocks + usize::try_from(row.block_offset.to_native()).ok()?;
        let len = row.block_len.to_native() as usize;
        self.loader_cache
            .get(start..start + len)
            .filter(|bytes| !bytes.is_empty())
    }

    /// Number of the child of `dir` that has `rank` among its directories.
    #[must_use]
    pub fn child(&self, dir: u32, rank: u32) -> Option<u32> {
        let row = self.dirs.get(dir as usize)?;
        let inside = rank < row.child_count.to_native();
        inside.then(|| row.first_child.to_native() + rank)
    }

    fn device(&self, slot: u16) -> Option<u64> {
        self.devices.get(usize::from(slot)).copied()
    }

    /// Whether the key of `dir` is sealed and `found` is the very state it was made from, for the block it stands beside.
    #[must_use]
    pub fn dir_key_holds(&self, dir: u32, found: &Identity) -> bool {
        let rows = self
            .dir_keys
            .get(dir as usize)
            .zip(self.dirs.get(dir as usize));
        rows.is_some_and(|(key, row)| {
            let dev = self.device(key.device.to_native());
            key.holds(dev, &found.state(), row.block_checksum.to_native())
        })
    }

    fn holds(&self, key: Option<&ArchivedFileKey>, found: &Identity) -> bool {
        key.is_some_and(|key| {
            let dev = self.device(key.device.to_native());
            key.holds(dev, &found.state(), found.size)
        })
    }

    fn file_key(&self, dir: u32, elf: u32) -> Option<&ArchivedFileKey> {
        let first = self.dirs.get(dir as usize)?.first_elf.to_native() as usize;
        self.file_keys.get(first + elf as usize)
    }

    /// Whether the key of ELF row `elf` of `dir` is sealed and `found` is the very state it was made from.
    #[must_use]
    pub fn file_key_holds(&self, dir: u32, elf: u32, found: &Identity) -> bool {
        self.holds(self.file_key(dir, elf), found)
    }

    /// Whether the key of ELF row `elf` of `dir` claims anything.
    #[must_use]
    pub fn file_key_is_sealed(&self, dir: u32, elf: u32) -> bool {
        let key = self.file_key(dir, elf);
        key.is_some_and(|key| Seal::from_byte(key.seal) == Seal::Sealed)
    }

    /// Digest of the states of a directory's files without facts; 0 where they have to be looked at again.
    #[must_use]
    pub fn plain_digest(&self, dir: u32) -> Option<u64> {
        self.plain.get(dir as usize).copied()
    }

    /// Whether the key of a directory may be believed, and if not, why; `None` without keys.
    #[must_use]
    pub fn seal(&self, dir: u32) -> Option<Seal> {
        let key = self.dir_keys.get(dir as usize);
        key.map(|key| Seal::from_byte(key.seal))
    }

    /// Whether the key of the loader cache's input number `input` claims anything.
    #[must_use]
    pub fn input_key_is_sealed(&self, input: usize) -> bool {
        let key = self.input_keys.get(input);
        key.is_some_and(|key| Seal::from_byte(key.seal) == Seal::Sealed)
    }

    /// Whether the key of the loader cache's input number `input` is sealed and `found` is the very state it was made from.
    #[must_use]
    pub fn input_key_holds(&self, input: usize, found: &Identity) -> bool {
        self.holds(self.input_keys.get(input), found)
    }

    /// Rows of the patched copies.
    pub fn copies(&self) -> impl Iterator<Item = &ArchivedTextCopy> {
        self.text_copies.iter()
    }

    /// Rows of the files with executable code.
    pub fn texts(&self) -> impl Iterator<Item = &ArchivedTextIdentity> {
        self.texts.iter().map(|(row, _)| row)
    }

    /// Whether a copy is the very file that its row was made from, and made by the rules of today.
    #[must_use]
    pub fn copy_holds(&self, row: &ArchivedTextCopy, found: &Identity) -> bool {
        let dev = self.device(row.device.to_native());
        row.layout().is_some() && row.holds(dev, &found.state(), found.size)
    }

    /// What of a file in this state is certain to be written to, by a row that holds; `None`: there is none.
    #[must_use]
    pub fn relocated_run(&self, found: &Identity) -> Option<RelocatedRun> {
        let first = self
            .texts
            .partition_point(|(row, _)| row.ino.to_native() < found.ino);
        let rows = self.texts.get(first..)?.iter();
        let mut rows = rows.take_while(|(row, _)| row.ino.to_native() == found.ino);
        let holds = |(row, _): &&(ArchivedTextIdentity, _)| {
            let dev = self.device(row.device.to_native());
            row.holds(dev, &found.state(), found.size)
        };
        rows.find(holds)?.1
    }

    /// Calls `each` with what is known of the code of every content, and of the data that is written to.
    pub fn each_text<'i>(
        &'i self,
        mut each: impl FnMut(
            ContentHash,
            TextVerdict,
            Option<RelocatedRun>,
            Option<&'i ArchivedTextCopy>,
        ),
    ) {
        for (dir, row) in (0..).zip(&self.dirs) {
            let block = self.block_bytes(dir).map(Block::parse);
            let Some(Ok(block)) = block else {
                continue;
            };
            let first = row.first_elf.to_native() as usize;
            for at in 0..block.elf_count() {
                let (Some(elf), Some(key)) = (block.elf(at), self.file_keys.get(first + at)) else {
                    continue;
                };
                let identity = (key.ino.to_native(), key.device.to_native());
                let found = self.texts.binary_search_by_key(&identity, |(row, _)| {
                    (row.ino.to_native(), row.device.to_native())
                });
                let Some((text, run)) = found.ok().and_then(|at| self.texts.get(at)) else {
                    continue;
                };
                let copy = text.copy();
                let copy = copy.and_then(|copy| self.text_copies.get(copy as usize));
                each(elf.row.content_hash, text.verdict(), *run, copy);
            }
        }
    }
}
