//! Making a payload.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use rkyv::rancor::Failure;

use super::{
    EntryRow, HostRow, Kind, MAX_HOST_SPELLING, MAX_TARGET, PROBES, Sidecar, entry_flags,
    slot_count,
};
use crate::elf_facts::{ElfFacts, ElfRow, MAX_STRINGS};
use crate::error::FormatError;
use crate::names;
use crate::span::Span;

/// What a new entry stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file without facts.
    File,
    /// An ELF file.
    Elf(Arc<ElfFacts>),
    /// A file that starts as ELF and is malformed.
    BrokenElf,
    /// A directory.
    Directory,
    /// A symlink and its text.
    Symlink(Vec<u8>),
    /// A socket, FIFO or device node.
    Other,
}

impl Content {
    /// The kind of entry.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::File | Self::Elf(_) | Self::BrokenElf => Kind::File,
            Self::Directory => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::Other => Kind::Other,
        }
    }
}

/// One entry to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// The guest's name.
    pub name: Vec<u8>,
    /// What it is.
    pub content: Content,
    /// The name on the host where it differs.
    pub host_spelling: Option<Vec<u8>>,
}

#[derive(Default)]
struct Strings {
    blob: Vec<u8>,
    known: BTreeMap<Vec<u8>, Span>,
}

const TOO_LARGE: FormatError = FormatError::TooLarge {
    what: "the directory",
};

impl Strings {
    fn append(&mut self, bytes: &[u8]) -> Result<Span, FormatError> {
        let start = u32::try_from(self.blob.len()).map_err(|_| TOO_LARGE)?;
        let len = u32::try_from(bytes.len()).map_err(|_| TOO_LARGE)?;
        self.blob.extend_from_slice(bytes);
        Ok(Span { start, len })
    }

    fn add(&mut self, bytes: &[u8]) -> Result<Span, FormatError> {
        if let Some(span) = self.known.get(bytes) {
            return Ok(*span);
        }
        let span = self.append(bytes)?;
        self.known.insert(bytes.to_vec(), span);
        Ok(span)
    }

    fn optional(&mut self, bytes: Option<&[u8]>) -> Result<Span, FormatError> {
        bytes.map_or(Ok(Span::ABSENT), |b| self.add(b))
    }

    fn list(&mut self, items: &[Vec<u8>], lists: &mut Vec<Span>) -> Result<Span, FormatError> {
        let start = u32::try_from(lists.len()).map_err(|_| TOO_LARGE)?;
        for item in items {
            lists.push(self.add(item)?);
        }
        let len = u32::try_from(items.len()).map_err(|_| TOO_LARGE)?;
        Ok(Span { start, len })
    }
}

/// What the strings of one file are counted as: see [`MAX_STRINGS`].
fn strings_of(facts: &ElfFacts) -> usize {
    let single = [
        &facts.interpreter,
        &facts.soname,
        &facts.rpath,
        &facts.runpath,
        &facts.build_id,
    ];
    let lists = facts.needed.iter().chain(&facts.filters);
    let all = single.into_iter().flatten().chain(lists);
    all.map(|string| string.len() + 1).sum()
}

fn elf_row(
    entry: u32,
    facts: &ElfFacts,
    strings: &mut Strings,
    lists: &mut Vec<Span>,
) -> Result<ElfRow, FormatError> {
    Ok(ElfRow {
        entry,
        size: facts.size,
        content_hash: facts.content_hash,
        class: facts.class,
        data: facts.data,
        os_abi: facts.os_abi,
        abi_version: facts.abi_version,
        elf_type: facts.elf_type,
        machine: facts.machine,
        e_flags: facts.e_flags,
        flags: facts.flags,
        dt_flags_1: facts.dt_flags_1,
        x86_isa_needed: facts.x86_isa_needed,
        interpreter: strings.optional(facts.interpreter.as_deref())?,
        soname: strings.optional(facts.soname.as_deref())?,
        rpath: strings.optional(facts.rpath.as_deref())?,
        runpath: strings.optional(facts.runpath.as_deref())?,
        build_id: strings.optional(facts.build_id.as_deref())?,
        needed: strings.list(&facts.needed, lists)?,
        filters: strings.list(&facts.filters, lists)?,
        sites: Span::ABSENT,
    })
}

