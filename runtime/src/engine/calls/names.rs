//! Calls that make, remove, rename and read names. They resolve the directory and never follow the last component, whatever slashes
//! stand behind it (`fs/namei.c`, `filename_parentat`).

use crate::engine::call::{At, Call, FOLLOW, NO_FOLLOW, Named, PARENT};
use crate::engine::hidden;
use crate::engine::pool::Work;
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{AT_EMPTY_PATH, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, S_IFDIR, S_IFMT};
use crate::sys::host::{Fd, lstatat};
use crate::sys::nr;
use crate::sys::raw::Raw;
use crate::vfs::Want;

/// One path whose last component is made or removed.
fn one(
    call: &mut Call<'_>,
    dir: Fd,
    path: Address,
    then: impl Fn(&Call<'_>, &At<'_>) -> Raw,
) -> Raw {
    call.at(dir, path, PARENT, |call, at| {
        call.process.mutating_at(&[at], || then(call, at))
    })
}

fn mkdir_at(call: &mut Call<'_>, dir: Fd, path: Address, mode: usize) -> Raw {
    one(call, dir, path, |call, at| {
        call.host(nr::MKDIRAT, [at.dir(), at.path, mode, 0, 0, 0])
    })
}

/// mkdir(2).
pub fn mkdir(call: &mut Call<'_>) -> Raw {
    mkdir_at(call, Fd::CWD, call.address(0), call.args[1])
}

/// mkdirat(2).
pub fn mkdirat(call: &mut Call<'_>) -> Raw {
    mkdir_at(call, call.fd(0), call.address(1), call.args[2])
}

fn mknod_at(call: &mut Call<'_>, dir: Fd, path: Address, mode: usize, device: usize) -> Raw {
    one(call, dir, path, |call, at| {
        call.host(nr::MKNODAT, [at.dir(), at.path, mode, device, 0, 0])
    })
}

/// mknod(2).
pub fn mknod(call: &mut Call<'_>) -> Raw {
    mknod_at(call, Fd::CWD, call.address(0), call.args[1], call.args[2])
}

/// mknodat(2).
pub fn mknodat(call: &mut Call<'_>) -> Raw {
    mknod_at(
        call,
        call.fd(0),
        call.address(1),
        call.args[2],
        call.args[3],
    )
}

fn unlink_at(call: &mut Call<'_>, dir: Fd, path: Address, flags: usize) -> Raw {
    let directory = flags & AT_REMOVEDIR != 0;
    one(call, dir, path, |call, at| {
        if at.is_mount_point {
            let is_directory = at.host.and_then(|host| lstatat(at.dir, host).ok());
            let is_directory = is_directory.is_some_and(|found| found.mode & S_IFMT == S_IFDIR);
            return match (directory, is_directory) {
                (false, true) => Errno::EISDIR.into(),
                (true, false) => Errno::ENOTDIR.into(),
                _ => Errno::EBUSY.into(),
            };
        }
        let remove = || call.host(nr::UNLINKAT, [at.dir(), at.path, flags, 0, 0, 0]);
        let removed = remove();
        let is_full = removed == Errno::ENOTEMPTY.into() || removed == Errno::EEXIST.into();
        if directory && is_full && hidden::clear(call, at) {
            remove()
        } else {
            removed
        }
    })
}

/// unlink(2).
pub fn unlink(call: &mut Call<'_>) -> Raw {
    unlink_at(call, Fd::CWD, call.address(0), 0)
}

/// rmdir(2).
pub fn rmdir(call: &mut Call<'_>) -> Raw {
    unlink_at(call, Fd::CWD, call.address(0), AT_REMOVEDIR)
}

/// unlinkat(2).
pub fn unlinkat(call: &mut Call<'_>) -> Raw {
    let flags = call.flags(2);
    if flags & !AT_REMOVEDIR != 0 {
        return Errno::EINVAL.into();
    }
    unlink_at(call, call.fd(0), call.address(1), flags)
}

/// Whether the mounts of two paths are compared before or after it is looked what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// rename(2): both directories, then their mounts.
    First,
    /// link(2): what is linked, then whether the new name is free, and then the mounts.
    Last,
}

/// Whether the host finds something at a path, a symlink included.
fn is_there(call: &Call<'_>, at: &At<'_>) -> Result<(), Errno> {
    // As large as a struct stat.
    let mut found = [0_u64; 18];
    let into = found.as_mut_ptr().expose_provenance();
    let args = [at.dir(), at.path, into, at.no_follow(), 0, 0];
    call.host(nr::NEWFSTATAT, args).result().map(|_| ())
}

/// What link(2) says of two names in different mounts; `new_text` is the new one as it was given.
fn linked_apart(call: &Call<'_>, old: &At<'_>, new: &At<'_>, new_text: &[u8]) -> Errno {
    if !old.is_mount_point
        && let Err(errno) = is_there(call, old)
    {
        return errno;
    }
    if new.is_mount_point {
        return Errno::EEXIST;
    }
    if new_text.ends_with(b"/") {
        // The slash is looked at after the name before it, and no link can be made there: of what is in no mount, nowhere.
        let nowhere = c"/proc/self/ns/mnt".as_ptr().expose_provenance();
        let cwd = Fd::CWD.0 as isize as usize;
        let args = [cwd, nowhere, new.dir(), new.path, AT_SYMLINK_FOLLOW, 0];
        return call
            .host(nr::LINKAT, args)
            .result()
            .err()
            .unwrap_or(Errno::EXDEV);
    }
    match is_there(call, new) {
        Ok(()) => Errno::EEXIST,
        Err(Errno::ENOENT) => Errno::EXDEV,
        Err(errno) => errno,
    }
}

