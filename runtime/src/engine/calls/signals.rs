//! Calls that block signals or say what is done on one: SIGSYS must stay open, or the next trap ends the process.

use crate::engine::call::Call;
use crate::engine::signals::{
    context_bytes, decode_action, encode_action, guest_action, may_remember, return_from_signal,
};
use crate::engine::stacks::{SignalStack, Thread};
use crate::engine::way::Way;
use crate::engine::{faults, handlers};
use crate::errno::Errno;
use crate::guest::{Address, Memory};
use crate::sys::abi::{SIG_IGN, SIGSET_LEN, SIGSYS, SigAction, SignalSet, UContext};
use crate::sys::host::{getpid, gettid, set_signal_stack, tgkill};
use crate::sys::nr;
use crate::sys::raw::Raw;

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
        if let Some(before) = guest_action(signal, action.as_ref(), may_remember) {
            let before = before?;
            if old != 0 {
                call.memory.write(Address(old), &encode_action(&before))?;
            }
            return Ok(0);
        }
        let action = action.map(|action| match action.handler {
            ..=SIG_IGN => action,
            handler => SigAction {
                handler: handlers::entry_of(handler),
                ..action
            },
        });
        let action = action
            .as_ref()
            .map_or(0, |action| core::ptr::from_ref(action).expose_provenance());
        let mut before = SigAction::default();
        let before_at = match old {
            0 => 0,
            _ => (&raw mut before).addr(),
        };
        let args = [signal as usize, action, before_at, len, 0, 0];
        let result = call.host(nr::RT_SIGACTION, args).result()?;
        if old != 0 {
            before.handler = handlers::handler_of(before.handler);
            call.memory.write(Address(old), &encode_action(&before))?;
        }
        Ok(result)
    };
    run().into()
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(call: &mut Call<'_>) -> Raw {
    let [how, new, old, len, ..] = call.args;
    if len != SIGSET_LEN {
        return Errno::EINVAL.into();
    }
    if new == 0 && matches!(call.way, Way::Patched(_)) {
        // Nothing is changed, and what the kernel has is the guest's.
        return call.as_given();
    }
    let mut run = || {
        let set = match new {
            0 => None,
            new => Some(SignalSet(call.memory.read_word(Address(new))? as u64)),
        };
        let change = call.way.change_mask(how, set)?;
        faults::mask_changed(change);
        if old != 0 {
            let [before, after] = change;
            let memory = match call.way {
                // It is in force already.
                Way::Patched(_) => Memory::under(after),
                Way::Trap(_) | Way::Own(_) => call.memory,
            };
            memory.write(Address(old), &before.0.to_le_bytes())?;
        }
        Ok(0)
    };
    run().into()
}

/// rt_sigreturn(2), which is trapped or not seen at all. A handler may have written SIGSYS into the mask that it returns to.
pub fn rt_sigreturn(call: &mut Call<'_>) -> Raw {
    let Way::Trap(context) = &mut call.way else {
        return call.as_given();
    };
    // At the call the stack pointer stands behind the frame's return address, at its `struct ucontext`.
    const MASK: usize = core::mem::offset_of!(UContext, mask);
    let at = Address(context.context.rsp).plus(MASK);
    if let Ok(mask) = call.memory.read_word(at) {
        let mask = SignalSet(mask as u64).without(SIGSYS);
        let _ = call.memory.write(at, &mask.0.to_le_bytes());
    }
    context.context.rip = return_from_signal();
    Raw(0)
}

