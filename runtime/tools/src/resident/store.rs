//! Snapshots in the store of a sysroot.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};
use elfuse_format::generation;
use elfuse_format::header::{File as Whole, Kind};
use elfuse_format::names;
use elfuse_format::snapshot::{Snapshot, counts, tables_len};

use super::current;
use super::stopped;
use crate::doctor::sysroot::default_outside;

/// The store of a sysroot.
#[derive(Debug)]
pub(super) struct Store {
    /// The sysroot, symlinks resolved.
    pub(super) sysroot: PathBuf,
    /// The directory.
    pub(super) dir: PathBuf,
}

/// A snapshot as it lies there.
#[derive(Debug)]
pub(super) struct Entry {
    /// The file.
    pub(super) path: PathBuf,
    /// Its bytes.
    bytes: Vec<u8>,
    /// When it was made.
    modified: SystemTime,
    exe: Vec<u8>,
}

impl Store {
    /// The store that `elfuse run` goes by: the one named; the sysroot's own, if there is an index; one outside, if there is an index there;
    /// else the sysroot's own.
    pub(super) fn of(sysroot: &Path, index_dir: Option<&Path>) -> anyhow::Result<Self> {
        let root = sysroot
            .canonicalize()
            .with_context(|| format!("--sysroot {}", sysroot.display()))?;
        ensure!(
            root.is_dir(),
            "--sysroot {}: not a directory",
            root.display()
        );
        let has_index = |dir: &PathBuf| dir.join(names::KEYS).is_file();
        let inside = root.join(OsStr::from_bytes(names::STORE));
        let dir = match index_dir {
            Some(dir) => dir
                .canonicalize()
                .with_context(|| format!("--index-dir {}", dir.display()))?,
            None if has_index(&inside) => inside,
            None => default_outside(&root).filter(has_index).unwrap_or(inside),
        };
        Ok(Self { sysroot: root, dir })
    }

    fn resident(&self) -> PathBuf {
        self.dir.join(names::RESIDENT)
    }

    /// Puts a snapshot into its place, and counters beside it.
    pub(super) fn put(&self, exe: &[u8], bytes: &[u8]) -> anyhow::Result<()> {
        let dir = self.resident();
        fs::create_dir_all(&dir).with_context(|| {
            format!(
                "making {}; a sysroot that you may not write to needs --index-dir",
                dir.display()
            )
        })?;
        self.announce()?;
        let name = format!("{:016x}", names::hash(exe));
        let place = |suffix: &str, bytes: &[u8]| -> io::Result<()> {
            let target = dir.join(format!("{name}{suffix}"));
            let temporary = dir.join(format!("{name}{suffix}.{}.tmp", std::process::id()));
            let written = File::create_new(&temporary).and_then(|mut file| {
                // Nobody but its owner may write to what others run, whatever the umask is.
                file.set_permissions(Permissions::from_mode(0o644))?;
                file.write_all(bytes)
            });
            let placed = written.and_then(|()| fs::rename(&temporary, &target));
            if placed.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            placed
        };
        place(names::COUNTS_SUFFIX, &counts::new_file())
            .and_then(|()| place(names::SNAPSHOT_SUFFIX, bytes))
            .with_context(|| format!("writing to {}", dir.display()))
    }

    /// Says in the store's generation that there are snapshots. Where there is none yet, whoever makes one looks for the directory, which is
    /// there by now.
    fn announce(&self) -> anyhow::Result<()> {
        let path = self.dir.join(names::GENERATION);
        let said = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .and_then(|file| {
                let mut whole = [0; generation::LEN];
                let is_one = file.read_exact_at(&mut whole, 0).is_ok();
                if is_one && generation::stamp(&whole).is_some() {
                    file.write_all_at(&1_u64.to_le_bytes(), generation::SNAPSHOTS as u64)?;
                }
                Ok(())
            });
        match said {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            said => said.with_context(|| {
                format!(
                    "writing to {}, without which no start looks for snapshots",
                    path.display()
                )
            }),
        }
    }

    /// All snapshots, by their programs' paths.
    pub(super) fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        let dir = self.resident();
        let found = match fs::read_dir(&dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => bail!("listing {}: {error}", dir.display()),
        };
        let mut entries = Vec::new();
        for entry in found {
            let path = entry?.path();
            let suffix = names::SNAPSHOT_SUFFIX.as_bytes();
            if !path.as_os_str().as_bytes().ends_with(suffix) {
                continue;
            }
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let modified = fs::metadata(&path)?.modified()?;
            let mut entry = Entry {
                path,
                bytes,
                modified,
                exe: Vec::new(),
            };
            entry.exe = entry.snapshot().map_or_else(
                |_| entry.path.as_os_str().as_bytes().to_vec(),
                |snapshot| snapshot.exe().to_vec(),
            );
            entries.push(entry);
        }
        entries.sort_by(|one, other| one.exe.cmp(&other.exe));
        Ok(entries)
    }
}

impl Entry {
    /// The program's path in the guest; of a snapshot that cannot be read, the snapshot's own.
    pub(super) fn exe(&self) -> &OsStr {
        OsStr::from_bytes(&self.exe)
    }

    /// What it says.
    pub(super) fn snapshot(&self) -> anyhow::Result<Snapshot<'_>> {
        let len = self.bytes.len() as u64;
        let tables = usize::try_from(tables_len(&self.bytes, len)?)?;
        Ok(Snapshot::parse(&self.bytes[..tables], len)?)
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How long ago it was made.
    pub(super) fn age(&self) -> Duration {
        SystemTime::now()
            .duration_since(self.modified)
            .unwrap_or_default()
    }

    fn counts_path(&self) -> PathBuf {
        self.path.with_extension(&names::COUNTS_SUFFIX[1..])
    }

    /// Its counters; zeros where there are none.
    pub(super) fn counts(&self) -> [u64; counts::WORDS] {
        let bytes = fs::read(self.counts_path()).unwrap_or_default();
        counts::words(&bytes).unwrap_or_default()
    }

    /// Reads all of it.
    pub(super) fn verify(&self) -> anyhow::Result<()> {
        Whole::parse(&self.bytes, Kind::Snapshot)?.check()?;
        self.snapshot().map(drop)
    }

    /// Why it cannot be used again in this boot, as far as its own bytes, files and names go.
    ///
    /// # Errors
    /// That cannot be told.
    pub(super) fn fault(&self, sysroot: &Path) -> anyhow::Result<Option<anyhow::Error>> {
        if let Err(damage) = self.verify() {
            return Ok(Some(damage));
        }
        let snapshot = self.snapshot()?;
        if snapshot.head().boot_id != stopped::boot_id()? {
            return Ok(Some(anyhow!(
                "it was captured before the machine was booted"
            )));
        }
        current::compare(&snapshot, sysroot)
    }

    /// Removes it and its counters.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))?;
        match fs::remove_file(self.counts_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.counts_path().display()))
            }
            _ => Ok(()),
        }
    }
}
