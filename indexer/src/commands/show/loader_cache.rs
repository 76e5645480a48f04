//! The roll-up: directories, SONAMEs, closures.

use std::io;

use elfuse_format::FormatError;
use elfuse_format::loader_cache::{
    ArchivedClosures, ArchivedObjectRow, ArchivedProgramRow, LoaderCache, NONE, Reason,
    program_flags,
};
use elfuse_format::sidecar::Block;
use serde::Serialize;

use super::{HeaderShown, PartShown, heading, hex, hex_of, parts, print_parts};
use crate::elf_names;
use crate::report::{Bytes, Output, Style, count};

/// Directories and blocks of a cache that was checked, and so the path of each number.
pub(super) struct Paths<'a> {
    /// Parent and entry there.
    rows: Vec<(u32, u32)>,
    blocks: Vec<Option<Block<'a>>>,
}

impl<'a> Paths<'a> {
    pub(super) fn new(cache: &LoaderCache<'a>) -> Result<Self, FormatError> {
        let mut paths = Self {
            rows: Vec::new(),
            blocks: Vec::new(),
        };
        for row in cache.dirs()? {
            paths
                .rows
                .push((row.parent.to_native(), row.entry.to_native()));
            paths.blocks.push(cache.block(row)?);
        }
        Ok(paths)
    }

    fn name(&self, dir: u32, entry: u32) -> &'a [u8] {
        let block = self.blocks.get(dir as usize).and_then(Option::as_ref);
        let entry = block.and_then(|block| block.entry(entry as usize));
        entry.and_then(|entry| entry.name()).unwrap_or_default()
    }

    /// Guest path of a directory.
    pub(super) fn dir(&self, dir: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = dir;
        // Parents have smaller numbers, so this ends.
        while let Some(&(parent, entry)) = self.rows.get(at as usize).filter(|_| at != 0) {
            names.push(self.name(parent, entry));
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }

    /// Guest path of an entry.
    fn entry(&self, dir: u32, entry: u32) -> Vec<u8> {
        crate::tree::join(&self.dir(dir), self.name(dir, entry))
    }

    /// Guest paths of all ELF files with facts, in the order of their keys.
    pub(super) fn elves(&self) -> impl Iterator<Item = Vec<u8>> {
        let blocks = (0_u32..).zip(&self.blocks);
        blocks
            .filter_map(|(dir, block)| Some((dir, (*block)?)))
            .flat_map(move |(dir, block)| {
                let elves = block.entries().filter(|entry| entry.elf_index().is_some());
                elves.map(move |entry| self.entry(dir, entry.index))
            })
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    header: HeaderShown,
    parts: Vec<PartShown>,
    directories: Vec<DirShown>,
    inputs: Vec<InputShown>,
    sonames: Vec<SonameShown>,
    programs: Vec<ProgramShown>,
}

#[derive(Debug, Serialize)]
struct DirShown {
    path: Bytes,
    covered: bool,
    entries: u64,
    elf_files: u64,
    children: u32,
    block_bytes: u32,
    block_checksum: String,
}

#[derive(Debug, Serialize)]
struct InputShown {
    path: Bytes,
    content_hash: String,
}

#[derive(Debug, Serialize)]
struct SonameShown {
    soname: Bytes,
    candidates: Vec<CandidateShown>,
}

#[derive(Debug, Serialize)]
struct CandidateShown {
    path: Bytes,
    /// Place of its directory among the default search directories; null: found through RUNPATH and the like only.
    search_rank: Option<u32>,
    class: String,
    machine: String,
}

#[derive(Debug, Serialize)]
struct ProgramShown {
    path: Bytes,
    flags: Vec<&'static str>,
    objects: Vec<ObjectShown>,
}

#[derive(Debug, Serialize)]
struct ObjectShown {
    name: Bytes,
    path: Option<Bytes>,
    /// 0 is the program, n its object n - 1.
    requester: u32,
    reason: &'static str,
    search_dir: Bytes,
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => "not found",
        Reason::Program => "program",
        Reason::Interpreter => "interpreter",
        Reason::Path => "path",
        Reason::Rpath => "RPATH",
        Reason::LibraryPath => "LD_LIBRARY_PATH",
        Reason::Runpath => "RUNPATH",
        Reason::Cache => "ld.so.cache",
        Reason::Default => "default directory",
        Reason::SystemPath => "system path",
        Reason::Preload => "preload",
    }
}

pub(super) fn show(header: HeaderShown, bytes: &[u8], out: &mut Output) -> anyhow::Result<()> {
    let cache = LoaderCache::parse(bytes)?;
    cache.check()?;
    let paths = Paths::new(&cache)?;
    let inputs = cache.inputs()?.rows().map(|(path, row)| InputShown {
        path: Bytes(path.to_vec()),
        content_hash: hex_of(&row.content_hash),
    });
    let closures = cache.closures()?;
    let programs = closures.programs.get().iter();
    let shown = Shown {
        header,
        parts: parts(cache.file()),
        directories: directories(&cache, &paths)?,
        inputs: inputs.collect(),
        sonames: sonames(&cache, &paths)?,
        programs: programs
            .map(|program| program_shown(closures, program, &paths))
            .collect(),
    };
    if out.is_json() {
        return out.json("show", &shown);
    }
    Ok(print(&shown, out)?)
}

