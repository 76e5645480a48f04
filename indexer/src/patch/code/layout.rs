//! Where the code of a file is: parts that may be executed, cut into stretches at known starts.

use std::ops::Range;

use object::elf;

use crate::patch::elf::{Image, Load};
use crate::patch::unwind::Unwind;

/// From one known start to the next.
#[derive(Debug, Clone, Copy)]
pub(in crate::patch) struct Stretch {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Up to where a function is known to reach; `start` where none is known to begin.
    pub(super) covered: u64,
}

impl Stretch {
    pub(in crate::patch) fn end(&self) -> u64 {
        self.end
    }
}

/// Where the code of a file is.
#[derive(Debug)]
pub(in crate::patch) struct Layout {
    /// Ascending.
    pub(super) stretches: Vec<Stretch>,
    /// Whether functions are known by more than their names.
    pub(super) has_unwind: bool,
    pub(super) landing_pads: Vec<u64>,
    pub(super) symbols: Vec<u64>,
}

/// How long ranges are together. A file may claim any: no more than there are addresses.
fn total<'r>(ranges: impl IntoIterator<Item = &'r Range<u64>>) -> u64 {
    let lens = ranges
        .into_iter()
        .map(|range| range.end.saturating_sub(range.start));
    lens.fold(0, u64::saturating_add)
}

impl Layout {
    pub(in crate::patch) fn new(image: &Image<'_>) -> Self {
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
    pub(in crate::patch) fn find(&self, vaddr: u64) -> Option<&Stretch> {
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
pub(in crate::patch) fn is_no_code(image: &Image<'_>, vaddr: u64) -> bool {
    !code_parts(image).iter().any(|part| part.contains(&vaddr))
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
