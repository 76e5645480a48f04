//! `.elfuse-sidecar-index`: what one directory holds. The same payload stands as a *block* in the loader cache, so that
//! both are read by [`Block`] and share one checksum.
//!
//! Names are sorted bytewise; a slot table finds one without searching. The bytes are a function of the directory's
//! content alone: no times, no inode numbers, no path.

use rkyv::rancor::Failure;
use rkyv::with::InlineAsBox;
use rkyv::{Archive, Serialize};

use crate::elf_facts::{ArchivedElfRow, ElfRow};
use crate::error::FormatError;
use crate::header::{File, Kind as FileKind};
use crate::names;
use crate::span::{ArchivedSpan, Span};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A socket, FIFO or device node.
    Other = 4,
}

impl Kind {
    /// The kind a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::File),
            2 => Some(Self::Directory),
            3 => Some(Self::Symlink),
            4 => Some(Self::Other),
            _ => None,
        }
    }
}

/// Bits of [`EntryRow::flags`].
pub mod entry_flags {
    /// A file with facts; [`super::EntryRow::extra`] is the number of its row.
    pub const ELF: u8 = 1 << 0;
    /// A file that starts as ELF and is malformed.
    pub const BROKEN_ELF: u8 = 1 << 1;
    /// The name on the host is another: see [`super::Sidecar::hosts`].
    pub const HOST_SPELLING: u8 = 1 << 2;
}

/// One name.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct EntryRow {
    /// Where the name starts in [`Sidecar::strings`].
    pub name_start: u32,
    /// Number of the ELF row, of the symlink's target, or, of a directory, its rank among the directories here. Else 0.
    pub extra: u32,
    /// Length of the name in bytes, 1 to 255.
    pub name_len: u8,
    /// See [`Kind`].
    pub kind: u8,
    /// See [`entry_flags`].
    pub flags: u8,
}

/// A name whose spelling on the host differs (case-folding volumes).
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct HostRow {
    /// Number of the entry.
    pub entry: u32,
    /// The spelling, in [`Sidecar::strings`].
    pub spelling: Span,
}

/// The payload as it is written: tables over one blob of strings.
#[derive(Archive, Serialize, Debug, Clone, Copy)]
pub struct Sidecar<'a> {
    /// Names in order, then every other string, each once.
    #[rkyv(with = InlineAsBox)]
    pub strings: &'a [u8],
    /// Sorted by name.
    #[rkyv(with = InlineAsBox)]
    pub entries: &'a [EntryRow],
    /// Open-addressed table of 2^k >= 2n slots (none for an empty directory), probed linearly from the low bits of
    /// [`names::hash`]. A slot is 0 (free) or `tag << 24 | entry + 1`, the tag being the hash's top eight bits.
    #[rkyv(with = InlineAsBox)]
    pub slots: &'a [u32],
    /// Symlink targets.
    #[rkyv(with = InlineAsBox)]
    pub targets: &'a [Span],
    /// Facts, sorted by entry.
    #[rkyv(with = InlineAsBox)]
    pub elves: &'a [ElfRow],
    /// The lists that the ELF rows name.
    #[rkyv(with = InlineAsBox)]
    pub lists: &'a [Span],
    /// Sorted by entry.
    #[rkyv(with = InlineAsBox)]
    pub hosts: &'a [HostRow],
}

/// A checked view of a payload.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    archive: &'a ArchivedSidecar<'a>,
}

impl core::fmt::Debug for Block<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Block")
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

/// One name of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    block: Block<'a>,
    row: &'a ArchivedEntryRow,
    /// Its number in the block.
    pub index: u32,
}

/// Facts of one file of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub struct Elf<'a> {
    block: Block<'a>,
    /// The row.
    pub row: &'a ArchivedElfRow,
}

const MALFORMED: FormatError = FormatError::Malformed {
    what: "directory block",
};

