//! With an index no lookup fails on the host for what a sysroot does not have: see `elfuse_tests::lookups`.

use std::path::Path;

use elfuse_tests::lookups::start::{DEBIAN, Ground, Program, STORE, Started, Way};
use elfuse_tests::{oracle_programs, sysroot};

/// What is wrong with the starts of a program.
fn faults(ground: &Ground, program: &Program) -> Vec<String> {
    let start = |way| {
        let started: anyhow::Result<Started> = ground.start(program, way);
        started.unwrap_or_else(|error| panic!("{}, {way:?}: {error:#}", program.name))
    };
    let chroot = start(Way::Chroot);
    let mut faults = Vec::new();
    if !chroot.output.status.success() {
        faults.push(format!("Chroot: ended with {}", chroot.output.status));
    }
    for way in [Way::NoIndex, Way::Index] {
        let Started { output, tally } = start(way);
        if (&output.stdout, output.status) != (&chroot.output.stdout, chroot.output.status) {
            let notes = String::from_utf8_lossy(&output.stderr);
            faults.push(format!(
                "{way:?}: not the output of chroot; ended with {}: {notes}",
                output.status
            ));
        }
        for (call, count) in &tally.from_guest {
            faults.push(format!("{way:?}: {count} x {call} was not trapped"));
        }
        if way == Way::Index {
            let failing = tally.failing.iter();
            faults.extend(failing.map(|(failure, count)| format!("{way:?}: {count} x {failure}")));
        } else if tally.failing_calls() == 0 {
            faults.push(format!(
                "{way:?}: no lookup fails, so that none that is saved says anything"
            ));
        }
    }
    faults
        .iter()
        .map(|fault| format!("{}: {fault}", program.name))
        .collect()
}

fn check(name: &str, root: &Path, programs: &[Program]) {
    let tools = oracle_programs!();
    let index = tools.directory.join(format!("lookups-index-{name}"));
    let ground = Ground::new(root, &index, &tools.elfuse, &tools.index).expect("an index");
    let faults: Vec<_> = programs
        .iter()
        .flat_map(|program| faults(&ground, program))
        .collect();
    assert!(
        faults.is_empty(),
        "path calls that must not reach the host, or another output, in {}:\n{}",
        root.display(),
        faults.join("\n")
    );
}

#[test]
fn no_lookup_of_a_debian_sysroot_fails_on_the_host_with_an_index() {
    check("debian", sysroot::debian(), DEBIAN);
}

#[test]
fn no_lookup_of_a_store_fails_on_the_host_with_an_index() {
    check("store", sysroot::store(), STORE);
}
