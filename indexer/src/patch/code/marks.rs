//! Which addresses may be gone to other than from the instruction before them: by branches, through tables, through pointers.

use std::ops::Range;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::decoder;
use super::layout::{Layout, Stretch};
use crate::patch::elf::{Image, Load, u32_at, u64_at};

/// One bit for each address of the code.
#[derive(Debug)]
struct Bits {
    start: u64,
    words: Vec<u64>,
}

impl Bits {
    fn new(range: &Range<u64>) -> Self {
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        Self {
            start: range.start,
            words: vec![0; len.div_ceil(64)],
        }
    }

    fn set(&mut self, vaddr: u64) {
        let bit = vaddr.wrapping_sub(self.start);
        let word = usize::try_from(bit / 64).ok();
        if let Some(word) = word.and_then(|at| self.words.get_mut(at)) {
            *word |= 1 << (bit % 64);
        }
    }

    fn has(&self, vaddr: u64) -> bool {
        let bit = vaddr.wrapping_sub(self.start);
        let word = usize::try_from(bit / 64).ok();
        let word = word.and_then(|at| self.words.get(at));
        word.is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }
}

/// Addresses that may be gone to other than from the instruction before.
#[derive(Debug)]
pub(in crate::patch) struct Marks {
    /// By a branch of their own stretch.
    within: Bits,
    /// By a jump through a table of their own stretch.
    by_table: Bits,
    /// By anything else.
    from_elsewhere: Bits,
}

impl Marks {
    fn new(range: &Range<u64>) -> Self {
        Self {
            within: Bits::new(range),
            by_table: Bits::new(range),
            from_elsewhere: Bits::new(range),
        }
    }

    fn set(&mut self, vaddr: u64) {
        self.from_elsewhere.set(vaddr);
    }

    /// Whether what leads here is not all known.
    pub(in crate::patch) fn is_entered(&self, vaddr: u64) -> bool {
        self.from_elsewhere.has(vaddr)
    }

    /// Whether a jump through a table of the same stretch may lead here.
    pub(in crate::patch) fn is_in_table(&self, vaddr: u64) -> bool {
        self.by_table.has(vaddr)
    }

    /// Whether an address is marked.
    pub(in crate::patch) fn has(&self, vaddr: u64) -> bool {
        self.within.has(vaddr) || self.by_table.has(vaddr) || self.from_elsewhere.has(vaddr)
    }

    /// Whether any address of the range is marked.
    pub(in crate::patch) fn any(&self, mut range: Range<u64>) -> bool {
        range.any(|vaddr| self.has(vaddr))
    }
}

/// Marks every address that may be gone to other than from the instruction before it.
pub(in crate::patch) fn targets(image: &Image<'_>, layout: &Layout) -> Option<Marks> {
    let first = image.loads().find(Load::is_code)?;
    // A file may claim any length: of what it does not have there is nothing to mark.
    let len = image.bytes_of(&first).len() as u64;
    let range = first.vaddr..first.vaddr.checked_add(len)?;
    let mut marks = Marks::new(&range);
    for stretch in &layout.stretches {
        marks.set(stretch.start);
    }
    for vaddr in layout.landing_pads.iter().chain(&layout.symbols) {
        marks.set(*vaddr);
    }
    for vaddr in image.relocated() {
        marks.set(vaddr);
    }
    // Tables of addresses, as programs at a fixed address have them, and relocations that are written in place.
    for load in image.loads().filter(Load::is_data) {
        let bytes = image.bytes_of(&load);
        let skipped = (load.vaddr.wrapping_neg() % 8) as usize;
        for word in bytes.get(skipped..).unwrap_or_default().as_chunks::<8>().0 {
            marks.set(u64::from_le_bytes(*word));
        }
    }
    let mut references = References::default();
    for stretch in &layout.stretches {
        mark_branches(image, stretch, &range, &mut marks, &mut references);
    }
    references.mark_tables(image, layout, &range, &mut marks);
    Some(marks)
}

/// Addresses of data that code refers to.
#[derive(Debug, Default)]
struct References {
    /// In any way.
    all: Vec<u64>,
    /// Those whose address is taken, and the start of the stretch that does it: they may be tables of distances from themselves, as
    /// position-independent code has them.
    taken: Vec<(u64, u64)>,
}

impl References {
    /// A table goes up to what leads elsewhere, or to the next thing that is referred to. What is no table at all marks a few addresses
    /// too many.
    fn mark_tables(
        mut self,
        image: &Image<'_>,
        layout: &Layout,
        range: &Range<u64>,
        marks: &mut Marks,
    ) {
        self.all.sort_unstable();
        self.all.dedup();
        self.taken.sort_unstable();
        self.taken.dedup();
        for (table, taker) in self.taken {
            let after = self.all.partition_point(|vaddr| *vaddr <= table);
            let end = self.all.get(after).copied().unwrap_or(u64::MAX);
            let bytes = image.at(table, end - table).unwrap_or_default();
            let words = (0..bytes.len())
                .step_by(4)
                .map_while(|at| u32_at(bytes, at));
            let targets = words.map(|distance| {
                table.wrapping_add(i64::from(distance.cast_signed()).cast_unsigned())
            });
            for vaddr in targets.take_while(|vaddr| range.contains(vaddr)) {
                if layout.find(vaddr).is_some_and(|found| found.start == taker) {
                    marks.by_table.set(vaddr);
                } else {
                    marks.set(vaddr);
                }
            }
        }
    }
}

fn mark_branches(
    image: &Image<'_>,
    stretch: &Stretch,
    range: &Range<u64>,
    marks: &mut Marks,
    references: &mut References,
) {
    let Some(mut decoder) = decoder(image, stretch.start..stretch.end) else {
        return;
    };
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        match instruction.flow_control() {
            FlowControl::ConditionalBranch
            | FlowControl::UnconditionalBranch
            | FlowControl::XbeginXabortXend => {
                let target = instruction.near_branch_target();
                if (stretch.start..stretch.end).contains(&target) {
                    marks.within.set(target);
                } else {
                    marks.set(target);
                }
            }
            FlowControl::Call => marks.set(instruction.near_branch_target()),
            FlowControl::IndirectBranch
                if instruction.memory_base() == Register::None
                    && instruction.memory_index() != Register::None =>
            {
                mark_addresses(image, instruction.memory_displacement64(), range, marks);
            }
            _ => {}
        }
        if instruction.is_ip_rel_memory_operand() {
            let vaddr = instruction.ip_rel_memory_address();
            if range.contains(&vaddr) {
                marks.set(vaddr);
            } else {
                references.all.push(vaddr);
                if instruction.mnemonic() == Mnemonic::Lea {
                    references.taken.push((vaddr, stretch.start));
                }
            }
        }
        if image.is_fixed() {
            for operand in 0..instruction.op_count() {
                let is_address = matches!(
                    instruction.op_kind(operand),
                    OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64
                );
                if is_address {
                    marks.set(instruction.immediate(operand));
                }
            }
        }
    }
}

/// A table of addresses, up to what is none of code.
fn mark_addresses(image: &Image<'_>, table: u64, range: &Range<u64>, marks: &mut Marks) {
    let bytes = image.at(table, u64::MAX).unwrap_or_default();
    let words = (0..bytes.len())
        .step_by(8)
        .map_while(|at| u64_at(bytes, at));
    for vaddr in words.take_while(|vaddr| range.contains(vaddr)) {
        marks.set(vaddr);
    }
}

/// No address is marked.
pub(in crate::patch) fn no_marks() -> Marks {
    Marks::new(&(0..0))
}
