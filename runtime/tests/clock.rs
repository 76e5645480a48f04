//! The clock that leases are measured by, on this machine.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::thread::{sleep, spawn};
use std::time::Duration;

use elfuse_runtime::sys::clock::{begin, thread, ticks};

const FSGSBASE: usize = 1 << 1;

#[test]
fn there_is_at_least_a_tick_a_nanosecond_and_threads_differ_whatever_the_processor_can() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let can = cpu.split_whitespace().any(|flag| flag == "fsgsbase");
    for hwcap2 in [0, FSGSBASE] {
        begin(if can { hwcap2 } else { 0 });
        let before = ticks();
        sleep(Duration::from_millis(2));
        assert!(ticks() - before >= 2_000_000, "{hwcap2}");
        // By now it is measured how long a tick is.
        let before = ticks();
        sleep(Duration::from_millis(20));
        assert!(ticks() - before >= 20_000_000, "{hwcap2}");
        assert_eq!(thread(), thread());
        assert_ne!(thread(), spawn(thread).join().unwrap());
    }
}
