//! Keys, with the paths they are of where the loader cache they belong to lies beside them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use elfuse_format::keys::{
    ArchivedDirKey, ArchivedFileKey, ArchivedTime, Keys, Seal, flags::FOREIGN_FILE_SYSTEM,
};
use elfuse_format::loader_cache::LoaderCache;
use elfuse_format::names;
use elfuse_format::text::{RelocatedRun, copy_flags};
use serde::Serialize;

use super::loader_cache::Paths;
use super::sites::verdict_name;
use super::{HeaderShown, PartShown, heading, hex, hex_of, parts, print_parts};
use crate::commands::build::seal_name;
use crate::report::{Bytes, Output, Style, count};

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    header: HeaderShown,
    /// The checksum of the loader cache they were made for.
    bound_to: String,
    /// Whether that is the loader cache beside them.
    loader_cache_is_here: bool,
    foreign_file_system: bool,
    parts: Vec<PartShown>,
    devices: Vec<Device>,
    directories: Vec<DirShown>,
    files: Vec<FileShown>,
    inputs: Vec<FileShown>,
    texts: Vec<TextShown>,
    copies: Vec<CopyShown>,
}

/// What may be mapped for a file.
#[derive(Debug, Serialize)]
struct TextShown {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    copy: Option<u32>,
    device: u16,
    ino: u64,
    size: u64,
    mtime: String,
    ctime: String,
    /// Pages of the file that are written to when it is relocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    relocated: Option<PagesShown>,
}

#[derive(Debug, Serialize)]
struct PagesShown {
    first: u32,
    pages: u32,
}

#[derive(Debug, Serialize)]
struct CopyShown {
    content_hash: String,
    set_version: u32,
    block: String,
    data_bytes: u32,
    code_bytes: u32,
    slots: u32,
    annex: u64,
    p_offset: u64,
    p_vaddr: u64,
    p_filesz: u64,
    checksum: String,
    some_leases_not_ended: bool,
    has_cpuid: bool,
    device: u16,
    ino: u64,
    size: u64,
    mtime: String,
    ctime: String,
}

#[derive(Debug, Serialize)]
struct Device {
    dev: u64,
    fs_type: String,
    fs_id: String,
}

#[derive(Debug, Serialize)]
struct DirShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Bytes>,
    seal: &'static str,
    device: u16,
    ino: u64,
    /// Seconds and nanoseconds since the epoch.
    mtime: String,
    ctime: String,
    block_checksum: String,
}

#[derive(Debug, Serialize)]
struct FileShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Bytes>,
    seal: &'static str,
    device: u16,
    ino: u64,
    size: u64,
    mtime: String,
    ctime: String,
}

fn time(time: &ArchivedTime) -> String {
    format!("{}.{:09}", time.secs, time.nanos.to_native())
}

fn dir_shown(key: &ArchivedDirKey, path: Option<Bytes>) -> DirShown {
    DirShown {
        path,
        seal: seal_name(Seal::from_byte(key.seal)),
        device: key.device.to_native(),
        ino: key.ino.to_native(),
        mtime: time(&key.mtime),
        ctime: time(&key.ctime),
        block_checksum: hex(key.block_checksum.to_native()),
    }
}

fn file_shown(key: &ArchivedFileKey, path: Option<Bytes>) -> FileShown {
    FileShown {
        path,
        seal: seal_name(Seal::from_byte(key.seal)),
        device: key.device.to_native(),
        ino: key.ino.to_native(),
        size: key.size.to_native(),
        mtime: time(&key.mtime),
        ctime: time(&key.ctime),
    }
}

/// The loader cache in the same directory, if these keys were made for it and it is whole.
fn read_loader_cache(keys: &Keys<'_>, path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path.with_file_name(names::LOADER_CACHE)).ok()?;
    let cache = LoaderCache::parse(&bytes).ok()?;
    let usable = cache.binding() == keys.bound_to() && cache.check().is_ok();
    usable.then_some(bytes)
}

