//! Changes made while a build is at work, or in the same tick as it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Scratch, keeping_mtime, liba};

use super::{LIBRARY, NEARLY_RACY, other_library};

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