fn directories(cache: &LoaderCache<'_>, paths: &Paths<'_>) -> anyhow::Result<Vec<DirShown>> {
    let mut shown = Vec::new();
    for row in cache.dirs()? {
        let block = paths.blocks.get(shown.len()).copied().flatten();
        shown.push(DirShown {
            path: Bytes(paths.dir(u32::try_from(shown.len())?)),
            covered: block.is_some(),
            entries: block.map_or(0, |block| block.len() as u64),
            elf_files: block.map_or(0, |block| block.elf_count() as u64),
            children: row.child_count.to_native(),
            block_bytes: row.block_len.to_native(),
            block_checksum: hex(row.block_checksum.to_native()),
        });
    }
    Ok(shown)
}

fn sonames(cache: &LoaderCache<'_>, paths: &Paths<'_>) -> anyhow::Result<Vec<SonameShown>> {
    let rows = cache
        .sonames()?
        .rows()
        .map(|(soname, candidates)| SonameShown {
            soname: Bytes(soname.to_vec()),
            candidates: (candidates.iter())
                .map(|row| CandidateShown {
                    path: Bytes(paths.entry(row.dir.to_native(), row.entry.to_native())),
                    search_rank: Some(row.search_rank.to_native()).filter(|rank| *rank != NONE),
                    class: elf_names::class(row.class),
                    machine: elf_names::machine(row.machine.to_native()),
                })
                .collect(),
        });
    Ok(rows.collect())
}

fn program_shown<'a>(
    closures: &'a ArchivedClosures<'a>,
    program: &ArchivedProgramRow,
    paths: &Paths<'_>,
) -> ProgramShown {
    let object = |row: &ArchivedObjectRow| {
        let (dir, entry) = (row.dir.to_native(), row.entry.to_native());
        ObjectShown {
            name: Bytes(closures.string(&row.name).to_vec()),
            path: (dir != NONE).then(|| Bytes(paths.entry(dir, entry))),
            requester: row.requester.to_native(),
            reason: Reason::from_byte(row.reason).map_or("unknown", reason_name),
            search_dir: Bytes(closures.string(&row.search_dir).to_vec()),
        }
    };
    let names = [
        (program_flags::DEPENDS_ON_CPU, "depends on the CPU"),
        (program_flags::INCOMPLETE, "incomplete"),
        (program_flags::FAILS, "fails"),
        (program_flags::PASSES_OVER, "passes files over"),
    ];
    let flags = program.flags.to_native();
    let set = names.iter().filter(|(bit, _)| flags & bit != 0);
    ProgramShown {
        path: Bytes(paths.entry(program.dir.to_native(), program.entry.to_native())),
        flags: set.map(|(_, name)| *name).collect(),
        objects: closures.objects(program).iter().map(object).collect(),
    }
}

fn print(shown: &Shown, out: &mut Output) -> io::Result<()> {
    shown.header.print(out)?;
    print_parts(&shown.parts, out)?;
    let directories = count(shown.directories.len() as u64, "directory", "directories");
    heading(out, &directories)?;
    for dir in &shown.directories {
        if dir.covered {
            let entries = count(dir.entries, "entry", "entries");
            let size = count(dir.block_bytes.into(), "byte", "bytes");
            writeln!(
                out.text(),
                "  {}  {entries}, {} ELF, {size}",
                dir.path,
                dir.elf_files
            )?;
        } else {
            let not = out.paint(Style::Caution, "not covered");
            writeln!(out.text(), "  {}  {not}", dir.path)?;
        }
    }
    heading(out, &format!("Inputs: {}", shown.inputs.len()))?;
    for input in &shown.inputs {
        writeln!(out.text(), "  {}  {}", input.path, input.content_hash)?;
    }
    heading(out, &format!("SONAMEs: {}", shown.sonames.len()))?;
    for soname in &shown.sonames {
        writeln!(out.text(), "  {}", soname.soname)?;
        for candidate in &soname.candidates {
            let rank = match candidate.search_rank {
                Some(rank) => format!("search directory {rank}"),
                None => "not in a search directory".to_owned(),
            };
            let what = format!("({} {}, {rank})", candidate.class, candidate.machine);
            let what = out.paint(Style::Dim, what);
            writeln!(out.text(), "    {} {what}", candidate.path)?;
        }
    }
    heading(out, &format!("Programs: {}", shown.programs.len()))?;
    for program in &shown.programs {
        print_program(program, out)?;
    }
    Ok(())
}

fn print_program(program: &ProgramShown, out: &mut Output) -> io::Result<()> {
    write!(out.text(), "  {}", program.path)?;
    if !program.flags.is_empty() {
        let flags = out.paint(Style::Caution, program.flags.join(", "));
        write!(out.text(), "  ({flags})")?;
    }
    writeln!(out.text())?;
    for object in &program.objects {
        let requester = (object.requester as usize)
            .checked_sub(1)
            .and_then(|at| program.objects.get(at))
            .map_or_else(
                || "the program".to_owned(),
                |object| object.name.to_string(),
            );
        let from = if object.search_dir.0.is_empty() {
            String::new()
        } else {
            format!(" {}", object.search_dir)
        };
        let why = out.paint(
            Style::Dim,
            format!("({}{from}, for {requester})", object.reason),
        );
        match &object.path {
            Some(path) => writeln!(out.text(), "    {} => {path} {why}", object.name)?,
            None => {
                let bad = out.paint(Style::Bad, "nothing");
                writeln!(out.text(), "    {} => {bad} {why}", object.name)?;
            }
        }
    }
    Ok(())
}
