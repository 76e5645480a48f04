//! Calls by the entry for patched sites, made by a program that jumps there as a stub does: what they answer is in the oracle's way
//! `entered`; here is how they are made.

use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::guest::{Guest, said};

impl Guest {
    /// The address of the entry as the cases take it.
    fn entry(&self) -> String {
        format!("{:x}", self.programs.entry_address())
    }

    /// What a case says with its calls made by the entry, which is what it says under the real kernel.
    fn entered(&self, case: &str) -> String {
        let entry = self.entry();
        let native = self.native(&["/bin/traps", case, "0"]);
        let run = self.run(&["/bin/traps", case, &entry]);
        assert_eq!(native, run, "the real kernel's answer is on the left");
        run.well()
    }
}

fn entered(case: &str) -> String {
    Guest::new().entered(case)
}

#[test]
fn all_registers_and_the_red_zone_are_kept() {
    assert_eq!(entered("entered registers"), "wrong 0\n");
}

#[test]
fn bad_pointers_are_efault_whatever_signals_are_blocked_and_wherever() {
    let text = entered("entered bad pointers");
    assert_eq!(text.matches("wrong 0\n").count(), 13, "{text}");
    assert!(text.contains("handled 6, wrong 0"), "{text}");
}

#[test]
fn handlers_interrupt_the_entry_enter_it_and_leave_it_by_a_jump() {
    let text = entered("entered signals");
    assert!(
        text.contains("wrong 0, left 0\nwrong 0, left 1\n"),
        "{text}"
    );
    assert!(text.contains("shown as given: 1\n"), "{text}");
    assert!(text.contains("reset: handled 1, default 1\n"), "{text}");
}

#[test]
fn the_least_stacks_are_enough_for_the_entry() {
    let text = entered("entered stacks");
    assert!(text.contains("threads: wrong 0\n"), "{text}");
    assert!(text.contains("handled 10, wrong 0, as given 1\n"), "{text}");
}

#[test]
fn children_of_vfork_enter_on_their_parents_stack_and_execute_programs() {
    let text = entered("entered processes");
    assert!(text.contains("children of vfork: wrong 0\n"), "{text}");
    assert!(text.contains("status 0, wrong 0\n"), "{text}");
    assert!(text.ends_with("SIGUSR2 blocked 1, wrong 0\n"), "{text}");
}

