//! Whether copies and verdicts are what their originals make.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::fd::AsFd;

use elfuse_format::elf_facts::ContentHash;
use elfuse_format::keys;
use elfuse_format::text::{ArchivedTextCopy, RelocatedRun, TextVerdict, copy_name};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};

use super::{dumps, each_file, is_on_tmpfs, is_ours, open_existing, read_copy};
use crate::index::Index;
use crate::inspect::relocated_run;
use crate::patch::scan::{FirstLook, first_look};
use crate::patch::{self, MAX_FILE};
use crate::scan::{Scan, ScannedDir, guest};
use crate::sys::{self, Root};

/// How a copy differs from what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It is not the file that the keys were made of, so nobody believes it.
    Stale,
    /// It is, and is believed, and should not be.
    Wrong,
}

/// What is wrong with copies and verdicts whose keys hold: how, the path of the copy or of the original, and more.
#[must_use]
pub fn differences(
    root: &Root,
    dir: &std::path::Path,
    scan: &Scan,
    index: &Index,
) -> Vec<(Found, Vec<u8>, String)> {
    use std::os::unix::ffi::OsStrExt;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copies = rustix::fs::open(dir, flags, Mode::empty());
    let mut known = HashMap::new();
    index.each_text(|hash, verdict, run, copy| {
        known.insert(hash, (verdict, run, copy));
    });
    let mut originals = BTreeMap::new();
    for scanned in &scan.dirs {
        each_file(scanned, |_, name, hash, size| {
            if known.contains_key(&hash) {
                originals.entry(hash).or_insert((scanned, name, size));
            }
        });
    }
    let each = originals
        .par_iter()
        .filter_map(|(hash, (scanned, name, size))| {
            let (verdict, run, row) = known.get(hash).copied()?;
            let path = guest(&scanned.join(name));
            let expected = expected(root, scanned, name, *size, hash)?;
            let is_same = expected.verdict == verdict
                || (verdict == TextVerdict::Unpatched && expected.verdict != TextVerdict::Clean);
            if !is_same {
                return Some((Found::Wrong, path, "another verdict".to_owned()));
            }
            if run.is_some_and(|run| run != expected.relocated) {
                return Some((Found::Wrong, path, "another relocated run".to_owned()));
            }
            let (row, copy) = row.zip(expected.copy)?;
            let mut path = dir.as_os_str().as_bytes().to_vec();
            path.push(b'/');
            path.extend_from_slice(&copy_name(hash));
            let copies = copies.as_ref().ok()?;
            let read = read_copy(copies, hash, row.size.to_native());
            let Ok(Some((bytes, _))) = read
                .as_ref()
                .map(Option::as_ref)
                .map(|found| found.filter(|(_, identity)| index.copy_holds(row, identity)))
            else {
                return Some((Found::Stale, path, String::new()));
            };
            let same_row = row.checksum.to_native() == copy.checksum
                && row.layout() == Some(copy.block)
                && row.segment() == Some(copy.segment)
                && row.flags.to_native() == copy.flags;
            (*bytes != copy.bytes || !same_row).then(|| (Found::Wrong, path, String::new()))
        });
    let mut found: Vec<_> = each.collect();
    let dumps = dumps::differences(root, scan, index);
    found.extend(dumps.map(|(dir, name)| {
        let path = guest(&dir.join(name));
        (Found::Wrong, path, "another relocated run".to_owned())
    }));
    if copies.is_err() {
        let stale = index.copies().map(|_| {
            (
                Found::Stale,
                dir.as_os_str().as_bytes().to_vec(),
                String::new(),
            )
        });
        found.extend(stale);
    }
    found
}

/// What a file's content makes now.
struct Expected {
    verdict: TextVerdict,
    relocated: RelocatedRun,
    copy: Option<patch::Copy>,
}

/// `None`: it cannot be told.
fn expected(
    root: &Root,
    dir: &ScannedDir,
    name: &[u8],
    size: u64,
    hash: &ContentHash,
) -> Option<Expected> {
    let file = sys::open_file(root.open_dir(&dir.path).ok()?, name).ok()?;
    let relocated = relocated_run(&file, size).ok()?;
    let expected = |verdict, copy| Expected {
        verdict,
        relocated,
        copy,
    };
    match first_look(&file).ok()? {
        FirstLook::NoCode => return None,
        FirstLook::Nothing => return Some(expected(TextVerdict::Clean, None)),
        FirstLook::Something if size > MAX_FILE => {
            return Some(expected(TextVerdict::Unpatched, None));
        }
        FirstLook::Something => {}
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    (&file).take(size).read_to_end(&mut bytes).ok()?;
    let same = *blake3::hash(&bytes).as_bytes() == *hash;
    let analysis = patch::analyse(&bytes).filter(|_| same)?;
    Some(expected(analysis.verdict(), analysis.copy(hash)))
}

/// Whether the copies that are there are those that an index names, as they were, and it says of files and dumps all that an index says. One that it does not name may have been too young to
/// be believed when the index was made.
#[must_use]
pub fn stand(root: &Root, scan: &Scan, index: &Index, store: impl AsFd) -> bool {
    let named: HashMap<_, _> = index
        .copies()
        .map(|row| (copy_name(&row.content_hash), row))
        .collect();
    let dir = match open_existing(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return named.is_empty() && index.has_relocated_runs();
        }
        Err(_) => return false,
        Ok(dir) => dir,
    };
    let holds = |(name, row): (&[u8; 64], &&ArchivedTextCopy)| {
        let found = sys::stat_at(&dir, name);
        found.is_ok_and(|found| index.copy_holds(row, &found.identity))
    };
    let is_named =
        |name: &[u8]| <&[u8; 64]>::try_from(name).is_ok_and(|name| named.contains_key(name));
    let entries = sys::list(dir.as_fd(), usize::MAX - 1);
    let with_copies = index
        .keys()
        .is_some_and(|keys| keys.flags() & keys::flags::WITH_COPIES != 0);
    index.has_relocated_runs()
        && named.iter().all(holds)
        && entries.is_ok_and(|entries| {
            let names = entries.iter().map(|entry| &*entry.name);
            names.filter(|name| is_ours(name)).all(is_named)
        })
        && (!with_copies || is_on_tmpfs(root).unwrap_or(true) || dumps::stand(root, scan, index))
}
