//! Carries out a [`Plan`]: maps an image, clears what BSS and padding need, chooses the base as the kernel does.
//!
//! # Safety
//! Mappings go to ranges that were free a moment ago (`MAP_FIXED_NOREPLACE` takes the whole span first, then the segments replace what it
//! took), so nothing of Rust's can lie there. Bytes are cleared only inside a segment just mapped writable and private.
#![allow(unsafe_code)]

use super::plan::{Piece, Plan};
use crate::errno::Errno;
use crate::sys::abi::{PAGE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE};
use crate::sys::host::Fd;
use crate::sys::memory::{Place, map, unmap};

/// What is added to the addresses in an image's headers to get those in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bias(pub u64);

impl Bias {
    /// An address of the headers in memory.
    #[must_use]
    pub const fn apply(self, vaddr: u64) -> usize {
        vaddr.wrapping_add(self.0) as usize
    }
}

/// Where an image that may lie anywhere is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// Where the kernel puts a program: two thirds up the address space, `random` pages further.
    Program {
        /// Random bits; 0 where the personality asks for no randomisation.
        random: u64,
    },
    /// Where the kernel puts a library: among the other mappings.
    Interpreter,
}

/// Bottom of where position-independent programs lie: ELF_ET_DYN_BASE of `arch/x86/include/asm/elf.h`.
const PROGRAM_BASE: u64 = 0x5555_5555_4000;
/// How many bits of page number are random there: mmap_rnd_bits as Linux sets it by default.
const RANDOM_BITS: u32 = 28;

fn protection(piece: &Piece) -> usize {
    let flags = piece.flags;
    let bit = |on: bool, bit: usize| if on { bit } else { 0 };
    bit(flags.readable(), PROT_READ)
        | bit(flags.writable(), PROT_WRITE)
        | bit(flags.executable(), PROT_EXEC)
}

/// A plan's span of addresses.
struct Span {
    /// Address of its first page.
    at: usize,
    /// Whether the plan's first piece is mapped there; behind it nothing of use is.
    has_first: bool,
}

/// Takes the plan's span. As the kernel does it, by mapping the first piece over all of it, which the others then replace: one call less than
/// a reservation. Not where that could be written to, as all of it would count as memory.
fn span(plan: &Plan<'_>, file: Fd, code: Fd, base: Base) -> Result<Span, Errno> {
    let len = plan.len as usize;
    let first = plan.pieces().next();
    let first = first.filter(|first| {
        let is_plain = first.zero_len == 0 && !first.flags.writable();
        is_plain && first.file_len != 0 && first.start == plan.start
    });
    let has_first = first.is_some();
    let take = |place, len, first: Option<Piece>| {
        let from = first.map(|first| {
            let file = if first.flags.executable() { code } else { file };
            (file, first.file_offset)
        });
        let protection = first.map_or(PROT_NONE, |first| protection(&first));
        // SAFETY: never `Place::Replace`: what is in use stays.
        unsafe { map(place, len, protection, from) }
    };
    let found = |at| Span { at, has_first };
    if !plan.is_relative() {
        return take(Place::Free(plan.start as usize), len, first).map(found);
    }
    let align = plan.align as usize;
    if let Base::Program { random } = base {
        // Random in the way the kernel is; when something lies there, one bit less at a time and at last anywhere.
        for bits in [RANDOM_BITS, RANDOM_BITS - 1, RANDOM_BITS - 2] {
            let pages = random & ((1 << bits) - 1);
            let at = (PROGRAM_BASE + pages * PAGE as u64) as usize & !(align - 1);
            match take(Place::Free(at), len, first) {
                Err(Errno::EEXIST) => {}
                other => return other.map(found),
            }
        }
    }
    if align <= PAGE {
        return take(Place::Anywhere, len, first).map(found);
    }
    let slack = len.checked_add(align).ok_or(Errno::ENOMEM)?;
    let reserved = take(Place::Anywhere, slack, None)?;
    let at = (reserved + align - 1) & !(align - 1);
    // SAFETY: parts of the reservation made above, known to nobody else.
    unsafe {
        unmap(reserved, at - reserved);
        unmap(at + len, reserved + slack - (at + len));
    }
    Ok(Span {
        at,
        has_first: false,
    })
}

/// Maps the image in `file` as planned, its executable pages from `code`: the same file, or one that has the same bytes there but for calls.
///
/// # Errors
/// Those of mmap(2). What was mapped until then stays: the caller is about to give up the process.
pub fn image(plan: &Plan<'_>, file: Fd, code: Fd, base: Base) -> Result<Bias, Errno> {
    let Span { at, has_first } = span(plan, file, code, base)?;
    let bias = Bias((at as u64).wrapping_sub(plan.start));
    let mut mapped_end = at;
    for (number, piece) in plan.pieces().enumerate() {
        let start = bias.apply(piece.start);
        let file_len = piece.file_len as usize;
        if file_len != 0 && !(has_first && number == 0) {
            let file = if piece.flags.executable() { code } else { file };
            let from = Some((file, piece.file_offset));
            // SAFETY: inside the span taken above.
            unsafe { map(Place::Replace(start), file_len, protection(&piece), from) }?;
        }
        let (clear, clear_end) = (bias.apply(piece.clear.0), bias.apply(piece.clear.1));
        if clear_end > clear {
            let to = core::ptr::with_exposed_provenance_mut::<u8>(clear);
            // SAFETY: the tail of the last page of a private, writable mapping made above.
            unsafe { core::ptr::write_bytes(to, 0, clear_end - clear) };
        }
        if piece.zero_len != 0 {
            // The kernel's vm_brk: read and write whatever the segment says, executable if it does.
            let executable = protection(&piece) & PROT_EXEC;
            let zeros = PROT_READ | PROT_WRITE | executable;
            // SAFETY: inside the span taken above.
            unsafe {
                map(
                    Place::Replace(start + file_len),
                    piece.zero_len as usize,
                    zeros,
                    None,
                )
            }?;
        }
        if start > mapped_end {
            // The kernel leaves the holes between segments free.
            // SAFETY: a part of the span that no segment covers.
            unsafe { unmap(mapped_end, start - mapped_end) };
        }
        mapped_end = mapped_end.max(start + piece.len() as usize);
    }
    Ok(bias)
}
