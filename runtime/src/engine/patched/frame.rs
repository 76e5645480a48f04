//! The registers of a call from a patched site.
//!
//! # Safety
//! The entry hands out a frame for the time of its call, and nothing else writes there.
#![allow(unsafe_code)]

use core::cell::Cell;

use crate::sys::raw::{Args, Nr, Raw};

/// What the entry has pushed, from its stack pointer up.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    flags: usize,
    rdi: usize,
    rsi: usize,
    rdx: usize,
    r10: usize,
    r8: usize,
    r9: usize,
    inline: Cell<usize>,
    rbp: usize,
}

/// Bytes below the stack pointer that are the guest's (System V ABI, 3.2.2).
const RED_ZONE: usize = 128;

impl Frame {
    /// The arguments.
    #[must_use]
    pub fn args(&self) -> Args {
        let args = [
            &self.rdi, &self.rsi, &self.rdx, &self.r10, &self.r8, &self.r9,
        ];
        // Each by itself, as it was pushed: a load of two would wait until both are in the cache.
        // SAFETY: references.
        args.map(|arg| unsafe { core::ptr::from_ref(arg).read_volatile() })
    }

    /// The guest's stack pointer.
    #[must_use]
    pub fn stack_pointer(&self) -> usize {
        core::ptr::from_ref(self).addr() + size_of::<Self>() + RED_ZONE
    }

    /// Address of the unpatched `syscall`.
    #[must_use]
    pub fn inline(&self) -> usize {
        self.inline.get()
    }

    /// Has the call `nr` made where it stands after all: what the entry is to find in rax.
    #[must_use]
    pub fn in_place(&self, nr: Nr) -> Raw {
        // It goes on two bytes further than where the call is.
        self.inline.set(self.inline.get() - 2);
        Raw(nr.0 as isize)
    }
}
