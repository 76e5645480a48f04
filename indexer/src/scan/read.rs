//! Reading one directory and its files.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use elfuse_format::elf_facts::ElfFacts;
use elfuse_format::keys::Seal;
use elfuse_format::names;
use elfuse_format::sidecar::{self, Block, Content, Kind, NewEntry};
use rayon::prelude::*;

use super::{ElfState, ScannedDir, Scanner, Wanted, guest};
use crate::index::Index;
use crate::inspect::{self, Seen};
use crate::plain::PlainFiles;
use crate::sys::{self, Identity, Listed};
use crate::tree::Elf;
use crate::warning::Warning;

/// How often a directory or file that changes while it is read is read again.
const ATTEMPTS: usize = 3;

/// Files with several names by (device, inode), so that each is read once.
pub(super) type SharedFiles = Mutex<HashMap<(u64, u64), Shared>>;

/// What was found in such a file, and in which state of it.
type Shared = Arc<Mutex<Option<(Inspected, Identity)>>>;

/// What an earlier index says of a directory.
#[derive(Clone, Copy)]
struct Earlier<'a> {
    index: &'a Index,
    dir: u32,
    block: Block<'a>,
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
pub(super) enum Inspected {
    Plain,
    Broken(&'static str),
    Facts(Arc<ElfFacts>, Option<Seen>),
}

impl Scanner<'_> {
    /// Reads a directory: its names, and what its files are.
    pub(super) fn read(
        &self,
        dir: &mut ScannedDir,
        earlier: Option<u32>,
        wanted: Wanted,
    ) -> Result<(), (Seal, io::Error)> {
        let unreadable = |error| (Seal::Unreadable, error);
        let fd = self.root.open_dir(&dir.path).map_err(unreadable)?;
        // By its own name in itself: where names may be listed but not be looked up, nothing can be said of them.
        let mut before = sys::stat_at(&fd, b".").map_err(unreadable)?.identity;
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
                match self.fill(dir, fd.as_fd(), listed, earlier, wanted) {
                    // A symlink that was listed and is gone: the next listing will be another.
                    Err((Seal::Changed, _)) => {}
                    done => return done,
                }
            }
            before = sys::fstat(&fd).map_err(unreadable)?.identity;
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
        dir.leftovers.clear();
        listed.retain(|entry| {
            let reserved = names::is_reserved(&entry.name, at_root);
            if *entry.name == *names::SIDECAR {
                dir.has_sidecar = true;
            } else if reserved && *entry.name != *names::STORE {
                dir.leftovers.push(entry.name.clone());
            }
            !reserved
        });
        // Before anything is done in parallel: now an entry is a name and a byte.
        listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let count = listed.len() as u64;
        if wanted == Wanted::OnTheWay {
            // Passed through: its subdirectories matter, its content is nobody's business.
            listed.retain(|entry| {
                entry.kind == Kind::Directory && self.wanted(&dir.join(&entry.name)) != Wanted::No
            });
            dir.state = Seal::NotIndexed;
        }
        let earlier = self.options.trust.index().zip(earlier);
        let earlier = earlier.and_then(|(index, dir)| {
            let block = Block::parse(index.block_bytes(dir)?).ok()?;
            Some(Earlier { index, dir, block })
        });
        let entry = |listed: Listed| -> io::Result<(NewEntry, FileState)> {
            let Listed { name, kind } = listed;
            let (content, state) = match kind {
                Kind::Directory => (Content::Directory, FileState::NoFile),
                Kind::Other => (Content::Other, FileState::NoFile),
                Kind::Symlink => {
                    let target = sys::read_link(fd, &name)?;
                    (Content::Symlink(target), FileState::NoFile)
                }
                Kind::File => self.file(dir, fd, &name, earlier),
            };
            let name = name.into_vec();
            let entry = NewEntry {
                name,
                content,
                host_spelling: None,
            };
            Ok((entry, state))
        };
        let changed = |error| (Seal::Changed, error);
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
        let entries = entries
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
            .map_err(changed)?;
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
        if let Some(Earlier {
            index, dir: number, ..
        }) = earlier
        {
            let same = index.block_bytes(number) == Some(&dir.block);
            let held = |identity| index.dir_key_holds(number, identity);
            // Some file was looked at again, and nothing came of it.
            dir.sealed = same
                && dir.identity.as_ref().is_some_and(held)
                && dir.elves.iter().all(|elf| elf.sealed);
            dir.unsealed_as_before =
                same && index.seal(number) == Some(Seal::AccessList) && sys::has_access_list(fd);
            dir.plain.sealed = index.plain_digest(number) == Some(dir.plain.digest);
        }
        (self.options.progress)(count);
        Ok(())
    }

    fn file(
        &self,
        dir: &ScannedDir,
        fd: BorrowedFd<'_>,
        name: &[u8],
        earlier: Option<Earlier<'_>>,
    ) -> (Content, FileState) {
        let taken = earlier.and_then(|from| self.take_over_file(fd, name, from));
        if let Some(taken) = taken {
            return taken;
        }
        match self.inspect(fd, name) {
            Ok((Inspected::Facts(facts, seen), identity)) => {
                let state = ElfState {
                    identity,
                    sealed: false,
                    seen,
                };
                (Content::Elf(facts), FileState::Elf(state))
            }
            Ok((Inspected::Broken(what), identity)) => {
                let path = guest(&dir.join(name));
                self.options.warnings.add(Warning::BrokenElf, &path, what);
                (Content::BrokenElf, FileState::Plain(Some(identity)))
            }
            Ok((Inspected::Plain, identity)) => (Content::File, FileState::Plain(Some(identity))),
            Err(error) => {
                // Its name is known all the same.
                let path = guest(&dir.join(name));
                self.options
                    .warnings
                    .add(Warning::UnreadableFile, &path, error);
                (Content::File, FileState::Plain(None))
            }
        }
    }

    /// The facts of a file whose key holds. An earlier word that a file is no ELF file proves nothing.
    fn take_over_file(
        &self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        from: Earlier<'_>,
    ) -> Option<(Content, FileState)> {
        let entry = from.block.find(name).ok()??;
        let elf = entry.elf_index()?;
        let identity = sys::stat_at(fd, name).ok()?.identity;
        if !from.index.file_key_holds(from.dir, elf, &identity) {
            return None;
        }
        let state = ElfState {
            identity,
            sealed: true,
            seen: None,
        };
        let facts = entry.elf()?.to_facts()?;
        Some((Content::Elf(Arc::new(facts)), FileState::Elf(state)))
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
            (Elf::Facts(facts), seen) => Inspected::Facts(facts, seen),
            (Elf::NotElf, _) => Inspected::Plain,
            (Elf::Broken(what), _) => Inspected::Broken(what),
        };
        let after = sys::fstat(file)?.identity;
        if after == before {
            return Ok((inspected, before));
        }
        before = after;
    }
    Err(io::Error::other("it changed each time it was read"))
}
