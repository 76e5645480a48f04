//! The patched copies of a sysroot's ELF files: which are there, which are made, and what the keys say of them.
//!
//! A copy is a function of its original's content and is named after it, so one file serves all originals that are the same. It is
//! believed only through a row of the keys that was captured from the very file: whatever else lies in the directory (a copy half
//! written, one of another version, somebody else's file) is replaced or removed, and costs nothing until then.

mod check;
mod dumps;
mod maker;
mod room;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use elfuse_format::elf_facts::ContentHash;
use elfuse_format::keys::{DeviceRow, KeysContent, Seal, Time};
use elfuse_format::names;
use elfuse_format::sidecar::Elf;
use elfuse_format::text::{
    NO_COPY, RelocatedRun, TEXT_DIR, TextCopy, TextIdentity, TextVerdict, copy_name,
};
use object::elf;
use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

pub use self::check::{Found, differences, stand};
use self::maker::{Known, Maker};
use self::room::Room;
use crate::index::Index;
use crate::inspect::Seen;
use crate::patch::Counts;
use crate::publish::is_racy;
use crate::scan::{Scan, ScannedDir, guest};
use crate::sys::{self, Identity, Root};
use crate::warning::{Warning, Warnings};

/// `f_type` of tmpfs, where a write through a shared mapping moves no time: a key does not tell that code is what it was.
const TMPFS: u64 = 0x0102_1994;

/// A file that may have a copy.
#[derive(Debug, Clone, Copy)]
struct Original<'s> {
    dir: &'s ScannedDir,
    /// Number of the directory, here and, of one that was taken over, in the earlier index.
    name: &'s [u8],
    identity: Identity,
    size: u64,
    seen: Option<Seen>,
}

/// What became of a content.
#[derive(Debug, Clone)]
struct Text {
    verdict: TextVerdict,
    counts: Counts,
    relocated: RelocatedRun,
    copy: Option<NewCopy>,
}

/// A copy that is in place.
#[derive(Debug, Clone)]
struct NewCopy {
    /// All but its identity.
    row: TextCopy,
    /// What it was when it was written or compared.
    identity: Identity,
    written: bool,
}

/// What was made, for people and JSON.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct CopiesMade {
    /// Copies that there are.
    pub copies: u64,
    /// Copies that were written.
    pub written: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files in which every site that must be patched is.
    pub complete: u64,
    /// Files in which some are not.
    pub partial: u64,
    /// Files that have sites and no copy.
    pub unpatched: u64,
    /// Sites that are patched, in copies that were made anew.
    pub sites_patched: u64,
    /// Sites that should be and are not, likewise.
    pub sites_refused: u64,
}

/// All copies of a scan.
#[derive(Debug, Default)]
pub struct Copies {
    texts: BTreeMap<ContentHash, Option<Text>>,
    dir: Option<OwnedFd>,
}

/// Whether ELF facts are of a file that could have a copy.
fn is_x86_64(elf: &Elf<'_>) -> bool {
    let row = elf.row;
    let kind = row.elf_type.to_native();
    row.class == elf::ELFCLASS64.0
        && row.data == elf::ELFDATA2LSB.0
        && row.machine.to_native() == elf::EM_X86_64.0
        && (kind == elf::ET_EXEC.0 || kind == elf::ET_DYN.0)
}

/// Calls `each` with every ELF file of a directory that could have a copy: its number among the ELF files, name, and content.
fn each_file<'s>(dir: &'s ScannedDir, mut each: impl FnMut(usize, &'s [u8], ContentHash, u64)) {
    let Some(block) = dir.names() else {
        return;
    };
    for entry in block.entries() {
        if let (Some(name), Some(elf), Some(at)) = (entry.name(), entry.elf(), entry.elf_index())
            && is_x86_64(&elf)
        {
            let size = elf.row.size.to_native();
            each(at as usize, name, elf.row.content_hash, size);
        }
    }
}

fn open_dir(store: impl AsFd) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(&store, TEXT_DIR, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    open_existing(store)
}

/// The directory of the copies in a store.
///
/// # Errors
/// Those of openat(2); also where it is a symlink.
pub fn open_existing(store: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(store, TEXT_DIR, flags, Mode::empty())?)
}

