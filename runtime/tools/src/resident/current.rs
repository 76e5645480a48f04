//! Whether what a snapshot was made of is as it was: the lookups of its key, made again in the sysroot, without the mounts of any run.
//!
//! Only what is surely not as it was counts. A lookup that cannot be made just now, or by this user, says nothing: a start will tell.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use elfuse_format::snapshot::{File, Outcome, PROGRAM, Snapshot};
use elfuse_runtime::options::DEFAULT_MOUNTS;
use elfuse_runtime::text::Shown;
use elfuse_runtime::vfs::path::below;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::stopped;

/// Compares the program and every lookup with what is in the sysroot: the first thing that is not as it was.
///
/// # Errors
/// The sysroot cannot be opened, and nothing is known.
pub(super) fn compare(
    snapshot: &Snapshot<'_>,
    sysroot: &Path,
) -> anyhow::Result<Option<anyhow::Error>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, sysroot, flags, Mode::empty())
        .with_context(|| format!("opening {}", sysroot.display()))?;
    let identity = |number: u32| Some(snapshot.files.get(number as usize)?.to_native());
    let fault = |path: &[u8], outcome, found| {
        let difference = difference(outcome, identity, found)?;
        Some(anyhow::anyhow!("{} {difference}", Shown(path)))
    };
    let program = Outcome::File(PROGRAM);
    let found = match look(&root, snapshot.exe(), program) {
        Err(Errno::NOSYS | Errno::PERM) => plainly(sysroot, snapshot.exe()),
        found => found,
    };
    if let Some(fault) = fault(snapshot.exe(), program, found) {
        return Ok(Some(fault));
    }
    for lookup in snapshot.lookups {
        let path = snapshot.path(lookup);
        let Some(outcome) = lookup.outcome() else {
            return Ok(Some(anyhow::anyhow!("a lookup that is not known")));
        };
        if is_of_host(path) {
            continue;
        }
        if let Some(fault) = fault(path, outcome, look(&root, path, outcome)) {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

/// Whether a path led to the host's files when the program was captured, whatever the sysroot has there.
fn is_of_host(path: &[u8]) -> bool {
    DEFAULT_MOUNTS
        .iter()
        .any(|mount| below(path, mount).is_some())
}

/// What is at a path.
#[derive(Debug, Clone, Copy)]
struct Found {
    identity: File,
    is_directory: bool,
}

impl From<Metadata> for Found {
    fn from(found: Metadata) -> Self {
        Self {
            identity: stopped::identity(&found),
            is_directory: found.is_dir(),
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn look(root: &OwnedFd, path: &[u8], outcome: Outcome) -> Result<Found, Errno> {
    let flags = match outcome {
        Outcome::File(_) | Outcome::Error(_) => OFlags::RDONLY | OFlags::NONBLOCK,
        Outcome::Directory => OFlags::PATH | OFlags::DIRECTORY,
        Outcome::Other => OFlags::PATH,
    };
    // A guest's path begins at its root, and its symlinks lead there.
    let found = rustix::fs::openat2(
        root.as_fd(),
        OsStr::from_bytes(path),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    let found = fs::File::from(found).metadata();
    found.map(Found::from).map_err(|error| errno(&error))
}

/// What is at a path without symlinks, as the program's is, where there is no openat2(2).
fn plainly(sysroot: &Path, path: &[u8]) -> Result<Found, Errno> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let found = fs::symlink_metadata(sysroot.join(OsStr::from_bytes(path)));
    found.map(Found::from).map_err(|error| errno(&error))
}

/// Whether an error number says that nothing is there. All others are of the moment, of the user or of the medium.
fn is_absence(errno: u32) -> bool {
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP]
        .map(number)
        .contains(&errno)
}

fn number(errno: Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}

/// What is surely not as it was at a path, where `identity` tells a snapshot's files by their numbers.
fn difference(
    expected: Outcome,
    identity: impl Fn(u32) -> Option<File>,
    found: Result<Found, Errno>,
) -> Option<String> {
    match (expected, found) {
        (Outcome::File(file), Ok(found)) if identity(file) != Some(found.identity) => {
            Some("was changed".to_owned())
        }
        (Outcome::Other, Ok(found)) if found.is_directory => {
            Some("is a directory, which it was not".to_owned())
        }
        (Outcome::Error(expected), Ok(_)) if is_absence(expected) => {
            Some("is there, which it was not".to_owned())
        }
        (Outcome::Error(expected), Err(errno)) => {
            let is_known = is_absence(expected) && is_absence(number(errno));
            (is_known && number(errno) != expected)
                .then(|| format!("is absent in another way: {errno}"))
        }
        (_, Err(errno)) if is_absence(number(errno)) => Some(format!("is gone: {errno}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ino: u64, is_directory: bool) -> Result<Found, Errno> {
        let root = fs::metadata("/").expect("a root");
        let mut identity = stopped::identity(&root);
        identity.ino = ino;
        Ok(Found {
            identity,
            is_directory,
        })
    }

    fn is_kept(expected: Outcome, found_now: Result<Found, Errno>) -> bool {
        let identity = |number| Some(found(u64::from(number), false).ok()?.identity);
        difference(expected, identity, found_now).is_none()
    }

    const ABSENT: Outcome = Outcome::Error(libc::ENOENT.unsigned_abs());
    const FORBIDDEN: Outcome = Outcome::Error(libc::EACCES.unsigned_abs());
    const THERE: [Outcome; 3] = [Outcome::File(1), Outcome::Directory, Outcome::Other];

    #[test]
    fn what_is_as_it_was_is_kept() {
        assert!(is_kept(Outcome::File(1), found(1, false)));
        assert!(is_kept(Outcome::Directory, found(2, true)));
        assert!(is_kept(Outcome::Other, found(2, false)));
        assert!(is_kept(ABSENT, Err(Errno::NOENT)));
    }

    #[test]
    fn another_file_none_or_one_where_none_was_is_no_longer_kept() {
        assert!(!is_kept(Outcome::File(1), found(2, false)));
        assert!(!is_kept(Outcome::Other, found(2, true)));
        for errno in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP] {
            for expected in THERE {
                assert!(!is_kept(expected, Err(errno)), "{expected:?}: {errno}");
            }
        }
        assert!(!is_kept(ABSENT, found(2, false)));
        assert!(!is_kept(ABSENT, Err(Errno::NOTDIR)));
    }

    #[test]
    fn an_error_that_says_nothing_about_the_file_leaves_a_snapshot_alone() {
        let passing = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::IO,
            Errno::STALE,
            Errno::ACCESS,
            Errno::PERM,
            Errno::NOSYS,
            Errno::AGAIN,
            Errno::INTR,
            Errno::NOMEM,
        ];
        for errno in passing {
            for expected in THERE.into_iter().chain([ABSENT, FORBIDDEN]) {
                assert!(is_kept(expected, Err(errno)), "{expected:?}: {errno}");
            }
        }
        // Whoever prunes may be allowed more, or less, than who captured.
        assert!(is_kept(FORBIDDEN, found(1, false)));
        assert!(is_kept(FORBIDDEN, Err(Errno::NOENT)));
    }

    #[test]
    fn a_path_below_a_default_mount_is_told_by_whole_components() {
        for path in [
            "/tmp",
            "/tmp/lib/libx.so",
            "/dev/shm/libx.so",
            "/proc/self/maps",
        ] {
            assert!(is_of_host(path.as_bytes()), "{path}");
        }
        for path in ["/", "/usr/lib", "/tmpfiles/libx.so", "/usr/tmp"] {
            assert!(!is_of_host(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn without_openat2_the_program_itself_is_still_compared() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("program");
        fs::write(&path, "").expect("a file");
        let expected = stopped::identity(&fs::metadata(&path).expect("a file"));
        let program = plainly(dir.path(), b"/program");
        let difference = |found| difference(Outcome::File(0), |_| Some(expected), found);
        assert_eq!(difference(program), None);
        fs::remove_file(path).expect("removing a file");
        assert!(difference(plainly(dir.path(), b"/program")).is_some());
    }
}
