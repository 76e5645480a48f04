//! What this host is found to be. Nothing is judged here.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux;

use std::time::Duration;

/// Whether something works; if not, what the host said.
pub type Works<T = ()> = Result<T, String>;

/// The host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As uname(2) has it, such as `Linux`.
    pub system: String,
    /// As uname(2) has it, such as `6.18.44`.
    pub release: String,
    /// As uname(2) has it, such as `x86_64`.
    pub machine: String,
    /// What the rest is, where it can be found out: on Linux, x86-64.
    pub linux: Option<LinuxFacts>,
}

/// What can be found out on Linux, x86-64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinuxFacts {
    /// What a system call costs that a filter traps.
    pub trap: Works<Duration>,
    /// Whether a filter of somebody else's is in force on this process.
    pub filtered: bool,
    /// Whether /proc is there.
    pub procfs: Works,
    /// openat2(2) with RESOLVE_IN_ROOT.
    pub openat2: Works,
    /// prctl(PR_SET_MM, PR_SET_MM_MAP).
    pub mm_map: Works,
    /// memfd_create(2).
    pub memfd: Works,
    /// A user namespace with its capabilities.
    pub user_namespace: Works,
    /// Settings that forbid user namespaces: the sysctl, and the value that would allow them.
    pub namespace_sysctls: Vec<(&'static str, &'static str)>,
    /// `vm.mmap_min_addr`, bytes.
    pub mmap_min_addr: Option<u64>,
    /// `kernel.yama.ptrace_scope`; `None`: no Yama.
    pub ptrace_scope: Option<u8>,
    /// The security module's profile that this process is under, unless that is none.
    pub confined_by: Option<String>,
    /// The soft limit of descriptors; `None`: unlimited.
    pub descriptors: Option<u64>,
    /// The mean cost of executing CPUID.
    pub cpuid: Duration,
    /// The hypervisor's signature, if there is one.
    pub hypervisor: Option<String>,
    /// Whether the kernel gives processes a vDSO.
    pub vdso: bool,
    /// The kernel's clock source, such as `tsc`.
    pub clock_source: Option<String>,
}

/// Finds out about this host. Runs two short experiments in child processes.
#[must_use]
pub fn gather() -> Facts {
    let name = rustix::system::uname();
    Facts {
        system: name.sysname().to_string_lossy().into_owned(),
        release: name.release().to_string_lossy().into_owned(),
        machine: name.machine().to_string_lossy().into_owned(),
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        linux: Some(linux::gather()),
        #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
        linux: None,
    }
}