fn is_on_tmpfs(root: &Root) -> io::Result<bool> {
    Ok(sys::file_system(root.fd())?.magic & 0xffff_ffff == TMPFS)
}

/// Whether what changes in a file here shows in its times.
fn tells_changes(fd: impl AsFd) -> bool {
    sys::file_system(fd).is_ok_and(|found| found.trusted && found.magic & 0xffff_ffff != TMPFS)
}

impl Copies {
    /// Analyses what is not known from `earlier`, and writes the copies that are not there. Runs on the pool that it is called in.
    /// # Errors
    /// If the directory of the copies cannot be made.
    pub fn make(
        root: &Root,
        store: impl AsFd,
        scan: &Scan,
        earlier: Option<&Index>,
        warnings: &Warnings,
    ) -> io::Result<Self> {
        if is_on_tmpfs(root)? {
            return Ok(Self::default());
        }
        let mut originals: BTreeMap<ContentHash, Original<'_>> = BTreeMap::new();
        for dir in &scan.dirs {
            each_file(dir, |at, name, hash, size| {
                if let Some(state) = dir.elves.get(at) {
                    originals.entry(hash).or_insert(Original {
                        dir,
                        name,
                        identity: state.identity,
                        size,
                        seen: state.seen,
                    });
                }
            });
        }
        let dir = match open_existing(&store) {
            // Nothing will be put there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && originals.is_empty() => {
                return Ok(Self::default());
            }
            Err(_) => open_dir(store)?,
            Ok(dir) => dir,
        };
        let may_copy = tells_changes(&dir);
        let known = earlier.map(|index| Known::new(index, &dir));
        let maker = Maker {
            root,
            dir: &dir,
            may_copy,
            room: Room::new(),
        };
        let texts: Vec<_> = originals
            .par_iter()
            .map(|(hash, original)| {
                let known = known.as_ref().and_then(|known| known.text(hash));
                let text = known
                    .map(Some)
                    .map_or_else(|| maker.text(hash, original), Ok);
                let text = text.unwrap_or_else(|error| {
                    let path = guest(&original.dir.join(original.name));
                    warnings.add(Warning::NotPatched, &path, error);
                    None
                });
                (*hash, text)
            })
            .collect();
        Ok(Self {
            texts: texts.into_iter().collect(),
            dir: Some(dir),
        })
    }

    /// Whether any copy, or any dump, is so new that its times prove nothing yet.
    #[must_use]
    pub fn has_racy(&self, root: &Root, scan: &Scan, now: Time) -> bool {
        let copies = self
            .texts
            .values()
            .flatten()
            .filter_map(|text| text.copy.as_ref());
        copies.into_iter().any(|copy| is_racy(&copy.identity, now))
            || self.dir.is_some() && dumps::has_racy(root, scan, now)
    }

    /// Adds the rows of files and copies to keys that were captured from `scan`.
    pub fn capture(&self, root: &Root, scan: &Scan, now: Time, keys: &mut KeysContent) {
        let Some(dir) = &self.dir else {
            return;
        };
        let mut numbers: HashMap<ContentHash, u32> = HashMap::new();
        for (hash, text) in &self.texts {
            let Some(copy) = text.as_ref().and_then(|text| text.copy.as_ref()) else {
                continue;
            };
            let same = sys::stat_at(dir, &copy_name(hash))
                .is_ok_and(|found| found.identity == copy.identity);
            let number = u32::try_from(keys.text_copies.len());
            let device = device_slot(keys, copy.identity.dev, dir);
            if let (true, false, Ok(number), Some(device)) =
                (same, is_racy(&copy.identity, now), number, device)
            {
                keys.text_copies.push(TextCopy {
                    ino: copy.identity.ino,
                    size: copy.identity.size,
                    mtime: copy.identity.mtime,
                    ctime: copy.identity.ctime,
                    device,
                    ..copy.row
                });
                numbers.insert(*hash, number);
            }
        }
        // File keys stand in the order of directories and of the ELF files in them.
        let mut first = 0;
        for scanned in &scan.dirs {
            each_file(scanned, |at, _, hash, _| {
                let key = keys.files.get(first + at);
                let text = self.texts.get(&hash).and_then(Option::as_ref);
                let (Some(key), Some(text)) = (key, text) else {
                    return;
                };
                if key.seal != Seal::Sealed as u8 {
                    return;
                }
                let copy = numbers.get(&hash).copied();
                let verdict = match text.verdict {
                    TextVerdict::Complete | TextVerdict::Partial if copy.is_none() => {
                        TextVerdict::Unpatched
                    }
                    verdict => verdict,
                };
                let identity = TextIdentity {
                    ino: key.ino,
                    size: key.size,
                    mtime: key.mtime,
                    ctime: key.ctime,
                    copy: copy.unwrap_or(NO_COPY),
                    device: key.device,
                    verdict: verdict as u8,
                };
                keys.text_identities.push((identity, text.relocated));
            });
            first += scanned.elves.len();
        }
        dumps::capture(root, scan, now, keys);
    }

    /// Removes copies that nothing refers to, and what a killed build left.
    ///
    /// # Errors
    /// Those of reading the directory and of unlinkat(2).
    pub fn tidy(&self) -> io::Result<()> {
        let Some(dir) = &self.dir else {
            return Ok(());
        };
        let has_copy = |(_, text): &(&ContentHash, &Option<Text>)| {
            text.as_ref().is_some_and(|text| text.copy.is_some())
        };
        let wanted: BTreeSet<_> = (self.texts.iter().filter(has_copy))
            .map(|(hash, _)| copy_name(hash))
            .collect();
        remove_others(dir, |name| wanted.iter().any(|wanted| name == wanted))
    }

    /// What there is.
    #[must_use]
    pub fn made(&self) -> CopiesMade {
        let mut made = CopiesMade::default();
        for text in self.texts.values().flatten() {
            match text.verdict {
                TextVerdict::Clean | TextVerdict::Data => {}
                TextVerdict::Complete => made.complete += 1,
                TextVerdict::Partial => made.partial += 1,
                TextVerdict::Unpatched => made.unpatched += 1,
            }
            let counts = text.counts;
            let others = counts.ending + counts.cpuid + counts.growing;
            made.sites_patched += u64::from(counts.patched + others);
            made.sites_refused += u64::from(counts.refused + counts.ending_refused);
            if let Some(copy) = &text.copy {
                made.copies += 1;
                made.bytes += copy.identity.size;
                made.written += u64::from(copy.written);
            }
        }
        made
    }
}

