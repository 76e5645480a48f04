//! Scripts of system calls, and small programs, each run by the real kernel and by `elfuse run` in every way: see `elfuse_tests::oracle`.

use elfuse_tests::oracle::disturb::Disturbance;
use elfuse_tests::oracle::{calls, suite};
use elfuse_tests::oracle_programs;

fn check(theme: &str) {
    suite::check(theme, &calls::theme(theme), &oracle_programs!());
}

#[test]
fn files_open_as_under_the_real_kernel() {
    check("open");
}

#[test]
fn paths_lead_where_they_lead_under_the_real_kernel() {
    check("walk");
}

#[test]
fn questions_about_paths_are_answered_as_by_the_real_kernel() {
    check("stat");
}

#[test]
fn names_are_made_moved_and_removed_as_by_the_real_kernel() {
    check("make");
}

#[test]
fn attributes_change_as_under_the_real_kernel() {
    check("attributes");
}

#[test]
fn directories_are_entered_and_listed_as_under_the_real_kernel() {
    check("directories");
}

#[test]
fn openat2_resolves_as_under_the_real_kernel() {
    check("openat2");
}

#[test]
fn sockets_have_paths_as_under_the_real_kernel() {
    check("sockets");
}

#[test]
fn proc_tells_what_it_tells_under_the_real_kernel() {
    check("proc");
}

#[test]
fn programs_are_executed_as_by_the_real_kernel() {
    check("exec");
}

#[test]
fn what_belongs_to_an_index_is_neither_seen_nor_in_the_way() {
    check("hidden");
}

#[test]
fn mounts_are_what_they_are_under_the_real_kernel() {
    check("mounts");
}

#[test]
fn descriptors_may_be_closed_replaced_and_used_up() {
    check("descriptors");
}

#[test]
fn what_is_refused_is_refused_as_by_the_real_kernel() {
    check("refused");
}

#[test]
fn rights_of_root_are_those_under_the_real_kernel() {
    check("root");
}

#[test]
fn signals_threads_and_processes_are_those_of_the_real_kernel() {
    let programs = oracle_programs!();
    suite::check("process", &calls::processes(&programs), &programs);
}

#[test]
fn an_index_that_is_broken_meanwhile_changes_nothing() {
    let programs = oracle_programs!();
    for theme in ["open", "hidden", "directories"] {
        suite::check_while(
            Disturbance::BreakIndex,
            theme,
            &calls::theme(theme),
            &programs,
        );
    }
}

#[test]
fn directories_that_are_touched_meanwhile_change_nothing() {
    let programs = oracle_programs!();
    for theme in ["walk", "make"] {
        suite::check_while(
            Disturbance::TouchDirectories,
            theme,
            &calls::theme(theme),
            &programs,
        );
    }
}

#[test]
fn an_index_that_is_published_meanwhile_changes_nothing() {
    let programs = oracle_programs!();
    let themes = ["walk", "stat", "open", "directories", "exec", "hidden"];
    let published = themes.map(|theme| {
        let cases = calls::theme(theme);
        suite::check_while(Disturbance::PublishIndex, theme, &cases, &programs)
    });
    println!("published meanwhile: {published:?}");
    // A theme has many short cases; that none of all of them lasted as long as a build would mean that nothing was tried.
    assert!(published.iter().sum::<usize>() > themes.len());
}
