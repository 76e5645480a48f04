//! `elfuse-index ldcache`: a loader cache in glibc's format, of a whole sysroot or of a few programs.
//!
//! | module | what |
//! |---|---|
//! | [`scan`] | the libraries that `ldconfig -r` would list |
//! | [`application`] | the libraries that programs need, through their RUNPATHs |
//! | [`machine`] | what of that depends on the architecture |
//! | [`deliver`] | writes the file |

pub mod application;
pub mod deliver;
pub mod machine;
pub mod scan;

use anyhow::Context;
use elfuse_format::ld_so_cache::{self, Need, Row, in_file_order};
use serde::Serialize;

use crate::error::UsageError;
use crate::exit::Exit;
use crate::live::LiveTree;
use crate::options::{GuestPath, LdcacheOptions, LdcacheOutput};
use crate::report::{Bytes, Output, count, human_bytes};
use crate::tree::Tree;
use crate::warning::{Warning, Warnings};

use application::{Conflict, closure};
use deliver::deliver;
use scan::{MissingLink, ScanOptions, scan};

/// What `ldconfig -p` says wrote our caches. The version is not in it: same tree, same bytes.
pub const GENERATOR: &[u8] = b"elfuse-index ldcache";

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The sysroot, as typed.
    pub sysroot: String,
    /// The programs it is for; empty for the whole sysroot.
    pub programs: Vec<Bytes>,
    /// Where the cache is, unless it is the standard output.
    pub output: Option<Bytes>,
    /// Its size.
    pub size_byte: u64,
    /// Every row, in the order of the file.
    pub libraries: Vec<Library>,
    /// Directories searched; empty where programs were given.
    pub directories: Vec<Bytes>,
    /// Links that ldconfig would have made.
    pub missing_links: Vec<MissingLink>,
    /// Names that mean different files to different requesters.
    pub conflicts: Vec<Conflict>,
}

/// A cache that was put together, and what it was made of.
#[derive(Debug)]
pub struct Built {
    /// The file.
    pub bytes: Vec<u8>,
    /// Its rows, in its order.
    pub rows: Vec<Row>,
    /// Directories searched; none for programs.
    pub directories: Vec<Vec<u8>>,
    /// Links that ldconfig would have made.
    pub missing_links: Vec<MissingLink>,
    /// Names that mean different files to different requesters.
    pub conflicts: Vec<Conflict>,
}

/// One row of the cache.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Library {
    /// What a program asks for.
    pub soname: Bytes,
    /// What it gets.
    pub path: Bytes,
    /// C library and architecture, as `ldconfig -p` prints them.
    pub kind: String,
    /// The subdirectory of `glibc-hwcaps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hwcaps: Option<Bytes>,
    /// Capabilities as glibc before 2.37 counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legacy_hwcaps: Option<u64>,
}

impl From<&Row> for Library {
    fn from(row: &Row) -> Library {
        let legacy_hwcaps = match row.need {
            Need::Legacy(bits) => Some(bits),
            Need::Any | Need::Named { .. } => None,
        };
        Library {
            soname: Bytes(row.key.clone()),
            path: Bytes(row.value.clone()),
            kind: row.flags.to_string(),
            hwcaps: row.need.directory().map(|name| Bytes(name.to_vec())),
            legacy_hwcaps,
        }
    }
}

/// The cache of a whole sysroot: what ldconfig would make of it.
///
/// # Errors
/// It does not fit the format.
pub fn build_for_sysroot(
    tree: &dyn Tree,
    options: &ScanOptions,
    warnings: &Warnings,
) -> anyhow::Result<Built> {
    let found = scan(tree, options, warnings);
    for link in &found.missing_links {
        let should = format!("should lead to {}", link.target);
        warnings.add(Warning::LibraryLinkMissing, &link.path.0, should);
    }
    let rows = in_file_order(found.rows);
    Ok(Built {
        bytes: write(&rows)?,
        rows,
        directories: found.directories,
        missing_links: found.missing_links,
        conflicts: Vec::new(),
    })
}

/// The cache of what `programs` (absolute guest paths) need.
///
/// # Errors
/// As [`closure`], or it does not fit the format.
pub fn build_for_programs(
    tree: &dyn Tree,
    programs: &[&[u8]],
    warnings: &Warnings,
) -> anyhow::Result<Built> {
    let found = closure(tree, programs, warnings)?;
    let rows = in_file_order(found.rows);
    Ok(Built {
        bytes: write(&rows)?,
        rows,
        directories: Vec::new(),
        missing_links: Vec::new(),
        conflicts: found.conflicts,
    })
}

