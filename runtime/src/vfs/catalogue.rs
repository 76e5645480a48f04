//! The index as a run holds it: copies of what was touched, checked once and believed ever after.
//!
//! The files may be truncated, rewritten or rot at any moment, so nothing in a mapping is looked at twice. A chunk of rows, or a
//! directory's block, is copied to memory of this process's own, its checksum compared there, and the copy is used from then on.
//! What does not fit, lies, or is being copied by somebody else just now is not covered: the host is asked instead.

use elfuse_format::header::{
    CHUNK_ROWS, HEADER_LEN, Header, Kind, PART_ROW_LEN, PartKind, PartTable, rows,
};
use elfuse_format::keys::{ArchivedDeviceRow, ArchivedDirKey, Seal, State, flags};
use elfuse_format::loader_cache::ArchivedDirRow;
use elfuse_format::sidecar::{Block, Entry};
use elfuse_format::{FormatError, checksum::checksum};

use super::arena::{Arena, Once};
use super::coherence::{Coherence, Lease, Note, Terms, Ticket, View};
use super::host::{HostStat, Moment};
use super::verdict::{Verdict, Verdicts};
use crate::errno::Errno;
use crate::index::{self, Children, DirId, IndexError, Step};

/// The longest block that is copied, in bytes: some hundred thousand names.
pub const MAX_BLOCK: usize = 8 << 20;
/// The longest chunk of rows that is copied, in bytes: of [`CHUNK_ROWS`] keys or directories, and the archive's end.
const MAX_CHUNK: usize = 64 << 10;

/// A file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFile {
    /// `loader-cache`.
    LoaderCache,
    /// `keys`.
    Keys,
}

/// Bytes could not be read: the file is shorter than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault;

/// The store's files, as they were found when the run began.
pub trait Source: Sync {
    /// Length of a file in bytes.
    fn len(&self, file: IndexFile) -> u64;

    /// Copies bytes of a file from `offset` on. What they are is checked afterwards; that there are any is not.
    ///
    /// # Errors
    /// [`Fault`]: the file ends before.
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault>;
}

/// An index whose headers and part tables are checked.
#[derive(Clone, Copy)]
pub struct Catalogue<'a> {
    source: &'a dyn Source,
    arena: &'a Arena<'a>,
    loader_cache: PartTable<'a>,
    keys: PartTable<'a>,
    is_for_frozen_trees: bool,
    is_of_an_image: bool,
    verdicts: Option<&'a Verdicts>,
    devices: &'a [ArchivedDeviceRow],
    chunks: &'a [Chunk<'a>],
}

impl core::fmt::Debug for Catalogue<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Catalogue")
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

/// The directories of one chunk of rows.
#[derive(Debug)]
pub(super) struct Chunk<'a>(Once<Result<Rows<'a>, Verdict>>);

#[derive(Debug, Clone, Copy)]
struct Rows<'a> {
    dirs: &'a [ArchivedDirRow],
    keys: &'a [ArchivedDirKey],
    states: &'a [DirState<'a>],
}

/// What is known of one directory.
#[derive(Debug)]
pub(super) struct DirState<'a> {
    names: Once<Result<Names<'a>, Verdict>>,
    lease: Lease,
}

/// The names of a directory, and what must be so for them to be believed.
#[derive(Debug, Clone, Copy)]
struct Names<'a> {
    block: Block<'a>,
    children: Children,
    parent: u32,
    /// The state it was in; else why its names may not be believed, whatever the host says.
    key: Result<State, Verdict>,
}

/// A directory of the index that is looked into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory<'a> {
    names: &'a Names<'a>,
    lease: &'a Lease,
}

fn part_of<'a>(
    source: &dyn Source,
    arena: &Arena<'a>,
    file: IndexFile,
    kind: Kind,
    fail: fn(FormatError) -> IndexError,
) -> Result<(Header, PartTable<'a>), IndexError> {
    let len = source.len(file);
    let mut head = [0; HEADER_LEN];
    if len < HEADER_LEN as u64 {
        return Err(fail(FormatError::TooShort {
            expected: HEADER_LEN as u64,
            found: len,
        }));
    }
    let fault = |Fault| IndexError::Fault;
    source.copy(file, 0, &mut head).map_err(fault)?;
    let header = Header::parse(&head).map_err(fail)?;
    let table_len = PartTable::byte_len(&header, kind, len).map_err(fail)?;
    let table = arena.bytes(table_len).ok_or(IndexError::NoRoom)?;
    source.copy(file, HEADER_LEN as u64, table).map_err(fault)?;
    let table = PartTable::parse(&header, table).map_err(fail)?;
    Ok((header, table))
}

