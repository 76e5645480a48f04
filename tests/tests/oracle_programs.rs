//! Programs of the example sysroots at work, each run by the real kernel and by `elfuse run` in every way: see
//! `elfuse_tests::oracle`.

use elfuse_tests::oracle::disturb::Disturbance;
use elfuse_tests::oracle::programs::{self, Sysroot};
use elfuse_tests::oracle::suite;
use elfuse_tests::{oracle_programs, sysroot};

fn check(theme: &str, sysroot: Sysroot<'_>) {
    let programs = oracle_programs!();
    suite::check(
        theme,
        &programs::theme(theme, sysroot, &programs),
        &programs,
    );
}

#[test]
fn shells_and_tools_work_as_under_the_real_kernel() {
    check("shell", Sysroot::debian());
}

#[test]
fn interpreters_work_as_under_the_real_kernel() {
    check("languages", Sysroot::debian());
}

#[test]
fn what_a_libc_loads_when_it_is_asked_works_as_under_the_real_kernel() {
    check("libc", Sysroot::debian());
}

#[test]
fn compilers_and_what_they_make_work_as_under_the_real_kernel() {
    check("development", Sysroot::debian());
}

#[test]
fn programs_of_a_store_work_as_under_the_real_kernel() {
    let store = Sysroot {
        name: "store",
        root: sysroot::store(),
        shell: "/bin/sh",
    };
    check("store", store);
}

#[test]
fn a_debugger_works_as_under_the_real_kernel() {
    let programs = oracle_programs!();
    let root = programs::bundle_of_gdb(&programs);
    let bundle = Sysroot {
        name: "gdb",
        root: &root,
        shell: "/bin/bash",
    };
    check("debugger", bundle);
}

#[test]
fn programs_do_not_notice_that_their_index_is_broken_meanwhile() {
    let programs = oracle_programs!();
    let mut cases = programs::theme("languages", Sysroot::debian(), &programs);
    cases.retain(|case| case.name.ends_with("starts") || case.name.contains("imports"));
    assert!(cases.len() > 5, "too few cases are left");
    suite::check_while(Disturbance::BreakIndex, "languages", &cases, &programs);
}
