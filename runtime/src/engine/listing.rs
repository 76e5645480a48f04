//! The listings of a process's mappings that procfs has (`maps`, `smaps`, `numa_maps`; proc(5)), line by line: what the guest is to see
//! of each. Pure: nothing here makes a system call.
//!
//! Text that is mapped from a patched copy is shown as the file that it stands in for, by the name of the mapping that it joins: a copy is never
//! all of a file. Its block at a low address is the runtime's, and left out. Pages of a snapshot are memory without a file: they are what the
//! dynamic linker had written to.

#[cfg(test)]
mod tests;

use elfuse_format::names::{RESIDENT, SNAPSHOT_SUFFIX};
use elfuse_format::text::{TEXT_DIR, block_start};

use crate::errno::Errno;
use crate::sys::memory::OWN;
use crate::vfs::Mounts;
use crate::vfs::path::{AT_ROOM, PathBuf};

/// How a listing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// `maps`; `smaps`, where lines of details follow each line.
    Maps,
    /// `numa_maps`.
    Numa,
}

impl Listing {
    /// The listing at a path below the root of a procfs, which starts with a slash. `self` and `thread-self` are symlinks, and resolved.
    #[must_use]
    pub fn at(path: &[u8]) -> Option<Self> {
        let slash = path.iter().rposition(|byte| *byte == b'/')?;
        let (directory, name) = path.split_at(slash);
        let listing = match name {
            b"/maps" | b"/smaps" => Self::Maps,
            b"/numa_maps" => Self::Numa,
            _ => return None,
        };
        let mut names = directory.split(|byte| *byte == b'/').skip(1);
        let is_number = |name: &[u8]| !name.is_empty() && name.iter().all(u8::is_ascii_digit);
        let is_process = match (names.next(), names.next(), names.next(), names.next()) {
            (Some(process), None, None, None) => is_number(process),
            (Some(process), Some(b"task"), Some(thread), None) => {
                is_number(process) && is_number(thread)
            }
            _ => false,
        };
        is_process.then_some(listing)
    }
}

/// A block is shorter than this.
const MAX_BLOCK: usize = 2 << 20;

/// What a line says of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// Address behind the last; as `start` in `numa_maps`, which does not tell.
    pub end: usize,
    /// Where in the line it says which file it is: from the device on, which only `numa_maps` does not tell.
    place_at: usize,
    /// Where in the line the name of the file stands; empty: it has none.
    name: (usize, usize),
    /// What stands behind the name of a file that was removed.
    deleted: &'static [u8],
}

/// A hexadecimal number in front of `text`, and what is behind it.
fn number(text: &[u8]) -> Option<(usize, &[u8])> {
    let digit = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let (digits, rest) = text.split_at(text.iter().position(digit)?);
    let digits = core::str::from_utf8(digits).ok()?;
    Some((usize::from_str_radix(digits, 16).ok()?, rest))
}

impl Mapping {
    /// Reads a line, without its end; `None`: it is one of details.
    #[must_use]
    pub fn of(listing: Listing, line: &[u8]) -> Option<Self> {
        let (start, rest) = number(line)?;
        match listing {
            Listing::Maps => {
                let (end, rest) = number(rest.strip_prefix(b"-")?)?;
                // Protection, offset, device, inode, each behind one space, and the name behind many.
                let mut rest = rest.strip_prefix(b" ")?;
                let mut place_at = line.len();
                for number in 0..4 {
                    if number == 2 {
                        place_at = line.len() - rest.len();
                    }
                    let field = rest.iter().position(|byte| *byte == b' ');
                    rest = field.map_or(b"", |field| &rest[field + 1..]);
                }
                let at = line.len() - rest.trim_ascii_start().len();
                Some(Self {
                    start,
                    end,
                    place_at,
                    name: (at, line.len()),
                    deleted: b" (deleted)",
                })
            }
            Listing::Numa => {
                const FILE: &[u8] = b" file=";
                rest.strip_prefix(b" ")?;
                let file = line.windows(FILE.len()).position(|part| part == FILE);
                let name = file.map_or((0, 0), |file| {
                    let at = file + FILE.len();
                    let len = line[at..].iter().position(|byte| *byte == b' ');
                    (at, len.map_or(line.len(), |len| at + len))
                });
                Some(Self {
                    start,
                    end: start,
                    place_at: name.0,
                    name,
                    deleted: b"\\040(deleted)",
                })
            }
        }
    }

    /// Whether it is the runtime's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        OWN.contains(&self.start)
    }

    /// The host's path of the mapped file, and what stands behind it if that was removed; `None`: it is of no file, or of one that lies
    /// in no directory.
    #[must_use]
    pub fn file<'l>(&self, line: &'l [u8]) -> Option<(&'l [u8], &'l [u8])> {
        let name = &line[self.name.0..self.name.1];
        let nowhere: [&[u8]; 2] = [b"/memfd:", b"/SYSV"];
        if !name.starts_with(b"/") || nowhere.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        match name.strip_suffix(self.deleted) {
            Some(path) => Some(name.split_at(path.len())),
            None => Some((name, b"")),
        }
    }
}

