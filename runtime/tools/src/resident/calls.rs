//! Which system calls a dynamic linker may have made in a program that is kept: those whose effect a start without them has, too. Pure.

use elfuse_format::snapshot::Outcome;

/// What a call of the guest's is, before it is known what it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It changes nothing that lasts, or what it changes is in the mappings.
    Plain,
    /// Memory is mapped where the kernel likes: so many bytes.
    Map(u64),
    /// Where the heap ends is asked; or it is to end elsewhere, which is not granted: the heap is each process's own.
    Break(u64),
    /// A file is opened; the path is at this address.
    Open(u64),
    /// Whether a file is there is asked; the path is at this address.
    Access(u64),
    /// What a file is like is asked: addresses of the path and of the answer.
    Stat(u64, u64),
    /// A symlink is read; the path is at this address.
    ReadLink(u64),
    /// A descriptor is closed.
    Close(u64),
    /// It is allowed if it fails: a kernel without it.
    Absent,
    /// arch_prctl(ARCH_SET_FS).
    ThreadPointer(u64),
    /// set_tid_address.
    ClearTid(u64),
    /// set_robust_list: address, length.
    RobustList([u64; 2]),
    /// rseq: address, length, signature.
    Rseq([u64; 3]),
}

/// The name of a call for people, where it is one that programs are refused for again and again.
#[must_use]
pub fn name(nr: u64) -> String {
    let known = match nr.cast_signed() {
        libc::SYS_write => "write",
        libc::SYS_brk => "brk",
        libc::SYS_getrandom => "getrandom",
        libc::SYS_execve => "execve",
        libc::SYS_mremap => "mremap",
        libc::SYS_mmap => "mmap",
        libc::SYS_openat => "openat",
        libc::SYS_rt_sigaction => "rt_sigaction",
        libc::SYS_rt_sigprocmask => "rt_sigprocmask",
        libc::SYS_exit_group => "exit_group",
        libc::SYS_getpid => "getpid",
        libc::SYS_gettid => "gettid",
        libc::SYS_uname => "uname",
        libc::SYS_clock_gettime => "clock_gettime",
        libc::SYS_prctl => "prctl",
        libc::SYS_arch_prctl => "arch_prctl",
        libc::SYS_prlimit64 => "prlimit64",
        libc::SYS_newfstatat => "newfstatat",
        libc::SYS_getcwd => "getcwd",
        _ => return format!("system call {nr}"),
    };
    known.to_owned()
}

/// What a call is; `None`: one that a program is not kept for.
#[must_use]
pub fn judge(nr: u64, args: [u64; 6]) -> Option<Call> {
    const ARCH_SET_FS: u64 = 0x1002;
    /// Of these on, calls of arch_prctl(2) are about shadow stacks and the like.
    const ARCH_CET: u64 = 0x3001;
    const AT_CWD: u64 = libc::AT_FDCWD as u32 as u64;
    const WRITES: u64 =
        (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH | libc::O_DIRECTORY) as u64;
    let is_cwd = args[0] & 0xffff_ffff == AT_CWD;
    let [first, second, third, fourth, ..] = args;
    Some(match nr.cast_signed() {
        libc::SYS_brk => Call::Break(first),
        libc::SYS_read | libc::SYS_pread64 | libc::SYS_fstat | libc::SYS_lseek => Call::Plain,
        libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_madvise => Call::Plain,
        libc::SYS_mmap if fourth & libc::MAP_PRIVATE as u64 != 0 => {
            let is_fixed = fourth & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u64 != 0;
            match first {
                0 if !is_fixed => Call::Map(second),
                _ if is_fixed => Call::Plain,
                // A place that it would like: where else that leads is not known.
                _ => return None,
            }
        }
        libc::SYS_openat if is_cwd && third & WRITES == 0 => Call::Open(second),
        libc::SYS_open if second & WRITES == 0 => Call::Open(first),
        libc::SYS_access => Call::Access(first),
        libc::SYS_faccessat | libc::SYS_faccessat2 if is_cwd => Call::Access(second),
        libc::SYS_stat => Call::Stat(first, second),
        libc::SYS_newfstatat if is_cwd && fourth == 0 => Call::Stat(second, third),
        libc::SYS_newfstatat if fourth & libc::AT_EMPTY_PATH as u64 != 0 => Call::Plain,
        libc::SYS_readlink => Call::ReadLink(first),
        libc::SYS_readlinkat if is_cwd => Call::ReadLink(second),
        libc::SYS_close => Call::Close(first & 0xffff_ffff),
        libc::SYS_arch_prctl if first == ARCH_SET_FS => Call::ThreadPointer(second),
        libc::SYS_arch_prctl if first >= ARCH_CET => Call::Absent,
        libc::SYS_set_tid_address => Call::ClearTid(first),
        libc::SYS_set_robust_list => Call::RobustList([first, second]),
        libc::SYS_rseq if third == 0 => Call::Rseq([first, second, fourth]),
        libc::SYS_prlimit64
            if first == 0 && second == u64::from(libc::RLIMIT_STACK) && third == 0 =>
        {
            Call::Plain
        }
        libc::SYS_getrlimit if first == u64::from(libc::RLIMIT_STACK) => Call::Plain,
        _ => return None,
    })
}

/// What a lookup that failed with this result came to; `None`: it did not fail.
#[must_use]
pub fn failure(value: i64) -> Option<Outcome> {
    let errno = u32::try_from(value.checked_neg()?).ok()?;
    (1..4096).contains(&errno).then_some(Outcome::Error(errno))
}

#[cfg(test)]
mod tests {
    use super::{Call, failure, judge, name};
    use elfuse_format::snapshot::Outcome;

    #[test]
    fn what_lasts_beyond_the_call_is_not_among_what_is_allowed() {
        let nr = |number: libc::c_long| number.cast_unsigned();
        let cwd = libc::AT_FDCWD as u32 as u64;
        let written = (libc::O_RDWR | libc::O_CREAT) as u64;
        assert_eq!(judge(nr(libc::SYS_write), [1; 6]), None);
        assert_eq!(judge(nr(libc::SYS_getrandom), [1; 6]), None);
        assert_eq!(
            judge(nr(libc::SYS_openat), [cwd, 7, written, 0, 0, 0]),
            None
        );
        assert_eq!(judge(nr(libc::SYS_openat), [3, 7, 0, 0, 0, 0]), None);
        let shared = libc::MAP_SHARED as u64;
        assert_eq!(judge(nr(libc::SYS_mmap), [0, 1, 1, shared, 3, 0]), None);
        let cpu = u64::from(libc::RLIMIT_CPU);
        assert_eq!(judge(nr(libc::SYS_prlimit64), [0, cpu, 0, 9, 0, 0]), None);
        assert_eq!(
            judge(nr(libc::SYS_openat), [cwd, 7, 0, 0, 0, 0]),
            Some(Call::Open(7))
        );
        assert_eq!(name(nr(libc::SYS_getrandom)), "getrandom");
    }

    #[test]
    fn an_address_is_no_error_number() {
        assert_eq!(failure(-2), Some(Outcome::Error(2)));
        assert_eq!(failure(0), None);
        assert_eq!(failure(3), None);
        assert_eq!(failure(-4096), None);
        assert_eq!(failure(i64::MIN), None);
    }
}
