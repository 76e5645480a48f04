//! Trees that are copied together with their index.

use std::process::Command;

use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::Scratch;

use super::{LIBRARY, build, other_library};

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
