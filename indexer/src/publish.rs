//! From a scan to files: sidecars first, then the loader cache, and at last, when time stamps have grown old enough to prove
//! something, the keys, whose rename makes the whole index valid at one moment.
//!
//! A crash in between leaves the earlier keys, which no longer match what changed, or keys that are bound to another loader
//! cache: no index rather than a wrong one.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use elfuse_format::checksum::checksum;
use elfuse_format::elf_facts::ContentHash;
use elfuse_format::header;
use elfuse_format::keys::{DeviceRow, DirKey, FileKey, KeysContent, Seal, Time};
use elfuse_format::names;
use elfuse_format::sidecar::{Block, Kind};
use rayon::prelude::*;
use rustix::fs::{self, AtFlags};

use crate::inspect;
use crate::plain::{self, PlainFiles};
use crate::scan::{ElfState, Scan, ScannedDir, guest};
use crate::sys::{self, FileSystem, Identity, Root};
use crate::warning::{Warning, Warnings};

/// Time stamps younger than this prove nothing: a second change could leave the same ones (git's racy index, ccache).
pub const RACY: Duration = Duration::from_secs(2);
/// The longest that is waited for time stamps to grow old.
const MAX_WAIT: Duration = Duration::from_secs(6);

/// What writing the sidecars did.
#[derive(Debug, Clone, Copy, Default)]
pub struct SidecarsWritten {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all sidecars, written or as they were.
    pub total_bytes: u64,
}

/// Writes each directory's sidecar, except where the very same stands there already, and removes what a killed build left.
///
/// A sidecar that cannot be written is counted; the loader cache has its content all the same.
#[must_use]
pub fn write_sidecars(
    root: &Root,
    scan: &Scan,
    preserve_mtime: bool,
    warnings: &Warnings,
) -> SidecarsWritten {
    let each = scan
        .dirs
        .par_iter()
        .filter(|dir| !dir.block.is_empty() && dir.state == Seal::Sealed);
    let each = each.map(|dir| {
        let bytes = header::HEADER_LEN as u64 + dir.block.len() as u64;
        let mut done = SidecarsWritten {
            total_bytes: bytes,
            ..SidecarsWritten::default()
        };
        if dir.sealed {
            return done;
        }
        match write_sidecar(root, dir, preserve_mtime) {
            Ok(false) => {}
            Ok(true) => {
                done.files = 1;
                done.bytes = bytes;
            }
            Err(error) => warnings.add(Warning::SidecarNotWritten, &guest(&dir.path), error),
        }
        done
    });
    each.reduce(SidecarsWritten::default, |a, b| SidecarsWritten {
        files: a.files + b.files,
        bytes: a.bytes + b.bytes,
        total_bytes: a.total_bytes + b.total_bytes,
    })
}

fn write_sidecar(root: &Root, dir: &ScannedDir, preserve_mtime: bool) -> io::Result<bool> {
    let file = header::wrap(header::Kind::Sidecar, 0, &dir.block);
    let fd = root.open_dir(&dir.path)?;
    if dir.has_sidecar && same_content(&fd, &file) && dir.leftovers.is_empty() {
        return Ok(false);
    }
    let before = preserve_mtime.then(|| sys::fstat(&fd)).transpose()?;
    let written = replace_sidecar(&fd, dir, &file);
    if let Some(before) = before {
        sys::restore_mtime(&fd, before.identity.mtime)?;
    }
    written.map(|()| true)
}

fn replace_sidecar(fd: &OwnedFd, dir: &ScannedDir, file: &[u8]) -> io::Result<()> {
    for name in &dir.leftovers {
        fs::unlinkat(fd, &**name, AtFlags::empty())?;
    }
    let mut temporary = names::SIDECAR.to_vec();
    temporary.extend_from_slice(format!(".{}", std::process::id()).as_bytes());
    temporary.extend_from_slice(names::TEMPORARY_SUFFIX);
    sys::replace_file(fd, &temporary, names::SIDECAR, file, false)
}

