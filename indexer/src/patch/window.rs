//! Which instructions a jump may take the place of.
//!
//! ```text
//!   shape A, C:  [before] site [after]      all of it is moved into the stub
//!   shape D:     [before] | site            `before` is moved; the stub leads back to the site, or behind it
//!   shape B:     [before] others | site     `before` is moved; the site is always come to
//! ```
//!
//! A jump of seven bytes takes the place of whole instructions, none of which may know where it stands and between which nobody
//! may jump.

use std::fmt;
use std::ops::Range;

use iced_x86::{
    Code, FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register, RflagsBits,
    UsedRegister,
};

use super::code::{Around, Marks};
use elfuse_format::text::{Class, class};

/// Length of the jump in bytes.
pub(super) const JUMP: u64 = 7;

/// How a site is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// The call is made by the runtime, or in the stub.
    A,
    /// The call stays where it is; the stub says before it that leases end, where they do.
    B,
    /// CPUID.
    C,
    /// As A, but what the runtime does not serve is made where it stood: its number is not known, so it may be one whose caller is
    /// recognised by where it waits.
    D,
}

/// Why a site is not patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// A branch may lead between the instructions that would have to go, or to the call itself.
    Branch,
    /// Too few instructions that could stand elsewhere.
    Short,
    /// They need the register that an address relative to them would have to go through.
    Register,
    /// They belong to another site's window.
    Taken,
    /// Not all bytes of its function are instructions.
    NotCode,
    /// A 32-bit gate: no patching helps.
    Gate,
    /// The file has no copy.
    File,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Branch => "a branch may lead into the window",
            Self::Short => "too few instructions around it can stand elsewhere",
            Self::Register => "r11, through which an address would go, is in use",
            Self::Taken => "the window of a neighbour is in the way",
            Self::NotCode => "its surroundings are not code throughout",
            Self::Gate => "a 32-bit gate",
            Self::File => "the file has no copy",
        })
    }
}

/// The instructions that are moved, as indices into [`Around::code`].
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) shape: Shape,
    pub(super) range: Range<usize>,
    /// Shapes B and C: r11 may be in use and is kept.
    pub(super) keeps_r11: bool,
    /// Shape B of a call that may end no leases: before which of the moved instructions the argument that tells is in its register and the
    /// flags are nobody's, so that the stub may look at it. `None`: leases end whatever it is.
    pub(super) asks_before: Option<(usize, Question)>,
}

/// Chooses windows, in the order of addresses.
#[derive(Debug)]
pub(super) struct Chooser<'m> {
    marks: &'m Marks,
    /// Addresses of windows that are chosen already.
    taken: Vec<Range<u64>>,
}

impl Window {
    /// Where it is in the file.
    pub(super) fn addresses(&self, around: &Around) -> Range<u64> {
        let code = &around.code[self.range.clone()];
        let start = code.first().map_or(0, Instruction::ip);
        start..code.last().map_or(start, Instruction::next_ip)
    }

    /// The jump that it ends with, if it does.
    pub(super) fn jump<'a>(&self, around: &'a Around) -> Option<&'a Instruction> {
        let last = around.code[self.range.clone()].last();
        last.filter(|one| one.flow_control() == FlowControl::UnconditionalBranch)
    }

    /// Where the file goes on.
    pub(super) fn way_back(&self, around: &Around) -> u64 {
        let jump = self.jump(around).map(Instruction::near_branch_target);
        jump.unwrap_or_else(|| self.addresses(around).end)
    }
}

fn may_move(instruction: &Instruction) -> bool {
    let goes_on = instruction.flow_control() == FlowControl::Next && !instruction.is_invalid();
    // A site of its own.
    goes_on && instruction.code() != Code::Cpuid
}

/// Whether an instruction may be the last of a window though it does not go on: a return needs no way back, and a jump's target
/// is one.
fn may_end(instruction: &Instruction) -> bool {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch => instruction.near_branch_target() != 0,
        FlowControl::Return => instruction.code() == Code::Retnq,
        _ => false,
    }
}

fn uses(instruction: &Instruction, register: Register, how: impl Fn(OpAccess) -> bool) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let is_it =
        |used: &UsedRegister| used.register().full_register() == register && how(used.access());
    info.used_registers().iter().any(is_it)
}