pub(super) fn show(
    header: HeaderShown,
    path: &Path,
    bytes: &[u8],
    out: &mut Output,
) -> anyhow::Result<()> {
    let keys = Keys::parse(bytes)?;
    keys.check()?;
    let beside = read_loader_cache(&keys, path);
    let cache = beside
        .as_deref()
        .and_then(|bytes| LoaderCache::parse(bytes).ok());
    let paths = cache.and_then(|cache| Paths::new(&cache).ok());
    let shown = Shown {
        header,
        bound_to: hex(keys.bound_to()),
        loader_cache_is_here: paths.is_some(),
        foreign_file_system: keys.flags() & FOREIGN_FILE_SYSTEM != 0,
        parts: parts(keys.file()),
        devices: devices(&keys)?,
        directories: directories(&keys, paths.as_ref())?,
        files: files(&keys, paths.as_ref())?,
        inputs: inputs(&keys, cache.as_ref())?,
        texts: texts(&keys)?,
        copies: copies(&keys)?,
    };
    if out.is_json() {
        return out.json("show", &shown);
    }
    Ok(print(&shown, out)?)
}

fn devices(keys: &Keys<'_>) -> anyhow::Result<Vec<Device>> {
    let devices = keys.devices()?.iter().map(|row| Device {
        dev: row.dev.to_native(),
        fs_type: format!("{:#x}", row.fs_type.to_native()),
        fs_id: hex(row.fs_id.to_native()),
    });
    Ok(devices.collect())
}

fn directories(keys: &Keys<'_>, paths: Option<&Paths<'_>>) -> anyhow::Result<Vec<DirShown>> {
    let mut shown = Vec::new();
    for key in keys.dirs()? {
        let number = u32::try_from(shown.len())?;
        shown.push(dir_shown(key, paths.map(|paths| Bytes(paths.dir(number)))));
    }
    Ok(shown)
}

fn files(keys: &Keys<'_>, paths: Option<&Paths<'_>>) -> anyhow::Result<Vec<FileShown>> {
    let mut elves = paths.into_iter().flat_map(Paths::elves);
    let rows = keys.files()?.iter();
    let shown = rows.map(|key| file_shown(key, elves.next().map(Bytes)));
    Ok(shown.collect())
}

fn inputs(keys: &Keys<'_>, cache: Option<&LoaderCache<'_>>) -> anyhow::Result<Vec<FileShown>> {
    let inputs = cache.map(LoaderCache::inputs).transpose()?;
    let mut names = inputs.into_iter().flat_map(|inputs| inputs.rows());
    let rows = keys.inputs()?.iter();
    let shown = rows.map(|key| file_shown(key, names.next().map(|(path, _)| Bytes(path.to_vec()))));
    Ok(shown.collect())
}

fn texts(keys: &Keys<'_>) -> anyhow::Result<Vec<TextShown>> {
    let rows = keys.text_identities()?.iter();
    let mut runs = keys.relocated_runs()?.unwrap_or_default().iter();
    let mut run = || {
        let RelocatedRun { first, pages } = runs.next()?.to_native();
        (pages != 0).then_some(PagesShown { first, pages })
    };
    let shown = rows.map(|row| TextShown {
        relocated: run(),
        verdict: verdict_name(row.verdict()),
        copy: row.copy(),
        device: row.device.to_native(),
        ino: row.ino.to_native(),
        size: row.size.to_native(),
        mtime: time(&row.mtime),
        ctime: time(&row.ctime),
    });
    Ok(shown.collect())
}

fn copies(keys: &Keys<'_>) -> anyhow::Result<Vec<CopyShown>> {
    let rows = keys.text_copies()?.iter();
    let shown = rows.map(|row| {
        let flags = row.flags.to_native();
        CopyShown {
            content_hash: hex_of(&row.content_hash),
            set_version: row.set_version.to_native(),
            block: format!("{:#x}", row.block.to_native()),
            data_bytes: row.data_len.to_native(),
            code_bytes: row.code_len.to_native(),
            slots: row.slots.to_native(),
            annex: row.annex.to_native(),
            p_offset: row.p_offset.to_native(),
            p_vaddr: row.p_vaddr.to_native(),
            p_filesz: row.p_filesz.to_native(),
            checksum: hex(row.checksum.to_native()),
            some_leases_not_ended: flags & copy_flags::ENDINGS_LEFT != 0,
            has_cpuid: flags & copy_flags::CPUID != 0,
            device: row.device.to_native(),
            ino: row.ino.to_native(),
            size: row.size.to_native(),
            mtime: time(&row.mtime),
            ctime: time(&row.ctime),
        }
    });
    Ok(shown.collect())
}

