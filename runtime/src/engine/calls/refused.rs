//! Calls that would change what paths mean behind the runtime's back, or pass paths where nobody sees them. They fail as they do for a
//! process without privileges: first over their path, if it leads nowhere, then with EPERM.

use super::files::{names_nothing, through_link};
use crate::engine::call::{Call, FOLLOW, NO_FOLLOW};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_PATH,
};
use crate::sys::host::{Fd, close, openat};
use crate::sys::nr;
use crate::sys::raw::Raw;

/// Mounts by descriptors, swap and accounting.
pub fn not_permitted(_: &mut Call<'_>) -> Raw {
    Errno::EPERM.into()
}

/// Calls that programs expect some kernels not to have: io_uring_setup(2), whose rings carry paths past every filter.
pub fn not_there(_: &mut Call<'_>) -> Raw {
    Errno::ENOSYS.into()
}

/// What the kernel says of a path, and EPERM where it says nothing.
fn after_looking(call: &Call<'_>, path: Address, flags: usize) -> Raw {
    call.at(Fd::CWD, path, FOLLOW, |_, at| {
        let Some(host) = at.host else {
            return Errno::EPERM.into();
        };
        match openat(at.dir, host, O_PATH | O_CLOEXEC | flags, 0) {
            Ok(fd) => {
                close(fd);
                Errno::EPERM.into()
            }
            Err(errno) => errno.into(),
        }
    })
}

/// chroot(2).
pub fn on_a_directory(call: &mut Call<'_>) -> Raw {
    after_looking(call, call.address(0), O_DIRECTORY)
}

/// umount2(2).
pub fn on_a_path(call: &mut Call<'_>) -> Raw {
    after_looking(call, call.address(0), 0)
}

/// mount(2): the path is the target.
pub fn mount(call: &mut Call<'_>) -> Raw {
    after_looking(call, call.address(1), 0)
}

/// quotactl(2): the path is of a block device. Without one, all quotas are meant.
pub fn quotactl(call: &mut Call<'_>) -> Raw {
    let [command, path, id, data, ..] = call.args;
    if path == 0 {
        return call.as_given();
    }
    call.at(Fd::CWD, call.address(1), FOLLOW, |call, at| {
        through_link(call, at, |path| {
            call.host(nr::QUOTACTL, [command, path, id, data, 0, 0])
        })
    })
}

/// open_tree(2): without OPEN_TREE_CLONE it is open(2) with O_PATH.
pub fn open_tree(call: &mut Call<'_>) -> Raw {
    const OPEN_TREE_CLONE: usize = 1;
    const AT_NO_AUTOMOUNT: usize = 0x800;
    const KNOWN: usize = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | O_CLOEXEC;
    let flags = call.flags(2);
    if flags & OPEN_TREE_CLONE != 0 {
        return Errno::EPERM.into();
    }
    if flags & !KNOWN != 0 {
        return Errno::EINVAL.into();
    }
    if flags & AT_EMPTY_PATH != 0 && names_nothing(call, call.address(1)) {
        return call.as_given();
    }
    let (want, no_follow) = match flags & AT_SYMLINK_NOFOLLOW {
        0 => (FOLLOW, 0),
        _ => (NO_FOLLOW, O_NOFOLLOW),
    };
    call.at(call.fd(0), call.address(1), want, |call, at| {
        let flags = O_PATH | flags & O_CLOEXEC | no_follow;
        call.host(nr::OPENAT, [at.dir(), at.path, flags, 0, 0, 0])
    })
}

/// open_tree_attr(2): with attributes to be set it needs a privilege; without, it is open_tree(2).
pub fn open_tree_attr(call: &mut Call<'_>) -> Raw {
    match call.args[3] {
        0 => open_tree(call),
        _ => Errno::EPERM.into(),
    }
}

/// statmount(2), listmount(2): a guest is told of no mounts. The request is the first argument.
pub fn no_mounts(call: &mut Call<'_>) -> Raw {
    match call.memory.read_word(call.address(0)) {
        Ok(_) => Errno::EPERM.into(),
        Err(errno) => errno.into(),
    }
}
