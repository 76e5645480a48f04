//! Which number a system call is made with: constants followed through a function, along every way that leads to the call.

use std::collections::HashMap;

use iced_x86::{
    Code, ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

use super::code::Marks;

/// What general registers are known to hold.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Registers {
    values: [Option<u64>; 16],
    /// A register and the value that it has where the flags say "equal".
    compared: Option<(usize, u64)>,
    pushed: Option<u64>,
}

/// Number of a 32- or 64-bit register. Of a smaller one nothing is followed.
fn wide(register: Register) -> Option<usize> {
    (register.is_gpr32() || register.is_gpr64()).then(|| register.number())
}

/// Registers that a called function need not keep: rax, rcx, rdx, rsi, rdi, r8 to r11.
const LOST_IN_CALLS: [usize; 9] = [0, 1, 2, 6, 7, 8, 9, 10, 11];

impl Registers {
    /// The low half of rax, which is the number.
    fn eax(&self) -> Option<u32> {
        self.values[0].map(|value| value as u32)
    }

    fn operand(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        match instruction.op_kind(operand) {
            OpKind::Register => self.values[wide(instruction.op_register(operand))?],
            OpKind::Immediate8
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32
            | OpKind::Immediate32to64
            | OpKind::Immediate64 => Some(instruction.immediate(operand)),
            _ => None,
        }
    }

    /// What an instruction leaves in its first operand, where that is a register and can be told.
    fn result(&self, instruction: &Instruction) -> Option<u64> {
        let same = instruction.op_count() == 2
            && instruction.op_kind(0) == OpKind::Register
            && instruction.op_kind(1) == OpKind::Register
            && instruction.op0_register() == instruction.op1_register();
        let both = || Some((self.operand(instruction, 0)?, self.operand(instruction, 1)?));
        match instruction.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movsxd => self.operand(instruction, 1),
            Mnemonic::Xor | Mnemonic::Sub if same => Some(0),
            Mnemonic::Xor => both().map(|(a, b)| a ^ b),
            Mnemonic::Sub => both().map(|(a, b)| a.wrapping_sub(b)),
            Mnemonic::Add => both().map(|(a, b)| a.wrapping_add(b)),
            Mnemonic::Or => both().map(|(a, b)| a | b),
            Mnemonic::And => both().map(|(a, b)| a & b),
            Mnemonic::Inc => Some(self.operand(instruction, 0)?.wrapping_add(1)),
            Mnemonic::Dec => Some(self.operand(instruction, 0)?.wrapping_sub(1)),
            Mnemonic::Lea if instruction.memory_index() == Register::None => {
                let base = self.values[wide(instruction.memory_base())?]?;
                Some(base.wrapping_add(instruction.memory_displacement64()))
            }
            Mnemonic::Pop => self.pushed,
            _ => None,
        }
    }

    /// Keeps what holds on both of two ways.
    fn meet(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (own, other) in self.values.iter_mut().zip(&other.values) {
            *own = own.filter(|_| own == other);
        }
        self.compared = self.compared.filter(|_| self.compared == other.compared);
        self.pushed = self.pushed.filter(|_| self.pushed == other.pushed);
        *self != before
    }

    /// Goes on behind an instruction to the next one.
    fn step(&mut self, instruction: &Instruction) {
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::ConditionalBranch => {
                if instruction.condition_code() == ConditionCode::ne
                    && let Some((register, value)) = self.compared
                {
                    self.values[register] = Some(value);
                }
                return;
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                // System calls are told apart from functions: they keep all but three registers.
                let lost: &[usize] = match instruction.mnemonic() {
                    Mnemonic::Syscall => &[0, 1, 11],
                    _ => &LOST_IN_CALLS,
                };
                for register in lost {
                    self.values[*register] = None;
                }
                self.compared = None;
                self.pushed = None;
                return;
            }
            // What follows is reached from elsewhere only.
            _ => {
                *self = Self::default();
                return;
            }
        }
        let first = (instruction.op_count() > 0 && instruction.op_kind(0) == OpKind::Register)
            .then(|| instruction.op0_register());
        let result = first.and_then(|register| {
            let value = self.result(instruction)?;
            // A 32-bit result clears the upper half.
            let value = if register.is_gpr32() {
                u64::from(value as u32)
            } else {
                value
            };
            Some((wide(register)?, value))
        });
        let compared = match instruction.mnemonic() {
            Mnemonic::Test if instruction.op0_register() == instruction.op1_register() => {
                first.and_then(wide).map(|register| (register, 0))
            }
            Mnemonic::Cmp => first
                .and_then(wide)
                .zip(self.operand(instruction, 1))
                .filter(|_| instruction.op_kind(1) != OpKind::Register),
            _ if instruction.rflags_modified() == 0 => self.compared,
            _ => None,
        };
        self.pushed = match instruction.mnemonic() {
            Mnemonic::Push => self.operand(instruction, 0),
            _ => None,
        };
        for used in InstructionInfoFactory::new()
            .info(instruction)
            .used_registers()
        {
            let writes = !matches!(
                used.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None | OpAccess::NoMemAccess
            );
            let full = used.register().full_register();
            if writes && full.is_gpr64() {
                self.values[full.number()] = None;
            }
        }
        self.compared = compared.filter(|(register, _)| {
            let writes = first.and_then(wide) == Some(*register);
            let is_test = matches!(instruction.mnemonic(), Mnemonic::Test | Mnemonic::Cmp);
            is_test || !writes
        });
        if let Some((register, value)) = result {
            self.values[register] = Some(value);
        }
    }
}

