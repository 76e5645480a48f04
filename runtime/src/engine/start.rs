//! From the runtime's entry to a process whose state is settled: for a command line in [`super::command`], for a program that a guest
//! executed here.
//!
//! # Safety
//! [`begin`] runs once, on the initial stack the kernel made, while there is one thread.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicI32};

use super::arena::Arena;
use super::command;
use super::launch::{Program, launch};
use super::pool::Pool;
use super::process::{self, Process, Trust};
use super::say::say;
use super::stacks::Stacks;
use super::tell::{self, Step};
use super::text::Code;
use super::vector::Vector;
use super::{cpuid, descriptors, store};
use crate::errno::Errno;
use crate::options::Inherited;
use crate::sys::abi::{RLIMIT_NOFILE, SignalSet, at};
use crate::sys::clock;
use crate::sys::host::{Fd, can_be_told_of_heap, exit, getpid, soft_limit};
use crate::sys::memory::keep_beside_image;
use crate::trace::TraceBits;
use crate::vfs::{Mount, Mounts, Vfs};

/// Exit status of the runtime's own failure.
pub const FAILED: u8 = 125;
/// Exit status: the program was found and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status: the program was not found.
pub const NOT_FOUND: u8 = 127;

/// Ends the process because the runtime failed.
#[cold]
pub fn fail(what: core::fmt::Arguments<'_>) -> ! {
    say(what);
    exit(FAILED)
}

/// Ends the process because there is no memory for its state.
#[cold]
pub fn no_memory(errno: Errno) -> ! {
    fail(format_args!("no memory: {}", errno.text()))
}

/// The runtime's first function.
///
/// # Safety
/// Called by the entry point alone, with the stack pointer that the kernel set.
pub unsafe fn begin(stack: *mut usize) -> ! {
    // SAFETY: as the caller says.
    let vector = unsafe { Vector::at(stack) };
    // Writes to the page that each call reads of: the other way round it would be faulted in twice.
    clock::begin(vector.auxiliary(at::HWCAP2));
    let first = vector.arguments().nth(1);
    match first {
        Some(first) if Inherited::is_claimed_by(first) => match Inherited::decode(first) {
            Ok(run) => resume(vector, run),
            Err(error) => fail(format_args!("started with a malformed argument: {error}")),
        },
        _ => command::command(vector),
    }
}

/// Goes on with a program that a guest executed.
fn resume(vector: Vector, run: Inherited<'static>) -> ! {
    if run.trace.has(TraceBits::STEPS) {
        tell::begin();
    }
    let (mut arena, pool) = own_memory(getpid());
    tell::open(&run);
    let Some(mounts) = mounts_over(&mut arena, run.sysroot) else {
        fail(format_args!("the sysroot's path is not canonical"));
    };
    for mount in run.mounts.iter() {
        let row = Mount {
            guest: mount.guest,
            host: mount.host,
            procfs: false,
        };
        if mounts.add(row).is_err() {
            fail(format_args!("a mount's path is not canonical"));
        }
    }
    if let Some(id) = run.boot_id {
        cpuid::inherit_boot_id(id);
    }
    let process = set_up(&mut arena, run, mounts, pool);
    let process = settle(&mut arena, process, run, mounts, false);
    tell::done(Step::Settled, run.trace);
    let program = Program {
        file: Fd(run.program_fd),
        head: None,
        interpreter: run.interpreter_fd.map(Fd),
        skip: 2,
        // What the runtime blocked before the exec is in it no more.
        mask: SignalSet(run.signal_mask),
        mask_now: None,
    };
    launch(&mut arena, process, vector, &program)
}

/// A table without mounts, to be added to; `None`: the sysroot's path is not canonical.
pub fn mounts_over(
    arena: &mut Arena,
    sysroot: &'static [u8],
) -> Option<&'static mut Mounts<'static>> {
    static NONE: Mounts<'static> = Mounts::OVER_ROOT;
    let mounts = arena.copy_mut(&NONE);
    let mounts = mounts.unwrap_or_else(|errno| no_memory(errno));
    mounts.put_over(sysroot).ok()?;
    Some(mounts)
}

/// What a process works in. `pid`: its number.
pub fn own_memory(pid: u32) -> (Arena, &'static Pool) {
    if can_be_told_of_heap() {
        keep_beside_image();
    }
    let made = || {
        let mut arena = Arena::new()?;
        let pool = arena.place(Pool::new(pid)?)?;
        Ok((arena, pool))
    };
    made().unwrap_or_else(|errno| no_memory(errno))
}

/// Makes the process's state, without an index so far.
pub fn set_up(
    arena: &mut Arena,
    run: Inherited<'static>,
    mounts: &'static Mounts<'static>,
    pool: &'static Pool,
) -> &'static Process {
    let mut made = || {
        let state = Process {
            run,
            armed: AtomicBool::new(run.filter_armed),
            sysroot_path: arena.string(run.sysroot)?,
            sysroot_fd: AtomicI32::new(run.sysroot_fd.unwrap_or(-1)),
            trust: Trust::new(None),
            pool,
            stacks: &STACKS,
            vfs: Vfs::new(mounts),
            code: None,
            coherence: None,
        };
        arena.place(state)
    };
    process::set(made().unwrap_or_else(|errno| no_memory(errno)))
}

static STACKS: Stacks = Stacks::new();

/// The same state for another run, with its mounts and the index of its sysroot. `is_new`: the sysroot's descriptor was opened by this
/// process, and by no guest's leave.
pub fn settle(
    arena: &mut Arena,
    process: &Process,
    run: Inherited<'static>,
    mounts: &'static Mounts<'static>,
    is_new: bool,
) -> &'static Process {
    let mut made = || {
        let store = store::directory(arena, &run)?;
        let limit = soft_limit(RLIMIT_NOFILE);
        let (vfs, coherence) = store::vfs(arena, &run, mounts, store, limit.unwrap_or(0))?;
        // A trace of all calls needs every one to be trapped.
        let texts = vfs
            .texts()
            .filter(|_| run.patched && !run.trace.has(TraceBits::SYSCALLS));
        let is_above = limit.is_ok_and(|limit| process.is_above_limit(limit));
        let state = Process {
            vfs,
            code: texts.map(|texts| Code { texts, store }),
            coherence,
            // A page that processes have in common is one more mapping to make, and to copy at each fork.
            trust: Trust::new(is_above.then(store::common_word).flatten()),
            ..process.with_run(run)
        };
        arena.place(state)
    };
    let process = process::set(made().unwrap_or_else(|errno| no_memory(errno)));
    if !process.is_armed() {
        let own = process.cached_fd();
        descriptors::begin(if is_new {
            Some(own)
        } else {
            process.sysroot().ok()
        });
    }
    process
}
