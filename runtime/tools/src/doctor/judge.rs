//! From what was found to what it means for elfuse.

use std::time::Duration;

use super::check::{Check, Group, Item, State};
use super::facts::{Facts, LinuxFacts};

/// glibc's start-up executes CPUID so often, in ld.so and before main.
const CPUID_PER_START: u32 = 68;
/// Where CPUID does not leave the CPU it takes some 30 to 100 ns.
const CPUID_TRAPS_FROM: Duration = Duration::from_nanos(1_000);
/// Most systems' value. Non-PIE programs are linked to far higher addresses.
const USUAL_MMAP_MIN_ADDR: u64 = 65_536;
/// A guest and the runtime get along with less, most programs do not.
const ENOUGH_DESCRIPTORS: u64 = 256;
/// Clock sources that the vDSO can read without a system call.
const FAST_CLOCKS: &[&str] = &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

/// One check for each thing that elfuse wants of a host, in the order in which they are printed.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![platform(facts)];
    if let Some(linux) = &facts.linux {
        checks.extend(kernel(linux));
        checks.extend(cpu(linux));
        checks.extend(limits(linux));
    }
    checks
}

fn platform(facts: &Facts) -> Check {
    let item = Item {
        id: "platform",
        group: Group::Kernel,
        what: "Linux on x86-64",
        without: "no program can be run: the engine is of that kernel and instruction set",
    };
    let found = format!("{} {} on {}", facts.system, facts.release, facts.machine);
    if facts.linux.is_some() && facts.machine == "x86_64" {
        item.fine(found)
    } else {
        item.not(State::Needed, found, "run elfuse on Linux, x86-64")
    }
}

fn kernel(facts: &LinuxFacts) -> [Check; 7] {
    [
        traps(facts),
        filtered(facts),
        works(
            Item {
                id: "procfs",
                group: Group::Kernel,
                what: "/proc",
                without: "no program can be run: where a descriptor leads is read there",
            },
            State::Needed,
            &facts.procfs,
            "mount -t proc proc /proc",
        ),
        works(
            Item {
                id: "openat2",
                group: Group::Kernel,
                what: "openat2",
                without: "paths that the kernel could resolve in one call are walked step by step",
            },
            State::Slower,
            &facts.openat2,
            "Linux 5.6 or newer; in a container, a seccomp profile that knows openat2",
        ),
        works(
            Item {
                id: "pr-set-mm-map",
                group: Group::Kernel,
                what: "PR_SET_MM_MAP",
                without: "ps and /proc/PID/cmdline show elfuse's arguments and not the guest's",
            },
            State::Missing,
            &facts.mm_map,
            "a kernel with CONFIG_CHECKPOINT_RESTORE, as distributions build it",
        ),
        works(
            Item {
                id: "memfd",
                group: Group::Kernel,
                what: "memfd_create",
                without: "guests that make files in memory fail, such as those that execute generated code",
            },
            State::Missing,
            &facts.memfd,
            "Linux 3.17 or newer; in a container, a seccomp profile that allows it",
        ),
        namespaces(facts),
    ]
}

/// A check that is fine or has one way not to be.
fn works(item: Item, otherwise: State, found: &Result<(), String>, advice: &str) -> Check {
    match found {
        Ok(()) => item.fine("works"),
        Err(error) => item.not(otherwise, error.clone(), advice),
    }
}

fn traps(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "seccomp-trap",
        group: Group::Kernel,
        what: "seccomp RET_TRAP",
        without: "no program can be run: the calls that name paths would not be noticed",
    };
    match &facts.trap {
        Ok(cost) => item.fine(format!("works; a trapped call takes {}", shown(*cost))),
        Err(error) => item.not(
            State::Needed,
            error.clone(),
            "a kernel with CONFIG_SECCOMP_FILTER; in a container or sandbox, a profile that allows \
             seccomp(2), such as --security-opt seccomp=unconfined",
        ),
    }
}

fn filtered(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "other-filter",
        group: Group::Kernel,
        what: "no filter before",
        without: "every system call passes the other filter too; what it refuses, guests cannot do",
    };
    if facts.filtered {
        item.not(
            State::Slower,
            "a seccomp filter is in force already, as in containers and sandboxes",
            "start elfuse outside, or with --security-opt seccomp=unconfined",
        )
    } else {
        item.fine("none in force")
    }
}

fn namespaces(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "user-namespaces",
        group: Group::Kernel,
        what: "user namespaces",
        without: "elfuse needs none; its own tests, which compare with the kernel, then have to run as root",
    };
    match &facts.user_namespace {
        Ok(()) => item.fine("an ordinary user may make one"),
        Err(error) if facts.namespace_sysctls.is_empty() => item.not(
            State::Missing,
            error.clone(),
            "allow unshare(2) in the container's profile, or run the tests as root",
        ),
        Err(error) => {
            let commands = facts
                .namespace_sysctls
                .iter()
                .map(|(name, allows)| format!("sysctl {name}={allows}"));
            let commands: Vec<String> = commands.collect();
            item.not(State::Missing, error.clone(), commands.join("; "))
        }
    }
}

