//! What to map where: decided here, without touching memory; done by [`super::map`].

use super::elf::{Addressing, Flags, Header, NotLoadable, ProgramHeaders, Segment};
use crate::sys::abi::PAGE;

/// The end of what a process can address (47 bits, the last page left out).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// One image to be mapped.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Its header.
    pub header: Header,
    /// Its program headers.
    pub phdrs: ProgramHeaders<'a>,
    /// First address, page-aligned, before the base is added.
    pub start: u64,
    /// Bytes from there to the end of the last segment, whole pages.
    pub len: u64,
    /// The base is a multiple of this.
    pub align: u64,
}

/// One segment in whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// First address, page-aligned, before the base is added.
    pub start: u64,
    /// Bytes mapped from the file, whole pages; 0: none.
    pub file_len: u64,
    /// Offset in the file, page-aligned.
    pub file_offset: u64,
    /// What to clear: from the end of the file's bytes to the end of their page. Empty where the segment has no more memory than
    /// file, or may not be written to: nothing but BSS and the padding before it is ever cleared.
    pub clear: (u64, u64),
    /// Whole pages of zeros after the file's.
    pub zero_len: u64,
    /// Protection.
    pub flags: Flags,
}

const fn page_down(at: u64) -> u64 {
    at & !(PAGE as u64 - 1)
}

const fn page_up(at: u64) -> u64 {
    page_down(at + (PAGE as u64 - 1))
}

impl Piece {
    fn of(segment: &Segment) -> Self {
        let start = page_down(segment.vaddr);
        let file_end = segment.vaddr + segment.file_len;
        let memory_end = segment.vaddr + segment.memory_len;
        let mapped_end = if segment.file_len == 0 {
            start
        } else {
            page_up(file_end)
        };
        let bss = segment.memory_len > segment.file_len && segment.file_len != 0;
        Self {
            start,
            file_len: mapped_end - start,
            file_offset: page_down(segment.offset),
            clear: if bss && segment.flags.writable() {
                (file_end, mapped_end)
            } else {
                (0, 0)
            },
            zero_len: page_up(memory_end).saturating_sub(mapped_end),
            flags: segment.flags,
        }
    }

    /// Bytes in whole pages.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.file_len + self.zero_len
    }

    /// Whether there is nothing to map.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> Plan<'a> {
    /// A plan for the image with this header and these program headers.
    ///
    /// # Errors
    /// [`NotLoadable::Malformed`].
    pub fn new(header: Header, phdrs: ProgramHeaders<'a>) -> Result<Self, NotLoadable> {
        let (mut start, mut end, mut align) = (u64::MAX, 0_u64, PAGE as u64);
        for segment in phdrs.segments() {
            let last = segment.vaddr.checked_add(segment.memory_len);
            let last = last.filter(|last| *last <= TASK_SIZE);
            let last = last.ok_or(NotLoadable::Malformed("a segment beyond the address space"))?;
            if segment.file_len > segment.memory_len {
                return Err(NotLoadable::Malformed(
                    "a segment with more file than memory",
                ));
            }
            if segment.offset.checked_add(segment.file_len).is_none() {
                return Err(NotLoadable::Malformed("a segment beyond the file"));
            }
            if segment.file_len != 0 && segment.vaddr % PAGE as u64 != segment.offset % PAGE as u64
            {
                return Err(NotLoadable::Malformed(
                    "a segment whose offset and address disagree",
                ));
            }
            start = start.min(page_down(segment.vaddr));
            end = end.max(page_up(last));
            if segment.align.is_power_of_two() {
                align = align.max(segment.align);
            }
        }
        if start >= end {
            return Err(NotLoadable::Malformed("no segment to load"));
        }
        Ok(Self {
            header,
            phdrs,
            start,
            len: end - start,
            align,
        })
    }

    /// The segments in whole pages, in the file's order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + use<'a> {
        self.phdrs
            .segments()
            .map(|s| Piece::of(&s))
            .filter(|piece| !piece.is_empty())
    }

    /// Whether it may lie anywhere.
    #[must_use]
    pub fn is_relative(&self) -> bool {
        self.header.addressing == Addressing::Relative
    }

    /// Address of the program headers in memory, before the base is added, as AT_PHDR gives it: the segment that holds them, else
    /// what PT_PHDR says.
    #[must_use]
    pub fn phdr_vaddr(&self) -> Option<u64> {
        let offset = self.header.phdr_offset;
        let holds = |s: &Segment| s.offset <= offset && offset - s.offset < s.file_len;
        let held = self
            .phdrs
            .segments()
            .find(holds)
            .map(|s| s.vaddr + (offset - s.offset));
        held.or(self.phdrs.own_vaddr())
    }

    /// What `/proc/self/stat` calls code and data, by the rules of the kernel's loader, and where the heap may start.
    #[must_use]
    pub fn extent(&self) -> Extent {
        let mut extent = Extent {
            code: (u64::MAX, 0),
            data: (0, 0),
            end: 0,
        };
        for segment in self.phdrs.segments() {
            let file_end = segment.vaddr + segment.file_len;
            if segment.flags.executable() {
                extent.code.0 = extent.code.0.min(segment.vaddr);
                extent.code.1 = extent.code.1.max(file_end);
            }
            extent.data.0 = extent.data.0.max(segment.vaddr);
            extent.data.1 = extent.data.1.max(file_end);
            extent.end = extent.end.max(segment.vaddr + segment.memory_len);
        }
        extent
    }
}

/// See [`Plan::extent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Start of the first executable segment, end of the last one's bytes in the file. Without one, the first is above the second.
    pub code: (u64, u64),
    /// Start of the last segment, end of the file's bytes.
    pub data: (u64, u64),
    /// End of memory, BSS included.
    pub end: u64,
}
