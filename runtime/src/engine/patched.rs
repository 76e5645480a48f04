//! The entry for calls from patched sites: a jump takes the place of a `syscall`, so that a call costs no signal.
//!
//! A stub of a patched copy comes here by a jump, on the guest's stack, with everything as at the system call that it stands for, but that
//! rcx is the address of an unpatched `syscall` and r11 is free:
//!
//! ```text
//!         lea rcx, [rip + inline]
//!         jmp [entry]
//! inline: syscall              where a call goes that is none of the runtime's
//!         ...                  rcx + 2: where it goes on with the result in rax
//! ```
//!
//! What is done is decided by the number alone ([`Class`]). Calls that are the runtime's are served below the red zone of the guest's stack
//! by the same functions as a trap. All registers but rax, rcx and r11 are kept, as the kernel keeps them: the general ones and the lower
//! halves of the vector registers are saved here, and the rest of those, mask registers, x87, MMX, and the control words are not touched
//! by anything that is compiled for plain x86-64. A test disassembles the program to make sure. Of the flags only the direction is kept, as no
//! code relies on the others.
//!
//! # Safety
//! The entry takes nothing from the stack that it has not put there, calls Rust with the stack aligned and the direction flag clear,
//! and hands it the frame that it has pushed, which is this call's alone until it returns. Thread pointer and everything else of the
//! thread is the guest's: the code below it has no thread-local state, and may be entered by a handler while it runs, and by a
//! child of vfork(2) on its parent's stack.
#![allow(unsafe_code)]

mod class;
mod frame;

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};

use elfuse_format::text;

use super::dispatch::{self, NUMBERS};
use super::{descriptors, faults, populate, signals};
use crate::errno::Errno;
use crate::sys::abi::{
    AT_EMPTY_PATH, MAP_ANONYMOUS, MAP_DENYWRITE, MAP_FIXED, MAP_NORESERVE, MAP_SHARED, PROT_WRITE,
    SIG_UNBLOCK, SIGSET_LEN,
};
use crate::sys::raw::Nr;
use crate::sys::{clock, nr};
use class::{CLASSES, Class};
pub use frame::Frame;

/// The byte that ends leases where there are none.
static NOWHERE: AtomicU8 = AtomicU8::new(0);
/// The byte that ends leases.
static FLAG: AtomicPtr<AtomicU8> = AtomicPtr::new((&raw const NOWHERE).cast_mut());
/// Leases end with every call: there is a handler that the runtime does not see entered.
static ALWAYS: AtomicBool = AtomicBool::new(false);

const X32: u32 = 0x4000_0000;
const PROT_EXEC: u32 = 4;
const SHM_EXEC: u32 = 0o100_000;
const READ_IMPLIES_EXEC: u32 = 0x0040_0000;
const DIRECTION: u32 = 10;
/// [`signals::OWN`] as a set of signals.
const OWN_SIGNALS: u32 = {
    let [sys, segv, bus] = signals::OWN;
    1 << (sys - 1) | 1 << (segv - 1) | 1 << (bus - 1)
};

