//! A file's code, decoded: where functions begin, what branches reach, and what stands before and after an instruction of
//! interest.
//!
//! x86 code can only be read from a place where an instruction is known to begin. Such *starts* are what symbols, unwind tables and
//! section headers name; a *stretch* goes from one to the next and is decoded from its own start. What is decoded is believed to be
//! code only where nothing contradicts it: see [`Stretch::is_code`].

use std::collections::HashSet;
use std::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register,
};
use object::elf;

use super::elf::{Image, Load, u32_at, u64_at};
use super::number;
use super::unwind::Unwind;

/// How many instructions before one of interest are kept.
const KEPT: usize = 48;
/// How many after it are.
const AHEAD: usize = 12;

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
pub(super) struct Marks {
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
    pub(super) fn is_entered(&self, vaddr: u64) -> bool {
        self.from_elsewhere.has(vaddr)
    }

    /// Whether a jump through a table of the same stretch may lead here.
    pub(super) fn is_in_table(&self, vaddr: u64) -> bool {
        self.by_table.has(vaddr)
    }

    /// Whether an address is marked.
    pub(super) fn has(&self, vaddr: u64) -> bool {
        self.within.has(vaddr) || self.by_table.has(vaddr) || self.from_elsewhere.has(vaddr)
    }

    /// Whether any address of the range is marked.
    pub(super) fn any(&self, mut range: Range<u64>) -> bool {
        range.any(|vaddr| self.has(vaddr))
    }
}

/// From one known start to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    start: u64,
    end: u64,
    /// Up to where a function is known to reach; `start` where none is known to begin.
    covered: u64,
}

impl Stretch {
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}

/// Where the code of a file is.
#[derive(Debug)]
pub(super) struct Layout {
    /// Ascending.
    stretches: Vec<Stretch>,
    /// Whether functions are known by more than their names.
    has_unwind: bool,
    landing_pads: Vec<u64>,
    symbols: Vec<u64>,
}

/// How long ranges are together. A file may claim any: no more than there are addresses.
fn total<'r>(ranges: impl IntoIterator<Item = &'r Range<u64>>) -> u64 {
    let lens = ranges
        .into_iter()
        .map(|range| range.end.saturating_sub(range.start));
    lens.fold(0, u64::saturating_add)
}

impl Layout {
    pub(super) fn new(image: &Image<'_>) -> Self {
        let parts = code_parts(image);
        let inside = |vaddr: u64| parts.iter().any(|part| part.contains(&vaddr));
        let unwind = Unwind::read(image);
        let mut starts: Vec<(u64, u64)> = Vec::new();
        starts.extend(parts.iter().map(|part| (part.start, part.start)));
        starts.push((image.entry(), image.entry()));
        let symbols = image.symbols();
        for symbol in symbols.iter().filter(|symbol| symbol.is_function) {
            starts.push((symbol.value, symbol.value.saturating_add(symbol.len)));
        }
        // A few functions in assembly may have entries where all others were compiled without.
        let told = total(unwind.functions.iter().filter(|range| inside(range.start)));
        let has_unwind = told >= total(&parts) / 2;
        for range in &unwind.functions {
            starts.push((range.start, range.end));
        }
        starts.retain(|(start, _)| inside(*start));
        starts.sort_unstable();
        if !has_unwind {
            // Lengths of symbols leave out functions that have none.
            starts.iter_mut().for_each(|(start, end)| *end = *start);
        }
        let mut stretches: Vec<Stretch> = Vec::with_capacity(starts.len());
        let mut reach = 0;
        for (start, end) in starts {
            // A function goes on behind a start inside it.
            reach = reach.max(end);
            match stretches.last_mut() {
                Some(last) if last.start == start => last.covered = reach.max(start),
                _ => stretches.push(Stretch {
                    start,
                    end: start,
                    covered: reach.max(start),
                }),
            }
        }
        let next: Vec<u64> = stretches.iter().skip(1).map(|next| next.start).collect();
        for (at, stretch) in stretches.iter_mut().enumerate() {
            let part = parts.iter().find(|part| part.contains(&stretch.start));
            let part_end = part.map_or(stretch.start, |part| part.end);
            stretch.end = next.get(at).copied().unwrap_or(part_end).min(part_end);
        }
        Self {
            stretches,
            has_unwind,
            landing_pads: unwind.landing_pads,
            symbols: symbols.iter().map(|symbol| symbol.value).collect(),
        }
    }

