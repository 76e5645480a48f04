//! What the options of `elfuse run` do to a guest, and what a run says of itself.

use std::fs;

use serde_json::Value;

use super::guest::{Guest, said};

/// A sysroot without programs: those of the host are run in it.
const ON_HOST: &[&str] = &["--host-fallback"];

#[test]
fn what_a_sysroot_has_not_is_found_on_the_host_only_where_that_is_asked_for() {
    let guest = Guest::new();
    let line = ["/bin/cat", "/w/f", "/etc/passwd"];
    let without = said(&mut guest.elfuse(&[], &line));
    assert_eq!((without.status, without.text.as_str()), (127, ""));
    let with = said(&mut guest.elfuse(ON_HOST, &line)).well();
    let hosts = fs::read_to_string("/etc/passwd").expect("the host has one");
    assert_eq!(with, format!("content\n{hosts}"));
    // What both have is the sysroot's.
    guest.scratch.file("etc/passwd", "the sysroot's\n");
    let with = said(&mut guest.elfuse(ON_HOST, &line)).well();
    assert_eq!(with, "content\nthe sysroot's\n");
}

#[test]
fn the_environment_is_edited_and_cleared() {
    let guest = Guest::new();
    let env = |options: &[&str]| {
        let options: Vec<_> = ON_HOST.iter().chain(options).copied().collect();
        said(&mut guest.elfuse(&options, &["/usr/bin/env"])).well()
    };
    assert_eq!(env(&[]), "GREETING=hello\n");
    assert_eq!(
        env(&["--env", "A=1", "--env", "A=2"]),
        "GREETING=hello\nA=2\n"
    );
    assert_eq!(env(&["--clear-env", "--env=B=x y"]), "B=x y\n");
}

#[test]
fn the_counters_are_those_of_all_processes_of_a_run_and_its_status_is_the_programs() {
    let guest = Guest::new();
    let options = ["--host-fallback", "--stats=json"];
    let line = [
        "/bin/sh",
        "-c",
        "for i in 1 2 3; do /bin/cat /w/f; done; exit 9",
    ];
    let run = said(&mut guest.elfuse(&options, &line));
    assert_eq!(
        (run.status, run.text.as_str()),
        (9, "content\ncontent\ncontent\n")
    );
    let report: Value = serde_json::from_str(&run.errors).expect("one JSON document");
    assert_eq!(report["schema"], 1);
    let calls = report["host_calls"]["by_call"].as_array().expect("a list");
    let execs = calls.iter().find(|call| call["call"] == "execve");
    let execs = execs.and_then(|call| call["count"].as_u64());
    // Those that succeed are not counted by who made them; of openings there are some for each of the children.
    assert!(execs.is_none_or(|count| count <= 3), "{report:#}");
    let opened = calls.iter().find(|call| call["call"] == "openat");
    assert!(
        opened.and_then(|call| call["count"].as_u64()) > Some(9),
        "{report:#}"
    );
}

#[test]
fn a_trace_tells_steps_and_calls_on_standard_error_alone() {
    let guest = Guest::new();
    for (words, steps, calls) in [
        ("1", true, false),
        ("syscalls", false, true),
        ("all", true, true),
    ] {
        let mut command = guest.elfuse(ON_HOST, &["/bin/cat", "/w/f"]);
        let run = said(command.env("ELFUSE_STARTUP_TRACE", words));
        assert_eq!((run.status, run.text.as_str()), (0, "content\n"));
        assert_eq!(
            run.errors.contains("program mapped"),
            steps,
            "{}",
            run.errors
        );
        assert_eq!(run.errors.contains("openat"), calls, "{}", run.errors);
        assert_eq!(run.errors.contains("fadvise64"), calls, "{}", run.errors);
    }
}
