//! A sysroot as it is now, for questions about all of it: what the index says where its keys hold, read afresh everywhere else.
//! Nothing is written, so that an answer is right whether the index is up to date, outdated, broken or not there.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Context;
use elfuse_format::keys::flags::FOREIGN_FILE_SYSTEM;

use crate::commands::build::in_pool;
use crate::index::Index;
use crate::options::Sysroot;
use crate::report::Output;
use crate::scan::{self, Scan, ScanOptions, Trust};
use crate::store::Store;
use crate::sys::Root;

/// What there is.
#[derive(Debug)]
pub struct Current {
    /// Where the index is, or would be.
    pub store: Store,
    /// The index, if there is one that can be used.
    pub index: Option<Index>,
    /// The tree.
    pub scan: Scan,
}

/// Scans `sysroot` without writing.
///
/// # Errors
/// If the root cannot be read. Whatever else cannot is a warning.
pub fn current(
    sysroot: &Sysroot,
    index_dir: Option<&Path>,
    out: &mut Output,
) -> anyhow::Result<Current> {
    let path = sysroot.root();
    let root = Root::open(path).with_context(|| format!("opening {}", path.display()))?;
    let store = Store::find(path, index_dir);
    let index = match store.load() {
        Ok(index) => index,
        Err(error) => {
            let error = anyhow::Error::from(error);
            out.note(format!(
                "The index cannot be used and is left aside: {error:#}"
            ));
            None
        }
    };
    let trust = match &index {
        Some(index) if can_be_believed(index) => Trust::Keys(index),
        _ => Trust::Nothing,
    };
    let warnings = out.warnings();
    let progress = out.progress("reading", None);
    let options = ScanOptions {
        trust,
        warnings: &warnings,
        progress: &|entries| progress.add(entries),
        only: &[],
    };
    let jobs = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let scan = in_pool(jobs, || scan::scan(&root, &options))?;
    progress.clear();
    let scan = scan.with_context(|| format!("reading {}", path.display()))?;
    Ok(Current { store, index, scan })
}

/// Where time stamps are not reliable, a key that holds proves nothing.
fn can_be_believed(index: &Index) -> bool {
    index
        .keys()
        .is_some_and(|keys| keys.flags() & FOREIGN_FILE_SYSTEM == 0)
}