fn cpu(facts: &LinuxFacts) -> [Check; 2] {
    let cpuid = Item {
        id: "cpuid",
        group: Group::Cpu,
        what: "CPUID",
        without: "each start of a program pays for it some 68 times, natively too",
    };
    let place = match &facts.hypervisor {
        Some(signature) if signature.is_empty() => "in a VM".to_owned(),
        Some(signature) => format!("in a VM ({signature})"),
        None => "on bare metal".to_owned(),
    };
    let found = format!("{} each, {place}", shown(facts.cpuid));
    let cpuid = if facts.cpuid < CPUID_TRAPS_FROM {
        cpuid.fine(found)
    } else {
        let start = shown(facts.cpuid * CPUID_PER_START);
        cpuid.not(
            State::Slower,
            format!("{found}: {start} a start"),
            "it leaves to the hypervisor, which a guest cannot change; on bare metal it does not",
        )
    };
    let clock = Item {
        id: "clock",
        group: Group::Cpu,
        what: "clock without a call",
        without: "each look at the clock is a system call",
    };
    let source = facts.clock_source.as_deref();
    let clock = match (facts.vdso, source) {
        (true, None) => clock.fine("there is a vDSO"),
        (true, Some(source)) if FAST_CLOCKS.contains(&source) => {
            clock.fine(format!("vDSO, clock source {source}"))
        }
        (true, Some(source)) => clock.not(
            State::Slower,
            format!("vDSO, but clock source {source}"),
            "boot with clocksource=tsc, if the CPU's counter is stable",
        ),
        (false, _) => clock.not(State::Slower, "no vDSO", "boot without vdso=0"),
    };
    [cpuid, clock]
}

fn limits(facts: &LinuxFacts) -> [Check; 4] {
    [
        low_memory(facts),
        descriptors(facts),
        debugging(facts),
        confinement(facts),
    ]
}

fn low_memory(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "mmap-min-addr",
        group: Group::Limits,
        what: "vm.mmap_min_addr",
        without: "programs that are linked to a lower address cannot be loaded",
    };
    match facts.mmap_min_addr {
        None => item.fine("not known here"),
        Some(least) if least <= USUAL_MMAP_MIN_ADDR => item.fine(least.to_string()),
        Some(least) => item.not(
            State::Missing,
            least.to_string(),
            format!("sysctl vm.mmap_min_addr={USUAL_MMAP_MIN_ADDR}"),
        ),
    }
}

fn descriptors(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "descriptors",
        group: Group::Limits,
        what: "soft RLIMIT_NOFILE",
        without: "guests run out of descriptors sooner: elfuse keeps a few of them, with high numbers",
    };
    match facts.descriptors {
        None => item.fine("unlimited"),
        Some(soft) if soft >= ENOUGH_DESCRIPTORS => item.fine(soft.to_string()),
        Some(soft) => item.not(State::Missing, soft.to_string(), "ulimit -S -n 1024"),
    }
}

fn debugging(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "ptrace",
        group: Group::Limits,
        what: "ptrace",
        without: "debuggers and strace are kept from guests",
    };
    let advice = "sysctl kernel.yama.ptrace_scope=0 while debugging";
    match facts.ptrace_scope {
        None => item.fine("not restricted: no Yama"),
        Some(0) => item.fine("not restricted: ptrace_scope is 0"),
        Some(1) => item.not(
            State::Missing,
            "ptrace_scope is 1: a debugger may start a guest, but not attach to a running one",
            advice,
        ),
        Some(2) => item.not(
            State::Missing,
            "ptrace_scope is 2: only root may debug",
            advice,
        ),
        Some(scope) => item.not(
            State::Missing,
            format!("ptrace_scope is {scope}: nobody may debug"),
            "it cannot be changed before the next boot",
        ),
    }
}

fn confinement(facts: &LinuxFacts) -> Check {
    let item = Item {
        id: "security-module",
        group: Group::Limits,
        what: "security module",
        without: "what the profile forbids to this process, it forbids to guests",
    };
    match &facts.confined_by {
        None => item.fine("this process is not confined"),
        Some(profile) => item.not(
            State::Missing,
            format!("confined by {profile}"),
            "if a guest is refused something, start elfuse outside of that profile",
        ),
    }
}

/// A time as people read it.
fn shown(time: Duration) -> String {
    let nanos = time.as_nanos();
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} us", time.as_secs_f64() * 1e6),
        _ => format!("{:.1} ms", time.as_secs_f64() * 1e3),
    }
}

#[cfg(test)]
mod tests;
