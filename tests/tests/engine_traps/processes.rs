//! Children that share memory, programs that execute others, threads that wait.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use elfuse_tests::need;
use elfuse_tests::oracle::room::NOBODY;
use elfuse_tests::scratch::copy_program;

use super::guest::{Guest, Said, said, same, same_and, text};

#[test]
fn ten_thousand_children_that_share_memory_leave_the_parent_as_it_was() {
    same_and(&["spawn often", "2000", "8000"], "odd 0, wrong 0\n");
}

/// What `strace` says of the calls by which the engine gets along without a free area, while a case runs.
fn exhaustion(words: &[&str]) -> (Said, usize) {
    let guest = Guest::new();
    let log = guest.scratch.beside("strace");
    let line: Vec<_> = ["/bin/traps"].iter().chain(words).copied().collect();
    let run = guest.elfuse(&[], &line);
    let mut traced = Command::new(need::tool("strace", "strace"));
    traced
        .args(["-f", "-qq", "-e", "trace=mmap", "-e", "signal=none", "-o"])
        .arg(&log)
        .arg(run.get_program())
        .args(run.get_args());
    let said = said(&mut traced);
    let text = fs::read_to_string(&log).expect("what strace wrote");
    assert!(text.contains("mmap("), "strace saw nothing: {said:#?}");
    // The place for what is mapped for one call: `sys::memory`.
    let for_a_call = |line: &&str| line.contains("mmap(0x6f00c") || line.contains("mmap(0x6f00d");
    let mapped = text.lines().filter(for_a_call).count();
    (said, mapped)
}

#[test]
fn children_that_share_memory_give_their_working_areas_back() {
    let (said, mapped) = exhaustion(&["spawn often", "60", "60"]);
    assert_eq!(said.well(), "odd 0, wrong 0\n");
    assert_eq!(mapped, 0, "areas had run out");
    // That it would have been seen.
    let (said, mapped) = exhaustion(&["many waiting"]);
    assert!(said.well().contains("wrong 0"));
    assert!(mapped > 60, "{mapped}");
}

#[test]
fn calls_that_siglongjmp_left_give_their_working_areas_back() {
    let (said, mapped) = exhaustion(&["jump out"]);
    assert_eq!(said.well(), "jumped 1000 times, opened 0, wrong 0\n");
    assert_eq!(mapped, 0, "areas had run out");
}

#[test]
fn a_child_that_was_to_lose_all_handlers_is_made_without_that_where_calls_are_trapped() {
    let text = same(&["cleared handlers"]);
    let ends = "status 0x400\nwrong 0\nstatus 0\n";
    assert_eq!(
        text,
        format!("{ends}{ends}odd flags: -22, not there: -14\n")
    );
}

#[test]
fn more_calls_than_there_are_areas_can_wait_at_a_time() {
    same_and(
        &["many waiting"],
        "while they wait: wrong 0\nin a child: status 0, then: wrong 0, 0\n",
    );
}

#[test]
fn children_that_are_killed_while_they_share_memory_do_no_harm() {
    same_and(&["killed children"], "odd 0, wrong 0\n");
}

#[test]
fn what_a_child_that_shares_memory_says_of_signals_is_its_own_affair() {
    let text = same(&["vfork leaves alone"]);
    let line =
        |caught| format!("action default, then ours, caught {caught}, in /w, input ok, wrong 0\n");
    assert_eq!(
        text,
        format!("{}{}in a child: status 0\n", line(1), line(2))
    );
}

#[test]
fn a_child_forked_within_a_call_goes_on_with_that_call() {
    same_and(&["fork within call"], "in the child: status 0, wrong 0\n");
}

#[test]
fn filters_are_not_stacked_over_exec() {
    let said = Guest::new().run(&["/bin/traps", "execute again", "5"]);
    assert_eq!(said.well(), "1 1 1 1 1 1 wrong 0\n");
}

#[test]
fn a_program_can_be_executed_among_threads_at_work() {
    same_and(&["executed among threads"], "wrong 0\n");
}

#[test]
fn a_directory_that_becomes_a_symlink_leads_elsewhere_at_once() {
    same_and(&["becomes symlink"], "odd 0\n");
    // And where there is an index of what was there before.
    let guest = Guest::new();
    let mut index = Command::new(&guest.programs.index);
    index.args(["build", "--quiet"]).arg(guest.scratch.root());
    assert_eq!(said(&mut index).status, 0);
    assert_eq!(
        guest.run(&["/bin/traps", "becomes symlink"]).well(),
        "odd 0\n"
    );
}

#[test]
fn set_id_programs_gain_no_rights() {
    let guest = Guest::new();
    let program = guest.add("traps", "bin/privileged");
    // Another user must be able to get there.
    let elfuse = guest.scratch.beside("elfuse");
    copy_program(&guest.programs.elfuse, &elfuse);
    let root = rustix::process::geteuid().is_root();
    chown(&program, root.then_some(0), None).expect("chown");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).expect("chmod");
    let as_another = |command: &mut Command| {
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        said(command).well()
    };
    let mut run = Command::new(&elfuse);
    run.args(["run", "--sysroot"])
        .arg(guest.scratch.root())
        .args(["--", "/bin/privileged", "say rights"]);
    let told = as_another(&mut run);
    assert_eq!(told, "NoNewPrivs:\t1\nthe caller's user: 1\n");
    if root {
        let mut native = Command::new(&program);
        let told = as_another(native.arg("say rights"));
        let why = "the test needs a file system without nosuid below";
        assert!(
            told.ends_with("user: 0\n"),
            "{why} {}: {told}",
            text(&program)
        );
    }
}