/// Leads states from instruction to instruction until none of them changes any more.
struct Flow<'c> {
    code: &'c [Instruction],
    /// What holds before a leader, once anything leads there.
    before: HashMap<usize, Registers>,
    todo: Vec<usize>,
    /// Where jumps through tables lead.
    in_tables: Vec<usize>,
}

impl Flow<'_> {
    fn index(&self, vaddr: u64) -> Option<usize> {
        let found = self.code.binary_search_by_key(&vaddr, Instruction::ip);
        found.ok()
    }

    fn arrive(&mut self, at: usize, registers: &Registers) {
        let changed = match self.before.get_mut(&at) {
            Some(known) => known.meet(registers),
            None => {
                self.before.insert(at, registers.clone());
                true
            }
        };
        if changed {
            self.todo.push(at);
        }
    }

    /// From a leader to the next one, or to where the way ends. Calls `see` before each instruction.
    fn walk(&self, at: usize, is_leader: &[bool], mut see: impl FnMut(usize, &Registers)) -> Ways {
        let mut registers = self.before.get(&at).cloned().unwrap_or_default();
        let mut ways = Ways::default();
        for (here, instruction) in self.code.iter().enumerate().skip(at) {
            if here > at && is_leader[here] {
                ways.0.push((here, registers));
                return ways;
            }
            see(here, &registers);
            let flow = instruction.flow_control();
            if matches!(
                flow,
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            ) && let Some(target) = self.index(instruction.near_branch_target())
            {
                let mut taken = registers.clone();
                if instruction.condition_code() == ConditionCode::e
                    && let Some((register, value)) = taken.compared
                {
                    taken.values[register] = Some(value);
                }
                ways.0.push((target, taken));
            }
            if flow == FlowControl::IndirectBranch {
                let tables = self.in_tables.iter();
                ways.0.extend(tables.map(|at| (*at, registers.clone())));
            }
            if !matches!(
                flow,
                FlowControl::Next
                    | FlowControl::ConditionalBranch
                    | FlowControl::Call
                    | FlowControl::IndirectCall
            ) {
                return ways;
            }
            registers.step(instruction);
        }
        ways
    }
}

/// Where a way leads on, and with what.
#[derive(Default)]
struct Ways(Vec<(usize, Registers)>);

/// The numbers of the system calls in `code`, a stretch from its start, by the index of the call. What is not known is left out.
pub(super) fn numbers(code: &[Instruction], marks: &Marks) -> HashMap<usize, u32> {
    let mut flow = Flow {
        code,
        before: HashMap::new(),
        todo: Vec::new(),
        in_tables: Vec::new(),
    };
    let in_tables = code
        .iter()
        .enumerate()
        .filter(|(_, one)| marks.is_in_table(one.ip()));
    flow.in_tables.extend(in_tables.map(|(at, _)| at));
    let mut is_leader: Vec<bool> = code
        .iter()
        .map(|one| marks.any(one.ip()..one.ip() + 1))
        .collect();
    if let Some(first) = is_leader.first_mut() {
        *first = true;
    }
    let unknown = Registers::default();
    for (at, one) in code.iter().enumerate() {
        if at == 0 || marks.is_entered(one.ip()) {
            flow.arrive(at, &unknown);
        }
    }
    while let Some(at) = flow.todo.pop() {
        for (target, registers) in flow.walk(at, &is_leader, |_, _| {}).0 {
            flow.arrive(target, &registers);
        }
    }
    let mut numbers = HashMap::new();
    for at in flow.before.keys() {
        flow.walk(*at, &is_leader, |here, registers| {
            if code[here].code() == Code::Syscall
                && let Some(number) = registers.eax()
            {
                numbers.insert(here, number);
            }
        });
    }
    numbers
}
