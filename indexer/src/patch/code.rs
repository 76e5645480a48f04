//! A file's code, decoded: where functions begin, what branches reach, and what stands before and after an instruction of
//! interest.
//!
//! x86 code can only be read from a place where an instruction is known to begin. Such *starts* are what symbols, unwind tables and
//! section headers name; a *stretch* goes from one to the next and is decoded from its own start. What is decoded is believed to be
//! code only where nothing contradicts it: see [`read`].

mod layout;
mod marks;

use std::collections::HashSet;
use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

pub(super) use self::layout::{Layout, Stretch, is_no_code};
pub(super) use self::marks::{Marks, no_marks, targets};
use super::elf::Image;
use super::number;

/// How many instructions before one of interest are kept.
const KEPT: usize = 48;
/// How many after it are.
const AHEAD: usize = 12;

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
