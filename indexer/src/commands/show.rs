//! `show`: any file of an index as text and JSON. Everything in it is checked first: what is shown is what readers believe.

mod keys;
mod ld_so_cache;
mod loader_cache;
mod sidecar;
mod sites;

pub(super) use self::sites::verdict_name;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use elfuse_format::header::{File, Header, Kind, MAGIC, PartKind};
use elfuse_format::{FormatError, names};
use serde::Serialize;

use crate::exit::Exit;
use crate::options::ShowOptions;
use crate::report::{Output, Style, human_bytes};

/// What stands in the header of a file of ours.
#[derive(Debug, Serialize)]
struct HeaderShown {
    file: String,
    kind: &'static str,
    format_version: u16,
    bytes: u64,
    /// Of the payload; in a file with parts, of the part table.
    checksum: String,
    flags: u32,
}

impl HeaderShown {
    fn new(path: &Path, header: &Header) -> Self {
        Self {
            file: path.display().to_string(),
            kind: Kind::from_number(header.kind).map_or("unknown", Kind::name),
            format_version: elfuse_format::header::VERSION,
            bytes: header.file_len(),
            checksum: hex(header.payload_checksum),
            flags: header.flags,
        }
    }

    fn print(&self, out: &mut Output) -> io::Result<()> {
        let title = out.paint(Style::Bold, format_args!("{}: {}", self.file, self.kind));
        writeln!(
            out.text(),
            "{title}, format version {}, {}, checksum {}",
            self.format_version,
            human_bytes(self.bytes),
            self.checksum
        )
    }
}

/// A part of a file.
#[derive(Debug, Serialize)]
struct PartShown {
    part: &'static str,
    offset: u64,
    bytes: u64,
    checksum: String,
}

fn parts(file: &File<'_>) -> Vec<PartShown> {
    let parts = file.parts().map(|row| PartShown {
        part: PartKind::from_number(row.kind).map_or("unknown", PartKind::name),
        offset: row.offset,
        bytes: row.len,
        checksum: hex(row.checksum),
    });
    let header = file.header();
    let tree = header.tree().map(|tree| PartShown {
        part: "checksums of pages",
        offset: tree.start(),
        bytes: tree.file_len() - tree.start(),
        checksum: hex(header.top_checksum),
    });
    parts.chain(tree).collect()
}

fn print_parts(parts: &[PartShown], out: &mut Output) -> io::Result<()> {
    heading(out, "Parts")?;
    for part in parts {
        writeln!(
            out.text(),
            "  {:<20} at {:>10}  {:>10} bytes  {}",
            part.part,
            part.offset,
            part.bytes,
            part.checksum
        )?;
    }
    Ok(())
}

fn heading(out: &mut Output, text: &str) -> io::Result<()> {
    let text = out.paint(Style::Bold, text);
    writeln!(out.text(), "{text}")
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `elfuse-index show`.
///
/// # Errors
/// If the file cannot be read, or is not one that can be shown: which, what was expected and what was found.
pub fn run(options: &ShowOptions, out: &mut Output) -> anyhow::Result<Exit> {
    if options.sites {
        sites::show(&options.path, out)
            .with_context(|| format!("showing the sites of {}", options.path.display()))?;
        return Ok(Exit::Success);
    }
    let path = file_meant(&options.path)?;
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    show(&path, &bytes, out).with_context(|| format!("showing {}", path.display()))?;
    Ok(Exit::Success)
}

fn show(path: &Path, bytes: &[u8], out: &mut Output) -> anyhow::Result<()> {
    if bytes.starts_with(b"ld.so-") || bytes.starts_with(b"glibc-ld.so.cache") {
        return ld_so_cache::show(path, bytes, out);
    }
    if bytes.starts_with(object::elf::ELFMAG.as_slice()) {
        anyhow::bail!("an ELF file, not a file of an index; try `elfuse-index tree`, or --sites");
    }
    if !bytes.starts_with(&MAGIC) && bytes.len() >= MAGIC.len() {
        let found: [u8; 8] = bytes[..8].try_into().unwrap_or_default();
        return Err(FormatError::NotOurs { found })
            .context("expected a sidecar, keys, a loader cache or an ld.so.cache");
    }
    let header = Header::parse(bytes)?;
    let shown = HeaderShown::new(path, &header);
    match Kind::from_number(header.kind) {
        Some(Kind::Sidecar) => sidecar::show(shown, bytes, out),
        Some(Kind::Keys) => keys::show(shown, path, bytes, out),
        Some(Kind::LoaderCache) => loader_cache::show(shown, bytes, out),
        Some(kind) => anyhow::bail!(
            "a file of the kind \"{}\", which the runtime writes and this build does not show",
            kind.name()
        ),
        None => anyhow::bail!(
            "a file of the unknown kind {}; known are 1 (sidecar), 2 (keys) and 3 (loader cache)",
            header.kind
        ),
    }
}

/// The file itself, or a directory's sidecar.
fn file_meant(path: &Path) -> anyhow::Result<PathBuf> {
    let metadata = path
        .metadata()
        .with_context(|| format!("looking at {}", path.display()))?;
    if metadata.is_file() {
        return Ok(path.to_owned());
    }
    anyhow::ensure!(
        metadata.is_dir(),
        "{} is neither a regular file nor a directory; give a file of an index",
        path.display()
    );
    let name = std::str::from_utf8(names::SIDECAR).expect("the name is ASCII");
    let sidecar = path.join(name);
    if sidecar
        .symlink_metadata()
        .is_ok_and(|found| found.is_file())
    {
        return Ok(sidecar);
    }
    if path.join(names::LOADER_CACHE).is_file() {
        anyhow::bail!(
            "{} is the store of an index; name one of its files: {} or {}",
            path.display(),
            path.join(names::KEYS).display(),
            path.join(names::LOADER_CACHE).display()
        );
    }
    anyhow::bail!(
        "{} has no sidecar ({name}); make an index with `elfuse-index build`, or, where it is kept out of the tree, show the \
         loader-cache in its directory",
        path.display()
    )
}
