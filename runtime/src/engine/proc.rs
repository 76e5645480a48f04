//! Files of procfs that show the runtime beside the guest, or the host's paths instead of the guest's: what a guest gets in their place.
//!
//! A listing of mappings is written anew when it is opened, into a memory file that takes the place of the descriptor. Read a second time
//! through the same descriptor it therefore says what it said the first time, where procfs would say what is.

use core::ffi::CStr;

use super::call::{At, Call, fd_link};
use super::listing::{Lines, Listing, Mapping, copys_block};
use super::pool::{Text, Work};
use crate::errno::Errno;
use crate::loader::stack::auxiliary;
use crate::sys::abi::{
    F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, O_ACCMODE, O_CLOEXEC,
    O_DIRECTORY, O_NOFOLLOW, O_PATH, O_RDONLY, at,
};
use crate::sys::host::{Fd, close, dup_to, fcntl, memory_file, openat, read, rewind, write};
use crate::sys::raw::Raw;
use crate::vfs::path::{AT_ROOM, PathBuf, below};
use crate::vfs::{Base, Mounts};

/// Where a place is below the root of a procfs: a slash and more.
fn in_procfs<'a>(call: &Call<'_>, at: &At<'a>) -> Option<&'a [u8]> {
    let (Some(guest), Some(host), Base::Host) = (at.guest, at.host, at.base) else {
        return None;
    };
    let mounts = call.process.vfs.mounts();
    let row = mounts.row(mounts.over(guest)?);
    if row.procfs {
        below(guest, row.guest)
    } else {
        below(host.to_bytes(), b"/proc")
    }
}

/// What open(2) with `flags` returns to the guest, where `opened` is what the host returned: the same, unless that is a listing of
/// mappings.
#[must_use]
pub fn opened(call: &Call<'_>, at: &At<'_>, flags: usize, opened: Raw) -> Raw {
    let reads = flags & (O_ACCMODE | O_PATH | O_DIRECTORY) == O_RDONLY;
    // Nearly every path is told apart by its last letters.
    let is_listing = at.guest.is_some_and(|guest| guest.ends_with(b"maps"));
    if !(reads && is_listing) {
        return opened;
    }
    if let Ok(fd) = opened.result()
        && let Some(listing) = in_procfs(call, at).and_then(Listing::at)
    {
        let fd = Fd(fd as i32);
        if show(call, fd, listing, flags).is_err() {
            // What is not translated is better than nothing.
            let _ = rewind(fd);
        }
    }
    opened
}

/// Puts a file with what the guest is to see in the place of the descriptor of a listing.
fn show(call: &Call<'_>, listed: Fd, listing: Listing, flags: usize) -> Result<(), Errno> {
    const SEALS: usize = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
    let file = memory_file(c"maps")?;
    let filled = || {
        let mut taken = call.area()?;
        fill(
            listed,
            file,
            listing,
            call.process.vfs.mounts(),
            taken.work(),
        )?;
        fcntl(file, F_ADD_SEALS, SEALS)?;
        // Opened anew to be what was asked for: to be read only, from its start.
        let mut text = [0; 32];
        let link = fd_link(file, &mut text).ok_or(Errno::EBADF)?;
        let shown = openat(Fd::CWD, link, flags & !O_NOFOLLOW | O_CLOEXEC, 0)?;
        let replaced = dup_to(shown, listed, flags & O_CLOEXEC);
        close(shown);
        replaced
    };
    let result = filled();
    close(file);
    result
}

fn fill(
    from: Fd,
    to: Fd,
    listing: Listing,
    mounts: &Mounts<'_>,
    work: &mut Work,
) -> Result<(), Errno> {
    let Work {
        scratch,
        state,
        start: room,
        first: kept,
        ..
    } = work;
    let mut lines = Lines::new(listing, mounts, kept);
    let mut out = Output {
        to,
        room: state,
        used: 0,
    };
    each_line(from, scratch, |line| {
        lines.translate(line, room, |part| out.put(part))?;
        Ok(true)
    })?;
    out.flush()
}

