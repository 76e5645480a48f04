//! The index as a run questions it, on files made by the format's own writers.

use elfuse_format::keys::{DeviceRow, DirKey, KeysContent, Seal, Time};
use elfuse_format::loader_cache::{LoaderCache, LoaderCacheContent, NONE, NewDir};
use elfuse_format::sidecar::{Content, NewEntry, encode};
use elfuse_format::span::Span;
use elfuse_runtime::index::{DirId, Index, IndexError, Step};

fn block(entries: &[(&[u8], Content)]) -> Vec<u8> {
    let entry = |(name, content): &(&[u8], Content)| NewEntry {
        name: name.to_vec(),
        content: content.clone(),
        host_spelling: None,
    };
    encode(entries.iter().map(entry).collect()).unwrap()
}

fn key(ino: u64, block: &[u8], seal: Seal) -> DirKey {
    DirKey {
        ino,
        mtime: Time { secs: 1, nanos: 2 },
        ctime: Time { secs: 3, nanos: 4 },
        block_checksum: elfuse_format::checksum::checksum(block),
        device: 0,
        seal: seal as u8,
    }
}

/// `/lib -> usr/lib`, `/usr/lib/libc.so.6`, `/usr/secret` (not covered).
fn store() -> (Vec<u8>, Vec<u8>) {
    let root = block(&[
        (b"lib", Content::Symlink(b"usr/lib".to_vec())),
        (b"usr", Content::Directory),
    ]);
    let usr = block(&[
        (b"lib", Content::Directory),
        (b"secret", Content::Directory),
    ]);
    let lib = block(&[(b"libc.so.6", Content::File)]);
    let dir = |parent, entry, start, len, block| NewDir {
        parent,
        entry,
        children: Span { start, len },
        elf_count: 0,
        block,
    };
    let cache = LoaderCacheContent {
        dirs: vec![
            dir(0, NONE, 1, 1, &root),
            dir(0, 1, 2, 2, &usr),
            dir(1, 0, 0, 0, &lib),
            dir(1, 1, 0, 0, &[]),
        ],
        ..LoaderCacheContent::default()
    };
    let cache = cache.encode().unwrap();
    let keys = KeysContent {
        bound_to: LoaderCache::parse(&cache).unwrap().binding(),
        devices: vec![DeviceRow {
            dev: 77,
            fs_type: 0,
            fs_id: 0,
        }],
        dirs: vec![
            key(10, &root, Seal::Sealed),
            key(11, &usr, Seal::Racy),
            key(12, &root, Seal::Sealed),
            key(0, &[], Seal::Unreadable),
        ],
        ..KeysContent::default()
    };
    (cache, keys.encode().unwrap())
}

#[test]
fn names_lead_from_directory_to_directory_without_paths() {
    let (cache, keys) = store();
    let index = Index::parse(&cache, &keys).unwrap();
    assert_eq!(
        index.step(DirId::ROOT, b"lib").unwrap(),
        Step::Symlink(b"usr/lib")
    );
    let Step::Directory(usr) = index.step(DirId::ROOT, b"usr").unwrap() else {
        panic!("usr is a directory");
    };
    let Step::Directory(lib) = index.step(usr, b"lib").unwrap() else {
        panic!("lib is a directory");
    };
    assert_eq!(index.step(lib, b"libc.so.6").unwrap(), Step::File);
    assert_eq!(index.step(lib, b"libm.so.6").unwrap(), Step::Absent);
    let Step::Directory(secret) = index.step(usr, b"secret").unwrap() else {
        panic!("secret is a directory");
    };
    assert_eq!(index.step(secret, b"anything").unwrap(), Step::NotCovered);
}

#[test]
fn a_key_is_given_only_if_it_is_sealed_and_vouches_for_the_block_beside_it() {
    let (cache, keys) = store();
    let index = Index::parse(&cache, &keys).unwrap();
    let root = index.key(DirId::ROOT).unwrap().unwrap();
    assert_eq!(root.ino.to_native(), 10);
    assert_eq!(index.device(root).unwrap(), Some(77));
    let Step::Directory(usr) = index.step(DirId::ROOT, b"usr").unwrap() else {
        panic!("usr is a directory");
    };
    assert!(index.key(usr).unwrap().is_none(), "racy");
    let Step::Directory(lib) = index.step(usr, b"lib").unwrap() else {
        panic!("lib is a directory");
    };
    assert!(
        index.key(lib).unwrap().is_none(),
        "its key has the checksum of another block"
    );
}

#[test]
fn keys_of_another_loader_cache_are_no_index() {
    let (cache, _) = store();
    let other = KeysContent {
        bound_to: 1,
        ..KeysContent::default()
    };
    let other = other.encode().unwrap();
    assert_eq!(
        Index::parse(&cache, &other).unwrap_err(),
        IndexError::Unbound
    );
}
