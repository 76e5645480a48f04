//! The listings of a process's mappings that procfs has (`maps`, `smaps`, `numa_maps`; proc(5)), line by line: what the guest is to see
//! of each. Pure: nothing here makes a system call.
//!
//! Text that is mapped from a patched copy is shown as the file that it stands in for, by the name of the mapping that it joins: a copy is never
//! all of a file. Its block at a low address is the runtime's, and left out. Pages of a snapshot are memory without a file: they are what the
//! dynamic linker had written to.

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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::String;

    use super::{Lines, Listing, Mapping};
    use crate::vfs::path::PathBuf;
    use crate::vfs::{Mount, Mounts};

    fn translated(listing: Listing, text: &str) -> String {
        let mut mounts = Mounts::new(b"/srv/root").unwrap();
        let mount = Mount {
            guest: b"/data",
            host: b"/mnt/data",
            procfs: false,
        };
        mounts.add(mount).unwrap();
        let mut kept = [0; 200];
        let mut lines = Lines::new(listing, &mounts, &mut kept);
        let mut seen = String::new();
        for line in text.split_inclusive('\n') {
            let out = |part: &[u8]| {
                seen.push_str(core::str::from_utf8(part).unwrap());
                Ok(())
            };
            lines
                .translate(line.as_bytes(), &mut PathBuf::new(), out)
                .unwrap();
        }
        seen
    }

    #[test]
    fn listings_are_known_by_their_place_below_a_procfs() {
        for path in ["/1/maps", "/23/smaps", "/23/task/24/maps"] {
            assert_eq!(Listing::at(path.as_bytes()), Some(Listing::Maps), "{path}");
        }
        assert_eq!(Listing::at(b"/23/numa_maps"), Some(Listing::Numa));
        for path in [
            "/maps",
            "/self/maps",
            "/1/fd/maps",
            "/1/smaps_rollup",
            "/1/task/maps",
            "/1/task/2/3/maps",
            "/sys/maps",
            "//maps",
            "maps",
            "",
        ] {
            assert_eq!(Listing::at(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn host_paths_become_guest_paths_and_the_runtimes_lines_are_left_out() {
        let host = "\
555555554000-555555555000 r--p 00000000 08:01 12                         /srv/root/usr/bin/a b
555555555000-555555556000 rw-p 00000000 00:00 0                          [heap]
6f0000000000-6f0000010000 r-xp 00000000 08:01 13                         /srv/elfuse
6f0080000000-6f0080001000 rw-p 00000000 00:00 0 
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000001000-7f0000002000 r--s 00001000 00:1f 7                          /mnt/data/x (deleted)
7f0000002000-7f0000003000 rw-s 00000000 00:01 8                          /memfd:/srv/root/y (deleted)
7f0000003000-7f0000004000 r--p 00000000 08:01 9                          /etc/passwd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
        let guest = "\
555555554000-555555555000 r--p 00000000 08:01 12                         /usr/bin/a b
555555555000-555555556000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000001000-7f0000002000 r--s 00001000 00:1f 7                          /data/x (deleted)
7f0000002000-7f0000003000 rw-s 00000000 00:01 8                          /memfd:/srv/root/y (deleted)
7f0000003000-7f0000004000 r--p 00000000 08:01 9                          /etc/passwd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
        assert_eq!(translated(Listing::Maps, host), guest);
    }

    #[test]
    fn copies_are_shown_as_the_files_they_stand_in_for_and_their_blocks_not_at_all() {
        let copy = "/srv/root/.elfuse/text/0100000000000000abababababababababababababababababababababababab";
        let host = std::format!(
            "\
10010000-10011000 rw-p 00005000 08:01 77                         {copy}
10011000-10012000 r-xp 00006000 08:01 77                         {copy}
Size:                  4 kB
7f0000000000-7f0000001000 r--p 00000000 08:01 12                         /srv/root/lib/libc.so.6
Size:                  4 kB
7f0000001000-7f0000002000 r-xp 00001000 08:01 77                         {copy}
Size:                  4 kB
7f0000002000-7f0000003000 rw-p 00002000 08:01 12                         /srv/root/lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
7f0000004000-7f0000005000 r-xp 00001000 08:01 77                         {copy} (deleted)
"
        );
        let guest = "\
7f0000000000-7f0000001000 r--p 00000000 08:01 12                         /lib/libc.so.6
Size:                  4 kB
7f0000001000-7f0000002000 r-xp 00001000 08:01 12                         /lib/libc.so.6
Size:                  4 kB
7f0000002000-7f0000003000 rw-p 00002000 08:01 12                         /lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
7f0000004000-7f0000005000 r-xp 00001000 08:01 77                         /.elfuse/text/0100000000000000abababababababababababababababababababababababab (deleted)
";
        assert_eq!(translated(Listing::Maps, &host), guest);
        let host = std::format!(
            "\
10010000 default file={copy} mapped=1
7f0000000000 default file=/srv/root/lib/libc.so.6 mapped=4
7f0000001000 default file={copy} mapped=9
"
        );
        let guest = "\
7f0000000000 default file=/lib/libc.so.6 mapped=4
7f0000001000 default file=/lib/libc.so.6 mapped=9
";
        assert_eq!(translated(Listing::Numa, &host), guest);
    }

    #[test]
    fn pages_of_a_snapshot_are_shown_as_memory_without_a_file() {
        let snapshot = "/srv/root/.elfuse/resident/0123456789abcdef.snap";
        let host = std::format!(
            "\
7f0000002000-7f0000003000 r--p 00002000 08:01 12                         /srv/root/lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00009000 08:01 77                         {snapshot}
Size:                  4 kB
7f0000004000-7f0000005000 rw-p 10000000000 08:01 77                      /elsewhere/resident/0123456789abcdef.snap (deleted)
7f0000005000-7f0000006000 rw-p 00009000 08:01 77                         /elsewhere/0123456789abcdef.snap
"
        );
        let guest = "\
7f0000002000-7f0000003000 r--p 00002000 08:01 12                         /lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
Size:                  4 kB
7f0000004000-7f0000005000 rw-p 00000000 00:00 0 
7f0000005000-7f0000006000 rw-p 00009000 08:01 77                         /elsewhere/0123456789abcdef.snap
";
        assert_eq!(translated(Listing::Maps, &host), guest);
        let host = std::format!("7f0000003000 default file={snapshot} anon=1 dirty=1\n");
        let guest = "7f0000003000 default anon=1 dirty=1\n";
        assert_eq!(translated(Listing::Numa, &host), guest);
        for path in [
            "/resident/0123456789abcde.snap",
            "/resident/0123456789ABCDEF.snap",
            "/x/aresident/0123456789abcdef.snap",
            "resident/0123456789abcdef.snap",
            "/resident/0123456789abcdef.count",
            ".snap",
        ] {
            assert!(!super::is_snapshot(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_copy_is_known_by_its_directory_and_its_digits() {
        let digits = "0100000000000000abababababababababababababababababababababababab";
        let block = |path: &str| super::copys_block(path.as_bytes());
        assert_eq!(block(&std::format!("/x/text/{digits}")), Some(0x1001_0000));
        for path in [
            std::format!("/x/texts/{digits}"),
            std::format!("/x/text{digits}"),
            std::format!("/x/text/0{digits}"),
            std::format!("/x/text/{}", &digits[1..]),
            std::format!("/x/text/{}", digits.to_uppercase()),
            digits.into(),
            String::new(),
        ] {
            assert_eq!(block(&path), None, "{path}");
        }
    }

    #[test]
    fn details_go_where_their_mapping_goes() {
        let host = "\
6f0000000000-6f0000010000 r-xp 00000000 08:01 13                         /srv/elfuse
Size:                 64 kB
VmFlags: rd ex 
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
Size:                  4 kB
Anonymous:             4 kB
";
        let guest = "\
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
Size:                  4 kB
Anonymous:             4 kB
";
        assert_eq!(translated(Listing::Maps, host), guest);
    }

    #[test]
    fn policies_are_shown_with_the_guests_paths() {
        let host = "\
555555554000 default file=/srv/root/usr/bin/env mapped=4 N0=4 kernelpagesize_kB=4
6f0000000000 default file=/srv/elfuse anon=1 N0=1 kernelpagesize_kB=4
7f0000000000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7f0000001000 default file=/mnt/data/x\\040(deleted)
7ffffffde000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
";
        let guest = "\
555555554000 default file=/usr/bin/env mapped=4 N0=4 kernelpagesize_kB=4
7f0000000000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7f0000001000 default file=/data/x\\040(deleted)
7ffffffde000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
";
        assert_eq!(translated(Listing::Numa, host), guest);
    }

    #[test]
    fn lines_of_another_form_are_passed_on_as_they_are() {
        for text in ["", "\n", "abc", "12-", "12-34", "Rss: 3 kB\n", "g-h r--p\n"] {
            assert_eq!(translated(Listing::Maps, text), text);
            assert_eq!(translated(Listing::Numa, text), text);
        }
        let cut = b"12-34 r--p 0 0 0";
        assert_eq!(Mapping::of(Listing::Maps, cut).unwrap().file(cut), None);
    }
}
