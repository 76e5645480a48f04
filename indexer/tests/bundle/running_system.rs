//! Programs of the running system print the same in their bundle as here.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{elfuse_index, stderr};

/// How to run a program of a sysroot here: as root, or in a user namespace. `None`, after saying so, where neither works;
/// on a machine of continuous integration that is a failure.
fn chroot() -> Option<Vec<&'static str>> {
    for way in [vec!["chroot"], vec!["unshare", "-r", "chroot"]] {
        let done = Command::new(way[0])
            .args(&way[1..])
            .args(["/", "/bin/true"])
            .output();
        if done.is_ok_and(|output| output.status.success()) {
            return Some(way);
        }
    }
    let said = "neither chroot nor `unshare -r chroot` works here: the bundle is made but not run";
    assert!(std::env::var_os("CI").is_none(), "{said}");
    eprintln!("NOT TESTED: {said}");
    None
}

/// Runs `command` here and in the bundle of `programs`, and compares what they print.
fn same_output_as_here(programs: &[&str], commands: &[&[&str]]) {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let mut arguments = vec!["bundle", "--into", bundle.to_str().unwrap()];
    arguments.extend(programs);
    let output = elfuse_index(&arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        stderr(&output)
    );
    let Some(way) = chroot() else { return };
    for command in commands {
        let here = Command::new(command[0])
            .args(&command[1..])
            .env_clear()
            .current_dir("/")
            .output()
            .unwrap();
        let mut there = Command::new(way[0]);
        there.args(&way[1..]).arg(&bundle).args(*command);
        let there = there
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        assert_eq!(
            (String::from_utf8_lossy(&here.stdout), here.status.code()),
            (String::from_utf8_lossy(&there.stdout), there.status.code()),
            "{command:?}: {}",
            stderr(&there)
        );
    }
}

fn is_here(program: &str) -> bool {
    let found = Path::new(program).exists();
    if !found {
        eprintln!("NOT TESTED: {program} is not on this system");
    }
    found
}

#[test]
fn true_and_a_shell_run_in_their_bundle() {
    same_output_as_here(
        &["true", "/bin/sh", "cat"],
        &[
            &["/bin/true"],
            &["/bin/sh", "-c", "cd / && echo \"$PWD $((6 * 7))\""],
            &["/bin/cat", "/etc/ld.so.conf"],
        ],
    );
}

#[test]
fn getent_finds_a_user_and_iconv_a_character_set_in_their_bundle() {
    if !is_here("/usr/bin/getent") || !is_here("/usr/bin/iconv") || !is_here("/usr/bin/locale") {
        return;
    }
    same_output_as_here(
        &["getent", "iconv", "locale"],
        &[
            &["/usr/bin/getent", "passwd", "root"],
            &["/usr/bin/getent", "services", "http"],
            &["/usr/bin/getent", "hosts", "localhost"],
            &[
                "/usr/bin/iconv",
                "-f",
                "EUC-TW",
                "-t",
                "UTF-16LE",
                "/etc/nsswitch.conf",
            ],
            &["/usr/bin/locale", "-a"],
        ],
    );
}

#[test]
fn python_has_its_standard_library_in_its_bundle() {
    if !is_here("/usr/bin/python3") {
        return;
    }
    let program = "import ssl, json, ctypes, decimal, time, sys; print(sys.path, 'é'.encode('latin1'), time.tzname)";
    same_output_as_here(
        &["/usr/bin/python3"],
        &[&["/usr/bin/python3", "-I", "-S", "-c", program]],
    );
}

#[test]
fn perl_has_its_modules_in_its_bundle() {
    if !is_here("/usr/bin/perl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script.pl");
    fs::write(
        &script,
        "use POSIX; use Encode; use File::Temp; print POSIX::floor(2.5), \"\\n\";",
    )
    .unwrap();
    // As a file: with -e, perl opens /dev/null, and a bundle has no devices.
    let text = script.to_str().unwrap();
    same_output_as_here(
        &["/usr/bin/perl", "--add", text],
        &[&["/usr/bin/perl", text]],
    );
}
