//! The patched copies of a sysroot's ELF files: which are there, which are made, and what the keys say of them.
//!
//! A copy is a function of its original's content and is named after it, so one file serves all originals that are the same. It is
//! believed only through a row of the keys that was captured from the very file: whatever else lies in the directory (a copy half
//! written, one of another version, somebody else's file) is replaced or removed, and costs nothing until then.

mod room;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use elfuse_format::elf_facts::ContentHash;
use elfuse_format::keys::{DeviceRow, KeysContent, Seal, Time};
use elfuse_format::names;
use elfuse_format::sidecar::Elf;
use elfuse_format::text::{
    ArchivedTextCopy, NO_COPY, SET_VERSION, TEXT_DIR, TextCopy, TextIdentity, TextVerdict,
    copy_name,
};
use object::elf;
use rayon::prelude::*;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use self::room::Room;
use crate::index::Index;
use crate::patch::scan::{FirstLook, first_look};
use crate::patch::{self, Counts, MAX_FILE};
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
    look: Option<FirstLook>,
}

/// What became of a content.
#[derive(Debug, Clone)]
struct Text {
    verdict: TextVerdict,
    counts: Counts,
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
        let on_tmpfs = sys::file_system(root.fd())?.magic & 0xffff_ffff == TMPFS;
        if on_tmpfs {
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
                        look: state.look,
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

    /// Whether any copy is so new that its times prove nothing yet.
    #[must_use]
    pub fn has_racy(&self, now: Time) -> bool {
        let copies = self
            .texts
            .values()
            .flatten()
            .filter_map(|text| text.copy.as_ref());
        copies.into_iter().any(|copy| is_racy(&copy.identity, now))
    }

    /// Adds the rows of files and copies to keys that were captured from `scan`.
    pub fn capture(&self, scan: &Scan, now: Time, keys: &mut KeysContent) {
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
                keys.text_identities.push(TextIdentity {
                    ino: key.ino,
                    size: key.size,
                    mtime: key.mtime,
                    ctime: key.ctime,
                    copy: copy.unwrap_or(NO_COPY),
                    device: key.device,
                    verdict: verdict as u8,
                });
            });
            first += scanned.elves.len();
        }
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
                TextVerdict::Clean => {}
                TextVerdict::Complete => made.complete += 1,
                TextVerdict::Partial => made.partial += 1,
                TextVerdict::Unpatched => made.unpatched += 1,
            }
            let counts = text.counts;
            made.sites_patched += u64::from(counts.patched + counts.ending + counts.cpuid);
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

/// What files are analysed with.
struct Maker<'m> {
    root: &'m Root,
    /// Where copies go.
    dir: &'m OwnedFd,
    may_copy: bool,
    room: Room,
}

impl Maker<'_> {
    /// Analyses a file, and puts its copy into place. `None`: it has no executable code, or is not what it was when it was scanned.
    fn text(&self, hash: &ContentHash, original: &Original<'_>) -> io::Result<Option<Text>> {
        let without_copy = |verdict| Text {
            verdict,
            counts: Counts::default(),
            copy: None,
        };
        // What was seen when the hash was made is of the very bytes that it is of.
        match original.look {
            Some(FirstLook::NoCode) => return Ok(None),
            Some(FirstLook::Nothing) => return Ok(Some(without_copy(TextVerdict::Clean))),
            Some(FirstLook::Something) | None => {}
        }
        let file = sys::open_file(self.root.open_dir(&original.dir.path)?, original.name)?;
        if sys::fstat(&file)?.identity != original.identity {
            return Ok(None);
        }
        let look = match original.look {
            Some(look) => look,
            None => first_look(&file)?,
        };
        match look {
            FirstLook::NoCode => return Ok(None),
            FirstLook::Nothing => return Ok(Some(without_copy(TextVerdict::Clean))),
            FirstLook::Something if original.size > MAX_FILE => {
                return Ok(Some(without_copy(TextVerdict::Unpatched)));
            }
            FirstLook::Something => {}
        }
        let mut bytes = self.room.take(original.size);
        (&file).take(original.size).read_to_end(&mut bytes)?;
        // Times do not tell of every write through a mapping, and what is found here is believed of all files of this content.
        if *blake3::hash(&bytes).as_bytes() != *hash {
            return Ok(None);
        }
        let Some(analysis) = patch::analyse(&bytes) else {
            return Ok(None);
        };
        let (verdict, counts) = (analysis.verdict(), analysis.counts());
        let copy = analysis.copy(hash).filter(|_| self.may_copy);
        let copy = copy.map(|copy| put(self.dir, hash, &copy)).transpose()?;
        let verdict = match verdict {
            TextVerdict::Complete | TextVerdict::Partial if copy.is_none() => {
                TextVerdict::Unpatched
            }
            verdict => verdict,
        };
        Ok(Some(Text {
            verdict,
            counts,
            copy,
        }))
    }
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

