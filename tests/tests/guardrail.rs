//! Calls that name no path reach the host natively: exactly as often, by the guest's own instruction. Counted and not timed; what they
//! cost is for `benches/src/suite.rs` to say.

use elfuse_tests::lookups::start::{Ground, Program, Way};
use elfuse_tests::{oracle_programs, sysroot};

/// How often each call is made.
const TIMES: u64 = 1000;

/// What two starts of one program differ by in calls of one name, by how often the runtime looks at the host.
const JITTER: u64 = 20;

/// Calls of this name that reach the host when a line of Python is executed so often, less those of the same start without. Others are
/// not counted: how long a lease lasted decides how many of them there are.
fn calls(ground: &Ground, way: Way, name: &str, setup: &str, line: &str) -> u64 {
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
        started.tally.by_name.get(name).copied().unwrap_or(0)
    };
    count(TIMES).saturating_sub(count(0))
}

#[test]
fn a_call_that_names_no_path_is_one_call_of_the_host_and_a_clock_is_none() {
    let tools = oracle_programs!();
    let index = tools.directory.join("guardrail-index");
    let ground =
        Ground::new(sysroot::debian(), &index, &tools.elfuse, &tools.index).expect("an index");
    for (name, setup, line, each) in [
        ("getpid", "", "os.getpid()", 1),
        // By the vDSO, which the runtime leaves where it is.
        (
            "clock_gettime",
            "",
            "time.clock_gettime(time.CLOCK_MONOTONIC)",
            0,
        ),
        (
            "read",
            "fd = os.open('/dev/urandom', os.O_RDONLY)",
            "os.read(fd, 1)",
            1,
        ),
    ] {
        for way in [Way::Chroot, Way::NoIndex, Way::Index, Way::Frozen] {
            let found = calls(&ground, way, name, setup, line);
            assert!(
                found.abs_diff(TIMES * each) <= JITTER,
                "{TIMES} x {line}, {way:?}: {found} calls of the host"
            );
        }
    }
}
