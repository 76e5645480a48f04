//! The reading side links without std and libc and allocates nothing: `no-std-proof/` is a program that does, built and run here.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod samples;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use elfuse_format::header::{self, Kind};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the program with the feature `alloc` or without. Each has a target directory of its own, so that no other build's features are
/// in it.
fn build(with_alloc: bool) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("no-std-proof/Cargo.toml");
    let (name, features) = match with_alloc {
        true => ("no-std-proof-alloc", "alloc"),
        false => ("no-std-proof", ""),
    };
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--target", TARGET])
        .args(["--features", features])
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target_dir)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo can be started");
    let errors = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "building {}:\n{errors}",
        manifest.display()
    );
    target_dir
        .join(TARGET)
        .join("debug/elfuse-format-no-std-proof")
}

fn exit_status(program: &Path, input: &[u8]) -> Option<i32> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input)
        .expect("it reads");
    child.wait().expect("it ends").code()
}

fn reads_every_file_of_an_index(program: &Path) {
    let files = [
        header::wrap(Kind::Sidecar, 0, &samples::block()),
        samples::keys(),
        samples::loader_cache(),
    ];
    let cache = elfuse_format::ld_so_cache::write([], b"test").expect("an empty cache");
    let all = [files.concat(), cache].concat();
    assert_eq!(exit_status(program, &all), Some(0));
    assert_eq!(
        exit_status(program, &all[..300]),
        Some(1),
        "a file cut short is refused"
    );
}

#[test]
fn a_program_without_std_alloc_and_libc_reads_every_file_of_an_index() {
    reads_every_file_of_an_index(&build(false));
}

#[test]
fn a_program_that_is_linked_with_the_writers_needs_no_std_and_reads_without_allocating() {
    reads_every_file_of_an_index(&build(true));
}
