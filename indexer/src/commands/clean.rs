//! `clean`: takes every file of ours out of a sysroot and leaves the rest as it was, the directories' mtimes included.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use elfuse_format::names;
use elfuse_format::sidecar::Kind;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::exit::Exit;
use crate::options::CleanOptions;
use crate::report::{Output, count};
use crate::scan::{MAX_DEPTH, depth, guest, join};
use crate::store::{LOCK, Lock, Store};
use crate::sys::{self, Root};
use crate::warning::Warning;

/// Directories of a store.
const STORE_DIRS: &[&str] = &["text", "resident"];

/// Whether a file in a store is ours. A directory given by `--index-dir` may hold other things.
fn is_store_file(name: &[u8]) -> bool {
    let files = [
        names::KEYS,
        names::LOADER_CACHE,
        names::LD_SO_CACHE,
        names::GENERATION,
        names::CPUID,
        "resident.list",
        LOCK,
    ];
    let is = |name: &[u8]| files.iter().any(|file| file.as_bytes() == name);
    // `keys.tmp`; `.ld.so.cache.4711.tmp` as `ldcache` has it; `cpuid.4711.tmp` as a run has it that was killed.
    let of_a_run = |name: &[u8]| {
        let dot = name.iter().rposition(|byte| *byte == b'.');
        let parts = dot.map(|dot| (&name[..dot], &name[dot + 1..]));
        parts.is_some_and(|(name, number)| {
            [names::GENERATION, names::CPUID]
                .map(str::as_bytes)
                .contains(&name)
                && !number.is_empty()
                && number.iter().all(u8::is_ascii_digit)
        })
    };
    let temporary = name.strip_suffix(names::TEMPORARY_SUFFIX);
    is(name)
        || temporary.is_some_and(|name| {
            is(name)
                || of_a_run(name)
                || name
                    .strip_prefix(b".")
                    .is_some_and(|name| name.starts_with(names::LD_SO_CACHE.as_bytes()))
        })
}

/// `elfuse-index clean`.
///
/// # Errors
/// If the sysroot cannot be opened or the store not be locked.
pub fn run(options: &CleanOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let path = options.sysroot.root();
    let root = Root::open(path).with_context(|| format!("opening {}", path.display()))?;
    let store = Store::find(path, options.index_dir.as_deref());
    let is_dir = std::fs::symlink_metadata(store.dir()).is_ok_and(|found| found.is_dir());
    // A build that goes on would write again what is removed here.
    let lock = if is_dir || !store.in_tree() {
        store.lock_existing()?
    } else {
        None
    };
    let sidecars = remove_sidecars(&root, out);
    let removed = lock.is_some();
    if let Some(lock) = lock {
        remove_store(&root, &store, &lock, out)
            .with_context(|| format!("removing the index in {}", store.dir().display()))?;
    }
    if out.is_json() {
        out.json(
            "clean",
            &serde_json::json!({ "sidecars_removed": sidecars, "store_removed": removed, "store": store.dir() }),
        )?;
    } else if !out.is_quiet() {
        let store_line = if removed {
            "and the store"
        } else {
            "and no store"
        };
        let line = format!(
            "removed {} {store_line} ({})",
            count(sidecars, "sidecar", "sidecars"),
            store.dir().display()
        );
        writeln!(out.text(), "{line}")?;
    }
    Ok(Exit::Success)
}

/// Removes the sidecars and their temporaries from the whole tree, and says how many sidecars there were.
fn remove_sidecars(root: &Root, out: &mut Output) -> u64 {
    let progress = out.progress("cleaning", None);
    let mut removed = 0;
    let mut stack = vec![Vec::new()];
    while let Some(path) = stack.pop() {
        if depth(&path) > MAX_DEPTH {
            continue;
        }
        let found = match Cleaned::new(root, &path) {
            Ok(found) => found,
            Err(error) => {
                out.warn(Warning::UnreadableDirectory, &guest(&path), error);
                continue;
            }
        };
        stack.extend(found.below.iter().map(|name| join(&path, name)));
        match found.removed {
            Ok(sidecars) => removed += sidecars,
            Err(error) => out.warn(Warning::NotRemoved, &guest(&path), error),
        }
        progress.add(1);
    }
    progress.clear();
    removed
}

