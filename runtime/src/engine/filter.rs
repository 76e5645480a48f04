//! The seccomp filter as a classic BPF program: decided here, installed by [`super::start`].
//!
//! The kernel runs it once for every system call number when it is installed, and afterwards for every call whose answer depends
//! on more than the number. So the numbers are a binary tree, and where a call comes from is looked at only for those that are
//! trapped: calls that are never trapped stay on the kernel's bitmap of constant answers.

use crate::errno::Errno;
use crate::sys::abi::{
    AUDIT_ARCH_X86_64, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, SockFilter,
};
use crate::sys::raw::Nr;

/// Numbers from here on are not looked at one by one: the kernel has none so far.
pub const NUMBERS: u32 = 512;
/// The most instructions a program of ours has: jumps reach 255 instructions.
pub const MAX_LEN: usize = 250;

/// Bit that x32 sets in a number.
const X32: u32 = 0x4000_0000;

// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const RIP_HIGH: u32 = 12;

// Classic BPF (`include/uapi/linux/bpf_common.h`).
const LOAD_WORD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// A filter program.
#[derive(Debug)]
pub struct Program {
    code: [SockFilter; MAX_LEN],
    len: usize,
}

/// Where a jump goes before the program's length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Allow,
    Trap,
    At(usize),
}

/// The program does not fit: more alternations of trapped and free numbers than jumps can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

const ALLOW_MARK: u8 = 254;
const TRAP_MARK: u8 = 255;

