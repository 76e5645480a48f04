//! The walk: a sysroot to a list of directories, breadth-first, with the block of each. Directories of one depth are read
//! side by side; numbers follow from names alone, so that the result does not depend on the number of threads.
//!
//! What an earlier index says is taken over where [`Trust`] allows it. Each directory is read as `fstat, list, fstat` with
//! equal results, each ELF file as `fstat, inspect, fstat`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use elfuse_format::elf_facts::ElfFacts;
use elfuse_format::keys::Seal;
use elfuse_format::names;
use elfuse_format::sidecar::{self, Block, Content, Kind, NewEntry};
use elfuse_format::span::Span;
use rayon::prelude::*;

use crate::index::Index;
use crate::inspect;
use crate::plain::{self, PlainFiles};
use crate::store;
use crate::sys::{self, Identity, Listed, Root};
use crate::tree::Elf;
use crate::warning::{Warning, Warnings};

/// How often a directory or file that changes while it is read is read again.
const ATTEMPTS: usize = 3;

/// What of an earlier index may be taken over without reading the tree.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Nothing.
    Nothing,
    /// Directories whose key holds, and ELF facts whose key holds.
    Keys(&'a Index),
    /// Sidecars (or, where there is none, the index's blocks) whose names, kinds and symlinks are those of the directory, and
    /// ELF facts whose size and content hash are those of the file. For a tree that was copied or unpacked.
    Content(Option<&'a Index>),
}

/// What a scan goes by.
pub struct ScanOptions<'a> {
    /// What may be taken over.
    pub trust: Trust<'a>,
    /// Where warnings go.
    pub warnings: &'a Warnings,
    /// Called with a number of entries that are done.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Only these directories (paths from the root without a slash in front) and what is below them; empty: all.
    pub only: &'a [Vec<u8>],
}

/// An ELF file of a directory, in the order of its block's ELF rows.
#[derive(Debug, Clone, Copy)]
pub struct ElfState {
    /// The state of the file that its facts are of.
    pub identity: Identity,
    /// Whether an earlier key vouches for facts and state.
    pub sealed: bool,
}

/// One directory.
#[derive(Debug)]
pub struct ScannedDir {
    /// Path from the root, no slash in front; empty: the root.
    pub path: Box<[u8]>,
    /// Number of the parent.
    pub parent: u32,
    /// Its entry there; of the root [`elfuse_format::loader_cache::NONE`].
    pub entry: u32,
    /// First child and number of children.
    pub children: Span,
    /// Payload of its sidecar; empty: not covered.
    pub block: Box<[u8]>,
    /// Why it is not covered; [`Seal::Sealed`] if it is.
    pub state: Seal,
    /// The state of the directory that its names are of; `None` if it could not be had.
    pub identity: Option<Identity>,
    /// Whether an earlier key vouches for the names and that state: nothing was read.
    pub sealed: bool,
    /// Its ELF files.
    pub elves: Vec<ElfState>,
    /// Its other files.
    pub plain: PlainFiles,
    /// Whether it has a sidecar.
    pub has_sidecar: bool,
    /// Temporaries that a killed build left behind.
    pub leftovers: Vec<Box<[u8]>>,
}

impl ScannedDir {
    /// Its names; `None` if it is not covered.
    #[must_use]
    pub fn names(&self) -> Option<Block<'_>> {
        if self.block.is_empty() {
            return None;
        }
        Block::parse(&self.block).ok()
    }

    /// Path of a name in it, from the root.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Vec<u8> {
        join(&self.path, name)
    }
}

/// `directory/name`, where an empty directory is the root.
#[must_use]
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// A whole sysroot.
#[derive(Debug)]
pub struct Scan {
    /// Breadth-first; children of one directory consecutively, in name order.
    pub dirs: Vec<ScannedDir>,
}

