//! POSIX access control lists: where one is, mode bits do not tell who may search a directory, and nothing is sealed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use elfuse_format::keys::{
    ArchivedFileKey, DeviceRow, DirKey, FileKey, Keys, KeysContent, Seal, Time,
};
use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::{Reader, no_stale_key_validates};
use elfuse_tests::scratch::Scratch;

/// The permissions of somebody by name besides those of the mode bits, as the kernel takes them (linux/posix_acl_xattr.h).
fn access_list() -> Vec<u8> {
    const NOBODY_IN_PARTICULAR: u32 = !0;
    let own = rustix::process::getuid().as_raw();
    let rows = [
        (0x01, 7, NOBODY_IN_PARTICULAR), // the owner
        (0x02, 5, own),
        (0x04, 5, NOBODY_IN_PARTICULAR), // the group
        (0x10, 5, NOBODY_IN_PARTICULAR), // the most that a named one or the group has
        (0x20, 5, NOBODY_IN_PARTICULAR), // others
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in rows {
        list.extend_from_slice(&u16::to_le_bytes(tag));
        list.extend_from_slice(&u16::to_le_bytes(permissions));
        list.extend_from_slice(&u32::to_le_bytes(id));
    }
    list
}

/// A tree on a file system that keeps access control lists, and one on its `usr/lib64`.
fn with_access_list() -> Scratch {
    for tree in [Scratch::new(), Scratch::in_memory()] {
        let tree = tree.populated();
        match give_access_list(&tree.path("usr/lib64")) {
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            done => {
                done.unwrap();
                return tree;
            }
        }
    }
    panic!(
        "neither {} nor /dev/shm keeps access control lists; set TMPDIR to a directory on ext4, xfs, btrfs or tmpfs",
        std::env::temp_dir().display()
    )
}

fn give_access_list(path: &Path) -> rustix::io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "system.posix_acl_access", &access_list(), flags)
}

#[test]
fn a_directory_with_an_access_control_list_is_indexed_and_not_sealed() {
    let tree = with_access_list();
    let directory = tree.path("usr/lib64");
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.warnings(), ["access-list"]);
    let document = ran.json();
    assert_eq!(document["warnings"][0]["example"], "/usr/lib64");
    let unsealed = serde_json::json!({ "access control list": 1 });
    assert_eq!(document["unsealed_directories"], unsealed);
    assert_eq!(document["unsealed_files"], serde_json::json!({}));
    assert!(directory.join(".elfuse-sidecar-index").exists());
    let reader = Reader::open(&tree.path(".elfuse")).unwrap();
    assert!(reader.find("usr/lib64/liba.so.1".as_ref()).is_some());
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let all_but_one = |tree: &Scratch| {
        let believed = no_stale_key_validates(tree.root());
        assert_eq!(believed.directories + 1, believed.indexed);
    };
    all_but_one(&tree);

    // Nothing to be done again, until there is.
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], true);
    tree.file("usr/lib64/new", "");
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], false);
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    all_but_one(&tree);

    rustix::fs::removexattr(&directory, "system.posix_acl_access").unwrap();
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], false);
    assert!(ran.warnings().is_empty(), "{:?}", ran.warnings());
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed);

    // One that is given later shows by the ctime.
    give_access_list(&directory).unwrap();
    no_stale_key_validates(tree.root());
    let stale = ("stale-key".to_owned(), "/usr/lib64".to_owned());
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), [stale]);
    elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    all_but_one(&tree);
}

/// What `keys` says, to be written anew.
fn content_of(keys: &Keys<'_>) -> KeysContent {
    let file = |key: &ArchivedFileKey| FileKey {
        ino: key.ino.to_native(),
        size: key.size.to_native(),
        mtime: key.mtime.to_native(),
        ctime: key.ctime.to_native(),
        device: key.device.to_native(),
        seal: key.seal,
    };
    let devices = keys.devices().unwrap().iter();
    KeysContent {
        bound_to: keys.bound_to(),
        flags: keys.flags(),
        devices: devices
            .map(|row| DeviceRow {
                dev: row.dev.to_native(),
                fs_type: row.fs_type.to_native(),
                fs_id: row.fs_id.to_native(),
            })
            .collect(),
        dirs: (keys.dirs().unwrap().iter())
            .map(|key| key.to_native())
            .collect(),
        files: keys.files().unwrap().iter().map(file).collect(),
        inputs: keys.inputs().unwrap().iter().map(file).collect(),
        plain: (keys.plain().unwrap().iter())
            .map(|digest| digest.to_native())
            .collect(),
        text_identities: Vec::new(),
        text_copies: Vec::new(),
        attributes: None,
    }
}

#[test]
fn a_directory_sealed_in_spite_of_its_access_control_list_is_reported_and_mended() {
    let tree = with_access_list();
    elfuse_index!().build(tree.root(), &[]).succeeded();
    let found = fs::metadata(tree.path("usr/lib64")).unwrap();
    let path = tree.path(".elfuse/keys");
    let whole = fs::read(&path).unwrap();
    let mut content = content_of(&Keys::parse(&whole).unwrap());
    assert!(
        content.encode().unwrap() == whole,
        "all of it was taken over"
    );
    let unsealed = |key: &&mut DirKey| key.seal == Seal::AccessList as u8;
    let key = content.dirs.iter_mut().find(unsealed).unwrap();
    let time = |secs, nanos: i64| Time {
        secs,
        nanos: u32::try_from(nanos).unwrap(),
    };
    *key = DirKey {
        ino: found.ino(),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        seal: Seal::Sealed as u8,
        ..*key
    };
    fs::write(&path, content.encode().unwrap()).unwrap();
    let wrong = ("sealed-access-list".to_owned(), "/usr/lib64".to_owned());
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), [wrong]);
    elfuse_index!().build(tree.root(), &["--full"]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    no_stale_key_validates(tree.root());
}
