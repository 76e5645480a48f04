//! What may not be read, and what may not be written.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_tests::invariant::{Reader, no_stale_key_validates, no_stale_key_validates_in};
use elfuse_tests::scratch::{Elf, Scratch};
use elfuse_tests::{elfuse_index, snapshot};

/// A tree with everything that somebody who is not root cannot read, and how often.
fn unreadable() -> Scratch {
    let tree = Scratch::new().populated();
    for (path, mode) in [
        ("secret-a", 0o000),
        ("secret-b", 0o000),
        ("listable", 0o744),
        ("searchable", 0o711),
    ] {
        tree.file(format!("{path}/lib.so"), Elf::library("lib.so").bytes());
        fs::set_permissions(tree.path(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    for number in 0..3 {
        let file = tree.elf(
            format!("usr/lib64/secret-{number}.so"),
            &Elf::library("secret.so"),
        );
        fs::set_permissions(file, PermissionsExt::from_mode(0o000)).unwrap();
    }
    if !rustix::process::geteuid().is_root() {
        for path in ["listable", "searchable"] {
            let mode = if path == "listable" { 0o444 } else { 0o111 };
            fs::set_permissions(tree.path(path), PermissionsExt::from_mode(mode)).unwrap();
        }
    }
    tree
}

#[test]
fn what_may_not_be_read_is_left_out_counted_and_named_once_for_every_build() {
    let tree = unreadable();
    let beside = tree.beside("index");
    fs::create_dir(&beside).unwrap();
    fs::set_permissions(&beside, PermissionsExt::from_mode(0o777)).unwrap();
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    let elsewhere = ["--index-dir", beside.to_str().unwrap()];
    for round in ["first", "second"] {
        let ran = nobody.build(tree.root(), &elsewhere).ended_with(3);
        assert_eq!(
            ran.warnings(),
            ["unreadable-directory", "unreadable-file"],
            "{round}"
        );
        let warnings = &ran.json()["warnings"];
        assert_eq!(warnings[0]["count"], 4, "{round}: {warnings}");
        assert_eq!(warnings[0]["example"], "/listable", "the least path");
        assert_eq!(warnings[1]["count"], 3, "{round}: {warnings}");
        assert_eq!(warnings[1]["example"], "/usr/lib64/secret-0.so");
        assert_eq!(ran.json()["unchanged"], round == "second");
        let text = nobody.run([
            "build".as_ref(),
            tree.root().as_os_str(),
            "--index-dir".as_ref(),
            beside.as_os_str(),
        ]);
        assert_eq!(text.notes.matches("warning:").count(), 2, "{}", text.notes);
        assert_eq!(nobody.verify(tree.root(), &elsewhere), []);
    }
    // Nothing was claimed of what could not be read.
    let reader = Reader::open(&beside).unwrap();
    assert!(reader.find("secret-a".as_ref()).is_some());
    assert!(reader.find("secret-a/lib.so".as_ref()).is_none());
    drop(reader);

    // Root, or whoever may look, finds what was left out; and it is repaired once it can be read. No directory changes by that.
    for number in 0..3 {
        let file = tree.path(format!("usr/lib64/secret-{number}.so"));
        fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    }
    let found = nobody.verify(tree.root(), &elsewhere);
    assert_eq!(found.len(), 3, "{found:?}");
    for path in ["secret-a", "secret-b", "listable", "searchable"] {
        fs::set_permissions(tree.path(path), PermissionsExt::from_mode(0o755)).unwrap();
    }
    nobody.build(tree.root(), &elsewhere).succeeded();
    assert_eq!(nobody.verify(tree.root(), &elsewhere), []);
    let believed = no_stale_key_validates_in(tree.root(), &beside);
    assert_eq!(believed.directories, believed.indexed);
    assert_eq!(believed.files, 4 + 3 + 4);
}

#[test]
fn a_root_that_may_not_be_read_is_an_error() {
    let tree = Scratch::new().populated();
    fs::set_permissions(tree.root(), PermissionsExt::from_mode(0o000)).unwrap();
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    let ran = nobody.build(
        tree.root(),
        &["--index-dir", tree.beside("index").to_str().unwrap()],
    );
    assert_eq!(ran.status, 125, "{}", ran.notes);
    assert!(ran.notes.contains("Permission denied"), "{}", ran.notes);
}

#[test]
fn directories_that_take_no_sidecar_are_indexed_all_the_same() {
    let tree = Scratch::new().populated();
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    // Only the root belongs to whoever builds.
    let locked = [tree.path("usr/lib64"), tree.path("etc")];
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(tree.root(), Some(65534), Some(65534)).unwrap();
    } else {
        for directory in &locked {
            fs::set_permissions(directory, PermissionsExt::from_mode(0o555)).unwrap();
        }
    }
    let ran = nobody.build(tree.root(), &[]).succeeded();
    assert_eq!(ran.warnings(), ["sidecar-not-written"]);
    assert!(tree.path(".elfuse-sidecar-index").exists());
    assert!(!locked[0].join(".elfuse-sidecar-index").exists());
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
    let found = nobody.verify(tree.root(), &[]);
    assert!(
        found.iter().all(|(kind, _)| kind == "no-sidecar"),
        "{found:?}"
    );
    assert_eq!(
        nobody.build(tree.root(), &[]).succeeded().json()["unchanged"],
        true
    );
}

#[test]
fn a_read_only_sysroot_has_its_index_in_the_cache_directory() {
    let tree = Scratch::new().populated();
    let script = r#"
        mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
        "$elfuse" build --json "$1" >&2
        "$elfuse" verify --json "$1" >&2
        exec "$elfuse" build --json "$1""#;
    let before = snapshot::of(tree.root());
    let ran = elfuse_index!().with_mounts(&tree, script).succeeded();
    snapshot::assert_same(&before, &snapshot::of(tree.root()));
    let document = ran.json();
    assert_eq!(
        (&document["in_tree"], &document["unchanged"]),
        (&false.into(), &true.into())
    );
    let store = PathBuf::from(document["index"].as_str().unwrap());
    assert!(
        store.starts_with(tree.beside("cache/elfuse")),
        "{}",
        store.display()
    );
    let believed = no_stale_key_validates_in(tree.root(), &store);
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
    // clean finds it there too.
    let tool = elfuse_index!().with_cache_home(&tree.beside("cache"));
    let ran = tool.clean(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["store_removed"], true);
    assert!(!store.exists());
}

#[test]
fn a_sysroot_that_has_an_index_inside_and_is_read_only_now_is_sealed_outside() {
    let tree = Scratch::new().populated();
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let copy = Scratch::new();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(tree.root().join("."))
        .arg(copy.root())
        .status();
    assert!(copied.unwrap().success());
    let script = r#"
        mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
        "$elfuse" seal --json "$1" >&2
        exec "$elfuse" verify --json "$1""#;
    let before = snapshot::of(copy.root());
    let ran = elfuse_index!().with_mounts(&copy, script).succeeded();
    snapshot::assert_same(&before, &snapshot::of(copy.root()));
    let store = PathBuf::from(ran.json()["index"].as_str().unwrap());
    assert!(
        store.starts_with(copy.beside("cache/elfuse")),
        "{}",
        store.display()
    );
    let believed = no_stale_key_validates_in(copy.root(), &store);
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
}

#[test]
fn a_full_disk_is_an_error_and_the_old_index_stands() {
    let tree = Scratch::new();
    tree.directory("root");
    let script = r#"
        mount -t tmpfs -o size=1m none "$1"; cd "$1"
        mkdir a b; seq 1000 > a/file; for i in $(seq 300); do : > "b/name-$i"; done
        "$elfuse" build --json . >&2
        "$elfuse" verify --quiet .
        : > a/new
        dd if=/dev/zero of=fill bs=1k 2>/dev/null || true
        if "$elfuse" build --json . >&2; then echo 'it fits all the same' >&2; fi
        find . -name '*.tmp' >&2; test -z "$(find . -name '*.tmp')"
        rm fill
        "$elfuse" build --json . >&2
        exec "$elfuse" verify --json ."#;
    let ran = elfuse_index!().with_mounts(&tree, script).succeeded();
    assert_eq!(ran.json()["differences"], serde_json::json!([]));
    assert!(
        ran.notes.contains("No space left on device"),
        "{}",
        ran.notes
    );
}

#[test]
fn with_an_index_dir_nothing_in_the_sysroot_is_touched() {
    let tree = Scratch::new().populated();
    let beside = tree.beside("index");
    let elsewhere = ["--index-dir", beside.to_str().unwrap()];
    let ctimes = |root: &Path| {
        let walk = walkdir::WalkDir::new(root).into_iter();
        let ctime = |entry: walkdir::DirEntry| {
            let found = entry.metadata().unwrap();
            (entry.path().to_owned(), found.ctime(), found.ctime_nsec())
        };
        walk.map(|entry| ctime(entry.unwrap())).collect::<Vec<_>>()
    };
    let before = (snapshot::of(tree.root()), ctimes(tree.root()));
    elfuse_index!().build(tree.root(), &elsewhere).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &elsewhere), []);
    let believed = no_stale_key_validates_in(tree.root(), &beside);
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
    let ran = elfuse_index!().seal(tree.root(), &elsewhere).succeeded();
    assert_eq!(ran.number("sidecars_written"), 0);
    assert_eq!(elfuse_index!().verify(tree.root(), &elsewhere), []);
    elfuse_index!().clean(tree.root(), &elsewhere).succeeded();
    assert!(!beside.exists());
    snapshot::assert_same(&before.0, &snapshot::of(tree.root()));
    assert_eq!(before.1, ctimes(tree.root()));
}

#[test]
fn an_index_dir_inside_the_sysroot_is_refused_and_not_made() {
    let tree = Scratch::in_memory().populated();
    let before = snapshot::of(tree.root());
    tree.link("way-in", ".");
    fs::rename(tree.path("way-in"), tree.beside("way-in")).unwrap();
    symlink(tree.root(), tree.beside("through-a-link")).unwrap();
    for inside in [
        tree.path("index"),
        tree.path("usr/new/index"),
        tree.root().to_owned(),
        tree.beside("through-a-link").join("index"),
    ] {
        let ran = elfuse_index!().build(tree.root(), &["--index-dir", inside.to_str().unwrap()]);
        assert_eq!(ran.status, 125, "{}", ran.notes);
        assert!(
            ran.notes.contains("lies inside the sysroot"),
            "{}",
            ran.notes
        );
    }
    let after = snapshot::of(tree.root());
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
}
