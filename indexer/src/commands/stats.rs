//! `stats`: sizes and counts of a sysroot and its index.

use std::collections::BTreeMap;
use std::io;

use elfuse_format::header::HEADER_LEN;
use elfuse_format::sidecar::Kind;
use serde::Serialize;

use crate::commands::build::seal_name;
use crate::commands::current::{Current, current};
use crate::commands::show::verdict_name;
use crate::elf_names;
use crate::exit::Exit;
use crate::options::StatsOptions;
use crate::report::{Bytes, Output, Style, count, human_bytes};
use crate::scan::{Scan, guest};

/// Rows of each list of the most, the longest, the biggest.
const TOP: usize = 10;

#[derive(Debug, Serialize)]
struct Stats {
    sysroot: String,
    directories: u64,
    entries: u64,
    entries_by_kind: BTreeMap<&'static str, u64>,
    elf_files: u64,
    broken_elf_files: u64,
    elf_by_machine: BTreeMap<String, u64>,
    libraries: u64,
    programs: u64,
    biggest_directories: Vec<Directory>,
    longest_runpaths: Vec<Runpath>,
    most_needed: Vec<Needed>,
    index: Option<IndexStats>,
}

#[derive(Debug, Serialize)]
struct Directory {
    path: Bytes,
    entries: u64,
}

#[derive(Debug, Serialize)]
struct Runpath {
    path: Bytes,
    directories: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Needed {
    soname: Bytes,
    files: u64,
}

/// What the index is, apart from the tree.
#[derive(Debug, Serialize)]
struct IndexStats {
    path: String,
    in_tree: bool,
    /// Sidecars as they would be if each were up to date.
    sidecar_bytes: u64,
    loader_cache_bytes: u64,
    keys_bytes: u64,
    bytes_per_entry: f64,
    /// Of the patched copies that the keys have rows for; not among the bytes above.
    copies: u64,
    copy_bytes: u64,
    /// What may be mapped of ELF files for x86-64, by verdict; each inode once.
    texts_by_verdict: BTreeMap<&'static str, u64>,
    directories: u64,
    directories_by_seal: BTreeMap<&'static str, u64>,
    /// Directories of the tree whose key holds now.
    directories_that_hold: u64,
}

/// `elfuse-index stats`.
///
/// # Errors
/// If the sysroot cannot be read.
pub fn run(options: &StatsOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let now = current(&options.sysroot, options.index_dir.as_deref(), out)?;
    let mut stats = count_tree(&now.scan);
    stats.sysroot = options.sysroot.to_string();
    stats.index = index_stats(&now);
    if out.is_json() {
        out.json("stats", &stats)?;
    } else {
        print(&stats, out)?;
    }
    Ok(Exit::Success)
}

fn count_tree(scan: &Scan) -> Stats {
    let mut stats = Stats {
        sysroot: String::new(),
        directories: scan.dirs.len() as u64,
        entries: scan.entry_count(),
        entries_by_kind: BTreeMap::new(),
        elf_files: scan.elf_count(),
        broken_elf_files: 0,
        elf_by_machine: BTreeMap::new(),
        libraries: 0,
        programs: 0,
        biggest_directories: Vec::new(),
        longest_runpaths: Vec::new(),
        most_needed: Vec::new(),
        index: None,
    };
    let mut needed: BTreeMap<&[u8], u64> = BTreeMap::new();
    for dir in &scan.dirs {
        let Some(block) = dir.names() else {
            continue;
        };
        stats.biggest_directories.push(Directory {
            path: Bytes(guest(&dir.path)),
            entries: block.len() as u64,
        });
        for entry in block.entries() {
            let kind = entry.kind().map_or("unknown", kind_name);
            *stats.entries_by_kind.entry(kind).or_default() += 1;
            stats.broken_elf_files += u64::from(entry.is_broken_elf());
            let Some(elf) = entry.elf() else {
                continue;
            };
            let row = elf.row;
            let (machine, elf_type) = (row.machine.to_native(), row.elf_type.to_native());
            let phrase = elf_names::phrase(row.class, row.data, machine, elf_type);
            *stats.elf_by_machine.entry(phrase).or_default() += 1;
            stats.libraries += u64::from(elf.soname().is_some());
            stats.programs += u64::from(elf.interpreter().is_some() && elf.soname().is_none());
            for soname in elf.needed() {
                *needed.entry(soname).or_default() += 1;
            }
            if let Some(runpath) = elf.runpath().or(elf.rpath()) {
                stats.longest_runpaths.push(Runpath {
                    path: Bytes(guest(&dir.join(entry.name().unwrap_or_default()))),
                    directories: runpath.split(|&byte| byte == b':').count() as u64,
                    bytes: runpath.len() as u64,
                });
            }
        }
    }
    keep_top(&mut stats.biggest_directories, |dir| {
        (dir.entries, dir.path.clone())
    });
    keep_top(&mut stats.longest_runpaths, |row| {
        (row.bytes, row.path.clone())
    });
    let most_needed = needed.into_iter().map(|(soname, files)| Needed {
        soname: Bytes(soname.to_vec()),
        files,
    });
    stats.most_needed = most_needed.collect();
    keep_top(&mut stats.most_needed, |row| {
        (row.files, row.soname.clone())
    });
    stats
}

/// The largest first; of equal ones, the one that sorts first.
fn keep_top<T>(rows: &mut Vec<T>, key: impl Fn(&T) -> (u64, Bytes)) {
    rows.sort_by_cached_key(|row| {
        let (size, name) = key(row);
        (std::cmp::Reverse(size), name)
    });
    rows.truncate(TOP);
}

fn index_stats(now: &Current) -> Option<IndexStats> {
    let index = now.index.as_ref()?;
    let covered = now.scan.dirs.iter().filter(|dir| !dir.block.is_empty());
    let sidecars = covered.map(|dir| (dir.block.len() + HEADER_LEN) as u64);
    let sidecar_bytes = if now.store.in_tree() {
        sidecars.sum()
    } else {
        0
    };
    let loader_cache_bytes = index.loader_cache_bytes().len() as u64;
    let keys = index.keys();
    let keys_bytes = keys.map_or(0, |keys| keys.file().header().file_len());
    let mut directories_by_seal = BTreeMap::new();
    for dir in (0..).take(index.dirs().len()) {
        let state = index.seal(dir);
        let name = state.map_or("no key", seal_name);
        *directories_by_seal.entry(name).or_default() += 1;
    }
    let mut texts_by_verdict = BTreeMap::new();
    for text in index.texts() {
        *texts_by_verdict
            .entry(verdict_name(text.verdict()))
            .or_default() += 1;
    }
    let total = sidecar_bytes + loader_cache_bytes + keys_bytes;
    Some(IndexStats {
        path: now.store.dir().display().to_string(),
        in_tree: now.store.in_tree(),
        sidecar_bytes,
        loader_cache_bytes,
        keys_bytes,
        bytes_per_entry: total as f64 / now.scan.entry_count().max(1) as f64,
        copies: index.copies().count() as u64,
        copy_bytes: index.copies().map(|copy| copy.size.to_native()).sum(),
        texts_by_verdict,
        directories: index.dirs().len() as u64,
        directories_by_seal,
        directories_that_hold: now.scan.dirs.iter().filter(|dir| dir.sealed).count() as u64,
    })
}

/// For people and JSON.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Other => "other",
    }
}

