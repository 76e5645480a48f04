//! Magic links of procfs whose text names the runtime or the host, and what they are to the guest.

use super::process::Process;
use crate::errno::Errno;
use crate::vfs::Place;
use crate::vfs::path::{AT_ROOM, PathBuf};

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether the link leads to another place for the guest than it does on the host: to the program, which on the host is the runtime, or
/// to the root.
#[must_use]
pub fn is_ours(process: &Process, place: &Place<'_>, text: &[u8]) -> bool {
    match name_of(place.guest) {
        b"exe" => text == process.runtime_path,
        b"root" => text == b"/",
        _ => false,
    }
}

/// Writes the guest path that a magic link with this text leads to, as readlink(2) shows it.
///
/// # Errors
/// ENOTDIR: it is none of a directory (a pipe); ENOENT: the guest has no name for it; ENAMETOOLONG.
pub fn target(
    process: &Process,
    place: &Place<'_>,
    text: &[u8],
    into: &mut PathBuf<AT_ROOM>,
) -> Result<(), Errno> {
    if is_ours(process, place, text) {
        return match name_of(place.guest) {
            b"exe" => into.set(process.run.exe),
            _ => into.set(b"/"),
        };
    }
    if !text.starts_with(b"/") {
        return Err(Errno::ENOTDIR);
    }
    process.vfs.mounts().to_guest(text, into)
}

/// What readlink(2) shows of a magic link with this text on the host: the guest's path where there is one, else the text.
pub fn shown<'t>(
    process: &Process,
    guest: &[u8],
    text: &'t [u8],
    into: &'t mut PathBuf<AT_ROOM>,
) -> &'t [u8] {
    const DELETED: &[u8] = b" (deleted)";
    if name_of(guest) == b"exe" && text == process.runtime_path {
        return process.run.exe;
    }
    if name_of(guest) == b"root" || !text.starts_with(b"/") {
        return text;
    }
    let (path, deleted) = match text.strip_suffix(DELETED) {
        Some(path) => (path, DELETED),
        None => (text, &b""[..]),
    };
    // A deleted file's path is none that exists; it is shown by the place it had.
    match process
        .vfs
        .mounts()
        .to_guest(path, into)
        .and_then(|()| into.extend(deleted))
    {
        Ok(()) => into.as_bytes(),
        Err(_) => text,
    }
}
