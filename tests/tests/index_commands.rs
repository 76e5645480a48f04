//! What the commands leave behind, take away, and tell the shell.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Scratch, make_node, mtime};
use elfuse_tests::tool::Ran;
use elfuse_tests::{elfuse_index, snapshot};
use rustix::fs::FileType;

#[test]
fn a_package_is_indexed_alone_shipped_with_its_sidecars_and_only_sealed_on_the_target() {
    // The build host: one package's directories, nothing else is there yet.
    let package = Scratch::in_memory();
    let prefix = "gnu/store/abc-hello-1.0";
    let loader = "/gnu/store/xyz-glibc/lib/ld-linux-x86-64.so.2";
    package.elf(
        format!("{prefix}/bin/hello"),
        &Elf::program(loader).needing("libhello.so.1"),
    );
    package.elf(
        format!("{prefix}/lib/libhello.so.1"),
        &Elf::library("libhello.so.1"),
    );
    package.file("gnu/store/other/file", "not ours");
    let ran = elfuse_index!()
        .build(package.root(), &["--only", prefix])
        .succeeded();
    assert_eq!(
        (ran.number("directories"), ran.number("sidecars_written")),
        (3, 3)
    );
    let sidecars: Vec<_> = ["", "/bin", "/lib"]
        .map(|directory| PathBuf::from(format!("{prefix}{directory}/.elfuse-sidecar-index")))
        .into();
    assert_eq!(package.index_files(), sidecars);

    // The target: unpacked among others.
    let target = Scratch::new().populated();
    target.directory("gnu/store");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(package.path(prefix))
        .arg(target.path("gnu/store"))
        .status();
    assert!(copied.unwrap().success());
    let ran = elfuse_index!().seal(target.root(), &[]).succeeded();
    assert_eq!(ran.number("elf_files"), 6);
    assert_eq!(elfuse_index!().verify(target.root(), &[]), []);
    let believed = no_stale_key_validates(target.root());
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 6)
    );
    for sidecar in sidecars {
        let (shipped, there) = (package.path(&sidecar), target.path(&sidecar));
        assert_eq!(fs::read(shipped).unwrap(), fs::read(there).unwrap());
    }
}

#[test]
fn an_only_that_cannot_be_meant_is_said_to_be_so() {
    let tree = Scratch::in_memory().populated();
    let beside = tree.beside("index");
    for (arguments, status) in [
        // Everything --only makes lies in the tree.
        (
            vec!["--index-dir", beside.to_str().unwrap(), "--only", "usr"],
            2,
        ),
        (vec!["--only", "nowhere"], 2),
        (vec!["--only", "etc/motd"], 2),
        (vec!["--only", "lib64"], 2),
        // Through a symlink: the directory is another.
        (vec!["--only", "bin/../usr", "lib64/."], 2),
    ] {
        elfuse_index!()
            .build(tree.root(), &arguments)
            .ended_with(status);
    }
    tree.directory("usr/lib64/sub");
    elfuse_index!()
        .build(tree.root(), &["--only", "lib64/sub"])
        .ended_with(2);
    assert_eq!(tree.index_files().len(), 0, "{:?}", tree.index_files());
    assert!(!beside.exists());

    // Sidecars are all that --only makes: if they cannot be written, it is not done.
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(tree.path("usr/lib64"), PermissionsExt::from_mode(0o555)).unwrap();
    }
    let ran = nobody
        .build(tree.root(), &["--only", "usr/lib64"])
        .ended_with(3);
    assert_eq!(ran.warnings(), ["sidecar-not-written"]);
}

#[test]
fn with_preserve_mtime_every_directory_keeps_its_mtime_and_clean_leaves_the_tree_as_it_was() {
    let tree = Scratch::new().populated();
    tree.named("odd", b"\xff", "x");
    make_node(&tree.path("odd/fifo"), FileType::Fifo, 0).unwrap();
    for (number, directory) in ["", "usr", "usr/lib64", "odd"].into_iter().enumerate() {
        let secs = 1_000_000_000 + number as i64;
        elfuse_tests::scratch::set_mtime(&tree.path(directory), (secs, 123_456_789));
    }
    fs::set_permissions(tree.path("odd"), PermissionsExt::from_mode(0o2710)).unwrap();
    let before = snapshot::of(tree.root());
    elfuse_index!()
        .build(tree.root(), &["--preserve-mtime"])
        .succeeded();
    for (path, state) in &before {
        assert_eq!(mtime(&tree.path(path)), state.mtime, "{}", path.display());
    }
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed);
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    snapshot::assert_same(&before, &snapshot::of(tree.root()));

    // Without it, the same but for the times of directories, which got a file.
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["store_removed"], true);
    let mut after = snapshot::of(tree.root());
    for (path, state) in &mut after {
        let directory = state.mode & 0o170_000 == 0o040_000;
        if let Some(known) = before.get(path).filter(|_| directory) {
            state.mtime = known.mtime;
        }
    }
    snapshot::assert_same(&before, &after);
}

