//! What `elfuse` is compiled to: its code runs between a guest's instructions, on the guest's stack, and saves no more of the guest's
//! registers than compiled code for plain x86-64 touches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use elfuse_tests::oracle_programs;
use iced_x86::{
    CpuidFeature, Decoder, DecoderOptions, EncodingKind, FlowControl, Instruction, Mnemonic,
    OpKind, Register,
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Bytes of the guest's stack that a call takes at most, which `engine::start::HANDLER_STACK` promises.
const MOST_STACK: u64 = 8192;

/// The program, taken apart.
struct Code {
    bytes: Vec<u8>,
}

/// A function: what it is called, how much of the stack it takes, and which others it may go on to.
#[derive(Debug, Default)]
struct Function {
    name: String,
    stack: u64,
    calls: BTreeSet<u64>,
    calls_by_pointer: bool,
}

impl Code {
    fn read() -> Self {
        let elfuse = oracle_programs!().elfuse;
        Self {
            bytes: fs::read(elfuse).expect("the program under test"),
        }
    }

    fn file(&self) -> object::File<'_> {
        object::File::parse(&*self.bytes).expect("an ELF file")
    }

    /// Every instruction.
    fn instructions(&self) -> Vec<Instruction> {
        let file = self.file();
        let text = file.section_by_name(".text").expect("code");
        let data = text.data().expect("its bytes");
        let decoder = Decoder::with_ip(64, data, text.address(), DecoderOptions::NONE);
        decoder.into_iter().collect()
    }

    /// Starts of functions, and the names they have.
    fn symbols(&self) -> BTreeMap<u64, String> {
        let file = self.file();
        let text = file.section_by_name(".text").expect("code").address();
        (file.symbols())
            .filter(|symbol| symbol.address() >= text && symbol.kind() != object::SymbolKind::File)
            .filter_map(|symbol| Some((symbol.address(), symbol.name().ok()?.to_owned())))
            .collect()
    }

    /// The functions that the table of calls names.
    fn table(&self) -> BTreeSet<u64> {
        let file = self.file();
        let table = (file.symbols())
            .find(|symbol| {
                symbol
                    .name()
                    .is_ok_and(|name| name.contains("8dispatch9BY_NUMBER"))
            })
            .expect("the table's symbol");
        let (start, end) = (table.address(), table.address() + table.size());
        let section = (file.sections())
            .find(|section| {
                (section.address()..section.address() + section.size()).contains(&start)
            })
            .expect("its section");
        let data = section.data().expect("its bytes");
        let range = (start - section.address()) as usize..(end - section.address()) as usize;
        let words = data[range].as_chunks().0;
        let addresses = words.iter().map(|word| u64::from_le_bytes(*word));
        addresses.filter(|address| *address != 0).collect()
    }

    /// The words of the data, by their addresses.
    fn words(&self) -> BTreeMap<u64, u64> {
        let mut words = BTreeMap::new();
        for section in self.file().sections() {
            let data = section.data().unwrap_or_default();
            for (place, word) in data.as_chunks().0.iter().enumerate() {
                let at = section.address() + 8 * place as u64;
                words.insert(at, u64::from_le_bytes(*word));
            }
        }
        words
    }

    fn functions(&self) -> BTreeMap<u64, Function> {
        let (symbols, words) = (self.symbols(), self.words());
        let mut functions: BTreeMap<u64, Function> = symbols
            .iter()
            .map(|(start, name)| {
                let function = Function {
                    name: name.clone(),
                    ..Function::default()
                };
                (*start, function)
            })
            .collect();
        for instruction in self.instructions() {
            let at = instruction.ip();
            let Some((start, _)) = symbols.range(..=at).next_back() else {
                continue;
            };
            let target = match instruction.flow_control() {
                FlowControl::Call
                | FlowControl::ConditionalBranch
                | FlowControl::UnconditionalBranch => Some(instruction.near_branch_target()),
                // The address of a function may be taken to be called by another one.
                _ if !instruction.is_ip_rel_memory_operand() => None,
                _ if instruction.mnemonic() == Mnemonic::Lea => {
                    Some(instruction.ip_rel_memory_address())
                }
                // By way of the table of addresses that the linker makes.
                _ => words.get(&instruction.ip_rel_memory_address()).copied(),
            };
            let function = functions.get_mut(start).expect("it has a symbol");
            function.stack += match instruction.mnemonic() {
                Mnemonic::Push => 8,
                Mnemonic::Sub
                    if instruction.op0_register() == Register::RSP
                        && instruction.op1_kind() != OpKind::Register =>
                {
                    instruction.immediate(1)
                }
                _ => 0,
            };
            let is_indirect = matches!(
                instruction.flow_control(),
                FlowControl::IndirectCall | FlowControl::IndirectBranch
            );
            function.calls_by_pointer |= is_indirect && target.is_none();
            if let Some(target) = target.filter(|to| to != start && symbols.contains_key(to)) {
                function.calls.insert(target);
            }
        }
        functions
    }
}

