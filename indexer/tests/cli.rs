//! The binary as a shell sees it: exit statuses and streams.

use std::process::{Command, Output, Stdio};

fn elfuse_index(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elfuse-index"));
    command
        .args(arguments)
        .env_remove("NO_COLOR")
        .output()
        .expect("starting elfuse-index")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_command_line_that_makes_no_sense_is_status_2_and_says_what_to_try() {
    for (arguments, said) in [
        (
            &["build", "/nonexistent"][..],
            "cannot be used as a sysroot",
        ),
        (&["build"], "SYSROOT"),
        (&["build", "/", "--jobs", "0"], "--jobs"),
        (&["tree", "no-such-program-anywhere"], "give a path"),
        (&["tree", "--hwcaps", "x86-64-v9", "true"], "x86-64-v3"),
        (&["show", "/nonexistent"], "/nonexistent"),
        (&["bundle", "--into", "/nonexistent"], "PROG"),
    ] {
        let output = elfuse_index(arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains(said),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_version_has_a_number_and_at_most_a_commit() {
    let output = elfuse_index(&["--version"]);
    let version = text(&output.stdout);
    let rest = version
        .trim_end()
        .strip_prefix(concat!("elfuse-index ", env!("CARGO_PKG_VERSION")));
    let commit = rest.expect("name and number").trim_start();
    let is_commit =
        |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let inner = commit
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    assert!(
        commit.is_empty() || inner.is_some_and(is_commit),
        "{version:?}"
    );
}

#[test]
fn man_pages_of_all_commands_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("man1");
    let output = elfuse_index(&["man", "--into", into.to_str().unwrap()]);
    assert!(output.status.success());
    for name in [
        "elfuse-index.1",
        "elfuse-index-build.1",
        "elfuse-index-who-needs.1",
    ] {
        let page = std::fs::read_to_string(into.join(name)).expect(name);
        assert!(page.contains(".TH"), "{name}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = elfuse_index(&["completions", shell]);
        assert!(
            output.status.success() && text(&output.stdout).contains("who-needs"),
            "{shell}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_elfuse-index"))
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}