fn same_content(dir: impl AsFd, expected: &[u8]) -> bool {
    let read = || -> io::Result<bool> {
        let file = sys::open_file(dir, names::SIDECAR)?;
        if sys::fstat(&file)?.identity.size != expected.len() as u64 {
            return Ok(false);
        }
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0)?;
        Ok(found == expected)
    };
    read().unwrap_or(false)
}

fn plus(time: Time, duration: Duration) -> Time {
    let nanos = time.nanos + duration.subsec_nanos();
    // Anybody may set an mtime to the end of time.
    let secs = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Time {
        secs: time
            .secs
            .saturating_add(secs)
            .saturating_add(i64::from(nanos / 1_000_000_000)),
        nanos: nanos % 1_000_000_000,
    }
}

fn is_young(time: Time, now: Time) -> bool {
    plus(time, RACY) > now
}

/// Whether a state is too young, at time `now` of its file system, to prove anything. A ctime in the future counts as young:
/// the clock was set back. An mtime far in the future does not, as anybody may set that.
#[must_use]
pub fn is_racy(identity: &Identity, now: Time) -> bool {
    is_young(identity.ctime, now)
        || (is_young(identity.mtime, now) && identity.mtime < plus(now, RACY))
}

/// Sleeps until what has changed up to now is no longer racy by the file system's clock.
///
/// # Errors
/// If the clock cannot be read.
pub fn wait_out_racy(clock: &std::fs::File) -> io::Result<Duration> {
    let started = Instant::now();
    let until = plus(sys::file_system_clock(clock)?, RACY);
    while sys::file_system_clock(clock)? <= until && started.elapsed() < MAX_WAIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(started.elapsed())
}

/// A configuration file that the closures were computed from: path from the root, and the hash of what was read.
pub type Input = (Vec<u8>, ContentHash);

/// How the keys are captured.
pub struct CaptureOptions<'a> {
    /// The file system's clock when the scan began.
    pub scan_began: Time,
    /// The file system's clock now, after waiting.
    pub now: Time,
    /// In the loader cache's order.
    pub inputs: &'a [Input],
    /// Where warnings go.
    pub warnings: &'a Warnings,
}

/// Keys of directories and files, and how many are sealed or not, and why.
#[derive(Debug, Default)]
pub struct Captured {
    /// Rows and device table; `bound_to`, `flags` and inputs are for the caller.
    pub keys: KeysContent,
    /// Directories by state.
    pub directories: BTreeMap<Seal, u64>,
    /// ELF files by state.
    pub files: BTreeMap<Seal, u64>,
}

struct Row {
    identity: Identity,
    state: Seal,
    elves: Vec<(Identity, Seal)>,
    /// 0: the next build looks again.
    plain: u64,
}

