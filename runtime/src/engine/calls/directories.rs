//! Working directory, listings, and the text of symlinks.

use core::mem::MaybeUninit;

use elfuse_format::names::is_reserved;

use super::files::through_link;
use crate::engine::call::{Call, FOLLOW, fd_link};
use crate::engine::hidden::Layout;
use crate::engine::magic;
use crate::engine::pool::{Text, Work};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::host::{Fd, getcwd, readlinkat, short_getcwd};
use crate::sys::nr;
use crate::sys::raw::Raw;
use crate::vfs::path::{AT_ROOM, PathBuf};
use crate::vfs::{Last, SHORT, Want};

/// chdir(2).
pub fn chdir(call: &mut Call<'_>) -> Raw {
    call.at(Fd::CWD, call.address(0), FOLLOW, |call, at| {
        through_link(call, at, |path| call.host(nr::CHDIR, [path, 0, 0, 0, 0, 0]))
    })
}

/// getcwd(2): the guest's path, or the host's where the guest has none.
pub fn getcwd_(call: &mut Call<'_>) -> Raw {
    let tell = |call: &Call<'_>, path: &[u8]| {
        if path.len() > call.args[1] {
            return Err(Errno::ERANGE);
        }
        call.memory.write(call.address(0), path)?;
        Ok(path.len())
    };
    let mounts = call.process.vfs.mounts();
    let short = || {
        let mut told = MaybeUninit::<[u8; SHORT]>::uninit();
        let told = short_getcwd(&mut told).ok()?;
        if let Some(guest) = mounts.in_sysroot(told.to_bytes()) {
            let path = match guest.len() {
                0 => c"/",
                len => &told[told.count_bytes() - len..],
            };
            return Some(tell(call, path.to_bytes_with_nul()));
        }
        let mut path = PathBuf::<SHORT>::new();
        mounts.to_guest(told.to_bytes(), &mut path).ok()?;
        Some(tell(call, path.with_nul()))
    };
    if let Some(result) = short() {
        return result.into();
    }
    let run = || {
        let mut taken = call.area()?;
        let Work { told, start, .. } = taken.work();
        let told = getcwd(told)?;
        let path = match mounts.to_guest(told, start) {
            Ok(()) => start.with_nul(),
            Err(_) => {
                start.set(told)?;
                start.with_nul()
            }
        };
        tell(call, path)
    };
    run().into()
}

/// getdents64(2).
pub fn getdents64(call: &mut Call<'_>) -> Raw {
    list(call, Layout::NEW)
}

/// getdents(2).
pub fn getdents(call: &mut Call<'_>) -> Raw {
    list(call, Layout::OLD)
}

/// Lists into a buffer of ours, leaves out what is hidden, and hands the rest on. A batch of which nothing is left is followed by the
/// next one: nothing at all would say that the directory has ended.
fn list(call: &mut Call<'_>, layout: Layout) -> Raw {
    let run = || {
        let mut taken = call.area()?;
        let Work {
            told,
            start,
            scratch,
            ..
        } = taken.work();
        let room = (call.args[2] & 0xffff_ffff).min(scratch.len());
        let into = call.address(1);
        let fd = call.args[0];
        let position = || {
            const SEEK_CUR: usize = 1;
            call.host(nr::LSEEK, [fd, 0, SEEK_CUR, 0, 0, 0]).result()
        };
        let go_to = |at: usize| {
            const SEEK_SET: usize = 0;
            call.host(nr::LSEEK, [fd, at, SEEK_SET, 0, 0, 0]).result()
        };
        // An entry that cannot be written is the next one to be listed, as with the kernel. Where the first one cannot be, that is known
        // only to who has asked before.
        let mut before = None;
        if room > 0 && !may_be_written(call, into, room.min(LARGEST_ENTRY)) {
            let Ok(here) = position() else {
                return call.as_given().result();
            };
            before = Some(here);
        }
        // A name of ours may not fit a buffer that the next one fits: then more is read, and what does not fit is left for later.
        let mut asked = room;
        loop {
            let args = [fd, scratch.as_mut_ptr().expose_provenance(), asked, 0, 0, 0];
            let len = match call.host(call.nr, args).result() {
                Err(Errno::EINVAL) if asked < LARGEST_ENTRY => {
                    before = Some(position()?);
                    asked = LARGEST_ENTRY;
                    continue;
                }
                other => other?,
            };
            let entries = &mut scratch[..len];
            let own = Own::of(call);
            let mut left = len;
            if asked != room || own.may_be_among(layout, entries) {
                let (mut in_sysroot, mut at_root, mut is_fd_list) = (false, false, false);
                if call.directory(call.fd(0), told, start)? {
                    let guest = start.as_bytes();
                    in_sysroot = call.process.vfs.mounts().over(guest).is_none();
                    at_root = guest == b"/";
                    is_fd_list = guest.starts_with(b"/proc/")
                        && (guest.ends_with(b"/fd") || guest.ends_with(b"/fdinfo"));
                }
                let hides = |name: &[u8]| {
                    in_sysroot && is_reserved(name, at_root) || is_fd_list && own.is_fd(name)
                };
                let (kept, end) = layout.fit(entries, room, before.unwrap_or(0), hides);
                if let Some(end) = end {
                    go_to(end)?;
                    if kept == 0 {
                        return Err(Errno::EINVAL);
                    }
                }
                left = kept;
            }
            if left == 0 && len != 0 {
                asked = room;
                continue;
            }
            if call.memory.write(into, &scratch[..left]).is_ok() {
                return Ok(left);
            }
            let write = |at, entry: &[u8]| call.memory.write(into.plus(at), entry).is_ok();
            let (written, resume) = layout.hand_on(&scratch[..left], write);
            if let Some(at) = resume.or(before) {
                go_to(at)?;
            }
            return if written > 0 {
                Ok(written)
            } else {
                Err(Errno::EFAULT)
            };
        }
    };
    run().into()
}

