//! The index's own names: left out of listings, and never in the way of removing a directory.

use core::ffi::CStr;

use elfuse_format::names::{SIDECAR, is_reserved};

use super::call::{At, Call};
use crate::errno::Errno;
use crate::sys::abi::{O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW};
use crate::sys::host::{Fd, close, openat};
use crate::sys::nr;
use crate::vfs::Base;

/// Layout of a directory entry as getdents64(2) or getdents(2) writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Where the name starts. The entry's length stands at 16, two bytes.
    pub name: usize,
}

impl Layout {
    /// `struct linux_dirent64`.
    pub const NEW: Self = Self { name: 19 };
    /// `struct linux_dirent`.
    pub const OLD: Self = Self { name: 18 };

    /// The entry that starts at `at`: its length and its name.
    #[must_use]
    pub fn entry(self, entries: &[u8], at: usize) -> Option<(usize, &[u8])> {
        let len = entries.get(at + 16..at + 18)?;
        let len = usize::from(u16::from_ne_bytes([len[0], len[1]]));
        let name = entries.get(at + self.name..at + len)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        Some((len, &name[..end]))
    }

    /// Where the kernel goes on behind the entry at `at`: what lseek(2) takes.
    fn next(self, entries: &[u8], at: usize) -> Option<usize> {
        let next = entries.get(at + 8..at + 16)?;
        Some(u64::from_ne_bytes(next.try_into().ok()?) as usize)
    }

    /// Hands the entries on, each with where it stands, for as long as `write` takes them: how many bytes of them it took. If it did not take
    /// one, also where the kernel is to go on: at that entry; `None`: where the list stood before.
    pub fn hand_on(
        self,
        entries: &[u8],
        mut write: impl FnMut(usize, &[u8]) -> bool,
    ) -> (usize, Option<usize>) {
        let (mut at, mut resume) = (0, None);
        while let Some((len, name)) = self.entry(entries, at) {
            // What fills an entry up is not the kernel's to write; that of the old layout ends in the kind.
            let used = match self {
                Self::NEW => self.name + name.len() + 1,
                _ => len,
            };
            if !write(at, &entries[at..at + used]) {
                break;
            }
            resume = self.next(entries, at);
            at += len;
        }
        (at, resume)
    }

    /// Moves together the entries that `hide` does not say, as many as `room` bytes hold: how many bytes they are. If one did not fit, also
    /// where the kernel is to go on: at that entry. `before`: where the list stood.
    pub fn fit(
        self,
        entries: &mut [u8],
        room: usize,
        before: usize,
        hide: impl Fn(&[u8]) -> bool,
    ) -> (usize, Option<usize>) {
        let (mut from, mut to, mut resume) = (0, 0, before);
        while let Some((len, name)) = self.entry(entries, from) {
            let hidden = hide(name);
            if !hidden && to + len > room {
                return (to, Some(resume));
            }
            resume = self.next(entries, from).unwrap_or(resume);
            if !hidden {
                entries.copy_within(from..from + len, to);
                to += len;
            }
            from += len;
        }
        (to, None)
    }
}

/// Removes the index's files from a directory that holds nothing else: whether there was one and nothing else.
#[must_use]
pub fn clear(call: &Call<'_>, at: &At<'_>) -> bool {
    let (Some(host), Base::Sysroot) = (at.host, at.base) else {
        return false;
    };
    let flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    let dir = match openat(at.dir, host, flags, 0) {
        Ok(dir) => dir,
        Err(Errno::EMFILE | Errno::ENFILE) => return clear_blindly(call, at, host),
        Err(_) => return false,
    };
    let cleared = clear_open(call, dir);
    close(dir);
    cleared == Ok(true)
}

/// Without a descriptor the directory cannot be looked through: its sidecar is removed, whatever else is there. At worst an index is gone
/// that would have been believed.
fn clear_blindly(call: &Call<'_>, at: &At<'_>, host: &CStr) -> bool {
    let run = || {
        let mut taken = call.area()?;
        let path = &mut taken.work().scratch;
        let host = host.to_bytes();
        let len = host.len() + 1 + SIDECAR.len();
        let room = path.get_mut(..=len).ok_or(Errno::ENAMETOOLONG)?;
        room[..host.len()].copy_from_slice(host);
        room[host.len()] = b'/';
        room[host.len() + 1..len].copy_from_slice(SIDECAR);
        room[len] = 0;
        let args = [at.dir(), room.as_ptr().expose_provenance(), 0, 0, 0, 0];
        call.host(nr::UNLINKAT, args).result()
    };
    run().is_ok()
}

