//! Damaged files of an index: `verify` reports them, `build` mends them, nothing panics, and nothing in them is believed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use elfuse_format::header;
use elfuse_format::sidecar::{self, Block, Content, Kind, NewEntry};
use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Random, Scratch, keeping_mtime, seed};

/// How a file is damaged.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(usize),
    Truncate(usize),
    Zero(usize, usize),
    Append,
    Other,
}

fn damage(bytes: &[u8], random: &mut Random) -> (Damage, Vec<u8>) {
    let mut damaged = bytes.to_vec();
    let how = match random.below(10) {
        0..4 => Damage::Flip(random.below(8 * bytes.len())),
        // Among the last are the checksums of pages.
        4 => {
            let len = bytes.len().min(64);
            Damage::Flip(8 * (bytes.len() - len) + random.below(8 * len))
        }
        // Among the first bytes is all that says how to read the rest.
        5 => Damage::Flip(random.below(8 * bytes.len().min(512))),
        6 => Damage::Truncate(random.below(bytes.len())),
        7 => Damage::Zero(random.below(bytes.len()), 1 + random.below(64)),
        8 => Damage::Append,
        _ => Damage::Other,
    };
    match how {
        Damage::Flip(bit) => damaged[bit / 8] ^= 1 << (bit % 8),
        Damage::Truncate(len) => damaged.truncate(len),
        Damage::Zero(at, len) => {
            let end = (at + len).min(damaged.len());
            damaged[at..end].fill(0);
        }
        Damage::Append => damaged.push(0),
        Damage::Other => damaged = b"not a file of an index".to_vec(),
    }
    (how, damaged)
}

/// A tree whose index is sealed.
fn sealed() -> Scratch {
    let tree = Scratch::in_memory().populated();
    elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    tree
}

/// Damages a file in place, many times, and has `mend` (arguments of `build`) repair it.
fn damaged_is_reported_and_mended(file: &str, rounds: usize, mend: &[&str]) {
    let mut random = Random(seed());
    let tree = sealed();
    let path = tree.path(file);
    for _ in 0..rounds {
        let whole = fs::read(&path).unwrap();
        let (how, damaged) = damage(&whole, &mut random);
        let differs = damaged != whole;
        fs::write(&path, &damaged).unwrap();
        no_stale_key_validates(tree.root());
        let found = elfuse_index!().verify(tree.root(), &[]);
        assert_eq!(!found.is_empty(), differs, "{how:?} of {file}: {found:?}");
        let mut arguments = vec!["--no-wait"];
        arguments.extend(mend);
        elfuse_index!().build(tree.root(), &arguments).succeeded();
        no_stale_key_validates(tree.root());
        assert_eq!(
            elfuse_index!().verify(tree.root(), &[]),
            [],
            "{how:?} of {file}"
        );
    }
}

#[test]
fn damaged_keys_are_reported_and_mended() {
    damaged_is_reported_and_mended(".elfuse/keys", 60, &[]);
}

#[test]
fn a_damaged_loader_cache_is_reported_and_mended() {
    damaged_is_reported_and_mended(".elfuse/loader-cache", 60, &[]);
}

#[test]
fn a_sidecar_damaged_in_place_is_reported_and_mended_by_a_full_build() {
    damaged_is_reported_and_mended("usr/lib64/.elfuse-sidecar-index", 40, &["--full"]);
}

#[test]
fn a_damaged_sidecar_is_not_believed_by_seal() {
    let mut random = Random(seed());
    let tree = sealed();
    let path = tree.path("usr/lib64/.elfuse-sidecar-index");
    let whole = fs::read(&path).unwrap();
    for _ in 0..40 {
        let (how, damaged) = damage(&whole, &mut random);
        keeping_mtime(&path, || fs::write(&path, damaged)).unwrap();
        elfuse_index!()
            .seal(tree.root(), &["--no-wait"])
            .succeeded();
        assert_eq!(elfuse_index!().verify(tree.root(), &[]), [], "{how:?}");
        assert!(fs::read(&path).unwrap() == whole, "{how:?}");
        no_stale_key_validates(tree.root());
    }
}