/// The payload of a whole sidecar file.
///
/// # Errors
/// Those of [`File::parse`].
pub fn payload(file: &[u8]) -> Result<&[u8], FormatError> {
    Ok(File::parse(file, FileKind::Sidecar)?.payload())
}

impl<'a> Block<'a> {
    /// A view of a payload whose checksum was compared by the caller. Only the tables' bounds are checked here; rows are
    /// checked when they are touched, or all at once by [`Block::check`].
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn parse(payload: &'a [u8]) -> Result<Self, FormatError> {
        let archive = rkyv::api::low::access::<ArchivedSidecar<'a>, Failure>(payload)
            .map_err(|_| MALFORMED)?;
        Ok(Self { archive })
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.archive.entries.len()
    }

    /// Whether the directory is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many ELF files have facts here.
    #[must_use]
    pub fn elf_count(&self) -> usize {
        self.archive.elves.len()
    }

    /// Entry number `index` in name order.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Entry<'a>> {
        Some(Entry {
            block: *self,
            row: self.archive.entries.get().get(index)?,
            index: u32::try_from(index).ok()?,
        })
    }

    /// All entries in name order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let block = *self;
        (0..self.len()).filter_map(move |i| block.entry(i))
    }

    /// Facts row number `index`.
    #[must_use]
    pub fn elf(&self, index: usize) -> Option<Elf<'a>> {
        let row = self.archive.elves.get().get(index)?;
        Some(Elf { block: *self, row })
    }

    /// The entry called `name`, `None` if the directory has none.
    ///
    /// # Errors
    /// [`FormatError::Malformed`] where slots or names lie: then neither answer may be given.
    pub fn find(&self, name: &[u8]) -> Result<Option<Entry<'a>>, FormatError> {
        let slots = self.archive.slots.get();
        if slots.is_empty() {
            return if self.is_empty() {
                Ok(None)
            } else {
                Err(MALFORMED)
            };
        }
        if !slots.len().is_power_of_two() {
            return Err(MALFORMED);
        }
        let hash = names::hash(name);
        let (mask, tag) = (slots.len() - 1, (hash >> 56) as u32);
        let mut at = hash as usize & mask;
        for _ in 0..slots.len() {
            let slot = slots.get(at).ok_or(MALFORMED)?.to_native();
            if slot == 0 {
                return Ok(None);
            }
            if slot >> 24 == tag {
                let index = (slot & 0x00ff_ffff).checked_sub(1).ok_or(MALFORMED)?;
                let entry = self.entry(index as usize).ok_or(MALFORMED)?;
                if entry.name().ok_or(MALFORMED)? == name {
                    return Ok(Some(entry));
                }
            }
            at = (at + 1) & mask;
        }
        // No free slot in the whole table: it was not made by our writer.
        Err(MALFORMED)
    }

    fn string(&self, span: &ArchivedSpan) -> Option<&'a [u8]> {
        span.of(self.archive.strings.get())
    }

    /// Checks everything a reader may rely on: strictly sorted legal names, kinds, ranks, every span, and that each name is
    /// found through the slots. For tools; a run checks what it touches.
    ///
    /// # Errors
    /// [`FormatError::Malformed`].
    pub fn check(&self) -> Result<(), FormatError> {
        let archive = self.archive;
        let mut previous: &[u8] = b"";
        let mut used = 0;
        let (mut dirs, mut links, mut elves) = (0, 0, 0);
        for entry in self.entries() {
            let name = entry.name().ok_or(MALFORMED)?;
            let legal = !name.is_empty() && !name.contains(&b'/') && !name.contains(&0);
            if !legal || name == b"." || name == b".." || name <= previous {
                return Err(MALFORMED);
            }
            previous = name;
            let kind = entry.kind().ok_or(MALFORMED)?;
            let counter = match kind {
                Kind::Directory => Some(&mut dirs),
                Kind::Symlink => Some(&mut links),
                Kind::File if entry.row.flags & entry_flags::ELF != 0 => Some(&mut elves),
                Kind::File | Kind::Other => None,
            };
            let expected_extra = counter.map_or(0, |next: &mut u32| {
                *next += 1;
                *next - 1
            });
            let facts_agree = match entry.elf() {
                Some(elf) => elf.row.entry.to_native() == entry.index && elf.check().is_some(),
                None => entry.row.flags & entry_flags::ELF == 0,
            };
            let target_ok = kind != Kind::Symlink || entry.target().is_some();
            let host_ok = entry.row.flags & entry_flags::HOST_SPELLING == 0
                || entry.host_spelling().is_some();
            if entry.row.extra.to_native() != expected_extra
                || !facts_agree
                || !target_ok
                || !host_ok
            {
                return Err(MALFORMED);
            }
            match self.find(name)? {
                Some(found) if found.index == entry.index => used += 1,
                _ => return Err(MALFORMED),
            }
        }
        let filled = archive.slots.iter().filter(|s| s.to_native() != 0).count();
        let rows_agree =
            links as usize == archive.targets.len() && elves as usize == archive.elves.len();
        if used != filled || !rows_agree {
            return Err(MALFORMED);
        }
        Ok(())
    }
}