/// Removes all copies of a store, if there are any.
///
/// # Errors
/// Those of opening and reading the directory and of unlinkat(2).
pub fn remove_all(store: impl AsFd) -> io::Result<()> {
    match open_existing(&store) {
        Ok(dir) => remove_others(&dir, |_| false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a name is one that a copy, or one that was being written, has. Others are somebody else's.
fn is_ours(name: &[u8]) -> bool {
    let name = name.strip_suffix(names::TEMPORARY_SUFFIX).unwrap_or(name);
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 64 && name.iter().all(is_digit)
}

fn remove_others(dir: &OwnedFd, is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<()> {
    for entry in sys::list(dir.as_fd(), usize::MAX - 1)? {
        if is_ours(&entry.name) && !is_wanted(&entry.name) {
            match rustix::fs::unlinkat(dir, &*entry.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn device_slot(keys: &mut KeysContent, dev: u64, dir: impl AsFd) -> Option<u16> {
    let known = keys.devices.iter().position(|row| row.dev == dev);
    let at = match known {
        Some(at) => at,
        None => {
            let file_system = sys::file_system(dir).ok()?;
            keys.devices.push(DeviceRow {
                dev,
                fs_type: file_system.magic,
                fs_id: file_system.id,
            });
            keys.devices.len() - 1
        }
    };
    u16::try_from(at).ok()
}

/// The bytes of the copy of this name; `None`: there is none, or not of that length.
pub fn read_copy(
    dir: impl AsFd,
    hash: &ContentHash,
    len: u64,
) -> io::Result<Option<(Vec<u8>, Identity)>> {
    let file = match sys::open_file(dir, &copy_name(hash)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let identity = sys::fstat(&file)?.identity;
    if identity.size != len {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    (&file).take(len).read_to_end(&mut bytes)?;
    let same = sys::fstat(&file)?.identity == identity;
    Ok(same.then_some((bytes, identity)))
}
