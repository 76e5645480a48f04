//! Dumps: files without code that are relocated all the same ([`crate::relocated::dump`]). They have no facts, so that nothing of them is
//! taken over: each build looks at those that there are, of which most trees have none and others one.

use std::collections::HashSet;
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

/// A file that is named like a dump.
struct Named<'s> {
    dir: &'s ScannedDir,
    name: &'s [u8],
    /// Its state, a moment ago.
    identity: Identity,
}

/// All of a scan, each file under one of its names.
fn named<'s>(root: &Root, scan: &'s Scan) -> impl Iterator<Item = Named<'s>> {
    let names = scan.dirs.iter().flat_map(|dir| {
        let block = dir.names();
        let names = block.into_iter().flat_map(|block| plain::names(&block));
        let names = names.filter(|(name, _)| name.ends_with(dump::SUFFIX));
        names.map(move |(name, _)| (dir, name))
    });
    let mut seen = HashSet::new();
    names.filter_map(move |(dir, name)| {
        let found = sys::stat_at(root.open_dir(&dir.path).ok()?, name).ok()?;
        let identity = found.identity;
        let is_first = identity.dev == root.dev() && seen.insert(identity.ino);
        is_first.then_some(Named {
            dir,
            name,
            identity,
        })
    })
}

/// What is to be said of such a file; `None`: nothing.
///
/// # Errors
/// What opening or reading gives.
fn look(root: &Root, named: &Named<'_>) -> io::Result<Option<Dump>> {
    let file = sys::open_file(root.open_dir(&named.dir.path)?, named.name)?;
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
    named(root, scan).all(|named| {
        index.relocated_run(&named.identity).is_some() || !matches!(look(root, &named), Ok(Some(_)))
    })
}

/// Those of which an index, by a row that holds, says something else than there is to say.
pub(super) fn differences<'s>(
    root: &Root,
    scan: &'s Scan,
    index: &Index,
) -> impl Iterator<Item = (&'s ScannedDir, &'s [u8])> {
    named(root, scan).filter_map(move |named| {
        let dump = look(root, &named).ok()??;
        let known = index.relocated_run(&dump.identity)?;
        (known != dump.relocated).then_some((named.dir, named.name))
    })
}

/// Whether any is so new that its times prove nothing yet.
pub(super) fn has_racy(root: &Root, scan: &Scan, now: Time) -> bool {
    named(root, scan).any(|named| is_racy(&named.identity, now))
}

/// Adds the rows of all dumps to keys. One that cannot be read has none, nor has one so young that a change would not show.
pub(super) fn capture(root: &Root, scan: &Scan, now: Time, keys: &mut KeysContent) {
    for named in named(root, scan) {
        let Ok(Some(Dump {
            identity,
            relocated,
        })) = look(root, &named)
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
