//! Calls that make, remove, rename and read names. They resolve the directory and never follow the last component, whatever slashes
//! stand behind it (`fs/namei.c`, `filename_parentat`).

use crate::engine::call::{At, Call, FOLLOW, NO_FOLLOW, PARENT};
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
    then: impl FnOnce(&Call<'_>, &At<'_>) -> Raw,
) -> Raw {
    call.at(dir, path, PARENT, |call, at| {
        call.process.mutating(|| then(call, at))
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

/// A path and the directory it is relative to.
type Named = (Fd, Address);

/// Two paths, of which the second one's last component is made.
fn two(
    call: &mut Call<'_>,
    (old_dir, old): Named,
    (new_dir, new): Named,
    want_old: Want,
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
        let old_text = call.memory.read_string(old, first)?;
        let new_text = call.memory.read_string(new, second)?;
        let old_at = call.locate(old_dir, old, old_text, want_old, told, start, area)?;
        let new_at = call.locate(
            new_dir,
            new,
            new_text,
            PARENT,
            told,
            second_start,
            second_area,
        )?;
        let is_root = old_at.is_root || new_at.is_root;
        let is_known = old_at.guest.is_some() && new_at.guest.is_some() && !old_at.magic;
        if is_known && !is_root && !call.same_mount(&old_at, &new_at) {
            // On the host both may lie on one file system.
            return Err(Errno::EXDEV);
        }
        Ok(call.process.mutating(|| then(call, &old_at, &new_at)))
    };
    run().unwrap_or_else(|errno: Errno| errno.into())
}

fn rename_at(call: &mut Call<'_>, old: Named, new: Named, flags: usize) -> Raw {
    const KNOWN: usize = 7;
    if flags & !KNOWN != 0 {
        return Errno::EINVAL.into();
    }
    two(call, old, new, PARENT, |call, old, new| {
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
        let (fd, empty) = (old.0.0 as isize as usize, c"".as_ptr().addr());
        return one(call, new.0, new.1, |call, at| {
            call.host(nr::LINKAT, [fd, empty, at.dir(), at.path, flags, 0])
        });
    }
    let want = if flags & AT_SYMLINK_FOLLOW != 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    two(call, old, new, want, |call, old, new| {
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