impl<'a> Entry<'a> {
    /// The guest's name; `None` if the row lies.
    #[must_use]
    pub fn name(&self) -> Option<&'a [u8]> {
        let start = usize::try_from(self.row.name_start.to_native()).ok()?;
        let len = usize::from(self.row.name_len);
        self.block
            .archive
            .strings
            .get()
            .get(start..start.checked_add(len)?)
    }

    /// What it is; `None` if the row lies.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_byte(self.row.kind)
    }

    /// Text of a symlink.
    #[must_use]
    pub fn target(&self) -> Option<&'a [u8]> {
        let archive = self.block.archive;
        let is_link = self.kind() == Some(Kind::Symlink);
        let row = is_link.then(|| {
            archive
                .targets
                .get()
                .get(self.row.extra.to_native() as usize)
        })??;
        self.block.string(row)
    }

    /// Of a directory: its rank among the directories here. Child number `rank` of the directory's row in the loader cache.
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        (self.kind() == Some(Kind::Directory)).then(|| self.row.extra.to_native())
    }

    /// Number of the facts row of an ELF file.
    #[must_use]
    pub fn elf_index(&self) -> Option<u32> {
        let is_elf = self.kind() == Some(Kind::File) && self.row.flags & entry_flags::ELF != 0;
        is_elf.then(|| self.row.extra.to_native())
    }

    /// Facts of an ELF file.
    #[must_use]
    pub fn elf(&self) -> Option<Elf<'a>> {
        self.block.elf(self.elf_index()? as usize)
    }

    /// Whether it starts as ELF and is malformed.
    #[must_use]
    pub fn is_broken_elf(&self) -> bool {
        self.row.flags & entry_flags::BROKEN_ELF != 0
    }

    /// The name on the host where it differs.
    #[must_use]
    pub fn host_spelling(&self) -> Option<&'a [u8]> {
        if self.row.flags & entry_flags::HOST_SPELLING == 0 {
            return None;
        }
        let hosts = self.block.archive.hosts.get();
        let at = hosts.binary_search_by_key(&self.index, |row| row.entry.to_native());
        self.block.string(&hosts.get(at.ok()?)?.spelling)
    }
}