fn clear_open(call: &Call<'_>, dir: Fd) -> Result<bool, Errno> {
    let mut taken = call.area()?;
    let list = &mut taken.work().scratch;
    let fd = dir.0 as usize;
    // Looked through before anything is removed: a directory with one other name keeps its index.
    for remove in [false, true] {
        let mut found = false;
        call.host(nr::LSEEK, [fd, 0, 0, 0, 0, 0]).result()?;
        loop {
            let args = [
                fd,
                list.as_mut_ptr().expose_provenance(),
                list.len(),
                0,
                0,
                0,
            ];
            let len = call.host(nr::GETDENTS64, args).result()?;
            if len == 0 {
                break;
            }
            let mut at = 0;
            while let Some((entry, name)) = Layout::NEW.entry(&list[..len], at) {
                at += entry;
                match name {
                    b"." | b".." => {}
                    name if is_reserved(name, false) => {
                        found = true;
                        if remove {
                            // The name ends in a NUL within the entry.
                            let args = [fd, name.as_ptr().expose_provenance(), 0, 0, 0, 0];
                            call.host(nr::UNLINKAT, args).result()?;
                        }
                    }
                    _ => return Ok(false),
                }
            }
        }
        if !found {
            return Ok(remove);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::Layout;

    /// The entries of a directory that holds `names`, but for those that are `left_out`. Each says as the next one's place how many
    /// names there are up to its own.
    fn listing_without(layout: Layout, names: &[&str], left_out: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, next) in names.iter().zip(1_u64..) {
            if *name == left_out {
                continue;
            }
            let len = (layout.name + name.len() + 2).next_multiple_of(8);
            let start = bytes.len();
            bytes.resize(start + len, 0);
            bytes[start + 8..start + 16].copy_from_slice(&next.to_ne_bytes());
            bytes[start + 16..start + 18].copy_from_slice(&(len as u16).to_ne_bytes());
            let at = start + layout.name;
            bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        bytes
    }

    fn listing(layout: Layout, names: &[&str]) -> Vec<u8> {
        listing_without(layout, names, "")
    }

    #[test]
    fn what_is_left_of_a_listing_is_what_was_not_hidden_wherever_that_stood() {
        for layout in [Layout::NEW, Layout::OLD] {
            for names in [
                &["x", "a", "b"][..],
                &["a", "x", "b"],
                &["a", "b", "x"],
                &["x", "a", "x", "b"],
            ] {
                let mut bytes = listing(layout, names);
                let (left, next) = layout.fit(&mut bytes, 4096, 0, |name| name == b"x");
                assert_eq!(bytes[..left], listing_without(layout, names, "x"));
                assert_eq!(next, None);
            }
            let mut bytes = listing(layout, &["x", "x"]);
            assert_eq!(layout.fit(&mut bytes, 4096, 0, |_| true), (0, None));
        }
    }

    #[test]
    fn entries_are_handed_on_up_to_the_first_that_is_not_taken() {
        for layout in [Layout::NEW, Layout::OLD] {
            let bytes = listing(layout, &["a", "b", "c"]);
            let one = listing(layout, &["a"]).len();
            let filling = if layout == Layout::NEW { one - 21 } else { 0 };
            let up_to = |room: usize| {
                let taken = |at: usize, entry: &[u8]| at + entry.len() <= room;
                layout.hand_on(&bytes, taken)
            };
            assert_eq!(up_to(one - filling - 1), (0, None));
            assert_eq!(up_to(one - filling), (one, Some(1)));
            assert_eq!(up_to(3 * one - filling - 1), (2 * one, Some(2)));
        }
    }

    #[test]
    fn what_does_not_fit_is_where_the_kernel_goes_on() {
        for layout in [Layout::NEW, Layout::OLD] {
            let mut bytes = listing(layout, &["x", "a", "b"]);
            let one = listing(layout, &["a"]).len();
            let (left, next) = layout.fit(&mut bytes, one, 0, |name| name == b"x");
            assert_eq!((left, next), (one, Some(2)));
        }
    }
}
