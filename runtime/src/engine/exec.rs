//! execve: everything that can fail is tried while the old program is still there to be told; then the runtime executes itself, and the
//! new image goes on in [`super::start`].
//!
//! # Safety
//! The argument vector handed to the kernel is made of addresses of ours, held in a work area or a mapping until the call returns or
//! the image is gone, and of addresses of the guest's, which the kernel checks as it would have without us.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::sync::atomic::AtomicU32;

use super::arena::Arena;
use super::call::Call;
use super::pool::Work;
use super::program::{MAX_WORDS, Ready, Rooms, Strings, open_ready};
use super::{cpuid, descriptors, populate, signals, tell};
use crate::errno::Errno;
use crate::guest::Address;
use crate::options::Executed;
use crate::sys::abi::{
    AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, F_SETFD, FD_CLOEXEC, PROT_READ, PROT_WRITE, SIG_BLOCK,
    SIG_SETMASK, SIGTRAP, SignalSet,
};
use crate::sys::host::{Fd, close, fcntl, signal_mask};
use crate::sys::memory::{Place, map, unmap};
use crate::sys::nr;
use crate::sys::raw::{Raw, call as call_};

/// A vector of strings as execve(2) takes it: its address. The strings have a NUL behind them.
///
/// # Errors
/// ENOMEM.
pub fn vector_of(
    arena: &mut Arena,
    strings: impl Iterator<Item = &'static [u8]> + Clone,
) -> Result<usize, Errno> {
    let words = arena.bytes((strings.clone().count() + 1) * size_of::<usize>())?;
    let start = words.as_ptr().expose_provenance();
    for (word, text) in words.chunks_exact_mut(size_of::<usize>()).zip(strings) {
        let text = arena.string(text)?;
        word.copy_from_slice(&text.as_ptr().expose_provenance().to_ne_bytes());
    }
    Ok(start)
}

/// Executes a program of the host's in the place of this one; why that failed.
pub fn host_program(path: &CStr, arguments: usize, environment: usize) -> Errno {
    // SAFETY: a live path, and two vectors of the initial stack.
    let failed = unsafe {
        call_(
            nr::EXECVE,
            [
                path.as_ptr().expose_provenance(),
                arguments,
                environment,
                0,
                0,
                0,
            ],
        )
    };
    failed.result().err().unwrap_or(Errno::EIO)
}

/// Where the arguments and the environment of a program to be executed are.
#[derive(Debug, Clone, Copy)]
pub struct Vectors {
    /// Address of the guest's `argv`.
    pub arguments: Address,
    /// Address of the guest's `envp`.
    pub environment: Address,
}

/// execve(2).
pub fn execve(call: &mut Call<'_>) -> Raw {
    let vectors = Vectors {
        arguments: call.address(1),
        environment: call.address(2),
    };
    execute(call, Fd::CWD, call.address(0), 0, vectors).into()
}

/// execveat(2).
pub fn execveat(call: &mut Call<'_>) -> Raw {
    let vectors = Vectors {
        arguments: call.address(2),
        environment: call.address(3),
    };
    let flags = call.flags(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Errno::EINVAL.into();
    }
    execute(call, call.fd(0), call.address(1), flags, vectors).into()
}

/// Executes the program at a path; returns only if that failed.
///
/// # Errors
/// What execve(2) returns.
pub fn execute(
    call: &Call<'_>,
    dir: Fd,
    path: Address,
    flags: usize,
    vectors: Vectors,
) -> Result<usize, Errno> {
    let mut taken = call.area()?;
    let owner = core::ptr::from_ref(taken.owner());
    let Work {
        first,
        second,
        told,
        start,
        area,
        scratch,
        state,
        vector,
        ..
    } = taken.work();
    let rooms = Rooms {
        first,
        second,
        told,
        start,
        area,
        headers: &mut *state,
    };
    let ready = open_ready(call, dir, path, flags, Strings::new(scratch), rooms)?;
    let result = replace(call, &ready, vectors, state, vector, owner);
    ready.files().for_each(close);
    result
}

/// Room for what is passed on, in an area or in a mapping of its own.
struct Room {
    at: usize,
    len: usize,
}

impl Room {
    fn new(len: usize) -> Result<Self, Errno> {
        // SAFETY: only a free range is taken.
        let at = unsafe { map(Place::OwnForACall, len, PROT_READ | PROT_WRITE, None) }?;
        Ok(Self { at, len })
    }