/// Two paths, of which the second one's last component is made.
fn two(
    call: &mut Call<'_>,
    old: Named,
    new: Named,
    (want_old, apart): (Want, Apart),
    then: impl FnOnce(&Call<'_>, &At<'_>, &At<'_>) -> Raw,
) -> Raw {
    let run = || {
        let mut taken = call.area()?;
        let Work {
            first,
            second,
            told,
            start,
            second_start,
            area,
            second_area,
            ..
        } = taken.work();
        let old_text = call.memory.read_string(old.1, first)?;
        let new_text = call.memory.read_string(new.1, second)?;
        let old_at = call.locate(old, old_text, want_old, told, start, area)?;
        let new_at = call.locate(new, new_text, PARENT, told, second_start, second_area);
        let new_at = match new_at {
            Err(errno) if apart == Apart::Last => {
                is_there(call, &old_at)?;
                return Err(errno);
            }
            found => found?,
        };
        let is_root = old_at.is_root || new_at.is_root;
        let is_known = old_at.guest.is_some() && new_at.guest.is_some() && !old_at.magic;
        // A mount point is what is mounted there only for link(2); rename(2) says that it is in use.
        let is_apart =
            !call.same_mount(&old_at, &new_at) || apart == Apart::Last && old_at.is_mount_point;
        if is_known && !is_root && is_apart {
            // On the host both may lie on one file system.
            return Err(match apart {
                Apart::First => Errno::EXDEV,
                Apart::Last => linked_apart(call, &old_at, &new_at, new_text),
            });
        }
        let places = [&old_at, &new_at];
        Ok(call
            .process
            .mutating_at(&places, || then(call, &old_at, &new_at)))
    };
    run().unwrap_or_else(|errno: Errno| errno.into())
}

fn rename_at(call: &mut Call<'_>, old: Named, new: Named, flags: usize) -> Raw {
    const KNOWN: usize = 7;
    if flags & !KNOWN != 0 {
        return Errno::EINVAL.into();
    }
    two(call, old, new, (PARENT, Apart::First), |call, old, new| {
        if old.is_mount_point || new.is_mount_point || old.is_root || new.is_root {
            return Errno::EBUSY.into();
        }
        let rename = || {
            call.host(
                nr::RENAMEAT2,
                [old.dir(), old.path, new.dir(), new.path, flags, 0],
            )
        };
        let renamed = rename();
        let is_full = renamed == Errno::ENOTEMPTY.into() || renamed == Errno::EEXIST.into();
        if is_full && flags == 0 && hidden::clear(call, new) {
            rename()
        } else {
            renamed
        }
    })
}

/// rename(2).
pub fn rename(call: &mut Call<'_>) -> Raw {
    rename_at(
        call,
        (Fd::CWD, call.address(0)),
        (Fd::CWD, call.address(1)),
        0,
    )
}

/// renameat(2).
pub fn renameat(call: &mut Call<'_>) -> Raw {
    rename_at(
        call,
        (call.fd(0), call.address(1)),
        (call.fd(2), call.address(3)),
        0,
    )
}

/// renameat2(2).
pub fn renameat2(call: &mut Call<'_>) -> Raw {
    let flags = call.flags(4);
    rename_at(
        call,
        (call.fd(0), call.address(1)),
        (call.fd(2), call.address(3)),
        flags,
    )
}

fn link_at(call: &mut Call<'_>, old: Named, new: Named, flags: usize) -> Raw {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Errno::EINVAL.into();
    }
    if flags & AT_EMPTY_PATH != 0 && super::files::names_nothing(call, old.1) {
        let (fd, empty) = (old.0.0 as isize as usize, c"".as_ptr().expose_provenance());
        return one(call, new.0, new.1, |call, at| {
            call.host(nr::LINKAT, [fd, empty, at.dir(), at.path, flags, 0])
        });
    }
    let want = if flags & AT_SYMLINK_FOLLOW != 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    two(call, old, new, (want, Apart::Last), |call, old, new| {
        let flags = if old.magic { AT_SYMLINK_FOLLOW } else { 0 };
        call.host(
            nr::LINKAT,
            [old.dir(), old.path, new.dir(), new.path, flags, 0],
        )
    })
}

/// link(2).
pub fn link(call: &mut Call<'_>) -> Raw {
    link_at(
        call,
        (Fd::CWD, call.address(0)),
        (Fd::CWD, call.address(1)),
        0,
    )
}

/// linkat(2).
pub fn linkat(call: &mut Call<'_>) -> Raw {
    let flags = call.flags(4);
    link_at(
        call,
        (call.fd(0), call.address(1)),
        (call.fd(2), call.address(3)),
        flags,
    )
}

/// The text of a symlink is the guest's: it is stored as it stands.
fn symlink_at(call: &mut Call<'_>, text: usize, dir: Fd, path: Address) -> Raw {
    one(call, dir, path, |call, at| {
        call.host(nr::SYMLINKAT, [text, at.dir(), at.path, 0, 0, 0])
    })
}

/// symlink(2).
pub fn symlink(call: &mut Call<'_>) -> Raw {
    symlink_at(call, call.args[0], Fd::CWD, call.address(1))
}

/// symlinkat(2).
pub fn symlinkat(call: &mut Call<'_>) -> Raw {
    symlink_at(call, call.args[0], call.fd(1), call.address(2))
}
