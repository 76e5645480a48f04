//! The whole of a payload at once, for tools: a run checks what it touches.

use super::find::{Probed, probe};
use super::{
    Block, Elf, Entry, Kind, MALFORMED, MAX_HOST_SPELLING, MAX_TARGET, entry_flags, slot_count,
};
use crate::error::FormatError;

/// How far the tables are used up: what our writer makes has neither gaps nor overlaps, so that reading all of a block costs no
/// more than its length, whoever made it.
#[derive(Default)]
struct Cursor {
    names: u64,
    directories: u32,
    targets: u32,
    elves: u32,
    lists: u32,
    hosts: u32,
    slots: usize,
}

impl Block<'_> {
    /// Checks everything that a reader may rely on: strictly sorted legal names, kinds, ranks, every span, and that each name
    /// is found.
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn check(&self) -> Result<(), FormatError> {
        let archive = self.archive;
        let mut at = Cursor::default();
        let mut previous: &[u8] = b"";
        for entry in self.entries() {
            let name = entry.name().ok_or(MALFORMED)?;
            if !is_legal(name) || name <= previous || entry.check(&mut at).is_none() {
                return Err(MALFORMED);
            }
            previous = name;
            match probe(self, name)? {
                Probed::Slot(found) if found.index == entry.index => at.slots += 1,
                Probed::OutOfReach => {}
                Probed::Slot(_) | Probed::Absent => return Err(MALFORMED),
            }
        }
        let filled = archive.slots.iter().filter(|s| s.to_native() != 0).count();
        let used_up = archive.slots.len() == slot_count(self.len())
            && at.slots == filled
            && at.targets as usize == archive.targets.len()
            && at.elves as usize == archive.elves.len()
            && at.lists as usize == archive.lists.len()
            && at.hosts as usize == archive.hosts.len();
        if used_up { Ok(()) } else { Err(MALFORMED) }
    }
}

fn is_legal(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

fn take(next: &mut u32) -> u32 {
    *next += 1;
    *next - 1
}

impl Entry<'_> {
    fn check(&self, at: &mut Cursor) -> Option<()> {
        let (row, flags) = (self.row, self.row.flags);
        if u64::from(row.name_start.to_native()) != at.names {
            return None;
        }
        at.names += u64::from(row.name_len);
        let kind = self.kind()?;
        let known = match kind {
            Kind::File => entry_flags::ELF | entry_flags::BROKEN_ELF,
            Kind::Directory | Kind::Symlink | Kind::Other => 0,
        };
        let both = entry_flags::ELF | entry_flags::BROKEN_ELF;
        if flags & !(known | entry_flags::HOST_SPELLING) != 0 || flags & both == both {
            return None;
        }
        let extra = match kind {
            Kind::Directory => take(&mut at.directories),
            Kind::Symlink => {
                self.target().filter(|text| text.len() <= MAX_TARGET)?;
                take(&mut at.targets)
            }
            Kind::File if flags & entry_flags::ELF != 0 => {
                self.elf()?.check(self.index, at)?;
                take(&mut at.elves)
            }
            Kind::File | Kind::Other => 0,
        };
        if flags & entry_flags::HOST_SPELLING != 0 {
            self.host_spelling()
                .filter(|spelling| spelling.len() <= MAX_HOST_SPELLING)?;
            take(&mut at.hosts);
        }
        (row.extra.to_native() == extra).then_some(())
    }
}

impl Elf<'_> {
    fn check(&self, entry: u32, at: &mut Cursor) -> Option<()> {
        let row = self.row;
        for list in [&row.needed, &row.filters] {
            if list.start.to_native() != at.lists {
                return None;
            }
            at.lists = at.lists.checked_add(list.len.to_native())?;
        }
        self.strings_len()?;
        (row.entry.to_native() == entry).then_some(())
    }
}