    /// The stretch that an address lies in.
    pub(super) fn find(&self, vaddr: u64) -> Option<&Stretch> {
        let after = self
            .stretches
            .partition_point(|stretch| stretch.start <= vaddr);
        let stretch = self.stretches.get(after.checked_sub(1)?)?;
        (vaddr < stretch.end).then_some(stretch)
    }
}

/// The executable sections that lie in executable segments; the segments themselves of a file without sections.
fn code_parts(image: &Image<'_>) -> Vec<Range<u64>> {
    let loads: Vec<Load> = image.loads().filter(Load::is_code).collect();
    let inside = |range: &Range<u64>| {
        loads.iter().any(|load| {
            range.start >= load.vaddr && range.end <= load.vaddr.saturating_add(load.file_len)
        })
    };
    let sections = image.sections().filter(|section| {
        section.flags & elf::SHF_EXECINSTR.0 != 0 && section.kind != elf::SHT_NOBITS.0
    });
    let mut parts: Vec<_> = sections
        .map(|section| section.addr..section.addr.saturating_add(section.len))
        .filter(|range| !range.is_empty() && inside(range))
        .collect();
    if parts.is_empty() {
        let whole = loads
            .iter()
            .map(|load| load.vaddr..load.vaddr.saturating_add(load.file_len));
        parts = whole.collect();
    }
    parts.sort_by_key(|part| part.start);
    parts
}

/// Whether sections say that an address holds no code. A segment may hold tables as well; nothing jumps there.
pub(super) fn is_no_code(image: &Image<'_>, vaddr: u64) -> bool {
    !code_parts(image).iter().any(|part| part.contains(&vaddr))
}

/// An instruction of interest with its surroundings.
#[derive(Debug)]
pub(super) struct Around {
    /// Instructions in order.
    pub(super) code: Vec<Instruction>,
    /// Which of them it is.
    pub(super) at: usize,
    /// What eax is known to hold there.
    pub(super) number: Option<u32>,
}

/// Instructions that sites are made of.
fn is_of_interest(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Syscall | Code::Cpuid | Code::Sysenter => true,
        Code::Int_imm8 => instruction.immediate8() == 0x80,
        _ => false,
    }
}

fn decoder<'a>(image: &Image<'a>, range: Range<u64>) -> Option<Decoder<'a>> {
    let bytes = image.at(range.start, range.end.checked_sub(range.start)?)?;
    let whole = bytes.len() as u64 == range.end - range.start;
    whole.then(|| Decoder::with_ip(64, bytes, range.start, DecoderOptions::NONE))
}

/// The most instructions of a stretch that are looked at. Only a large program without symbols and unwind tables has more.
const MOST: usize = 1 << 20;

/// The instructions of a stretch, as far as they may be believed to be code.
pub(super) fn read(image: &Image<'_>, stretch: &Stretch, layout: &Layout) -> Vec<Instruction> {
    let mut code = Vec::new();
    let covered = stretch.covered.min(stretch.end);
    let has_function = covered > stretch.start;
    if layout.has_unwind && !has_function {
        return code;
    }
    let Some(mut decoder) = decoder(image, stretch.start..stretch.end) else {
        return code;
    };
    let must_reach = if has_function { covered } else { stretch.end };
    let mut reached = false;
    // Unwind tables leave out the instructions around a call that makes a new stack; these go on from what is covered.
    while decoder.can_decode() && code.len() < MOST {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            break;
        }
        code.push(instruction);
        reached |= decoder.ip() == must_reach;
        if decoder.ip() >= must_reach && !goes_on(&instruction) {
            break;
        }
    }
    if !reached {
        code.clear();
    }
    code
}

/// Whether the next instruction may follow.
fn goes_on(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Next | FlowControl::ConditionalBranch
    ) || instruction.code() == Code::Syscall
}

/// The instructions of interest in `code`, a stretch's, each with its surroundings.
pub(super) fn sites(code: &[Instruction], marks: &Marks) -> Vec<Around> {
    let mut numbers = None;
    let sites = code
        .iter()
        .enumerate()
        .filter(|(_, one)| is_of_interest(one));
    let around = sites.map(|(at, _)| {
        let numbers = numbers.get_or_insert_with(|| number::numbers(code, marks));
        let first = at.saturating_sub(KEPT);
        let last = code.len().min(at + AHEAD);
        Around {
            code: code[first..last].to_vec(),
            at: at - first,
            number: numbers.get(&at).copied(),
        }
    });
    around.collect()
}