fn slots(entries: &[NewEntry]) -> Vec<u32> {
    let mut slots = vec![0_u32; slot_count(entries.len())];
    let mask = slots.len().wrapping_sub(1);
    for (index, entry) in entries.iter().enumerate() {
        let hash = names::hash(&entry.name);
        let mut places =
            (0..PROBES.min(slots.len())).map(|i| (hash as usize).wrapping_add(i) & mask);
        // A name for which there is no room within reach is left to the search.
        if let Some(free) = places.find(|&at| slots[at] == 0) {
            let number = u32::try_from(index + 1).expect("at most MAX_ENTRIES names");
            slots[free] = ((hash >> 56) as u32) << 24 | number;
        }
    }
    slots
}

/// The payload for a directory that holds `entries`, in whatever order they come.
///
/// # Errors
/// [`FormatError::TooLarge`]: over [`names::MAX_ENTRIES`] names, 4 GiB of strings, a name over 255 bytes, a symlink's text over
/// [`MAX_TARGET`], facts with over [`MAX_STRINGS`] of strings.
pub fn encode(mut entries: Vec<NewEntry>) -> Result<Vec<u8>, FormatError> {
    if entries.len() > names::MAX_ENTRIES {
        return Err(TOO_LARGE);
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut strings = Strings::default();
    let starts = entries.iter().map(|entry| strings.append(&entry.name));
    let starts = starts.collect::<Result<Vec<_>, _>>()?;
    let (mut rows, mut targets) = (Vec::with_capacity(entries.len()), Vec::new());
    let (mut elves, mut lists, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
    let mut directories = 0;
    for (number, (entry, name)) in (0_u32..).zip(entries.iter().zip(starts)) {
        let mut flags = 0;
        let extra = match &entry.content {
            Content::File | Content::Other => 0,
            Content::BrokenElf => {
                flags |= entry_flags::BROKEN_ELF;
                0
            }
            Content::Elf(facts) if strings_of(facts) > MAX_STRINGS => return Err(TOO_LARGE),
            Content::Elf(facts) => {
                flags |= entry_flags::ELF;
                elves.push(elf_row(number, facts, &mut strings, &mut lists)?);
                elves.len() - 1
            }
            Content::Directory => {
                directories += 1;
                directories - 1
            }
            Content::Symlink(target) if target.len() > MAX_TARGET => return Err(TOO_LARGE),
            Content::Symlink(target) => {
                targets.push(strings.add(target)?);
                targets.len() - 1
            }
        };
        if let Some(spelling) = &entry.host_spelling {
            if spelling.len() > MAX_HOST_SPELLING {
                return Err(TOO_LARGE);
            }
            flags |= entry_flags::HOST_SPELLING;
            let spelling = strings.add(spelling)?;
            hosts.push(HostRow {
                entry: number,
                spelling,
            });
        }
        rows.push(EntryRow {
            name_start: name.start,
            extra: u32::try_from(extra).map_err(|_| TOO_LARGE)?,
            name_len: u8::try_from(name.len).map_err(|_| TOO_LARGE)?,
            kind: entry.content.kind() as u8,
            flags,
        });
    }
    let sidecar = Sidecar {
        strings: &strings.blob,
        entries: &rows,
        slots: &slots(&entries),
        targets: &targets,
        elves: &elves,
        lists: &lists,
        hosts: &hosts,
    };
    rkyv::to_bytes::<Failure>(&sidecar)
        .map(|bytes| bytes.into_vec())
        .map_err(|_| TOO_LARGE)
}
