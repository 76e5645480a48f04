//! Calls that may make memory executable, and those by which a guest restricts its own calls. They are looked at where they come from patched
//! sites: the filter does not trap them, as once it is installed nothing has to be done before them.

use crate::engine::arm::{arm, is_armed};
use crate::engine::block::Block;
use crate::engine::call::Call;
use crate::engine::pool::Work;
use crate::engine::populate;
use crate::engine::text::{Asked, Copy, Plan, Planned};
use crate::errno::Errno;
use crate::sys::abi::{
    F_GETFL, MAP_ANONYMOUS, MAP_SHARED, O_ACCMODE, O_PATH, O_WRONLY, PROT_EXEC, READ_IMPLIES_EXEC,
    SECCOMP_SET_MODE_FILTER, SECCOMP_SET_MODE_STRICT,
};
use crate::sys::host::fcntl;
use crate::sys::nr;
use crate::sys::raw::Raw;

/// Makes the call as it stands, in a process whose calls are all trapped from now on.
fn armed(call: &Call<'_>) -> Raw {
    match arm(call.process) {
        Ok(()) => call.as_given(),
        // Code that runs unwatched would see the host.
        Err(_) => Errno::ENOMEM.into(),
    }
}

/// mmap(2).
pub fn mmap(call: &mut Call<'_>) -> Raw {
    let (protection, flags) = (call.flags(2), call.flags(3));
    let asked = Asked {
        protection,
        flags,
        offset: call.args[5] as u64,
        len: call.args[1] as u64,
    };
    if protection & PROT_EXEC == 0 {
        let mapped = call.as_given();
        if let Ok(at) = mapped.result() {
            populate::mapped(call.process, &asked, call.fd(4), at);
        }
        return mapped;
    }
    let Some(code) = &call.process.code else {
        return armed(call);
    };
    if flags & MAP_ANONYMOUS != 0 {
        return armed(call);
    }
    let Planned { plan, file } = code.plan(&asked, call.fd(4));
    populate::expect(call.fd(4), file);
    match plan {
        Plan::AsGiven if flags & MAP_SHARED != 0 => {
            let mapped = call.as_given();
            // Another thread may have mapped something in its place before, and unmapped it.
            populate::closed::forget();
            mapped
        }
        Plan::AsGiven => call.as_given(),
        Plan::Arm => armed(call),
        Plan::Copy(copy) => mmap_copy(call, copy).unwrap_or_else(|_| armed(call)),
    }
}

/// Maps the copy of the file that was asked for in its place.
///
/// # Errors
/// The copy cannot be used: nothing is mapped.
fn mmap_copy(call: &Call<'_>, copy: Copy<'static>) -> Result<Raw, Errno> {
    let code = call.process.code.as_ref().ok_or(Errno::ENOENT)?;
    let original = call.fd(4);
    // The copy is opened for reading: where the guest's descriptor is not, the kernel is to say so.
    let opened = fcntl(original, F_GETFL, 0)?;
    if opened & O_PATH != 0 || opened & O_ACCMODE == O_WRONLY {
        return Err(Errno::EACCES);
    }
    if !copy.is_complete {
        arm(call.process)?;
    }
    let block = {
        let mut taken = call.area()?;
        let Work { first, .. } = taken.work();
        Block::reserve(code, copy, first)?
    };
    let mut args = call.args;
    args[4] = block.file.0 as usize;
    let mapped = call.host(nr::MMAP, args);
    let at = match mapped.result() {
        Ok(at) => at,
        Err(_) => {
            block.give_up();
            return Ok(mapped);
        }
    };
    // If the copy is not what it should be, the original lies there by now; nobody has been told yet where that is.
    if !block.finish(at, original, call.flags(2)) && arm(call.process).is_err() {
        return Ok(Errno::ENOMEM.into());
    }
    Ok(mapped)
}

/// mprotect(2) and pkey_mprotect(2).
pub fn mprotect(call: &mut Call<'_>) -> Raw {
    match call.flags(2) & PROT_EXEC {
        0 => {
            let done = call.as_given();
            if done.result().is_ok() {
                populate::protected(call.process, call.args[0], call.args[1], call.flags(2));
            }
            done
        }
        _ => armed(call),
    }
}

/// brk(2), which returns where the heap ends.
pub fn brk(call: &mut Call<'_>) -> Raw {
    let grown = call.as_given();
    if let Ok(end) = grown.result()
        && end == call.args[0]
    {
        populate::heap(call.process, end);
    }
    grown
}

/// shmat(2).
pub fn shmat(call: &mut Call<'_>) -> Raw {
    const SHM_EXEC: usize = 0o100_000;
    match call.flags(2) & SHM_EXEC {
        0 => call.as_given(),
        _ => armed(call),
    }
}

/// personality(2).
pub fn personality(call: &mut Call<'_>) -> Raw {
    const ASKED: usize = 0xffff_ffff;
    let persona = call.flags(0);
    if persona == ASKED || persona & READ_IMPLIES_EXEC == 0 {
        return call.as_given();
    }
    armed(call)
}

/// prctl(2): a filter of the guest's is installed above the runtime's. On one thread only, it would keep that from reaching all; and it may
/// forbid to install any.
pub fn prctl(call: &mut Call<'_>) -> Raw {
    const PR_SET_SECCOMP: usize = 22;
    const SECCOMP_MODE_FILTER: usize = 2;
    if call.flags(0) == PR_SET_SECCOMP {
        populate::stop();
    }
    if call.flags(0) == PR_SET_SECCOMP && call.args[1] == SECCOMP_MODE_FILTER {
        return armed_if_possible(call);
    }
    call.as_given()
}

/// seccomp(2): as [`prctl`].
pub fn seccomp(call: &mut Call<'_>) -> Raw {
    if matches!(
        call.flags(0),
        SECCOMP_SET_MODE_STRICT | SECCOMP_SET_MODE_FILTER
    ) {
        populate::stop();
    }
    if call.flags(0) == SECCOMP_SET_MODE_FILTER {
        return armed_if_possible(call);
    }
    call.as_given()
}

fn armed_if_possible(call: &Call<'_>) -> Raw {
    if !is_armed(call.process) {
        let _ = arm(call.process);
    }
    call.as_given()
}