/// What ends in a message and the end of the process, by names of functions: it may take what it likes.
fn is_the_end(name: &str) -> bool {
    const ENDS: &[&str] = &[
        "panic",
        "4core3fmt",
        "3say",
        "4fail",
        "unwrap_failed",
        "expect_failed",
        "_fail",
        "7process4exit",
    ];
    ENDS.iter().any(|end| name.contains(end))
}

/// The most stack from here on, and the way there. A function that is under way again is not counted a second time.
fn deepest(
    start: u64,
    functions: &BTreeMap<u64, Function>,
    table: &BTreeSet<u64>,
    known: &mut BTreeMap<u64, (u64, Vec<u64>)>,
    under_way: &mut BTreeSet<u64>,
) -> (u64, Vec<u64>) {
    if let Some(known) = known.get(&start) {
        return known.clone();
    }
    let function = &functions[&start];
    if is_the_end(&function.name) || !under_way.insert(start) {
        return (0, Vec::new());
    }
    let mut most = (0, Vec::new());
    let serves = |part: &&str| function.name.contains(*part);
    let by_table = function.calls_by_pointer
        && ["8dispatch", "4tell12in_histogram", "7patched5serve"]
            .iter()
            .any(serves);
    let pointed_to = table.iter().filter(|_| by_table);
    for next in function.calls.iter().chain(pointed_to) {
        let found = deepest(*next, functions, table, known, under_way);
        if found.0 > most.0 {
            most = found;
        }
    }
    under_way.remove(&start);
    let (below, mut way) = most;
    way.push(start);
    // The address to return to.
    let found = (below + function.stack + 8, way);
    known.insert(start, found.clone());
    found
}

#[test]
fn no_instruction_touches_registers_that_are_not_saved() {
    let mut found = Vec::new();
    for instruction in Code::read().instructions() {
        let of_x87 = |feature: &CpuidFeature| {
            let features = [
                CpuidFeature::FPU,
                CpuidFeature::FPU287,
                CpuidFeature::FPU387,
                CpuidFeature::MMX,
                CpuidFeature::D3NOW,
                CpuidFeature::FXSR,
                CpuidFeature::XSAVE,
            ];
            features.contains(feature)
        };
        let is_odd = instruction.is_invalid()
            || instruction.encoding() != EncodingKind::Legacy
            || instruction.cpuid_features().iter().any(of_x87);
        if is_odd {
            found.push(format!("{:#x} {:?}", instruction.ip(), instruction.code()));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_call_from_a_patched_site_takes_no_more_of_the_guests_stack_than_was_promised() {
    let code = Code::read();
    let functions = code.functions();
    let table = code.table();
    assert!(table.len() > 60, "{}", table.len());
    let entry = (functions.iter())
        .find(|(_, function)| function.name == "elfuse_patched_entry")
        .map(|(start, _)| *start)
        .expect("the entry's symbol");
    let (mut known, mut under_way) = (BTreeMap::new(), BTreeSet::new());
    let (stack, way) = deepest(entry, &functions, &table, &mut known, &mut under_way);
    let mut left_out: Vec<_> = table.iter().collect();
    left_out.retain(|function| !known.contains_key(function));
    let named = |function: &u64| functions.get(function).map(|function| &function.name);
    let left_out: Vec<_> = left_out.into_iter().map(named).collect();
    assert!(left_out.is_empty(), "not followed: {left_out:#?}");
    let names = || {
        let line = |start: &u64| format!("{:6} {}", functions[start].stack, functions[start].name);
        way.iter().rev().map(line).collect::<Vec<_>>()
    };
    assert!(stack <= MOST_STACK, "{stack} bytes: {:#?}", names());
}

#[test]
fn what_each_start_and_each_call_runs_stands_in_front_of_all_else() {
    let symbols = Code::read().symbols();
    let places = |part: &str| {
        let named = (symbols.iter()).filter(|(_, name)| name.contains(part));
        let places: Vec<u64> = named.map(|(at, _)| *at).collect();
        assert!(!places.is_empty(), "no function of {part}");
        places
    };
    let often = [
        "elfuse_patched_entry",
        "6mirror6Mirror5fetch",
        "7resolve4walk",
        "7patched5serve",
        "5store3vfs",
        "6launch6launch",
        "6settle6settle",
    ];
    let seldom = ["5calls7sockets", "7listing", "5trace6report"];
    let last = often.into_iter().flat_map(places).max();
    let first = seldom.into_iter().flat_map(places).min();
    assert!(last < first, "{last:x?} {first:x?}");
}
