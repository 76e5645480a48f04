//! Numbers of the ELF header as people know them.

/// Machines that Linux distributions are or were made for: `e_machine` and its name.
const MACHINES: &[(u16, &str)] = &[
    // Guile's compiled modules.
    (0, "no machine's"),
    (2, "SPARC"),
    (3, "i386"),
    (4, "m68k"),
    (8, "MIPS"),
    (15, "PA-RISC"),
    (18, "SPARC32PLUS"),
    (20, "PowerPC"),
    (21, "PowerPC64"),
    (22, "S/390"),
    (40, "ARM"),
    (42, "SuperH"),
    (43, "SPARC V9"),
    (50, "IA-64"),
    (62, "x86-64"),
    (93, "ARC"),
    (94, "Xtensa"),
    (164, "Hexagon"),
    (183, "AArch64"),
    (188, "TILE-Gx"),
    (224, "AMD GPU"),
    (243, "RISC-V"),
    (247, "BPF"),
    (252, "C-SKY"),
    (258, "LoongArch"),
    (0x9026, "Alpha"),
];

/// Name of an `e_machine`.
#[must_use]
pub fn machine(number: u16) -> String {
    let known = MACHINES.iter().find(|(known, _)| *known == number);
    known.map_or_else(
        || format!("machine {number}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Name of an `e_type`.
#[must_use]
pub fn elf_type(number: u16) -> String {
    match number {
        1 => "relocatable".to_owned(),
        2 => "executable".to_owned(),
        3 => "shared object".to_owned(),
        4 => "core".to_owned(),
        _ => format!("type {number}"),
    }
}

/// Name of an `e_ident[EI_CLASS]`.
#[must_use]
pub fn class(number: u8) -> String {
    match number {
        1 => "32-bit".to_owned(),
        2 => "64-bit".to_owned(),
        _ => format!("class {number}"),
    }
}

/// All of it in one phrase, with the byte order where it is the unusual one.
#[must_use]
pub fn phrase(class_number: u8, data: u8, machine_number: u16, type_number: u16) -> String {
    let order = if data == 2 { " big-endian" } else { "" };
    format!(
        "{}{order} {} {}",
        class(class_number),
        machine(machine_number),
        elf_type(type_number)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_here_keeps_its_number() {
        assert_eq!(phrase(2, 1, 62, 3), "64-bit x86-64 shared object");
        assert_eq!(phrase(1, 2, 20, 2), "32-bit big-endian PowerPC executable");
        assert_eq!(
            phrase(9, 1, 9999, 0xfe00),
            "class 9 machine 9999 type 65024"
        );
    }
}
