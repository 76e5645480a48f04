//! A first look: whether the two bytes of an instruction of interest are anywhere in a file's code. Nothing is decoded, so they
//! may be part of another instruction, or data; without them there is nothing to look for.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::elf::{self, Image, Load};

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

/// Whether any pair begins in the first [`PIECE`] bytes; CPUID's if that is wanted.
fn may_be(piece: &[u8], with_cpuid: bool) -> bool {
    let second = piece.get(1..).unwrap_or_default();
    piece.iter().zip(second).fold(false, |found, (&a, &b)| {
        let call = (a == 0x0f) & ((b == 0x05) | (b == 0x34)) | (a == 0xcd) & (b == 0x80);
        found | call | (with_cpuid & (a == 0x0f) & (b == 0xa2))
    })
}

/// Whether a system call may be made here.
fn may_call(bytes: &[u8]) -> bool {
    let starts = (0..bytes.len()).step_by(PIECE);
    let mut pieces = starts.map(|at| &bytes[at..bytes.len().min(at + PIECE + 1)]);
    pieces.any(|piece| may_be(piece, false))
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

/// A first look at a file that is read from its start, a piece at a time. Whoever reads it for another reason looks on the way,
/// so that what is found is of the very bytes that the other reason is about.
#[derive(Debug)]
pub struct Look {
    /// Where code is in the file.
    code: Vec<Range<u64>>,
    found: FirstLook,
    /// Offset and value of the last byte that was seen: a pair may lie across two pieces.
    last: Option<(u64, u8)>,
}

impl Look {
    /// At a file that starts with these bytes, which are to be seen again with all others.
    #[must_use]
    pub fn new(start: &[u8]) -> Self {
        let mut look = Self {
            code: Vec::new(),
            found: FirstLook::NoCode,
            last: None,
        };
        let Some((at, len)) = elf::program_headers(start) else {
            return look;
        };
        let end = at.saturating_add(len as u64);
        let Some(table) = start.get(place(at, 0)..place(end, 0)) else {
            // Far from where everybody puts it. Analysis will find it, or find that it is not there.
            look.found = FirstLook::Something;
            return look;
        };
        for load in elf::loads(table).filter(Load::is_code) {
            look.found = match look.found {
                FirstLook::Something => FirstLook::Something,
                // Not worth a closer look here.
                _ if load.is_writable() => FirstLook::Something,
                _ => FirstLook::Nothing,
            };
            (look.code).push(load.offset..load.offset.saturating_add(load.file_len));
        }
        look
    }

    /// Looks at the bytes at `offset`, which are behind all that were seen.
    pub fn see(&mut self, offset: u64, bytes: &[u8]) {
        if self.found != FirstLook::Nothing {
            return;
        }
        let end = offset + bytes.len() as u64;
        let calls = self.code.iter().any(|code| {
            let (from, to) = (code.start.max(offset), code.end.min(end));
            let Some(bytes) = bytes.get(place(from, offset)..place(to, offset)) else {
                return false;
            };
            let across = match (self.last, bytes.first()) {
                (Some((at, last)), Some(first))
                    if at >= code.start && at + 1 == from && from < to =>
                {
                    may_call(&[last, *first])
                }
                _ => false,
            };
            across || may_call(bytes)
        });
        if calls {
            self.found = FirstLook::Something;
        }
        self.last = bytes.last().map(|last| (end - 1, *last));
    }

    /// What was found in a file of `size` bytes, once all of them were seen.
    #[must_use]
    pub fn found(&self, size: u64) -> FirstLook {
        match self.found {
            FirstLook::Nothing if self.code.iter().any(|code| code.end > size) => {
                FirstLook::Something
            }
            found => found,
        }
    }
}

/// An index into the bytes at `offset`; one outside of any for what is before them.
fn place(at: u64, offset: u64) -> usize {
    at.checked_sub(offset)
        .and_then(|at| usize::try_from(at).ok())
        .unwrap_or(usize::MAX)
}

/// Reads a file until something is found.
///
/// # Errors
/// What reading gives.
pub fn first_look(file: &File) -> io::Result<FirstLook> {
    let mut piece = vec![0; 128 << 10];
    let mut at = 0;
    let mut look = None;
    loop {
        let len = file.read_at(&mut piece, at)?;
        let look = look.get_or_insert_with(|| Look::new(&piece[..len]));
        look.see(at, &piece[..len]);
        at += len as u64;
        if len == 0 || look.found != FirstLook::Nothing {
            return Ok(look.found(at));
        }
    }
}

/// Addresses of all pairs, ascending.
pub(super) fn candidates(image: &Image<'_>, with_cpuid: bool) -> Vec<(u64, Pattern)> {
    let mut all = Vec::new();
    for load in image.loads().filter(Load::is_code) {
        let bytes = image.bytes_of(&load);
        // Most pieces hold no pair, and what tells that is fast.
        for at in (0..bytes.len()).step_by(PIECE) {
            let piece = &bytes[at..bytes.len().min(at + PIECE + 1)];
            if !may_be(piece, with_cpuid) {
                continue;
            }
            for (pair, at) in piece.windows(2).zip(at as u64..) {
                let found = pattern(pair[0], pair[1]);
                if let Some(found) = found
                    && (with_cpuid || found != Pattern::Cpuid)
                {
                    all.push((load.vaddr.wrapping_add(at), found));
                }
            }
        }
    }
    all.sort_by_key(|(vaddr, _)| *vaddr);
    all.dedup_by_key(|(vaddr, _)| *vaddr);
    all
}

#[cfg(test)]
mod tests {
    use super::{FirstLook, Look, PIECE, may_call};

    /// A look at code that lies at 10..2000 of a file that is read in pieces of `len` bytes.
    fn look(bytes: &[u8], len: usize) -> FirstLook {
        let mut look = Look {
            code: std::iter::once(10..2000).collect(),
            found: FirstLook::Nothing,
            last: None,
        };
        for (at, piece) in (0..).step_by(len).zip(bytes.chunks(len)) {
            look.see(at, piece);
        }
        look.found(bytes.len() as u64)
    }

    #[test]
    fn a_pair_is_found_wherever_it_lies_in_code_and_however_the_file_is_read() {
        for at in [10, 11, PIECE - 1, PIECE, 2 * PIECE - 1, 1997, 1998] {
            let mut bytes = vec![0; 3000];
            bytes[at..at + 2].copy_from_slice(&[0x0f, 0x05]);
            assert!(may_call(&bytes), "{at}");
            for len in [1, 2, 7, PIECE, PIECE + 1, 1024, 4096] {
                assert_eq!(look(&bytes, len), FirstLook::Something, "{at} {len}");
            }
        }
    }

    #[test]
    fn a_pair_that_is_not_wholly_code_is_none() {
        for at in [0, 8, 9, 1999, 2000, 2500] {
            let mut bytes = vec![0; 3000];
            bytes[at..at + 2].copy_from_slice(&[0xcd, 0x80]);
            for len in [1, 2, 10, 1999, 2000, 4096] {
                assert_eq!(look(&bytes, len), FirstLook::Nothing, "{at} {len}");
            }
        }
    }
}
