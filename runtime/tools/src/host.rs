//! Experiments with the kernel that no safe interface makes: what a filter's trap costs, whether a user namespace may be made,
//! what CPUID costs.
//!
//! # Safety
//! The only file of this crate with `unsafe`. Its rules:
//! - A child made by `fork` shares nothing but open descriptors, and may have been made while another thread held a lock. Between
//!   `fork` and `_exit` it therefore calls only what signal-safety(7) allows, and never returns, panics or allocates.
//! - Pointers handed to the kernel are of locals that outlive the call.
//! - The signal handler touches nothing.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_long, c_uint, c_void};

/// How often a trapped call is made before the clock starts, and while it runs.
const WARM_UP_CALLS: u32 = 64;
const TIMED_CALLS: u32 = 512;
/// How often CPUID is executed.
const CPUID_TIMES: u32 = 64;

/// A child's way to say how it went: errno (0: well) and a number.
#[derive(Clone, Copy)]
struct Verdict {
    errno: c_int,
    number: u64,
}

const VERDICT_BYTES: usize = 12;

impl Verdict {
    fn to_bytes(self) -> [u8; VERDICT_BYTES] {
        let mut bytes = [0; VERDICT_BYTES];
        bytes[..4].copy_from_slice(&self.errno.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.number.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; VERDICT_BYTES]) -> Option<Self> {
        Some(Self {
            errno: c_int::from_ne_bytes(bytes[..4].try_into().ok()?),
            number: u64::from_ne_bytes(bytes[4..].try_into().ok()?),
        })
    }
}