/// Whether the first and the last of `len` bytes can be written, by what stands there.
fn may_be_written(call: &Call<'_>, at: Address, len: usize) -> bool {
    [at, at.plus(len - 1)].into_iter().all(|at| {
        let byte = call.memory.read_bytes::<1>(at);
        byte.is_ok_and(|byte| call.memory.write(at, &byte).is_ok())
    })
}

/// Bytes of an entry with the longest name.
const LARGEST_ENTRY: usize = 19 + 255 + 1 + 5;

/// Names that a listing must not show.
#[derive(Debug, Clone, Copy)]
struct Own {
    /// Number of the sysroot's descriptor.
    fd: i32,
}

impl Own {
    fn of(call: &Call<'_>) -> Self {
        Self {
            fd: call.process.cached_fd().0,
        }
    }

    fn is_fd(self, name: &[u8]) -> bool {
        let number = core::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse().ok());
        number == Some(self.fd)
    }

    /// Whether to look closer: in most listings no name is like ours.
    fn may_be_among(self, layout: Layout, entries: &[u8]) -> bool {
        let mut at = 0;
        while let Some((len, name)) = layout.entry(entries, at) {
            if is_reserved(name, true) || self.is_fd(name) {
                return true;
            }
            at += len;
        }
        false
    }
}

fn readlink_at(call: &mut Call<'_>, dir: Fd, path: Address, into: Address, room: usize) -> Raw {
    let room = room as u32 as i32;
    if room <= 0 {
        return Errno::EINVAL.into();
    }
    let room = room.unsigned_abs() as usize;
    let known = call.quick(path, Want::new(Last::Text), &|call, at| {
        let text = at.text.unwrap_or(b"");
        let len = text.len().min(room);
        call.memory.write(into, &text[..len]).map(|()| len).into()
    });
    if let Some(result) = known {
        return result;
    }
    let run = || {
        let mut taken = call.area()?;
        let Work {
            first,
            second,
            told,
            start,
            second_start,
            area,
            ..
        } = taken.work();
        let text = call.memory.read_string(path, first)?;
        if text.is_empty() && dir != Fd::CWD {
            // The symlink that the descriptor stands for, opened with O_PATH | O_NOFOLLOW.
            return read_open_link(call, dir, into, room, [second, told], second_start);
        }
        let at = call.locate((dir, path), text, Want::new(Last::Text), told, start, area)?;
        if let Some(text) = at.text {
            let len = text.len().min(room);
            call.memory.write(into, &text[..len])?;
            return Ok(len);
        }
        let (Some(host), true) = (at.host, at.is_magic_link) else {
            return call
                .host(nr::READLINKAT, [at.dir(), at.path, into.0, room, 0, 0])
                .result();
        };
        let len = readlinkat(at.dir, host, second)?;
        let shown = magic::shown(call, host.to_bytes(), &second[..len], second_start);
        let len = shown.len().min(room);
        call.memory.write(into, &shown[..len])?;
        Ok(len)
    };
    run().into()
}

/// readlinkat(2) of a symlink that is open: in procfs its text may be the host's.
fn read_open_link(
    call: &Call<'_>,
    link: Fd,
    into: Address,
    room: usize,
    [text, own]: [&mut Text; 2],
    shown: &mut PathBuf<AT_ROOM>,
) -> Result<usize, Errno> {
    let len = readlinkat(link, c"", text)?;
    let text = &text[..len];
    let mut name = [0; 32];
    let name = fd_link(link, &mut name).ok_or(Errno::EBADF)?;
    let len = readlinkat(Fd::CWD, name, own)?;
    let shown = match &own[..len] {
        path if path.starts_with(b"/proc/") && text.starts_with(b"/") => {
            magic::shown(call, path, text, shown)
        }
        _ => text,
    };
    let len = shown.len().min(room);
    call.memory.write(into, &shown[..len])?;
    Ok(len)
}

/// readlink(2).
pub fn readlink(call: &mut Call<'_>) -> Raw {
    readlink_at(
        call,
        Fd::CWD,
        call.address(0),
        call.address(1),
        call.args[2],
    )
}

/// readlinkat(2).
pub fn readlinkat_(call: &mut Call<'_>) -> Raw {
    readlink_at(
        call,
        call.fd(0),
        call.address(1),
        call.address(2),
        call.args[3],
    )
}
