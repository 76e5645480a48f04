//! Libraries that are replaced, overwritten, mended or only touched.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use elfuse_tests::elfuse_index;
use elfuse_tests::scratch::{Elf, Scratch, keeping_mtime, liba, mtime, set_mtime};

use super::{Case, LIBRARY, all_noticed_and_repaired, build, other_library, parent};

#[test]
fn a_library_with_another_content_is_noticed_and_repaired() {
    all_noticed_and_repaired(&[
        Case {
            what: "replaced by rename",
            change: |tree| {
                let new = tree.beside("new");
                fs::write(&new, other_library()).unwrap();
                fs::rename(new, tree.path(LIBRARY)).unwrap();
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "replaced by rename, every mtime restored",
            change: |tree| {
                let (library, new) = (tree.path(LIBRARY), tree.beside("new"));
                fs::write(&new, other_library()).unwrap();
                set_mtime(&new, mtime(&library));
                keeping_mtime(parent(&library), || fs::rename(&new, &library).unwrap());
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "overwritten in place with the same size",
            change: |tree| {
                let before = fs::metadata(tree.path(LIBRARY)).unwrap();
                tree.file(LIBRARY, other_library());
                let after = fs::metadata(tree.path(LIBRARY)).unwrap();
                assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "overwritten in place, its mtime restored",
            change: |tree| {
                keeping_mtime(&tree.path(LIBRARY), || tree.file(LIBRARY, other_library()));
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "removed and newly made, often with the same inode",
            change: |tree| {
                let library = tree.path(LIBRARY);
                let before = fs::metadata(&library).unwrap();
                let time = mtime(&library);
                keeping_mtime(parent(&library), || {
                    // File systems hand out a free inode again at once, or the next, or never: try for it, and test what comes.
                    for _ in 0..64 {
                        fs::remove_file(&library).unwrap();
                        tree.elf(LIBRARY, &liba().with_filler(2));
                        if fs::metadata(&library).unwrap().ino() == before.ino() {
                            break;
                        }
                    }
                    set_mtime(&library, time);
                });
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "overwritten by one that needs another",
            change: |tree| {
                tree.elf(
                    "opt/lib/libb.so.1",
                    &Elf::library("libb.so.1").needing("liba.so.1"),
                );
            },
            expected: &[("wrong-facts", "/opt/lib/libb.so.1")],
        },
    ]);
}

#[test]
fn a_file_that_becomes_a_library_or_ceases_to_be_one_is_noticed_and_repaired() {
    all_noticed_and_repaired(&[
        Case {
            what: "truncated",
            change: |tree| {
                let library = fs::File::options()
                    .write(true)
                    .open(tree.path(LIBRARY))
                    .unwrap();
                library.set_len(100).unwrap();
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "overwritten in place by text",
            change: |tree| {
                tree.file(LIBRARY, "GROUP ( libb.so.1 )");
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "text overwritten in place by a library",
            change: |tree| {
                tree.elf("etc/motd", &Elf::library("libmotd.so"));
            },
            expected: &[("wrong-facts", "/etc/motd")],
        },
    ]);
}

#[test]
fn a_broken_library_mended_in_place_is_noticed_and_repaired() {
    let tree = Scratch::with_programs();
    let whole = Elf::library("libbroken.so").bytes();
    let broken = tree.file("usr/lib64/libbroken.so", &whole[..70]);
    build(&tree);
    fs::write(broken, whole).unwrap();
    let found = elfuse_index!().verify(tree.root(), &[]);
    let expected = (
        "wrong-facts".to_owned(),
        "/usr/lib64/libbroken.so".to_owned(),
    );
    assert_eq!(found, [expected]);
    elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
}

#[test]
fn a_library_that_was_only_touched_is_stale_and_repaired() {
    all_noticed_and_repaired(&[
        Case {
            what: "its mtime",
            change: |tree| {
                set_mtime(&tree.path(LIBRARY), (1_000_000_000, 0));
            },
            expected: &[("stale-file-key", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "its mode",
            change: |tree| {
                fs::set_permissions(tree.path(LIBRARY), PermissionsExt::from_mode(0o644)).unwrap();
            },
            expected: &[("stale-file-key", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "the mode of its directory",
            change: |tree| {
                fs::set_permissions(tree.path("usr/lib64"), PermissionsExt::from_mode(0o700))
                    .unwrap();
            },
            expected: &[("stale-key", "/usr/lib64")],
        },
        Case {
            what: "a hard link made elsewhere",
            change: |tree| {
                fs::hard_link(tree.path(LIBRARY), tree.beside("elsewhere")).unwrap();
            },
            expected: &[("stale-file-key", "/usr/lib64/liba.so.1.0")],
        },
    ]);
}
