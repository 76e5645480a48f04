//! `verify`: every claim of an index against the tree as it is now, read afresh without trusting anything.
//!
//! Two kinds of difference: *stale* (a key does not hold any more: costs speed) and *wrong* (a key holds and vouches for what
//! is not so, or a file contradicts itself). A healthy index has neither, an outdated one only the first.

mod difference;
mod report;

pub use self::difference::Difference;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::Context;
use elfuse_format::keys::Seal;
use elfuse_format::names::LOADER_CACHE;
use elfuse_format::sidecar::{Block, Entry, Kind};
use elfuse_format::text::TEXT_DIR;

use self::report::{Found, Report, print};
use crate::assemble;
use crate::commands::build::in_pool;
use crate::copies;
use crate::exit::Exit;
use crate::index::Index;
use crate::options::VerifyOptions;
use crate::report::{Bytes, Output};
use crate::scan::{self, Scan, ScanOptions, ScannedDir, Trust, guest, join};
use crate::store::Store;
use crate::sys::{self, Root};

/// `elfuse-index verify`.
///
/// # Errors
/// If the tree cannot be read, or there is no index at all.
pub fn run(options: &VerifyOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let path = options.sysroot.root();
    let root = Root::open(path).with_context(|| format!("opening {}", path.display()))?;
    let store = Store::find(path, options.index_dir.as_deref());
    let mut report = Report {
        index: store.dir().display().to_string(),
        ..Report::default()
    };
    match store.load() {
        Ok(None) => anyhow::bail!(
            "verifying {}: no index in {}; make one with `elfuse-index build {}`",
            options.sysroot,
            store.dir().display(),
            options.sysroot
        ),
        Ok(Some(index)) => {
            let warnings = out.warnings();
            let progress = out.progress("verifying", None);
            let scan_options = ScanOptions {
                trust: Trust::Nothing,
                warnings: &warnings,
                progress: &|entries| progress.add(entries),
                only: &[],
            };
            in_pool(options.jobs, || -> anyhow::Result<()> {
                let scan = scan::scan(&root, &scan_options)
                    .with_context(|| format!("reading {}", path.display()))?;
                Verifier {
                    root: &root,
                    index: &index,
                    store: &store,
                    in_tree: store.in_tree(),
                    report: &mut report,
                }
                .verify(&scan)
            })??;
            progress.clear();
        }
        Err(error) => {
            let path = store.dir().as_os_str().as_encoded_bytes().to_vec();
            report.add(
                Difference::Unusable,
                path,
                format!("{:#}", anyhow::Error::from(error)),
            );
        }
    }
    report
        .differences
        .sort_by(|a, b| (a.difference, &a.path).cmp(&(b.difference, &b.path)));
    print(&report, out)?;
    Ok(if report.differences.is_empty() {
        Exit::Success
    } else {
        Exit::No
    })
}

struct Verifier<'a> {
    root: &'a Root,
    index: &'a Index,
    store: &'a Store,
    in_tree: bool,
    report: &'a mut Report,
}

