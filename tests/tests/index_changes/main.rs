//! Changes of a tree behind an index's back: `verify` names them, `build` and `seal` repair them, and at no time is anything
//! believed that is not so.

mod copies;
mod libraries;
mod meanwhile;
mod names;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use elfuse_format::loader_cache::{ArchivedObjectRow, program_flags};
use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::{Reader, no_stale_key_validates};
use elfuse_tests::scratch::{Elf, Scratch, keeping_mtime, liba};

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
