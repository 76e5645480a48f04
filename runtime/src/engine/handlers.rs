//! Handlers of the guest's are entered through the runtime: by a signal it may learn of what others changed, so that leases end.
//!
//! The kernel is told of an entry of the runtime's in the place of each handler. The entry touches nothing of the kernel's frame and
//! jumps on to the handler, which finds stack and registers as if the kernel had called it, its own restorer as the address to return to
//! among them. Each handler has an entry of its own, by which it is known: so the kernel's action is all that there is, and changes as one,
//! whatever other threads and children of vfork(2) do at the time. Entries are never given back.
//!
//! # Safety
//! An entry is called by the kernel with a signal frame, whose `ucontext` is live and this thread's alone until the handler returns.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{faults, patched};
use crate::sys::abi::UContext;

/// How many there are; with more handlers than that leases end at each call.
const COUNT: usize = 256;
/// Bytes of each.
const LEN: usize = 16;

// The kernel enters them like C functions: rsp + 8 is a multiple of 16, rax is 0, the arguments are in rdi, rsi and rdx.
global_asm!(
    ".globl elfuse_handlers",
    ".balign 64",
    "elfuse_handlers:",
    ".set elfuse_handler_number, 0",
    ".rept {count}",
    ".balign {len}",
    "mov eax, elfuse_handler_number",
    "jmp elfuse_handler",
    ".set elfuse_handler_number, elfuse_handler_number + 1",
    ".endr",
    ".balign {len}",
    "elfuse_handler:",
    "push rdi",
    "push rsi",
    "push rdx",
    "mov edi, eax",
    "mov rsi, rdx",
    "call {entered}",
    "pop rdx",
    "pop rsi",
    "pop rdi",
    "mov r11, rax",
    "xor eax, eax",
    "jmp r11",
    count = const COUNT,
    len = const LEN,
    entered = sym entered,
);

unsafe extern "C" {
    static elfuse_handlers: u8;
}

/// The handlers; 0: the entry is nobody's yet.
static HANDLERS: [AtomicUsize; COUNT] = [const { AtomicUsize::new(0) }; COUNT];

extern "C" fn entered(number: usize, frame: *const UContext) -> usize {
    // SAFETY: see the top.
    handler_entered(unsafe { &*frame });
    HANDLERS[number].load(Ordering::Relaxed)
}

/// A handler of the guest's is about to be entered on this frame.
pub fn handler_entered(frame: &UContext) {
    patched::end_leases();
    faults::handler_entered(frame);
}

/// The entry for a handler; the handler itself, where there are too many.
#[must_use]
pub fn entry_of(handler: usize) -> usize {
    let is_for_it = |of: &AtomicUsize| {
        let known = of.load(Ordering::Relaxed);
        let other = match known {
            0 => of.compare_exchange(0, handler, Ordering::Relaxed, Ordering::Relaxed),
            known => Err(known),
        };
        other.map_or_else(|other| other == handler, |_| true)
    };
    match HANDLERS.iter().position(is_for_it) {
        Some(number) => start() + number * LEN,
        None => {
            patched::end_leases_always();
            faults::handlers_go_unseen();
            handler
        }
    }
}

/// The handler that the kernel has this address for.
#[must_use]
pub fn handler_of(entry: usize) -> usize {
    let number = match entry.checked_sub(start()) {
        Some(offset) if offset % LEN == 0 => offset / LEN,
        _ => return entry,
    };
    HANDLERS
        .get(number)
        .map_or(entry, |handler| handler.load(Ordering::Relaxed))
}

fn start() -> usize {
    (&raw const elfuse_handlers).addr()
}

#[cfg(test)]
mod tests {
    use super::{COUNT, entry_of, handler_of};

    #[test]
    fn each_handler_has_one_entry_until_there_are_none_left_and_then_stands_for_itself() {
        let entries: [usize; COUNT] = core::array::from_fn(|of| entry_of(0x1000 + of));
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(entry_of(0x1000 + number), *entry);
            assert_eq!(handler_of(*entry), 0x1000 + number);
            assert!(entries[..number].iter().all(|other| other != entry));
        }
        assert_eq!(entry_of(0x9_0000), 0x9_0000);
        for other in [
            0,
            1,
            entries[0] - 16,
            entries[0] + 1,
            entries[COUNT - 1] + 16,
        ] {
            assert_eq!(handler_of(other), other);
        }
    }
}