/// The entry that a listing would have made of one in a block.
fn as_new(entry: &sidecar::Entry<'_>) -> NewEntry {
    let content = match (entry.kind().unwrap(), entry.elf()) {
        (_, Some(elf)) => Content::Elf(Arc::new(elf.to_facts().unwrap())),
        (Kind::File, None) => Content::File,
        (Kind::Directory, None) => Content::Directory,
        (Kind::Symlink, None) => Content::Symlink(entry.target().unwrap().to_vec()),
        (Kind::Other, None) => Content::Other,
    };
    NewEntry {
        name: entry.name().unwrap().to_vec(),
        content,
        host_spelling: None,
    }
}

#[test]
fn a_sidecar_that_lies_and_contradicts_nothing_is_not_believed_by_seal() {
    let tree = sealed();
    let path = tree.path("usr/lib64/.elfuse-sidecar-index");
    let whole = fs::read(&path).unwrap();
    let block = Block::parse(sidecar::payload(&whole).unwrap()).unwrap();
    // Size and content hash are right; another SONAME, no facts at all, a name too many, one missing, another target.
    let lies: [fn(&mut Vec<NewEntry>); 5] = [
        |entries| {
            for entry in entries {
                if let Content::Elf(facts) = &mut entry.content {
                    Arc::make_mut(facts).soname = Some(b"libother.so".to_vec());
                }
            }
        },
        |entries| {
            entries.iter_mut().for_each(|entry| {
                if matches!(entry.content, Content::Elf(_)) {
                    entry.content = Content::File;
                }
            })
        },
        |entries| {
            let mut invented = entries[0].clone();
            invented.name = b"zzz".to_vec();
            entries.push(invented);
        },
        |entries| drop(entries.remove(0)),
        |entries| {
            for entry in entries {
                if let Content::Symlink(target) = &mut entry.content {
                    *target = b"elsewhere".to_vec();
                }
            }
        },
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut entries = block.entries().map(|entry| as_new(&entry)).collect();
        lie(&mut entries);
        let payload = sidecar::encode(entries).unwrap();
        fs::write(&path, header::wrap(header::Kind::Sidecar, 0, &payload)).unwrap();
        // Without an index to compare with, as on a target that got the sidecars alone; and with one.
        if number % 2 == 0 {
            fs::remove_dir_all(tree.path(".elfuse")).unwrap();
        }
        elfuse_index!()
            .seal(tree.root(), &["--no-wait"])
            .succeeded();
        assert_eq!(elfuse_index!().verify(tree.root(), &[]), [], "lie {number}");
        assert!(fs::read(&path).unwrap() == whole, "lie {number}");
    }
}

#[test]
fn files_of_an_index_that_were_exchanged_or_mixed_are_not_believed() {
    let (tree, other) = (sealed(), Scratch::in_memory().populated());
    other.file("etc/other", "");
    elfuse_index!().build(other.root(), &[]).succeeded();
    let store = |tree: &Scratch, name: &str| tree.path(".elfuse").join(name);
    let copies = |from: &Path, to: &Path| fs::copy(from, to).unwrap();
    // The other tree's loader cache, its keys, both, and each in the other's place.
    for names in [&["loader-cache"][..], &["keys"], &["loader-cache", "keys"]] {
        for name in names {
            copies(&store(&other, name), &store(&tree, name));
        }
        assert_eq!(
            no_stale_key_validates(tree.root()).directories,
            0,
            "{names:?}"
        );
        assert_ne!(elfuse_index!().verify(tree.root(), &[]), [], "{names:?}");
        elfuse_index!()
            .build(tree.root(), &["--no-wait"])
            .succeeded();
        no_stale_key_validates(tree.root());
        assert_eq!(elfuse_index!().verify(tree.root(), &[]), [], "{names:?}");
    }
    copies(&store(&tree, "keys"), &store(&tree, "loader-cache"));
    assert_eq!(no_stale_key_validates(tree.root()).directories, 0);
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);

    // Keys of an earlier state of this tree, with the loader cache of that state.
    let old = ["loader-cache", "keys"].map(|name| fs::read(store(&tree, name)).unwrap());
    tree.file("etc/new", "");
    fs::remove_file(tree.path("usr/bin/script")).unwrap();
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    for (name, bytes) in ["loader-cache", "keys"].into_iter().zip(old) {
        fs::write(store(&tree, name), bytes).unwrap();
    }
    no_stale_key_validates(tree.root());
    assert_ne!(elfuse_index!().verify(tree.root(), &[]), []);
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    no_stale_key_validates(tree.root());
}
