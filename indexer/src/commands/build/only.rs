//! `build --only`: sidecars of some directories, and nothing that knows the rest of the tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::Context;
use elfuse_format::keys::Seal;

use super::in_pool;
use crate::error::UsageError;
use crate::exit::Exit;
use crate::options::BuildOptions;
use crate::publish;
use crate::report::{Output, count, human_bytes};
use crate::scan::{self, Scan, ScanOptions, Trust};
use crate::sys::Root;
use crate::warning::Warning;

pub(super) fn only(options: &BuildOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let root = options.sysroot.root();
    let opened = Root::open(root).with_context(|| format!("opening {}", root.display()))?;
    let warnings = out.warnings();
    let tops: Vec<_> = options
        .only
        .iter()
        .map(|path| path.as_bytes()[1..].to_vec())
        .collect();
    let (scan, written) = in_pool(options.jobs, || -> anyhow::Result<_> {
        let scan_options = ScanOptions {
            trust: Trust::Nothing,
            warnings: &warnings,
            progress: &|_| {},
            only: &tops,
        };
        let scan = scan::scan(&opened, &scan_options)
            .with_context(|| format!("reading {}", root.display()))?;
        reached(&scan, &tops)?;
        let written = publish::write_sidecars(&opened, &scan, options.preserve_mtime, &warnings);
        Ok((scan, written))
    })??;
    let indexed = scan.dirs.iter().filter(|dir| dir.state == Seal::Sealed);
    let (directories, entries) = indexed.fold((0, 0), |(dirs, entries), dir| {
        (
            dirs + 1,
            entries + dir.names().map_or(0, |names| names.len() as u64),
        )
    });
    let answer = serde_json::json!({
        "sysroot": options.sysroot.to_string(),
        "directories": directories,
        "entries": entries,
        "sidecars_written": written.files,
        "sidecar_bytes": written.total_bytes,
    });
    if out.is_json() {
        out.json("build", &answer)?;
    } else if !out.is_quiet() {
        let line = format!(
            "{}, {}: {} written, {}",
            count(directories, "directory", "directories"),
            count(entries, "entry", "entries"),
            count(written.files, "sidecar", "sidecars"),
            human_bytes(written.total_bytes)
        );
        writeln!(out.text(), "{line}")?;
        writeln!(
            out.text(),
            "Only sidecars were made; `elfuse-index seal` on the target turns them into an index."
        )?;
    }
    // Elsewhere the store has what a sidecar would; here there is none.
    let all_written = warnings
        .reported()
        .iter()
        .all(|warning| warning.kind != Warning::SidecarNotWritten);
    Ok(if all_written {
        Exit::Success
    } else {
        Exit::Gaps
    })
}

/// Whether the walk came to every directory it was to begin at.
fn reached(scan: &Scan, tops: &[Vec<u8>]) -> Result<(), UsageError> {
    for top in tops {
        let found = scan.dirs.iter().find(|dir| *dir.path == **top);
        let why = match found.map(|dir| dir.state) {
            None => "a symlink is on the way; name the directory itself",
            Some(Seal::MountPoint) => "a mount point; its sysroot begins there",
            // Read, or a warning has said why not.
            Some(_) => continue,
        };
        return Err(UsageError::NoSuchFile {
            path: PathBuf::from(OsStr::from_bytes(&scan::guest(top))),
            why: why.into(),
        });
    }
    Ok(())
}
