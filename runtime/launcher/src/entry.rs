//! The entry point, and what the language wants of a program without std.
//!
//! # Safety
//! The kernel starts the process at `_start` with its vector at the stack pointer; nothing else calls it.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::global_asm;
use core::panic::PanicInfo;

use elfuse_runtime::engine::say::say;
use elfuse_runtime::engine::start::{FAILED, begin};
use elfuse_runtime::sys::host::exit;

// rbp is 0 so that walks of the stack end here. The kernel leaves rsp aligned to 16; a call expects that plus a return address.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym start,
);

unsafe extern "C" fn start(stack: *mut usize) -> ! {
    // SAFETY: the stack pointer of the process's first instruction.
    unsafe { begin(stack) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("{info}; this is a bug of elfuse"));
    exit(FAILED)
}

/// Refuses. Cargo builds shared dependencies once for the workspace, so that `alloc` is linked although nothing here asks for memory; the
/// crates whose code runs under the guest cannot even name it.
struct NoAllocator;

#[global_allocator]
static ALLOCATOR: NoAllocator = NoAllocator;

// SAFETY: a null pointer is the answer of an allocator that has nothing.
unsafe impl GlobalAlloc for NoAllocator {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// Named by the unwind tables of the precompiled `core`; nothing unwinds here, so nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
