//! Whether what a snapshot was made of is as it was: the lookups of its key, made again in the sysroot, without the mounts of any run.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, ensure};
use elfuse_format::snapshot::{Outcome, Snapshot};
use elfuse_runtime::text::Shown;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::stopped;

/// Compares the program and every lookup with what is in the sysroot.
///
/// # Errors
/// The first thing that is not as it was.
pub(super) fn compare(snapshot: &Snapshot<'_>, sysroot: &Path) -> anyhow::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, sysroot, flags, Mode::empty())
        .with_context(|| format!("opening {}", sysroot.display()))?;
    let program = Outcome::File(elfuse_format::snapshot::PROGRAM);
    look(snapshot, &root, snapshot.exe(), program)?;
    for lookup in snapshot.lookups {
        let outcome = lookup.outcome().context("a lookup that is not known")?;
        look(snapshot, &root, snapshot.path(lookup), outcome)?;
    }
    Ok(())
}

fn look(
    snapshot: &Snapshot<'_>,
    root: &OwnedFd,
    path: &[u8],
    outcome: Outcome,
) -> anyhow::Result<()> {
    let flags = match outcome {
        Outcome::File(_) | Outcome::Error(_) => OFlags::RDONLY | OFlags::NONBLOCK,
        Outcome::Directory => OFlags::PATH | OFlags::DIRECTORY,
        Outcome::Other => OFlags::PATH,
    };
    // A guest's path begins at its root, and its symlinks lead there.
    let found = rustix::fs::openat2(
        root,
        OsStr::from_bytes(path),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let found = match found {
        Ok(fd) => Ok(std::fs::File::from(fd).metadata()?),
        // A kernel that cannot look, or does not want to: a start will tell.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => return Ok(()),
        Err(errno) => Err(errno),
    };
    let path = Shown(path);
    match (outcome, found) {
        (Outcome::File(number), Ok(found)) => {
            let file = snapshot.files.get(number as usize);
            let is_same = file.map(|file| file.to_native()) == Some(stopped::identity(&found));
            ensure!(is_same, "{path} was changed");
        }
        (Outcome::Directory, Ok(_)) => {}
        (Outcome::Other, Ok(found)) => {
            ensure!(!found.is_dir(), "{path} is a directory, which it was not")
        }
        (Outcome::Error(expected), Err(errno)) => {
            let is_same = u32::try_from(errno.raw_os_error()) == Ok(expected);
            ensure!(is_same, "{path}: {errno}, which it was not");
        }
        (Outcome::Error(_), Ok(_)) => anyhow::bail!("{path} is there, which it was not"),
        (_, Err(errno)) => anyhow::bail!("{path}: {errno}"),
    }
    Ok(())
}