/// Whether an instruction reads or writes a register, or part of it.
pub(super) fn touches(instruction: &Instruction, register: Register) -> bool {
    uses(instruction, register, |_| true)
}

fn touches_r11(instruction: &Instruction) -> bool {
    touches(instruction, Register::R11)
}

fn reads_r11(instruction: &Instruction) -> bool {
    uses(instruction, Register::R11, |access| {
        !matches!(access, OpAccess::Write)
    })
}

/// What tells whether a call ends leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether the descriptor in edi is known.
    Descriptor,
    /// Which command of fcntl(2) is in esi.
    Command,
}

impl Question {
    fn of(number: u32) -> Option<Self> {
        match class(number) {
            Class::Reading => Some(Self::Descriptor),
            Class::Control => Some(Self::Command),
            _ => None,
        }
    }

    fn register(self) -> Register {
        match self {
            Self::Descriptor => Register::RDI,
            Self::Command => Register::RSI,
        }
    }
}

fn writes(instruction: &Instruction, register: Register) -> bool {
    uses(instruction, register, |access| {
        !matches!(access, OpAccess::Read | OpAccess::CondRead)
    })
}

/// The flags that comparing and adding changes.
const STATUS: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// Whether nobody reads a status flag that is as it was before `code`, at the end of which a system call is made: behind that nobody
/// relies on any.
fn are_flags_free<'c>(code: impl Iterator<Item = &'c Instruction>) -> bool {
    let mut kept = STATUS;
    for one in code {
        // Where a branch leads they may be read.
        if one.rflags_read() & kept != 0 || one.flow_control() != FlowControl::Next {
            return kept == 0;
        }
        kept &= !one.rflags_modified();
    }
    true
}

/// See [`Window::asks_before`]: `moved` are the instructions of the window, `between` those from there to the site.
fn asks_before(
    register: Register,
    moved: &[Instruction],
    between: &[Instruction],
) -> Option<usize> {
    let rest = |at: usize| moved[at..].iter().chain(between);
    let is_written = |one: &Instruction| writes(one, register);
    let may = |at: &usize| !rest(*at).any(is_written) && are_flags_free(rest(*at));
    (0..=moved.len()).rev().find(may)
}

impl<'m> Chooser<'m> {
    pub(super) fn new(marks: &'m Marks) -> Self {
        let taken = Vec::new();
        Self { marks, taken }
    }

    /// Whether a window may be there, and its end be jumped back to: `end` is the first address that may be a target again.
    fn is_free(&self, code: &[Instruction], range: &Range<usize>, end: u64) -> Result<(), Refusal> {
        let (first, last) = (&code[range.start], &code[range.end - 1]);
        if last.next_ip() - first.ip() < JUMP {
            return Err(Refusal::Short);
        }
        if self.marks.any(first.ip() + 1..end) {
            return Err(Refusal::Branch);
        }
        let overlaps = |other: &Range<u64>| other.start < last.next_ip() && first.ip() < other.end;
        if self.taken.iter().rev().take(8).any(overlaps) {
            return Err(Refusal::Taken);
        }
        // An address relative to the instruction is made one relative to r11, which no other instruction of the window may use.
        // That a system call writes to it is why it is free.
        let window = &code[range.clone()];
        let mut others = window.iter().filter(|one| one.code() != Code::Syscall);
        let is_relative = window.iter().any(Instruction::is_ip_rel_memory_operand);
        if is_relative && others.any(touches_r11) {
            return Err(Refusal::Register);
        }
        Ok(())
    }

    /// Keeps others out of a window that was chosen, and says where it is.
    pub(super) fn take(&mut self, around: &Around, window: &Window) -> Range<u64> {
        let addresses = window.addresses(around);
        self.taken.push(addresses.clone());
        addresses
    }

    /// How far back instructions may be moved: the first of them, given that those from `first` up to `end` are.
    fn reach(code: &[Instruction], end: usize) -> usize {
        let moved = code[..end].iter().rev().take_while(|one| may_move(one));
        end - moved.count()
    }

