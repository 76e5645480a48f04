//! Structures and constants of the Linux kernel's interface on x86-64, by the names of its headers (`include/uapi/`).
#![allow(missing_docs)] // The names are the kernel's; man pages say what they mean.

/// Bit sets of signals as the kernel has them: bit `n - 1` is signal `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// The set of one signal.
    #[must_use]
    pub const fn of(signal: u32) -> Self {
        Self(1 << (signal - 1))
    }

    /// Whether `signal` is in it.
    #[must_use]
    pub const fn has(self, signal: u32) -> bool {
        self.0 & Self::of(signal).0 != 0
    }

    /// Without `signal`.
    #[must_use]
    pub const fn without(self, signal: u32) -> Self {
        Self(self.0 & !Self::of(signal).0)
    }

    /// With `signal`.
    #[must_use]
    pub const fn with(self, signal: u32) -> Self {
        Self(self.0 | Self::of(signal).0)
    }
}

/// Bytes of a signal set as the kernel counts them in `sigsetsize`.
pub const SIGSET_LEN: usize = 8;

pub const SIGTRAP: u32 = 5;
pub const SIGBUS: u32 = 7;
pub const SIGKILL: u32 = 9;
pub const SIGSEGV: u32 = 11;
pub const SIGSTOP: u32 = 19;
pub const SIGSYS: u32 = 31;

/// `si_code` of a SIGSYS that a seccomp filter raised.
pub const SYS_SECCOMP: i32 = 1;

pub const SIG_DFL: usize = 0;
pub const SIG_IGN: usize = 1;
pub const SA_SIGINFO: u64 = 4;
pub const SA_RESTORER: u64 = 0x0400_0000;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;
pub const SIG_BLOCK: usize = 0;
pub const SIG_UNBLOCK: usize = 1;
pub const SIG_SETMASK: usize = 2;

/// `struct sigaction` as rt_sigaction(2) takes it (not libc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SigAction {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: SignalSet,
}

/// `siginfo_t` as far as it is looked at: SIGSYS and faults.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SigInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pad: i32,
    /// SIGSYS: address after the `syscall`; SIGSEGV and SIGBUS: the address that faulted.
    pub addr: usize,
    /// SIGSYS: number of the system call.
    pub syscall: i32,
    /// SIGSYS: `AUDIT_ARCH_*`.
    pub arch: u32,
}

/// `struct sigcontext`: the general registers in the kernel's order.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct SigContext {
    pub r8: usize,
    pub r9: usize,
    pub r10: usize,
    pub r11: usize,
    pub r12: usize,
    pub r13: usize,
    pub r14: usize,
    pub r15: usize,
    pub rdi: usize,
    pub rsi: usize,
    pub rbp: usize,
    pub rbx: usize,
    pub rdx: usize,
    pub rax: usize,
    pub rcx: usize,
    pub rsp: usize,
    pub rip: usize,
    pub eflags: usize,
    pub segments: [u16; 4],
    pub err: usize,
    pub trapno: usize,
    pub oldmask: usize,
    pub cr2: usize,
    pub fpstate: usize,
    reserved: [u64; 8],
}

/// `struct ucontext`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UContext {
    pub flags: usize,
    pub link: usize,
    pub stack: [usize; 3],
    pub context: SigContext,
    pub mask: SignalSet,
}

const _: () = assert!(core::mem::size_of::<SigContext>() == 256);

/// `struct stat`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    pub nlink: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pad: u32,
    pub rdev: u64,
    pub size: i64,
    pub blksize: i64,
    pub blocks: i64,
    pub atime: TimeSpec,
    pub mtime: TimeSpec,
    pub ctime: TimeSpec,
    reserved: [i64; 3],
}

const _: () = assert!(core::mem::size_of::<Stat>() == 144);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TimeSpec {
    pub secs: i64,
    pub nanos: i64,
}

pub const S_IFMT: u32 = 0o170_000;
pub const S_IFSOCK: u32 = 0o140_000;
pub const S_IFLNK: u32 = 0o120_000;
pub const S_IFREG: u32 = 0o100_000;
pub const S_IFDIR: u32 = 0o040_000;

pub const AT_FDCWD: i32 = -100;
pub const AT_SYMLINK_NOFOLLOW: usize = 0x100;
pub const AT_REMOVEDIR: usize = 0x200;
pub const AT_EACCESS: usize = 0x200;
pub const AT_SYMLINK_FOLLOW: usize = 0x400;
pub const AT_NO_AUTOMOUNT: usize = 0x800;
pub const AT_EMPTY_PATH: usize = 0x1000;

pub const CLONE_VM: usize = 0x100;
pub const CLONE_FILES: usize = 0x400;
pub const CLONE_VFORK: usize = 0x4000;
pub const CLONE_THREAD: usize = 0x1_0000;
pub const CLONE_CLEAR_SIGHAND: usize = 0x1_0000_0000;

pub const O_ACCMODE: usize = 3;
pub const O_RDONLY: usize = 0;
pub const O_WRONLY: usize = 1;
pub const O_RDWR: usize = 2;
pub const O_CREAT: usize = 0o100;
pub const O_EXCL: usize = 0o200;
pub const O_TRUNC: usize = 0o1000;
pub const O_NONBLOCK: usize = 0o4000;
pub const O_DIRECTORY: usize = 0o200_000;
pub const O_NOFOLLOW: usize = 0o400_000;
pub const O_CLOEXEC: usize = 0o2_000_000;
pub const O_PATH: usize = 0o10_000_000;
pub const O_TMPFILE: usize = 0o20_000_000 | O_DIRECTORY;

