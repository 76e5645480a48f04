//! The index's own names: left out of listings, and never in the way of removing a directory.

use elfuse_format::names::is_reserved;

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

    /// Moves the entries together, leaving out those that `hide` says: how many bytes are left.
    pub fn retain(self, entries: &mut [u8], hide: impl Fn(&[u8]) -> bool) -> usize {
        let (mut from, mut to) = (0, 0);
        while let Some((len, name)) = self.entry(entries, from) {
            if !hide(name) {
                entries.copy_within(from..from + len, to);
                to += len;
            }
            from += len;
        }
        to
    }
}

/// Removes the index's files from a directory that holds nothing else: whether there was one and nothing else.
#[must_use]
pub fn clear(call: &Call<'_>, at: &At<'_>) -> bool {
    let (Some(host), Base::Sysroot) = (at.host, at.base) else {
        return false;
    };
    let flags = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    let Ok(dir) = openat(at.dir, host, flags, 0) else {
        return false;
    };
    let cleared = clear_open(call, dir);
    close(dir);
    cleared == Ok(true)
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
            let args = [fd, list.as_mut_ptr().addr(), list.len(), 0, 0, 0];
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
                            let args = [fd, name.as_ptr().addr(), 0, 0, 0, 0];
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

    fn listing(layout: Layout, names: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in names {
            let len = (layout.name + name.len() + 2).next_multiple_of(8);
            let start = bytes.len();
            bytes.resize(start + len, 0);
            bytes[start + 16..start + 18].copy_from_slice(&(len as u16).to_ne_bytes());
            let at = start + layout.name;
            bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
        bytes
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
                let left = layout.retain(&mut bytes, |name| name == b"x");
                assert_eq!(bytes[..left], listing(layout, &["a", "b"]));
            }
            let mut bytes = listing(layout, &["x", "x"]);
            assert_eq!(layout.retain(&mut bytes, |_| true), 0);
        }
    }
}