fn write(rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    ld_so_cache::write(rows.iter().cloned(), GENERATOR).context("putting the loader cache together")
}

/// Carries out `ldcache`.
///
/// # Errors
/// The sysroot cannot be opened, a program cannot be read, or the cache cannot be written.
pub fn run(options: &LdcacheOptions, out: &mut Output) -> anyhow::Result<Exit> {
    if out.is_json() && options.output == LdcacheOutput::Stdout {
        let what = "--json and -o - both want the standard output; give -o a file".to_owned();
        return Err(UsageError::Contradiction(what).into());
    }
    let sysroot = &options.sysroot;
    let tree =
        LiveTree::open(sysroot.root()).with_context(|| format!("opening the sysroot {sysroot}"))?;
    let built = if options.programs.is_empty() {
        build_for_sysroot(&tree, &ScanOptions::default(), &out.warnings())?
    } else {
        let programs: Vec<&[u8]> = options.programs.iter().map(GuestPath::as_bytes).collect();
        build_for_programs(&tree, &programs, &out.warnings())?
    };
    let output = deliver(&options.sysroot, &options.output, &built.bytes, out)?;
    let report = Report {
        sysroot: sysroot.to_string(),
        programs: options
            .programs
            .iter()
            .map(|program| Bytes(program.as_bytes().to_vec()))
            .collect(),
        output,
        size_byte: built.bytes.len() as u64,
        libraries: built.rows.iter().map(Library::from).collect(),
        directories: built.directories.into_iter().map(Bytes).collect(),
        missing_links: built.missing_links,
        conflicts: built.conflicts,
    };
    if out.is_json() {
        out.json("ldcache", &report)?;
    } else if let Some(output) = &report.output {
        let summary = format!(
            "{} in {output} ({})",
            count(report.libraries.len() as u64, "library", "libraries"),
            human_bytes(report.size_byte)
        );
        out.note(summary);
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::options::Sysroot;

    /// Output that a test can read.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn options(root: &std::path::Path, output: LdcacheOutput) -> LdcacheOptions {
        LdcacheOptions {
            sysroot: Sysroot::open(root).unwrap(),
            programs: Vec::new(),
            output,
        }
    }

    #[test]
    fn the_cache_goes_into_the_store_and_the_report_says_so() {
        let root = tempfile::tempdir().unwrap();
        let (text, notes) = (Kept::default(), Kept::default());
        let mut out = Output::to_writers(Box::new(text.clone()), Box::new(notes), true);
        let exit = run(&options(root.path(), LdcacheOutput::Store), &mut out).unwrap();
        assert_eq!(out.finish(exit).unwrap(), Exit::Success);

        let bytes = std::fs::read(root.path().join(".elfuse/ld.so.cache")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&text.0.lock().unwrap()).unwrap();
        assert_eq!(report["schema"], 1);
        assert_eq!(report["size_byte"], bytes.len());
        assert!(
            report["output"]
                .as_str()
                .unwrap()
                .ends_with("/.elfuse/ld.so.cache")
        );
        assert_eq!(report["libraries"], serde_json::json!([]));
    }

    #[test]
    fn the_cache_and_json_cannot_both_have_the_standard_output() {
        let root = tempfile::tempdir().unwrap();
        let text = Kept::default();
        let mut out = Output::to_writers(Box::new(text.clone()), Box::new(text.clone()), true);
        let error = run(&options(root.path(), LdcacheOutput::Stdout), &mut out).unwrap_err();
        assert!(error.is::<UsageError>());
        assert!(text.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes_on_the_standard_output() {
        let root = tempfile::tempdir().unwrap();
        let caches = [(); 2].map(|()| {
            let text = Kept::default();
            let mut out =
                Output::to_writers(Box::new(text.clone()), Box::new(Kept::default()), false);
            let exit = run(&options(root.path(), LdcacheOutput::Stdout), &mut out).unwrap();
            out.finish(exit).unwrap();
            text.0.lock().unwrap().clone()
        });
        assert_eq!(caches[0], caches[1]);
        let cache = ld_so_cache::LdSoCache::parse(&caches[0]).unwrap();
        assert_eq!(cache.generator(), Some(GENERATOR));
    }
}