pub const RESOLVE_NO_XDEV: u64 = 1;
pub const RESOLVE_NO_MAGICLINKS: u64 = 2;
pub const RESOLVE_NO_SYMLINKS: u64 = 4;
pub const RESOLVE_BENEATH: u64 = 8;
pub const RESOLVE_IN_ROOT: u64 = 16;
pub const RESOLVE_CACHED: u64 = 32;

/// `struct open_how`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct OpenHow {
    pub flags: u64,
    pub mode: u64,
    pub resolve: u64,
}

pub const F_DUPFD_CLOEXEC: usize = 1030;
pub const F_GETFD: usize = 1;
pub const F_SETFD: usize = 2;
pub const F_GETFL: usize = 3;
pub const FD_CLOEXEC: usize = 1;
pub const F_ADD_SEALS: usize = 1033;
pub const F_SEAL_SEAL: usize = 1;
pub const F_SEAL_SHRINK: usize = 2;
pub const F_SEAL_GROW: usize = 4;
pub const F_SEAL_WRITE: usize = 8;
pub const MFD_CLOEXEC: usize = 1;
pub const MFD_ALLOW_SEALING: usize = 2;

pub const PROT_NONE: usize = 0;
pub const PROT_READ: usize = 1;
pub const PROT_WRITE: usize = 2;
pub const PROT_EXEC: usize = 4;
pub const MAP_SHARED: usize = 1;
pub const MAP_PRIVATE: usize = 2;
pub const MAP_FIXED: usize = 0x10;
pub const MAP_ANONYMOUS: usize = 0x20;
/// Ignored by the kernel; dynamic linkers give it.
pub const MAP_DENYWRITE: usize = 0x800;
pub const MAP_NORESERVE: usize = 0x4000;
pub const MAP_STACK: usize = 0x20000;
pub const MAP_FIXED_NOREPLACE: usize = 0x10_0000;
pub const MADV_WIPEONFORK: usize = 18;
pub const MADV_POPULATE_WRITE: usize = 23;

pub const PR_SET_NAME: usize = 15;
pub const PR_SET_MM: usize = 35;
pub const PR_SET_MM_MAP: usize = 14;
/// `PR_SET_MM_MAP_SIZE`: how long the structure is that the kernel takes.
pub const PR_SET_MM_MAP_SIZE: usize = 15;
pub const PR_SET_NO_NEW_PRIVS: usize = 38;

/// `struct prctl_mm_map`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct PrctlMmMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: u64,
    pub auxv_size: u32,
    pub exe_fd: u32,
}

pub const SECCOMP_SET_MODE_STRICT: usize = 0;
pub const SECCOMP_SET_MODE_FILTER: usize = 1;
pub const SECCOMP_FILTER_FLAG_TSYNC: usize = 1;

/// Bits of personality(2).
pub const ADDR_NO_RANDOMIZE: usize = 0x0004_0000;
pub const READ_IMPLIES_EXEC: usize = 0x0040_0000;
pub const SECCOMP_RET_KILL_PROCESS: u32 = 0x8000_0000;
pub const SECCOMP_RET_TRAP: u32 = 0x0003_0000;
pub const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
pub const SECCOMP_RET_ALLOW: u32 = 0x7fff_0000;
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// `struct sock_filter`: one instruction of a classic BPF program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SockFilter {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `struct sock_fprog`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct SockFprog {
    pub len: u16,
    pub filter: *const SockFilter,
}

pub const CLOCK_REALTIME_COARSE: usize = 5;
pub const CLOCK_MONOTONIC: usize = 1;
pub const CLOCK_BOOTTIME: usize = 7;

pub const AF_UNIX: u16 = 1;

pub const RLIMIT_FSIZE: usize = 1;
pub const RLIMIT_STACK: usize = 3;
pub const RLIMIT_NOFILE: usize = 7;
/// The longest path that a system call takes, its NUL counted.
pub const PATH_MAX: usize = 4096;
/// The longest name of one component.
pub const NAME_MAX: usize = 255;
/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Keys of the auxiliary vector (`include/uapi/linux/auxvec.h`).
pub mod at {
    pub const NULL: usize = 0;
    pub const PHDR: usize = 3;
    pub const PHENT: usize = 4;
    pub const PHNUM: usize = 5;
    pub const PAGESZ: usize = 6;
    pub const BASE: usize = 7;
    pub const FLAGS: usize = 8;
    pub const ENTRY: usize = 9;
    pub const UID: usize = 11;
    pub const EUID: usize = 12;
    pub const GID: usize = 13;
    pub const EGID: usize = 14;
    pub const PLATFORM: usize = 15;
    pub const HWCAP: usize = 16;
    pub const CLKTCK: usize = 17;
    pub const SECURE: usize = 23;
    pub const BASE_PLATFORM: usize = 24;
    pub const RANDOM: usize = 25;
    pub const HWCAP2: usize = 26;
    pub const EXECFN: usize = 31;
    pub const SYSINFO_EHDR: usize = 33;
    pub const MINSIGSTKSZ: usize = 51;
}
