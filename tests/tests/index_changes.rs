//! Changes of a tree behind an index's back: `verify` names them, `build` and `seal` repair them, and at no time is anything
//! believed that is not so.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use elfuse_format::loader_cache::{ArchivedObjectRow, program_flags};
use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::{Reader, no_stale_key_validates};
use elfuse_tests::scratch::{Elf, Scratch, keeping_mtime, liba, mtime, set_mtime};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// An index in which everything is sealed.
#[track_caller]
fn build(tree: &Scratch) {
    elfuse_index!().build(tree.root(), &[]).succeeded();
    let found = elfuse_index!().verify(tree.root(), &[]);
    assert_eq!(found, [], "after build");
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed, "{believed:?}");
}

/// What is younger is too young to be sealed, whatever the file system's clock made of it.
const NEARLY_RACY: Duration = Duration::from_millis(1900);

/// A change, and what `verify` says of it.
struct Case {
    what: &'static str,
    change: fn(&Scratch),
    /// (kind, path) among the differences.
    expected: &'static [(&'static str, &'static str)],
}

/// For each case, and for `build` and `seal`: makes an index, changes the tree, and asserts that `verify` reports it and that the
/// command repairs it, at once as far as it may and wholly when it waits. Side by side, as all wait for time stamps to age.
fn all_noticed_and_repaired(cases: &'static [Case]) {
    let run = |case: &'static Case, command: &'static str| {
        // A panic names its thread.
        let named = thread::Builder::new().name(format!("{}, then {command}", case.what));
        named
            .spawn(move || noticed_and_repaired(case, command))
            .unwrap()
    };
    let both = cases
        .iter()
        .flat_map(|case| [run(case, "build"), run(case, "seal")]);
    let failed: Vec<_> = both
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(|case| case.join().err())
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed",
        failed.len(),
        2 * cases.len()
    );
}

fn noticed_and_repaired(case: &Case, command: &str) {
    let tree = Scratch::with_programs();
    build(&tree);
    (case.change)(&tree);
    no_stale_key_validates(tree.root());
    let found = elfuse_index!().verify(tree.root(), &[]);
    for (kind, path) in case.expected {
        let named = found
            .iter()
            .any(|(k, p)| (k.as_str(), p.as_str()) == (*kind, *path));
        assert!(named, "no {kind} {path} in {found:?}");
    }
    let believed = found
        .iter()
        .find(|(kind, _)| kind == "wrong-key" || kind == "wrong-file-key");
    assert_eq!(believed, None, "a stale key was believed: {found:?}");

    elfuse_index!()
        .on(command, tree.root(), &["--no-wait"])
        .succeeded();
    no_stale_key_validates(tree.root());
    elfuse_index!().on(command, tree.root(), &[]).succeeded();
    assert_eq!(
        elfuse_index!().verify(tree.root(), &[]),
        [],
        "after {command}"
    );
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed, "{believed:?}");
}

const LIBRARY: &str = "usr/lib64/liba.so.1.0";

/// A library of the same size and another content.
fn other_library() -> Vec<u8> {
    let other = liba();
    other.with_filler(1).bytes()
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("not the root")
}

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

#[test]
fn changed_configuration_of_the_loader_is_noticed_and_closures_follow() {
    all_noticed_and_repaired(&[
        Case {
            what: "ld.so.conf, its mtime restored",
            change: |tree| {
                keeping_mtime(&tree.path("etc/ld.so.conf"), || {
                    tree.file("etc/ld.so.conf", "/usr/lib\n")
                });
            },
            expected: &[("stale-file-key", "/etc/ld.so.conf")],
        },
        Case {
            what: "a new file that it includes",
            change: |tree| {
                tree.file("etc/ld.so.conf", "include ld.so.conf.d/*.conf\n");
                tree.file("etc/ld.so.conf.d/opt.conf", "/opt/lib\n");
            },
            expected: &[("missing-name", "/etc/ld.so.conf.d")],
        },
    ]);
}