// elfuse_unless_open otherwise: goes there unless it is known that this thread blocks neither SIGSEGV nor SIGBUS. rax and r11 are lost.
//
// The unwind information says that the caller is where rcx points, so that a debugger can walk through.
global_asm!(
    ".macro elfuse_unless_open otherwise",
    "cmp byte ptr [rip + {has_thread}], 0",
    "je \\otherwise",
    "rdfsbase r11",
    "test r11, r11",
    "jz \\otherwise",
    "movabs rax, {hash}",
    "imul rax, r11",
    "shr rax, {hash_shift}",
    "shl eax, {open_shift}",
    "add rax, [rip + {open}]",
    "cmp r11, [rax]",
    "jne \\otherwise",
    "cmp rsp, [rax + {depth}]",
    "ja \\otherwise",
    ".endm",
    ".globl elfuse_patched_entry",
    ".balign 64",
    "elfuse_patched_entry:",
    ".cfi_startproc",
    ".cfi_def_cfa rsp, 0",
    ".cfi_register 16, 2",
    "cmp eax, {numbers}",
    "jae 5f",
    "lea r11, [rip + {classes}]",
    "mov eax, eax",
    "movzx r11d, byte ptr [r11 + rax]",
    "cmp r11d, {served}",
    "jb 4f",
    "ja 6f",
    "2:",
    "lea rsp, [rsp - 128]",
    ".cfi_def_cfa_offset 128",
    "push rbp",
    ".cfi_def_cfa_offset 136",
    ".cfi_offset 6, -136",
    "mov rbp, rsp",
    ".cfi_def_cfa_register 6",
    "push rcx",
    ".cfi_offset 16, -144",
    "push r9",
    "push r8",
    "push r10",
    "push rdx",
    "push rsi",
    "push rdi",
    "pushfq",
    "cld",
    "mov rdi, rsp",
    "mov esi, eax",
    "sub rsp, 256",
    "and rsp, -16",
    "movups [rsp], xmm0",
    "movups [rsp + 16], xmm1",
    "movups [rsp + 32], xmm2",
    "movups [rsp + 48], xmm3",
    "movups [rsp + 64], xmm4",
    "movups [rsp + 80], xmm5",
    "movups [rsp + 96], xmm6",
    "movups [rsp + 112], xmm7",
    "movups [rsp + 128], xmm8",
    "movups [rsp + 144], xmm9",
    "movups [rsp + 160], xmm10",
    "movups [rsp + 176], xmm11",
    "movups [rsp + 192], xmm12",
    "movups [rsp + 208], xmm13",
    "movups [rsp + 224], xmm14",
    "movups [rsp + 240], xmm15",
    "call {serve}",
    "movups xmm0, [rsp]",
    "movups xmm1, [rsp + 16]",
    "movups xmm2, [rsp + 32]",
    "movups xmm3, [rsp + 48]",
    "movups xmm4, [rsp + 64]",
    "movups xmm5, [rsp + 80]",
    "movups xmm6, [rsp + 96]",
    "movups xmm7, [rsp + 112]",
    "movups xmm8, [rsp + 128]",
    "movups xmm9, [rsp + 144]",
    "movups xmm10, [rsp + 160]",
    "movups xmm11, [rsp + 176]",
    "movups xmm12, [rsp + 192]",
    "movups xmm13, [rsp + 208]",
    "movups xmm14, [rsp + 224]",
    "movups xmm15, [rsp + 240]",
    "lea rsp, [rbp - 64]",
    "bt dword ptr [rsp], {direction}",
    "jc 9f",
    "3:",
    "lea rsp, [rsp + 8]",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop r10",
    "pop r8",
    "pop r9",
    "pop rcx",
    ".cfi_register 16, 2",
    ".cfi_def_cfa 7, 136",
    "pop rbp",
    ".cfi_def_cfa_offset 128",
    ".cfi_restore 6",
    "lea rsp, [rsp + 128]",
    ".cfi_def_cfa_offset 0",
    "lea rcx, [rcx + 2]",
    "jmp rcx",
    "9:",
    "std",
    "jmp 3b",
    // Made where it stands.
    "4:",
    "jmp rcx",
    // Beyond the table: plain, or a number of x32.
    "5:",
    "cmp eax, {x32}",
    "jb 4b",
    "mov rax, {refused}",
    "lea rcx, [rcx + 2]",
    "jmp rcx",
    // Neither plain nor served without looking.
    "6:",
    "cmp r11d, {reading}",
    "je 12f",
    "ja 13f",
    "cmp r11d, {status}",
    "je 16f",
    "cmp r11d, {mask}",
    "je 19f",
    "cmp r11d, {control}",
    "jne 11f",
    "cmp esi, {silent}",
    "jbe 4b",
    "11:",
    "mov r11, [rip + {flag}]",
    "mov byte ptr [r11], 1",
    "jmp rcx",
    // Numbers of descriptors are 32 bits wide, whatever stands in the other half.
    "12:",
    "cmp edi, {known_len}",
    "jae 11b",
    "mov r11d, edi",
    "add r11, [rip + {known}]",
    "cmp byte ptr [r11], 0",
    "je 11b",
    "jmp rcx",
    "13:",
    "cmp r11d, {closing}",
    "ja 14f",
    "cmp edi, [rip + {own}]",
    "je 2b",
    "cmp edi, {known_len}",
    "jae 4b",
    "mov r11d, edi",
    "add r11, [rip + {known}]",
    "mov byte ptr [r11], 0",
    "jmp rcx",
    // With an empty path, or a null one, it is about the descriptor; where the filter is armed it would be trapped. What the guest points to
    // is read as `faults::memory` says that it may be.
    "16:",
    "cmp r10d, {empty_path}",
    "jne 2b",
    "cmp byte ptr [rip + {sees_all}], 0",
    "je 2b",
    "test rsi, rsi",
    "jz 4b",
    "elfuse_unless_open 17f",
    ".globl elfuse_status_faults, elfuse_status_fixed",
    "elfuse_status_faults:",
    "cmp byte ptr [rsi], 0",
    "jne 17f",
    "mov eax, {newfstatat}",
    "jmp rcx",
    "elfuse_status_fixed:",
    "17:",
    "mov eax, {newfstatat}",
    "jmp 2b",
    // Without a set nothing is changed, and to open signals harms nobody. The mask that the kernel tells of is the guest's.
    "19:",
    "cmp byte ptr [rip + {sees_all}], 0",
    "je 2b",
    "test rsi, rsi",
    "jz 4b",
    "cmp r10, {set_len}",
    "jne 2b",
    "cmp edi, {unblock}",
    "je 4b",
    "elfuse_unless_open 20f",
    ".globl elfuse_mask_faults, elfuse_mask_fixed",
    "elfuse_mask_faults:",
    "mov r11, [rsi]",
    "test r11d, {own_signals}",
    "jnz 20f",
    "mov eax, {rt_sigprocmask}",
    "jmp rcx",
    "elfuse_mask_fixed:",
    "20:",
    "mov eax, {rt_sigprocmask}",
    "jmp 2b",
    "14:",
    "cmp r11d, {protection}",
    "ja 8f",
    "test edx, {executable}",
    "jnz 2b",
    // Within the last mapping that could not be written to.
    "mov r11, rdi",
    "sub r11, [rip + {closed}]",
    "cmp r11, [rip + {closed_len}]",
    "jb 2b",
    "jmp rcx",
    "8:",
    "cmp r11d, {heap}",
    "ja 8f",
    "je 18f",
    "test edx, {executable}",
    "jnz 2b",
    "test r10d, {anonymous}",
    "jnz 19f",
    "test r10d, {shared}",
    "jnz 2b",
    "cmp rsi, {least}",
    "jb 4b",
    "test edx, {writable}",
    "jnz 2b",
    "test r10d, {of_linkers}",
    "jz 2b",
    "jmp rcx",
    "19:",
    "test edx, edx",
    "jnz 4b",
    "test r10d, {reserved}",
    "jnz 2b",
    "jmp rcx",
    "18:",
    "mov r11, rdi",
    "sub r11, [rip + {heap_top}]",
    "cmp r11, {heap_step}",
    "jge 2b",
    "jmp rcx",
    "8:",
    "cmp r11d, {personality}",
    "je 8f",
    "test edx, {shm_executable}",
    "jnz 2b",
    "jmp rcx",
    "8:",
    "cmp edi, -1",
    "je 4b",
    "test edi, {read_implies}",
    "jnz 2b",
    "jmp rcx",
    ".cfi_endproc",
    ".purgem elfuse_unless_open",
    numbers = const NUMBERS,
    classes = sym CLASSES,
    served = const Class::Served as u8,
    status = const Class::Status as u8,
    mask = const Class::Mask as u8,
    control = const Class::Control as u8,
    silent = const text::LAST_SILENT_COMMAND,
    reading = const Class::Reading as u8,
    closing = const Class::Closing as u8,
    known_len = const text::KNOWN_LEN,
    known = sym descriptors::TABLE,
    own = sym descriptors::OWN,
    sees_all = sym descriptors::SEES_ALL,
    newfstatat = const nr::NEWFSTATAT.0,
    rt_sigprocmask = const nr::RT_SIGPROCMASK.0,
    set_len = const SIGSET_LEN,
    unblock = const SIG_UNBLOCK,
    own_signals = const OWN_SIGNALS,
    empty_path = const AT_EMPTY_PATH,
    has_thread = sym clock::HAS_FSGSBASE,
    hash = const faults::HASH,
    hash_shift = const faults::HASH_SHIFT,
    open_shift = const faults::OPEN_SHIFT,
    open = sym faults::OPEN_AT,
    depth = const faults::DEPTH,
    protection = const Class::Protection as u8,
    personality = const Class::Personality as u8,
    heap = const Class::Heap as u8,
    writable = const PROT_WRITE,
    anonymous = const MAP_ANONYMOUS,
    shared = const MAP_SHARED,
    of_linkers = const MAP_DENYWRITE | MAP_FIXED,
    reserved = const MAP_NORESERVE,
    closed = sym populate::closed::START,
    closed_len = sym populate::closed::LEN,
    least = const populate::LEAST,
    heap_top = sym populate::HEAP_TOP,
    heap_step = const populate::HEAP_STEP,
    serve = sym serve,
    flag = sym FLAG,
    direction = const DIRECTION,
    x32 = const X32,
    refused = const -(Errno::ENOSYS.0 as i32),
    executable = const PROT_EXEC,
    shm_executable = const SHM_EXEC,
    read_implies = const READ_IMPLIES_EXEC,
);