impl Verifier<'_> {
    fn verify(&mut self, scan: &Scan) -> anyhow::Result<()> {
        self.report.directories = scan.dirs.len() as u64;
        self.report.entries = scan.entry_count();
        self.report.elf_files = scan.elf_count();
        if self.index.keys().is_none() {
            self.report.add(Difference::NoKeys, b"/".to_vec(), "");
        }
        let mut claimed = self.claimed_directories();
        for dir in &scan.dirs {
            match claimed.remove(&*dir.path) {
                Some(number) => self.directory(dir, number),
                None => self
                    .report
                    .add(Difference::NotCovered, guest(&dir.path), ""),
            }
        }
        self.inputs();
        self.copies(scan);
        // The names of these are reported in their parents; what lies below them is not repeated.
        // Stale keys of names that are the same do not keep closures from being compared; another coverage does.
        let stale = |found: &Found| match found.difference {
            Difference::StaleKey => found.detail.is_empty(),
            Difference::StaleFileKey
            | Difference::StaleCopy
            | Difference::NoKeys
            | Difference::NoSidecar => true,
            _ => false,
        };
        if self.report.differences.iter().all(stale) {
            self.roll_up(scan)?;
        }
        Ok(())
    }

    /// Path and number of every directory that the index covers, damaged blocks included.
    fn claimed_directories(&mut self) -> HashMap<Vec<u8>, u32> {
        let mut all = HashMap::new();
        let mut stack = vec![(Vec::new(), 0_u32)];
        while let Some((path, number)) = stack.pop() {
            let Some(row) = self.index.dirs().get(number as usize) else {
                continue;
            };
            let block = self.index.block_bytes(number).map(Block::parse);
            match block {
                None if row.block_len.to_native() != 0 => {
                    self.report.add(
                        Difference::Unusable,
                        guest(&path),
                        "its block does not match its checksum",
                    );
                }
                Some(Err(error)) => self.report.add(Difference::Unusable, guest(&path), error),
                Some(Ok(block)) => {
                    let directories = block
                        .entries()
                        .filter(|entry| entry.kind() == Some(Kind::Directory));
                    for entry in directories {
                        let child = entry.rank().and_then(|rank| self.index.child(number, rank));
                        if let Some((child, name)) = child.zip(entry.name()) {
                            stack.push((join(&path, name), child));
                        }
                    }
                }
                None => {}
            }
            all.insert(path, number);
        }
        all
    }

    fn directory(&mut self, dir: &ScannedDir, number: u32) {
        let claimed = self.index.block_bytes(number);
        let holds = dir
            .identity
            .is_some_and(|identity| self.index.dir_key_holds(number, &identity));
        let state = self.index.seal(number);
        match state {
            Some(Seal::Sealed) => self.report.sealed_directories += 1,
            Some(state) => {
                *self
                    .report
                    .unsealed_directories
                    .entry(super::build::seal_name(state))
                    .or_default() += 1
            }
            None => {}
        }
        let has_access_list = || {
            let opened = self.root.open_dir(&dir.path);
            opened.is_ok_and(sys::has_access_list)
        };
        if holds && has_access_list() {
            self.report
                .add(Difference::SealedAccessList, guest(&dir.path), "");
        }
        match claimed {
            None => {
                if !dir.block.is_empty() {
                    self.report
                        .add(Difference::NotCovered, guest(&dir.path), "");
                }
                return;
            }
            Some(bytes) if bytes == &*dir.block => {
                if state == Some(Seal::Sealed) && !holds {
                    self.report.add(Difference::StaleKey, guest(&dir.path), "");
                }
            }
            Some(_) if dir.block.is_empty() => {
                let why = format!("now: {}", super::build::seal_name(dir.state));
                self.report.add(Difference::StaleKey, guest(&dir.path), why);
                return;
            }
            Some(bytes) => {
                if holds && names_differ(bytes, &dir.block) {
                    self.report.add(Difference::WrongKey, guest(&dir.path), "");
                }
                self.names(dir, bytes);
            }
        }
        if let Some(bytes) = claimed {
            self.elf_keys(dir, number, bytes);
            // Gone without a trace in the directory's times it never was there: nobody could write it.
            let was_never_there = holds && !dir.has_sidecar;
            if self.in_tree && !was_never_there {
                self.sidecar(dir, bytes);
            }
        }
    }

    fn names(&mut self, dir: &ScannedDir, claimed: &[u8]) {
        let (Ok(claimed), Some(real)) = (Block::parse(claimed), dir.names()) else {
            self.report.add(
                Difference::Unusable,
                guest(&dir.path),
                "its block cannot be read",
            );
            return;
        };
        for entry in claimed.entries() {
            let Some(name) = entry.name() else { continue };
            let path = guest(&dir.join(name));
            match real.find(name) {
                Ok(Some(found)) => {
                    if let Some((difference, detail)) = compare(&entry, &found) {
                        self.report.add(difference, path, detail);
                    }
                }
                _ => self.report.add(Difference::NoSuchName, path, ""),
            }
        }
        for entry in real.entries() {
            let Some(name) = entry.name() else { continue };
            if !matches!(claimed.find(name), Ok(Some(_))) {
                self.report
                    .add(Difference::MissingName, guest(&dir.join(name)), "");
            }
        }
    }

    fn elf_keys(&mut self, dir: &ScannedDir, number: u32, claimed: &[u8]) {
        if self.index.keys().is_none() {
            return;
        }
        let (Ok(claimed), Some(real)) = (Block::parse(claimed), dir.names()) else {
            return;
        };
        for entry in claimed.entries() {
            let (Some(elf), Some(name)) = (entry.elf_index(), entry.name()) else {
                continue;
            };
            let Some(found) = real.find(name).ok().flatten() else {
                continue;
            };
            let state = found
                .elf_index()
                .and_then(|index| dir.elves.get(index as usize));
            let identity = match state {
                Some(state) => Some(state.identity),
                None => self
                    .root
                    .stat(&dir.join(name))
                    .ok()
                    .map(|status| status.identity),
            };
            let holds =
                identity.is_some_and(|identity| self.index.file_key_holds(number, elf, &identity));
            let same =
                entry.elf().map(|elf| elf.to_facts()) == found.elf().map(|elf| elf.to_facts());
            if holds && !same {
                self.report
                    .add(Difference::WrongFileKey, guest(&dir.join(name)), "");
            } else if !holds && same && self.index.file_key_is_sealed(number, elf) {
                self.report
                    .add(Difference::StaleFileKey, guest(&dir.join(name)), "");
            }
        }
    }

    fn sidecar(&mut self, dir: &ScannedDir, claimed: &[u8]) {
        let fd = self.root.open_dir(&dir.path);
        match fd.ok().and_then(|fd| scan::read_sidecar(fd.as_fd())) {
            None => self.report.add(Difference::NoSidecar, guest(&dir.path), ""),
            Some(bytes) if bytes != claimed => {
                self.report
                    .add(Difference::SidecarDiffers, guest(&dir.path), "")
            }
            Some(_) => {}
        }
    }

    fn cache_path(&self) -> Vec<u8> {
        Path::new(&self.report.index)
            .join(LOADER_CACHE)
            .into_os_string()
            .into_vec()
    }

    /// Configuration files. Another content is found by [`Verifier::roll_up`].
    fn inputs(&mut self) {
        if self.index.keys().is_none() {
            return;
        }
        let cache = self.index.loader_cache();
        let inputs = match cache.inputs() {
            Ok(inputs) => inputs,
            Err(error) => {
                self.report
                    .add(Difference::Unusable, self.cache_path(), error);
                return;
            }
        };
        for (number, (path, _)) in inputs.rows().enumerate() {
            let found = self.root.stat(path.get(1..).unwrap_or_default());
            let holds =
                found.is_ok_and(|found| self.index.input_key_holds(number, &found.identity));
            if self.index.input_key_is_sealed(number) && !holds {
                self.report.add(Difference::StaleFileKey, path.to_vec(), "");
            }
        }
    }

    /// Patched copies, each against what would be made now.
    fn copies(&mut self, scan: &Scan) {
        let dir = self.store.dir().join(TEXT_DIR);
        for (found, path, detail) in copies::differences(self.root, &dir, scan, self.index) {
            let difference = match found {
                copies::Found::Stale => Difference::StaleCopy,
                copies::Found::Wrong => Difference::WrongCopy,
            };
            self.report.add(difference, path, detail);
        }
    }

    fn roll_up(&mut self, scan: &Scan) -> anyhow::Result<()> {
        let closures = assemble::closures(scan, self.root);
        let expected =
            assemble::loader_cache(scan, closures).context("assembling the loader cache afresh")?;
        if expected != self.index.loader_cache_bytes() {
            self.report
                .add(Difference::RollUpDiffers, self.cache_path(), "");
        }
        Ok(())
    }
}

