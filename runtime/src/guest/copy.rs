//! Copies between the guest's memory and ours.
//!
//! # Safety
//! A guest address may be anything. It is touched in two places only: by the loops in the assembly below, whose faults
//! [`fix_up`] turns into a return, and by the kernel. Both write into, or read from, Rust buffers of the length that is passed. A guest that passes an address inside the runtime's own
//! image can read and write the runtime: it shares the address space and the runtime is no security boundary.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::ffi::CStr;
use core::mem::MaybeUninit;

use super::Address;
use crate::errno::Errno;
use crate::sys::abi::PAGE;
use crate::sys::clock;
use crate::sys::host::gettid;
use crate::sys::nr;
use crate::sys::raw::{Nr, call};

// elfuse_copy(to: rdi, from: rsi, len: rdx) -> bytes NOT copied. A little is copied by words: `rep movsb` takes long to begin.
// elfuse_copy_string(to: rdi, from: rsi, len: rdx) -> bytes copied, the NUL included; 0: no NUL within len; -1: a fault.
// elfuse_copy_short(to: rdi, from: rsi, len: rdx) -> as elfuse_copy_string; len is a multiple of 8, 16 at least, and what lies behind the
// NUL is written too. Whole words are read at multiples of 8, so none from a page that the string does not reach.
// The direction flag is clear: the C ABI promises it, and the kernel clears it on entry to a signal handler.
global_asm!(
    ".globl elfuse_copy, elfuse_copy_string, elfuse_copy_faults, elfuse_copy_fixed",
    ".globl elfuse_string_faults, elfuse_string_faults_end, elfuse_string_fixed",
    ".globl elfuse_words_read_faults, elfuse_words_write_faults, elfuse_words_fixed",
    "elfuse_copy:",
    "cmp rdx, 256",
    "ja 4f",
    "xor ecx, ecx",
    "mov r8, rdx",
    "and r8, -8",
    "2:",
    "cmp rcx, r8",
    "je 3f",
    "elfuse_words_read_faults:",
    "mov rax, qword ptr [rsi + rcx]",
    "elfuse_words_write_faults:",
    "mov qword ptr [rdi + rcx], rax",
    "add rcx, 8",
    "jmp 2b",
    ".globl elfuse_byte_read_faults, elfuse_byte_write_faults",
    "3:",
    "cmp rcx, rdx",
    "je 5f",
    "elfuse_byte_read_faults:",
    "movzx eax, byte ptr [rsi + rcx]",
    "elfuse_byte_write_faults:",
    "mov byte ptr [rdi + rcx], al",
    "inc rcx",
    "jmp 3b",
    "5:",
    "elfuse_words_fixed:",
    "mov rax, rdx",
    "sub rax, rcx",
    "ret",
    "4:",
    "mov rcx, rdx",
    "elfuse_copy_faults:",
    "rep movsb",
    "elfuse_copy_fixed:",
    "mov rax, rcx",
    "ret",
    "elfuse_copy_string:",
    "xor ecx, ecx",
    "2:",
    "cmp rcx, rdx",
    "je 4f",
    "elfuse_string_faults:",
    "movzx eax, byte ptr [rsi + rcx]",
    "elfuse_string_faults_end:",
    "mov byte ptr [rdi + rcx], al",
    "inc rcx",
    "test al, al",
    "jnz 2b",
    "mov rax, rcx",
    "ret",
    "4:",
    "xor eax, eax",
    "ret",
    "elfuse_string_fixed:",
    "mov rax, -1",
    "ret",
    ".globl elfuse_copy_short, elfuse_short_first_faults, elfuse_short_next_faults",
    "elfuse_copy_short:",
    "mov ecx, esi",
    "and ecx, 7",
    "shl ecx, 3",
    "and rsi, -8",
    "movabs r10, 0x0101010101010101",
    "movabs r11, 0x8080808080808080",
    "elfuse_short_first_faults:",
    "mov rax, qword ptr [rsi]",
    "shr rax, cl",
    // What was shifted in is no NUL.
    "mov r9, -1",
    "shr r9, cl",
    "not r9",
    "or rax, r9",
    "mov qword ptr [rdi], rax",
    "shr ecx, 3",
    "neg rcx",
    "mov r8, rax",
    "sub rax, r10",
    "not r8",
    "and rax, r8",
    "and rax, r11",
    "jnz 3f",
    "2:",
    "add rcx, 8",
    "add rsi, 8",
    "lea r9, [rcx + 8]",
    "cmp r9, rdx",
    "ja 4f",
    "elfuse_short_next_faults:",
    "mov rax, qword ptr [rsi]",
    "mov qword ptr [rdi + rcx], rax",
    "mov r8, rax",
    "sub rax, r10",
    "not r8",
    "and rax, r8",
    "and rax, r11",
    "jz 2b",
    "bsf rax, rax",
    "shr eax, 3",
    "lea rax, [rax + rcx + 1]",
    "ret",
    "3:",
    "bsf rax, rax",
    "shr eax, 3",
    "inc eax",
    "ret",
    "4:",
    "xor eax, eax",
    "ret",
);

