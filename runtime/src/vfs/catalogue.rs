//! The index as a run holds it: what is known of each directory that was touched.
//!
//! Rows and names come out of the [mirrors](super::mirror) of the store's files, which copy and check what is asked for. What does not
//! fit, lies, or is being copied by somebody else just now is not covered: the host is asked instead.

use elfuse_format::compared::Bound;
use elfuse_format::header::{Kind, PartKind, rows};
use elfuse_format::keys::{ArchivedDeviceRow, ArchivedDirKey, Seal, State, flags};
use elfuse_format::loader_cache::ArchivedDirRow;
use elfuse_format::sidecar::{Block, Found, find};

use super::arena::{Arena, Once, Touched};
use super::coherence::{Coherence, Lease, Note, Terms, Ticket, View};
use super::host::{HostStat, Moment};
use super::mirror::{IndexFile, Mirror, Miss, Slots, Source, Table};
use super::paged::Paged;
use super::verdict::{Verdict, Verdicts};
use crate::errno::Errno;
use crate::index::{self, Children, DirId, IndexError, Step};

/// The longest block in bytes that is made sure of as a whole when its directory is first touched. In a longer one names are looked up
/// page by page.
pub const WHOLE_BLOCK: u32 = 4096;

/// An index whose headers and part tables are checked.
#[derive(Clone, Copy)]
pub struct Catalogue<'a> {
    arena: &'a Arena<'a>,
    loader_cache: &'a Mirror<'a>,
    keys: &'a Mirror<'a>,
    dirs: Table<ArchivedDirRow>,
    dir_keys: Table<ArchivedDirKey>,
    /// Where the blocks start in the loader cache, and their length together.
    blocks: (u64, u64),
    is_for_frozen_trees: bool,
    devices: &'a [ArchivedDeviceRow],
    states: &'a [Cell<'a>],
    touched: &'a Touched,
}

/// What is known of one directory, or why nothing is.
type Cell<'a> = Once<Result<&'a DirState<'a>, Verdict>>;

impl core::fmt::Debug for Catalogue<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Catalogue")
            .field("directories", &self.states.len())
            .finish_non_exhaustive()
    }
}

/// What is known of one directory.
#[derive(Debug)]
struct DirState<'a> {
    names: Names<'a>,
    children: Children,
    parent: u32,
    /// The state it was in; else why its names may not be believed, whatever the host says.
    key: Result<State, Verdict>,
    lease: Lease,
}

/// The names of a directory.
#[derive(Debug)]
enum Names<'a> {
    Whole(Block<'a>),
    Paged(Paged<'a>),
}

/// A directory of the index that is looked into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Directory<'a> {
    state: &'a DirState<'a>,
}

impl<'a> Catalogue<'a> {
    /// Reads headers, part tables and the devices. Memory for everything that is touched later comes from `arena`: half of it for
    /// pages of the files, as far as that goes, and some 200 bytes for each directory. An index of another kind of file
    /// system is refused by [`super::Vfs::with_index`] unless the tree is frozen.
    ///
    /// # Errors
    /// [`IndexError`]: there is no usable index.
    pub fn open(source: &'a dyn Source, arena: &'a Arena<'a>) -> Result<Self, IndexError> {
        Self::open_counted(source, arena, None)
    }

    /// The same, with counters of what is copied.
    ///
    /// # Errors
    /// [`IndexError`]: there is no usable index.
    pub fn open_counted(
        source: &'a dyn Source,
        arena: &'a Arena<'a>,
        verdicts: Option<&'a Verdicts>,
    ) -> Result<Self, IndexError> {
        let slots = Slots::new(arena).and_then(|slots| arena.place(slots));
        let room = (arena, slots.ok_or(IndexError::NoRoom)?);
        // The keys first: a loader cache that is published in between is another than the one they name.
        let fail = IndexError::Keys;
        let file = (IndexFile::Keys, Kind::Keys);
        let keys = Mirror::open(source, room, file, verdicts, fail)?;
        let parts = keys.parts(fail)?;
        let dir_keys = Mirror::table(&parts, PartKind::DirKeys).map_err(fail)?;
        let devices = parts.find(PartKind::Devices).map_err(fail)?;
        let len = usize::try_from(devices.len).map_err(|_| IndexError::NoRoom)?;
        let devices = keys.bytes(devices.offset, len);
        let devices = devices.map_err(|_| IndexError::Fault)?;
        let devices = rows::decode(devices, PartKind::Devices.name()).map_err(fail)?;

        let fail = IndexError::LoaderCache;
        let file = (IndexFile::LoaderCache, Kind::LoaderCache);
        let loader_cache = Mirror::open(source, room, file, verdicts, fail)?;
        if keys.header().bound_to != loader_cache.header().payload_checksum {
            return Err(IndexError::Unbound);
        }
        let parts = loader_cache.parts(fail)?;
        let dirs: Table<ArchivedDirRow> = Mirror::table(&parts, PartKind::Dirs).map_err(fail)?;
        let blocks = parts.find(PartKind::Blocks).map_err(fail)?;
        let is_for_frozen_trees = keys.header().flags & flags::FOREIGN_FILE_SYSTEM != 0;
        Ok(Self {
            arena,
            loader_cache: arena.place(loader_cache).ok_or(IndexError::NoRoom)?,
            keys: arena.place(keys).ok_or(IndexError::NoRoom)?,
            dirs,
            dir_keys,
            blocks: (blocks.offset, blocks.len),
            is_for_frozen_trees,
            devices,
            states: arena
                .zeroed(dirs.count() as usize)
                .ok_or(IndexError::NoRoom)?,
            touched: (arena.place(Touched::default())).ok_or(IndexError::NoRoom)?,
        })
    }