impl Program {
    /// A program that traps the numbers that `traps` says, unless they come from the 4 GiB of addresses whose upper half is
    /// `own_high`; refuses x32 and `int 0x80` with ENOSYS; and allows everything else.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn new(own_high: u32, traps: impl Fn(Nr) -> bool) -> Result<Self, TooLong> {
        let mut bounds = [0_u32; MAX_LEN];
        let mut count = 0;
        let mut before = false;
        for nr in 0..=NUMBERS {
            let now = nr < NUMBERS && traps(Nr(nr));
            if now != before {
                *bounds.get_mut(count).ok_or(TooLong)? = nr;
                count += 1;
                before = now;
            }
        }
        let mut program = Self {
            code: [SockFilter::default(); MAX_LEN],
            len: 0,
        };
        program.push(LOAD_WORD, ARCH)?;
        let arch = program.push(JUMP_EQUAL, AUDIT_ARCH_X86_64)?;
        program.push(LOAD_WORD, NR)?;
        let x32 = program.push(JUMP_GREATER_EQUAL, X32)?;
        // Intervals alternate, and the first one is free.
        let tree = program.tree(&bounds[..count], false)?;
        let allow = program.push(RETURN, SECCOMP_RET_ALLOW)?;
        let origin = program.push(LOAD_WORD, RIP_HIGH)?;
        let own = program.push(JUMP_EQUAL, own_high)?;
        program.push(RETURN, SECCOMP_RET_TRAP)?;
        let own_allow = program.push(RETURN, SECCOMP_RET_ALLOW)?;
        let refuse = program.push(RETURN, SECCOMP_RET_ERRNO | u32::from(Errno::ENOSYS.0))?;
        program.resolve(allow, origin)?;
        program.aim(arch, arch + 1, refuse)?;
        let start = match tree {
            Target::Allow => allow,
            Target::Trap => origin,
            Target::At(at) => at,
        };
        program.aim(x32, refuse, start)?;
        program.aim(own, own_allow, own + 1)?;
        Ok(program)
    }

    /// The instructions.
    #[must_use]
    pub fn code(&self) -> &[SockFilter] {
        &self.code[..self.len]
    }

    fn push(&mut self, code: u16, k: u32) -> Result<usize, TooLong> {
        let at = self.len;
        *self.code.get_mut(at).ok_or(TooLong)? = SockFilter {
            code,
            jt: 0,
            jf: 0,
            k,
        };
        self.len += 1;
        Ok(at)
    }

    fn aim(&mut self, at: usize, yes: usize, no: usize) -> Result<(), TooLong> {
        let distance = |to: usize| u8::try_from(to - at - 1).map_err(|_| TooLong);
        self.code[at].jt = distance(yes)?;
        self.code[at].jf = distance(no)?;
        Ok(())
    }

    /// A search tree over the bounds at which `trapped` toggles.
    fn tree(&mut self, bounds: &[u32], trapped: bool) -> Result<Target, TooLong> {
        if bounds.is_empty() {
            return Ok(if trapped { Target::Trap } else { Target::Allow });
        }
        let middle = bounds.len() / 2;
        let at = self.push(JUMP_GREATER_EQUAL, bounds[middle])?;
        let below = self.tree(&bounds[..middle], trapped)?;
        let above = self.tree(&bounds[middle + 1..], trapped ^ middle.is_multiple_of(2))?;
        let mark = |target| match target {
            Target::Allow => Ok(ALLOW_MARK),
            Target::Trap => Ok(TRAP_MARK),
            Target::At(to) => match u8::try_from(to - at - 1) {
                Ok(distance) if distance < ALLOW_MARK => Ok(distance),
                _ => Err(TooLong),
            },
        };
        self.code[at].jt = mark(above)?;
        self.code[at].jf = mark(below)?;
        Ok(Target::At(at))
    }

    /// Turns the marks that [`Program::tree`] left into distances.
    fn resolve(&mut self, allow: usize, origin: usize) -> Result<(), TooLong> {
        for at in 4..allow {
            let distance = |mark| match mark {
                ALLOW_MARK => u8::try_from(allow - at - 1).map_err(|_| TooLong),
                TRAP_MARK => u8::try_from(origin - at - 1).map_err(|_| TooLong),
                distance => Ok(distance),
            };
            self.code[at].jt = distance(self.code[at].jt)?;
            self.code[at].jf = distance(self.code[at].jf)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 0x6f00;

    /// Runs a program as the kernel does.
    fn run(program: &Program, arch: u32, nr: u32, rip_high: u32) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let insn = program.code()[at];
            at += 1;
            let jump = |yes| usize::from(if yes { insn.jt } else { insn.jf });
            match insn.code {
                LOAD_WORD => {
                    a = match insn.k {
                        NR => nr,
                        ARCH => arch,
                        RIP_HIGH => rip_high,
                        other => panic!("load of {other}"),
                    };
                }
                JUMP_EQUAL => at += jump(a == insn.k),
                JUMP_GREATER_EQUAL => at += jump(a >= insn.k),
                RETURN => return insn.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn agrees(traps: impl Fn(Nr) -> bool) {
        let program = Program::new(OWN, &traps).unwrap();
        for nr in (0..600).chain([X32 - 1]) {
            let trapped = nr < NUMBERS && traps(Nr(nr));
            let wanted = if trapped {
                SECCOMP_RET_TRAP
            } else {
                SECCOMP_RET_ALLOW
            };
            assert_eq!(run(&program, AUDIT_ARCH_X86_64, nr, 0x7fff), wanted, "{nr}");
            assert_eq!(
                run(&program, AUDIT_ARCH_X86_64, nr, OWN),
                SECCOMP_RET_ALLOW,
                "{nr}"
            );
        }
    }

    #[test]
    fn exactly_the_numbers_asked_for_are_trapped_whatever_their_pattern() {
        agrees(|_| false);
        agrees(|_| true);
        agrees(|nr| nr.0 == 0);
        agrees(|nr| nr.0 == NUMBERS - 1);
        agrees(|nr| nr.0 % 10 < 3);
        agrees(|nr| [2, 4, 6, 21, 59, 257, 262, 439].contains(&nr.0));
    }

    #[test]
    fn other_instruction_sets_are_refused_wherever_they_come_from() {
        let program = Program::new(OWN, |nr| nr.0 == 2).unwrap();
        let refused = SECCOMP_RET_ERRNO | 38;
        assert_eq!(run(&program, 0x4000_0003, 5, OWN), refused);
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32 | 2, OWN), refused);
    }

    #[test]
    fn a_pattern_that_jumps_cannot_reach_is_refused_and_not_cut() {
        assert_eq!(Program::new(OWN, |nr| nr.0 % 2 == 0).err(), Some(TooLong));
    }
}
