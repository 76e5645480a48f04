//! The cases of the other oracles, of programs that go on from snapshots: see `elfuse_tests::oracle::resident`.

use elfuse_tests::oracle::calls;
use elfuse_tests::oracle::programs::{self, Sysroot};
use elfuse_tests::oracle::resident::{self, Unrestored};
use elfuse_tests::{oracle_programs, sysroot};

/// Tests of themes of scripts, each under a name.
macro_rules! themes {
    ($($name:ident: $theme:literal,)*) => {$(
        #[test]
        fn $name() {
            resident::check($theme, &calls::theme($theme), &oracle_programs!(), &[]);
        }
    )*};
}

themes! {
    files_open_as_under_the_real_kernel: "open",
    paths_lead_where_they_lead_under_the_real_kernel: "walk",
    questions_about_paths_are_answered_as_by_the_real_kernel: "stat",
    names_are_made_moved_and_removed_as_by_the_real_kernel: "make",
    attributes_change_as_under_the_real_kernel: "attributes",
    directories_are_entered_and_listed_as_under_the_real_kernel: "directories",
    openat2_resolves_as_under_the_real_kernel: "openat2",
    sockets_have_paths_as_under_the_real_kernel: "sockets",
    proc_tells_what_it_tells_under_the_real_kernel: "proc",
    programs_are_executed_as_by_the_real_kernel: "exec",
    what_belongs_to_an_index_is_neither_seen_nor_in_the_way: "hidden",
    mounts_are_what_they_are_under_the_real_kernel: "mounts",
    descriptors_may_be_closed_replaced_and_used_up: "descriptors",
    what_is_refused_is_refused_as_by_the_real_kernel: "refused",
    rights_of_root_are_those_under_the_real_kernel: "root",
}

#[test]
fn signals_threads_and_processes_are_those_of_the_real_kernel() {
    let programs = oracle_programs!();
    resident::check("process", &calls::processes(&programs), &programs, &[]);
}

fn check(theme: &str, sysroot: Sysroot<'_>, unrestored: &[Unrestored<'_>]) {
    let programs = oracle_programs!();
    let cases = programs::theme(theme, sysroot, &programs);
    resident::check(theme, &cases, &programs, unrestored);
}

#[test]
fn shells_and_tools_work_from_snapshots() {
    check(
        "shell",
        Sysroot::debian(),
        &[
            ("a program that is not there", "nothing is started"),
            ("a file that is no program", "nothing is started"),
            ("busybox, which is static", "it has no dynamic linker"),
        ],
    );
}

#[test]
fn interpreters_work_from_snapshots() {
    check("languages", Sysroot::debian(), &[]);
}

#[test]
fn what_a_libc_loads_when_it_is_asked_works_from_snapshots() {
    check("libc", Sysroot::debian(), &[]);
}

#[test]
fn compilers_and_what_they_make_work_from_snapshots() {
    check("development", Sysroot::debian(), &[]);
}

#[test]
fn programs_of_a_store_work_from_snapshots() {
    let store = Sysroot {
        name: "store",
        root: sysroot::store(),
        shell: "/bin/sh",
    };
    const STATIC: &str = "the shell of the store is busybox, which has no dynamic linker";
    check(
        "store",
        store,
        &[
            ("a shell of the store", STATIC),
            ("a program of the store by its name", STATIC),
            ("what the profile has", STATIC),
            (
                "libraries are where they are found",
                "LD_TRACE_LOADED_OBJECTS is for the dynamic linker",
            ),
        ],
    );
}

#[test]
fn a_debugger_works_from_its_snapshot() {
    let programs = oracle_programs!();
    let root = programs::bundle_of_gdb(&programs);
    let bundle = Sysroot {
        name: "gdb",
        root: &root,
        shell: "/bin/bash",
    };
    check("debugger", bundle, &[]);
}
