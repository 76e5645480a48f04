//! What a build did: counted from the scan and from what was written, then told to people or as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use elfuse_format::keys::Seal;
use serde::Serialize;

use super::Maker;
use crate::copies::CopiesMade;
use crate::publish::{Captured, SidecarsWritten};
use crate::report::{Output, Style, count, human_bytes};
use crate::scan::Scan;

/// What was done, for people and as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    sysroot: String,
    index: String,
    in_tree: bool,
    directories: u64,
    entries: u64,
    elf_files: u64,
    libraries: u64,
    programs: u64,
    directories_reused: u64,
    elf_files_reused: u64,
    sidecars_written: u64,
    sidecar_bytes: u64,
    store_bytes: u64,
    bytes_written: u64,
    unsealed_directories: BTreeMap<&'static str, u64>,
    unsealed_files: BTreeMap<&'static str, u64>,
    file_system: String,
    file_system_trusted: bool,
    unchanged: bool,
    /// Patched copies; none with `--no-patch`, and where nothing has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    patched: Option<CopiesMade>,
    seconds: Seconds,
}

/// Where the time went.
#[derive(Debug, Default, Serialize)]
pub(super) struct Seconds {
    pub(super) load: f64,
    pub(super) scan: f64,
    pub(super) write_sidecars: f64,
    pub(super) assemble: f64,
    pub(super) patch: f64,
    pub(super) sync: f64,
    pub(super) capture: f64,
    pub(super) publish: f64,
    /// Everything but the racy wait.
    pub(super) work: f64,
    pub(super) racy_wait: f64,
}

impl Maker<'_> {
    pub(super) fn summary(
        mut self,
        scan: &Scan,
        written: SidecarsWritten,
        captured: Option<&Captured>,
        store_bytes: u64,
        patched: Option<CopiesMade>,
    ) -> Summary {
        let total = self.began.elapsed().as_secs_f64();
        self.seconds.work = total - self.seconds.racy_wait;
        let unsealed = |states: &BTreeMap<Seal, u64>| {
            let unsealed = states.iter().filter(|(state, _)| **state != Seal::Sealed);
            unsealed
                .map(|(state, number)| (seal_name(*state), *number))
                .collect()
        };
        let (mut libraries, mut programs) = (0, 0);
        for block in scan.dirs.iter().filter_map(|dir| dir.names()) {
            for elf in (0..block.elf_count()).filter_map(|i| block.elf(i)) {
                libraries += u64::from(elf.soname().is_some());
                programs += u64::from(elf.interpreter().is_some() && elf.soname().is_none());
            }
        }
        Summary {
            sysroot: self.job.root.display().to_string(),
            index: self.store.dir().display().to_string(),
            in_tree: self.store.in_tree(),
            directories: scan.dirs.len() as u64,
            entries: scan.entry_count(),
            elf_files: scan.elf_count(),
            libraries,
            programs,
            directories_reused: scan.dirs.iter().filter(|dir| dir.sealed).count() as u64,
            elf_files_reused: scan
                .dirs
                .iter()
                .flat_map(|dir| &dir.elves)
                .filter(|elf| elf.sealed)
                .count() as u64,
            sidecars_written: written.files,
            sidecar_bytes: written.total_bytes,
            store_bytes,
            bytes_written: written.bytes + if captured.is_some() { store_bytes } else { 0 },
            unsealed_directories: captured
                .map(|c| unsealed(&c.directories))
                .unwrap_or_default(),
            unsealed_files: captured.map(|c| unsealed(&c.files)).unwrap_or_default(),
            file_system: self.file_system.name.clone(),
            file_system_trusted: self.file_system.trusted,
            unchanged: captured.is_none(),
            patched,
            seconds: self.seconds,
        }
    }
}

/// For people.
#[must_use]
pub fn seal_name(state: Seal) -> &'static str {
    match state {
        Seal::Sealed => "sealed",
        Seal::Racy => "too young",
        Seal::Changed => "changed meanwhile",
        Seal::Unreadable => "unreadable",
        Seal::MountPoint => "mount point",
        Seal::TooLarge => "too many names",
        Seal::NotIndexed => "not indexed",
        Seal::AccessList => "access control list",
    }
}

pub(super) fn print(command: &str, summary: &Summary, out: &mut Output) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json(command, summary);
    }
    if out.is_quiet() {
        return Ok(());
    }
    let seconds = &summary.seconds;
    let mut lines = Vec::new();
    lines.push(format!(
        "{}, {}, {} ({}, {})",
        count(summary.directories, "directory", "directories"),
        count(summary.entries, "entry", "entries"),
        count(summary.elf_files, "ELF file", "ELF files"),
        count(summary.libraries, "library", "libraries"),
        count(summary.programs, "program", "programs"),
    ));
    if summary.unchanged {
        lines.push("nothing has changed; the index stands".to_owned());
    } else {
        lines.push(format!(
            "{} written: {} of {}, store {}",
            human_bytes(summary.bytes_written),
            count(summary.sidecars_written, "sidecar", "sidecars"),
            human_bytes(summary.sidecar_bytes),
            human_bytes(summary.store_bytes),
        ));
        if summary.directories_reused > 0 {
            lines.push(format!(
                "{} and {} not read again",
                count(summary.directories_reused, "directory", "directories"),
                count(summary.elf_files_reused, "ELF file", "ELF files"),
            ));
        }
    }
    if let Some(patched) = &summary.patched {
        lines.push(format!(
            "{} ({} written), {}: {} patched throughout, {} in part, {} not",
            count(patched.copies, "patched copy", "patched copies"),
            patched.written,
            human_bytes(patched.bytes),
            patched.complete,
            patched.partial,
            patched.unpatched,
        ));
    }
    for (what, states) in [
        ("directories", &summary.unsealed_directories),
        ("ELF files", &summary.unsealed_files),
    ] {
        for (state, number) in states {
            lines.push(out.paint(Style::Caution, format!("{number} {what} unsealed: {state}")));
        }
    }
    let place = PathBuf::from(&summary.index);
    lines.push(format!(
        "{:.2} s (reading {:.2}, writing {:.2}, resolving {:.2}, patching {:.2}, sealing {:.2}), racy wait {:.2} s apart; index in {}",
        seconds.work,
        seconds.scan,
        seconds.write_sidecars + seconds.publish,
        seconds.assemble,
        seconds.patch,
        seconds.capture,
        seconds.racy_wait,
        place.display(),
    ));
    for line in lines {
        writeln!(out.text(), "{line}")?;
    }
    Ok(())
}
