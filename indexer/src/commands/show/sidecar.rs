//! A directory's names.

use std::io;

use elfuse_format::elf_facts::flags;
use elfuse_format::sidecar::{self, Block, Elf, Entry, Kind};
use serde::Serialize;

use super::{HeaderShown, hex_of};
use crate::commands::stats::kind_name;
use crate::elf_names;
use crate::report::{Bytes, Output, Style, count};

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    header: HeaderShown,
    entries: Vec<EntryShown>,
}

#[derive(Debug, Serialize)]
pub(super) struct EntryShown {
    pub(super) name: Bytes,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_spelling: Option<Bytes>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    broken_elf: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    elf: Option<ElfShown>,
}

#[derive(Debug, Serialize)]
struct ElfShown {
    summary: String,
    size: u64,
    content_hash: String,
    class: u8,
    data: u8,
    os_abi: u8,
    abi_version: u8,
    elf_type: u16,
    machine: u16,
    e_flags: u32,
    flags: Vec<&'static str>,
    dt_flags_1: u32,
    x86_isa_needed: u32,
    interpreter: Option<Bytes>,
    soname: Option<Bytes>,
    rpath: Option<Bytes>,
    runpath: Option<Bytes>,
    build_id: Option<String>,
    needed: Vec<Bytes>,
    auxiliary: Vec<Bytes>,
    filter: Vec<Bytes>,
}

impl ElfShown {
    fn new(elf: &Elf<'_>) -> Option<Self> {
        let facts = elf.to_facts()?;
        let filters = |letter: u8| {
            let of_kind = facts
                .filters
                .iter()
                .filter_map(move |name| name.strip_prefix(&[letter]));
            of_kind.map(|name| Bytes(name.to_vec())).collect()
        };
        let names = [
            (flags::DYNAMIC, "dynamic"),
            (flags::PIE, "pie"),
            (flags::TEXTREL, "textrel"),
            (flags::DAMAGED, "damaged"),
            (flags::EXEC_STACK, "exec-stack"),
        ];
        let set = names.iter().filter(|(bit, _)| facts.flags & bit != 0);
        Some(Self {
            summary: elf_names::phrase(facts.class, facts.data, facts.machine, facts.elf_type),
            size: facts.size,
            content_hash: hex_of(&facts.content_hash),
            class: facts.class,
            data: facts.data,
            os_abi: facts.os_abi,
            abi_version: facts.abi_version,
            elf_type: facts.elf_type,
            machine: facts.machine,
            e_flags: facts.e_flags,
            flags: set.map(|(_, name)| *name).collect(),
            dt_flags_1: facts.dt_flags_1,
            x86_isa_needed: facts.x86_isa_needed,
            auxiliary: filters(b'a'),
            filter: filters(b'f'),
            interpreter: facts.interpreter.map(Bytes),
            soname: facts.soname.map(Bytes),
            rpath: facts.rpath.map(Bytes),
            runpath: facts.runpath.map(Bytes),
            build_id: facts.build_id.as_deref().map(hex_of),
            needed: facts.needed.into_iter().map(Bytes).collect(),
        })
    }

    fn print(&self, out: &mut Output) -> io::Result<()> {
        let row = |out: &mut Output, what: &str, value: &dyn std::fmt::Display| {
            let what = out.paint(Style::Dim, format_args!("{what:<12}"));
            writeln!(out.text(), "             {what} {value}")
        };
        let flags = if self.flags.is_empty() { "" } else { ", " };
        let summary = format!("{}{flags}{}", self.summary, self.flags.join(", "));
        row(out, "ELF", &format_args!("{summary}, {} bytes", self.size))?;
        let one = [
            ("interpreter", &self.interpreter),
            ("SONAME", &self.soname),
            ("RPATH", &self.rpath),
            ("RUNPATH", &self.runpath),
        ];
        for (what, value) in one {
            if let Some(value) = value {
                row(out, what, value)?;
            }
        }
        let many = [
            ("NEEDED", &self.needed),
            ("AUXILIARY", &self.auxiliary),
            ("FILTER", &self.filter),
        ];
        for (what, values) in many {
            for value in values {
                row(out, what, value)?;
            }
        }
        if self.x86_isa_needed != 0 {
            row(
                out,
                "ISA needed",
                &format_args!("{:#x}", self.x86_isa_needed),
            )?;
        }
        if let Some(build_id) = &self.build_id {
            row(out, "build ID", build_id)?;
        }
        row(out, "BLAKE3", &self.content_hash)
    }
}

impl EntryShown {
    fn new(entry: &Entry<'_>) -> Option<Self> {
        Some(Self {
            name: Bytes(entry.name()?.to_vec()),
            kind: kind_name(entry.kind()?),
            target: entry.target().map(|text| Bytes(text.to_vec())),
            host_spelling: entry.host_spelling().map(|name| Bytes(name.to_vec())),
            broken_elf: entry.is_broken_elf(),
            elf: entry.elf().and_then(|elf| ElfShown::new(&elf)),
        })
    }

    fn print(&self, out: &mut Output) -> io::Result<()> {
        write!(out.text(), "  {:<10} {}", self.kind, self.name)?;
        if let Some(target) = &self.target {
            write!(out.text(), " -> {target}")?;
        }
        if self.broken_elf {
            let broken = out.paint(Style::Caution, "broken ELF");
            write!(out.text(), "  ({broken})")?;
        }
        if let Some(spelling) = &self.host_spelling {
            write!(out.text(), "  (on the host: {spelling})")?;
        }
        writeln!(out.text())?;
        self.elf.as_ref().map_or(Ok(()), |elf| elf.print(out))
    }
}

/// The entries of a block that was checked.
fn entries(block: &Block<'_>) -> Vec<EntryShown> {
    let shown = block.entries().filter_map(|entry| EntryShown::new(&entry));
    shown.collect()
}

pub(super) fn show(header: HeaderShown, bytes: &[u8], out: &mut Output) -> anyhow::Result<()> {
    let block = Block::parse(sidecar::payload(bytes)?)?;
    block.check()?;
    let shown = Shown {
        header,
        entries: entries(&block),
    };
    if out.is_json() {
        return out.json("show", &shown);
    }
    shown.header.print(out)?;
    let of_kind = |kind: Kind| {
        let found = block.entries().filter(|entry| entry.kind() == Some(kind));
        found.count() as u64
    };
    writeln!(
        out.text(),
        "{}: {}, {}, {}, {}; {}",
        count(block.len() as u64, "entry", "entries"),
        count(of_kind(Kind::File), "file", "files"),
        count(of_kind(Kind::Directory), "directory", "directories"),
        count(of_kind(Kind::Symlink), "symlink", "symlinks"),
        count(of_kind(Kind::Other), "other", "others"),
        count(block.elf_count() as u64, "ELF file", "ELF files"),
    )?;
    for entry in &shown.entries {
        entry.print(out)?;
    }
    Ok(())
}