/// Captures the key of every directory, comparing its names once more, and of every ELF file.
#[must_use]
pub fn capture(
    root: &Root,
    scan: &Scan,
    file_system: &FileSystem,
    options: &CaptureOptions<'_>,
) -> Captured {
    let rows: Vec<_> = scan
        .dirs
        .par_iter()
        .map(|dir| capture_dir(root, dir, options))
        .collect();
    let mut captured = Captured::default();
    let mut devices = vec![root.dev()];
    let mut slot = |dev: u64| {
        let known = devices.iter().position(|known| *known == dev);
        let at = known.unwrap_or_else(|| {
            devices.push(dev);
            devices.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    };
    let none = Identity {
        dev: root.dev(),
        ino: 0,
        size: 0,
        mtime: Time::default(),
        ctime: Time::default(),
    };
    for (row, dir) in rows.iter().zip(&scan.dirs) {
        let identity = if row.state == Seal::Sealed {
            row.identity
        } else {
            none
        };
        captured.keys.dirs.push(DirKey {
            ino: identity.ino,
            mtime: identity.mtime,
            ctime: identity.ctime,
            block_checksum: if dir.block.is_empty() {
                0
            } else {
                checksum(&dir.block)
            },
            device: slot(identity.dev),
            seal: row.state as u8,
        });
        captured.keys.plain.push(row.plain);
        *captured.directories.entry(row.state).or_default() += 1;
        for (found, state) in &row.elves {
            let found = if *state == Seal::Sealed { *found } else { none };
            captured
                .keys
                .files
                .push(file_key(&found, slot(found.dev), *state));
            *captured.files.entry(*state).or_default() += 1;
        }
    }
    for (path, read) in options.inputs {
        let (found, state) =
            input_state(root, path, read, options.now).unwrap_or((none, Seal::Changed));
        captured
            .keys
            .inputs
            .push(file_key(&found, slot(found.dev), state));
    }
    captured.keys.devices = (devices.iter())
        .map(|dev| DeviceRow {
            dev: *dev,
            fs_type: file_system.magic,
            fs_id: file_system.id,
        })
        .collect();
    captured
}

/// The state of a configuration file, and whether what was read of it is still what it says.
fn input_state(
    root: &Root,
    path: &[u8],
    read: &ContentHash,
    now: Time,
) -> io::Result<(Identity, Seal)> {
    let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    let file = sys::open_file(root.open_dir(dir)?, name)?;
    let before = sys::fstat(&file)?.identity;
    let same = inspect::content_hash(&file)? == *read;
    let unchanged = same && sys::fstat(&file)?.identity == before;
    let state = match (unchanged, is_racy(&before, now)) {
        (true, false) => Seal::Sealed,
        (true, true) => Seal::Racy,
        (false, _) => Seal::Changed,
    };
    Ok((before, state))
}

/// A file's row.
#[must_use]
pub fn file_key(identity: &Identity, device: u16, state: Seal) -> FileKey {
    FileKey {
        ino: identity.ino,
        size: identity.size,
        mtime: identity.mtime,
        ctime: identity.ctime,
        device,
        seal: state as u8,
    }
}

fn capture_dir(root: &Root, dir: &ScannedDir, options: &CaptureOptions<'_>) -> Row {
    let unsealed = |state, elf_state| Row {
        identity: Identity {
            dev: root.dev(),
            ino: 0,
            size: 0,
            mtime: Time::default(),
            ctime: Time::default(),
        },
        state,
        elves: dir
            .elves
            .iter()
            .map(|elf| (elf.identity, elf_state))
            .collect(),
        plain: 0,
    };
    let (Some(identity), Some(block), Seal::Sealed) = (dir.identity, dir.names(), dir.state) else {
        return unsealed(dir.state, Seal::NotIndexed);
    };
    if dir.sealed {
        let elves = dir.elves.iter();
        return Row {
            identity,
            state: Seal::Sealed,
            elves: elves.map(|elf| (elf.identity, Seal::Sealed)).collect(),
            plain: (root.open_dir(&dir.path))
                .map_or(0, |fd| plain_digest(&fd, root, dir, block, options)),
        };
    }
    let Ok(row) = compare(root, dir, block, options) else {
        options.warnings.add(
            Warning::KeepsChanging,
            &guest(&dir.path),
            "its names changed after they were read",
        );
        return unsealed(Seal::Changed, Seal::Changed);
    };
    let warning = match row.state {
        Seal::Racy => Some(Warning::Unsealed),
        Seal::AccessList => Some(Warning::AccessList),
        _ => None,
    };
    if let Some(warning) = warning {
        options.warnings.add(warning, &guest(&dir.path), "");
    }
    row
}

/// Digest of a directory's files without facts, if it vouches for what was read of them.
fn plain_digest(
    fd: &OwnedFd,
    root: &Root,
    dir: &ScannedDir,
    block: Block<'_>,
    options: &CaptureOptions<'_>,
) -> u64 {
    let PlainFiles {
        digest,
        youngest,
        sealed,
    } = dir.plain;
    if sealed || digest == 0 {
        return digest;
    }
    // What changes after it was read has another state, of which no key says anything: the next build looks again.
    if !is_young(youngest, options.scan_began) {
        return digest;
    }
    // As with ELF files: a change in the tick in which it was read would not have shown. Now it would.
    let vouches = || -> io::Result<bool> {
        Ok(!is_young(youngest, options.now)
            && PlainFiles::now(fd, &block, root.dev()).digest == digest
            && plain::are_still_plain(fd, &block)?)
    };
    if vouches().unwrap_or(false) {
        digest
    } else {
        0
    }
}

/// Lists a directory once more and compares it with its block. Our own writing has changed its times since the first reading, so
/// only names, kinds and targets can tell.
fn compare(
    root: &Root,
    dir: &ScannedDir,
    block: Block<'_>,
    options: &CaptureOptions<'_>,
) -> io::Result<Row> {
    let fd = root.open_dir(&dir.path)?;
    let changed = || io::Error::other("changed");
    let before = sys::fstat(&fd)?.identity;
    let mut count = 0;
    sys::each_name(fd.as_fd(), |name, kind| {
        if names::is_reserved(name, dir.path.is_empty()) {
            return Ok(ControlFlow::Continue(()));
        }
        count += 1;
        let known = block.find(name).ok().flatten().ok_or_else(changed)?;
        let same_target =
            || Ok::<_, io::Error>(known.target() == Some(&sys::read_link(&fd, name)?));
        if known.kind() != Some(kind) || (kind == Kind::Symlink && !same_target()?) {
            return Err(changed());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if count != block.len() {
        return Err(changed());
    }
    let mut elves = Vec::with_capacity(dir.elves.len());
    let files = block.entries().filter(|entry| entry.elf_index().is_some());
    for (entry, known) in files.zip(&dir.elves) {
        let name = entry.name().unwrap_or_default();
        let state = elf_state(&fd, dir, name, entry, known, options);
        elves.push((known.identity, state));
    }
    // Before the second stat: setting one changes the ctime.
    let has_access_list = sys::has_access_list(&fd);
    let after = sys::fstat(&fd)?.identity;
    if after != before {
        return Err(changed());
    }
    let racy = is_racy(&after, options.now);
    Ok(Row {
        identity: after,
        state: match (has_access_list, racy) {
            (true, _) => Seal::AccessList,
            (false, true) => Seal::Racy,
            (false, false) => Seal::Sealed,
        },
        elves,
        plain: if racy {
            0
        } else {
            plain_digest(&fd, root, dir, block, options)
        },
    })
}

fn elf_state(
    fd: impl AsFd,
    dir: &ScannedDir,
    name: &[u8],
    entry: elfuse_format::sidecar::Entry<'_>,
    known: &ElfState,
    options: &CaptureOptions<'_>,
) -> Seal {
    if !sys::stat_at(&fd, name).is_ok_and(|found| found.identity == known.identity) {
        options.warnings.add(
            Warning::KeepsChanging,
            &guest(&dir.join(name)),
            "it changed after it was read",
        );
        return Seal::Changed;
    }
    if known.sealed || !is_racy(&known.identity, options.scan_began) {
        return Seal::Sealed;
    }
    if is_racy(&known.identity, options.now) {
        options
            .warnings
            .add(Warning::Unsealed, &guest(&dir.join(name)), "");
        return Seal::Racy;
    }
    // It was young when it was read, and a change in the same tick would not have shown. Now it would: read it again.
    let hash = sys::open_file(&fd, name).and_then(|file| inspect::content_hash(&file));
    let expected = entry.elf().map(|elf| elf.row.content_hash);
    if hash.ok() == expected {
        Seal::Sealed
    } else {
        Seal::Changed
    }
}

/// Whether anything of a scan would be racy now, so that waiting helps.
#[must_use]
pub fn has_racy(scan: &Scan, now: Time) -> bool {
    scan.dirs.iter().any(|dir| {
        let young = !dir.sealed && dir.identity.is_some_and(|identity| is_racy(&identity, now));
        young
            || dir
                .elves
                .iter()
                .any(|elf| !elf.sealed && is_racy(&elf.identity, now))
    })
}