    /// Length of a file in bytes, as its header has it.
    #[must_use]
    pub fn file_len(&self, file: IndexFile) -> u64 {
        match file {
            IndexFile::LoaderCache => self.loader_cache.file_len(),
            IndexFile::Keys => self.keys.file_len(),
        }
    }

    /// What comparisons of its directories are good for, if they were made under this generation.
    #[must_use]
    pub fn bound(&self, generation: u64) -> Bound {
        Bound {
            keys: self.keys.header().payload_checksum,
            generation,
            directories: self.states.len() as u32,
        }
    }

    /// Whether it says of itself that nobody can write to its file system, which is for the host to confirm.
    #[must_use]
    pub fn is_of_an_image(&self) -> bool {
        self.keys.header().flags & flags::UNCHANGEABLE_FILE_SYSTEM != 0
    }

    /// Whether it says of itself that its file system's time stamps tell nothing: use it only for a tree that cannot change.
    #[inline]
    #[must_use]
    pub fn is_for_frozen_trees(&self) -> bool {
        self.is_for_frozen_trees
    }

    /// A table of the keys; `None`: it has none of the kind.
    pub(super) fn keys_table<T: rows::Row>(&self, kind: PartKind) -> Option<Table<T>> {
        let parts = self.keys.parts(IndexError::Keys).ok()?;
        Mirror::table(&parts, kind).ok()
    }

