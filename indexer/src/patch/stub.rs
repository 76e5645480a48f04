//! Windows to stubs: what runs in the block instead of the instructions that a jump took the place of.

use elfuse_format::text::{KNOWN_LEN, LAST_SILENT_COMMAND, Layout, word};
use iced_x86::{Encoder, Instruction, Register};

use super::code::Around;
use super::window::{Question, Shape, Window, touches};

/// Code for an address, put together.
struct Stub<'l> {
    layout: &'l Layout,
    vaddr: u64,
    keeps_r11: bool,
    bytes: Vec<u8>,
}

/// An instruction cannot be put elsewhere: it has a form that r11 does not go with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotMovable;

/// `mov r11, [rip + x]` without its displacement, and the like.
const MOV_R11: &[u8] = &[0x4c, 0x8b, 0x1d];
const LEA_RCX: &[u8] = &[0x48, 0x8d, 0x0d];
const JUMP: &[u8] = &[0xff, 0x25];
const CALL: &[u8] = &[0xff, 0x15];
/// `mov byte [r11], 1`.
const SET: &[u8] = &[0x41, 0xc6, 0x03, 0x01];
/// `mov r11d, edi`, which clears the upper half.
const COPY_DESCRIPTOR: &[u8] = &[0x41, 0x89, 0xfb];
/// `cmp r11d, imm32` without the number.
const COMPARE_R11: &[u8] = &[0x41, 0x81, 0xfb];
/// `add r11, [rip + x]` without the displacement.
const ADD_TO_R11: &[u8] = &[0x4c, 0x03, 0x1d];
/// `cmp byte [r11], 0`.
const IS_KNOWN: &[u8] = &[0x41, 0x80, 0x3b, 0];
/// `jae` over [`ADD_TO_R11`], [`IS_KNOWN`] and [`OVER_END`].
const OVER_LOOK: &[u8] = &[0x73, 13];
/// `cmp esi, imm8` with the number.
const COMPARE_COMMAND: &[u8] = &[0x83, 0xfe, LAST_SILENT_COMMAND as u8];
/// `jbe` over [`MOV_R11`] and [`SET`].
const OVER_END_IF_SILENT: &[u8] = &[0x76, 11];
/// `jne` over [`MOV_R11`] and [`SET`].
const OVER_END: &[u8] = &[0x75, 11];
/// `lea rsp, [rsp - 128]`: over the red zone, without touching flags.
const DOWN: &[u8] = &[0x48, 0x8d, 0x64, 0x24, 0x80];
/// `lea rsp, [rsp + 128]`.
const UP: &[u8] = &[0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0];
const PUSH_R11: &[u8] = &[0x41, 0x53];
const POP_R11: &[u8] = &[0x41, 0x5b];
const SYSCALL: &[u8] = &[0x0f, 0x05];
/// `jmp` over the six bytes of an indirect one.
const OVER_JUMP: &[u8] = &[0xeb, 0x06];

impl Stub<'_> {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// An instruction whose last four bytes are the distance from its end to `to`.
    fn relative(&mut self, start: &[u8], to: u64) {
        self.add(start);
        let end = self.vaddr + self.bytes.len() as u64 + 4;
        // Both lie in one block, which is far below 2 GiB.
        let distance = to.wrapping_sub(end) as u32;
        self.add(&distance.to_le_bytes());
    }

    fn save_r11(&mut self) {
        if self.keeps_r11 {
            self.add(DOWN);
            self.add(PUSH_R11);
        }
    }

    fn restore_r11(&mut self) {
        if self.keeps_r11 {
            self.add(POP_R11);
            self.add(UP);
        }
    }

    fn word(&mut self, start: &[u8], number: u64) {
        self.relative(start, self.layout.data() + 8 * number);
    }

    fn end_leases(&mut self) {
        self.word(MOV_R11, word::FLAG);
        self.add(SET);
    }

    /// Ends leases unless the descriptor in edi, which may be any number, is known.
    fn end_leases_unless_known(&mut self) {
        self.add(COPY_DESCRIPTOR);
        self.add(COMPARE_R11);
        self.add(&KNOWN_LEN.to_le_bytes());
        self.add(OVER_LOOK);
        self.word(ADD_TO_R11, word::KNOWN);
        self.add(IS_KNOWN);
        self.add(OVER_END);
        self.end_leases();
    }

    /// Ends leases unless the command in esi tells of nothing.
    fn end_leases_unless_silent(&mut self) {
        self.add(COMPARE_COMMAND);
        self.add(OVER_END_IF_SILENT);
        self.end_leases();
    }

    /// The instructions of a window, the addresses of some now relative to r11.
    fn moved(&mut self, code: &[Instruction], original: &[u8]) -> Result<(), NotMovable> {
        let first = code.first().map_or(0, Instruction::ip);
        for instruction in code {
            if instruction.is_ip_rel_memory_operand() {
                // Between the two the stack pointer is not what the instruction expects.
                if self.keeps_r11 && touches(instruction, Register::RSP) {
                    return Err(NotMovable);
                }
                self.save_r11();
                self.word(MOV_R11, word::BASE);
                self.add(&through_r11(instruction)?);
                self.restore_r11();
            } else {
                let at = usize::try_from(instruction.ip() - first).map_err(|_| NotMovable)?;
                let bytes = original.get(at..at + instruction.len());
                self.add(bytes.ok_or(NotMovable)?);
            }
        }
        Ok(())
    }
}

