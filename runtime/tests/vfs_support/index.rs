//! An index of a directory of the host, made here and now: without the two seconds that `elfuse-index` waits for time stamps to age.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use elfuse_format::attributes::{AttributeRow, Attributes, Terms, row_flags};
use elfuse_format::checksum::checksum;
use elfuse_format::keys::{DeviceRow, DirKey, KeysContent, Seal, Time};
use elfuse_format::loader_cache::{LoaderCache, LoaderCacheContent, NONE, NewDir};
use elfuse_format::sidecar::{Content, NewEntry, encode};
use elfuse_format::span::Span;
use elfuse_runtime::vfs::{Fault, IndexFile, Source};

/// The two files of a store, which may change at any moment.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) loader_cache: RwLock<Vec<u8>>,
    pub(crate) keys: RwLock<Vec<u8>>,
}

impl Store {
    pub(crate) fn new(loader_cache: Vec<u8>, keys: Vec<u8>) -> Self {
        Self {
            loader_cache: RwLock::new(loader_cache),
            keys: RwLock::new(keys),
        }
    }

    fn file(&self, file: IndexFile) -> &RwLock<Vec<u8>> {
        match file {
            IndexFile::LoaderCache => &self.loader_cache,
            IndexFile::Keys => &self.keys,
        }
    }
}

impl Source for Store {
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let bytes = self.file(file).read().unwrap();
        let start = usize::try_from(offset).map_err(|_| Fault)?;
        let end = start.checked_add(into.len()).ok_or(Fault)?;
        into.copy_from_slice(bytes.get(start..end).ok_or(Fault)?);
        Ok(())
    }
}

struct Dir {
    path: PathBuf,
    parent: u32,
    entry: u32,
}

/// Stamp of the attributes.
pub(crate) const STAMP: u64 = 7;

fn attributes(path: &Path) -> AttributeRow {
    let found = fs::symlink_metadata(path).unwrap();
    AttributeRow {
        ino: found.ino(),
        size: found.size(),
        mode: found.mode(),
        flags: row_flags::KNOWN,
        ..AttributeRow::default()
    }
}

/// Indexes everything below `root`.
pub(crate) fn build(root: &Path) -> Store {
    build_where(root, |_| true, |_| Seal::Sealed, 0)
}

/// Indexes what `lists` of everything below `root`; `seal` is told each directory. Paths are relative to `root`.
pub(crate) fn build_where(
    root: &Path,
    lists: impl Fn(&Path) -> bool,
    seal: impl Fn(&Path) -> Seal,
    flags: u32,
) -> Store {
    let mut dirs = vec![Dir {
        path: root.to_owned(),
        parent: 0,
        entry: NONE,
    }];
    let mut blocks = Vec::new();
    let mut children = Vec::new();
    let mut keys = Vec::new();
    let mut attribute_rows = Vec::new();
    let mut at = 0;
    while at < dirs.len() {
        let path = dirs[at].path.clone();
        let stat = fs::metadata(&path).unwrap();
        let mut names: Vec<_> = (fs::read_dir(&path).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| lists(path.join(name).strip_prefix(root).unwrap()))
            .collect();
        names.sort();
        let first = dirs.len();
        let mut entries = Vec::new();
        attribute_rows.push(
            names
                .iter()
                .map(|name| attributes(&path.join(name)))
                .collect(),
        );
        for (number, name) in (0..).zip(&names) {
            let kind = fs::symlink_metadata(path.join(name)).unwrap().file_type();
            let content = if kind.is_dir() {
                dirs.push(Dir {
                    path: path.join(name),
                    parent: u32::try_from(at).unwrap(),
                    entry: number,
                });
                Content::Directory
            } else if kind.is_symlink() {
                let text = fs::read_link(path.join(name)).unwrap();
                Content::Symlink(text.as_os_str().as_bytes().to_vec())
            } else {
                Content::File
            };
            entries.push(NewEntry {
                name: name.as_bytes().to_vec(),
                content,
                host_spelling: None,
            });
        }
        let len = u32::try_from(dirs.len() - first).unwrap();
        let start = if len == 0 {
            0
        } else {
            u32::try_from(first).unwrap()
        };
        children.push(Span { start, len });
        let block = encode(entries).unwrap();
        let time = |secs, nanos: i64| Time {
            secs,
            nanos: u32::try_from(nanos).unwrap(),
        };
        keys.push(DirKey {
            ino: stat.ino(),
            mtime: time(stat.mtime(), stat.mtime_nsec()),
            ctime: time(stat.ctime(), stat.ctime_nsec()),
            block_checksum: checksum(&block),
            device: 0,
            seal: seal(path.strip_prefix(root).unwrap()) as u8,
        });
        blocks.push(block);
        at += 1;
    }
    let rows = dirs.iter().zip(&children).zip(&blocks);
    let content = LoaderCacheContent {
        dirs: rows
            .map(|((dir, children), block)| NewDir {
                parent: dir.parent,
                entry: dir.entry,
                children: *children,
                elf_count: 0,
                block,
            })
            .collect(),
        ..LoaderCacheContent::default()
    };
    let cache = content.encode().unwrap();
    let keys = KeysContent {
        bound_to: LoaderCache::parse(&cache).unwrap().binding(),
        devices: vec![DeviceRow {
            dev: fs::metadata(root).unwrap().dev(),
            fs_type: 0,
            fs_id: 0,
        }],
        dirs: keys,
        flags,
        attributes: Some(Attributes {
            terms: Terms {
                stamp: STAMP,
                ..Terms::default()
            },
            root: attributes(root),
            entries: attribute_rows,
        }),
        ..KeysContent::default()
    };
    Store::new(cache, keys.encode().unwrap())
}
