//! Hosts of all kinds, judged.

use super::*;

fn good() -> Facts {
    Facts {
        system: "Linux".into(),
        release: "6.18.44".into(),
        machine: "x86_64".into(),
        linux: Some(LinuxFacts {
            trap: Ok(Duration::from_nanos(950)),
            filtered: false,
            procfs: Ok(()),
            openat2: Ok(()),
            mm_map: Ok(()),
            memfd: Ok(()),
            user_namespace: Ok(()),
            namespace_sysctls: Vec::new(),
            mmap_min_addr: Some(65_536),
            ptrace_scope: None,
            confined_by: None,
            descriptors: Some(1024),
            cpuid: Duration::from_nanos(40),
            hypervisor: None,
            vdso: true,
            clock_source: Some("tsc".into()),
        }),
    }
}

/// What is not fine about a host that differs from the good one by `change`.
fn complaints(change: impl FnOnce(&mut LinuxFacts)) -> Vec<Check> {
    let mut facts = good();
    change(facts.linux.as_mut().expect("the good host is a Linux"));
    let checks = judge(&facts).into_iter();
    checks.filter(|check| check.state != State::Fine).collect()
}

#[track_caller]
fn complaint(change: impl FnOnce(&mut LinuxFacts)) -> Check {
    let mut complaints = complaints(change);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    complaints.remove(0)
}

#[test]
fn a_good_host_has_nothing_to_complain_of() {
    assert_eq!(complaints(|_| {}), []);
}

#[test]
fn another_system_or_machine_runs_nothing() {
    let mac = Facts {
        system: "Darwin".into(),
        machine: "arm64".into(),
        linux: None,
        ..good()
    };
    let checks = judge(&mac);
    assert_eq!(checks.len(), 1);
    assert_eq!(checks[0].state, State::Needed);
    assert_eq!(checks[0].found, "Darwin 6.18.44 on arm64");
    // A 32-bit personality says so in uname.
    let i686 = Facts {
        machine: "i686".into(),
        ..good()
    };
    assert_eq!(judge(&i686)[0].state, State::Needed);
}

#[test]
fn only_what_guests_cannot_run_without_is_needed() {
    let refused = || Err("Operation not permitted (os error 1)".to_owned());
    let trap = complaint(|host| host.trap = Err("Invalid argument (os error 22)".into()));
    assert_eq!((trap.id, trap.state), ("seccomp-trap", State::Needed));
    assert_eq!(trap.found, "Invalid argument (os error 22)");
    assert_eq!(
        complaint(|host| host.procfs = refused()).state,
        State::Needed
    );
    assert_eq!(
        complaint(|host| host.openat2 = refused()).state,
        State::Slower
    );
    assert_eq!(complaint(|host| host.filtered = true).state, State::Slower);
    for change in [
        (|host| host.mm_map = Err("no".into())) as fn(&mut LinuxFacts),
        |host| host.memfd = Err("no".into()),
        |host| host.user_namespace = Err("no".into()),
        |host| host.mmap_min_addr = Some(1 << 20),
        |host| host.descriptors = Some(64),
        |host| host.confined_by = Some("docker-default (enforce)".into()),
        |host| host.ptrace_scope = Some(1),
    ] {
        assert_eq!(complaint(change).state, State::Missing);
    }
}

#[test]
fn every_complaint_says_what_to_try() {
    let all = complaints(|host| {
        let refused = || Err("no".to_owned());
        host.trap = Err("no".into());
        host.filtered = true;
        host.procfs = refused();
        host.openat2 = refused();
        host.mm_map = refused();
        host.memfd = refused();
        host.user_namespace = refused();
        host.mmap_min_addr = Some(u64::MAX);
        host.ptrace_scope = Some(3);
        host.confined_by = Some("x".into());
        host.descriptors = Some(0);
        host.cpuid = Duration::from_micros(7);
        host.vdso = false;
    });
    assert_eq!(all.len(), 13, "{all:?}");
    for check in all {
        assert!(!check.without.is_empty(), "{}", check.id);
        assert!(
            check.advice.is_some_and(|advice| !advice.is_empty()),
            "{}",
            check.id
        );
    }
}

#[test]
fn what_forbids_user_namespaces_is_named() {
    let check = complaint(|host| {
        host.user_namespace = Err("Permission denied (os error 13)".into());
        host.namespace_sysctls = vec![
            ("kernel.apparmor_restrict_unprivileged_userns", "0"),
            ("user.max_user_namespaces", "10000"),
        ];
    });
    assert_eq!(
        check.advice.as_deref(),
        Some(
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0; sysctl user.max_user_namespaces=10000"
        )
    );
}

#[test]
fn cpuid_is_dear_where_it_leaves_to_a_hypervisor() {
    let check = complaint(|host| {
        host.cpuid = Duration::from_nanos(6_900);
        host.hypervisor = Some("KVMKVMKVM".into());
    });
    assert_eq!(check.state, State::Slower);
    assert_eq!(
        check.found,
        "6.9 us each, in a VM (KVMKVMKVM): 469.2 us a start"
    );
    // Some hypervisors let it through.
    assert_eq!(complaints(|host| host.hypervisor = Some(String::new())), []);
}

#[test]
fn a_clock_that_the_vdso_cannot_read_is_slower() {
    for source in ["hpet", "acpi_pm", "jiffies"] {
        let check = complaint(|host| host.clock_source = Some(source.into()));
        assert_eq!((check.id, check.state), ("clock", State::Slower));
        assert!(check.found.contains(source));
    }
    assert_eq!(complaints(|host| host.clock_source = None), []);
    assert_eq!(complaint(|host| host.vdso = false).id, "clock");
}

#[test]
fn limits_are_fine_from_their_usual_values_on() {
    for fine in [
        (|host| host.mmap_min_addr = Some(0)) as fn(&mut LinuxFacts),
        |host| host.mmap_min_addr = None,
        |host| host.mmap_min_addr = Some(USUAL_MMAP_MIN_ADDR),
        |host| host.descriptors = None,
        |host| host.descriptors = Some(ENOUGH_DESCRIPTORS),
        |host| host.ptrace_scope = Some(0),
    ] {
        assert_eq!(complaints(fine), []);
    }
    assert_eq!(
        complaint(|host| host.mmap_min_addr = Some(USUAL_MMAP_MIN_ADDR + 1)).id,
        "mmap-min-addr"
    );
    assert_eq!(
        complaint(|host| host.descriptors = Some(ENOUGH_DESCRIPTORS - 1)).id,
        "descriptors"
    );
}

#[test]
fn checks_have_names_of_their_own() {
    let mut ids: Vec<&str> = judge(&good()).iter().map(|check| check.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
