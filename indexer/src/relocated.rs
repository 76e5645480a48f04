//! Which pages of an ELF file's data its dynamic linker is certain to write to: those in which it relocates words.
//!
//! Of these the run with the most is kept, for a runtime that maps the data to have all of it made the process's own at once, which
//! costs half of what a fault for each page does. A function of the file's content; every number in it is a lie until compared
//! with what else there is, and what does not add up gives no run.
//!
//! ```text
//!   DT_RELA, DT_REL, DT_JMPREL, DT_RELR → addresses → pages of a writable segment → the run that is worth most
//! ```
//!
//! Of the one other kind of file that is relocated see [`dump`].

pub mod dump;

use std::io;

use elfuse_format::text::{PAGE, RelocatedRun};
use object::elf;

use crate::inspect::ReadAt;
use crate::patch::{Load, loads, program_headers, u64_at};

/// The shortest run that is worth a call, in pages.
pub const MIN_PAGES: usize = 4;

/// How many pages that are written to one that is not has to stand between. Making that one the process's own costs some
/// 0.4 us, as much as is saved for each of the others, and 4 KiB of memory besides.
pub const UNWRITTEN: i64 = 4;

/// Pages of one segment that are looked at: a GiB of data.
const MAX_PAGES: u64 = 1 << 18;
/// Segments that are looked at: linkers make one or two.
const MOST_SEGMENTS: usize = 16;

/// Bytes of one table of relocations that are looked at.
const MAX_TABLE: u64 = 64 << 20;

/// Bytes of a dynamic section that are looked at. Real ones have a few hundred.
const MAX_DYNAMIC: u64 = 64 << 10;

/// How much is read at once: whole rows of each kind of table.
const PIECE: usize = 24 * 16 * 256;

/// The rows of a table of relocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Rela,
    Rel,
    /// Addresses, and bitmaps of the 63 words behind the last one.
    Relr,
}

impl Rows {
    const fn len(self) -> usize {
        match self {
            Self::Rela => 24,
            Self::Rel => 16,
            Self::Relr => 8,
        }
    }
}

/// The pages of a writable segment.
struct Written {
    load: Load,
    /// Page of the file that the segment begins in.
    first: u64,
    pages: Vec<bool>,
}

impl Written {
    /// `None`: it is not one that is mapped from a file of `size` bytes.
    fn of(load: Load, size: u64) -> Option<Self> {
        let end = load.offset.checked_add(load.file_len)?;
        let first = load.offset / PAGE;
        let count = end.div_ceil(PAGE) - first;
        load.vaddr.checked_add(load.file_len)?;
        let is_usable =
            load.offset % PAGE == load.vaddr % PAGE && count <= MAX_PAGES && end <= size;
        is_usable.then(|| Self {
            load,
            first,
            pages: vec![false; usize::try_from(count).unwrap_or(0)],
        })
    }

    /// The word at this address is written to.
    fn mark(&mut self, vaddr: u64) {
        let at = vaddr.wrapping_sub(self.load.vaddr);
        if at < self.load.file_len {
            let page = (self.load.offset + at) / PAGE - self.first;
            if let Some(page) = usize::try_from(page)
                .ok()
                .and_then(|at| self.pages.get_mut(at))
            {
                *page = true;
            }
        }
    }

    fn best(&self) -> Option<(i64, RelocatedRun)> {
        let (start, len, worth) = best_run(&self.pages)?;
        Some((worth, run_at(self.first + start as u64, len)?))
    }
}

/// The run of `len` pages from page `first` of a file on.
fn run_at(first: u64, len: usize) -> Option<RelocatedRun> {
    Some(RelocatedRun {
        first: u32::try_from(first).ok()?,
        pages: u32::try_from(len).ok()?,
    })
}

/// The run of pages that is worth most: start, length, and how many of it are written less [`UNWRITTEN`] for each that is not. The first one
/// of several; `None`: none is as long as [`MIN_PAGES`] and worth anything.
fn best_run(written: &[bool]) -> Option<(usize, usize, i64)> {
    let mut best = None;
    let (mut start, mut worth) = (0, 0);
    for (at, written) in written.iter().enumerate() {
        // What is worth nothing up to here is left behind.
        if worth <= 0 {
            (start, worth) = (at, 0);
        }
        worth += if *written { 1 } else { -UNWRITTEN };
        let len = at + 1 - start;
        if len >= MIN_PAGES && worth > best.map_or(0, |(_, _, worth)| worth) {
            best = Some((start, len, worth));
        }
    }
    best
}

