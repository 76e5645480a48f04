//! `clean`: takes every file of ours out of a sysroot and leaves the rest as it was, the directories' mtimes included.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use anyhow::Context;
use elfuse_format::names;
use rustix::fs::AtFlags;
use walkdir::WalkDir;

use crate::exit::Exit;
use crate::options::CleanOptions;
use crate::report::{Output, count};
use crate::scan::guest;
use crate::store::Store;
use crate::sys::{self, Root};
use crate::warning::Warning;

/// What lies in a store. A directory given by `--index-dir` may hold other things, which are not ours to remove.
const STORE_FILES: &[&str] = &[
    names::KEYS,
    names::LOADER_CACHE,
    names::GENERATION,
    "ld.so.cache",
    "cpuid",
    "resident.list",
    "keys.tmp",
    "loader-cache.tmp",
    "lock",
];
const STORE_DIRS: &[&str] = &["text", "resident"];

/// `elfuse-index clean`.
///
/// # Errors
/// If the sysroot cannot be walked or the store not be removed.
pub fn run(options: &CleanOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let path = options.sysroot.root();
    let root = Root::open(path).with_context(|| format!("opening {}", path.display()))?;
    let store = Store::find(path, options.index_dir.as_deref());
    // A build that is under way would find its store gone.
    let lock = store.dir().is_dir().then(|| store.lock()).transpose()?;
    let progress = out.progress("cleaning", None);
    let mut sidecars = 0;
    let walk = WalkDir::new(path).same_file_system(true).into_iter();
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(path).as_os_str().as_bytes();
                out.warn(Warning::UnreadableDirectory, path, &error);
                continue;
            }
        };
        progress.add(1);
        let name = entry.file_name().as_bytes();
        if entry.depth() == 0 || entry.file_type().is_dir() || !names::is_reserved(name, false) {
            continue;
        }
        let parent = entry
            .path()
            .parent()
            .and_then(|parent| parent.strip_prefix(path).ok());
        let parent = parent
            .map(|parent| parent.as_os_str().as_bytes())
            .unwrap_or_default();
        match remove(&root, parent, name) {
            Ok(()) => sidecars += u64::from(name == names::SIDECAR),
            Err(error) => out.warn(Warning::NotRemoved, &guest(parent), &error),
        }
    }
    progress.clear();
    let removed = lock.is_some();
    remove_store(&root, &store)
        .with_context(|| format!("removing the index in {}", store.dir().display()))?;
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

fn remove(root: &Root, directory: &[u8], name: &[u8]) -> io::Result<()> {
    let fd = root.open_dir(directory)?;
    let before = sys::fstat(&fd)?.identity.mtime;
    rustix::fs::unlinkat(&fd, name, AtFlags::empty())?;
    sys::restore_mtime(&fd, before)
}

/// Takes the store away; one outside the tree with no more than is ours.
fn remove_store(root: &Root, store: &Store) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    if store.in_tree() {
        let before = sys::fstat(root.fd())?.identity.mtime;
        // The whole name is reserved. A symlink in its place is removed itself; `remove_dir_all` follows none.
        let path = store.dir();
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            gone(fs::remove_dir_all(path))?;
        }
        return sys::restore_mtime(root.fd(), before);
    }
    for name in STORE_DIRS {
        gone(fs::remove_dir_all(store.dir().join(name)))?;
    }
    // The lock last: whoever waits for it sees that it is gone.
    for name in STORE_FILES {
        gone(fs::remove_file(store.dir().join(name)))?;
    }
    match fs::remove_dir(store.dir()) {
        // Somebody else's files are in there: leave them, and the directory with them.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => gone(other),
    }
}