/// Reads a file to its end, or until `then` says false, line by line, each with its newline. `room` is to read into; a line that is longer
/// than it is E2BIG.
fn each_line(
    from: Fd,
    room: &mut [u8],
    mut then: impl FnMut(&[u8]) -> Result<bool, Errno>,
) -> Result<(), Errno> {
    let mut used = 0;
    loop {
        let len = read(from, &mut room[used..])?;
        used += len;
        let end = match room[..used].iter().rposition(|byte| *byte == b'\n') {
            _ if len == 0 => used,
            Some(newline) => newline + 1,
            None if used == room.len() => return Err(Errno::E2BIG),
            None => continue,
        };
        for line in room[..end].split_inclusive(|byte| *byte == b'\n') {
            if !then(line)? {
                return Ok(());
            }
        }
        if len == 0 {
            return Ok(());
        }
        room.copy_within(end..used, 0);
        used -= end;
    }
}

/// Collects what is written to a file.
struct Output<'b> {
    to: Fd,
    room: &'b mut [u8],
    used: usize,
}

impl Output<'_> {
    fn put(&mut self, part: &[u8]) -> Result<(), Errno> {
        if part.len() > self.room.len() - self.used {
            self.flush()?;
        }
        let room = self.room.get_mut(self.used..self.used + part.len());
        room.ok_or(Errno::E2BIG)?.copy_from_slice(part);
        self.used += part.len();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        let mut written = 0;
        while written < self.used {
            written += write(self.to, &self.room[written..self.used])?;
        }
        self.used = 0;
        Ok(())
    }
}

/// Writes the guest path of the program that a guest runs to `into`, where `link` is the host path of the link `exe` in that process's
/// directory, which leads to the runtime; whether the program's file was removed since. It is the file whose mapping the program
/// started in, so it is found by the name it has now: the one that its program headers lie in, as its code may be a patched copy's.
///
/// # Errors
/// Those of reading `auxv` and `maps` of that process; ENOENT: the guest has no name for it, or it cannot be told.
pub fn program(call: &Call<'_>, link: &[u8], into: &mut PathBuf<AT_ROOM>) -> Result<bool, Errno> {
    const WORDS: usize = 64;
    let mut taken = call.area()?;
    let Work { scratch, told, .. } = taken.work();
    let auxv = open_beside(link, c"auxv", told)?;
    let len = read(auxv, &mut scratch[..WORDS * size_of::<usize>()]);
    close(auxv);
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(scratch[..len?].as_chunks().0) {
        *word = usize::from_ne_bytes(*bytes);
    }
    let wanted = auxiliary(&words, at::PHDR).filter(|phdr| *phdr != 0);
    let mut wanted = wanted
        .or_else(|| auxiliary(&words, at::ENTRY))
        .ok_or(Errno::ENOENT)?;
    let maps = open_beside(link, c"maps", told)?;
    let mut found = Err(Errno::ENOENT);
    let read = each_line(maps, scratch, |line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mapping = Mapping::of(Listing::Maps, line);
        let Some(mapping) =
            mapping.filter(|mapping| (mapping.start..mapping.end).contains(&wanted))
        else {
            return Ok(true);
        };
        let file = mapping.file(line).filter(|_| !mapping.is_own());
        let Some((path, deleted)) = file else {
            return Ok(false);
        };
        if copys_block(path).is_some() {
            // The program's first mapping is code; the one behind it is of its own file.
            wanted = mapping.end;
            return Ok(true);
        }
        found = (call.process.vfs.mounts().to_guest(path, into)).map(|()| !deleted.is_empty());
        Ok(false)
    });
    close(maps);
    read.and(found)
}

/// Opens the file called `name` in the directory that `path` lies in.
fn open_beside(path: &[u8], name: &CStr, room: &mut Text) -> Result<Fd, Errno> {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    let start = slash.map_or(0, |slash| slash + 1);
    let name = name.to_bytes_with_nul();
    let end = start + name.len();
    let whole = room.get_mut(..end).ok_or(Errno::ENAMETOOLONG)?;
    whole[..start].copy_from_slice(&path[..start]);
    whole[start..].copy_from_slice(name);
    let path = CStr::from_bytes_with_nul(whole).map_err(|_| Errno::EINVAL)?;
    openat(Fd::CWD, path, O_RDONLY | O_CLOEXEC, 0)
}