    fn words(&mut self) -> &mut [usize] {
        // SAFETY: a mapping of this value's own, page-aligned, of any bytes.
        unsafe {
            let start = core::ptr::with_exposed_provenance_mut(self.at);
            core::slice::from_raw_parts_mut(start, self.len / size_of::<usize>())
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference outlives the value.
        unsafe { unmap(self.at, self.len) };
    }
}

/// How many words a vector of the guest's has before its null.
fn count(call: &Call<'_>, vector: Address) -> Result<usize, Errno> {
    // What the kernel allows at most: MAX_ARG_STRINGS.
    const MOST: usize = 0x7fff_ffff;
    if vector.is_null() {
        return Ok(0);
    }
    for number in 0..MOST {
        if call
            .memory
            .read_word(vector.plus(number * size_of::<usize>()))?
            == 0
        {
            return Ok(number);
        }
    }
    Err(Errno::E2BIG)
}

/// Replaces this image by the runtime, which goes on with the program.
fn replace(
    call: &Call<'_>,
    ready: &Ready<'_>,
    vectors: Vectors,
    state: &mut [u8],
    vector: &mut [usize],
    owner: *const AtomicU32,
) -> Result<usize, Errno> {
    let given = count(call, vectors.arguments)?;
    let program = Executed {
        program_fd: ready.file.0,
        interpreter_fd: ready.interpreter.map(|fd| fd.0),
        exe: ready.strings.get(ready.exe),
        execfn: ready.strings.get(ready.execfn),
        sysroot_fd: call.process.sysroot().ok().map(|fd| fd.0),
        filter_armed: call.process.is_armed(),
        // A filter of the guest's own outlasts this image.
        populate: populate::is_on(call.process),
        signal_mask: call.way.mask().0,
        boot_id: cpuid::known_boot_id(),
    };
    let room = state.len() - 1;
    let len = (call.process.run)
        .encode_for(&program, &mut state[..room])
        .map_err(|_| Errno::E2BIG)?;
    state[len] = 0;
    let (state, behind) = state.split_at_mut(len + 1);
    let needed = given + MAX_WORDS + 4;
    // SAFETY: any bytes are words.
    let (_, behind, _) = unsafe { behind.align_to_mut::<usize>() };
    // A child of vfork(2) leaves such a mapping behind in its parent.
    let mut mapped: Room;
    let pointers: &mut [usize] = if needed <= behind.len() {
        // On pages that are touched anyway, mostly.
        behind
    } else if needed <= vector.len() {
        vector
    } else {
        mapped = Room::new(needed * size_of::<usize>())?;
        mapped.words()
    };
    pointers[0] = c"elfuse".as_ptr().expose_provenance();
    pointers[1] = state.as_ptr().expose_provenance();
    let mut used = 2;
    for word in ready.words.iter() {
        pointers[used] = ready.strings.address(*word);
        used += 1;
    }
    let first = usize::from(!ready.words.is_empty());
    for number in first..given {
        let word = vectors.arguments.plus(number * size_of::<usize>());
        pointers[used] = call.memory.read_word(word)?;
        used += 1;
    }
    if used == 2 {
        // As the kernel does it: there is always a first argument.
        pointers[used] = c"".as_ptr().expose_provenance();
        used += 1;
    }
    pointers[used] = 0;
    go(call, ready, pointers, vectors.environment, owner)
}

/// The last step. In a child of vfork(2) the area that this call works in is the parent's, who gets it back when the image is gone.
fn go(
    call: &Call<'_>,
    ready: &Ready<'_>,
    arguments: &[usize],
    environment: Address,
    owner: *const AtomicU32,
) -> Result<usize, Errno> {
    let shared = call.process.pool.is_guest_in_memory();
    for file in ready.files() {
        fcntl(file, F_SETFD, 0)?;
    }
    signals::uninstall_for_exec(shared);
    // A tracer is told of an exec by SIGTRAP. It is to come when the program is in place, not the runtime: the new image opens it again.
    let mask = signal_mask(SIG_BLOCK, SignalSet::of(SIGTRAP));
    if shared && call.process.pool.is_traced_from_exec() {
        const PTRACE_TRACEME: usize = 0;
        let _ = call.host(nr::PTRACE, [PTRACE_TRACEME, 0, 0, 0, 0, 0]);
    }
    if shared {
        super::pool::leave_with_image(owner);
    }
    if !shared {
        tell::freeze();
    }
    let left = descriptors::leave();
    let path = c"/proc/thread-self/exe".as_ptr().expose_provenance();
    // SAFETY: see the top.
    let failed = unsafe {
        call_(
            nr::EXECVE,
            [
                path,
                arguments.as_ptr().expose_provenance(),
                environment.0,
                0,
                0,
                0,
            ],
        )
    };
    if left {
        descriptors::come_back();
    }
    if shared {
        super::pool::stay_with_image();
    }
    signal_mask(SIG_SETMASK, mask);
    signals::reinstall(shared);
    for file in ready.files() {
        let _ = fcntl(file, F_SETFD, FD_CLOEXEC);
    }
    failed.result()
}
