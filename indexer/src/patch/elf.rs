//! Of an ELF file what patching goes by. Every number in it is a lie until compared with the length of the file; what is
//! damaged is as good as absent, and the code that it would have told of is then not understood.

use elfuse_format::text::{PAGE, Segment};
use object::elf;

/// A file of class 64, little-endian, for x86-64, with at least one executable segment.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    bytes: &'a [u8],
}

/// A row of the program header table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) file_len: u64,
    pub(crate) memory_len: u64,
}

impl Load {
    pub(super) fn is_code(&self) -> bool {
        self.kind == elf::PT_LOAD.0 && self.flags & elf::PF_X.0 != 0 && self.file_len > 0
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.flags & elf::PF_W.0 != 0
    }

    pub(super) fn is_data(&self) -> bool {
        self.kind == elf::PT_LOAD.0 && !self.is_code() && self.file_len > 0
    }
}

/// A row of the section header table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) addr: u64,
    pub(super) offset: u64,
    pub(super) len: u64,
    link: u32,
}

/// A symbol that has an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol<'a> {
    pub(super) name: &'a [u8],
    pub(super) is_function: bool,
    pub(super) value: u64,
    pub(super) len: u64,
}

/// Little-endian words at an offset.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const RELA: usize = 24;

/// Offset and length of the program header table, if `head` is the header of a file that this is about.
pub(crate) fn program_headers(head: &[u8]) -> Option<(u64, usize)> {
    let is_ours = head.starts_with(&elf::ELFMAG)
        && head.get(4) == Some(&elf::ELFCLASS64.0)
        && head.get(5) == Some(&elf::ELFDATA2LSB.0)
        && u16_at(head, 18)? == elf::EM_X86_64.0
        && matches!(u16_at(head, 16)?, kind if kind == elf::ET_EXEC.0 || kind == elf::ET_DYN.0)
        && usize::from(u16_at(head, 54)?) == PROGRAM_HEADER;
    let count = usize::from(u16_at(head, 56)?);
    is_ours.then_some((u64_at(head, 32)?, count * PROGRAM_HEADER))
}

/// The rows of a program header table.
pub(crate) fn loads(table: &[u8]) -> impl Iterator<Item = Load> + '_ {
    table.chunks_exact(PROGRAM_HEADER).filter_map(|row| {
        Some(Load {
            kind: u32_at(row, 0)?,
            flags: u32_at(row, 4)?,
            offset: u64_at(row, 8)?,
            vaddr: u64_at(row, 16)?,
            file_len: u64_at(row, 32)?,
            memory_len: u64_at(row, 40)?,
        })
    })
}

fn slice(bytes: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let end = usize::try_from(offset.checked_add(len)?).ok()?;
    bytes.get(usize::try_from(offset).ok()?..end)
}

