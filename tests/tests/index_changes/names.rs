//! Names that come, go, change places or become another kind of file.

use std::fs;
use std::os::unix::fs::symlink;

use elfuse_tests::scratch::{keeping_mtime, mtime, set_mtime};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Case, LIBRARY, all_noticed_and_repaired, parent};

#[test]
fn names_that_come_go_and_change_places_are_noticed_and_repaired() {
    all_noticed_and_repaired(&[
        Case {
            what: "a file added, the directory's mtime restored",
            change: |tree| {
                let directory = tree.path("usr/share/doc/prog");
                keeping_mtime(&directory, || tree.file("usr/share/doc/prog/NEWS", "new"));
            },
            expected: &[("missing-name", "/usr/share/doc/prog/NEWS")],
        },
        Case {
            what: "a file removed, the directory's mtime restored",
            change: |tree| {
                let directory = tree.path("usr/share/doc/prog");
                keeping_mtime(&directory, || {
                    fs::remove_file(directory.join("README")).unwrap()
                });
            },
            expected: &[("no-such-name", "/usr/share/doc/prog/README")],
        },
        Case {
            what: "a symlink retargeted, all mtimes restored",
            change: |tree| {
                let link = tree.path("usr/lib64/liba.so.1");
                let time = mtime(&link);
                keeping_mtime(parent(&link), || {
                    fs::remove_file(&link).unwrap();
                    symlink("libz.so.1.0", &link).unwrap();
                    set_mtime(&link, time);
                });
            },
            expected: &[("wrong-target", "/usr/lib64/liba.so.1")],
        },
        Case {
            what: "two files that changed places",
            change: |tree| {
                let (a, b) = (
                    tree.path(LIBRARY),
                    tree.path("usr/lib64/ld-linux-x86-64.so.2"),
                );
                keeping_mtime(parent(&a), || {
                    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap()
                });
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "a hard link flipped from one file to another",
            change: |tree| {
                // Inodes and contents are there before and after; only which name means which has changed.
                let (a, loader) = (
                    tree.path(LIBRARY),
                    tree.path("usr/lib64/ld-linux-x86-64.so.2"),
                );
                keeping_mtime(parent(&a), || {
                    fs::hard_link(&loader, tree.path("usr/lib64/spare")).unwrap();
                    fs::rename(tree.path("usr/lib64/spare"), &a).unwrap();
                });
            },
            expected: &[("wrong-facts", "/usr/lib64/liba.so.1.0")],
        },
    ]);
}

#[test]
fn directories_that_come_go_and_change_places_are_noticed_and_repaired() {
    all_noticed_and_repaired(&[
        Case {
            what: "removed and newly made",
            change: |tree| {
                let directory = tree.path("usr/share/doc/prog");
                let time = mtime(&directory);
                keeping_mtime(parent(&directory), || {
                    fs::remove_dir_all(&directory).unwrap();
                    tree.file("usr/share/doc/prog/README.md", "read me\n");
                    set_mtime(&directory, time);
                });
            },
            expected: &[
                ("no-such-name", "/usr/share/doc/prog/README"),
                ("missing-name", "/usr/share/doc/prog/README.md"),
            ],
        },
        Case {
            what: "a renamed ancestor",
            change: |tree| {
                keeping_mtime(tree.root(), || {
                    fs::rename(tree.path("usr"), tree.path("usr2")).unwrap();
                });
            },
            expected: &[("no-such-name", "/usr"), ("missing-name", "/usr2")],
        },
        Case {
            what: "a renamed ancestor with another tree in its place",
            change: |tree| {
                keeping_mtime(tree.root(), || {
                    tree.file("other/lib64/liba.so.1", "another");
                    fs::create_dir(tree.path("other/bin")).unwrap();
                    let (usr, other) = (tree.path("usr"), tree.path("other"));
                    renameat_with(CWD, &usr, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                });
            },
            expected: &[("missing-name", "/other")],
        },
        Case {
            what: "two that changed places",
            change: |tree| {
                keeping_mtime(tree.root(), || {
                    let (usr, opt) = (tree.path("usr"), tree.path("opt"));
                    renameat_with(CWD, &usr, CWD, &opt, RenameFlags::EXCHANGE).unwrap();
                });
            },
            expected: &[("stale-key", "/")],
        },
    ]);
}

#[test]
fn a_name_that_becomes_another_kind_of_file_is_noticed_and_repaired() {
    all_noticed_and_repaired(&[
        Case {
            what: "a directory, then a symlink to it",
            change: |tree| {
                keeping_mtime(tree.root(), || {
                    fs::rename(tree.path("usr"), tree.path("usr.real")).unwrap();
                    symlink("usr.real", tree.path("usr")).unwrap();
                });
            },
            expected: &[("wrong-kind", "/usr"), ("missing-name", "/usr.real")],
        },
        Case {
            what: "a symlink, then the directory itself",
            change: |tree| {
                keeping_mtime(tree.root(), || {
                    fs::remove_file(tree.path("lib64")).unwrap();
                    fs::rename(tree.path("usr/lib64"), tree.path("lib64")).unwrap();
                });
            },
            expected: &[("wrong-kind", "/lib64"), ("no-such-name", "/usr/lib64")],
        },
        Case {
            what: "a file, then a directory",
            change: |tree| {
                let library = tree.path(LIBRARY);
                keeping_mtime(parent(&library), || {
                    fs::remove_file(&library).unwrap();
                    tree.file("usr/lib64/liba.so.1.0/file", "");
                });
            },
            expected: &[("wrong-kind", "/usr/lib64/liba.so.1.0")],
        },
        Case {
            what: "a directory, then a file",
            change: |tree| {
                keeping_mtime(&tree.path("usr/share"), || {
                    fs::remove_dir_all(tree.path("usr/share/doc")).unwrap();
                    tree.file("usr/share/doc", "");
                });
            },
            expected: &[("wrong-kind", "/usr/share/doc")],
        },
    ]);
}
