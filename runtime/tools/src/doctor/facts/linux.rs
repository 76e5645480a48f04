//! Finding out, on Linux.

use std::fs;
use std::str::FromStr;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, ResolveFlags};
use rustix::process::Resource;

use super::{LinuxFacts, Works};
use crate::host;

/// linux/auxvec.h
const AT_SYSINFO_EHDR: u64 = 33;

pub(super) fn gather() -> LinuxFacts {
    let host::Cpuid { cost, hypervisor } = host::cpuid();
    LinuxFacts {
        trap: works(host::trap_cost()),
        filtered: status("Seccomp").is_some_and(|mode| mode != "0"),
        procfs: works(fs::read_dir("/proc/self/fd")).map(drop),
        openat2: works(openat2()),
        mm_map: works(host::mm_map()),
        memfd: works(memfd()),
        user_namespace: works(host::user_namespace()),
        namespace_sysctls: namespace_sysctls(),
        mmap_min_addr: number("/proc/sys/vm/mmap_min_addr"),
        ptrace_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
        confined_by: confined_by(),
        descriptors: rustix::process::getrlimit(Resource::Nofile).current,
        cpuid: cost,
        hypervisor,
        vdso: has_vdso(),
        clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    }
}

fn works<T, E: std::fmt::Display>(result: Result<T, E>) -> Works<T> {
    result.map_err(|error| error.to_string())
}

fn openat2() -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::IN_ROOT).map(drop)
}

fn memfd() -> rustix::io::Result<()> {
    rustix::fs::memfd_create("elfuse-doctor", MemfdFlags::CLOEXEC).map(drop)
}

fn text(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn number<T: FromStr>(path: &str) -> Option<T> {
    text(path)?.parse().ok()
}

/// A field of /proc/self/status.
fn status(field: &str) -> Option<String> {
    let status = text("/proc/self/status")?;
    let mut values = status
        .lines()
        .filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    values.next().map(|value| value.trim().to_owned())
}

/// A setting that decides about user namespaces.
struct Sysctl {
    path: &'static str,
    name: &'static str,
    forbids: fn(u64) -> bool,
    allows: &'static str,
}

/// Debian's, Ubuntu's, the kernel's own.
const NAMESPACE_SYSCTLS: [Sysctl; 3] = [
    Sysctl {
        path: "/proc/sys/kernel/unprivileged_userns_clone",
        name: "kernel.unprivileged_userns_clone",
        forbids: |value| value == 0,
        allows: "1",
    },
    Sysctl {
        path: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        name: "kernel.apparmor_restrict_unprivileged_userns",
        forbids: |value| value != 0,
        allows: "0",
    },
    Sysctl {
        path: "/proc/sys/user/max_user_namespaces",
        name: "user.max_user_namespaces",
        forbids: |value| value == 0,
        allows: "10000",
    },
];

fn namespace_sysctls() -> Vec<(&'static str, &'static str)> {
    let forbidding = NAMESPACE_SYSCTLS
        .iter()
        .filter(|sysctl| number(sysctl.path).is_some_and(sysctl.forbids));
    forbidding
        .map(|sysctl| (sysctl.name, sysctl.allows))
        .collect()
}

fn confined_by() -> Option<String> {
    // Without AppArmor and SELinux, reading fails.
    let profile = text("/proc/self/attr/current")?;
    let profile = profile.trim_end_matches('\0');
    let unconfined = profile.is_empty() || profile.contains("unconfined");
    (!unconfined).then(|| profile.to_owned())
}

fn has_vdso() -> bool {
    let Ok(auxv) = fs::read("/proc/self/auxv") else {
        return false;
    };
    let (words, _) = auxv.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().any(|[kind, value]| {
        u64::from_ne_bytes(*kind) == AT_SYSINFO_EHDR && u64::from_ne_bytes(*value) != 0
    })
}