/// Runs `experiment` in a child process, which may do to itself what could not be undone.
///
/// `experiment` is a function and not a closure so that it brings nothing along; it keeps to the rules at the top.
fn in_child(experiment: fn() -> Verdict) -> io::Result<u64> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: the array has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pipe2 has just made both, and nothing else owns them.
    let (mut reader, writer) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    // SAFETY: the child does only what the rules at the top allow, and ends in _exit.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        let bytes = experiment().to_bytes();
        // SAFETY: the bytes are a local's; what was written or not, the parent sees.
        unsafe {
            libc::write(
                writer.as_raw_fd(),
                bytes.as_ptr().cast::<c_void>(),
                bytes.len(),
            );
            libc::_exit(0);
        }
    }
    drop(writer);
    let mut bytes = [0; VERDICT_BYTES];
    let read = reader.read_exact(&mut bytes);
    let mut status: c_int = 0;
    // SAFETY: the child is this process's own, and the status is a local.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if read.is_err() && libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        return Err(io::Error::other(format!("killed by signal {signal}")));
    }
    read?;
    match Verdict::from_bytes(bytes) {
        Some(Verdict { errno: 0, number }) => Ok(number),
        Some(Verdict { errno, .. }) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn failed() -> Verdict {
    // SAFETY: errno's place is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // Whatever failed without saying why still failed.
    let errno = if errno == 0 { libc::EIO } else { errno };
    Verdict { errno, number: 0 }
}

/// What a system call costs that seccomp turns into SIGSYS: the way a guest's path calls are noticed.
///
/// # Errors
/// If such a filter cannot be installed, or does not trap.
pub(crate) fn trap_cost() -> io::Result<Duration> {
    in_child(trap_in_child).map(Duration::from_nanos)
}

extern "C" fn on_sigsys(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {}

fn trap_in_child() -> Verdict {
    const TRAPPED: c_long = libc::SYS_getppid;
    let statement = |code: c_uint, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let mut program = [
        // The system call's number is the first member of struct seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: TRAPPED as u32,
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_TRAP),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: all zeroes is a sigaction: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = on_sigsys as *const () as usize;
    // SAFETY: the action and the filter are locals, and the handler has the signature that SA_SIGINFO asks for.
    let installed = unsafe {
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) == 0
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ) == 0
    };
    if !installed {
        return failed();
    }
    let mut parent = 0;
    let mut calls = |times: u32| {
        for _ in 0..times {
            // SAFETY: getppid takes nothing and changes nothing.
            parent = unsafe { libc::syscall(TRAPPED) };
        }
    };
    calls(WARM_UP_CALLS);
    let before = monotonic_ns();
    calls(TIMED_CALLS);
    let took = monotonic_ns().saturating_sub(before);
    // A trapped call returns its own number, as nobody answered it. The parent's pid could be that number, by a chance that
    // would not make the answer wrong: the filter is installed.
    if parent == TRAPPED {
        Verdict {
            errno: 0,
            number: took / u64::from(TIMED_CALLS),
        }
    } else {
        Verdict {
            errno: libc::EOPNOTSUPP,
            number: 0,
        }
    }
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is a local; CLOCK_MONOTONIC is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Whether an ordinary user may make a user namespace and use the capabilities that come with it.
///
/// # Errors
/// Those of unshare(2); those of chroot(2) where a security module takes the capabilities away again.
pub(crate) fn user_namespace() -> io::Result<()> {
    in_child(namespace_in_child).map(drop)
}

fn namespace_in_child() -> Verdict {
    const NOBODY: c_long = 65_534;
    // Root may make one anyway, which would tell nothing of others.
    // SAFETY: all three change this child alone; the path is a literal with its NUL. glibc's own setresuid would signal threads,
    // of which the child has none.
    let made = unsafe {
        (libc::geteuid() != 0 || libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0)
            && libc::unshare(libc::CLONE_NEWUSER) == 0
            && libc::chroot(c"/".as_ptr()) == 0
    };
    if made {
        Verdict {
            errno: 0,
            number: 0,
        }
    } else {
        failed()
    }
}

/// Whether the kernel lets a process say where its program, arguments and environment lie (PR_SET_MM_MAP).
///
/// # Errors
/// Those of prctl(2): EINVAL where it was built without CONFIG_CHECKPOINT_RESTORE.
pub(crate) fn mm_map() -> io::Result<()> {
    // linux/prctl.h
    const PR_SET_MM_MAP_SIZE: usize = 15;
    let mut size_byte: c_uint = 0;
    // SAFETY: this form only stores the size of a struct in the local.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            PR_SET_MM_MAP_SIZE,
            &raw mut size_byte,
            0,
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What CPUID says and costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cpuid {
    /// The mean of some executions.
    pub(crate) cost: Duration,
    /// The hypervisor's signature, such as `KVMKVMKVM`, if there is one.
    pub(crate) hypervisor: Option<String>,
}

/// Asks and times CPUID.
#[allow(unused_unsafe, reason = "newer compilers take __cpuid for safe")]
pub(crate) fn cpuid() -> Cpuid {
    use std::arch::x86_64::{__cpuid, CpuidResult};
    // SAFETY: every x86-64 CPU has CPUID, and it changes nothing but its result registers.
    let ask = |leaf: u32| -> CpuidResult { unsafe { __cpuid(leaf) } };
    let before = monotonic_ns();
    for _ in 0..CPUID_TIMES {
        std::hint::black_box(ask(0));
    }
    let took = monotonic_ns().saturating_sub(before);
    let in_vm = ask(1).ecx & (1 << 31) != 0;
    let hypervisor = in_vm.then(|| {
        let CpuidResult { ebx, ecx, edx, .. } = ask(0x4000_0000);
        let signature = [ebx, ecx, edx].map(u32::to_le_bytes).concat();
        let printable = signature.into_iter().filter(u8::is_ascii_graphic);
        printable.map(char::from).collect()
    });
    Cpuid {
        cost: Duration::from_nanos(took / u64::from(CPUID_TIMES)),
        hypervisor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_experiment_s_number_and_errno_come_back() {
        let number = in_child(|| Verdict {
            errno: 0,
            number: u64::MAX - 1,
        });
        assert_eq!(number.unwrap(), u64::MAX - 1);
        let error = in_child(|| Verdict {
            errno: libc::EPERM,
            number: 7,
        });
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn an_experiment_that_is_killed_is_an_error_that_says_so() {
        // SAFETY: the child ends itself.
        let error = in_child(|| unsafe {
            libc::raise(libc::SIGKILL);
            libc::_exit(0)
        });
        assert_eq!(error.unwrap_err().to_string(), "killed by signal 9");
    }

    #[test]
    fn experiments_leave_this_process_as_it_was() {
        // Whatever they find: neither a filter nor a namespace may have come to stay.
        let status = || std::fs::read_to_string("/proc/self/status").unwrap();
        let line = |status: &str, name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap_or_default().to_owned()
        };
        let before = status();
        let namespace = std::fs::read_link("/proc/self/ns/user").unwrap();
        let _ = (trap_cost(), user_namespace(), mm_map(), cpuid());
        let after = status();
        for name in ["Seccomp:", "NoNewPrivs:", "CapEff:"] {
            assert_eq!(line(&before, name), line(&after, name));
        }
        assert_eq!(std::fs::read_link("/proc/self/ns/user").unwrap(), namespace);
    }
}