impl Scan {
    /// Names in all directories.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.dirs
            .iter()
            .filter_map(ScannedDir::names)
            .map(|block| block.len() as u64)
            .sum()
    }

    /// ELF files with facts.
    #[must_use]
    pub fn elf_count(&self) -> u64 {
        self.dirs.iter().map(|dir| dir.elves.len() as u64).sum()
    }

    /// Whether everything was vouched for by earlier keys.
    #[must_use]
    pub fn is_all_sealed(&self) -> bool {
        let is_sealed = |dir: &ScannedDir| {
            dir.sealed && dir.plain.sealed && dir.elves.iter().all(|elf| elf.sealed)
        };
        self.dirs.iter().all(is_sealed)
    }
}

struct Task {
    path: Box<[u8]>,
    parent: u32,
    entry: u32,
    /// Number in the earlier index.
    earlier: Option<u32>,
}

/// Facts of a file with several names, read once.
type Shared = Arc<Mutex<Option<(Inspected, Identity)>>>;

struct Scanner<'a> {
    root: &'a Root,
    options: &'a ScanOptions<'a>,
    shared: Mutex<HashMap<(u64, u64), Shared>>,
}

/// State of what a name stands for.
#[derive(Debug, Clone, Copy)]
enum FileState {
    NoFile,
    Elf(ElfState),
    /// A file without facts; `None`: it could not be read.
    Plain(Option<Identity>),
}

#[derive(Debug, Clone)]
enum Inspected {
    Plain,
    Broken(&'static str),
    Facts(Arc<ElfFacts>),
}

/// Walks the sysroot. Runs on the rayon pool that it is called in.
///
/// # Errors
/// If the root itself cannot be read. All else is counted as a warning and left uncovered.
pub fn scan(root: &Root, options: &ScanOptions<'_>) -> io::Result<Scan> {
    let scanner = Scanner {
        root,
        options,
        shared: Mutex::default(),
    };
    let has_earlier = options
        .trust
        .index()
        .is_some_and(|index| !index.dirs().is_empty());
    let mut level = vec![Task {
        path: Box::default(),
        parent: 0,
        entry: elfuse_format::loader_cache::NONE,
        earlier: has_earlier.then_some(0),
    }];
    let mut dirs: Vec<ScannedDir> = Vec::new();
    while !level.is_empty() {
        let mut done: Vec<_> = level
            .par_iter()
            .map(|task| scanner.directory(task))
            .collect();
        let base = number(dirs.len())?;
        let mut next = Vec::new();
        for ((own, dir), task) in (base..).zip(&mut done).zip(&level) {
            let first = number(dirs.len() + level.len() + next.len())?;
            let children = scanner.children(own, dir, task.earlier);
            dir.children = Span {
                start: if children.is_empty() { 0 } else { first },
                len: number(children.len())?,
            };
            next.extend(children);
        }
        dirs.append(&mut done);
        level = next;
    }
    match dirs.first() {
        Some(dir) if dir.state == Seal::Unreadable && options.only.is_empty() => {
            Err(io::Error::other("the root cannot be listed"))
        }
        _ => Ok(Scan { dirs }),
    }
}

fn number(count: usize) -> io::Result<u32> {
    u32::try_from(count).map_err(|_| io::Error::other("over 2^32 directories"))
}

impl<'a> Trust<'a> {
    fn index(&self) -> Option<&'a Index> {
        match *self {
            Trust::Nothing => None,
            Trust::Keys(index) => Some(index),
            Trust::Content(index) => index,
        }
    }
}