    /// A row of a table of the keys.
    #[inline]
    pub(super) fn keys_row<T: rows::Row>(
        &self,
        table: &Table<T>,
        number: u32,
    ) -> Result<&'a T, Miss> {
        self.keys.row(table, number)
    }

    /// The devices that keys name.
    pub(super) fn devices(&self) -> &'a [ArchivedDeviceRow] {
        self.devices
    }

    /// What is known of a directory.
    ///
    /// # Errors
    /// Why nothing is.
    #[inline]
    pub(super) fn directory(&self, dir: DirId) -> Result<Directory<'a>, Verdict> {
        let number = dir.get() as usize;
        let cell = self.states.get(number).ok_or(Verdict::Corrupt)?;
        let state = match self.touched.has(self.states, number) {
            true => cell.get_or_try(|| self.make(dir)),
            false => self.first_near(number, cell, dir),
        };
        match state.ok_or(Verdict::NotCovered)? {
            Ok(state) => Ok(Directory { state }),
            Err(why) => Err(*why),
        }
    }

    /// What is known of a directory, where nothing may be known yet of those whose states lie beside its own.
    #[cold]
    #[inline(never)]
    fn first_near(
        &self,
        number: usize,
        cell: &'a Cell<'a>,
        dir: DirId,
    ) -> Option<&'a Result<&'a DirState<'a>, Verdict>> {
        self.touched.add(self.states, number);
        cell.make_or_get(|| self.make(dir))
    }

    /// `None`: not this time.
    fn make(&self, dir: DirId) -> Option<Result<&'a DirState<'a>, Verdict>> {
        match self.load(dir) {
            Ok(state) => Some(self.arena.place(state).ok_or(Verdict::NotCovered)),
            Err(Miss::Known(why)) => Some(Err(why)),
            Err(Miss::Busy) => None,
        }
    }

    fn load(&self, dir: DirId) -> Result<DirState<'a>, Miss> {
        let row = self.loader_cache.row(&self.dirs, dir.get())?;
        let len = row.block_len.to_native();
        if len == 0 {
            return Err(Miss::Known(Verdict::NotCovered));
        }
        let key = self.keys.row(&self.dir_keys, dir.get())?;
        let start = row.block_offset.to_native();
        let end = start.checked_add(len.into());
        let offset = end
            .filter(|&end| end <= self.blocks.1)
            .and_then(|_| self.blocks.0.checked_add(start));
        let offset = offset.ok_or(Miss::Known(Verdict::Corrupt))?;
        let names = if len <= WHOLE_BLOCK {
            let block = self.loader_cache.bytes(offset, len as usize)?;
            Names::Whole(Block::parse(block)?)
        } else {
            Names::Paged(Paged::open(self.loader_cache, offset, len)?)
        };
        Ok(DirState {
            names,
            children: Children::of(dir, row),
            parent: row.parent.to_native(),
            key: self.state(key, row.block_checksum.to_native()),
            lease: Lease::default(),
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
    /// The index lies, or cannot tell just now.
    #[inline(always)]
    pub(super) fn step(&self, name: &[u8]) -> Result<Step<'a>, Verdict> {
        let children = || Ok(self.state.children);
        match &self.state.names {
            Names::Whole(block) => index::step(block, name, children),
            Names::Paged(paged) => index::step(paged, name, children),
        }
    }

    /// An entry, if there is one; `None`: the index cannot tell.
    #[inline(always)]
    pub(super) fn entry(&self, name: &[u8]) -> Option<Option<Found<'a>>> {
        match &self.state.names {
            Names::Whole(block) => find(block, name).ok(),
            Names::Paged(paged) => find(paged, name).ok(),
        }
    }

    /// `st_dev`, as its key has it.
    #[inline]
    pub(super) fn dev(&self) -> Option<u64> {
        Some(self.state.key.ok()?.dev)
    }

    pub(super) fn parent(&self) -> DirId {
        DirId::new(self.state.parent)
    }

    /// Whether the names may be believed, if that is known without asking the host.
    #[inline]
    pub(super) fn held(
        &self,
        coherence: &Coherence<'_>,
        now: impl FnOnce() -> Moment,
    ) -> Option<Result<(), Verdict>> {
        if let Err(why) = self.state.key {
            return Some(Err(why));
        }
        let note = coherence.holds(&self.state.lease, now)?;
        Some(match note {
            Note::Good => Ok(()),
            Note::Stale => Err(Verdict::Stale),
            Note::Private => Err(Verdict::Private),
        })
    }

    /// What its names were last found to be worth, and on what terms that holds; `None`: it does not, or nothing makes them worth anything.
    #[inline]
    pub(super) fn granted(&self, view: &View) -> Option<(Note, Terms)> {
        match self.state.key {
            Ok(_) => view.granted(&self.state.lease),
            Err(_) => None,
        }
    }

    /// Whether this is the directory, as its key says.
    pub(super) fn is_as(&self, found: &HostStat) -> bool {
        self.state.key == Ok(found.state())
    }

    /// The same as if the host had just borne the names out.
    pub(super) fn grant(&self, ticket: Ticket) -> Result<(), Verdict> {
        self.state
            .key
            .map(|_| ticket.grant(&self.state.lease, Note::Good))
    }

    /// Whether there is a key for the host to bear out.
    pub(super) fn is_sealed(&self) -> bool {
        self.state.key.is_ok()
    }

    /// Whether the names may be believed, now that the host has said what the directory is. The ticket was taken before. Where they were
    /// believed, and wrongly, what else was made of them is not any more.
    pub(super) fn judge(
        &self,
        coherence: &Coherence<'_>,
        ticket: Ticket,
        found: Result<HostStat, Errno>,
    ) -> Result<(), Verdict> {
        let was_good = self.state.lease.was_good();
        let judged = self.judge_alone(ticket, found);
        if was_good && judged.is_err() {
            coherence.was_wrong();
        }
        judged
    }

    fn judge_alone(&self, ticket: Ticket, found: Result<HostStat, Errno>) -> Result<(), Verdict> {
        let Ok(found) = found else {
            self.state.lease.revoke();
            return Err(Verdict::Stale);
        };
        let (note, judged) = match self.state.key {
            Ok(key) if key != found.state() => (Note::Stale, Err(Verdict::Stale)),
            Ok(_) if !found.is_searchable() => (Note::Private, Err(Verdict::Private)),
            Ok(_) => (Note::Good, Ok(())),
            Err(why) => return Err(why),
        };
        ticket.grant(&self.state.lease, note);
        judged
    }
}