#[test]
fn clean_removes_what_a_killed_command_left_and_keeps_what_is_not_its_own() {
    let tree = Scratch::in_memory().populated();
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    for name in [
        "keys.tmp",
        "loader-cache.tmp",
        "ld.so.cache",
        ".ld.so.cache.4711.tmp",
        "cpuid.4711.tmp",
    ] {
        tree.file(format!(".elfuse/{name}"), "half");
    }
    tree.file("usr/.elfuse-sidecar-index.4711.tmp", "half");
    tree.file(".elfuse/notes-of-mine", "mine");
    let ran = elfuse_index!().clean(tree.root(), &[]).ended_with(3);
    assert_eq!(ran.warnings(), ["not-removed"]);
    assert_eq!(
        tree.index_files(),
        [PathBuf::from(".elfuse"), ".elfuse/notes-of-mine".into()]
    );
    fs::remove_file(tree.path(".elfuse/notes-of-mine")).unwrap();
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(tree.index_files().len(), 0, "{:?}", tree.index_files());
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(
        (ran.number("sidecars_removed"), &ran.json()["store_removed"]),
        (0, &false.into())
    );
}

#[test]
fn a_build_removes_what_a_killed_one_left() {
    let tree = Scratch::new().populated();
    elfuse_index!().build(tree.root(), &[]).succeeded();
    // Beside an index that stands: nothing else is left to do.
    for name in ["keys.tmp", "loader-cache.tmp"] {
        tree.file(format!(".elfuse/{name}"), "half");
    }
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], true);
    tree.file("usr/.elfuse-sidecar-index.4711.tmp", "half");
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let temporary = |path: &PathBuf| path.extension() == Some(OsStr::new("tmp"));
    assert!(
        !tree.index_files().iter().any(temporary),
        "{:?}",
        tree.index_files()
    );
}

#[test]
fn exit_statuses_are_those_of_the_documentation() {
    let tree = Scratch::in_memory().populated();
    let root = tree.root().as_os_str();
    let run = |arguments: &[&OsStr]| elfuse_index!().run(arguments);
    let arg = OsStr::new;
    run(&[arg("verify"), root]).ended_with(125);
    run(&[arg("build"), root, arg("--no-wait")]).succeeded();
    run(&[arg("verify"), root]).succeeded();
    tree.file("etc/new", "");
    run(&[arg("verify"), root]).ended_with(1);
    run(&[arg("build"), root, arg("--no-wait")]).succeeded();
    run(&[arg("clean"), root]).succeeded();
    run(&[arg("build")]).ended_with(2);
    run(&[arg("build"), root, arg("--nonsense")]).ended_with(2);
    run(&[arg("build"), root, arg("--jobs"), arg("0")]).ended_with(2);
    run(&[arg("build"), tree.path("nowhere").as_os_str()]).ended_with(2);
    run(&[arg("build"), tree.path("etc/motd").as_os_str()]).ended_with(2);
    let outside = tree.beside("file");
    fs::write(&outside, "").unwrap();
    run(&[arg("build"), root, arg("--index-dir"), outside.as_os_str()]).ended_with(125);
    // 3, done with gaps: see the tests of what may not be read.
}

#[test]
fn json_documents_have_the_members_that_scripts_rely_on() {
    let tree = Scratch::in_memory().populated();
    let members = |ran: &Ran| {
        let document = ran.json();
        assert_eq!(document["schema"], 1);
        let names = document.as_object().unwrap().keys().cloned();
        names.collect::<BTreeSet<_>>()
    };
    let has = |ran: Ran, command: &str, expected: &[&str]| {
        assert_eq!(ran.json()["command"], command);
        let found = members(&ran);
        for name in expected.iter().chain(&["schema", "command", "warnings"]) {
            assert!(found.contains(*name), "{command} has no {name}: {found:?}");
        }
    };
    let built = [
        "sysroot",
        "index",
        "in_tree",
        "directories",
        "entries",
        "elf_files",
        "libraries",
        "programs",
        "directories_reused",
        "elf_files_reused",
        "sidecars_written",
        "sidecar_bytes",
        "store_bytes",
        "bytes_written",
        "unsealed_directories",
        "unsealed_files",
        "file_system",
        "file_system_trusted",
        "unchanged",
        "seconds",
    ];
    let ran = elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let seconds = ran.json()["seconds"].clone();
    for phase in [
        "load",
        "scan",
        "write_sidecars",
        "assemble",
        "sync",
        "capture",
        "publish",
        "work",
        "racy_wait",
    ] {
        assert!(seconds[phase].is_number(), "{phase}: {seconds}");
    }
    let warning = ran.json()["warnings"][0].clone();
    for name in ["kind", "count", "example", "detail", "hint"] {
        assert!(!warning[name].is_null(), "{name}: {warning}");
    }
    assert_eq!((ran.number("libraries"), ran.number("programs")), (3, 1));
    has(ran, "build", &built);
    has(
        elfuse_index!()
            .seal(tree.root(), &["--no-wait"])
            .succeeded(),
        "seal",
        &built,
    );
    tree.file("etc/new", "");
    let ran = elfuse_index!().on("verify", tree.root(), &[]).ended_with(1);
    let difference = ran.json()["differences"][0].clone();
    assert_eq!(
        (&difference["difference"], &difference["path"]),
        (&"missing-name".into(), &"/etc/new".into())
    );
    has(
        ran,
        "verify",
        &[
            "index",
            "directories",
            "entries",
            "elf_files",
            "sealed_directories",
            "unsealed_directories",
            "differences",
        ],
    );
    let ran = elfuse_index!()
        .build(tree.root(), &["--only", "usr"])
        .succeeded();
    has(
        ran,
        "build",
        &[
            "sysroot",
            "directories",
            "entries",
            "sidecars_written",
            "sidecar_bytes",
        ],
    );
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    has(
        ran,
        "clean",
        &["sidecars_removed", "store_removed", "store"],
    );
}