/// Whether `code` has anything of interest.
pub(super) fn has_sites(code: &[Instruction]) -> bool {
    code.iter().any(is_of_interest)
}

/// Whether the bytes at each of these ascending addresses are the inside of an instruction, and not of one of interest, of code that
/// nothing contradicts up to there. With a prefix in front a system call is one all the same.
pub(super) fn are_inside_others(
    image: &Image<'_>,
    stretch: &Stretch,
    vaddrs: impl IntoIterator<Item = u64>,
) -> bool {
    let Some(mut decoder) = decoder(image, stretch.start..stretch.end) else {
        return false;
    };
    let mut instruction = Instruction::default();
    vaddrs.into_iter().all(|vaddr| {
        while decoder.can_decode() && instruction.next_ip() <= vaddr {
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                return false;
            }
        }
        (instruction.ip() + 1..instruction.next_ip()).contains(&vaddr)
            && !is_of_interest(&instruction)
    })
}

/// Whether a program dies of an instruction, so that none behind it is come to.
fn is_forbidden(instruction: &Instruction) -> bool {
    instruction.is_privileged()
        || matches!(
            instruction.mnemonic(),
            Mnemonic::In
                | Mnemonic::Out
                | Mnemonic::Insb
                | Mnemonic::Insd
                | Mnemonic::Outsb
                | Mnemonic::Outsd
                | Mnemonic::Cli
                | Mnemonic::Sti
                | Mnemonic::Hlt
        )
}

/// The most instructions of a gap that are followed.
const MOST_SEEN: usize = 1 << 16;

/// Whether the bytes at `vaddr`, which no function covers, are no instruction that is come to: no way from where the gap may be
/// entered leads there. They are a table then, of which hand-written code has some between its functions.
pub(super) fn is_out_of_reach(
    image: &Image<'_>,
    (stretch, layout): (&Stretch, &Layout),
    marks: &Marks,
    vaddr: u64,
) -> bool {
    let covered = stretch.covered.min(stretch.end);
    if !layout.has_unwind || vaddr < covered {
        return false;
    }
    // Branches that a table seems to have are not among them: it would be entered by itself.
    let mut todo: Vec<u64> = (covered..=vaddr)
        .filter(|at| marks.is_entered(*at))
        .collect();
    todo.extend((covered..=vaddr).filter(|at| marks.is_in_table(*at)));
    if covered > stretch.start {
        let function = read(image, stretch, layout);
        let inside = function.iter().filter(|one| one.next_ip() <= covered);
        match inside.clone().next_back() {
            Some(last) if last.next_ip() == covered && !goes_on(last) => {}
            Some(last) if last.next_ip() == covered => todo.push(covered),
            _ => return false,
        }
        todo.extend(inside.map(Instruction::near_branch_target));
    }
    let gap = covered..stretch.end;
    let mut seen = HashSet::new();
    while let Some(entry) = todo.pop() {
        if !gap.contains(&entry) || seen.contains(&entry) {
            continue;
        }
        let Some(mut decoder) = decoder(image, entry..stretch.end) else {
            return false;
        };
        while decoder.can_decode() && seen.insert(decoder.ip()) {
            let one = decoder.decode();
            if one.ip() == vaddr || seen.len() > MOST_SEEN {
                return false;
            }
            if one.is_invalid() || is_forbidden(&one) {
                break;
            }
            todo.push(one.near_branch_target());
            if !goes_on(&one) && one.flow_control() != FlowControl::Call {
                break;
            }
        }
    }
    true
}

/// Marks every address that may be gone to other than from the instruction before it.
pub(super) fn targets(image: &Image<'_>, layout: &Layout) -> Option<Marks> {
    let first = image.loads().find(Load::is_code)?;
    let range = first.vaddr..first.vaddr.checked_add(first.file_len)?;
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
pub(super) fn no_marks() -> Marks {
    Marks::new(&(0..0))
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a file may say so")]
    fn functions_that_are_said_to_be_longer_than_all_addresses_add_up_to_no_more() {
        let lies = [0..u64::MAX, 1..u64::MAX, 7..3, 10..14];
        assert_eq!(total(&lies), u64::MAX);
        assert_eq!(total(&lies[2..]), 4);
    }
}