impl<'a> Elf<'a> {
    fn list(&self, span: &ArchivedSpan) -> Option<&'a [ArchivedSpan]> {
        span.of(self.block.archive.lists.get())
    }

    /// `PT_INTERP`.
    #[must_use]
    pub fn interpreter(&self) -> Option<&'a [u8]> {
        self.block.string(&self.row.interpreter)
    }

    /// `DT_SONAME`.
    #[must_use]
    pub fn soname(&self) -> Option<&'a [u8]> {
        self.block.string(&self.row.soname)
    }

    /// `DT_NEEDED` in order.
    pub fn needed(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let block = self.block;
        let list = self.list(&self.row.needed).unwrap_or_default();
        list.iter().filter_map(move |span| block.string(span))
    }

    fn check(&self) -> Option<()> {
        let row = self.row;
        let optional = [
            &row.interpreter,
            &row.soname,
            &row.rpath,
            &row.runpath,
            &row.build_id,
        ];
        for span in optional {
            if !span.is_absent() {
                self.block.string(span)?;
            }
        }
        for span in self
            .list(&row.needed)?
            .iter()
            .chain(self.list(&row.filters)?)
        {
            self.block.string(span)?;
        }
        Some(())
    }

    /// The facts in memory of their own; `None` if the row lies.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn to_facts(&self) -> Option<crate::elf_facts::ElfFacts> {
        let row = self.row;
        let optional = |span: &ArchivedSpan| match span.is_absent() {
            true => Some(None),
            false => self.block.string(span).map(|s| Some(s.to_vec())),
        };
        let list = |span: &ArchivedSpan| {
            let strings = self
                .list(span)?
                .iter()
                .map(|s| Some(self.block.string(s)?.to_vec()));
            strings.collect::<Option<Vec<_>>>()
        };
        Some(crate::elf_facts::ElfFacts {
            size: row.size.to_native(),
            content_hash: row.content_hash,
            class: row.class,
            data: row.data,
            os_abi: row.os_abi,
            abi_version: row.abi_version,
            elf_type: row.elf_type.to_native(),
            machine: row.machine.to_native(),
            e_flags: row.e_flags.to_native(),
            flags: row.flags.to_native(),
            dt_flags_1: row.dt_flags_1.to_native(),
            x86_isa_needed: row.x86_isa_needed.to_native(),
            interpreter: optional(&row.interpreter)?,
            soname: optional(&row.soname)?,
            rpath: optional(&row.rpath)?,
            runpath: optional(&row.runpath)?,
            build_id: optional(&row.build_id)?,
            needed: list(&row.needed)?,
            filters: list(&row.filters)?,
        })
    }
}

#[cfg(feature = "std")]
pub use write::{Content, NewEntry, encode};

/// Making a payload.
#[cfg(feature = "std")]
mod write {
    use std::collections::HashMap;
    use std::sync::Arc;

    use rkyv::rancor::Failure;

    use super::{EntryRow, HostRow, Kind, Sidecar, entry_flags};
    use crate::elf_facts::{ElfFacts, ElfRow};
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
        // Only looked up, never iterated: the bytes stay deterministic.
        known: HashMap<Vec<u8>, Span>,
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
        if entries.is_empty() {
            return Vec::new();
        }
        let mut slots = vec![0_u32; (2 * entries.len()).next_power_of_two()];
        let mask = slots.len() - 1;
        for (index, entry) in entries.iter().enumerate() {
            let hash = names::hash(&entry.name);
            let mut at = hash as usize & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            let number = u32::try_from(index + 1).expect("at most MAX_ENTRIES names");
            slots[at] = ((hash >> 56) as u32) << 24 | number;
        }
        slots
    }

    /// The payload for a directory that holds `entries`, in whatever order they come.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`]: over [`names::MAX_ENTRIES`] names, 4 GiB of strings, or a name over 255 bytes.
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
                Content::Elf(facts) => {
                    flags |= entry_flags::ELF;
                    elves.push(elf_row(number, facts, &mut strings, &mut lists)?);
                    elves.len() - 1
                }
                Content::Directory => {
                    directories += 1;
                    directories - 1
                }
                Content::Symlink(target) => {
                    targets.push(strings.add(target)?);
                    targets.len() - 1
                }
            };
            if let Some(spelling) = &entry.host_spelling {
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
}