/// The same instruction with an address relative to r11, which holds what is to be added to addresses of the file.
fn through_r11(instruction: &Instruction) -> Result<Vec<u8>, NotMovable> {
    let vaddr = instruction.ip_rel_memory_address();
    if vaddr > i32::MAX as u64 {
        return Err(NotMovable);
    }
    let mut moved = *instruction;
    moved.set_memory_base(Register::R11);
    moved.set_memory_displacement64(vaddr);
    moved.set_memory_displ_size(8);
    let mut encoder = Encoder::new(64);
    encoder.encode(&moved, 0).map_err(|_| NotMovable)?;
    Ok(encoder.take_buffer())
}

/// The stub of a window for the address `vaddr`. Its way back is `layout`'s number `index`, of shape D also the one after it.
pub(super) fn stub(
    around: &Around,
    window: &Window,
    original: &[u8],
    (layout, index): (&Layout, u32),
    vaddr: u64,
) -> Result<Vec<u8>, NotMovable> {
    let mut stub = Stub {
        layout,
        vaddr,
        keeps_r11: window.keeps_r11,
        bytes: Vec::new(),
    };
    // A jump at the end is the way back itself.
    let end = window.range.end - usize::from(window.jump(around).is_some());
    let code = &around.code[window.range.start..end];
    let back = layout.back(index);
    let site = around.at.saturating_sub(window.range.start);
    let (before, after) = match window.shape {
        Shape::A | Shape::C => (&code[..site], &code[site + 1..]),
        Shape::B | Shape::D => (code, &[][..]),
    };
    let after_bytes = after.first().map_or(0, |first| first.ip() - code[0].ip());
    let after_bytes = original
        .get(usize::try_from(after_bytes).map_err(|_| NotMovable)?..)
        .ok_or(NotMovable)?;
    match window.shape {
        Shape::A => {
            stub.moved(before, original)?;
            let inline = stub.vaddr + (stub.bytes.len() + 7 + 6) as u64;
            stub.relative(LEA_RCX, inline);
            stub.word(JUMP, word::ENTRY);
            stub.add(SYSCALL);
            stub.moved(after, after_bytes)?;
            stub.relative(JUMP, back);
        }
        Shape::D => {
            stub.moved(before, original)?;
            let inline = stub.vaddr + (stub.bytes.len() + 7 + 6) as u64;
            stub.relative(LEA_RCX, inline);
            stub.word(JUMP, word::ENTRY);
            // Two bytes where shape A has the call itself, so that the runtime need not tell one from the other.
            stub.add(OVER_JUMP);
            stub.relative(JUMP, layout.back(index + 1));
            stub.relative(JUMP, back);
        }
        Shape::B => {
            let (first, rest) = before.split_at(window.asks_before.map_or(0, |(at, _)| at));
            let rest_at = rest.first().map_or(0, |one| one.ip() - before[0].ip());
            let rest_bytes = usize::try_from(rest_at)
                .ok()
                .and_then(|at| original.get(at..));
            stub.moved(first, original)?;
            stub.save_r11();
            match window.asks_before {
                Some((_, Question::Descriptor)) => stub.end_leases_unless_known(),
                Some((_, Question::Command)) => stub.end_leases_unless_silent(),
                None => stub.end_leases(),
            }
            stub.restore_r11();
            stub.moved(rest, rest_bytes.ok_or(NotMovable)?)?;
            stub.relative(JUMP, back);
        }
        Shape::C => {
            stub.moved(before, original)?;
            stub.add(DOWN);
            stub.word(CALL, word::CPUID);
            stub.add(UP);
            stub.moved(after, after_bytes)?;
            stub.relative(JUMP, back);
        }
    }
    Ok(stub.bytes)
}

#[cfg(test)]
mod tests {
    use super::through_r11;
    use iced_x86::{Decoder, DecoderOptions};

    #[test]
    fn an_address_relative_to_the_instruction_becomes_one_relative_to_r11() {
        let cases: [(&[u8], &[u8]); 4] = [
            // mov [rip+0x100], edx
            (
                &[0x89, 0x15, 0, 1, 0, 0],
                &[0x41, 0x89, 0x93, 0x06, 0x11, 0, 0],
            ),
            // cmp dword [rip+0x100], 12
            (
                &[0x83, 0x3d, 0, 1, 0, 0, 12],
                &[0x41, 0x83, 0xbb, 0x07, 0x11, 0, 0, 12],
            ),
            // lea rsi, [rip+0x100]
            (
                &[0x48, 0x8d, 0x35, 0, 1, 0, 0],
                &[0x49, 0x8d, 0xb3, 0x07, 0x11, 0, 0],
            ),
            // movaps xmm0, [rip+0x100]
            (
                &[0x0f, 0x28, 0x05, 0, 1, 0, 0],
                &[0x41, 0x0f, 0x28, 0x83, 0x07, 0x11, 0, 0],
            ),
        ];
        for (bytes, expected) in cases {
            let instruction = Decoder::with_ip(64, bytes, 0x1000, DecoderOptions::NONE).decode();
            assert_eq!(through_r11(&instruction).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_have_an_extended_register_is_not_moved() {
        // mov ah, [rip+0x100]
        let bytes = [0x8a, 0x25, 0, 1, 0, 0];
        let instruction = Decoder::with_ip(64, &bytes, 0x1000, DecoderOptions::NONE).decode();
        assert!(through_r11(&instruction).is_err());
    }
}
