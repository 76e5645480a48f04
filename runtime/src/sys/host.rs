//! Typed calls that cannot hurt memory: descriptors, paths, buffers that Rust owns.
//!
//! # Safety
//! Every pointer handed to the kernel here comes from a live Rust reference of the right size, and the kernel keeps none of them
//! past the call. Calls that map, unmap or jump are in [`super::memory`] and in the engine, not here.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::mem::MaybeUninit;

use super::abi::{
    AT_FDCWD, AT_SYMLINK_NOFOLLOW, CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_REALTIME_COARSE,
    F_DUPFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_CLOEXEC, OpenHow, SIGSET_LEN, SigAction, SignalSet,
    Stat, TimeSpec,
};
use super::nr;
use super::raw::{Nr, call};
use crate::errno::Errno;

/// A file descriptor, borrowed: nothing is closed when it is dropped. [`Fd::CWD`] stands for the working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);

impl Fd {
    /// `AT_FDCWD`.
    pub const CWD: Fd = Fd(AT_FDCWD);

    fn arg(self) -> usize {
        self.0 as isize as usize
    }
}

fn address<T: ?Sized>(of: &T) -> usize {
    core::ptr::from_ref(of).cast::<u8>().expose_provenance()
}

fn address_mut<T: ?Sized>(of: &mut T) -> usize {
    core::ptr::from_mut(of).cast::<u8>().expose_provenance()
}

/// openat(2).
///
/// # Errors
/// Those of the call.
pub fn openat(dir: Fd, path: &CStr, flags: usize, mode: usize) -> Result<Fd, Errno> {
    // SAFETY: the path is a live C string.
    unsafe {
        call(
            nr::OPENAT,
            [
                dir.arg(),
                path.as_ptr().expose_provenance(),
                flags,
                mode,
                0,
                0,
            ],
        )
    }
    .result()
    .map(|fd| Fd(fd as i32))
}

/// openat2(2).
///
/// # Errors
/// Those of the call.
pub fn openat2(dir: Fd, path: &CStr, how: &OpenHow) -> Result<Fd, Errno> {
    let len = size_of::<OpenHow>();
    // SAFETY: the path is a live C string, `how` a live structure of the length given.
    unsafe {
        call(
            nr::OPENAT2,
            [
                dir.arg(),
                path.as_ptr().expose_provenance(),
                address(how),
                len,
                0,
                0,
            ],
        )
    }
    .result()
    .map(|fd| Fd(fd as i32))
}

/// close(2); an error says that there was nothing to close.
pub fn close(fd: Fd) {
    // SAFETY: closing touches no memory. Whose descriptor it is, is the caller's business.
    let _ = unsafe { call(nr::CLOSE, [fd.arg(), 0, 0, 0, 0, 0]) };
}

/// fstat(2).
///
/// # Errors
/// Those of the call.
pub fn fstat(fd: Fd) -> Result<Stat, Errno> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    let at = address_mut(&mut stat);
    // SAFETY: the buffer is a whole `struct stat`, which the kernel fills when it returns 0.
    unsafe {
        call(nr::FSTAT, [fd.arg(), at, 0, 0, 0, 0]).result()?;
        Ok(stat.assume_init())
    }
}

/// `f_type` of statfs(2).
///
/// # Errors
/// Those of the call.
pub fn file_system(path: &CStr) -> Result<u64, Errno> {
    statfs(path).map(|found| found[0])
}

/// `f_flags` of statfs(2).
///
/// # Errors
/// Those of the call.
pub fn mount_flags(path: &CStr) -> Result<u64, Errno> {
    statfs(path).map(|found| found[10])
}

fn statfs(path: &CStr) -> Result<[u64; 15], Errno> {
    // `struct statfs` of x86-64 has 120 bytes, the first eight of which are `f_type`, and those from 80 on `f_flags`.
    let mut found = [0_u64; 15];
    let into = found.as_mut_ptr().expose_provenance();
    let args = [path.as_ptr().expose_provenance(), into, 0, 0, 0, 0];
    // SAFETY: the path is a live C string, the buffer a whole `struct statfs`.
    unsafe { call(nr::STATFS, args) }.result()?;
    Ok(found)
}

