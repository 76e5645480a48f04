//! Calls that close descriptors, make them others, or let memory and descriptors part. They are looked at where they come from patched sites:
//! the filter does not trap them, as once it is installed nothing is known that they could change.

use crate::engine::call::Call;
use crate::engine::descriptors::{closing, distrust, split};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{CLONE_CLEAR_SIGHAND, CLONE_FILES, CLONE_THREAD, CLONE_VFORK, CLONE_VM};
use crate::sys::raw::Raw;

/// An argument that is an `unsigned int`.
fn number(call: &Call<'_>, argument: usize) -> u32 {
    call.args[argument] as u32
}

/// close(2) of the sysroot's descriptor: of others the entry forgets what is known by itself.
pub fn close(call: &mut Call<'_>) -> Raw {
    closing(call.process, number(call, 0), number(call, 0));
    call.as_given()
}

/// dup2(2) and dup3(2).
pub fn dup(call: &mut Call<'_>) -> Raw {
    let target = number(call, 1);
    closing(call.process, target, target);
    let result = call.as_given();
    // Another thread may have got the number for a file in between, which it is no more.
    closing(call.process, target, target);
    result
}

/// close_range(2).
pub fn close_range(call: &mut Call<'_>) -> Raw {
    const UNSHARE: usize = 1 << 1;
    const CLOEXEC: usize = 1 << 2;
    let flags = call.flags(2);
    if flags & UNSHARE != 0 {
        split(call.process, false);
    }
    if flags & CLOEXEC == 0 {
        closing(call.process, number(call, 0), number(call, 1));
    }
    call.as_given()
}

/// Before a process or a thread is made with these flags.
fn making(call: &Call<'_>, flags: usize) {
    let has = |flag: usize| flags & flag != 0;
    match (has(CLONE_VM), has(CLONE_FILES), has(CLONE_THREAD)) {
        (true, false, _) => split(call.process, has(CLONE_VFORK)),
        // Who closes something in it would be taken for a child with descriptors of its own; or is not seen at all, having memory of its own.
        (true, true, false) | (false, true, _) => distrust(call.process),
        _ => {}
    }
}

/// clone(2).
pub fn clone(call: &mut Call<'_>) -> Raw {
    making(call, call.args[0]);
    call.in_place()
}

/// clone3(2), whose structure begins with the flags.
pub fn clone3(call: &mut Call<'_>) -> Raw {
    // What cannot be read the kernel will not read either.
    if let Ok(flags) = call.memory.read_word(Address(call.args[0])) {
        // The child would lose the runtime's handlers with the guest's. C libraries do without where a kernel is too old for it.
        if flags & CLONE_CLEAR_SIGHAND != 0 {
            return Errno::EINVAL.into();
        }
        making(call, flags);
    }
    call.in_place()
}

/// vfork(2).
pub fn vfork(call: &mut Call<'_>) -> Raw {
    making(call, CLONE_VM | CLONE_VFORK);
    call.in_place()
}