/// Bytes that should be there; fewer where the file ends.
fn read(file: &impl ReadAt, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = file.read_at(&mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The run of an ELF file for x86-64 of `size` bytes that begins with `head`, if it has one.
///
/// # Errors
/// What reading gives.
pub(crate) fn relocated(
    file: &impl ReadAt,
    head: &[u8],
    size: u64,
) -> io::Result<Option<RelocatedRun>> {
    let Some((at, len)) = program_headers(head) else {
        return Ok(None);
    };
    let table = read(file, at, len as u64)?;
    let mut written: Vec<_> = loads(&table)
        .filter(|load| load.kind == elf::PT_LOAD.0 && load.is_writable() && load.file_len > 0)
        .filter_map(|load| Written::of(load, size))
        .filter(|written| written.pages.len() >= MIN_PAGES)
        .take(MOST_SEGMENTS)
        .collect();
    let dynamic = loads(&table).find(|load| load.kind == elf::PT_DYNAMIC.0);
    let Some(dynamic) = dynamic.filter(|_| !written.is_empty()) else {
        return Ok(None);
    };
    let dynamic = read(file, dynamic.offset, dynamic.file_len.min(MAX_DYNAMIC))?;
    let rows = || {
        let rows = dynamic.chunks_exact(16);
        rows.filter_map(|row| Some((u64_at(row, 0)?.cast_signed(), u64_at(row, 8)?)))
            .take_while(|(tag, _)| *tag != elf::DT_NULL.0)
    };
    // Of a tag that may stand once, ld.so takes the last.
    let last = |tag: elf::DynamicTag| {
        rows()
            .filter(|row| row.0 == tag.0)
            .last()
            .map(|(_, value)| value)
    };
    let of_plt = match last(elf::DT_PLTREL) {
        Some(kind) if kind == elf::DT_REL.0.cast_unsigned() => Rows::Rel,
        _ => Rows::Rela,
    };
    for (at, len, rows) in [
        (elf::DT_RELA, elf::DT_RELASZ, Rows::Rela),
        (elf::DT_REL, elf::DT_RELSZ, Rows::Rel),
        (elf::DT_RELR, elf::DT_RELRSZ, Rows::Relr),
        (elf::DT_JMPREL, elf::DT_PLTRELSZ, of_plt),
    ] {
        let (Some(vaddr), Some(len)) = (last(at), last(len)) else {
            continue;
        };
        let place = loads(&table).find_map(|load| {
            let into = vaddr.wrapping_sub(load.vaddr);
            let is_here = load.kind == elf::PT_LOAD.0 && into < load.file_len;
            let offset = load.offset.checked_add(into).filter(|_| is_here)?;
            Some((offset, len.min(load.file_len - into)))
        });
        if let Some((offset, len)) = place
            && len <= MAX_TABLE
        {
            each_target(file, (offset, len), rows, |vaddr| {
                for segment in &mut written {
                    segment.mark(vaddr);
                }
            })?;
        }
    }
    let best = written.iter().filter_map(Written::best);
    Ok(best.max_by_key(|(worth, _)| *worth).map(|(_, run)| run))
}

/// The same of a file that is in memory.
#[must_use]
pub fn of_bytes(bytes: &[u8]) -> Option<RelocatedRun> {
    let head = bytes.get(..64)?;
    // Reading memory cannot fail.
    relocated(&bytes, head, bytes.len() as u64).ok().flatten()
}

/// Calls `each` with the address that each relocation of a table writes to.
fn each_target(
    file: &impl ReadAt,
    table: (u64, u64),
    rows: Rows,
    mut each: impl FnMut(u64),
) -> io::Result<()> {
    // Where DT_RELR's next bitmap begins.
    let mut next: u64 = 0;
    each_row(file, table, rows.len(), |row| {
        let Some(first) = u64_at(row, 0) else {
            return;
        };
        match rows {
            Rows::Rela | Rows::Rel => {
                // The type is the lower half of r_info.
                let kind = u64_at(row, 8).map(|info| info as u32);
                if kind != Some(elf::R_X86_64_NONE.0) {
                    each(first);
                }
            }
            Rows::Relr if first & 1 == 0 => {
                each(first);
                next = first.wrapping_add(8);
            }
            Rows::Relr => {
                for bit in (1..64).filter(|bit| first >> bit & 1 != 0) {
                    each(next.wrapping_add(8 * (bit - 1)));
                }
                next = next.wrapping_add(8 * 63);
            }
        }
    })
}

/// Calls `each` with the rows of a table at an offset, of so many bytes, as far as the file has them.
fn each_row(
    file: &impl ReadAt,
    (offset, len): (u64, u64),
    row_len: usize,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < len {
        let wanted = usize::try_from(len - done).unwrap_or(PIECE).min(PIECE);
        let got = file.read_at(&mut piece[..wanted], offset.saturating_add(done))?;
        piece[..got].chunks_exact(row_len).for_each(&mut each);
        if got < wanted {
            break;
        }
        done += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