fn is_read_only(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(file.metadata()?.permissions().mode() & 0o7777 == 0o444)
}

/// Puts a copy into place, unless the very same is there.
fn put(dir: &OwnedFd, hash: &ContentHash, copy: &patch::Copy) -> io::Result<NewCopy> {
    let name = copy_name(hash);
    let len = copy.bytes.len() as u64;
    let found = read_copy(dir, hash, len).ok().flatten();
    let found = found.filter(|(bytes, _)| *bytes == copy.bytes).is_some();
    let found = found && is_read_only(&sys::open_file(dir, &name)?)?;
    if !found {
        let mut temporary = name.to_vec();
        temporary.extend_from_slice(names::TEMPORARY_SUFFIX);
        sys::replace_read_only(dir, &temporary, &name, &copy.bytes)?;
    }
    let identity = sys::fstat(sys::open_file(dir, &name)?)?.identity;
    let small = |number: u64| u32::try_from(number).map_err(io::Error::other);
    let (block, segment) = (&copy.block, &copy.segment);
    Ok(NewCopy {
        row: TextCopy {
            content_hash: *hash,
            block: small(block.data())?,
            data_len: small(block.data_len())?,
            code_len: small(block.code_len())?,
            slots: block.slots(),
            annex: block.annex(),
            p_offset: segment.offset,
            p_vaddr: segment.vaddr,
            p_filesz: segment.file_len,
            checksum: copy.checksum,
            ino: 0,
            size: 0,
            mtime: Time::default(),
            ctime: Time::default(),
            set_version: SET_VERSION,
            device: 0,
            flags: copy.flags,
        },
        identity,
        written: !found,
    })
}

/// What an earlier index knows: by content, as its keys vouch for.
struct Known<'i> {
    verdicts: HashMap<ContentHash, (TextVerdict, Option<&'i ArchivedTextCopy>)>,
    index: &'i Index,
    dir: &'i OwnedFd,
}

impl<'i> Known<'i> {
    fn new(index: &'i Index, dir: &'i OwnedFd) -> Self {
        let mut verdicts = HashMap::new();
        index.each_text(|hash, verdict, copy| {
            verdicts.insert(hash, (verdict, copy));
        });
        Self {
            verdicts,
            index,
            dir,
        }
    }

    /// What is known of a content, if its copy is the one that the keys were made of.
    fn text(&self, hash: &ContentHash) -> Option<Text> {
        let (verdict, row) = *self.verdicts.get(hash)?;
        let copy = match row {
            None => None,
            Some(row) => {
                let identity = sys::stat_at(self.dir, &copy_name(hash)).ok()?.identity;
                self.index.copy_holds(row, &identity).then_some(())?;
                Some(NewCopy {
                    row: row.to_native(),
                    identity,
                    written: false,
                })
            }
        };
        // Without a copy, one may be possible by now.
        (row.is_some() || verdict == TextVerdict::Clean).then_some(Text {
            verdict,
            counts: Counts::default(),
            copy,
        })
    }
}

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
    index.each_text(|hash, verdict, copy| {
        known.insert(hash, (verdict, copy));
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
            let (verdict, row) = known.get(hash).copied()?;
            let path = guest(&scanned.join(name));
            let expected = expected(root, scanned, name, *size, hash)?;
            let is_same = expected.0 == verdict
                || (verdict == TextVerdict::Unpatched && expected.0 != TextVerdict::Clean);
            if !is_same {
                return Some((Found::Wrong, path, "another verdict".to_owned()));
            }
            let (row, copy) = row.zip(expected.1)?;
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

/// What a file's content makes now; `None`: it cannot be told.
fn expected(
    root: &Root,
    dir: &ScannedDir,
    name: &[u8],
    size: u64,
    hash: &ContentHash,
) -> Option<(TextVerdict, Option<patch::Copy>)> {
    let file = sys::open_file(root.open_dir(&dir.path).ok()?, name).ok()?;
    match first_look(&file).ok()? {
        FirstLook::NoCode => return None,
        FirstLook::Nothing => return Some((TextVerdict::Clean, None)),
        FirstLook::Something if size > MAX_FILE => return Some((TextVerdict::Unpatched, None)),
        FirstLook::Something => {}
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    (&file).take(size).read_to_end(&mut bytes).ok()?;
    let same = *blake3::hash(&bytes).as_bytes() == *hash;
    let analysis = patch::analyse(&bytes).filter(|_| same)?;
    Some((analysis.verdict(), analysis.copy(hash)))
}

/// Whether all copies that an index names are there as they were.
#[must_use]
pub fn stand(index: &Index, store: impl AsFd) -> bool {
    let mut copies = index.copies().peekable();
    if copies.peek().is_none() {
        return true;
    }
    let Ok(dir) = open_existing(store) else {
        return false;
    };
    copies.all(|row| {
        let found = sys::stat_at(&dir, &copy_name(&row.content_hash));
        found.is_ok_and(|found| index.copy_holds(row, &found.identity))
    })
}
