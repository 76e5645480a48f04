//! The one thing that must never fail: what a key vouches for, and the host says that the key holds, is so.
//!
//! Written against `elfuse-format` alone and with std's own file functions, so that a mistake in the indexer's is not repeated
//! here. It is for a tree at rest.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use elfuse_format::keys::{ArchivedDirKey, ArchivedFileKey, Keys, Seal, Time};
use elfuse_format::loader_cache::{ArchivedDirRow, LoaderCache};
use elfuse_format::sidecar::{Block, Entry, Kind};

use crate::scratch::is_sidecar_or_temporary;

/// What was found to be believable, and is true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Believed {
    /// Directories whose key holds, and those of all directories above.
    pub directories: usize,
    /// Names in them.
    pub names: usize,
    /// ELF files in them whose key holds.
    pub files: usize,
    /// Configuration files whose key holds.
    pub inputs: usize,
    /// Directories of the index, believable or not.
    pub indexed: usize,
}

/// The files of an index, as a reader has them.
#[derive(Debug)]
pub struct Reader {
    loader_cache: Vec<u8>,
    keys: Option<Vec<u8>>,
}

impl Reader {
    /// Reads what is in the store `dir`; `None` if a reader could do nothing with it.
    #[must_use]
    pub fn open(dir: &Path) -> Option<Self> {
        // A FIFO in their place would wait for a writer, a sparse file not fit into memory.
        let read = |name: &str| {
            let path = dir.join(name);
            let found = fs::symlink_metadata(&path).ok()?;
            let usual = found.is_file() && found.len() < 1 << 30;
            usual.then(|| fs::read(path).ok())?
        };
        let keys = read("keys");
        let loader_cache = read("loader-cache")?;
        let cache = LoaderCache::parse(&loader_cache).ok()?;
        let bound =
            |keys: &Vec<u8>| Keys::parse(keys).is_ok_and(|keys| keys.bound_to() == cache.binding());
        let keys = keys.filter(bound);
        Some(Self { loader_cache, keys })
    }

    /// The loader cache.
    ///
    /// # Panics
    /// Never: it was parsed before.
    #[must_use]
    pub fn cache(&self) -> LoaderCache<'_> {
        LoaderCache::parse(&self.loader_cache).expect("parsed before")
    }

    /// The keys, if they belong to the loader cache.
    #[must_use]
    pub fn keys(&self) -> Option<Keys<'_>> {
        Keys::parse(self.keys.as_deref()?).ok()
    }

    /// The row and names of a directory; `None` if it is not covered, or the file lies.
    #[must_use]
    pub fn directory(&self, number: u32) -> Option<(&ArchivedDirRow, Block<'_>)> {
        let cache = self.cache();
        let row = cache.dir(number).ok()?;
        // Of the same bytes, but borrowed from `self` and not from the view.
        let block = cache.block(row).ok()??;
        Some((row, block))
    }

    /// The number of the directory that `entry` of directory `parent` is.
    #[must_use]
    pub fn child(&self, parent: &ArchivedDirRow, entry: &Entry<'_>) -> Option<u32> {
        let rank = entry.rank()?;
        let inside = rank < parent.child_count.to_native();
        inside.then(|| parent.first_child.to_native() + rank)
    }

    /// Looks up a path without symlinks, name by name, as a run would: its directory and its entry.
    #[must_use]
    pub fn find(&self, path: &Path) -> Option<(u32, Entry<'_>)> {
        let mut number = 0;
        let mut found = None;
        for name in path {
            if let Some((at, entry)) = found {
                let (row, _) = self.directory(at)?;
                number = self.child(row, &entry)?;
            }
            let (_, block) = self.directory(number)?;
            found = Some((number, block.find(name.as_bytes()).ok()??));
        }
        found
    }
}

/// Compares everything in the index of `root` that a reader would believe now with the tree.
///
/// Without an index there is nothing to believe.
///
/// # Panics
/// Something is believed and not so. The message has all of it.
#[track_caller]
pub fn no_stale_key_validates(root: &Path) -> Believed {
    no_stale_key_validates_in(root, &root.join(".elfuse"))
}

/// [`no_stale_key_validates`], for an index that lies in `store`.
///
/// # Panics
/// As that.
#[track_caller]
pub fn no_stale_key_validates_in(root: &Path, store: &Path) -> Believed {
    let (believed, lies) = compare(root, store);
    assert!(
        lies.is_empty(),
        "the index of {} is believed and wrong:\n{}",
        root.display(),
        lies.join("\n")
    );
    believed
}