/// statx(2) of a descriptor itself, with AT_EMPTY_PATH among the flags.
///
/// # Errors
/// Those of the call.
pub fn statx_of(fd: Fd, flags: usize, mask: u32, into: &mut [u8; 256]) -> Result<(), Errno> {
    let path = c"".as_ptr().expose_provenance();
    let into = into.as_mut_ptr().expose_provenance();
    let args = [fd.arg(), path, flags, mask as usize, into, 0];
    // SAFETY: the path is a live C string, the buffer a whole `struct statx`.
    unsafe { call(nr::STATX, args) }.result().map(drop)
}

/// newfstatat(2) with AT_SYMLINK_NOFOLLOW.
///
/// # Errors
/// Those of the call.
pub fn lstatat(dir: Fd, path: &CStr) -> Result<Stat, Errno> {
    let mut stat = MaybeUninit::<Stat>::uninit();
    let at = address_mut(&mut stat);
    let args = [
        dir.arg(),
        path.as_ptr().expose_provenance(),
        at,
        AT_SYMLINK_NOFOLLOW,
        0,
        0,
    ];
    // SAFETY: the path is a live C string, the buffer a whole `struct stat`, which the kernel fills when it returns 0.
    unsafe {
        call(nr::NEWFSTATAT, args).result()?;
        Ok(stat.assume_init())
    }
}

/// readlinkat(2): how many bytes of `into` it filled.
///
/// # Errors
/// Those of the call.
pub fn readlinkat(dir: Fd, path: &CStr, into: &mut [u8]) -> Result<usize, Errno> {
    let args = [
        dir.arg(),
        path.as_ptr().expose_provenance(),
        address_mut(into),
        into.len(),
        0,
        0,
    ];
    // SAFETY: the path is a live C string, the buffer has the length given.
    unsafe { call(nr::READLINKAT, args) }.result()
}

/// getcwd(2): the path without its NUL.
///
/// # Errors
/// Those of the call.
pub fn getcwd(into: &mut [u8]) -> Result<&[u8], Errno> {
    // SAFETY: the buffer has the length given.
    let len = unsafe { call(nr::GETCWD, [address_mut(into), into.len(), 0, 0, 0, 0]) }.result()?;
    Ok(&into[..len.saturating_sub(1)])
}

/// The same into memory that is not cleared first.
///
/// # Errors
/// ERANGE: it does not fit with its NUL. Those of the call.
pub fn short_getcwd<const N: usize>(into: &mut MaybeUninit<[u8; N]>) -> Result<&CStr, Errno> {
    let at = into.as_mut_ptr().cast::<u8>();
    // SAFETY: the buffer has the length given.
    let len = unsafe { call(nr::GETCWD, [at.expose_provenance(), N, 0, 0, 0, 0]) }.result()?;
    // SAFETY: the kernel has written so many bytes, of which the last is the one NUL.
    Ok(unsafe { CStr::from_bytes_with_nul_unchecked(core::slice::from_raw_parts(at, len)) })
}

/// faccessat2(2).
///
/// # Errors
/// Those of the call.
pub fn faccessat2(dir: Fd, path: &CStr, mode: usize, flags: usize) -> Result<(), Errno> {
    // SAFETY: the path is a live C string.
    unsafe {
        call(
            nr::FACCESSAT2,
            [
                dir.arg(),
                path.as_ptr().expose_provenance(),
                mode,
                flags,
                0,
                0,
            ],
        )
    }
    .result()
    .map(drop)
}

/// pread64(2).
///
/// # Errors
/// Those of the call.
pub fn pread(fd: Fd, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let args = [
        fd.arg(),
        address_mut(into),
        into.len(),
        offset as usize,
        0,
        0,
    ];
    // SAFETY: the buffer has the length given.
    unsafe { call(nr::PREAD64, args) }.result()
}

