//! How a call of the guest's reached the runtime, and with it where the guest's signal mask, signal stack and stack pointer are.
//!
//! In a trap they lie in the kernel's frame, and what is written there is in force when the handler returns. In a call from a patched site
//! nothing was interrupted: mask and stack are those that the thread has, and the kernel is asked for them. Both ways lead through here, so
//! that what serves a call need not know which one it was.

use super::patched::Frame;
use super::stacks::SignalStack;
use crate::errno::Errno;
use crate::sys::abi::{
    SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGKILL, SIGSTOP, SIGSYS, SignalSet, UContext,
};
use crate::sys::host::{signal_mask, signal_stack};

/// See the module.
#[derive(Debug)]
pub enum Way<'c> {
    /// By SIGSYS: the registers, the mask and the signal stack as they will be when the handler returns.
    Trap(&'c mut UContext),
    /// From a patched site: the registers that it had.
    Patched(&'c Frame),
    /// It is none of the guest's: the runtime looks something up for itself, with this mask for the program that it starts.
    Own(SignalSet),
}

impl Way<'_> {
    /// The guest's signal mask.
    #[must_use]
    pub fn mask(&self) -> SignalSet {
        match self {
            Self::Trap(context) => context.mask,
            Self::Patched(_) => signal_mask(SIG_BLOCK, SignalSet::default()),
            Self::Own(mask) => *mask,
        }
    }

    /// Changes the guest's signal mask by rt_sigprocmask(2)'s rules, but that SIGSYS stays open: the mask before and the one after.
    ///
    /// # Errors
    /// EINVAL: there is no such way to change it.
    pub fn change_mask(
        &mut self,
        how: usize,
        set: Option<SignalSet>,
    ) -> Result<[SignalSet; 2], Errno> {
        let Some(set) = set else {
            return Ok([self.mask(); 2]);
        };
        let how = how & 0xffff_ffff;
        let change: fn(u64, u64) -> u64 = match how {
            SIG_BLOCK => |before, set| before | set,
            SIG_UNBLOCK => |before, set| before & !set,
            SIG_SETMASK => |_, set| set,
            _ => return Err(Errno::EINVAL),
        };
        let before = match self {
            Self::Patched(_) => signal_mask(how, set.without(SIGSYS)),
            Self::Trap(_) | Self::Own(_) => self.mask(),
        };
        let mask = SignalSet(change(before.0, set.0));
        // The kernel drops these two from any mask.
        let after = mask.without(SIGSYS).without(SIGKILL).without(SIGSTOP);
        match self {
            Self::Trap(context) => context.mask = after,
            Self::Patched(_) => {}
            Self::Own(mask) => *mask = after,
        }
        Ok([before, after])
    }

    /// The signal stack that the kernel has for the thread, without saying whether the thread is on it.
    #[must_use]
    pub fn signal_stack(&self) -> SignalStack {
        match self {
            Self::Trap(context) => SignalStack::from_words(context.stack),
            Self::Patched(_) => {
                let told = SignalStack::from_words(signal_stack());
                SignalStack {
                    flags: told.flags & SignalStack::AUTODISARM,
                    ..told
                }
            }
            Self::Own(_) => SignalStack::default(),
        }
    }

    /// The guest's stack pointer at the call.
    #[must_use]
    pub fn stack_pointer(&self) -> usize {
        match self {
            Self::Trap(context) => context.context.rsp,
            Self::Patched(frame) => frame.stack_pointer(),
            Self::Own(_) => 0,
        }
    }
}
