use core::sync::atomic::Ordering;

use elfuse_format::header::HEADER_LEN;

use super::lease::BEING_GRANTED;
use super::{Coherence, ENDED, GENERATION_LEN, Generation, LEASE, Lease, Mode, Moment, Note};

fn moment(ticks: u64, thread: u64) -> Moment {
    Moment { ticks, thread }
}

fn holds(coherence: &Coherence<'_>, lease: &Lease, at: u64) -> bool {
    holds_for(coherence, lease, moment(at, 7))
}

fn holds_for(coherence: &Coherence<'_>, lease: &Lease, now: Moment) -> bool {
    match coherence.holds(lease, || now) {
        Some(note) => {
            assert_eq!(note, Note::Good);
            true
        }
        None => false,
    }
}

fn granted(coherence: &Coherence<'_>, at: u64) -> Lease {
    let lease = Lease::default();
    grant(coherence, &lease, moment(at, 7));
    lease
}

fn grant(coherence: &Coherence<'_>, lease: &Lease, now: Moment) {
    coherence.ticket(|| now).grant(lease, Note::Good);
}

#[test]
fn a_lease_ends_after_two_milliseconds() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let lease = granted(&coherence, 100);
    assert!(holds(&coherence, &lease, 90 + LEASE));
    assert!(!holds(&coherence, &lease, 100 + LEASE));
    assert!(!holds(&coherence, &Lease::default(), 0));
}

#[test]
fn a_change_ends_all_leases_and_while_it_is_being_made_none_is_given() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let other_run = Coherence::new(Mode::Lease, false, &generation);
    let before = granted(&coherence, 100);
    other_run.mutate_begin();
    assert!(!holds(&coherence, &before, 101));
    let during = granted(&coherence, 100);
    assert!(!holds(&coherence, &during, 101));
    other_run.mutate_end();
    assert!(!holds(&coherence, &before, 101));
    assert!(!holds(&coherence, &during, 101));
    let after = granted(&coherence, 100);
    assert!(holds(&coherence, &after, 101));
}

#[test]
fn a_lease_given_for_a_look_before_a_change_is_none_after_it() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let ticket = coherence.ticket(|| moment(100, 7));
    coherence.mutate_begin();
    coherence.mutate_end();
    let lease = Lease::default();
    ticket.grant(&lease, Note::Good);
    assert!(!holds(&coherence, &lease, 101));
}

#[test]
fn a_change_that_was_never_finished_keeps_everything_from_being_believed_until_it_is_reset() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    coherence.mutate_begin();
    coherence.mutate_begin();
    coherence.mutate_end();
    assert!(!holds(&coherence, &granted(&coherence, 1), 2));
    generation.in_flight.store(0, Ordering::SeqCst);
    assert!(holds(&coherence, &granted(&coherence, 1), 2));
    coherence.mutate_end();
    assert!(holds(&coherence, &granted(&coherence, 1), 2));
}

#[test]
fn leases_of_this_process_can_be_ended() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let other_process = Coherence::new(Mode::Lease, false, &generation);
    let lease = granted(&coherence, 100);
    let others = granted(&other_process, 100);
    coherence.end_leases();
    assert!(!holds(&coherence, &lease, 101));
    assert!(holds(&other_process, &others, 101));
}

#[test]
fn a_clock_that_went_back_ends_a_lease() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let lease = granted(&coherence, 10 * LEASE);
    assert!(holds(&coherence, &lease, 10 * LEASE));
    assert!(!holds(&coherence, &lease, 10 * LEASE - 10));
    assert!(!holds(&coherence, &lease, 1));
}

#[test]
fn a_lease_is_good_for_the_thread_that_looked_and_is_taken_over_by_the_next_one_that_does() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let lease = granted(&coherence, 100);
    assert!(!holds_for(&coherence, &lease, moment(101, 8)));
    grant(&coherence, &lease, moment(102, 8));
    assert!(holds_for(&coherence, &lease, moment(103, 8)));
    assert!(!holds_for(&coherence, &lease, moment(103, 7)));
}

