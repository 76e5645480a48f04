//! Calls that change or read what a path's file is like: mode, owner, times, length, extended attributes.

use super::files::{names_nothing, through_link};
use crate::engine::call::{At, Call, FOLLOW, NO_FOLLOW};
use crate::guest::Address;
use crate::sys::abi::{AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW};
use crate::sys::host::Fd;
use crate::sys::nr;
use crate::sys::raw::{Nr, Raw};

/// Whether a call may change who may search a directory, on which answers about its names depend.
fn changes_access(nr: Nr) -> bool {
    matches!(
        nr,
        nr::SETXATTR
            | nr::LSETXATTR
            | nr::REMOVEXATTR
            | nr::LREMOVEXATTR
            | nr::SETXATTRAT
            | nr::REMOVEXATTRAT
            | nr::FCHMODAT2
            | nr::FCHOWNAT
    )
}

/// Whether a call changes nothing.
fn only_reads(nr: Nr) -> bool {
    matches!(
        nr,
        nr::STATFS
            | nr::GETXATTR
            | nr::LGETXATTR
            | nr::LISTXATTR
            | nr::LLISTXATTR
            | nr::GETXATTRAT
            | nr::LISTXATTRAT
            | nr::FILE_GETATTR
    )
}

/// Makes a call that is about what lies at a place.
fn make_at(call: &Call<'_>, at: &At<'_>, make: impl FnOnce() -> Raw) -> Raw {
    if changes_access(call.nr) {
        call.process.mutating_at(&[at], make)
    } else if only_reads(call.nr) {
        make()
    } else {
        call.process.touching(&[at], make)
    }
}

/// Makes the call as it was given: it is about a descriptor.
fn make_given(call: &Call<'_>) -> Raw {
    if !only_reads(call.nr) {
        call.process.touch();
    }
    let result = call.as_given();
    if !only_reads(call.nr) {
        call.process.touch();
    }
    result
}

/// fchmod(2), fchown(2), fsetxattr(2), fremovexattr(2): no path is named, but who may search a directory changes.
pub fn of_descriptor(call: &mut Call<'_>) -> Raw {
    call.process.mutating(|| call.as_given())
}

/// The path is the first argument and there is no directory: the same call on the same place by one path.
fn by_path(call: &mut Call<'_>, follow: bool) -> Raw {
    let (nr, args) = (call.nr, call.args);
    let want = if follow { FOLLOW } else { NO_FOLLOW };
    call.at(Fd::CWD, call.address(0), want, |call, at| {
        through_link(call, at, |path| {
            let make = || call.host(nr, [path, args[1], args[2], args[3], args[4], args[5]]);
            make_at(call, at, make)
        })
    })
}

/// truncate(2), statfs(2), utime(2), utimes(2), setxattr(2), getxattr(2), listxattr(2), removexattr(2).
pub fn followed(call: &mut Call<'_>) -> Raw {
    by_path(call, true)
}

/// lsetxattr(2), lgetxattr(2), llistxattr(2), lremovexattr(2).
pub fn not_followed(call: &mut Call<'_>) -> Raw {
    by_path(call, false)
}

/// Directory and path are the first two arguments; flags, of which `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH` mean what they do elsewhere,
/// are at `flags_at`.
fn flagged(call: &mut Call<'_>, flags_at: usize) -> Raw {
    let (nr, args, flags) = (call.nr, call.args, call.flags(flags_at));
    if names_nothing(call, call.address(1)) && (flags & AT_EMPTY_PATH != 0 || args[1] == 0) {
        // A null path means the descriptor to utimensat(2) and futimesat(2) without the flag, and EFAULT to the others.
        return make_given(call);
    }
    let want = if flags & AT_SYMLINK_NOFOLLOW == 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    call.at(call.fd(0), call.address(1), want, |call, at| {
        let mut args = args;
        args[0] = at.dir();
        args[1] = at.path;
        args[flags_at] = flags & !AT_SYMLINK_NOFOLLOW | at.no_follow();
        let make = || call.host(nr, args);
        make_at(call, at, make)
    })
}

/// setxattrat(2), getxattrat(2), listxattrat(2), removexattrat(2).
pub fn flags_third(call: &mut Call<'_>) -> Raw {
    flagged(call, 2)
}

/// fchmodat2(2), utimensat(2).
pub fn flags_fourth(call: &mut Call<'_>) -> Raw {
    flagged(call, 3)
}

/// fchownat(2).
pub fn flags_fifth(call: &mut Call<'_>) -> Raw {
    flagged(call, 4)
}

/// futimesat(2), whose null path is the descriptor itself.
pub fn futimesat(call: &mut Call<'_>) -> Raw {
    if call.args[1] == 0 {
        return make_given(call);
    }
    let times = call.args[2];
    call.at(call.fd(0), call.address(1), FOLLOW, |call, at| {
        make_at(call, at, || {
            call.host(nr::FUTIMESAT, [at.dir(), at.path, times, 0, 0, 0])
        })
    })
}

fn chmod_at(call: &mut Call<'_>, dir: Fd, path: Address, mode: usize) -> Raw {
    call.at(dir, path, FOLLOW, |call, at| {
        call.process.mutating_at(&[at], || {
            call.host(nr::FCHMODAT, [at.dir(), at.path, mode, 0, 0, 0])
        })
    })
}

/// chmod(2).
pub fn chmod(call: &mut Call<'_>) -> Raw {
    chmod_at(call, Fd::CWD, call.address(0), call.args[1])
}

/// fchmodat(2), which has no flags.
pub fn fchmodat(call: &mut Call<'_>) -> Raw {
    chmod_at(call, call.fd(0), call.address(1), call.args[2])
}

fn chown_of(call: &mut Call<'_>, follow: bool) -> Raw {
    let [_, user, group, ..] = call.args;
    let want = if follow { FOLLOW } else { NO_FOLLOW };
    let chown = |call: &Call<'_>, at: &At<'_>| {
        let args = [at.dir(), at.path, user, group, at.no_follow(), 0];
        call.process
            .mutating_at(&[at], || call.host(nr::FCHOWNAT, args))
    };
    call.at(Fd::CWD, call.address(0), want, chown)
}

/// chown(2).
pub fn chown(call: &mut Call<'_>) -> Raw {
    chown_of(call, true)
}

/// lchown(2).
pub fn lchown(call: &mut Call<'_>) -> Raw {
    chown_of(call, false)
}

/// fanotify_mark(2): directory and path are the last two arguments; a null path is the directory.
pub fn fanotify_mark(call: &mut Call<'_>) -> Raw {
    const FAN_MARK_DONT_FOLLOW: usize = 4;
    let [group, flags, mask, ..] = call.args;
    if call.args[4] == 0 {
        return call.as_given();
    }
    let want = if flags & FAN_MARK_DONT_FOLLOW == 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    call.at(call.fd(3), call.address(4), want, |call, at| {
        call.host(
            nr::FANOTIFY_MARK,
            [group, flags, mask, at.dir(), at.path, 0],
        )
    })
}
