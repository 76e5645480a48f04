//! Calls that open or look at what a path names.

use crate::engine::call::{At, Call, FOLLOW, NO_FOLLOW};
use crate::engine::{descriptors, proc};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{
    AT_EACCESS, AT_EMPTY_PATH, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, O_ACCMODE, O_CREAT,
    O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_TMPFILE, O_TRUNC, O_WRONLY, OpenHow,
    PATH_MAX, RESOLVE_BENEATH, RESOLVE_CACHED, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};
use crate::sys::host::Fd;
use crate::sys::nr;
use crate::sys::raw::Raw;
use crate::vfs::{Base, Kind, Last, Want};

/// How open(2) resolves with these flags.
fn wanted(flags: usize) -> Want {
    let creates = flags & O_CREAT != 0;
    Want::new(match (creates, flags & O_NOFOLLOW != 0) {
        (true, true) => Last::Parent,
        (true, false) if flags & O_EXCL != 0 => Last::Parent,
        (true, false) => Last::Create,
        (false, true) => Last::NoFollow,
        (false, false) => Last::Follow,
    })
}

/// Whether open(2) with these flags changes something, or gives out what something can be changed by.
fn writes(flags: usize) -> bool {
    const ACCESS: usize = 3;
    flags & O_PATH == 0 && flags & (ACCESS | O_CREAT | O_TRUNC) != 0
}

#[inline(always)]
fn open_at(call: &mut Call<'_>, dir: Fd, path: Address, flags: usize, mode: usize) -> Raw {
    call.at(dir, path, wanted(flags), |call, at| {
        // The kernel, too, sees that before it looks at permissions, but not before it refuses flags that contradict each other.
        let asks_for_directory = flags & (O_TMPFILE | O_CREAT) == O_DIRECTORY;
        if asks_for_directory && matches!(at.kind, Some(Kind::File | Kind::Other)) {
            return Errno::ENOTDIR.into();
        }
        let open = || call.host(nr::OPENAT, [at.dir(), at.path, flags, mode, 0, 0]);
        let open = || call.process.opening(at, writes(flags), open);
        if flags & O_CREAT != 0 {
            return call.process.announcing(open);
        }
        let opened = open();
        if flags & (O_ACCMODE | O_PATH) == O_RDONLY
            && (at.base, at.kind) == (Base::Sysroot, Some(Kind::File))
        {
            if let Ok(number) = opened.result() {
                descriptors::learn_file(call.process, number);
            }
            return opened;
        }
        proc::opened(call, at, flags, opened)
    })
}

/// open(2).
pub fn open(call: &mut Call<'_>) -> Raw {
    open_at(call, Fd::CWD, call.address(0), call.flags(1), call.args[2])
}

/// creat(2).
pub fn creat(call: &mut Call<'_>) -> Raw {
    open_at(
        call,
        Fd::CWD,
        call.address(0),
        O_CREAT | O_WRONLY | O_TRUNC,
        call.args[1],
    )
}

/// openat(2).
pub fn openat(call: &mut Call<'_>) -> Raw {
    open_at(
        call,
        call.fd(0),
        call.address(1),
        call.flags(2),
        call.args[3],
    )
}

