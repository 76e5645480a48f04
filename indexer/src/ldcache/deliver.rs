//! Puts a cache where it was asked for: whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use elfuse_format::names::{LD_SO_CACHE, STORE};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::options::{LdcacheOutput, Sysroot};
use crate::report::{Bytes, Output};
use crate::sys;

/// Writes the cache, and says where it is unless that is the standard output.
///
/// # Errors
/// What creating, writing or renaming gives, with the path.
pub fn deliver(
    sysroot: &Sysroot,
    to: &LdcacheOutput,
    cache: &[u8],
    out: &mut Output,
) -> anyhow::Result<Option<Bytes>> {
    let path = match to {
        LdcacheOutput::Stdout => {
            out.text()
                .write_all(cache)
                .context("writing the loader cache to the standard output")?;
            return Ok(None);
        }
        LdcacheOutput::File(path) => path.clone(),
        LdcacheOutput::Store => sysroot
            .root()
            .join(OsStr::from_bytes(STORE))
            .join(LD_SO_CACHE),
    };
    let written = match to {
        LdcacheOutput::Store => open_store(sysroot.root())
            .and_then(|store| replace(&store, OsStr::new(LD_SO_CACHE), cache)),
        _ => write_file(&path, cache),
    };
    written.with_context(|| format!("writing the loader cache {}", path.display()))?;
    Ok(Some(Bytes(path.as_os_str().as_bytes().to_vec())))
}

/// The store of the sysroot, made if it is not there. A symlink in its place is refused: it could lead anywhere.
fn open_store(root: &Path) -> io::Result<OwnedFd> {
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, directory, Mode::empty())?;
    match rustix::fs::mkdirat(&root, STORE, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(
        &root,
        STORE,
        directory | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

fn write_file(path: &Path, cache: &[u8]) -> io::Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::IsADirectory, "not the name of a file"))?;
    match std::fs::metadata(path) {
        // A terminal, a pipe, /dev/null: written to, not replaced.
        Ok(there) if !there.is_file() && !there.is_dir() => {
            return File::options().write(true).open(path)?.write_all(cache);
        }
        _ => {}
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(CWD, parent, directory, Mode::empty())?;
    replace(&parent, name, cache)
}

/// Writes beside `name` and renames.
fn replace(directory: &impl AsFd, name: &OsStr, content: &[u8]) -> io::Result<()> {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    sys::replace_file(
        directory,
        temporary.as_bytes(),
        name.as_bytes(),
        content,
        true,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ld.so.cache");
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        write_file(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_directory_in_the_place_of_the_file_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write_file(dir.path(), b"x").is_err());
        assert!(dir.path().is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_is_a_symlink_out_of_the_sysroot_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join(".elfuse")).unwrap();
        assert!(open_store(&root).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
