//! System calls that are made from the runtime's own range, where the filter lets them pass, with everything else as it is at the guest's site.
//!
//! What makes a process or a thread cannot be called by the handler of a trap: the child would go on in it. So the handler returns to a stand-in for
//! the site: the call, and a jump to what follows the site. Registers and stack are the guest's; a child goes on where its parent does, wherever
//! its stack is. After a call no register is left that could hold where to go on. So each site has a stand-in of its own, as each
//! handler has an entry ([`super::handlers`]); a program makes processes in few places. They are never given back.
//!
//! # Safety
//! A stand-in is entered by the return from a trap alone, with the registers of the call.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
const COUNT: usize = 64;
/// Bytes of each.
const LEN: usize = 8;

global_asm!(
    ".globl elfuse_stand_ins",
    ".balign 64",
    "elfuse_stand_ins:",
    ".set elfuse_stand_in_offset, 0",
    ".rept {count}",
    ".balign {len}",
    "syscall",
    "jmp qword ptr [rip + {sites} + elfuse_stand_in_offset]",
    ".set elfuse_stand_in_offset, elfuse_stand_in_offset + 8",
    ".endr",
    count = const COUNT,
    len = const LEN,
    sites = sym SITES,
);

unsafe extern "C" {
    static elfuse_stand_ins: u8;
}

/// What follows each site; 0: the stand-in is nobody's yet.
static SITES: [AtomicUsize; COUNT] = [const { AtomicUsize::new(0) }; COUNT];

/// The stand-in for the site that is followed by this address; `None`: there are none left.
#[must_use]
pub(super) fn stand_in_of(behind: usize) -> Option<usize> {
    let is_for_it = |of: &AtomicUsize| {
        let found = of.compare_exchange(0, behind, Ordering::Relaxed, Ordering::Relaxed);
        found.map_or_else(|known| known == behind, |_| true)
    };
    let number = SITES.iter().position(is_for_it)?;
    Some((&raw const elfuse_stand_ins).addr() + number * LEN)
}

#[cfg(test)]
mod tests {
    use super::{COUNT, stand_in_of};

    #[test]
    fn each_site_has_one_stand_in_until_there_are_none_left() {
        let found: [_; COUNT] = core::array::from_fn(|of| stand_in_of(0x1000 + of).unwrap());
        for (number, stand_in) in found.iter().enumerate() {
            assert_eq!(stand_in_of(0x1000 + number), Some(*stand_in));
            assert_eq!(*stand_in, found[0] + 8 * number);
        }
        assert_eq!(stand_in_of(0x9000), None);
    }
}