    /// Shape A, or with `shape` C: the site itself is moved.
    fn around(&self, around: &Around, shape: Shape) -> Result<Window, Refusal> {
        let code = &around.code;
        let reach = Self::reach(code, around.at);
        let behind = &code[around.at + 1..];
        let ahead = behind.iter().take_while(|one| may_move(one)).count();
        let last = behind.get(ahead).is_some_and(may_end);
        let ends = around.at + 1..=around.at + 1 + ahead + usize::from(last);
        let mut refusal = Refusal::Short;
        for end in ends {
            for start in (reach..=around.at).rev() {
                let range = start..end;
                match self.is_free(code, &range, code[end - 1].next_ip()) {
                    // CPUID leaves r11 as it is, and so must its stub.
                    Ok(())
                        if shape == Shape::C
                            && code[range.clone()]
                                .iter()
                                .any(Instruction::is_ip_rel_memory_operand) =>
                    {
                        refusal = Refusal::Register;
                    }
                    Ok(()) => {
                        return Ok(Window {
                            shape,
                            range,
                            keeps_r11: false,
                            asks_before: None,
                        });
                    }
                    Err(Refusal::Short) => continue,
                    Err(why) => refusal = why,
                }
                // Further back there is more of the same.
                break;
            }
        }
        Err(refusal)
    }

    /// Shape D: what directly precedes the site is moved.
    fn before(&self, around: &Around) -> Result<Window, Refusal> {
        let code = &around.code;
        let site = code[around.at].ip();
        let mut refusal = Refusal::Short;
        for start in (Self::reach(code, around.at)..around.at).rev() {
            let range = start..around.at;
            match self.is_free(code, &range, site + 1) {
                Ok(()) => {
                    return Ok(Window {
                        shape: Shape::D,
                        range,
                        keeps_r11: false,
                        asks_before: None,
                    });
                }
                Err(Refusal::Short) => {}
                Err(why) => {
                    refusal = why;
                    break;
                }
            }
        }
        Err(refusal)
    }

    /// Shape B: anything is moved that is always come by on the way to the site.
    fn on_the_way(&self, around: &Around) -> Result<Window, Refusal> {
        let code = &around.code;
        let site = code[around.at].ip();
        let mut refusal = Refusal::Short;
        for end in (1..=around.at).rev() {
            let between = &code[end..around.at];
            let passes = |one: &Instruction| {
                may_move(one) || one.flow_control() == FlowControl::ConditionalBranch
            };
            if !between.first().is_none_or(passes) {
                break;
            }
            for start in (Self::reach(code, end)..end).rev() {
                let range = start..end;
                match self.is_free(code, &range, site + 1) {
                    Ok(()) => {}
                    Err(Refusal::Short) => continue,
                    Err(why) => {
                        refusal = why;
                        break;
                    }
                }
                let window = &code[range.clone()];
                let is_dead =
                    between.iter().all(may_move) && !window.iter().chain(between).any(reads_r11);
                let question = around.number.and_then(Question::of);
                let asks_before = question.and_then(|question| {
                    let at = asks_before(question.register(), window, between)?;
                    Some((at, question))
                });
                return Ok(Window {
                    shape: Shape::B,
                    range,
                    keeps_r11: !is_dead,
                    asks_before,
                });
            }
        }
        Err(refusal)
    }

    /// A window for a call that has to be patched.
    pub(super) fn served(&self, around: &Around) -> Result<Window, Refusal> {
        let known = around.number.is_some();
        let first = if known {
            self.around(around, Shape::A)
        } else {
            self.before(around)
        };
        first.or_else(|why| {
            let second = if known {
                self.before(around)
            } else {
                self.around(around, Shape::A)
            };
            second.map_err(|_| why)
        })
    }

    /// A window for a call that ends leases.
    pub(super) fn ending(&self, around: &Around) -> Result<Window, Refusal> {
        // Where there is no room the call is moved, and its entry ends leases as it would for a number that it did not expect.
        let first = self.on_the_way(around);
        first.or_else(|why| self.around(around, Shape::A).map_err(|_| why))
    }

    /// A window for CPUID.
    pub(super) fn cpuid(&self, around: &Around) -> Result<Window, Refusal> {
        self.around(around, Shape::C)
    }
}
