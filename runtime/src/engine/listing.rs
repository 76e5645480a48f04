//! The listings of a process's mappings that procfs has (`maps`, `smaps`, `numa_maps`; proc(5)), line by line: what the guest is to see
//! of each. Pure: nothing here makes a system call.

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

/// What a line says of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: usize,
    /// Address behind the last; as `start` in `numa_maps`, which does not tell.
    pub end: usize,
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
                for _ in 0..4 {
                    let field = rest.iter().position(|byte| *byte == b' ');
                    rest = field.map_or(b"", |field| &rest[field + 1..]);
                }
                let at = line.len() - rest.trim_ascii_start().len();
                Some(Self {
                    start,
                    end,
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

/// Turns the lines of one listing into the guest's.
#[derive(Debug)]
pub struct Lines<'m> {
    listing: Listing,
    mounts: &'m Mounts<'m>,
    /// What is being read are the details of a mapping of the runtime's.
    is_in_own: bool,
}

impl<'m> Lines<'m> {
    /// For one listing from its start.
    #[must_use]
    pub fn new(listing: Listing, mounts: &'m Mounts<'m>) -> Self {
        Self {
            listing,
            mounts,
            is_in_own: false,
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
        if let Some(mapping) = &mapping {
            self.is_in_own = mapping.is_own();
        }
        if self.is_in_own {
            return Ok(());
        }
        if let Some(mapping) = mapping
            && let Some((path, _)) = mapping.file(text)
            && self.mounts.to_guest(path, room).is_ok()
        {
            let at = mapping.name.0;
            out(&line[..at])?;
            out(room.as_bytes())?;
            return out(&line[at + path.len()..]);
        }
        out(line)
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
        let mut lines = Lines::new(listing, &mounts);
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
