//! Pointers that lead nowhere, code that is made at run time, and what a program is told of its own memory.

use std::collections::HashMap;
use std::process::Command;

use elfuse_tests::need;

use super::guest::{Guest, said, same, same_and};

#[test]
fn a_bad_pointer_is_efault_whatever_is_done_with_sigsegv() {
    let text = same(&["bad pointers"]);
    assert!(text.ends_with("wrong 0\n"), "{text}");
    assert!(!text.contains("caught 1"), "{text}");
    assert!(text.matches("EFAULT").count() > 8 * 30, "{text}");
}

#[test]
fn a_path_may_end_on_the_last_byte_that_is_mapped() {
    same_and(
        &["at the edge"],
        "to the end: ok, beyond: EFAULT, blocked: EFAULT, ok, 4095 bytes: ok, no end: ENAMETOOLONG\n",
    );
}

#[test]
fn calls_from_code_that_was_made_at_run_time_are_served() {
    same_and(&["made code"], "0 -2 -20\n");
}

#[test]
fn other_ways_into_the_kernel_are_refused() {
    let said = Guest::new().run(&["/bin/traps", "other tables"]);
    assert_eq!(said.well(), "int 0x80: -38, x32: -38, io_uring: ENOSYS\n");
}

#[test]
fn the_auxiliary_vector_is_that_of_a_native_start() {
    let text = same(&["auxiliary"]);
    assert!(
        text.contains("vDSO: 1\n") && text.contains("random: 1, secure 0\n"),
        "{text}"
    );
}

#[test]
fn a_start_that_may_not_have_the_memory_for_an_index_does_without() {
    let guest = Guest::new();
    guest.add("hello-static", "bin/hello");
    let run = guest.elfuse(&[], &["/bin/hello"]);
    let mut limited = Command::new("/bin/sh");
    limited
        .args(["-c", "ulimit -d 16384 && exec \"$@\"", "sh"])
        .arg(run.get_program())
        .args(run.get_args())
        .env_clear()
        .env("GREETING", "hello");
    assert_eq!(said(&mut limited), guest.native(&["/bin/hello"]));
}

/// Where the parts of a program lie.
fn places(command: &mut Command) -> HashMap<String, String> {
    let text = said(command).well();
    let pair = |line: &str| {
        let (part, place) = line.split_once(' ').expect("a part and its place");
        (part.to_owned(), place.to_owned())
    };
    let places: HashMap<_, _> = text.lines().map(pair).collect();
    assert_eq!(places.len(), 6, "{text}");
    assert_ne!(places["interpreter"], "0", "{text}");
    places
}

#[test]
fn a_program_lies_in_another_place_at_every_start() {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("traps-dynamic", "bin/dynamic");
    let start = || places(&mut guest.elfuse(&[], &["/bin/dynamic", "say places"]));
    let (first, second) = (start(), start());
    for (part, place) in &first {
        assert_ne!(*place, second[part], "{part} is always at {place}");
    }
}

#[test]
fn a_program_lies_in_one_place_where_that_was_asked_for() {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("traps-dynamic", "bin/dynamic");
    let start = || {
        let run = guest.elfuse(&[], &["/bin/dynamic", "say places"]);
        let mut fixed = Command::new(need::tool("setarch", "util-linux"));
        fixed.arg("-R").arg(run.get_program()).args(run.get_args());
        fixed.env_clear();
        places(&mut fixed)
    };
    assert_eq!(start(), start());
}