fn print_texts(shown: &Shown, out: &mut Output) -> io::Result<()> {
    heading(out, &format!("Code: {}", shown.texts.len()))?;
    for text in &shown.texts {
        let copy = text.copy.map(|copy| format!("  copy {copy}"));
        let run = text.relocated.as_ref();
        let run = run.map(|run| format!("  relocated {}+{}", run.first, run.pages));
        writeln!(
            out.text(),
            "  {:<12} dev {} ino {:<10} size {:<9} mtime {} ctime {}{}{}",
            text.verdict,
            text.device,
            text.ino,
            text.size,
            text.mtime,
            text.ctime,
            copy.unwrap_or_default(),
            run.unwrap_or_default()
        )?;
    }
    heading(out, &format!("Copies: {}", shown.copies.len()))?;
    for (number, copy) in shown.copies.iter().enumerate() {
        writeln!(
            out.text(),
            "  {number:>3}  {} set {} at {}: {} slots, data {}, code {}, annex {:#x}, dev {} ino {:<10} size {:<9} mtime {} ctime {}",
            copy.content_hash,
            copy.set_version,
            copy.block,
            copy.slots,
            copy.data_bytes,
            copy.code_bytes,
            copy.annex,
            copy.device,
            copy.ino,
            copy.size,
            copy.mtime,
            copy.ctime
        )?;
    }
    Ok(())
}

fn print(shown: &Shown, out: &mut Output) -> io::Result<()> {
    shown.header.print(out)?;
    let here = if shown.loader_cache_is_here {
        "which lies beside them"
    } else {
        "which does not lie beside them: no paths are shown"
    };
    writeln!(
        out.text(),
        "made for the loader cache {}, {here}",
        shown.bound_to
    )?;
    if shown.foreign_file_system {
        let what = "the file system is not known to keep reliable time stamps";
        let what = out.paint(Style::Caution, what);
        writeln!(out.text(), "{what}")?;
    }
    print_parts(&shown.parts, out)?;
    heading(out, "Devices")?;
    for (number, device) in shown.devices.iter().enumerate() {
        writeln!(
            out.text(),
            "  {number:>3}  st_dev {}, file system type {}, id {}",
            device.dev,
            device.fs_type,
            device.fs_id
        )?;
    }
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for dir in &shown.directories {
        *states.entry(dir.seal).or_default() += 1;
    }
    let states: Vec<_> = states
        .iter()
        .map(|(state, number)| format!("{number} {state}"))
        .collect();
    let title = count(shown.directories.len() as u64, "directory", "directories");
    heading(out, &format!("{title}: {}", states.join(", ")))?;
    for (number, dir) in shown.directories.iter().enumerate() {
        let path = dir
            .path
            .as_ref()
            .map_or_else(|| format!("#{number}"), Bytes::to_string);
        writeln!(
            out.text(),
            "  {:<12} dev {} ino {:<10} mtime {} ctime {} block {}  {path}",
            dir.seal,
            dir.device,
            dir.ino,
            dir.mtime,
            dir.ctime,
            dir.block_checksum
        )?;
    }
    for (title, files) in [("ELF files", &shown.files), ("Inputs", &shown.inputs)] {
        heading(out, &format!("{title}: {}", files.len()))?;
        for (number, file) in files.iter().enumerate() {
            let path = file
                .path
                .as_ref()
                .map_or_else(|| format!("#{number}"), Bytes::to_string);
            writeln!(
                out.text(),
                "  {:<12} dev {} ino {:<10} size {:<9} mtime {} ctime {}  {path}",
                file.seal,
                file.device,
                file.ino,
                file.size,
                file.mtime,
                file.ctime
            )?;
        }
    }
    print_texts(shown, out)
}
