//! The table: which system calls are served, what is done for each, and which test covers it.

use super::call::Call;
use super::calls::{
    attributes, credentials, descriptors, directories, files, limits, memory, names, refused,
    signals, sockets, tracing,
};
use super::exec;
use super::filter::Program;
use super::patched::{self, Frame};
use super::pool::Taker;
use super::process::process;
use super::stacks::SignalStack;
use super::stated;
use super::way::Way;
use super::{faults, store, tell};
use crate::guest::Memory;
use crate::sys::abi::{SigInfo, UContext};
use crate::sys::raw::{Nr, Raw};
use crate::sys::{memory as own, nr};
use crate::trace::TraceBits;

/// What is done for a call.
pub type Serve = fn(&mut Call<'_>) -> Raw;

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The call.
    pub nr: Nr,
    /// What is done.
    pub serve: Serve,
    /// Where in `tests/cases` it is made, by the real kernel and by guests. A test makes sure of that.
    pub test: &'static str,
}

macro_rules! table {
    ($($test:literal { $($nr:ident $serve:path,)* })*) => {
        /// Every call of Linux on x86-64 that names or reveals a path, changes who may search a directory, or meets the runtime's signals:
        /// their masks, handlers and stacks, and tracers, or the limit above which its descriptors are; sorted by test. All others go straight to the kernel.
        pub const TABLE: &[Row] = &[$($(Row { nr: nr::$nr, serve: $serve, test: $test },)*)*];
    };
}

table! {
    "scripts/open" {
        OPEN files::open,
        CREAT files::creat,
        OPENAT files::openat,
    }
    "scripts/openat2" {
        OPENAT2 files::openat2,
    }
    "scripts/stat" {
        STAT files::stat,
        LSTAT files::lstat,
        NEWFSTATAT files::newfstatat,
        STATX files::statx,
        STATFS attributes::followed,
        ACCESS files::access,
        FACCESSAT files::faccessat,
        FACCESSAT2 files::faccessat2,
        READLINK directories::readlink,
        READLINKAT directories::readlinkat_,
    }
    "scripts/directories" {
        CHDIR directories::chdir,
        GETCWD directories::getcwd_,
        GETDENTS directories::getdents,
        GETDENTS64 directories::getdents64,
        INOTIFY_ADD_WATCH files::inotify_add_watch,
    }
    "scripts/make" {
        MKDIR names::mkdir,
        MKDIRAT names::mkdirat,
        RMDIR names::rmdir,
        UNLINK names::unlink,
        UNLINKAT names::unlinkat,
        RENAME names::rename,
        RENAMEAT names::renameat,
        RENAMEAT2 names::renameat2,
        LINK names::link,
        LINKAT names::linkat,
        SYMLINK names::symlink,
        SYMLINKAT names::symlinkat,
        MKNOD names::mknod,
        MKNODAT names::mknodat,
    }
    "scripts/attributes" {
        NAME_TO_HANDLE_AT files::name_to_handle_at,
        CHMOD attributes::chmod,
        FCHMOD attributes::of_descriptor,
        FCHMODAT attributes::fchmodat,
        FCHMODAT2 attributes::flags_fourth,
        CHOWN attributes::chown,
        FCHOWN attributes::of_descriptor,
        LCHOWN attributes::lchown,
        FCHOWNAT attributes::flags_fifth,
        TRUNCATE attributes::followed,
        UTIME attributes::followed,
        UTIMES attributes::followed,
        FUTIMESAT attributes::futimesat,
        UTIMENSAT attributes::flags_fourth,
        SETXATTR attributes::followed,
        GETXATTR attributes::followed,
        LISTXATTR attributes::followed,
        REMOVEXATTR attributes::followed,
        LSETXATTR attributes::not_followed,
        LGETXATTR attributes::not_followed,
        LLISTXATTR attributes::not_followed,
        LREMOVEXATTR attributes::not_followed,
        FSETXATTR attributes::of_descriptor,
        FREMOVEXATTR attributes::of_descriptor,
        SETXATTRAT attributes::flags_third,
        GETXATTRAT attributes::flags_third,
        LISTXATTRAT attributes::flags_third,
        REMOVEXATTRAT attributes::flags_third,
        FILE_GETATTR attributes::flags_fifth,
        FILE_SETATTR attributes::flags_fifth,
        SETUID credentials::change,
        SETGID credentials::change,
        SETREUID credentials::change,
        SETREGID credentials::change,
        SETRESUID credentials::change,
        SETRESGID credentials::change,
        SETFSUID credentials::change,
        SETFSGID credentials::change,
        SETGROUPS credentials::change,
        CAPSET credentials::change,
        UNSHARE stated::namespaces,
        SETNS stated::namespaces,
    }
    "scripts/sockets" {
        BIND sockets::bind,
        CONNECT sockets::connect,
        SENDTO sockets::sendto,
        SENDMSG sockets::sendmsg,
        SENDMMSG sockets::sendmmsg,
        GETSOCKNAME sockets::told_second,
        GETPEERNAME sockets::told_second,
        ACCEPT sockets::told_second,
        ACCEPT4 sockets::told_second,
        RECVFROM sockets::recvfrom,
        RECVMSG sockets::recvmsg,
        RECVMMSG sockets::recvmmsg,
    }
    "scripts/exec" {
        EXECVE exec::execve,
        EXECVEAT exec::execveat,
    }
    "scripts/descriptors" {
        PSELECT6 signals::pselect6,
        IO_PGETEVENTS signals::pselect6,
        PRLIMIT64 limits::prlimit64,
    }
    "traps/descriptors.c" {
        SETRLIMIT limits::setrlimit,
    }
    "process/signals.c" {
        RT_SIGACTION signals::rt_sigaction,
        RT_SIGPROCMASK signals::rt_sigprocmask,
        RT_SIGRETURN signals::rt_sigreturn,
        PPOLL signals::ppoll,
        EPOLL_PWAIT signals::epoll_pwait,
        EPOLL_PWAIT2 signals::epoll_pwait,
    }
    "process/spawn.c" {
        PTRACE tracing::ptrace,
    }
    "traps/signals.c" {
        RT_SIGSUSPEND signals::rt_sigsuspend,
    }
    "traps/stacks.c" {
        SIGALTSTACK signals::sigaltstack,
    }
    "scripts/refused" {
        FANOTIFY_MARK attributes::fanotify_mark,
        CHROOT refused::on_a_directory,
        PIVOT_ROOT refused::not_permitted,
        MOUNT refused::mount,
        UMOUNT2 refused::on_a_path,
        OPEN_TREE refused::open_tree,
        OPEN_TREE_ATTR refused::open_tree_attr,
        MOVE_MOUNT refused::not_permitted,
        FSOPEN refused::not_permitted,
        FSPICK refused::not_permitted,
        MOUNT_SETATTR refused::not_permitted,
        STATMOUNT refused::no_mounts,
        LISTMOUNT refused::no_mounts,
        SWAPON refused::not_permitted,
        SWAPOFF refused::not_permitted,
        ACCT refused::not_permitted,
        QUOTACTL refused::quotactl,
        USELIB refused::not_there,
        IO_URING_SETUP refused::not_there,
    }
    "../tests/engine_traps/options.rs" {
        EXIT_GROUP end,
    }
}

