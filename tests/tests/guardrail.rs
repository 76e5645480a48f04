//! Calls that name no path reach the host natively: exactly as often, by the guest's own instruction. Counted and not timed; what they
//! cost is for `benches/src/suite.rs` to say.

use elfuse_tests::lookups::start::{Ground, Program, Way};
use elfuse_tests::{oracle_programs, sysroot};

/// How often each call is made.
const TIMES: u64 = 1000;

/// What two starts of one program differ by in calls: memory that is asked for or not, by where things come to lie.
const JITTER: u64 = 20;

/// Calls that reach the host when a line of Python is executed so often, less those of the same start without.
fn calls(ground: &Ground, way: Way, setup: &str, line: &str) -> u64 {
    let count = |times: u64| {
        let script = format!("import os, time\n{setup}\nfor _ in range({times}): {line}");
        let program = Program {
            name: line,
            line: &["/usr/bin/python3", "-I", "-S", "-c", &script],
        };
        let started = ground.start(&program, way);
        let started = started.unwrap_or_else(|error| panic!("{line}, {way:?}: {error:#}"));
        let notes = String::from_utf8_lossy(&started.output.stderr).into_owned();
        assert!(started.output.status.success(), "{line}, {way:?}: {notes}");
        started.tally.calls
    };
    count(TIMES).saturating_sub(count(0))
}

#[test]
fn a_call_that_names_no_path_is_one_call_of_the_host_and_a_clock_is_none() {
    let tools = oracle_programs!();
    let index = tools.directory.join("guardrail-index");
    let ground =
        Ground::new(sysroot::debian(), &index, &tools.elfuse, &tools.index).expect("an index");
    for (setup, line, each) in [
        ("", "os.getpid()", 1),
        // By the vDSO, which the runtime leaves where it is.
        ("", "time.clock_gettime(time.CLOCK_MONOTONIC)", 0),
        (
            "fd = os.open('/dev/urandom', os.O_RDONLY)",
            "os.read(fd, 1)",
            1,
        ),
    ] {
        for way in [Way::Chroot, Way::NoIndex, Way::Index, Way::Frozen] {
            let found = calls(&ground, way, setup, line);
            assert!(
                found.abs_diff(TIMES * each) <= JITTER,
                "{TIMES} x {line}, {way:?}: {found} calls of the host"
            );
        }
    }
}