fn print(stats: &Stats, out: &mut Output) -> io::Result<()> {
    let heading = |out: &mut Output, text: &str| {
        let text = out.paint(Style::Bold, text);
        writeln!(out.text(), "{text}")
    };
    let row = |out: &mut Output, number: u64, what: &dyn std::fmt::Display| {
        writeln!(
            out.text(),
            "{:>12}  {what}",
            indicatif::HumanCount(number).to_string()
        )
    };
    heading(out, "Tree")?;
    row(out, stats.directories, &"directories")?;
    row(out, stats.entries, &"entries")?;
    for (kind, number) in &stats.entries_by_kind {
        row(out, *number, &format_args!("  {kind}"))?;
    }
    heading(out, "ELF files")?;
    row(out, stats.elf_files, &"in all")?;
    for (phrase, number) in &stats.elf_by_machine {
        row(out, *number, &format_args!("  {phrase}"))?;
    }
    row(out, stats.libraries, &"libraries (with a SONAME)")?;
    row(out, stats.programs, &"programs (with an interpreter)")?;
    if stats.broken_elf_files > 0 {
        row(out, stats.broken_elf_files, &"broken")?;
    }
    if !stats.biggest_directories.is_empty() {
        heading(out, "Biggest directories, by entries")?;
    }
    for dir in &stats.biggest_directories {
        row(out, dir.entries, &dir.path)?;
    }
    if !stats.longest_runpaths.is_empty() {
        heading(out, "Longest RUNPATHs and RPATHs, by bytes")?;
    }
    for runpath in &stats.longest_runpaths {
        let directories = count(runpath.directories, "directory", "directories");
        row(
            out,
            runpath.bytes,
            &format_args!("{} ({directories})", runpath.path),
        )?;
    }
    if !stats.most_needed.is_empty() {
        heading(out, "Most needed, by files that need it")?;
    }
    for needed in &stats.most_needed {
        row(out, needed.files, &needed.soname)?;
    }
    let Some(index) = &stats.index else {
        let none = "No index that can be used; make one with `elfuse-index build`.";
        return heading(out, none);
    };
    heading(out, "Index")?;
    let sizes = [
        (index.sidecar_bytes, "sidecars"),
        (index.loader_cache_bytes, "loader cache"),
        (index.keys_bytes, "keys"),
    ];
    for (bytes, what) in sizes {
        writeln!(out.text(), "{:>12}  {what}", human_bytes(bytes))?;
    }
    writeln!(
        out.text(),
        "{:>12.1}  bytes an entry",
        index.bytes_per_entry
    )?;
    if index.copies > 0 {
        let copies = count(index.copies, "patched copy", "patched copies");
        let bytes = human_bytes(index.copy_bytes);
        writeln!(out.text(), "{bytes:>12}  {copies}")?;
    }
    for (verdict, number) in &index.texts_by_verdict {
        row(out, *number, &format_args!("code {verdict}"))?;
    }
    for (state, number) in &index.directories_by_seal {
        row(out, *number, &format_args!("directories {state}"))?;
    }
    row(
        out,
        index.directories_that_hold,
        &"directories whose key holds now",
    )?;
    writeln!(out.text(), "{:>12}  {}", "in", index.path)
}