fn name_at(strings: &[u8], at: u32) -> &[u8] {
    let rest = strings.get(at as usize..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl<'a> Image<'a> {
    /// `None`: it is none of these files, or has nothing executable.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let image = Self { bytes };
        program_headers(bytes)?;
        image.loads().any(|load| load.is_code()).then_some(image)
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn is_fixed(&self) -> bool {
        u16_at(self.bytes, 16) == Some(elf::ET_EXEC.0)
    }

    pub(super) fn entry(&self) -> u64 {
        u64_at(self.bytes, 24).unwrap_or(0)
    }

    pub(super) fn loads(&self) -> impl Iterator<Item = Load> + use<'a> {
        let table =
            program_headers(self.bytes).and_then(|(at, len)| slice(self.bytes, at, len as u64));
        loads(table.unwrap_or_default())
    }

    /// The bytes that a segment has in the file.
    pub(super) fn bytes_of(&self, load: &Load) -> &'a [u8] {
        slice(self.bytes, load.offset, load.file_len).unwrap_or_default()
    }

    /// Up to `len` bytes at an address.
    pub(super) fn at(&self, vaddr: u64, len: u64) -> Option<&'a [u8]> {
        let load = self.loads().find(|load| {
            load.kind == elf::PT_LOAD.0 && vaddr.wrapping_sub(load.vaddr) < load.file_len
        })?;
        let skipped = vaddr - load.vaddr;
        slice(
            self.bytes,
            load.offset.checked_add(skipped)?,
            len.min(load.file_len - skipped),
        )
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = Section<'a>> + use<'a> {
        let bytes = self.bytes;
        let rows = || {
            let count = u16_at(bytes, 60)?;
            let is_known = usize::from(u16_at(bytes, 58)?) == SECTION_HEADER;
            let table = slice(
                bytes,
                u64_at(bytes, 40)?,
                u64::from(count) * SECTION_HEADER as u64,
            )?;
            is_known.then_some(table)
        };
        let row = |row: &[u8]| -> Option<(u32, Section<'a>)> {
            Some((
                u32_at(row, 0)?,
                Section {
                    name: b"",
                    kind: u32_at(row, 4)?,
                    flags: u64_at(row, 8)?,
                    addr: u64_at(row, 16)?,
                    offset: u64_at(row, 24)?,
                    len: u64_at(row, 32)?,
                    link: u32_at(row, 40)?,
                },
            ))
        };
        let table = rows().unwrap_or_default();
        let names = u16_at(bytes, 62)
            .and_then(|at| table.chunks_exact(SECTION_HEADER).nth(at.into()))
            .and_then(row)
            .and_then(|(_, section)| slice(bytes, section.offset, section.len))
            .unwrap_or_default();
        let all = table.chunks_exact(SECTION_HEADER).filter_map(row);
        all.map(|(name, section)| Section {
            name: name_at(names, name),
            ..section
        })
    }

    pub(super) fn section_bytes(&self, section: &Section<'_>) -> &'a [u8] {
        if section.kind == elf::SHT_NOBITS.0 {
            return &[];
        }
        slice(self.bytes, section.offset, section.len).unwrap_or_default()
    }

    /// Symbols of `.symtab` and `.dynsym` that have an address.
    pub(super) fn symbols(&self) -> Vec<Symbol<'a>> {
        let sections: Vec<_> = self.sections().collect();
        let tables = sections
            .iter()
            .filter(|section| [elf::SHT_SYMTAB.0, elf::SHT_DYNSYM.0].contains(&section.kind));
        let mut symbols = Vec::new();
        for table in tables {
            let strings = sections.get(table.link as usize);
            let strings = strings.map_or(&[][..], |section| self.section_bytes(section));
            let rows = self.section_bytes(table).chunks_exact(SYMBOL);
            symbols.extend(rows.filter_map(|row| {
                let kind = row[4] & 15;
                // Sections, files and thread-local variables have no address in the text.
                let has_address = ![3, 4, 6].contains(&kind) && u16_at(row, 6)? != 0;
                has_address.then_some(Symbol {
                    name: name_at(strings, u32_at(row, 0)?),
                    is_function: kind == 2 || kind == 10,
                    value: u64_at(row, 8)?,
                    len: u64_at(row, 16)?,
                })
            }));
        }
        symbols
    }

    /// The dynamic section.
    pub(super) fn dynamic(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let load = self.loads().find(|load| load.kind == elf::PT_DYNAMIC.0);
        let bytes = load.map_or(&[][..], |load| self.bytes_of(&load));
        let rows = bytes.chunks_exact(16);
        rows.filter_map(|row| Some((u64_at(row, 0)?, u64_at(row, 8)?)))
            .take_while(|(tag, _)| *tag != 0)
    }

    fn dynamic_value(&self, tag: i64) -> Option<u64> {
        let tag = tag.cast_unsigned();
        self.dynamic().find(|row| row.0 == tag).map(|row| row.1)
    }

    /// The values that relocations without a symbol put somewhere: addresses of this file.
    pub(super) fn relocated(&self) -> impl Iterator<Item = u64> + use<'a> {
        let table = |at, len| {
            let (at, len) = (self.dynamic_value(at)?, self.dynamic_value(len)?);
            self.at(at, len)
        };
        let tables = [
            table(elf::DT_RELA.0, elf::DT_RELASZ.0),
            table(elf::DT_JMPREL.0, elf::DT_PLTRELSZ.0),
        ];
        let rows = tables.into_iter().flatten();
        rows.flat_map(|table| table.chunks_exact(RELA))
            .filter_map(|row| u64_at(row, 16))
    }

    pub(super) fn has_text_relocations(&self) -> bool {
        const DF_TEXTREL: u64 = 4;
        self.dynamic_value(elf::DT_TEXTREL.0).is_some()
            || self
                .dynamic_value(elf::DT_FLAGS.0)
                .is_some_and(|flags| flags & DF_TEXTREL != 0)
    }

    /// Whether Go made it. Its stacks are small and grow when functions ask for it, not when a handler or a stub would need it.
    pub(super) fn is_go(&self) -> bool {
        let names: [&[u8]; 3] = [b".go.buildinfo", b".gopclntab", b".note.go.buildid"];
        self.sections().any(|section| names.contains(&section.name))
    }

    fn soname(&self) -> Option<&'a [u8]> {
        let strings = self.dynamic_value(elf::DT_STRTAB.0)?;
        let name = self.dynamic_value(elf::DT_SONAME.0)?;
        let bytes = self.at(strings.checked_add(name)?, 256)?;
        bytes.split(|byte| *byte == 0).next()
    }

    /// Whether its CPUID instructions are those of start-up: a dynamic linker, or a program that has none and does itself what one
    /// does. A function of the content, as the copy is.
    pub(super) fn starts_programs(&self) -> bool {
        const DF_1_PIE: u64 = 0x0800_0000;
        let has_interpreter = self.loads().any(|load| load.kind == elf::PT_INTERP.0);
        let is_pie = || {
            self.dynamic_value(elf::DT_FLAGS_1.0)
                .is_some_and(|flags| flags & DF_1_PIE != 0)
        };
        let is_linker = self.soname().is_some_and(|name| {
            let prefixes: [&[u8]; 3] = [b"ld-", b"ld.so", b"ld64"];
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        });
        !has_interpreter && (self.is_fixed() || is_pie() || is_linker)
    }

    /// The one executable segment, if that is how the file is made and it can be mapped from a copy.
    pub(super) fn segment(&self) -> Result<(Load, Segment), &'static str> {
        let mut loads = self.loads().filter(Load::is_code);
        let (Some(load), None) = (loads.next(), loads.next()) else {
            return Err("two executable segments");
        };
        if load.is_writable() {
            return Err("its code can be written to");
        }
        let segment = Segment {
            offset: load.offset,
            vaddr: load.vaddr,
            file_len: load.file_len,
        };
        let inside = self.bytes_of(&load).len() as u64 == load.file_len
            && load.vaddr.checked_add(load.memory_len).is_some();
        if !inside || load.memory_len != load.file_len || load.offset % PAGE != load.vaddr % PAGE {
            return Err("a segment that cannot be mapped as it is");
        }
        Ok((load, segment))
    }
}
