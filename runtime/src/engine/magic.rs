//! Magic links of procfs whose text names the runtime or the host, and what they are to the guest.
//!
//! # Safety
//! What `/proc/self/exe` says is kept in a mapping that is written before its address is told, and never again.
#![allow(unsafe_code)]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use super::call::Call;
use super::proc;
use crate::errno::Errno;
use crate::sys::abi::{PAGE, PATH_MAX, PROT_READ, PROT_WRITE};
use crate::sys::host::{Fd, getpid, readlinkat};
use crate::sys::memory::{Place as Where, map, unmap};
use crate::vfs::Place;
use crate::vfs::path::{AT_ROOM, PathBuf, below};

/// What stands behind the path of a file that was removed.
const DELETED: &[u8] = b" (deleted)";

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// A path and its length.
struct Kept {
    len: usize,
    path: [u8; PATH_MAX],
}

/// What `/proc/self/exe` was on the host when it was first asked for; null: nobody has asked.
static RUNTIME: AtomicPtr<Kept> = AtomicPtr::new(null_mut());

/// The runtime's own file on the host.
fn runtime_path() -> Result<&'static [u8], Errno> {
    const LEN: usize = size_of::<Kept>().next_multiple_of(PAGE);
    let mut known = RUNTIME.load(Ordering::Acquire);
    if known.is_null() {
        // SAFETY: only a free range is taken.
        let at = unsafe { map(Where::Own, LEN, PROT_READ | PROT_WRITE, None) }?;
        let made = core::ptr::with_exposed_provenance_mut::<Kept>(at);
        // SAFETY: zeros are one of these, and nobody else knows of it.
        let kept = unsafe { &mut *made };
        let read = readlinkat(Fd::CWD, c"/proc/self/exe", &mut kept.path);
        let text = read.map(|len| &kept.path[..len]);
        // It may be gone by now, as it may be when it is compared.
        kept.len = match text.map(|text| text.strip_suffix(DELETED).unwrap_or(text)) {
            Ok(path) => path.len(),
            Err(errno) => {
                // SAFETY: as below.
                unsafe { unmap(at, LEN) };
                return Err(errno);
            }
        };
        let placed =
            RUNTIME.compare_exchange(null_mut(), made, Ordering::AcqRel, Ordering::Acquire);
        known = placed.map_or_else(
            |other| {
                // SAFETY: mapped a moment ago and known to nobody.
                unsafe { unmap(at, LEN) };
                other
            },
            |_| made,
        );
    }
    // SAFETY: written before it was told of, never taken away.
    let kept = unsafe { &*known };
    kept.path.get(..kept.len).ok_or(Errno::EIO)
}

/// Whether a link with this text leads to the runtime's file, which may have been replaced since it was started.
fn is_runtime(text: &[u8]) -> bool {
    runtime_path().is_ok_and(|path| text.strip_suffix(DELETED).unwrap_or(text) == path)
}

/// Whether the link leads to another place for the guest than it does on the host: to the program, which on the host is the runtime, or
/// to the root.
#[must_use]
pub fn is_ours(place: &Place<'_>, text: &[u8]) -> bool {
    match name_of(place.guest) {
        b"exe" => is_runtime(text),
        b"root" => text == b"/",
        _ => false,
    }
}

/// Whether a path in procfs is of this very process.
fn is_of_this_process(path: &[u8]) -> bool {
    let Some(rest) = below(path, b"/proc") else {
        return false;
    };
    let number = rest.split(|byte| *byte == b'/').nth(1).unwrap_or_default();
    let number = core::str::from_utf8(number).ok();
    number.and_then(|number| number.parse().ok()) == Some(getpid())
}

/// Writes the guest path of the program whose link `exe` lies at the host path `link`; whether its file was removed.
fn program(call: &Call<'_>, link: &[u8], into: &mut PathBuf<AT_ROOM>) -> Result<bool, Errno> {
    match proc::program(call, link, into) {
        // A program may have replaced its own text by a copy that is of no file: then it is the one that was executed.
        Err(_) if is_of_this_process(link) => {
            let exe = call.process.run.exe;
            let path = exe.strip_suffix(DELETED).unwrap_or(exe);
            into.set(path).map(|()| path.len() != exe.len())
        }
        told => told,
    }
}

/// Writes the guest path that a magic link with this text leads to, as readlink(2) shows it.
///
/// # Errors
/// ENOTDIR: it is none of a directory (a pipe); ENOENT: the guest has no name for it; ENAMETOOLONG.
pub fn target(
    call: &Call<'_>,
    place: &Place<'_>,
    text: &[u8],
    into: &mut PathBuf<AT_ROOM>,
) -> Result<(), Errno> {
    if is_ours(place, text) {
        return match name_of(place.guest) {
            b"exe" if program(call, place.location.without_nul(), into)? => Err(Errno::ENOENT),
            b"exe" => Ok(()),
            _ => into.set(b"/"),
        };
    }
    if !text.starts_with(b"/") {
        return Err(Errno::ENOTDIR);
    }
    call.process.vfs.mounts().to_guest(text, into)
}

/// What readlink(2) shows of a magic link at the host path `link` with this text on the host: the guest's path where there is one, else
/// the text.
pub fn shown<'t>(
    call: &Call<'_>,
    link: &[u8],
    text: &'t [u8],
    into: &'t mut PathBuf<AT_ROOM>,
) -> &'t [u8] {
    let name = name_of(link);
    let told = if name == b"exe" && is_runtime(text) {
        program(call, link, into)
    } else if name == b"root" || !text.starts_with(b"/") {
        return text;
    } else {
        // A deleted file's path is none that exists; it is shown by the place it had.
        let path = text.strip_suffix(DELETED).unwrap_or(text);
        let told = call.process.vfs.mounts().to_guest(path, into);
        told.map(|()| path.len() != text.len())
    };
    let suffix = |deleted| if deleted { DELETED } else { b"" };
    match told.and_then(|deleted| into.extend(suffix(deleted))) {
        Ok(()) => into.as_bytes(),
        Err(_) => text,
    }
}