impl Mapping {
    /// Passes on a line as that of memory without a file.
    fn without_file(
        &self,
        listing: Listing,
        line: &[u8],
        mut out: impl FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let end = &line[self.name.1..];
        match listing {
            Listing::Maps => {
                // In front of the device: the offset, between spaces.
                let head = line[..self.place_at].trim_ascii_end();
                let space = head.iter().rposition(|byte| *byte == b' ');
                out(&head[..space.map_or(head.len(), |space| space + 1)])?;
                out(b"00000000 00:00 0 ")?;
            }
            Listing::Numa => {
                const FILE: usize = b" file=".len();
                out(&line[..self.name.0.saturating_sub(FILE)])?;
            }
        }
        out(end)
    }
}

/// Whether a host path is that of a patched copy, in whatever store: a directory called as the store's and 64 digits in it. The block of the
/// copy; `None`: it is none.
#[must_use]
pub fn copys_block(path: &[u8]) -> Option<usize> {
    const DIGITS: usize = 64;
    let (dir, name) = path.split_at_checked(path.len().checked_sub(DIGITS)?)?;
    let dir = dir.strip_suffix(b"/")?;
    if dir.rsplit(|byte| *byte == b'/').next() != Some(TEXT_DIR.as_bytes()) {
        return None;
    }
    let mut hash = [0; DIGITS / 2];
    for (byte, pair) in hash.iter_mut().zip(name.as_chunks::<2>().0) {
        let digit = |at: usize| match pair[at] {
            b'A'..=b'F' => None,
            digit => char::from(digit).to_digit(16),
        };
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    usize::try_from(block_start(&hash)).ok()
}

/// Whether a host path is that of a snapshot, in whatever store: a directory called as the store's, and 16 digits in it.
fn is_snapshot(path: &[u8]) -> bool {
    const DIGITS: usize = 16;
    let name = || {
        let rest = path.strip_suffix(SNAPSHOT_SUFFIX.as_bytes())?;
        let (dir, name) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
        let dir = dir.strip_suffix(b"/")?.strip_suffix(RESIDENT.as_bytes())?;
        dir.ends_with(b"/").then_some(name)
    };
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name().is_some_and(|name| name.iter().all(digit))
}

/// The mapping that was read last, if it is of a file.
#[derive(Debug)]
struct Before<'m> {
    /// Where it ends.
    end: usize,
    /// What the guest saw of it from its device, or in `numa_maps` its name, to the end of the name.
    shown: &'m mut [u8],
    len: usize,
}

/// Turns the lines of one listing into the guest's.
#[derive(Debug)]
pub struct Lines<'m> {
    listing: Listing,
    mounts: &'m Mounts<'m>,
    /// What is being read are the details of a mapping of the runtime's.
    is_in_own: bool,
    before: Before<'m>,
}

impl<'m> Lines<'m> {
    /// For one listing from its start. `kept` is to remember a line in.
    #[must_use]
    pub fn new(listing: Listing, mounts: &'m Mounts<'m>, kept: &'m mut [u8]) -> Self {
        Self {
            listing,
            mounts,
            is_in_own: false,
            before: Before {
                end: 0,
                shown: kept,
                len: 0,
            },
        }
    }

    /// Passes on what the guest is to see of a line, which may end in a newline, to `out`: nothing of what is the runtime's, and guest
    /// paths for host paths, where the guest has one. `room` is to work in.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn translate(
        &mut self,
        line: &[u8],
        room: &mut PathBuf<AT_ROOM>,
        mut out: impl FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let mapping = Mapping::of(self.listing, text);
        let Some(mapping) = mapping else {
            return if self.is_in_own { Ok(()) } else { out(line) };
        };
        let file = mapping.file(text);
        let block = file.and_then(|(path, _)| copys_block(path));
        self.is_in_own = mapping.is_own()
            || block.is_some_and(|block| (block..block + MAX_BLOCK).contains(&mapping.start));
        if self.is_in_own {
            return Ok(());
        }
        let joins = match self.listing {
            Listing::Maps => mapping.start == self.before.end,
            Listing::Numa => true,
        };
        if block.is_some() && joins && self.before.len != 0 {
            self.before.end = mapping.end;
            let (at, end) = (mapping.place_at, mapping.name.1);
            out(&line[..at])?;
            out(&self.before.shown[..self.before.len])?;
            return out(&line[end..]);
        }
        self.before.len = 0;
        let Some((path, _)) = file else {
            return out(line);
        };
        if is_snapshot(path) {
            return mapping.without_file(self.listing, line, out);
        }
        let is_guests = self.mounts.to_guest(path, room).is_ok();
        let name = if is_guests { room.as_bytes() } else { path };
        let (at, end) = (mapping.name.0, mapping.name.0 + path.len());
        if block.is_none() {
            self.before
                .keep(mapping.end, &[&line[mapping.place_at..at], name]);
        }
        out(&line[..at])?;
        out(name)?;
        out(&line[end..])
    }
}

impl Before<'_> {
    /// Remembers a line, if it is not too long.
    fn keep(&mut self, end: usize, parts: &[&[u8]]) {
        let mut len = 0;
        for part in parts {
            let Some(room) = self.shown.get_mut(len..len + part.len()) else {
                return;
            };
            room.copy_from_slice(part);
            len += part.len();
        }
        (self.end, self.len) = (end, len);
    }
}