impl Scanner<'_> {
    fn children(&self, own: u32, dir: &ScannedDir, earlier: Option<u32>) -> Vec<Task> {
        let Some(names) = dir.names() else {
            return Vec::new();
        };
        // Ranks are those of the new block. In the earlier one the same name may have another.
        let index = self.options.trust.index().filter(|_| earlier.is_some());
        let earlier_block = earlier.and_then(|number| index?.block_bytes(number));
        let earlier_block = earlier_block.and_then(|bytes| Block::parse(bytes).ok());
        let same = earlier_block.is_some()
            && index.zip(earlier).and_then(|(i, n)| i.block_bytes(n)) == Some(&dir.block[..]);
        let directories = names
            .entries()
            .filter(|entry| entry.kind() == Some(Kind::Directory));
        let tasks = directories.enumerate().filter_map(|(rank, entry)| {
            let name = entry.name()?;
            let earlier_rank = if same {
                u32::try_from(rank).ok()
            } else {
                earlier_block.and_then(|block| block.find(name).ok()??.rank())
            };
            Some(Task {
                path: dir.join(name).into(),
                parent: own,
                entry: entry.index,
                earlier: earlier
                    .zip(earlier_rank)
                    .and_then(|(number, rank)| index?.child(number, rank)),
            })
        });
        tasks.collect()
    }

    /// Whether a directory is to be indexed, is only passed through on the way to one that is, or is of no interest.
    fn wanted(&self, path: &[u8]) -> Wanted {
        let below = |path: &[u8], top: &[u8]| {
            top.is_empty()
                || path
                    .strip_prefix(top)
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let only = self.options.only;
        if only.is_empty() || only.iter().any(|top| below(path, top)) {
            Wanted::Yes
        } else if only.iter().any(|top| below(top, path)) {
            Wanted::OnTheWay
        } else {
            Wanted::No
        }
    }

    fn directory(&self, task: &Task) -> ScannedDir {
        let mut dir = ScannedDir {
            path: task.path.clone(),
            parent: task.parent,
            entry: task.entry,
            children: Span::default(),
            block: Box::default(),
            state: Seal::Sealed,
            identity: None,
            sealed: false,
            elves: Vec::new(),
            plain: PlainFiles::UNKNOWN,
            has_sidecar: false,
            leftovers: Vec::new(),
        };
        let wanted = self.wanted(&task.path);
        if wanted == Wanted::No {
            dir.state = Seal::NotIndexed;
            return dir;
        }
        if wanted == Wanted::Yes && self.take_over(&mut dir, task.earlier) {
            (self.options.progress)(dir.names().map_or(0, |names| names.len() as u64));
            return dir;
        }
        if let Err((state, error)) = self.read(&mut dir, task.earlier, wanted) {
            dir.state = state;
            // What was not covered and still is not, for the same reason, has not changed.
            if let (Trust::Keys(index), Some(number)) = (self.options.trust, task.earlier) {
                let key = index.dir_key(number).map(|key| Seal::from_byte(key.seal));
                dir.sealed = key == Some(state) && index.block_bytes(number).is_none();
            }
            let warning = match state {
                Seal::MountPoint => None,
                Seal::TooLarge => Some(Warning::TooManyEntries),
                Seal::Changed => Some(Warning::KeepsChanging),
                _ => Some(Warning::UnreadableDirectory),
            };
            if let Some(warning) = warning {
                self.options.warnings.add(warning, &guest(&dir.path), error);
            }
        }
        dir
    }

    /// Takes over a directory whose key holds, if all its ELF files' keys do and its other files are as they were.
    fn take_over(&self, dir: &mut ScannedDir, earlier: Option<u32>) -> bool {
        let (Trust::Keys(index), Some(number)) = (self.options.trust, earlier) else {
            return false;
        };
        let Ok(fd) = self.root.open_dir(&dir.path) else {
            return false;
        };
        let Ok(status) = sys::fstat(&fd) else {
            return false;
        };
        if !index.dir_key_holds(number, &status.identity) {
            return false;
        }
        let Some(bytes) = index.block_bytes(number) else {
            return false;
        };
        let Ok(block) = Block::parse(bytes) else {
            return false;
        };
        let mut elves = Vec::with_capacity(block.elf_count());
        for (elf, entry) in (0..).zip(block.entries().filter(|entry| entry.elf_index().is_some())) {
            let name = entry.name().unwrap_or_default();
            match sys::stat_at(&fd, name) {
                Ok(found) if index.file_key_holds(number, elf, &found.identity) => {
                    elves.push(ElfState {
                        identity: found.identity,
                        sealed: true,
                    })
                }
                _ => return false,
            }
        }
        let plain = PlainFiles::now(&fd, &block, self.root.dev());
        if plain.digest == 0 || index.plain_digest(number) != Some(plain.digest) {
            return false;
        }
        for (name, _) in plain::names(&block).filter(|(_, is_broken)| *is_broken) {
            let path = guest(&dir.join(name));
            self.options.warnings.add(Warning::BrokenElf, &path, "");
        }
        dir.plain = PlainFiles {
            sealed: true,
            ..plain
        };
        dir.block = bytes.into();
        dir.identity = Some(status.identity);
        dir.sealed = true;
        dir.has_sidecar = true;
        dir.elves = elves;
        true
    }

    fn read(
        &self,
        dir: &mut ScannedDir,
        earlier: Option<u32>,
        wanted: Wanted,
    ) -> Result<(), (Seal, io::Error)> {
        let unreadable = |error| (Seal::Unreadable, error);
        let fd = self.root.open_dir(&dir.path).map_err(unreadable)?;
        let mut before = sys::fstat(&fd).map_err(unreadable)?.identity;
        if before.dev != self.root.dev() {
            return Err((Seal::MountPoint, io::Error::other("another file system")));
        }
        for _ in 0..ATTEMPTS {
            let listed = sys::list(fd.as_fd(), names::MAX_ENTRIES).map_err(unreadable)?;
            if listed.len() > names::MAX_ENTRIES {
                let what = format!("over {} names", names::MAX_ENTRIES);
                return Err((Seal::TooLarge, io::Error::other(what)));
            }
            let after = sys::fstat(&fd).map_err(unreadable)?.identity;
            if (after.mtime, after.ctime) == (before.mtime, before.ctime) {
                dir.identity = Some(before);
                return self.fill(dir, fd.as_fd(), listed, earlier, wanted);
            }
            before = after;
        }
        Err((Seal::Changed, io::Error::other("read three times")))
    }

    fn fill(
        &self,
        dir: &mut ScannedDir,
        fd: BorrowedFd<'_>,
        mut listed: Vec<Listed>,
        earlier: Option<u32>,
        wanted: Wanted,
    ) -> Result<(), (Seal, io::Error)> {
        let at_root = dir.path.is_empty();
        listed.retain(|entry| {
            let reserved = names::is_reserved(&entry.name, at_root);
            if *entry.name == *names::SIDECAR {
                dir.has_sidecar = true;
            } else if reserved && *entry.name != *names::STORE {
                dir.leftovers.push(entry.name.clone());
            }
            !reserved
        });
        let count = listed.len() as u64;
        if wanted == Wanted::OnTheWay {
            // Passed through: its subdirectories matter, its content is nobody's business.
            listed.retain(|entry| {
                entry.kind == Kind::Directory && self.wanted(&dir.join(&entry.name)) != Wanted::No
            });
            dir.state = Seal::NotIndexed;
        }
        let witness = self.witness(dir, fd, earlier);
        let witness = witness
            .as_ref()
            .and_then(|w| Some((w, Block::parse(&w.bytes).ok()?)));
        let entry = |listed: Listed| -> io::Result<(NewEntry, FileState)> {
            let Listed { name, kind } = listed;
            let known = witness.and_then(|(from, block)| Some((from, block.find(&name).ok()??)));
            let (content, state) = match kind {
                Kind::Directory => (Content::Directory, FileState::NoFile),
                Kind::Other => (Content::Other, FileState::NoFile),
                Kind::Symlink => {
                    let target = sys::read_link(fd, &name)?;
                    (Content::Symlink(target), FileState::NoFile)
                }
                Kind::File => self.file(dir, fd, &name, known)?,
            };
            let name = name.into_vec();
            let entry = NewEntry {
                name,
                content,
                host_spelling: None,
            };
            Ok((entry, state))
        };
        let unreadable = |error| (Seal::Changed, error);
        let mut entries = Vec::with_capacity(listed.len());
        if listed.len() > 32 {
            listed
                .into_par_iter()
                .with_min_len(8)
                .map(entry)
                .collect_into_vec(&mut entries);
        } else {
            entries.extend(listed.into_iter().map(entry));
        }
        let mut entries = entries
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
            .map_err(unreadable)?;
        entries.sort_unstable_by(|a, b| a.0.name.cmp(&b.0.name));
        let elves = entries.iter().filter_map(|(_, state)| match state {
            FileState::Elf(state) => Some(*state),
            _ => None,
        });
        dir.elves = elves.collect();
        let plain = entries.iter().filter_map(|(_, state)| match state {
            FileState::Plain(identity) => Some(*identity),
            _ => None,
        });
        dir.plain = PlainFiles::of(plain, self.root.dev());
        let entries = entries.into_iter().map(|(entry, _)| entry).collect();
        dir.block = sidecar::encode(entries)
            .map_err(|error| (Seal::TooLarge, io::Error::other(error)))?
            .into();
        if let (Trust::Keys(index), Some(number)) = (self.options.trust, earlier) {
            let same = index.block_bytes(number) == Some(&dir.block);
            let held = |identity| index.dir_key_holds(number, identity);
            // Some file was looked at again, and nothing came of it.
            dir.sealed = same
                && dir.identity.as_ref().is_some_and(held)
                && dir.elves.iter().all(|elf| elf.sealed);
            dir.plain.sealed = index.plain_digest(number) == Some(dir.plain.digest);
        }
        (self.options.progress)(count);
        Ok(())
    }

    /// An earlier account of the directory from which facts may be taken, each after its own check.
    fn witness(
        &self,
        dir: &ScannedDir,
        fd: BorrowedFd<'_>,
        earlier: Option<u32>,
    ) -> Option<Witness> {
        let index = self.options.trust.index();
        let block = || Some(index?.block_bytes(earlier?)?.to_vec());
        match self.options.trust {
            Trust::Nothing => None,
            Trust::Keys(_) => Some(Witness {
                bytes: block()?,
                by: Proof::Key(earlier?),
            }),
            Trust::Content(_) => {
                let own = dir.has_sidecar.then(|| read_sidecar(fd)).flatten();
                let bytes = own.or_else(block)?;
                Some(Witness {
                    bytes,
                    by: Proof::Content,
                })
            }
        }
    }

    fn file(
        &self,
        dir: &ScannedDir,
        fd: BorrowedFd<'_>,
        name: &[u8],
        known: Option<(&Witness, sidecar::Entry<'_>)>,
    ) -> io::Result<(Content, FileState)> {
        if let Some((from, entry)) = known
            && let Some(taken) = self.take_over_file(fd, name, from, entry)?
        {
            return Ok(taken);
        }
        match self.inspect(fd, name) {
            Ok((Inspected::Facts(facts), identity)) => {
                let state = ElfState {
                    identity,
                    sealed: false,
                };
                Ok((Content::Elf(facts), FileState::Elf(state)))
            }
            Ok((Inspected::Broken(what), identity)) => {
                let path = guest(&dir.join(name));
                self.options.warnings.add(Warning::BrokenElf, &path, what);
                Ok((Content::BrokenElf, FileState::Plain(Some(identity))))
            }
            Ok((Inspected::Plain, identity)) => {
                Ok((Content::File, FileState::Plain(Some(identity))))
            }
            Err(error) => {
                // Its name is known all the same.
                let path = guest(&dir.join(name));
                self.options
                    .warnings
                    .add(Warning::UnreadableFile, &path, error);
                Ok((Content::File, FileState::Plain(None)))
            }
        }
    }

    fn take_over_file(
        &self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        from: &Witness,
        entry: sidecar::Entry<'_>,
    ) -> io::Result<Option<(Content, FileState)>> {
        // A sidecar's word that a file is no ELF file proves nothing: it may be one in this copy.
        let Some(facts) = entry.elf().and_then(|elf| elf.to_facts()) else {
            return Ok(None);
        };
        let content = Content::Elf(Arc::new(facts));
        match (from.by, self.options.trust) {
            (Proof::Key(number), Trust::Keys(index)) => {
                let identity = sys::stat_at(fd, name)?.identity;
                let elf = entry.elf_index().unwrap_or(u32::MAX);
                let holds = index.file_key_holds(number, elf, &identity);
                let state = ElfState {
                    identity,
                    sealed: true,
                };
                Ok(holds.then_some((content, FileState::Elf(state))))
            }
            _ => {
                let Content::Elf(facts) = &content else {
                    return Ok(None);
                };
                let Ok(file) = sys::open_file(fd, name) else {
                    return Ok(None);
                };
                let before = sys::fstat(&file)?;
                if before.kind != Kind::File || before.identity.size != facts.size {
                    return Ok(None);
                }
                let same =
                    inspect::content_hash(&file).is_ok_and(|hash| hash == facts.content_hash);
                let after = sys::fstat(&file)?.identity;
                let unchanged = same && after == before.identity;
                let state = ElfState {
                    identity: after,
                    sealed: false,
                };
                Ok(unchanged.then_some((content, FileState::Elf(state))))
            }
        }
    }

    fn inspect(&self, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<(Inspected, Identity)> {
        let file = sys::open_file(dir, name)?;
        // First: what changes after this shows.
        let status = sys::fstat(&file)?;
        if status.kind != Kind::File {
            return Ok((Inspected::Plain, status.identity));
        }
        let mut magic = [0; 4];
        match file.read_at(&mut magic, 0) {
            Ok(4) if magic == object::elf::ELFMAG => {}
            Ok(_) => return Ok((Inspected::Plain, status.identity)),
            Err(error) => return Err(error),
        }
        if status.links > 1 {
            let id = (status.identity.dev, status.identity.ino);
            let cell = Arc::clone(lock(&self.shared).entry(id).or_default());
            // Held while reading: another thread that came by another name waits, and need not read.
            let mut known = lock(&cell);
            if let Some(known) = &*known
                && known.1 == status.identity
            {
                return Ok(known.clone());
            }
            let read = inspect_stable(&file)?;
            *known = Some(read.clone());
            return Ok(read);
        }
        inspect_stable(&file)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread leaves behind is a map or cell of whole values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn inspect_stable(file: &std::fs::File) -> io::Result<(Inspected, Identity)> {
    let mut before = sys::fstat(file)?.identity;
    for _ in 0..ATTEMPTS {
        let inspected = match inspect::inspect(file)? {
            Elf::Facts(facts) => Inspected::Facts(facts),
            Elf::NotElf => Inspected::Plain,
            Elf::Broken(what) => Inspected::Broken(what),
        };
        let after = sys::fstat(file)?.identity;
        if after == before {
            return Ok((inspected, before));
        }
        before = after;
    }
    Err(io::Error::other("it changed each time it was read"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    OnTheWay,
    No,
}

struct Witness {
    bytes: Vec<u8>,
    by: Proof,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The file's key, in this directory of the earlier index.
    Key(u32),
    /// The file's size and content hash.
    Content,
}

/// The payload of a directory's sidecar, if it is well-formed through and through.
#[must_use]
pub fn read_sidecar(dir: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let file = sys::open_file(dir, names::SIDECAR).ok()?;
    let bytes = store::read_whole(&file).ok()?;
    let payload = sidecar::payload(&bytes).ok()?;
    Block::parse(payload).ok()?.check().ok()?;
    Some(payload.to_vec())
}

/// A path from the root as the guest writes it.
#[must_use]
pub fn guest(path: &[u8]) -> Vec<u8> {
    let mut guest = Vec::with_capacity(path.len() + 1);
    guest.push(b'/');
    guest.extend_from_slice(path);
    guest
}