unsafe extern "C" {
    fn elfuse_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn elfuse_copy_string(to: *mut u8, from: *const u8, len: usize) -> isize;
    fn elfuse_copy_short(to: *mut u8, from: *const u8, len: usize) -> isize;
    static elfuse_copy_faults: u8;
    static elfuse_copy_fixed: u8;
    static elfuse_words_read_faults: u8;
    static elfuse_words_write_faults: u8;
    static elfuse_byte_read_faults: u8;
    static elfuse_byte_write_faults: u8;
    static elfuse_words_fixed: u8;
    static elfuse_string_faults: u8;
    static elfuse_string_fixed: u8;
    static elfuse_short_first_faults: u8;
    static elfuse_short_next_faults: u8;
}

/// Where execution goes on after a fault at `rip`, if that is one of the copies here, or the reading of a counter: for the handler of SIGSEGV and SIGBUS.
#[must_use]
pub fn fix_up(rip: usize) -> Option<usize> {
    // Addresses of labels; nothing is read through them.
    let copy = (&raw const elfuse_copy_faults).addr();
    let words = [
        (&raw const elfuse_words_read_faults).addr(),
        (&raw const elfuse_words_write_faults).addr(),
        (&raw const elfuse_byte_read_faults).addr(),
        (&raw const elfuse_byte_write_faults).addr(),
    ];
    let strings = [
        (&raw const elfuse_string_faults).addr(),
        (&raw const elfuse_short_first_faults).addr(),
        (&raw const elfuse_short_next_faults).addr(),
    ];
    if rip == copy {
        Some((&raw const elfuse_copy_fixed).addr())
    } else if words.contains(&rip) {
        Some((&raw const elfuse_words_fixed).addr())
    } else if strings.contains(&rip) {
        Some((&raw const elfuse_string_fixed).addr())
    } else {
        clock::fix_up(rip)
    }
}

fn pointer(address: Address) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address.0)
}

pub(super) fn in_direct(from: Address, into: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: writes `into.len()` bytes at most into `into`; a fault on the guest's side is fixed up.
    let left = unsafe { elfuse_copy(into.as_mut_ptr(), pointer(from), into.len()) };
    if left == 0 {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

pub(super) fn out_direct(to: Address, bytes: &[u8]) -> Result<(), Errno> {
    // SAFETY: reads the live `bytes`; what is written is the guest's, or faults and is fixed up.
    let left = unsafe { elfuse_copy(pointer(to), bytes.as_ptr(), bytes.len()) };
    if left == 0 {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

pub(super) fn string_direct(from: Address, into: &mut [u8]) -> Result<&mut [u8], Errno> {
    // SAFETY: writes `into.len()` bytes at most into `into`; a fault on the guest's side is fixed up.
    let copied = unsafe { elfuse_copy_string(into.as_mut_ptr(), pointer(from), into.len()) };
    match copied {
        -1 => Err(Errno::EFAULT),
        0 => Err(Errno::ENAMETOOLONG),
        // The NUL is counted.
        copied => Ok(&mut into[..copied.cast_unsigned() - 1]),
    }
}

pub(super) fn short_direct<const N: usize>(
    from: Address,
    into: &mut MaybeUninit<[u8; N]>,
) -> Option<&CStr> {
    const { assert!(N >= 16 && N.is_multiple_of(8)) };
    let room = into.as_mut_ptr().cast::<u8>();
    // SAFETY: writes `N` bytes at most into `into`; a fault on the guest's side is fixed up.
    let copied = unsafe { elfuse_copy_short(room, pointer(from), N) };
    let len = usize::try_from(copied).ok().filter(|len| *len != 0)?;
    // SAFETY: so many bytes have just been written, of which the last is the one NUL.
    Some(unsafe { CStr::from_bytes_with_nul_unchecked(core::slice::from_raw_parts(room, len)) })
}

/// process_vm_readv(2) or process_vm_writev(2) on this very process: bytes moved.
fn by_kernel(nr: Nr, ours: usize, guests: Address, len: usize) -> Result<usize, Errno> {
    let local = [ours, len];
    let remote = [guests.0, len];
    let args = [
        gettid() as usize,
        local.as_ptr().expose_provenance(),
        1,
        remote.as_ptr().expose_provenance(),
        1,
        0,
    ];
    // SAFETY: `ours` and `len` describe a live buffer of the caller's; the other side is the guest's and may fault.
    unsafe { call(nr, args) }.result()
}

pub(super) fn in_by_kernel(from: Address, into: &mut [u8]) -> Result<(), Errno> {
    if into.is_empty() {
        return Ok(());
    }
    let ours = into.as_mut_ptr().expose_provenance();
    match by_kernel(nr::PROCESS_VM_READV, ours, from, into.len()) {
        Ok(len) if len == into.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

pub(super) fn out_by_kernel(to: Address, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    match by_kernel(
        nr::PROCESS_VM_WRITEV,
        bytes.as_ptr().expose_provenance(),
        to,
        bytes.len(),
    ) {
        Ok(len) if len == bytes.len() => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

pub(super) fn string_by_kernel(from: Address, into: &mut [u8]) -> Result<&mut [u8], Errno> {
    let mut done = 0;
    while done < into.len() {
        // Never across a page: the string may end on the last page that is mapped.
        let at = from.plus(done);
        let len = (PAGE - at.0 % PAGE).min(into.len() - done);
        in_by_kernel(at, &mut into[done..done + len])?;
        if let Some(end) = into[done..done + len].iter().position(|byte| *byte == 0) {
            return Ok(&mut into[..done + end]);
        }
        done += len;
    }
    Err(Errno::ENAMETOOLONG)
}