fn compare(root: &Path, store: &Path) -> (Believed, Vec<String>) {
    let Some(reader) = Reader::open(store) else {
        return Default::default();
    };
    let Some(keys) = reader.keys() else {
        return Default::default();
    };
    let Ok(devices) = keys.devices() else {
        return Default::default();
    };
    let mut check = Check {
        reader: &reader,
        keys,
        devices: devices.iter().map(|row| row.dev.to_native()).collect(),
        believed: Believed::default(),
        lies: Vec::new(),
    };
    check.down(root);
    check.by_identity(root);
    check.inputs(root);
    (check.believed, check.lies)
}

struct Check<'a> {
    reader: &'a Reader,
    keys: Keys<'a>,
    devices: Vec<u64>,
    believed: Believed,
    lies: Vec<String>,
}

/// What std says of the names in a directory.
fn listing(directory: &Path, at_root: bool) -> BTreeMap<Vec<u8>, (Kind, Option<Vec<u8>>)> {
    let names = fs::read_dir(directory).expect("a directory that can be read");
    let names = names.map(|entry| {
        let entry = entry.expect("an entry");
        let found = entry.file_type().expect("its type");
        let (kind, target) = if found.is_dir() {
            (Kind::Directory, None)
        } else if found.is_file() {
            (Kind::File, None)
        } else if found.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a symlink");
            (Kind::Symlink, Some(target.into_os_string().into_vec()))
        } else {
            (Kind::Other, None)
        };
        (entry.file_name().into_vec(), (kind, target))
    });
    let ours = |name: &[u8]| is_sidecar_or_temporary(name) || at_root && name == b".elfuse";
    names.filter(|(name, _)| !ours(name)).collect()
}

fn times(found: &Metadata) -> (Time, Time) {
    let time = |secs, nanos: i64| Time {
        secs,
        nanos: u32::try_from(nanos).expect("nanoseconds"),
    };
    (
        time(found.mtime(), found.mtime_nsec()),
        time(found.ctime(), found.ctime_nsec()),
    )
}

