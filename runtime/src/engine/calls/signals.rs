//! Calls that block signals or say what is done on one: SIGSYS must stay open, or the next trap ends the process.

use crate::engine::call::Call;
use crate::engine::signals::{
    decode_action, encode_action, guest_action, may_remember, return_from_signal,
};
use crate::errno::Errno;
use crate::guest::Address;
use crate::sys::abi::{
    SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGKILL, SIGSET_LEN, SIGSYS, SignalSet, UContext,
};
use crate::sys::nr;
use crate::sys::raw::Raw;

const SIGSTOP: u32 = 19;

/// rt_sigaction(2).
pub fn rt_sigaction(call: &mut Call<'_>) -> Raw {
    let [signal, new, old, len, ..] = call.args;
    let signal = signal as u32;
    if len != SIGSET_LEN || !(1..=64).contains(&signal) {
        return call.as_given();
    }
    let run = || {
        let action = match new {
            0 => None,
            new => {
                let mut action = decode_action(call.memory.read_bytes(Address(new))?);
                action.mask = action.mask.without(SIGSYS);
                Some(action)
            }
        };
        if let Some(before) = guest_action(signal, action.as_ref(), may_remember()) {
            let before = before?;
            if old != 0 {
                call.memory.write(Address(old), &encode_action(&before))?;
            }
            return Ok(0);
        }
        let action = action
            .as_ref()
            .map_or(0, |action| core::ptr::from_ref(action).addr());
        call.host(nr::RT_SIGACTION, [signal as usize, action, old, len, 0, 0])
            .result()
    };
    run().into()
}

/// rt_sigprocmask(2). The mask that counts is the one the handler returns to.
pub fn rt_sigprocmask(call: &mut Call<'_>) -> Raw {
    let [how, new, old, len, ..] = call.args;
    if len != SIGSET_LEN {
        return Errno::EINVAL.into();
    }
    let before = call.context.mask;
    if new != 0 {
        let set = match call.memory.read_word(Address(new)) {
            Ok(set) => SignalSet(set as u64),
            Err(errno) => return errno.into(),
        };
        let mask = match how & 0xffff_ffff {
            SIG_BLOCK => SignalSet(before.0 | set.0),
            SIG_UNBLOCK => SignalSet(before.0 & !set.0),
            SIG_SETMASK => set,
            _ => return Errno::EINVAL.into(),
        };
        // The kernel drops these two from any mask.
        call.context.mask = mask.without(SIGSYS).without(SIGKILL).without(SIGSTOP);
    }
    if old != 0
        && let Err(errno) = call.memory.write(Address(old), &before.0.to_le_bytes())
    {
        return errno.into();
    }
    Raw(0)
}

/// rt_sigreturn(2). A handler may have written SIGSYS into the mask that it returns to.
pub fn rt_sigreturn(call: &mut Call<'_>) -> Raw {
    // At the call the stack pointer stands behind the frame's return address, at its `struct ucontext`.
    const MASK: usize = core::mem::offset_of!(UContext, mask);
    let at = Address(call.context.context.rsp).plus(MASK);
    if let Ok(mask) = call.memory.read_word(at) {
        let mask = SignalSet(mask as u64).without(SIGSYS);
        let _ = call.memory.write(at, &mask.0.to_le_bytes());
    }
    call.context.context.rip = return_from_signal();
    Raw(0)
}

/// Makes the call with a signal set of ours in the place of the one that argument `at` points to.
fn with_set(call: &mut Call<'_>, at: usize) -> Raw {
    let given = call.args[at];
    if given == 0 {
        return call.as_given();
    }
    let set = match call.memory.read_word(Address(given)) {
        Ok(set) => SignalSet(set as u64).without(SIGSYS),
        Err(errno) => return errno.into(),
    };
    let mut args = call.args;
    args[at] = core::ptr::from_ref(&set).addr();
    call.host(call.nr, args)
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend(call: &mut Call<'_>) -> Raw {
    with_set(call, 0)
}

/// ppoll(2).
pub fn ppoll(call: &mut Call<'_>) -> Raw {
    with_set(call, 3)
}

/// epoll_pwait(2), epoll_pwait2(2).
pub fn epoll_pwait(call: &mut Call<'_>) -> Raw {
    with_set(call, 4)
}

/// pselect6(2) and io_pgetevents(2), whose last argument points to a set's address and length.
pub fn pselect6(call: &mut Call<'_>) -> Raw {
    let pair = call.address(5);
    if pair.is_null() {
        return call.as_given();
    }
    let run = || {
        let given = call.memory.read_word(pair)?;
        let len = call.memory.read_word(pair.plus(8))?;
        if given == 0 || len != SIGSET_LEN {
            return call.as_given().result();
        }
        let set = SignalSet(call.memory.read_word(Address(given))? as u64).without(SIGSYS);
        let ours = [core::ptr::from_ref(&set).addr(), len];
        let mut args = call.args;
        args[5] = ours.as_ptr().addr();
        call.host(call.nr, args).result()
    };
    run().into()
}