/// read(2): how many bytes of `into` it filled.
///
/// # Errors
/// Those of the call.
pub fn read(fd: Fd, into: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the buffer has the length given.
    unsafe { call(nr::READ, [fd.arg(), address_mut(into), into.len(), 0, 0, 0]) }.result()
}

/// lseek(2) to the start.
///
/// # Errors
/// Those of the call.
pub fn rewind(fd: Fd) -> Result<(), Errno> {
    // SAFETY: no memory is named.
    unsafe { call(nr::LSEEK, [fd.arg(), 0, 0, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// dup3(2): `to` becomes a copy of `fd`, whatever it was before.
///
/// # Errors
/// Those of the call.
pub fn dup_to(fd: Fd, to: Fd, flags: usize) -> Result<(), Errno> {
    // SAFETY: no memory is named. Whose descriptor is replaced, is the caller's business.
    unsafe { call(nr::DUP3, [fd.arg(), to.arg(), flags, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// write(2).
///
/// # Errors
/// Those of the call.
pub fn write(fd: Fd, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the bytes are live.
    unsafe { call(nr::WRITE, [fd.arg(), address(bytes), bytes.len(), 0, 0, 0]) }.result()
}

/// fcntl(2) with F_DUPFD_CLOEXEC: a copy numbered `least` or more.
///
/// # Errors
/// Those of the call.
pub fn dup_from(fd: Fd, least: i32) -> Result<Fd, Errno> {
    fcntl(fd, F_DUPFD_CLOEXEC, least as usize).map(|fd| Fd(fd as i32))
}

/// fcntl(2) with F_DUPFD: a copy numbered `least` or more that stays open over exec.
///
/// # Errors
/// Those of the call.
pub fn keep_from(fd: Fd, least: i32) -> Result<Fd, Errno> {
    const F_DUPFD: usize = 0;
    fcntl(fd, F_DUPFD, least as usize).map(|fd| Fd(fd as i32))
}

/// memfd_create(2), closed on exec; it may be sealed.
///
/// # Errors
/// Those of the call.
pub fn memory_file(name: &CStr) -> Result<Fd, Errno> {
    let flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    // SAFETY: a live C string.
    unsafe {
        call(
            nr::MEMFD_CREATE,
            [name.as_ptr().expose_provenance(), flags, 0, 0, 0, 0],
        )
    }
    .result()
    .map(|fd| Fd(fd as i32))
}

/// ftruncate(2).
///
/// # Errors
/// Those of the call.
pub fn truncate(fd: Fd, len: u64) -> Result<(), Errno> {
    // SAFETY: no memory is named; whose file it is, is the caller's business.
    unsafe { call(nr::FTRUNCATE, [fd.arg(), len as usize, 0, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// fchmod(2).
///
/// # Errors
/// Those of the call.
pub fn chmod(fd: Fd, mode: usize) -> Result<(), Errno> {
    // SAFETY: no memory is named.
    unsafe { call(nr::FCHMOD, [fd.arg(), mode, 0, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// rename(2).
///
/// # Errors
/// Those of the call.
pub fn rename(from: &CStr, to: &CStr) -> Result<(), Errno> {
    let args = [
        from.as_ptr().expose_provenance(),
        to.as_ptr().expose_provenance(),
        0,
        0,
        0,
        0,
    ];
    // SAFETY: live C strings.
    unsafe { call(nr::RENAME, args) }.result().map(drop)
}

/// unlink(2); what is not there need not be removed.
pub fn unlink(path: &CStr) {
    // SAFETY: a live C string.
    let _ = unsafe {
        call(
            nr::UNLINK,
            [path.as_ptr().expose_provenance(), 0, 0, 0, 0, 0],
        )
    };
}

/// fcntl(2) of a command that takes a number.
///
/// # Errors
/// Those of the call.
pub fn fcntl(fd: Fd, command: usize, arg: usize) -> Result<usize, Errno> {
    // SAFETY: the commands used with it take numbers.
    unsafe { call(nr::FCNTL, [fd.arg(), command, arg, 0, 0, 0]) }.result()
}

fn plain(nr: Nr) -> usize {
    // SAFETY: calls without arguments that return a number and cannot fail.
    unsafe { call(nr, [0; 6]) }.0.cast_unsigned()
}

/// getpid(2).
#[must_use]
pub fn getpid() -> u32 {
    plain(nr::GETPID) as u32
}

/// getppid(2).
#[must_use]
pub fn getppid() -> u32 {
    plain(nr::GETPPID) as u32
}

/// Whether two processes share their memory, as far as kcmp(2) tells: where the kernel lacks it, they do not.
#[must_use]
pub fn share_memory(one: u32, other: u32) -> bool {
    const KCMP_VM: usize = 1;
    // SAFETY: no memory is named.
    unsafe { call(nr::KCMP, [one as usize, other as usize, KCMP_VM, 0, 0, 0]) }.result() == Ok(0)
}

/// getuid(2).
#[must_use]
pub fn getuid() -> u32 {
    plain(nr::GETUID) as u32
}

/// gettid(2).
#[must_use]
pub fn gettid() -> u32 {
    plain(nr::GETTID) as u32
}

/// tgkill(2); signal 0 asks whether the thread is there.
///
/// # Errors
/// Those of the call.
pub fn tgkill(process: u32, thread: u32, signal: u32) -> Result<(), Errno> {
    let args = [process as usize, thread as usize, signal as usize, 0, 0, 0];
    // SAFETY: no memory is named.
    unsafe { call(nr::TGKILL, args) }.result().map(drop)
}

/// exit_group(2).
pub fn exit(status: u8) -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { call(nr::EXIT_GROUP, [usize::from(status), 0, 0, 0, 0, 0]) };
    }
}

/// prctl(2) of an option that takes numbers.
///
/// # Errors
/// Those of the call.
pub fn prctl(option: usize, args: [usize; 4]) -> Result<usize, Errno> {
    // SAFETY: the options used with it take numbers.
    unsafe { call(nr::PRCTL, [option, args[0], args[1], args[2], args[3], 0]) }.result()
}

/// Whether the kernel can be told where the heap is to be (`PR_SET_MM_MAP`): one with CONFIG_CHECKPOINT_RESTORE.
#[must_use]
pub fn can_be_told_of_heap() -> bool {
    let mut len = 0_u32;
    let args = [
        super::abi::PR_SET_MM,
        super::abi::PR_SET_MM_MAP_SIZE,
        address_mut(&mut len),
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes the 32 bits of a number.
    let told = unsafe { call(nr::PRCTL, args) }.result();
    told.is_ok() && len as usize == size_of::<super::abi::PrctlMmMap>()
}

/// prctl(2) with PR_SET_NAME: what `comm` shows, cut to 15 bytes by the kernel.
pub fn set_name(name: &CStr) {
    // SAFETY: a live C string; the kernel reads 16 bytes of it at most and stops at the NUL.
    let _ = unsafe {
        call(
            nr::PRCTL,
            [
                super::abi::PR_SET_NAME,
                name.as_ptr().expose_provenance(),
                0,
                0,
                0,
                0,
            ],
        )
    };
}

/// personality(2), asked and not set.
#[must_use]
pub fn personality() -> usize {
    // SAFETY: no memory is named.
    unsafe { call(nr::PERSONALITY, [0xffff_ffff, 0, 0, 0, 0, 0]) }
        .0
        .cast_unsigned()
}

/// Soft limit of a resource, prlimit64(2).
///
/// # Errors
/// Those of the call.
pub fn soft_limit(resource: usize) -> Result<u64, Errno> {
    limits(resource).map(|[soft, _]| soft)
}

/// Soft and hard limit of a resource, prlimit64(2).
///
/// # Errors
/// Those of the call.
pub fn limits(resource: usize) -> Result<[u64; 2], Errno> {
    let mut limits = [0_u64; 2];
    let args = [0, resource, 0, address_mut(&mut limits), 0, 0];
    // SAFETY: the buffer is a `struct rlimit64`.
    unsafe { call(nr::PRLIMIT64, args) }.result()?;
    Ok(limits)
}

/// Sets soft and hard limit of a resource, prlimit64(2).
///
/// # Errors
/// Those of the call.
pub fn set_limits(resource: usize, limits: [u64; 2]) -> Result<(), Errno> {
    let args = [
        0,
        resource,
        core::ptr::from_ref(&limits).expose_provenance(),
        0,
        0,
        0,
    ];
    // SAFETY: the buffer is a `struct rlimit64` that the kernel reads.
    unsafe { call(nr::PRLIMIT64, args) }.result()?;
    Ok(())
}

/// Random bytes, getrandom(2); without the call, none.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = 0_u64;
    // SAFETY: the buffer has the length given.
    let _ = unsafe { call(nr::GETRANDOM, [address_mut(&mut bytes), 8, 0, 0, 0, 0]) };
    bytes
}

fn clock(id: usize) -> TimeSpec {
    let mut time = TimeSpec::default();
    // SAFETY: the buffer is a `struct timespec`.
    let _ = unsafe { call(nr::CLOCK_GETTIME, [id, address_mut(&mut time), 0, 0, 0, 0]) };
    time
}

/// CLOCK_MONOTONIC in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let time = clock(CLOCK_MONOTONIC);
    time.secs as u64 * 1_000_000_000 + time.nanos as u64
}

/// CLOCK_BOOTTIME in nanoseconds: it goes on while the machine sleeps, as the processor's counter may.
#[must_use]
pub fn since_boot_ns() -> u64 {
    let time = clock(CLOCK_BOOTTIME);
    time.secs as u64 * 1_000_000_000 + time.nanos as u64
}

/// CLOCK_REALTIME_COARSE: the clock that stamps files.
#[must_use]
pub fn wall_clock() -> TimeSpec {
    clock(CLOCK_REALTIME_COARSE)
}

/// rt_sigaction(2), asked and not set.
///
/// # Errors
/// Those of the call.
pub fn signal_action(signal: u32) -> Result<SigAction, Errno> {
    let mut old = SigAction::default();
    let args = [signal as usize, 0, address_mut(&mut old), SIGSET_LEN, 0, 0];
    // SAFETY: the buffer is a kernel `struct sigaction`.
    unsafe { call(nr::RT_SIGACTION, args) }.result()?;
    Ok(old)
}

/// sigaltstack(2): the words of this thread's `stack_t`.
#[must_use]
pub fn signal_stack() -> [usize; 3] {
    let mut words = [0; 3];
    // SAFETY: the buffer is as long as a `stack_t`. Asked like this the call cannot fail.
    let _ = unsafe { call(nr::SIGALTSTACK, [0, address_mut(&mut words), 0, 0, 0, 0]) };
    words
}

/// sigaltstack(2): changes this thread's, by the words of a `stack_t`.
///
/// # Errors
/// Those of the call.
pub fn set_signal_stack(words: [usize; 3]) -> Result<(), Errno> {
    // SAFETY: the words are a `stack_t`. Whose memory it names is the caller's business, as nothing is touched before a signal.
    unsafe { call(nr::SIGALTSTACK, [address(&words), 0, 0, 0, 0, 0]) }
        .result()
        .map(drop)
}

/// rt_sigprocmask(2): the mask before.
pub fn signal_mask(how: usize, set: SignalSet) -> SignalSet {
    let mut old = SignalSet::default();
    let args = [how, address(&set), address_mut(&mut old), SIGSET_LEN, 0, 0];
    // SAFETY: both are signal sets of the length given. A mask changes who runs when, not memory.
    let _ = unsafe { call(nr::RT_SIGPROCMASK, args) };
    old
}