/// sigaltstack(2). The handler may be running on the very stack that it is about, which the kernel does not change then: it takes effect
/// with the return from the handler.
pub fn sigaltstack(call: &mut Call<'_>) -> Raw {
    let (new, old) = (call.address(0), call.address(1));
    let before = call.way.signal_stack();
    let on = match before.len {
        0 => SignalStack::DISABLED,
        _ if before.holds(call.way.stack_pointer()) => SignalStack::ON,
        _ => 0,
    };
    let shown = SignalStack {
        flags: before.flags & SignalStack::AUTODISARM | on,
        ..call.process.stacks.guests(before)
    };
    let mut run = || {
        let next = if new.is_null() {
            None
        } else {
            let wanted = call.memory.read_bytes::<{ SignalStack::LEN }>(new)?;
            if on == SignalStack::ON {
                return Err(Errno::EPERM);
            }
            Some(checked_stack(call, decode_stack(&wanted))?)
        };
        let told = if old.is_null() {
            Ok(())
        } else {
            call.memory.write(old, &encode_stack(shown))
        };
        let result = told.map(|()| 0);
        if let Some(next) = next {
            change_stack(call, before, next, result.into())?;
        }
        result
    };
    run().into()
}

/// What the kernel is to have in the place of the stack that the guest wants.
fn checked_stack(call: &Call<'_>, wanted: SignalStack) -> Result<SignalStack, Errno> {
    const MINIMUM: usize = 2048;
    match wanted.flags & !SignalStack::AUTODISARM {
        SignalStack::DISABLED => Ok(SignalStack {
            start: 0,
            len: 0,
            ..wanted
        }),
        0 | SignalStack::ON if wanted.len < MINIMUM => Err(Errno::ENOMEM),
        // In a child of vfork(2) what stands in for a stack is the parent's.
        0 | SignalStack::ON if call.process.pool.is_guest_in_memory() => Ok(wanted),
        0 | SignalStack::ON => {
            let own = Thread {
                process: getpid(),
                thread: gettid(),
            };
            let is_gone =
                |other: Thread| tgkill(other.process, other.thread, 0) == Err(Errno::ESRCH);
            Ok(call.process.stacks.stand_in(wanted, own, is_gone))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// Changes the signal stack: at once where nothing was interrupted. In a trap the return from the handler changes it, and makes `result`
/// what the call returns. Where the frame that it returns from lies on a signal stack, kernels from 6.12
/// on leave that as it is; so the return leads, with all signals blocked, to a second one from a copy of the frame on the guest's stack. The
/// copy shares the first frame's vector registers, which nothing can overwrite until then.
fn change_stack(
    call: &mut Call<'_>,
    before: SignalStack,
    next: SignalStack,
    result: Raw,
) -> Result<(), Errno> {
    const RED_ZONE: usize = 128;
    const LEN: usize = size_of::<UContext>();
    let Way::Trap(context) = &mut call.way else {
        return set_signal_stack(next.words());
    };
    if before.len == 0 {
        context.stack = next.words();
        return Ok(());
    }
    let mut last = **context;
    last.stack = next.words();
    last.context.rax = result.0.cast_unsigned();
    let at = (last.context.rsp.wrapping_sub(RED_ZONE + LEN)) & !15;
    call.memory.write(Address(at), context_bytes(&last))?;
    context.context.rsp = at;
    context.context.rip = return_from_signal();
    context.mask = SignalSet(!0);
    Ok(())
}

fn decode_stack(bytes: &[u8; SignalStack::LEN]) -> SignalStack {
    let (words, _) = bytes.as_chunks();
    SignalStack::from_words(core::array::from_fn(|word| {
        usize::from_ne_bytes(words[word])
    }))
}

/// What fills the hole behind the flags is not looked at by anybody.
fn encode_stack(stack: SignalStack) -> [u8; SignalStack::LEN] {
    let mut bytes = [0; SignalStack::LEN];
    for (to, word) in bytes.chunks_exact_mut(8).zip(stack.words()) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
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
    faults::waits_under(set);
    let mut args = call.args;
    args[at] = core::ptr::from_ref(&set).expose_provenance();
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
        faults::waits_under(set);
        let ours = [core::ptr::from_ref(&set).expose_provenance(), len];
        let mut args = call.args;
        args[5] = ours.as_ptr().expose_provenance();
        call.host(call.nr, args).result()
    };
    run().into()
}
