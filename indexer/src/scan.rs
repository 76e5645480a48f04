//! The walk: a sysroot to a list of directories, breadth-first, with the block of each. Directories of one depth are read
//! side by side; numbers follow from names alone, so that the result does not depend on the number of threads.
//!
//! What an earlier index says is taken over where [`Trust`] allows it. Each directory is read as `fstat, list, fstat` with
//! equal results, each ELF file as `fstat, inspect, fstat`.

mod read;

use std::io;
use std::os::fd::BorrowedFd;

use elfuse_format::keys::Seal;
use elfuse_format::names;
use elfuse_format::sidecar::{self, Block, Kind};
use elfuse_format::span::Span;
use rayon::prelude::*;

use self::read::SharedFiles;
use crate::index::Index;
use crate::inspect::Seen;
use crate::plain::{self, PlainFiles};
use crate::store;
use crate::sys::{self, Identity, Root};
use crate::warning::{Warning, Warnings};

/// What of an earlier index may be taken over without reading the tree.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Nothing.
    Nothing,
    /// Directories whose key holds, and ELF facts whose key holds.
    Keys(&'a Index),
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
    /// What was seen when its hash was made; `None`: it is taken over.
    pub seen: Option<Seen>,
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
    /// Whether it has an access control list and the names that it had with one before: there is no key to vouch for it, and nothing to
    /// make anew.
    pub unsealed_as_before: bool,
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

/// The most directories below each other that are indexed: as many names as a path of 4,096 bytes can have. What lies deeper
/// costs the square of its depth to reach.
pub const MAX_DEPTH: usize = 2048;

/// How many names a path from the root has.
#[must_use]
pub fn depth(path: &[u8]) -> usize {
    match path {
        [] => 0,
        path => 1 + path.iter().filter(|byte| **byte == b'/').count(),
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

    /// Whether an earlier index says all of it, and its keys vouch for as much as new ones would.
    #[must_use]
    pub fn is_as_before(&self) -> bool {
        let is_as_before = |dir: &ScannedDir| {
            (dir.sealed || dir.unsealed_as_before)
                && dir.plain.sealed
                && dir.elves.iter().all(|elf| elf.sealed)
        };
        self.dirs.iter().all(is_as_before)
    }
}

struct Task {
    path: Box<[u8]>,
    parent: u32,
    entry: u32,
    /// Number in the earlier index.
    earlier: Option<u32>,
}

struct Scanner<'a> {
    root: &'a Root,
    options: &'a ScanOptions<'a>,
    shared: SharedFiles,
}

/// Walks the sysroot. Runs on the rayon pool that it is called in.
///
/// # Errors
/// If the root itself cannot be read. All else is counted as a warning and left uncovered.
pub fn scan(root: &Root, options: &ScanOptions<'_>) -> io::Result<Scan> {
    let scanner = Scanner {
        root,
        options,
        shared: SharedFiles::default(),
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
            unsealed_as_before: false,
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
        if depth(&task.path) > MAX_DEPTH {
            dir.state = Seal::NotIndexed;
            dir.sealed = self.was_left_out(task.earlier, dir.state);
            let warnings = self.options.warnings;
            warnings.add(
                Warning::TooDeep,
                &guest(dir.path.get(..200).unwrap_or(&dir.path)),
                format!("over {MAX_DEPTH} directories below each other"),
            );
            return dir;
        }
        if wanted == Wanted::Yes && self.take_over(&mut dir, task.earlier) {
            (self.options.progress)(dir.names().map_or(0, |names| names.len() as u64));
            return dir;
        }
        if let Err((state, error)) = self.read(&mut dir, task.earlier, wanted) {
            dir.state = state;
            dir.sealed = self.was_left_out(task.earlier, state);
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

    /// Whether a directory was left out before for the same reason: then it has not changed.
    fn was_left_out(&self, earlier: Option<u32>, state: Seal) -> bool {
        let (Trust::Keys(index), Some(number)) = (self.options.trust, earlier) else {
            return false;
        };
        index.seal(number) == Some(state) && index.block_bytes(number).is_none()
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
                        seen: None,
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    OnTheWay,
    No,
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
