//! The guest's stack is all the room that the engine has there.

use super::guest::{Guest, numbers, same, same_and};

/// What `engine::start::HANDLER_STACK` adds to AT_MINSIGSTKSZ.
const HANDLER_STACK: usize = 8192;

#[test]
fn a_thread_with_the_least_stack_works_with_paths() {
    same_and(&["smallest thread"], "wrong 0\nwrong 0\n");
}

#[test]
fn a_handler_on_the_least_signal_stack_works_with_paths() {
    same_and(
        &["smallest signal stack"],
        "wrong 0, at least what the kernel says: 1\n",
    );
}

#[test]
fn signal_stacks_that_were_enough_for_decades_still_are() {
    let text = same(&["old signal stacks"]);
    assert!(text.ends_with("wrong 0\n"), "{text}");
    assert!(
        text.contains("in the handler: as given, flags 1, 8192 bytes\n"),
        "{text}"
    );
    same_and(&["signal stacks of threads"], "odd 0, wrong 0\n");
}

#[test]
fn the_guest_is_told_of_two_frames_and_the_handlers_stack() {
    let guest = Guest::new();
    let line = ["/bin/traps", "say signal stack"];
    let told = |text: String| text.trim().parse::<usize>().expect("a number");
    let native = told(guest.native(&line).well());
    assert_eq!(told(guest.run(&line).well()), 2 * native + HANDLER_STACK);
}

#[test]
fn no_call_takes_more_of_the_guests_stack_than_it_was_told() {
    let guest = Guest::new();
    let text = guest.run(&["/bin/traps", "high water"]).well();
    let used = numbers(&text);
    // What a call that does next to nothing takes is the kernel's frame, and a little.
    let ("mask", frame) = used[0] else {
        panic!("{text}")
    };
    assert!(frame > 1000, "nothing was measured: {text}");
    for (call, used) in &used[1..] {
        assert!(
            *used < frame + HANDLER_STACK - 1024,
            "{call} takes {used} bytes, of which the frame is {frame}: {text}"
        );
    }
    println!("{text}");
}

#[test]
fn the_red_zone_below_the_stack_pointer_is_left_alone() {
    same_and(&["red zone"], "odd 0\n");
}

#[test]
fn registers_are_what_they_were_after_a_call() {
    same_and(&["registers"], "odd 0\n");
}

#[test]
fn calls_work_without_a_thread_pointer() {
    same_and(&["no thread pointer"], "0 -2 -14\n");
}

#[test]
fn the_c_library_finds_the_stack_of_the_first_thread() {
    assert_eq!(same(&["own stack"]), "within: 1\n");
}