/// exit_group(2): trapped only where something is to be printed at the end.
fn end(call: &mut Call<'_>) -> Raw {
    tell::end();
    call.as_given()
}

/// Calls that cannot be made from a handler: their children or their caller would go on in it.
const NEVER: &[Nr] = &[
    nr::RESTART_SYSCALL,
    nr::CLONE,
    nr::FORK,
    nr::VFORK,
    nr::EXIT,
];

/// Calls that are trapped beside those of the table, which the indexer goes by: from patched sites they are [`guarded`].
const TRAPPED_TOO: &[Nr] = &[nr::CLONE3];

/// The filter of a run. `counts`: something is printed at the end. `traces`: all calls are timed.
#[must_use]
pub fn filter(counts: bool, traces: bool) -> &'static Program {
    static USUAL: Program = program(false, false);
    static COUNTS: Program = program(true, false);
    static TRACES: Program = program(true, true);
    match (counts, traces) {
        (_, true) => &TRACES,
        (true, false) => &COUNTS,
        (false, false) => &USUAL,
    }
}

const fn program(to_the_end: bool, all: bool) -> Program {
    let mut trapped = [all; NUMBERS];
    let mut place = 0;
    while all && place < NEVER.len() {
        trapped[NEVER[place].0 as usize] = false;
        place += 1;
    }
    let mut place = 0;
    while place < TRAPPED_TOO.len() {
        trapped[TRAPPED_TOO[place].0 as usize] = true;
        place += 1;
    }
    let mut line = 0;
    while line < TABLE.len() {
        let nr = TABLE[line].nr.0;
        trapped[nr as usize] = nr != nr::EXIT_GROUP.0 || to_the_end;
        line += 1;
    }
    match Program::new(own::OWN_HIGH, &trapped) {
        Ok(program) => program,
        Err(_) => panic!("the filter does not fit"),
    }
}

/// How many numbers there are tables for.
pub const NUMBERS: usize = super::filter::NUMBERS as usize;

/// The table by number.
static BY_NUMBER: [Option<Serve>; NUMBERS] = {
    let mut by_number = [None; NUMBERS];
    let mut line = 0;
    while line < TABLE.len() {
        let nr = TABLE[line].nr.0 as usize;
        assert!(by_number[nr].is_none(), "a call has one line");
        by_number[nr] = Some(TABLE[line].serve);
        line += 1;
    }
    by_number
};

/// What is done for a number; `None`: it is not trapped.
#[must_use]
pub fn serve(nr: Nr) -> Option<Serve> {
    BY_NUMBER.get(nr.0 as usize).copied().flatten()
}