impl<'a> Catalogue<'a> {
    /// Reads headers and part tables, and the devices. Memory for everything that is touched later comes from `arena`: some 170
    /// bytes a directory of a chunk that is touched, and the blocks of the directories that are. An index of another kind of file
    /// system is refused by [`super::Vfs::with_index`] unless the tree is frozen.
    ///
    /// # Errors
    /// [`IndexError`]: there is no usable index.
    pub fn open(source: &'a dyn Source, arena: &'a Arena<'a>) -> Result<Self, IndexError> {
        // The keys first: a loader cache that is published in between is another than the one they name.
        let (keys_header, keys) =
            part_of(source, arena, IndexFile::Keys, Kind::Keys, IndexError::Keys)?;
        let (header, loader_cache) = part_of(
            source,
            arena,
            IndexFile::LoaderCache,
            Kind::LoaderCache,
            IndexError::LoaderCache,
        )?;
        if keys_header.bound_to != header.payload_checksum {
            return Err(IndexError::Unbound);
        }
        let chunks = loader_cache
            .rows()
            .filter(|row| row.kind == PartKind::Dirs as u16)
            .count();
        let mut catalogue = Self {
            source,
            arena,
            loader_cache,
            keys,
            is_for_frozen_trees: keys_header.flags & flags::FOREIGN_FILE_SYSTEM != 0,
            is_of_an_image: keys_header.flags & flags::UNCHANGEABLE_FILE_SYSTEM != 0,
            verdicts: None,
            devices: &[],
            chunks: arena.zeroed(chunks).ok_or(IndexError::NoRoom)?,
        };
        catalogue.devices = catalogue
            .table(IndexFile::Keys, PartKind::Devices, 0)
            .map_err(|_| IndexError::Keys(FormatError::MissingPart { part: 1 }))?;
        Ok(catalogue)
    }

    /// With counters of what is copied; headers and part tables already were.
    #[must_use]
    pub fn counted(self, verdicts: &'a Verdicts) -> Self {
        for table in [&self.keys, &self.loader_cache] {
            verdicts.copied((HEADER_LEN + table.rows().count() * PART_ROW_LEN) as u64);
        }
        verdicts.copied(self.keys_part_len(PartKind::Devices).unwrap_or(0));
        Self {
            verdicts: Some(verdicts),
            ..self
        }
    }