#[test]
fn a_sidecar_that_is_not_the_directorys_is_noticed_and_written_again() {
    all_noticed_and_repaired(&[
        Case {
            what: "removed",
            change: |tree| {
                fs::remove_file(tree.path("usr/lib64/.elfuse-sidecar-index")).unwrap();
            },
            expected: &[("no-sidecar", "/usr/lib64")],
        },
        Case {
            what: "that of another directory",
            change: |tree| {
                let name = ".elfuse-sidecar-index";
                fs::remove_file(tree.path("usr/lib64").join(name)).unwrap();
                fs::copy(
                    tree.path("usr/bin").join(name),
                    tree.path("usr/lib64").join(name),
                )
                .unwrap();
            },
            expected: &[("sidecar-differs", "/usr/lib64")],
        },
    ]);
}

/// Copies a tree with an index, by a command that gets the original's path and the copy's.
#[track_caller]
fn copied_is_stale_as_a_whole_and_repaired(script: &str) {
    let original = Scratch::with_programs();
    build(&original);
    let repaired_by = |command: &str| {
        let copy = Scratch::new();
        let status = Command::new("sh")
            .args(["-ec", script, "copy"])
            .arg(original.root())
            .arg(copy.root())
            .status();
        assert!(status.unwrap().success());
        let believed = no_stale_key_validates(copy.root());
        assert_eq!(
            believed.directories, 0,
            "keys of the original hold in the copy"
        );
        let found = elfuse_index!().verify(copy.root(), &[]);
        for path in ["/", "/usr", "/usr/share/doc/prog", "/var/empty"] {
            let stale = ("stale-key".to_owned(), path.to_owned());
            assert!(found.contains(&stale), "{path} is not stale: {found:?}");
        }
        let known = ["stale-key", "stale-file-key"];
        assert!(
            found.iter().all(|(kind, _)| known.contains(&kind.as_str())),
            "{found:?}"
        );
        let ran = elfuse_index!().on(command, copy.root(), &[]).succeeded();
        assert_eq!(
            ran.number("sidecars_written"),
            0,
            "the original's sidecars are right"
        );
        assert_eq!(elfuse_index!().verify(copy.root(), &[]), []);
        let believed = no_stale_key_validates(copy.root());
        assert_eq!(believed.directories, believed.indexed);
        assert_eq!(believed.files, 4);
    };
    repaired_by("build");
    repaired_by("seal");
    assert_eq!(
        elfuse_index!().verify(original.root(), &[]),
        [],
        "the original stands"
    );
}