/// Calls that are served by which the guest may learn of a change from outside: they end leases when they return. Those that are not served
/// are in the format's list, [`elfuse_format::text::ENDING`].
const ENDS_LEASES: &[Nr] = &[
    nr::PSELECT6,
    nr::PPOLL,
    nr::EPOLL_PWAIT,
    nr::EPOLL_PWAIT2,
    nr::IO_PGETEVENTS,
    nr::RT_SIGSUSPEND,
    nr::CONNECT,
    nr::ACCEPT,
    nr::ACCEPT4,
    nr::SENDTO,
    nr::SENDMSG,
    nr::SENDMMSG,
    nr::RECVFROM,
    nr::RECVMSG,
    nr::RECVMMSG,
];

static ENDS_LEASES_BY_NUMBER: [bool; NUMBERS] = {
    let mut by_number = [false; NUMBERS];
    let mut place = 0;
    while place < ENDS_LEASES.len() {
        let nr = ENDS_LEASES[place].0 as usize;
        assert!(BY_NUMBER[nr].is_some(), "it is served");
        by_number[nr] = true;
        place += 1;
    }
    by_number
};

/// What is done for calls that may make memory executable, or keep the filter from being armed, or change what is known of descriptors,
/// where they come from a patched site.
fn guarded(nr: Nr) -> Option<Serve> {
    Some(match nr {
        nr::MMAP => memory::mmap,
        nr::BRK => memory::brk,
        nr::MPROTECT | nr::PKEY_MPROTECT => memory::mprotect,
        nr::SHMAT => memory::shmat,
        nr::PERSONALITY => memory::personality,
        nr::PRCTL => memory::prctl,
        nr::SECCOMP => memory::seccomp,
        nr::CLOSE => descriptors::close,
        nr::DUP2 | nr::DUP3 => descriptors::dup,
        nr::CLOSE_RANGE => descriptors::close_range,
        nr::CLONE => descriptors::clone,
        nr::CLONE3 => descriptors::clone3,
        nr::VFORK => descriptors::vfork,
        _ => return None,
    })
}

/// Serves a trapped call and leaves its result in the context. False: the call is none of ours; another filter trapped it.
pub fn trapped(info: &SigInfo, context: &mut UContext) -> bool {
    let nr = Nr(info.syscall.cast_unsigned());
    let process = process();
    let serve = match serve(nr) {
        Some(serve) => serve,
        None if TRAPPED_TOO.contains(&nr) => match guarded(nr) {
            Some(serve) => serve,
            None => return false,
        },
        None if process.run.trace.has(TraceBits::SYSCALLS) => |call: &mut Call<'_>| call.as_given(),
        None => return false,
    };
    let registers = &context.context;
    let args = [
        registers.rdi,
        registers.rsi,
        registers.rdx,
        registers.r10,
        registers.r8,
        registers.r9,
    ];
    let memory = Memory::under(context.mask);
    let taker = Taker::on(SignalStack::from_words(context.stack));
    let mut call = Call {
        nr,
        args,
        way: Way::Trap(context),
        memory,
        process,
        taker,
    };
    let result = answer(serve, &mut call);
    if let Way::Trap(context) = call.way {
        context.context.rax = result.0.cast_unsigned();
    }
    true
}

/// Serves a call from a patched site.
///
/// It is part of the entry, as [`answer`] and what serves paths is of its caller: each boundary costs some instructions, which are slow after a call of
/// the host's.
#[inline(always)]
#[must_use]
pub fn patched(nr: Nr, frame: &Frame) -> Raw {
    // A process ends without a word of the guest's being touched: a child of fork(2) would ask for nothing else, and copy pages for it.
    let memory = match nr {
        nr::EXIT_GROUP => Memory::ByKernel,
        _ => faults::memory(frame.stack_pointer()),
    };
    let mut call = Call {
        nr,
        args: frame.args(),
        way: Way::Patched(frame),
        memory,
        process: process(),
        taker: Taker::on_any_stack(),
    };
    let serve = serve(nr).or_else(|| guarded(nr));
    answer(serve.unwrap_or(|call| call.as_given()), &mut call)
}

#[inline(always)]
fn answer(serve: Serve, call: &mut Call<'_>) -> Raw {
    let nr = call.nr;
    // Neither the generation is looked at nor the clock.
    let looks_at_nothing = matches!(nr, nr::RT_SIGACTION | nr::RT_SIGPROCMASK | nr::EXIT_GROUP);
    if call.memory == Memory::ByKernel && !looks_at_nothing {
        store::probe();
    }
    let result = tell::timed(nr, || serve(call));
    if ENDS_LEASES_BY_NUMBER
        .get(nr.0 as usize)
        .is_some_and(|ends| *ends)
    {
        patched::end_leases();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::{TABLE, filter};
    use crate::sys::nr;

    #[test]
    fn the_filter_of_the_table_is_short() {
        let len = filter(false, false).code().len();
        assert!(len < 120, "{len}");
        assert_eq!(TABLE.iter().filter(|row| row.nr == nr::OPENAT).count(), 1);
    }
}
