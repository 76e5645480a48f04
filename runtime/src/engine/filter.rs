//! The seccomp filter as a classic BPF program: decided here, installed by [`super::arm`].
//!
//! The kernel runs it once for every system call number when it is installed, and afterwards for every call whose answer depends
//! on more than the number. So the numbers are a binary tree, and where a call comes from is looked at only for those that are
//! trapped: calls that are never trapped stay on the kernel's bitmap of constant answers.

use crate::errno::Errno;
use crate::sys::abi::{
    AUDIT_ARCH_X86_64, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_TRAP, SockFilter,
};

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

/// `?`, which is not for constants.
macro_rules! tried {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(TooLong) => return Err(TooLong),
        }
    };
}

/// Instructions between the one at `from` and that at `to`.
const fn distance(from: usize, to: usize, most: u8) -> Result<u8, TooLong> {
    let distance = to - from - 1;
    if distance > most as usize {
        return Err(TooLong);
    }
    Ok(distance as u8)
}

impl Program {
    /// A program that traps the numbers that `trapped` says, unless they come from the 4 GiB of addresses whose upper half is
    /// `own_high`; refuses x32 and `int 0x80` with ENOSYS; and allows everything else. It is made when elfuse is compiled: a guest's
    /// stack has little room for it.
    ///
    /// # Errors
    /// [`TooLong`].
    pub const fn new(own_high: u32, trapped: &[bool; NUMBERS as usize]) -> Result<Self, TooLong> {
        let mut bounds = [0_u32; MAX_LEN];
        let mut count = 0;
        let mut before = false;
        let mut nr = 0;
        while nr <= NUMBERS {
            let now = nr < NUMBERS && trapped[nr as usize];
            if now != before {
                if count == MAX_LEN {
                    return Err(TooLong);
                }
                bounds[count] = nr;
                count += 1;
                before = now;
            }
            nr += 1;
        }
        let mut program = Self {
            code: [SockFilter {
                code: 0,
                jt: 0,
                jf: 0,
                k: 0,
            }; MAX_LEN],
            len: 0,
        };
        tried!(program.push(LOAD_WORD, ARCH));
        let arch = tried!(program.push(JUMP_EQUAL, AUDIT_ARCH_X86_64));
        tried!(program.push(LOAD_WORD, NR));
        let x32 = tried!(program.push(JUMP_GREATER_EQUAL, X32));
        // Intervals alternate, and the first one is free.
        let tree = tried!(program.tree(&bounds, 0, count, false));
        let allow = tried!(program.push(RETURN, SECCOMP_RET_ALLOW));
        let origin = tried!(program.push(LOAD_WORD, RIP_HIGH));
        let own = tried!(program.push(JUMP_EQUAL, own_high));
        tried!(program.push(RETURN, SECCOMP_RET_TRAP));
        let own_allow = tried!(program.push(RETURN, SECCOMP_RET_ALLOW));
        let refuse = tried!(program.push(RETURN, SECCOMP_RET_ERRNO | Errno::ENOSYS.0 as u32));
        tried!(program.resolve(allow, origin));
        tried!(program.aim(arch, arch + 1, refuse));
        let start = match tree {
            Target::Allow => allow,
            Target::Trap => origin,
            Target::At(at) => at,
        };
        tried!(program.aim(x32, refuse, start));
        tried!(program.aim(own, own_allow, own + 1));
        Ok(program)
    }

    /// The instructions.
    #[must_use]
    pub fn code(&self) -> &[SockFilter] {
        &self.code[..self.len]
    }

    const fn push(&mut self, code: u16, k: u32) -> Result<usize, TooLong> {
        let at = self.len;
        if at == MAX_LEN {
            return Err(TooLong);
        }
        self.code[at] = SockFilter {
            code,
            jt: 0,
            jf: 0,
            k,
        };
        self.len += 1;
        Ok(at)
    }

    const fn aim(&mut self, at: usize, yes: usize, no: usize) -> Result<(), TooLong> {
        self.code[at].jt = tried!(distance(at, yes, u8::MAX));
        self.code[at].jf = tried!(distance(at, no, u8::MAX));
        Ok(())
    }

    /// A search tree over the bounds from one place to before another, at which `trapped` toggles.
    const fn tree(
        &mut self,
        bounds: &[u32; MAX_LEN],
        from: usize,
        to: usize,
        trapped: bool,
    ) -> Result<Target, TooLong> {
        if from == to {
            return Ok(if trapped { Target::Trap } else { Target::Allow });
        }
        let half = (to - from) / 2;
        let middle = from + half;
        let at = tried!(self.push(JUMP_GREATER_EQUAL, bounds[middle]));
        let below = tried!(self.tree(bounds, from, middle, trapped));
        let above = tried!(self.tree(bounds, middle + 1, to, trapped ^ half.is_multiple_of(2)));
        self.code[at].jt = tried!(Self::mark(at, above));
        self.code[at].jf = tried!(Self::mark(at, below));
        Ok(Target::At(at))
    }

    const fn mark(at: usize, target: Target) -> Result<u8, TooLong> {
        match target {
            Target::Allow => Ok(ALLOW_MARK),
            Target::Trap => Ok(TRAP_MARK),
            Target::At(to) => distance(at, to, ALLOW_MARK - 1),
        }
    }

    /// Turns the marks that [`Program::tree`] left into distances.
    const fn resolve(&mut self, allow: usize, origin: usize) -> Result<(), TooLong> {
        let mut at = 4;
        while at < allow {
            let (jt, jf) = (self.code[at].jt, self.code[at].jf);
            self.code[at].jt = tried!(Self::resolved(at, jt, allow, origin));
            self.code[at].jf = tried!(Self::resolved(at, jf, allow, origin));
            at += 1;
        }
        Ok(())
    }

    const fn resolved(at: usize, mark: u8, allow: usize, origin: usize) -> Result<u8, TooLong> {
        match mark {
            ALLOW_MARK => distance(at, allow, u8::MAX),
            TRAP_MARK => distance(at, origin, u8::MAX),
            distance => Ok(distance),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::raw::Nr;

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

    fn table(traps: impl Fn(Nr) -> bool) -> [bool; NUMBERS as usize] {
        core::array::from_fn(|nr| traps(Nr(nr as u32)))
    }

    fn agrees(traps: impl Fn(Nr) -> bool) {
        let program = Program::new(OWN, &table(&traps)).unwrap();
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
        let program = Program::new(OWN, &table(|nr| nr.0 == 2)).unwrap();
        let refused = SECCOMP_RET_ERRNO | 38;
        assert_eq!(run(&program, 0x4000_0003, 5, OWN), refused);
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, X32 | 2, OWN), refused);
    }

    #[test]
    fn a_pattern_that_jumps_cannot_reach_is_refused_and_not_cut() {
        assert_eq!(
            Program::new(OWN, &table(|nr| nr.0 % 2 == 0)).err(),
            Some(TooLong)
        );
    }
}