/// A directory that was cleaned.
struct Cleaned {
    /// Names of its directories.
    below: Vec<Box<[u8]>>,
    /// How many sidecars were removed: one, or none.
    removed: io::Result<u64>,
}

impl Cleaned {
    /// Cleans a directory; an error means that it cannot be read.
    fn new(root: &Root, path: &[u8]) -> io::Result<Self> {
        let fd = root.open_dir(path)?;
        let before = sys::fstat(&fd)?.identity;
        if before.dev != root.dev() {
            return Ok(Self {
                below: Vec::new(),
                removed: Ok(0),
            });
        }
        let mut ours = Vec::new();
        let mut below = Vec::new();
        for entry in sys::list(fd.as_fd(), usize::MAX - 1)? {
            let reserved = names::is_reserved(&entry.name, path.is_empty());
            match entry.kind {
                Kind::Directory if !reserved => below.push(entry.name),
                Kind::Directory => {}
                _ if reserved && *entry.name != *names::STORE => ours.push(entry.name),
                _ => {}
            }
        }
        let remove = || -> io::Result<u64> {
            for name in &ours {
                match rustix::fs::unlinkat(&fd, &**name, AtFlags::empty()) {
                    // Where there is no store there is no lock: a build may have begun, or another clean.
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let sidecars = ours.iter().filter(|name| ***name == *names::SIDECAR);
            Ok(sidecars.count() as u64)
        };
        let mut removed = remove();
        if !ours.is_empty() {
            let restored = sys::restore_mtime(&fd, before.mtime);
            removed = removed.and_then(|sidecars| restored.map(|()| sidecars));
        }
        Ok(Self { below, removed })
    }
}

fn remove_store(root: &Root, store: &Store, lock: &Lock, out: &mut Output) -> io::Result<()> {
    let before = sys::fstat(root.fd())?.identity.mtime;
    let dir = lock.dir();
    let mut all_ours = true;
    let mut entries = sys::list(dir.as_fd(), usize::MAX - 1)?;
    // The lock last: with it goes what keeps others away.
    entries.sort_by_key(|entry| *entry.name == *LOCK.as_bytes());
    for entry in entries {
        let is_dir = entry.kind == Kind::Directory;
        let removed = if is_dir
            && STORE_DIRS
                .iter()
                .any(|name| name.as_bytes() == &*entry.name)
        {
            remove_tree(dir, &entry.name)
        } else if !is_dir && is_store_file(&entry.name) {
            Ok(rustix::fs::unlinkat(dir, &*entry.name, AtFlags::empty())?)
        } else {
            Err(io::Error::other("not a file of the index"))
        };
        if let Err(error) = removed {
            all_ours = false;
            // Beside somebody else's files the store's directory is theirs, too.
            if store.in_tree() {
                let path = join(store.dir().as_os_str().as_bytes(), &entry.name);
                out.warn(Warning::NotRemoved, &path, error);
            }
        }
    }
    if all_ours {
        match std::fs::remove_dir(store.dir()) {
            Ok(()) if store.in_tree() => sys::restore_mtime(root.fd(), before)?,
            // A build that waited has begun in the meantime, with a lock of its own; or its like, and another clean.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes a directory and what is in it; symlinks are removed, not followed.
fn remove_tree(parent: impl AsFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    for entry in sys::list(fd.as_fd(), usize::MAX - 1)? {
        if entry.kind == Kind::Directory {
            remove_tree(&fd, &entry.name)?;
        } else {
            rustix::fs::unlinkat(&fd, &*entry.name, AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
