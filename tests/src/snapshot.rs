//! Everything about a tree that a command which leaves it as it was must not change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// File type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Device number of a device node.
    pub device: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Inode number.
    pub ino: u64,
    /// Content hash of a file, text of a symlink.
    pub content: Vec<u8>,
}

/// By path; the root's is empty.
pub type Snapshot = BTreeMap<PathBuf, State>;

/// The tree below `root`, `root` itself included.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn of(root: &Path) -> Snapshot {
    let walk = walkdir::WalkDir::new(root).into_iter();
    let states = walk.map(|entry| {
        let entry = entry.expect("a tree that can be read");
        let found = entry.metadata().expect("it was just listed");
        let content = if found.is_symlink() {
            fs::read_link(entry.path())
                .expect("a symlink")
                .into_os_string()
                .into_encoded_bytes()
        } else if found.is_file() {
            // A sparse file may be larger than the disk.
            let hash = |bytes| blake3::hash(bytes).as_bytes().to_vec();
            match found.len() {
                0..0x1000_0000 => hash(&fs::read(entry.path()).expect("a file")),
                len => len.to_le_bytes().to_vec(),
            }
        } else {
            Vec::new()
        };
        let kind = found.file_type();
        let is_device = kind.is_char_device() || kind.is_block_device();
        let state = State {
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            device: if is_device { found.rdev() } else { 0 },
            mtime: (found.mtime(), found.mtime_nsec()),
            ino: found.ino(),
            content,
        };
        let path = entry.path().strip_prefix(root).expect("below the root");
        (path.to_owned(), state)
    });
    states.collect()
}

/// Asserts that two snapshots are the same, and names what differs.
///
/// # Panics
/// They are not.
#[track_caller]
pub fn assert_same(before: &Snapshot, after: &Snapshot) {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let different: Vec<_> = paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| (path, before.get(path), after.get(path)))
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}