#[test]
fn the_flag_ends_the_leases_of_all_threads_and_is_cleared_by_the_next_look() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let (mine, others) = (granted(&coherence, 100), Lease::default());
    grant(&coherence, &others, moment(100, 8));
    coherence.ended_flag().store(ENDED, Ordering::Relaxed);
    assert!(!holds_for(&coherence, &others, moment(101, 8)));
    assert_eq!(coherence.ended_flag().load(Ordering::Relaxed), 0);
    assert!(!holds(&coherence, &mine, 101));
    let after = granted(&coherence, 101);
    assert!(holds(&coherence, &after, 102));
}

#[test]
fn what_another_thread_is_granted_while_one_waits_is_no_good_to_the_one_that_waited() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let lease = granted(&coherence, 100);
    coherence.ended_flag().store(ENDED, Ordering::Relaxed);
    grant(&coherence, &lease, moment(101, 8));
    assert!(holds_for(&coherence, &lease, moment(102, 8)));
    assert!(!holds(&coherence, &lease, 102));
}

#[test]
fn a_look_that_began_before_the_flag_was_set_grants_nothing_that_holds_after_it() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let ticket = coherence.ticket(|| moment(100, 7));
    coherence.ended_flag().store(ENDED, Ordering::Relaxed);
    let lease = Lease::default();
    ticket.grant(&lease, Note::Good);
    assert!(!holds(&coherence, &lease, 101));
}

#[test]
fn a_mark_that_a_thread_which_is_gone_left_in_the_flag_is_cleared_by_the_next_one() {
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    let lease = granted(&coherence, 100);
    coherence.ended_flag().store(0x85, Ordering::Relaxed);
    assert!(!holds(&coherence, &lease, 101));
    assert_eq!(coherence.ended_flag().load(Ordering::Relaxed), 0);
    assert!(holds(&coherence, &granted(&coherence, 101), 102));
}

#[test]
fn a_lease_that_is_being_granted_holds_for_nobody() {
    let generation = Generation::new();
    for mode in [Mode::Lease, Mode::Frozen] {
        let coherence = Coherence::new(mode, false, &generation);
        let lease = granted(&coherence, 100);
        assert!(holds(&coherence, &lease, 101));
        lease.thread.store(BEING_GRANTED, Ordering::Relaxed);
        assert!(!holds(&coherence, &lease, 101));
    }
}

#[test]
fn a_frozen_tree_heeds_neither_flag_nor_thread() {
    let generation = Generation::new();
    let frozen = Coherence::new(Mode::Frozen, false, &generation);
    let lease = granted(&frozen, 100);
    frozen.ended_flag().store(ENDED, Ordering::Relaxed);
    assert!(holds_for(&frozen, &lease, moment(u64::MAX, 8)));
}

#[test]
fn a_frozen_tree_is_compared_once_and_after_changes_of_its_guests_and_the_strict_mode_compares_always()
 {
    let generation = Generation::new();
    let frozen = Coherence::new(Mode::Frozen, false, &generation);
    let lease = granted(&frozen, 100);
    assert!(holds(&frozen, &lease, u64::MAX));
    frozen.mutate_begin();
    assert!(!holds(&frozen, &lease, 101));
    frozen.mutate_end();
    assert!(!holds(&frozen, &lease, 101));
    assert!(!holds(&frozen, &Lease::default(), 0));
    for (mode, shadow) in [
        (Mode::Strict, false),
        (Mode::Off, false),
        (Mode::Lease, true),
    ] {
        let coherence = Coherence::new(mode, shadow, &generation);
        assert!(!holds(&coherence, &granted(&coherence, 100), 101));
        assert!(!holds(&coherence, &lease, 101));
    }
}

#[test]
fn a_generation_file_is_told_from_all_others() {
    let file = Generation::new_file(5);
    let head: [u8; HEADER_LEN] = file[..HEADER_LEN].try_into().unwrap();
    assert_eq!(Generation::check_file(&head, GENERATION_LEN as u64), Ok(()));
    assert!(Generation::check_file(&head, GENERATION_LEN as u64 - 1).is_err());
    let mut other = head;
    other[10] = 1;
    assert!(Generation::check_file(&other, GENERATION_LEN as u64).is_err());
}
