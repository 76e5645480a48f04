//! Dumps: files without code that are relocated all the same ([`crate::relocated::dump`]). They have no facts, so that nothing of them is
//! taken over: each build looks at those that there are, of which most trees have none and others one.

use std::io;

use elfuse_format::keys::{KeysContent, Time};
use elfuse_format::text::{NO_COPY, RelocatedRun, TextIdentity, TextVerdict};

use super::device_slot;
use crate::index::Index;
use crate::plain;
use crate::publish::is_racy;
use crate::relocated::dump;
use crate::scan::{Scan, ScannedDir};
use crate::sys::{self, Identity, Root};

/// A dump that has a run.
#[derive(Debug)]
struct Dump {
    /// The state that the run is of.
    identity: Identity,
    /// Pages that are relocated.
    relocated: RelocatedRun,
}

/// All files of a scan that are named like dumps: directory and name.
fn named(scan: &Scan) -> impl Iterator<Item = (&ScannedDir, &[u8])> {
    scan.dirs.iter().flat_map(|dir| {
        let block = dir.names();
        let names = block.into_iter().flat_map(|block| plain::names(&block));
        let names = names.filter(|(name, _)| name.ends_with(dump::SUFFIX));
        names.map(move |(name, _)| (dir, name))
    })
}

/// What is to be said of such a file; `None`: nothing.
///
/// # Errors
/// What opening or reading gives.
fn look(root: &Root, dir: &ScannedDir, name: &[u8]) -> io::Result<Option<Dump>> {
    let file = sys::open_file(root.open_dir(&dir.path)?, name)?;
    let identity = sys::fstat(&file)?.identity;
    if identity.dev != root.dev() {
        return Ok(None);
    }
    let run = dump::dumped(&file, identity.size)?;
    let same = sys::fstat(&file)?.identity == identity;
    Ok(run.filter(|_| same).map(|relocated| Dump {
        identity,
        relocated,
    }))
}

/// Whether an index says of each dump what there is to say.
pub(super) fn stand(root: &Root, scan: &Scan, index: &Index) -> bool {
    named(scan).all(|(dir, name)| {
        let known = || {
            let found = sys::stat_at(root.open_dir(&dir.path).ok()?, name).ok()?;
            index.relocated_run(&found.identity)
        };
        known().is_some() || !matches!(look(root, dir, name), Ok(Some(_)))
    })
}

/// Those of which an index, by a row that holds, says something else than there is to say.
pub(super) fn differences<'s>(
    root: &Root,
    scan: &'s Scan,
    index: &Index,
) -> impl Iterator<Item = (&'s ScannedDir, &'s [u8])> {
    named(scan).filter(move |(dir, name)| {
        let Ok(Some(dump)) = look(root, dir, name) else {
            return false;
        };
        let known = index.relocated_run(&dump.identity);
        known.is_some_and(|run| run != dump.relocated)
    })
}

/// Whether any is so new that its times prove nothing yet.
pub(super) fn has_racy(root: &Root, scan: &Scan, now: Time) -> bool {
    named(scan).any(|(dir, name)| {
        let dir = root.open_dir(&dir.path);
        let found = dir.and_then(|dir| sys::stat_at(dir, name));
        found.is_ok_and(|found| is_racy(&found.identity, now))
    })
}

/// Adds the rows of all dumps to keys. One that cannot be read has none, nor has one so young that a change would not show.
pub(super) fn capture(root: &Root, scan: &Scan, now: Time, keys: &mut KeysContent) {
    for (dir, name) in named(scan) {
        let Ok(Some(Dump {
            identity,
            relocated,
        })) = look(root, dir, name)
        else {
            continue;
        };
        let device = device_slot(keys, identity.dev, root.fd());
        if let (Some(device), false) = (device, is_racy(&identity, now)) {
            let identity = TextIdentity {
                ino: identity.ino,
                size: identity.size,
                mtime: identity.mtime,
                ctime: identity.ctime,
                copy: NO_COPY,
                device,
                verdict: TextVerdict::Data as u8,
            };
            keys.text_identities.push((identity, relocated));
        }
    }
}
