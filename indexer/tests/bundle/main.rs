//! `elfuse-index bundle`: on trees made for the purpose, and on the running system.
#![cfg(target_os = "linux")]

mod running_system;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

fn elfuse_index(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_elfuse-index"))
        .args(arguments)
        .output()
        .expect("starting elfuse-index")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A source without ELF files, and where its bundle goes.
struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let fixture = Fixture {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(fixture.source("")).unwrap();
        fixture
    }

    fn source(&self, path: &str) -> PathBuf {
        self.dir.path().join("source").join(path)
    }

    fn bundle(&self, path: &str) -> PathBuf {
        self.dir.path().join("bundle").join(path)
    }

    fn file(&self, path: &str, content: &str, mode: u32) {
        let file = self.source(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn link(&self, target: &str, path: &str) {
        let link = self.source(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let (source, bundle) = (self.source(""), self.bundle(""));
        let mut all = vec![
            "bundle",
            "--from",
            source.to_str().unwrap(),
            "--into",
            bundle.to_str().unwrap(),
        ];
        all.extend(arguments);
        elfuse_index(&all)
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

fn link_text(path: &Path) -> String {
    fs::read_link(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn every_symlink_on_the_way_to_a_program_stays_as_it_is() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/mawk", "data", 0o755);
    fixture.link("/usr/bin/mawk", "etc/alternatives/awk");
    fixture.link("/etc/alternatives/awk", "usr/bin/awk");
    fixture.link("usr/bin", "bin");
    fixture.succeed(&["/bin/awk"]);
    assert_eq!(link_text(&fixture.bundle("bin")), "usr/bin");
    assert_eq!(
        link_text(&fixture.bundle("usr/bin/awk")),
        "/etc/alternatives/awk"
    );
    assert_eq!(
        link_text(&fixture.bundle("etc/alternatives/awk")),
        "/usr/bin/mawk"
    );
    assert_eq!(fs::read(fixture.bundle("usr/bin/mawk")).unwrap(), b"data");
}

#[test]
fn a_script_brings_its_interpreter_and_the_program_that_env_starts() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "#!/usr/bin/env -S A=b awk -f\n", 0o755);
    fixture.file("usr/bin/env", "env", 0o755);
    fixture.file("usr/bin/awk", "#!/bin/interpreter\n", 0o755);
    fixture.file("bin/interpreter", "", 0o755);
    fixture.succeed(&["prog"]);
    for path in [
        "usr/bin/prog",
        "usr/bin/env",
        "usr/bin/awk",
        "bin/interpreter",
    ] {
        assert!(fixture.bundle(path).is_file(), "{path}");
    }
}

#[test]
fn a_missing_interpreter_is_a_gap() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "#!/nowhere/sh\n", 0o755);
    let output = fixture.run(&["prog"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("/nowhere/sh"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn mode_time_and_hard_links_are_kept_and_set_id_bits_are_not() {
    let fixture = Fixture::new();
    fixture.file("usr/share/a", "same", 0o444);
    fs::hard_link(fixture.source("usr/share/a"), fixture.source("usr/share/b")).unwrap();
    fixture.file("usr/share/su", "", 0o755);
    fs::set_permissions(
        fixture.source("usr/share/su"),
        PermissionsExt::from_mode(0o4755),
    )
    .unwrap();
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(fixture.source("usr/share/a"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::File::open(fixture.source("usr/share"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::set_permissions(
        fixture.source("usr/share"),
        PermissionsExt::from_mode(0o555),
    )
    .unwrap();
    fixture.file("usr/bin/prog", "", 0o755);
    let output = fixture.run(&["prog", "--add", "/usr/share"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("set-user-ID"),
        "{}",
        stderr(&output)
    );
    let (a, b) = (fixture.bundle("usr/share/a"), fixture.bundle("usr/share/b"));
    assert_eq!(a.metadata().unwrap().mode() & 0o7777, 0o444);
    assert_eq!(a.metadata().unwrap().modified().unwrap(), time);
    assert_eq!(a.metadata().unwrap().ino(), b.metadata().unwrap().ino());
    assert_eq!(
        fixture.bundle("usr/share/su").metadata().unwrap().mode() & 0o7777,
        0o755
    );
    let directory = fixture.bundle("usr/share").metadata().unwrap();
    assert_eq!(directory.modified().unwrap(), time);
    assert_eq!(
        directory.mode() & 0o7777,
        0o755,
        "its owner has to be able to index and remove it"
    );
}

#[test]
fn a_symlink_in_an_added_tree_brings_a_file_and_names_a_directory_it_does_not_bring() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "", 0o755);
    fixture.file("etc/site.py", "site", 0o644);
    fixture.file("var/large/x", "", 0o644);
    fixture.file("usr/lib/py/inner/x", "", 0o644);
    fixture.link("/etc/site.py", "usr/lib/py/site.py");
    fixture.link("/var/large", "usr/lib/py/large");
    fixture.link("inner", "usr/lib/py/alias");
    fixture.link("/nowhere", "usr/lib/py/dangling");
    let output = fixture.run(&["prog", "--add", "/usr/lib/py"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(fixture.bundle("etc/site.py")).unwrap(), b"site");
    assert!(!fixture.bundle("var/large").exists());
    assert!(
        stderr(&output).contains("/usr/lib/py/large: /var/large"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        link_text(&fixture.bundle("usr/lib/py/dangling")),
        "/nowhere"
    );
    assert_eq!(link_text(&fixture.bundle("usr/lib/py/alias")), "inner");
}

#[test]
fn a_second_run_changes_nothing_and_a_third_brings_what_changed() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "one", 0o755);
    fixture.file("usr/share/data/x", "x", 0o644);
    fixture.succeed(&["prog", "--add", "/usr/share/data"]);
    let before = fixture.bundle("usr/bin").metadata().unwrap();
    let again = fixture.succeed(&["prog", "--add", "/usr/share/data"]);
    assert!(again.contains("2 files were up to date"), "{again}");
    let after = fixture.bundle("usr/bin").metadata().unwrap();
    assert_eq!(
        (before.ctime(), before.ctime_nsec()),
        (after.ctime(), after.ctime_nsec()),
        "an index stays valid"
    );
    fixture.file("usr/bin/prog", "two, longer", 0o755);
    fixture.succeed(&["prog"]);
    assert_eq!(
        fs::read(fixture.bundle("usr/bin/prog")).unwrap(),
        b"two, longer"
    );
    assert!(
        fixture.bundle("usr/share/data/x").exists(),
        "nothing is removed"
    );
}

#[test]
fn a_directory_that_an_interrupted_run_left_with_the_wrong_time_gets_the_right_one() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "", 0o755);
    let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::open(fixture.source("usr/bin"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fixture.succeed(&["prog"]);
    let bin = fixture.bundle("usr/bin");
    fs::File::open(&bin)
        .unwrap()
        .set_modified(UNIX_EPOCH)
        .unwrap();
    fixture.succeed(&["prog"]);
    assert_eq!(bin.metadata().unwrap().modified().unwrap(), time);
    fs::write(bin.join(".elfuse-sidecar-index"), "").unwrap();
    let indexed = bin.metadata().unwrap().modified().unwrap();
    fixture.succeed(&["prog"]);
    assert_eq!(
        bin.metadata().unwrap().modified().unwrap(),
        indexed,
        "an index stays valid"
    );
}

#[test]
fn an_interrupted_copy_leaves_nothing_after_the_next_run() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "whole", 0o755);
    fixture.succeed(&["prog"]);
    fs::rename(
        fixture.bundle("usr/bin/prog"),
        fixture.bundle("usr/bin/.elfuse-bundle.tmp"),
    )
    .unwrap();
    fixture.succeed(&["prog"]);
    assert!(!fixture.bundle("usr/bin/.elfuse-bundle.tmp").exists());
    assert_eq!(fs::read(fixture.bundle("usr/bin/prog")).unwrap(), b"whole");
}

#[test]
fn a_directory_that_holds_something_else_is_refused_without_force() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "", 0o755);
    fs::create_dir(fixture.bundle("")).unwrap();
    fs::write(fixture.bundle("precious"), "").unwrap();
    let output = fixture.run(&["prog"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("precious") && stderr(&output).contains("--force"),
        "{}",
        stderr(&output)
    );
    assert!(!fixture.bundle("usr").exists());
    fixture.succeed(&["prog", "--force"]);
    assert!(fixture.bundle("precious").exists() && fixture.bundle("usr/bin/prog").exists());
}

#[test]
fn nothing_is_written_through_a_symlink_in_the_destination() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "new", 0o755);
    let outside = fixture.dir.path().join("outside");
    fs::create_dir_all(outside.join("bin")).unwrap();
    fs::write(outside.join("bin/prog"), "old").unwrap();
    fs::create_dir(fixture.bundle("")).unwrap();
    symlink(&outside, fixture.bundle("usr")).unwrap();
    fixture.succeed(&["prog", "--force"]);
    assert_eq!(fs::read(outside.join("bin/prog")).unwrap(), b"old");
    assert_eq!(fs::read(fixture.bundle("usr/bin/prog")).unwrap(), b"new");
    assert!(!fixture.bundle("usr").is_symlink());
}

#[test]
fn an_absolute_symlink_of_the_source_stays_inside_it() {
    let fixture = Fixture::new();
    fixture.link("/etc/passwd", "usr/bin/prog");
    let output = fixture.run(&["/usr/bin/prog"]);
    assert_ne!(
        output.status.code(),
        Some(0),
        "/etc/passwd is not in this source: {}",
        stderr(&output)
    );
    assert!(!fixture.bundle("etc/passwd").exists());
}

#[test]
fn users_of_the_source_are_cut_to_root_nobody_and_oneself() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "", 0o755);
    fixture.file(
        "etc/passwd",
        "root:x:0:0::/:/bin/sh\nsomebody:x:4242:4242::/:/bin/sh\n",
        0o644,
    );
    fixture.succeed(&["prog"]);
    assert_eq!(
        fs::read_to_string(fixture.bundle("etc/passwd")).unwrap(),
        "root:x:0:0::/:/bin/sh\n"
    );
    fixture.file("etc/group", "root:x:0:\n", 0o644);
    fs::remove_dir_all(fixture.bundle("")).unwrap();
    fixture.succeed(&["prog", "--no-nss"]);
    assert!(!fixture.bundle("etc/group").exists());
    fs::remove_dir_all(fixture.bundle("")).unwrap();
    fixture.succeed(&["prog", "--add", "/etc/passwd"]);
    assert!(
        fs::read_to_string(fixture.bundle("etc/passwd"))
            .unwrap()
            .contains("somebody"),
        "--add says more"
    );
}

#[test]
fn json_says_why_each_file_is_there() {
    let fixture = Fixture::new();
    fixture.file("usr/bin/prog", "#!/bin/interpreter\n", 0o755);
    fixture.file("bin/interpreter", "", 0o755);
    let document: serde_json::Value =
        serde_json::from_str(&fixture.succeed(&["prog", "--json"])).unwrap();
    assert_eq!(document["schema"], 1);
    assert_eq!(document["command"], "bundle");
    let entries = document["entries"].as_array().unwrap();
    let interpreter = entries
        .iter()
        .find(|entry| entry["path"] == "/bin/interpreter")
        .unwrap();
    assert_eq!(
        interpreter["because"],
        serde_json::json!({ "group": "interpreter", "of": "/usr/bin/prog" })
    );
}

/// Links something without a C library. The harness needs a compiler anyway.
fn cc(arguments: &[&str], output: &Path) {
    fs::create_dir_all(output.parent().unwrap()).unwrap();
    let mut child = Command::new("cc")
        .args(["-nostdlib", "-fno-stack-protector", "-fPIC", "-o"])
        .arg(output)
        .args(["-x", "c", "-", "-x", "none"])
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("starting cc");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success(), "cc {arguments:?}");
}

#[test]
fn libraries_come_with_their_symlinks_and_their_variants_for_better_cpus() {
    let fixture = Fixture::new();
    cc(
        &["-shared", "-Wl,-soname,libx.so.1"],
        &fixture.source("opt/private/libx.so.1"),
    );
    let variant = fixture.source("opt/private/glibc-hwcaps/x86-64-v4/libx.so.1");
    fs::create_dir_all(variant.parent().unwrap()).unwrap();
    fs::copy(fixture.source("opt/private/libx.so.1"), variant).unwrap();
    cc(
        &["-shared", "-Wl,-soname,liby.so.1"],
        &fixture.source("opt/private/liby.so.1.2"),
    );
    fixture.link("liby.so.1.2", "opt/private/liby.so.1");
    fixture.file("lib64/ld.so", "", 0o755);
    let (x, y) = (
        fixture.source("opt/private/libx.so.1"),
        fixture.source("opt/private/liby.so.1"),
    );
    let arguments = [
        "-Wl,--no-as-needed,--unresolved-symbols=ignore-all,-e,0,-dynamic-linker,/lib64/ld.so",
        "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../private",
        x.to_str().unwrap(),
        y.to_str().unwrap(),
    ];
    cc(&arguments, &fixture.source("opt/bin/prog"));
    let said = fixture.succeed(&["/opt/bin/prog"]);
    assert!(
        said.contains("every program loads the same files"),
        "{said}"
    );
    for path in [
        "opt/private/libx.so.1",
        "opt/private/glibc-hwcaps/x86-64-v4/libx.so.1",
        "lib64/ld.so",
    ] {
        assert!(fixture.bundle(path).is_file(), "{path}");
    }
    assert_eq!(
        link_text(&fixture.bundle("opt/private/liby.so.1")),
        "liby.so.1.2"
    );
    assert!(fixture.bundle("opt/private/liby.so.1.2").is_file());
}

#[test]
fn a_library_that_is_nowhere_is_a_gap() {
    let fixture = Fixture::new();
    cc(
        &["-shared", "-Wl,-soname,libgone.so.1"],
        &fixture.source("usr/lib/libgone.so.1"),
    );
    fixture.file("lib64/ld.so", "", 0o755);
    let gone = fixture.source("usr/lib/libgone.so.1");
    let linker = "-Wl,--no-as-needed,-e,0,-dynamic-linker,/lib64/ld.so";
    cc(
        &[linker, gone.to_str().unwrap()],
        &fixture.source("usr/bin/prog"),
    );
    fs::remove_file(gone).unwrap();
    let output = fixture.run(&["prog"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("libgone.so.1: needed by /usr/bin/prog"),
        "{}",
        stderr(&output)
    );
}
