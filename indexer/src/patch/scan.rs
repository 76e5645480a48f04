//! A first look: whether the two bytes of an instruction of interest are anywhere in a file's code. Nothing is decoded, so they
//! may be part of another instruction, or data; without them there is nothing to look for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::elf::{self, HEADER, Image, Load};

/// The two bytes of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    Syscall,
    Sysenter,
    Int80,
    Cpuid,
}

fn pattern(first: u8, second: u8) -> Option<Pattern> {
    Some(match (first, second) {
        (0x0f, 0x05) => Pattern::Syscall,
        (0x0f, 0x34) => Pattern::Sysenter,
        (0xcd, 0x80) => Pattern::Int80,
        (0x0f, 0xa2) => Pattern::Cpuid,
        _ => return None,
    })
}

/// Bytes that are compared at once, without a branch, so that the compiler makes vectors of them.
const PIECE: usize = 256;

/// Whether a system call may be made here.
fn may_call(bytes: &[u8]) -> bool {
    let starts = |first: &[u8], second: &[u8]| {
        first.iter().zip(second).fold(false, |found, (&a, &b)| {
            found | ((a == 0x0f) & ((b == 0x05) | (b == 0x34))) | ((a == 0xcd) & (b == 0x80))
        })
    };
    let second = bytes.get(1..).unwrap_or_default();
    bytes
        .chunks(PIECE)
        .zip(second.chunks(PIECE))
        .any(|(first, second)| starts(first, second))
}

/// What a first look tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstLook {
    /// It has no executable code for x86-64.
    NoCode,
    /// It makes no system call, whatever of its code is run.
    Nothing,
    /// It has to be analysed.
    Something,
}

/// Reads the executable segments of a file of `size` bytes, a piece at a time.
///
/// # Errors
/// What reading gives.
pub fn first_look(file: &File, size: u64) -> io::Result<FirstLook> {
    let mut head = [0; HEADER];
    if size < HEADER as u64 {
        return Ok(FirstLook::NoCode);
    }
    file.read_exact_at(&mut head, 0)?;
    let Some((at, len)) = elf::program_headers(&head) else {
        return Ok(FirstLook::NoCode);
    };
    if at.checked_add(len as u64).is_none_or(|end| end > size) {
        return Ok(FirstLook::NoCode);
    }
    let mut table = vec![0; len];
    file.read_exact_at(&mut table, at)?;
    let loads: Vec<Load> = elf::loads(&table).filter(Load::is_code).collect();
    if loads.is_empty() {
        return Ok(FirstLook::NoCode);
    }
    let mut piece = vec![0; 128 << 10];
    for load in loads {
        let end = load.offset.saturating_add(load.file_len);
        // Segments that overlap, or can be written to, are not worth a closer look here.
        if load.is_writable() || end > size {
            return Ok(FirstLook::Something);
        }
        let mut at = load.offset;
        while at < end {
            let len = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            let bytes = &mut piece[..len];
            file.read_exact_at(bytes, at)?;
            if may_call(bytes) {
                return Ok(FirstLook::Something);
            }
            // The last byte once more: a pair may lie across.
            at += if at + len as u64 == end { len } else { len - 1 } as u64;
        }
    }
    Ok(FirstLook::Nothing)
}

/// Addresses of all pairs, ascending.
pub(super) fn candidates(image: &Image<'_>, with_cpuid: bool) -> Vec<(u64, Pattern)> {
    let mut all = Vec::new();
    for load in image.loads().filter(Load::is_code) {
        let bytes = image.bytes_of(&load);
        let pairs = (0_u64..).zip(bytes.iter().zip(bytes.iter().skip(1)));
        all.extend(pairs.filter_map(|(at, (first, second))| {
            let pattern = pattern(*first, *second)?;
            let wanted = pattern != Pattern::Cpuid || with_cpuid;
            wanted.then(|| (load.vaddr.wrapping_add(at), pattern))
        }));
    }
    all.sort_by_key(|(vaddr, _)| *vaddr);
    all.dedup_by_key(|(vaddr, _)| *vaddr);
    all
}
