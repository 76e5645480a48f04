//! SIGSYS is how the engine is called.

use super::guest::{Guest, said, same, same_and};

#[test]
fn a_guest_that_blocks_sigsys_by_its_mask_is_not_killed_by_its_next_call() {
    let text = same(&["blocked by masks"]);
    assert_eq!(text.matches("wrong 0\n").count(), 3, "{text}");
}

#[test]
fn handlers_that_block_all_signals_work_with_paths() {
    same_and(&["blocked in handlers"], "caught 2, wrong 0\n");
}

#[test]
fn calls_that_wait_with_all_signals_blocked_let_handlers_work_with_paths() {
    let text = same(&["blocked while waiting"]);
    assert!(
        text.contains("caught 5, wrong 0, after: wrong 0\n"),
        "{text}"
    );
}

#[test]
fn a_handler_that_blocks_all_signals_in_what_it_interrupted_does_not_kill_it() {
    same_and(
        &["blocked by a context"],
        "caught 1, SIGUSR2 blocked 1, wrong 0\n",
    );
}

#[test]
fn a_context_with_all_signals_blocked_can_be_gone_on_with() {
    same_and(&["blocked by setcontext"], "turn 2, wrong 0\n");
}

#[test]
fn a_caller_that_blocks_all_signals_can_start_a_guest_and_the_guest_another_program() {
    let guest = Guest::new();
    let run = guest.elfuse(&[], &["/bin/traps", "say mask"]);
    let mut blocked = std::process::Command::new(guest.programs.directory.join("traps"));
    blocked
        .arg("block and execute")
        .arg(run.get_program())
        .args(run.get_args());
    assert_eq!(said(&mut blocked).well(), "SIGUSR1 blocked 1, wrong 0\n");
    let words = ["block and execute", "/bin/traps", "say mask"];
    assert_eq!(guest.both(&words).well(), "SIGUSR1 blocked 1, wrong 0\n");
}

#[test]
fn what_a_guest_says_of_sigsys_is_remembered_and_shown_and_its_handler_called_when_it_is_sent() {
    let said = Guest::new().both(&["own action"]);
    // In the end it is raised without a handler.
    assert_eq!(said.status, -31, "{said:#?}");
    assert!(said.text.contains("remembered 1, flags 1, mask 1\n"));
    assert!(said.text.contains("raised: caught 1, signal 31"));
}

#[test]
fn siglongjmp_out_of_a_call_a_thousand_times_uses_nothing_up() {
    same_and(&["jump out"], "jumped 1000 times, opened 0, wrong 0\n");
}

#[test]
fn handlers_within_handlers_work_with_paths_deeper_than_there_are_areas() {
    same_and(&["nested"], "depth 50, wrong 0\n");
    same_and(&["nested in waits"], "depth 40, wrong 0\n");
}

#[test]
fn a_case_that_there_is_not_does_not_look_like_one_that_went_well() {
    assert_eq!(Guest::new().run(&["/bin/traps", "no such case"]).status, 98);
}