impl Check<'_> {
    fn is_device(&self, slot: u16, found: &Metadata) -> bool {
        self.devices.get(usize::from(slot)) == Some(&found.dev())
    }

    fn dir_key_holds(&self, key: &ArchivedDirKey, row: &ArchivedDirRow, found: &Metadata) -> bool {
        Seal::from_byte(key.seal) == Seal::Sealed
            && key.block_checksum == row.block_checksum
            && self.is_device(key.device.to_native(), found)
            && key.ino.to_native() == found.ino()
            && (key.mtime.to_native(), key.ctime.to_native()) == times(found)
    }

    fn file_key_holds(&self, key: &ArchivedFileKey, found: &Metadata) -> bool {
        Seal::from_byte(key.seal) == Seal::Sealed
            && self.is_device(key.device.to_native(), found)
            && (key.ino.to_native(), key.size.to_native()) == (found.ino(), found.size())
            && (key.mtime.to_native(), key.ctime.to_native()) == times(found)
    }

    fn file_key(&self, number: u32) -> Option<&ArchivedFileKey> {
        self.keys.files().ok()?.get(number as usize)
    }

    /// A reader goes by the mode bits of a believed directory to tell who may search it.
    fn permissions(&mut self, path: &Path) {
        let mut nothing: [u8; 0] = [];
        if rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut nothing).is_ok() {
            let path = path.display();
            self.lies.push(format!("{path}: an access control list"));
        }
    }

    /// From the root as far as keys hold.
    fn down(&mut self, root: &Path) {
        let mut stack = vec![(0_u32, root.to_owned())];
        while let Some((number, path)) = stack.pop() {
            self.believed.indexed += 1;
            let Ok(found) = fs::symlink_metadata(&path) else {
                continue;
            };
            let Some((row, block)) = self.reader.directory(number) else {
                continue;
            };
            let Ok(key) = self.keys.dir(number) else {
                continue;
            };
            if !found.is_dir() || !self.dir_key_holds(key, row, &found) {
                continue;
            }
            self.believed.directories += 1;
            self.believed.names += block.len();
            self.names(&path, &block, number == 0);
            self.permissions(&path);
            for entry in block.entries() {
                let name = entry.name().unwrap_or_default();
                let path = path.join(OsStr::from_bytes(name));
                if let Some(elf) = entry.elf_index() {
                    self.facts(&path, row.first_elf.to_native() + elf, &entry);
                }
                if let Some(child) = self.reader.child(row, &entry) {
                    stack.push((child, path));
                } else if entry.kind() == Some(Kind::Directory) {
                    self.lies.push(format!("{}: no row", path.display()));
                }
            }
        }
    }

    /// The names of a believed directory, the absent ones too.
    fn names(&mut self, path: &Path, block: &Block<'_>, at_root: bool) {
        let real = listing(path, at_root);
        let mut claimed = BTreeMap::new();
        for entry in block.entries() {
            let name = entry.name().unwrap_or_default().to_vec();
            let target = entry.target().map(<[u8]>::to_vec);
            claimed.insert(name, (entry.kind().unwrap_or(Kind::Other), target));
        }
        if claimed != real {
            let shown = |all: &BTreeMap<Vec<u8>, (Kind, Option<Vec<u8>>)>| {
                let all = all.iter().map(|(name, (kind, target))| {
                    let target = target.as_deref().unwrap_or_default();
                    let (name, target) = (name.escape_ascii(), target.escape_ascii());
                    format!("{name} {kind:?} {target}")
                });
                all.collect::<Vec<_>>().join(", ")
            };
            self.lies.push(format!(
                "{}: said to hold [{}], holds [{}]",
                path.display(),
                shown(&claimed),
                shown(&real)
            ));
        }
        for name in real.keys() {
            let mut absent = name.clone();
            absent.push(b'~');
            let found = block.find(name).is_ok_and(|found| found.is_some());
            let invented = block.find(&absent).is_ok_and(|found| found.is_some());
            if !found || (invented && !real.contains_key(&absent)) {
                let name = path.join(OsStr::from_bytes(name));
                self.lies
                    .push(format!("{}: slots disagree", name.display()));
            }
        }
    }

    /// The facts of an ELF file in a believed directory.
    fn facts(&mut self, path: &Path, number: u32, entry: &Entry<'_>) {
        let (Ok(found), Some(key)) = (fs::symlink_metadata(path), self.file_key(number)) else {
            return;
        };
        if !self.file_key_holds(key, &found) {
            return;
        }
        self.believed.files += 1;
        let row = entry.elf().map(|elf| elf.row);
        let said = row.map(|row| (row.size.to_native(), row.content_hash));
        let bytes = fs::read(path).expect("a file that can be read");
        let real = (bytes.len() as u64, *blake3::hash(&bytes).as_bytes());
        if said != Some(real) {
            self.lies
                .push(format!("{}: facts of another content", path.display()));
        }
    }

    /// A directory may also be reached by its identity, as the working directory of a process is: then no chain leads to it.
    fn by_identity(&mut self, root: &Path) {
        let mut numbers = HashMap::new();
        for (number, key) in (0_u32..).zip(self.keys.dirs().unwrap_or_default()) {
            let identity = (key.device.to_native(), key.ino.to_native());
            numbers.entry(identity).or_insert(number);
        }
        let walk = walkdir::WalkDir::new(root).into_iter();
        let inside = |entry: &walkdir::DirEntry| {
            entry.depth() != 1 || entry.file_name() != OsStr::new(".elfuse")
        };
        for entry in walk.filter_entry(inside).filter_map(Result::ok) {
            if !entry.file_type().is_dir() {
                continue;
            }
            let Ok(found) = entry.metadata() else {
                continue;
            };
            for (slot, dev) in (0_u16..).zip(self.devices.clone()) {
                if dev != found.dev() {
                    continue;
                }
                let Some(&number) = numbers.get(&(slot, found.ino())) else {
                    continue;
                };
                let Some((row, block)) = self.reader.directory(number) else {
                    continue;
                };
                let holds = self
                    .keys
                    .dir(number)
                    .is_ok_and(|key| self.dir_key_holds(key, row, &found));
                if holds {
                    self.names(entry.path(), &block, number == 0);
                    self.permissions(entry.path());
                }
            }
        }
    }

    fn inputs(&mut self, root: &Path) {
        let cache = self.reader.cache();
        let (Ok(inputs), Ok(keys)) = (cache.inputs(), self.keys.inputs()) else {
            return;
        };
        for ((path, row), key) in inputs.rows().zip(keys) {
            let path = path.strip_prefix(b"/").unwrap_or(path);
            let path: PathBuf = root.join(OsStr::from_bytes(path));
            let Ok(found) = fs::symlink_metadata(&path) else {
                continue;
            };
            if !self.file_key_holds(key, &found) {
                continue;
            }
            self.believed.inputs += 1;
            let bytes = fs::read(&path).expect("a file that can be read");
            if *blake3::hash(&bytes).as_bytes() != row.content_hash {
                self.lies
                    .push(format!("{}: another content was read", path.display()));
            }
        }
    }
}