    /// Bytes of a file of the store, not checked yet.
    fn bytes(&self, file: IndexFile, offset: u64, len: usize) -> Result<&'a [u8], Verdict> {
        let copy = self.arena.bytes(len).ok_or(Verdict::NotCovered)?;
        let read = self.source.copy(file, offset, copy);
        read.map_err(|Fault| Verdict::Corrupt)?;
        if let Some(verdicts) = self.verdicts {
            verdicts.copied(len as u64);
        }
        Ok(copy)
    }

    /// Whether it says of itself that nobody can write to its file system, which is for the host to confirm.
    #[must_use]
    pub fn is_of_an_image(&self) -> bool {
        self.is_of_an_image
    }

    /// Whether it says of itself that its file system's time stamps tell nothing: use it only for a tree that cannot change.
    #[must_use]
    pub fn is_for_frozen_trees(&self) -> bool {
        self.is_for_frozen_trees
    }

    /// A checked copy of bytes.
    fn copy(
        &self,
        file: IndexFile,
        offset: u64,
        len: usize,
        sum: u64,
    ) -> Result<&'a [u8], Verdict> {
        let copy = self.bytes(file, offset, len)?;
        if checksum(copy) == sum {
            Ok(copy)
        } else {
            Err(Verdict::Corrupt)
        }
    }

    fn table<T: rows::Row>(
        &self,
        file: IndexFile,
        kind: PartKind,
        index: u32,
    ) -> Result<&'a [T], Verdict> {
        let parts = match file {
            IndexFile::LoaderCache => &self.loader_cache,
            IndexFile::Keys => &self.keys,
        };
        let part = parts.find(kind, index).map_err(|_| Verdict::Corrupt)?;
        let len = usize::try_from(part.len)
            .ok()
            .filter(|&len| len <= MAX_CHUNK);
        let bytes = self.copy(
            file,
            part.offset,
            len.ok_or(Verdict::Corrupt)?,
            part.checksum,
        )?;
        rows::decode(bytes, kind.name()).map_err(|_| Verdict::Corrupt)
    }

    /// A cell for each chunk of a part of the keys; `None`: there is none of the kind.
    pub(super) fn cells<T: Copy + Send + Sync>(&self, kind: PartKind) -> Option<&'a [Once<T>]> {
        let rows = self.keys.rows().filter(|row| row.kind == kind as u16);
        match rows.count() {
            0 => None,
            count => self.arena.zeroed(count),
        }
    }

    /// So many cells; `None`: there is no room.
    pub(super) fn empty_cells<T: Copy + Send + Sync>(&self, count: usize) -> Option<&'a [Once<T>]> {
        self.arena.zeroed(count)
    }

    /// Length in bytes of a part of the keys that has one chunk; `None`: there is none.
    pub(super) fn keys_part_len(&self, kind: PartKind) -> Option<u64> {
        Some(self.keys.find(kind, 0).ok()?.len)
    }

    /// Bytes of a part of the keys whose pieces have checksums of their own, which are not compared here.
    pub(super) fn keys_bytes(
        &self,
        kind: PartKind,
        offset: u64,
        len: usize,
    ) -> Result<&'a [u8], Verdict> {
        let part = self.keys.find(kind, 0).map_err(|_| Verdict::Corrupt)?;
        let offset = part.offset.checked_add(offset).ok_or(Verdict::Corrupt)?;
        self.bytes(IndexFile::Keys, offset, len)
    }

    /// A chunk of a part of the keys, copied and checked.
    pub(super) fn keys_rows<T: rows::Row>(
        &self,
        kind: PartKind,
        chunk: u32,
    ) -> Result<&'a [T], Verdict> {
        self.table(IndexFile::Keys, kind, chunk)
    }

    /// The devices that keys name.
    pub(super) fn devices(&self) -> &'a [ArchivedDeviceRow] {
        self.devices
    }

    fn load_rows(&self, chunk: u32) -> Result<Rows<'a>, Verdict> {
        let dirs: &[_] = self.table(IndexFile::LoaderCache, PartKind::Dirs, chunk)?;
        let keys: &[_] = self.table(IndexFile::Keys, PartKind::DirKeys, chunk)?;
        let states = self.arena.zeroed(dirs.len().min(CHUNK_ROWS));
        Ok(Rows {
            dirs,
            keys,
            states: states.ok_or(Verdict::NotCovered)?,
        })
    }

    /// What is known of a directory.
    ///
    /// # Errors
    /// Why nothing is.
    #[inline]
    pub(super) fn directory(&self, dir: DirId) -> Result<Directory<'a>, Verdict> {
        let (number, row) = (
            dir.get() / CHUNK_ROWS as u32,
            dir.get() as usize % CHUNK_ROWS,
        );
        let chunk = self.chunks.get(number as usize).ok_or(Verdict::Corrupt)?;
        let rows = chunk.0.get_or_make(|| self.load_rows(number));
        let rows = rows
            .ok_or(Verdict::NotCovered)?
            .as_ref()
            .map_err(|why| *why)?;
        let state = rows.states.get(row).ok_or(Verdict::Corrupt)?;
        let names = state.names.get_or_make(|| self.load_names(dir, rows, row));
        let names = names.ok_or(Verdict::NotCovered)?.as_ref();
        Ok(Directory {
            names: names.map_err(|why| *why)?,
            lease: &state.lease,
        })
    }

    fn load_names(&self, dir: DirId, rows: &Rows<'a>, row: usize) -> Result<Names<'a>, Verdict> {
        let key = rows.keys.get(row);
        let row = rows.dirs.get(row).ok_or(Verdict::Corrupt)?;
        let len = row.block_len.to_native() as usize;
        if len == 0 || len > MAX_BLOCK {
            return Err(Verdict::NotCovered);
        }
        let blocks = self.loader_cache.find(PartKind::Blocks, 0);
        let blocks = blocks.map_err(|_| Verdict::Corrupt)?;
        let start = row.block_offset.to_native();
        let end = start.checked_add(len as u64);
        let offset = end
            .filter(|&end| end <= blocks.len)
            .and_then(|_| blocks.offset.checked_add(start));
        let sum = row.block_checksum.to_native();
        let offset = offset.ok_or(Verdict::Corrupt)?;
        let block = self.copy(IndexFile::LoaderCache, offset, len, sum)?;
        Ok(Names {
            block: Block::parse(block).map_err(|_| Verdict::Corrupt)?,
            children: Children::of(dir, row),
            parent: row.parent.to_native(),
            key: self.state(key.ok_or(Verdict::Corrupt)?, sum),
        })
    }

    /// What a key vouches for.
    fn state(&self, key: &ArchivedDirKey, block_checksum: u64) -> Result<State, Verdict> {
        match Seal::from_byte(key.seal) {
            Seal::Sealed => {}
            Seal::Racy => return Err(Verdict::Racy),
            _ => return Err(Verdict::Unsealed),
        }
        if key.block_checksum.to_native() != block_checksum {
            return Err(Verdict::Corrupt);
        }
        let device = self.devices.get(usize::from(key.device.to_native()));
        Ok(State {
            dev: device.ok_or(Verdict::Corrupt)?.dev.to_native(),
            ino: key.ino.to_native(),
            mtime: key.mtime.to_native(),
            ctime: key.ctime.to_native(),
        })
    }
}