/// Whether two blocks differ in more than ELF facts, which have keys of their own.
fn names_differ(a: &[u8], b: &[u8]) -> bool {
    let (Ok(a), Ok(b)) = (Block::parse(a), Block::parse(b)) else {
        return true;
    };
    a.len() != b.len()
        || a.entries()
            .zip(b.entries())
            .any(|(a, b)| a.name() != b.name() || a.kind() != b.kind() || a.target() != b.target())
}

fn compare(claimed: &Entry<'_>, real: &Entry<'_>) -> Option<(Difference, String)> {
    if claimed.kind() != real.kind() {
        return Some((
            Difference::WrongKind,
            format!(
                "{:?} in the index, {:?} in the tree",
                claimed.kind()?,
                real.kind()?
            ),
        ));
    }
    if let (Some(claimed), Some(real)) = (claimed.target(), real.target()) {
        let detail = || {
            format!(
                "{} in the index, {} in the tree",
                Bytes(claimed.to_vec()),
                Bytes(real.to_vec())
            )
        };
        return (claimed != real).then(|| (Difference::WrongTarget, detail()));
    }
    let facts = |entry: &Entry<'_>| entry.elf().and_then(|elf| elf.to_facts());
    let (claimed_facts, real_facts) = (facts(claimed), facts(real));
    let detail = match (&claimed_facts, &real_facts) {
        (Some(claimed), Some(real)) if claimed.content_hash != real.content_hash => {
            "another content"
        }
        (Some(_), None) => "facts in the index, no ELF file in the tree",
        (None, Some(_)) => "an ELF file in the tree, no facts in the index",
        _ => "",
    };
    let differs = claimed_facts != real_facts || claimed.is_broken_elf() != real.is_broken_elf();
    differs.then(|| (Difference::WrongFacts, detail.to_owned()))
}