/// openat2(2). What resolve flags ask for is asked of the one resolver; the host gets a path without symlinks and the flags that
/// still mean something there.
pub fn openat2(call: &mut Call<'_>) -> Raw {
    const LEN: usize = size_of::<OpenHow>();
    let len = call.args[3];
    if !(LEN..=4096).contains(&len) {
        // EINVAL, E2BIG: the kernel looks at the size before anything else.
        return call.as_given();
    }
    let how = match call.memory.read_bytes::<LEN>(call.address(2)) {
        Ok(how) => how,
        Err(errno) => return errno.into(),
    };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&how[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (flags, mode, resolve) = (word(0), word(8), word(16));
    const KNOWN: u64 = RESOLVE_NO_XDEV
        | RESOLVE_NO_MAGICLINKS
        | RESOLVE_NO_SYMLINKS
        | RESOLVE_BENEATH
        | RESOLVE_IN_ROOT
        | RESOLVE_CACHED;
    let both = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
    if resolve & !KNOWN != 0 || resolve & both == both || flags >> 32 != 0 {
        return Errno::EINVAL.into();
    }
    match newer_fields(call, call.address(2).plus(LEN), len - LEN) {
        Ok(false) => {}
        Ok(true) => return Errno::E2BIG.into(),
        Err(errno) => return errno.into(),
    }
    let want = Want {
        no_symlinks: resolve & RESOLVE_NO_SYMLINKS != 0,
        no_magic_links: resolve & RESOLVE_NO_MAGICLINKS != 0,
        no_crossing: resolve & RESOLVE_NO_XDEV != 0,
        beneath: resolve & RESOLVE_BENEATH != 0,
        in_root: resolve & RESOLVE_IN_ROOT != 0,
        ..wanted(flags as usize)
    };
    call.at(call.fd(0), call.address(1), want, |call, at| {
        // Where the kernel has to go by itself it is told all that the guest asked for.
        let left = if at.host.is_some() {
            resolve & RESOLVE_CACHED
        } else {
            resolve
        };
        let how = OpenHow {
            flags,
            mode,
            resolve: left,
        };
        let how = core::ptr::from_ref(&how).expose_provenance();
        let open = || call.host(nr::OPENAT2, [at.dir(), at.path, how, LEN, 0, 0]);
        let open = || call.process.opening(at, writes(flags as usize), open);
        if flags as usize & O_CREAT != 0 {
            call.process.announcing(open)
        } else {
            proc::opened(call, at, flags as usize, open())
        }
    })
}

/// Whether a structure of a newer kernel says anything in the fields that are not known here.
fn newer_fields(call: &Call<'_>, mut at: Address, mut len: usize) -> Result<bool, Errno> {
    while len > 0 {
        let mut part = [0; 256];
        let part = &mut part[..len.min(256)];
        call.memory.read(at, part)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at = at.plus(part.len());
        len -= part.len();
    }
    Ok(false)
}

/// Resolves for a call that takes `AT_SYMLINK_NOFOLLOW` and `AT_EMPTY_PATH` and knows the flags `known`: the kernel refuses others before
/// it looks at the path.
#[inline(always)]
fn flagged(
    call: &mut Call<'_>,
    (flags, known): (usize, usize),
    dir: Fd,
    path: Address,
    then: impl Fn(&Call<'_>, &At<'_>) -> Raw,
) -> Raw {
    if flags & !known != 0 {
        return Errno::EINVAL.into();
    }
    if flags & AT_EMPTY_PATH != 0 && names_nothing(call, path) {
        return call.as_given();
    }
    let want = if flags & AT_SYMLINK_NOFOLLOW == 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    call.at(dir, path, want, then)
}

/// Whether a path is empty or, as newer kernels take it for empty, null: with `AT_EMPTY_PATH` the descriptor itself is meant.
#[must_use]
pub fn names_nothing(call: &Call<'_>, path: Address) -> bool {
    path.is_null() || call.memory.read_bytes::<1>(path) == Ok([0])
}

/// `AT_STATX_SYNC_TYPE`.
const SYNC: usize = 0x6000;
/// What the calls of the stat family know.
const STAT_FLAGS: usize = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | SYNC;
/// `R_OK`, `W_OK`, `X_OK`.
const ACCESS_MODES: usize = 7;

/// Where the last component of a path leads with these flags; `None`: they are not as plain as that.
fn plain_last(flags: usize) -> Option<Last> {
    const PLAIN: usize = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_EACCESS;
    match flags & AT_SYMLINK_NOFOLLOW {
        _ if flags & !PLAIN != 0 => None,
        0 => Some(Last::Follow),
        _ => Some(Last::NoFollow),
    }
}

#[inline(always)]
fn stat_at(call: &mut Call<'_>, dir: Fd, path: Address, into: usize, flags: usize) -> Raw {
    if flags & !STAT_FLAGS == 0
        && let Some(last) = plain_last(flags)
        && let Some(result) = call.said_stat(path, last, into)
    {
        return result;
    }
    flagged(call, (flags, STAT_FLAGS), dir, path, |call, at| {
        let flags = flags & !AT_SYMLINK_NOFOLLOW | at.no_follow();
        call.host(nr::NEWFSTATAT, [at.dir(), at.path, into, flags, 0, 0])
    })
}

/// stat(2).
pub fn stat(call: &mut Call<'_>) -> Raw {
    stat_at(call, Fd::CWD, call.address(0), call.args[1], 0)
}

/// lstat(2).
pub fn lstat(call: &mut Call<'_>) -> Raw {
    stat_at(
        call,
        Fd::CWD,
        call.address(0),
        call.args[1],
        AT_SYMLINK_NOFOLLOW,
    )
}

/// newfstatat(2).
pub fn newfstatat(call: &mut Call<'_>) -> Raw {
    stat_at(
        call,
        call.fd(0),
        call.address(1),
        call.args[2],
        call.flags(3),
    )
}

/// statx(2).
pub fn statx(call: &mut Call<'_>) -> Raw {
    let (flags, mask, into) = (call.flags(2), call.args[3], call.args[4]);
    const RESERVED: usize = 0x8000_0000;
    if mask & RESERVED != 0 || flags & SYNC == SYNC {
        return Errno::EINVAL.into();
    }
    if flags & !STAT_FLAGS == 0
        && let Some(last) = plain_last(flags)
        && let Some(result) = call.said_statx(call.address(1), last, mask as u32, into)
    {
        return result;
    }
    flagged(
        call,
        (flags, STAT_FLAGS),
        call.fd(0),
        call.address(1),
        |call, at| {
            let flags = flags & !AT_SYMLINK_NOFOLLOW | at.no_follow();
            call.host(nr::STATX, [at.dir(), at.path, flags, mask, into, 0])
        },
    )
}

/// access(2).
pub fn access(call: &mut Call<'_>) -> Raw {
    let mode = call.args[1];
    if mode & !ACCESS_MODES != 0 {
        return Errno::EINVAL.into();
    }
    if let Some(result) = call.said_access(call.address(0), Last::Follow, mode) {
        return result;
    }
    call.at(Fd::CWD, call.address(0), FOLLOW, |call, at| {
        call.host(nr::FACCESSAT, [at.dir(), at.path, mode, 0, 0, 0])
    })
}

/// faccessat(2), which has no flags.
pub fn faccessat(call: &mut Call<'_>) -> Raw {
    let mode = call.args[2];
    if mode & !ACCESS_MODES != 0 {
        return Errno::EINVAL.into();
    }
    if let Some(result) = call.said_access(call.address(1), Last::Follow, mode) {
        return result;
    }
    call.at(call.fd(0), call.address(1), FOLLOW, |call, at| {
        call.host(nr::FACCESSAT, [at.dir(), at.path, mode, 0, 0, 0])
    })
}

/// faccessat2(2).
pub fn faccessat2(call: &mut Call<'_>) -> Raw {
    let (mode, flags) = (call.args[2], call.flags(3));
    const KNOWN: usize = AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    if mode & !ACCESS_MODES != 0 {
        return Errno::EINVAL.into();
    }
    if flags & !KNOWN == 0
        && let Some(last) = plain_last(flags)
        && let Some(result) = call.said_access(call.address(1), last, mode)
    {
        return result;
    }
    flagged(
        call,
        (flags, KNOWN),
        call.fd(0),
        call.address(1),
        |call, at| {
            let flags = flags & !AT_SYMLINK_NOFOLLOW | at.no_follow();
            call.host(nr::FACCESSAT2, [at.dir(), at.path, mode, flags, 0, 0])
        },
    )
}

/// name_to_handle_at(2), which follows only when told to.
pub fn name_to_handle_at(call: &mut Call<'_>) -> Raw {
    const AT_SYMLINK_FOLLOW: usize = 0x400;
    let [_, _, handle, mount, flags, _] = call.args;
    if flags & AT_EMPTY_PATH != 0 && names_nothing(call, call.address(1)) {
        return call.as_given();
    }
    let want = if flags & AT_SYMLINK_FOLLOW != 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    call.at(call.fd(0), call.address(1), want, |call, at| {
        let flags = if at.magic {
            flags
        } else {
            flags & !AT_SYMLINK_FOLLOW
        };
        call.host(
            nr::NAME_TO_HANDLE_AT,
            [at.dir(), at.path, handle, mount, flags, 0],
        )
    })
}

/// inotify_add_watch(2).
pub fn inotify_add_watch(call: &mut Call<'_>) -> Raw {
    const IN_DONT_FOLLOW: usize = 0x0200_0000;
    let (watcher, mask) = (call.args[0], call.flags(2));
    let want = if mask & IN_DONT_FOLLOW == 0 {
        FOLLOW
    } else {
        NO_FOLLOW
    };
    call.at(Fd::CWD, call.address(1), want, |call, at| {
        through_link(call, at, |path| {
            call.host(nr::INOTIFY_ADD_WATCH, [watcher, path, mask, 0, 0, 0])
        })
    })
}

/// For calls that take a path and no directory: the same place as one path, `/proc/self/fd/N/…` where `at` has a directory. That way is
/// as long as the path in the sysroot and stays right when the sysroot is moved.
pub fn through_link(call: &Call<'_>, at: &At<'_>, then: impl FnOnce(usize) -> Raw) -> Raw {
    let Some(host) = at.host else {
        return then(at.path);
    };
    if at.dir == Fd::CWD {
        return then(at.path);
    }
    if at.given != 0 && host.count_bytes() > PATH_MAX - 40 {
        // With the descriptor in front it would be longer than a path may be; from where it starts it is not.
        return then(at.given);
    }
    let run = || {
        let mut taken = call.area()?;
        let into = &mut taken.work().scratch;
        let mut text = [0; 32];
        let link = crate::engine::call::fd_link(at.dir, &mut text).ok_or(Errno::EBADF)?;
        let (link, host) = (link.to_bytes(), host.to_bytes_with_nul());
        let len = link.len() + 1 + host.len();
        let room = into.get_mut(..len).ok_or(Errno::ENAMETOOLONG)?;
        room[..link.len()].copy_from_slice(link);
        room[link.len()] = b'/';
        room[link.len() + 1..].copy_from_slice(host);
        Ok(then(room.as_ptr().expose_provenance()))
    };
    run().unwrap_or_else(|errno: Errno| errno.into())
}
