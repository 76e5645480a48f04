//! A tree to be indexed over and over: how it is brought back to a known state between runs, and what its index weighs.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use elfuse_format::names;
use tempfile::TempDir;

/// Threads that walk: far more than processors, as most of them wait for the disk where the cache is cold.
const WALKERS: usize = 16;

/// A sysroot that belongs to this benchmark alone.
pub struct Sysroot {
    path: PathBuf,
    /// Where indices go that are taken out, on the same file system.
    parking: TempDir,
    parked: AtomicU64,
    pool: rayon::ThreadPool,
}

/// The files of an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Sidecars.
    pub sidecars: u64,
    /// Their bytes.
    pub sidecar_bytes: u64,
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Bytes of disk blocks that all of them take.
    pub allocated_bytes: u64,
    /// Of paths and content of what must not depend on host or threads: sidecars and loader cache. Comparable within one
    /// run of this program.
    pub portable_digest: u64,
}

impl Footprint {
    fn add(mut self, other: Self) -> Self {
        self.sidecars += other.sidecars;
        self.sidecar_bytes += other.sidecar_bytes;
        self.store_bytes += other.store_bytes;
        self.allocated_bytes += other.allocated_bytes;
        // A sum, as directories come in any order.
        self.portable_digest = self.portable_digest.wrapping_add(other.portable_digest);
        self
    }
}

fn sidecar() -> &'static OsStr {
    OsStr::from_bytes(names::SIDECAR)
}

impl Sysroot {
    /// The tree at `path`; `scratch` is a directory on the same file system.
    ///
    /// # Errors
    /// If nothing can be made there.
    pub fn new(path: PathBuf, scratch: &Path) -> anyhow::Result<Self> {
        let parking = tempfile::tempdir_in(scratch)
            .with_context(|| format!("making a directory in {}", scratch.display()))?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(WALKERS)
            .build()?;
        Ok(Self {
            path,
            parking,
            parked: AtomicU64::new(0),
            pool,
        })
    }