/// What a guest says in the end that looks for a file in vain, asks for it, is told by a pipe that it is there now, and looks again,
/// `rounds` times. Who makes the files is no guest. Each is in a directory of its own: one that has just been changed is not remembered
/// anyway.
fn told(guest: &Guest, line: &[&str], way: &str, rounds: usize) -> String {
    let mut command = guest.elfuse(&["--coherence", "lease"], line);
    if way == "unseen" {
        command.env("ELFUSE_PATCHED", "off");
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting elfuse");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
    for round in 0..rounds {
        let mut byte = [0];
        from.read_exact(&mut byte).expect("what the guest says");
        assert_eq!(byte, *b"?", "the guest has ended");
        let path = guest.scratch.path(directory(way, round)).join("told");
        File::create_new(path).expect("a file");
        to.write_all(b"!").expect("telling the guest");
    }
    let mut rest = String::new();
    from.read_to_string(&mut rest)
        .expect("the guest's last line");
    assert!(child.wait().expect("its end").success());
    rest.trim().to_owned()
}

fn directory(way: &str, round: usize) -> String {
    format!("w/d/{way}-{round}")
}

/// Makes an index when the directories are old enough to be believed.
fn build(guest: &Guest) {
    let built = Command::new(&guest.programs.index)
        .args(["build", "--quiet"])
        .arg(guest.scratch.root())
        .status();
    assert!(built.expect("starting elfuse-index").success());
}

/// The full proof is with `ELFUSE_TOLD_ROUNDS=100000`.
fn rounds() -> usize {
    let asked = std::env::var("ELFUSE_TOLD_ROUNDS").ok();
    asked.map_or(1000, |asked| asked.parse().expect("ELFUSE_TOLD_ROUNDS"))
}

#[test]
fn a_guest_that_was_told_of_a_file_by_a_pipe_finds_it() {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("told", "bin/told");
    let entered = [("read", rounds()), ("ppoll", rounds()), ("unseen", 500)];
    for (way, rounds) in entered.into_iter().chain([("library", rounds())]) {
        for round in 0..rounds {
            guest.scratch.directory(directory(way, round));
        }
    }
    build(&guest);
    let entry = guest.entry();
    let [by_read, by_ppoll, unseen] = entered.map(|(way, rounds)| {
        let count = rounds.to_string();
        let line = ["/bin/traps", "entered told", &entry, way, &count];
        told(&guest, &line, way, rounds)
    });
    assert_eq!([by_read, by_ppoll], ["missed 0", "missed 0"]);
    // Where nothing is patched, and the guest is not seen to read, a lease is good for 2 ms: on a machine that is fast enough for that some
    // are missed, which shows that the others were not found by accident.
    eprintln!("where reads are not seen: {unseen}");
    // By a C library that is patched throughout, of which no call is trapped.
    let line = ["/bin/told", "library", &rounds().to_string()];
    let by_library = told(&guest, &line, "library", rounds());
    assert_eq!(by_library, "missed 0,filter 0");
}

#[test]
fn a_pipe_whose_number_was_a_file_of_the_sysroot_tells_as_any_other() {
    const ROUNDS: usize = 20;
    let ways = [
        ("close", 0),
        ("dup2", 0),
        ("dup3", 0),
        ("range", 0),
        ("vfork", 0),
        ("fork", 0),
        ("thread", 0),
        ("received", 0),
        // Here closing it is not seen, which is why there is a filter.
        ("made", 2),
    ];
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("told", "bin/told");
    for (way, _) in ways {
        for round in 0..ROUNDS {
            guest.scratch.directory(directory(way, round));
        }
    }
    build(&guest);
    for (way, filter) in ways {
        let line = ["/bin/told", way, &ROUNDS.to_string()];
        let said = told(&guest, &line, way, ROUNDS);
        assert_eq!(said, format!("missed 0,filter {filter}"), "{way}");
    }
}

#[test]
fn reading_a_file_of_the_sysroot_ends_no_lease_nor_does_asking_for_flags_and_anything_else_ends_all()
 {
    let guest = Guest::new();
    guest.add_glibc();
    guest.add("told", "bin/told");
    build(&guest);
    let looks = |from: &str| {
        let options = ["--coherence", "lease", "--stats=json"];
        let line = ["/bin/told", "looks", from, "4000"];
        let said = said(&mut guest.elfuse(&options, &line));
        assert_eq!((said.status, said.text.as_str()), (0, "found 0\n"));
        let report: Value = serde_json::from_str(&said.errors).expect("one JSON document");
        report["verdicts"]["validated"].as_u64().expect("a count")
    };
    let [file, later, others] = ["/w/f", "!/w/f", "/dev/zero"].map(looks);
    // Some leases run out by themselves, far fewer than one in two looks.
    assert!(file < 2000, "{file} directories compared");
    assert!(later < 2000, "{later} after a child of vfork");
    assert!(others >= 4000, "{others} directories compared");
    // One that can be written to may be how somebody is told something.
    assert!(looks("+/w/f") >= 4000);
    // F_GETFD, F_GETFL: about the descriptor alone. F_GETLK, F_SETLK, F_SETLKW: by a lock somebody is told that another one has given it up.
    for silent in ["1/w/f", "3/w/f"] {
        assert!(looks(silent) < 2000, "fcntl {silent}");
    }
    for telling in ["5/w/f", "6/w/f", "7/w/f"] {
        assert!(looks(telling) >= 4000, "fcntl {telling}");
    }
}