unsafe extern "C" {
    static elfuse_patched_entry: u8;
    static elfuse_status_faults: u8;
    static elfuse_status_fixed: u8;
    static elfuse_mask_faults: u8;
    static elfuse_mask_fixed: u8;
}

/// Where execution goes on after a fault at `rip`, if that is the entry's reading of a path or a set of signals: the call is served, and
/// says EFAULT.
#[must_use]
pub fn fix_up(rip: usize) -> Option<usize> {
    // Addresses of labels; nothing is read through them.
    let reads = [
        (
            &raw const elfuse_status_faults,
            &raw const elfuse_status_fixed,
        ),
        (&raw const elfuse_mask_faults, &raw const elfuse_mask_fixed),
    ];
    let mut reads = reads.into_iter();
    reads.find_map(|(faults, fixed)| (rip == faults.addr()).then(|| fixed.addr()))
}

extern "C" fn serve(frame: *const Frame, nr: u32) -> isize {
    // SAFETY: see the top.
    let frame = unsafe { &*frame };
    if ALWAYS.load(Ordering::Relaxed) {
        end_leases();
    }
    dispatch::patched(Nr(nr), frame).0
}

/// Where a stub jumps to.
#[must_use]
pub fn entry_address() -> usize {
    (&raw const elfuse_patched_entry).addr()
}

/// Address of the byte that ends leases: a 1 is stored there before a call by which the guest may learn of a change. It stays the same until
/// the process executes another program.
#[must_use]
pub fn flag_address() -> usize {
    FLAG.load(Ordering::Relaxed).addr()
}

/// Says which byte ends leases, before anything of the guest's is mapped.
pub fn set_flag(flag: &'static AtomicU8) {
    FLAG.store(core::ptr::from_ref(flag).cast_mut(), Ordering::Relaxed);
}

/// The guest may have learnt of a change from outside.
pub fn end_leases() {
    // SAFETY: a reference that lasts as long as the process.
    let flag = unsafe { &*FLAG.load(Ordering::Relaxed) };
    flag.store(1, Ordering::Release);
}

/// From now on the guest may learn of changes without being seen.
pub fn end_leases_always() {
    ALWAYS.store(true, Ordering::Relaxed);
}