    /// The tree.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the index out of the tree.
    ///
    /// It is moved aside and not removed: an ext4 without a journal passes over the inodes freed in the last minute one by
    /// one, and the next build would be charged for it.
    ///
    /// # Errors
    /// If a directory cannot be listed or a file not be moved.
    pub fn unindex(&self) -> anyhow::Result<()> {
        let aside = |path: PathBuf| {
            let number = self.parked.fetch_add(1, Ordering::Relaxed);
            // A directory of a few thousand entries, as in a real tree, and not one of a million.
            let shelf = self.parking.path().join((number / 4096).to_string());
            fs::create_dir_all(&shelf)?;
            match fs::rename(path, shelf.join(number.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        aside(self.path.join(OsStr::from_bytes(names::STORE)))?;
        self.walk(&|directory, entries| {
            if entries.iter().any(|entry| entry.file_name() == sidecar()) {
                aside(directory.join(sidecar()))?;
            }
            Ok(())
        })
    }

    /// Brings everything into the cache: directories, inodes, content.
    ///
    /// # Errors
    /// If a directory cannot be listed.
    pub fn warm(&self) -> anyhow::Result<()> {
        self.walk(&|_, entries| {
            for entry in entries {
                // A name that is gone by now, or a file that may not be read, is not read by the indexer either.
                if entry.metadata().is_ok_and(|found| found.is_file())
                    && let Ok(mut file) = File::open(entry.path())
                {
                    let _ = io::copy(&mut file, &mut io::sink());
                }
            }
            Ok(())
        })
    }

    /// Writes out what is in memory only, so that no run pays for the one before.
    ///
    /// # Errors
    /// Those of syncfs(2).
    pub fn sync(&self) -> anyhow::Result<()> {
        Ok(elfuse_indexer::sys::sync(File::open(&self.path)?)?)
    }

    /// What the index weighs.
    ///
    /// # Errors
    /// If a file of it cannot be read.
    pub fn footprint(&self) -> anyhow::Result<Footprint> {
        let total = Mutex::new(Footprint::default());
        let add = |found: Footprint| {
            let mut total = total.lock().expect("nothing panics here");
            *total = total.add(found);
        };
        self.walk(&|directory, entries| {
            let file = entries.iter().find(|entry| entry.file_name() == sidecar());
            if let Some(file) = file {
                let metadata = file.metadata()?;
                add(Footprint {
                    sidecars: 1,
                    sidecar_bytes: metadata.len(),
                    allocated_bytes: metadata.blocks() * 512,
                    portable_digest: digest(directory, &fs::read(file.path())?),
                    ..Footprint::default()
                });
            }
            Ok(())
        })?;
        for file in fs::read_dir(self.path.join(OsStr::from_bytes(names::STORE)))? {
            let file = file?;
            let metadata = file.metadata()?;
            let is_portable = file.file_name() == names::LOADER_CACHE;
            add(Footprint {
                store_bytes: metadata.len(),
                allocated_bytes: metadata.blocks() * 512,
                portable_digest: if is_portable {
                    digest(Path::new(names::LOADER_CACHE), &fs::read(file.path())?)
                } else {
                    0
                },
                ..Footprint::default()
            });
        }
        Ok(total.into_inner().expect("nothing panics here"))
    }

    /// Calls `visit` for each directory but the store, in any order and from several threads.
    fn walk(&self, visit: &Visit<'_>) -> anyhow::Result<()> {
        let failure = Mutex::new(None);
        self.pool
            .scope(|scope| below(scope, self.path.clone(), visit, &failure));
        let failure: Option<(PathBuf, io::Error)> =
            failure.into_inner().expect("nothing panics here");
        match failure {
            None => Ok(()),
            Some((path, error)) => {
                Err(error).with_context(|| format!("walking {}", path.display()))
            }
        }
    }
}

type Visit<'a> = dyn Fn(&Path, &[DirEntry]) -> io::Result<()> + Sync + 'a;
type Failed = Mutex<Option<(PathBuf, io::Error)>>;

fn below<'s>(
    scope: &rayon::Scope<'s>,
    directory: PathBuf,
    visit: &'s Visit<'_>,
    failure: &'s Failed,
) {
    let listed = || -> io::Result<()> {
        let entries = fs::read_dir(&directory)?.collect::<io::Result<Vec<_>>>()?;
        for entry in &entries {
            if entry.file_type()?.is_dir() && entry.file_name().as_bytes() != names::STORE {
                let path = entry.path();
                scope.spawn(move |scope| below(scope, path, visit, failure));
            }
        }
        visit(&directory, &entries)
    };
    if let Err(error) = listed() {
        *failure.lock().expect("nothing panics here") = Some((directory, error));
    }
}

fn digest(path: &Path, content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(scratch: &TempDir) -> anyhow::Result<Sysroot> {
        let path = scratch.path().join("tree");
        fs::create_dir_all(path.join("a/b"))?;
        fs::create_dir(path.join(".elfuse"))?;
        fs::write(path.join("a/file"), "text")?;
        fs::write(path.join("a/b").join(sidecar()), "0123456789")?;
        fs::write(path.join(".elfuse/loader-cache"), "01234")?;
        Sysroot::new(path, scratch.path())
    }

    #[test]
    fn an_index_is_weighed_and_taken_out_and_nothing_else() -> anyhow::Result<()> {
        let scratch = tempfile::tempdir()?;
        let sysroot = tree(&scratch)?;
        let found = sysroot.footprint()?;
        assert_eq!(
            (found.sidecars, found.sidecar_bytes, found.store_bytes),
            (1, 10, 5)
        );
        sysroot.warm()?;
        sysroot.unindex()?;
        sysroot.unindex()?;
        assert!(!sysroot.path().join(".elfuse").exists());
        assert!(!sysroot.path().join("a/b").join(sidecar()).exists());
        assert!(sysroot.path().join("a/file").exists());
        Ok(())
    }

    #[test]
    fn the_digest_tells_content_and_place_apart() -> anyhow::Result<()> {
        let scratch = tempfile::tempdir()?;
        let sysroot = tree(&scratch)?;
        let before = sysroot.footprint()?.portable_digest;
        fs::write(sysroot.path().join("a/b").join(sidecar()), "1123456789")?;
        let changed = sysroot.footprint()?.portable_digest;
        fs::rename(
            sysroot.path().join("a/b").join(sidecar()),
            sysroot.path().join("a").join(sidecar()),
        )?;
        let moved = sysroot.footprint()?.portable_digest;
        assert!(before != changed && changed != moved && before != moved);
        Ok(())
    }
}
