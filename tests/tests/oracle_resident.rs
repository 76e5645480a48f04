//! The cases of the other oracles, of programs that go on from snapshots: see `elfuse_tests::oracle::resident`.

use elfuse_tests::oracle::calls;
use elfuse_tests::oracle::programs::{self, Sysroot};
use elfuse_tests::oracle::resident::{self, Unrestored};
use elfuse_tests::{oracle_programs, sysroot};

#[test]
fn scripts_of_calls_do_from_a_snapshot_what_they_do_under_the_real_kernel() {
    let programs = oracle_programs!();
    const THEMES: [&str; 15] = [
        "open",
        "walk",
        "stat",
        "make",
        "attributes",
        "directories",
        "openat2",
        "sockets",
        "proc",
        "exec",
        "hidden",
        "mounts",
        "descriptors",
        "refused",
        "root",
    ];
    for theme in THEMES {
        resident::check(theme, &calls::theme(theme), &programs, &[]);
    }
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

fn debian() -> Sysroot<'static> {
    Sysroot {
        name: "debian",
        root: sysroot::debian(),
        shell: "/bin/bash",
    }
}

#[test]
fn shells_and_tools_work_from_snapshots() {
    check(
        "shell",
        debian(),
        &[
            ("a program that is not there", "nothing is started"),
            ("a file that is no program", "nothing is started"),
            ("busybox, which is static", "it has no dynamic linker"),
        ],
    );
}

#[test]
fn interpreters_work_from_snapshots() {
    check("languages", debian(), &[]);
}

#[test]
fn compilers_and_what_they_make_work_from_snapshots() {
    check("development", debian(), &[]);
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