impl<'a> Directory<'a> {
    /// What a name is, or was when the index was made.
    ///
    /// # Errors
    /// The index lies.
    #[inline(always)]
    pub(super) fn step(&self, name: &[u8]) -> Result<Step<'a>, Verdict> {
        let children = || Ok(self.names.children);
        index::step(self.names.block, name, children).map_err(|_| Verdict::Corrupt)
    }

    /// An entry, if there is one; `None`: the index lies.
    #[inline(always)]
    pub(super) fn entry(&self, name: &[u8]) -> Option<Option<Entry<'a>>> {
        self.names.block.find(name).ok()
    }

    /// `st_dev`, as its key has it.
    #[inline]
    pub(super) fn dev(&self) -> Option<u64> {
        Some(self.names.key.ok()?.dev)
    }

    pub(super) fn parent(&self) -> DirId {
        DirId::new(self.names.parent)
    }

    /// Whether the names may be believed, if that is known without asking the host.
    #[inline]
    pub(super) fn held(
        &self,
        coherence: &Coherence<'_>,
        now: impl FnOnce() -> Moment,
    ) -> Option<Result<(), Verdict>> {
        if let Err(why) = self.names.key {
            return Some(Err(why));
        }
        let note = coherence.holds(self.lease, now)?;
        Some(match note {
            Note::Good => Ok(()),
            Note::Stale => Err(Verdict::Stale),
            Note::Private => Err(Verdict::Private),
        })
    }

    /// What its names were last found to be worth, and on what terms that holds; `None`: it does not, or nothing makes them worth anything.
    #[inline]
    pub(super) fn granted(&self, view: &View) -> Option<(Note, Terms)> {
        match self.names.key {
            Ok(_) => view.granted(self.lease),
            Err(_) => None,
        }
    }

    /// Whether the host was last found to bear the names out, however long ago.
    pub(super) fn was_good(&self) -> bool {
        self.lease.was_good()
    }

    /// Whether the names may be believed, now that the host has said what the directory is. The ticket was taken before.
    pub(super) fn judge(
        &self,
        ticket: Ticket,
        found: Result<HostStat, Errno>,
    ) -> Result<(), Verdict> {
        let Ok(found) = found else {
            self.lease.revoke();
            return Err(Verdict::Stale);
        };
        let (note, judged) = match self.names.key {
            Ok(key) if key != found.state() => (Note::Stale, Err(Verdict::Stale)),
            Ok(_) if !found.is_searchable_by_all() => (Note::Private, Err(Verdict::Private)),
            Ok(_) => (Note::Good, Ok(())),
            Err(why) => return Err(why),
        };
        ticket.grant(self.lease, note);
        judged
    }
}