#[test]
fn a_copied_tree_is_stale_as_a_whole_and_repaired() {
    copied_is_stale_as_a_whole_and_repaired(r#"cp -a -- "$1/." "$2""#);
}

#[test]
fn a_tree_packed_and_unpacked_with_tar_is_stale_as_a_whole_and_repaired() {
    copied_is_stale_as_a_whole_and_repaired(r#"tar -C "$1" -cf - . | tar -C "$2" -xpf -"#);
}

#[test]
fn a_copied_tree_with_a_replaced_library_is_sealed_with_the_facts_of_the_new_one() {
    let original = Scratch::with_programs();
    build(&original);
    let copy = Scratch::new();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(original.root().join("."))
        .arg(copy.root())
        .status();
    assert!(copied.unwrap().success());
    copy.file(LIBRARY, other_library());
    let ran = elfuse_index!().seal(copy.root(), &[]).succeeded();
    assert_eq!(ran.number("sidecars_written"), 1);
    assert_eq!(elfuse_index!().verify(copy.root(), &[]), []);
    no_stale_key_validates(copy.root());
}

#[test]
fn what_changes_while_build_waits_is_not_sealed_and_the_next_build_repairs_it() {
    let tree = Scratch::with_programs();
    let mut building = elfuse_index!()
        .command(["build".as_ref(), tree.root().as_os_str()])
        .spawn()
        .unwrap();
    // Published before the wait, so that what follows falls into it.
    while !tree.path(".elfuse/loader-cache").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    keeping_mtime(&tree.path(LIBRARY), || tree.file(LIBRARY, other_library()));
    keeping_mtime(&tree.path("etc"), || tree.file("etc/new", ""));
    keeping_mtime(&tree.path("etc/ld.so.conf"), || {
        tree.file("etc/ld.so.conf", "/usr/lib\n")
    });
    fs::rename(tree.path("usr/share"), tree.path("usr/share2")).unwrap();
    building.wait().unwrap();
    no_stale_key_validates(tree.root());
    elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    no_stale_key_validates(tree.root());
}

#[test]
fn a_file_half_written_while_build_reads_it_is_read_again_by_the_next() {
    let tree = Scratch::with_programs();
    let late = tree.file("usr/lib64/libc.so.6", "");
    let mut building = elfuse_index!()
        .command(["build".as_ref(), tree.root().as_os_str()])
        .spawn()
        .unwrap();
    while !tree.path(".elfuse/loader-cache").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    // Its directory does not change by this.
    fs::write(late, Elf::library("libc.so.6").bytes()).unwrap();
    building.wait().unwrap();
    no_stale_key_validates(tree.root());
    elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
}

#[test]
fn what_changes_in_the_same_tick_after_build_is_not_believed() {
    let began = Instant::now();
    let tree = Scratch::in_memory().populated();
    for round in 0..40 {
        let library = liba();
        tree.elf(LIBRARY, &library.clone().with_filler(2 * round));
        tree.file("etc/motd", format!("{round}"));
        let name = tree.path(format!("etc/name-{round}"));
        fs::write(&name, "").unwrap();
        elfuse_index!()
            .build(tree.root(), &["--no-wait"])
            .succeeded();
        keeping_mtime(&tree.path("etc"), || {
            fs::rename(&name, tree.path(format!("etc/eman-{round}"))).unwrap()
        });
        keeping_mtime(&tree.path(LIBRARY), || {
            tree.elf(LIBRARY, &library.with_filler(2 * round + 1))
        });
        let believed = no_stale_key_validates(tree.root());
        // Later the files that no round writes are old enough.
        assert!(
            believed.files == 0 || began.elapsed() > NEARLY_RACY,
            "a file younger than two seconds was sealed"
        );
    }
}

#[test]
fn unsealed_things_are_no_difference_and_are_sealed_by_the_next_build() {
    let built_at_once = || {
        let began = Instant::now();
        let tree = Scratch::with_programs();
        let ran = elfuse_index!()
            .build(tree.root(), &["--no-wait"])
            .succeeded();
        (began.elapsed() < NEARLY_RACY).then_some((tree, ran))
    };
    let (tree, ran) = (0..10)
        .find_map(|_| built_at_once())
        .expect("a small tree is built in two seconds at least once");
    assert_eq!(ran.warnings(), ["unsealed"]);
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    assert_eq!(no_stale_key_validates(tree.root()).directories, 0);
    elfuse_tests::scratch::age();
    let ran = elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    assert_eq!(ran.warnings(), [""; 0]);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(
        (believed.directories, believed.files, believed.inputs),
        (believed.indexed, 4, 1)
    );
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], true);
}

#[test]
fn a_closure_that_passed_a_file_over_says_that_it_depends_on_more_than_its_objects() {
    let tree = Scratch::in_memory().populated();
    let flags = || {
        elfuse_index!()
            .build(tree.root(), &["--no-wait"])
            .succeeded();
        let reader = Reader::open(&tree.path(".elfuse")).unwrap();
        let (dir, entry) = reader.find("usr/bin/prog".as_ref()).unwrap();
        let closures = reader.cache().closures().unwrap();
        let program = closures.program(dir, entry.index).unwrap();
        let object =
            |row: &ArchivedObjectRow| closures.string(&row.name).escape_ascii().to_string();
        let names: Vec<_> = closures.objects(program).iter().map(object).collect();
        assert_eq!(names, ["liba.so.1", "libb.so.1"]);
        program.flags.to_native()
    };
    assert_eq!(flags(), 0);
    let mut other_machine = Elf::library("libb.so.1").bytes();
    other_machine[18] = 183;
    tree.file("first/libb.so.1", other_machine);
    assert_eq!(flags(), program_flags::PASSES_OVER);
}
