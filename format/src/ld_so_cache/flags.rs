//! The kind of library an entry is for: C library generation and architecture.

use core::fmt;

/// The `flags` of an entry: type in the low byte, architecture and ABI in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub i32);

/// One row an architecture: its number, and what `ldconfig -p` prints for it.
const ARCHITECTURES: [(i32, &str); 18] = [
    (0x0100, "64bit"),
    (0x0200, "IA-64"),
    (0x0300, "x86-64"),
    (0x0400, "64bit"),
    (0x0500, "64bit"),
    (0x0600, "N32"),
    (0x0700, "64bit"),
    (0x0800, "x32"),
    (0x0900, "hard-float"),
    (0x0a00, "AArch64"),
    (0x0b00, "soft-float"),
    (0x0c00, "nan2008"),
    (0x0d00, "N32,nan2008"),
    (0x0e00, "64bit,nan2008"),
    (0x0f00, "soft-float"),
    (0x1000, "double-float"),
    (0x1100, "soft-float"),
    (0x1200, "double-float"),
];

impl Flags {
    /// Any ELF object, of no particular C library: entries of very old caches.
    pub const ELF: Flags = Flags(1);
    /// The C library before glibc 2, on i386.
    pub const LIBC5: Flags = Flags(2);
    /// glibc on an architecture that has only one ABI (i386 among them).
    pub const LIBC6: Flags = Flags(3);
    /// glibc, x86-64.
    pub const X86_64: Flags = Flags(0x0303);
    /// glibc, x86-64 with 32-bit pointers.
    pub const X32: Flags = Flags(0x0803);
    /// glibc, AArch64.
    pub const AARCH64: Flags = Flags(0x0a03);

    const TYPE: i32 = 0x00ff;
    const ARCHITECTURE: i32 = 0xff00;

    /// What `ldconfig` writes for an object with these ELF header fields, and at the same time what that
    /// architecture's ld.so asks for. `None` for a machine that glibc's caches have no number for.
    ///
    /// ```
    /// use elfuse_format::ld_so_cache::Flags;
    /// assert_eq!(Flags::of_elf(2, 62, 0), Some(Flags::X86_64));
    /// assert_eq!(Flags::of_elf(1, 62, 0), Some(Flags::X32));
    /// assert_eq!(Flags::of_elf(1, 3, 0), Some(Flags::LIBC6));
    /// ```
    #[must_use]
    pub fn of_elf(class: u8, machine: u16, e_flags: u32) -> Option<Flags> {
        let wide = match class {
            1 => false,
            2 => true,
            _ => return None,
        };
        let architecture = match (machine, wide) {
            // 386, 68k, PA-RISC, SPARC, PowerPC, s390, SuperH, ARC, OpenRISC, C-SKY, Alpha.
            (3 | 4 | 15 | 2 | 18 | 20 | 22 | 42 | 195 | 92 | 252, false) | (0x9026, true) => 0,
            (43, true) => 0x0100,
            (50, true) => 0x0200,
            (62, true) => 0x0300,
            (62, false) => 0x0800,
            (22, true) => 0x0400,
            (21, true) => 0x0500,
            (183, _) => 0x0a00,
            (40, false) if e_flags & 0x400 != 0 => 0x0900,
            (40, false) if e_flags & 0x200 != 0 => 0x0b00,
            (40, false) => 0,
            (8, _) => {
                let nan_2008 = e_flags & 0x400 != 0;
                match (wide, e_flags & 0x20 != 0, nan_2008) {
                    (true, _, false) => 0x0700,
                    (true, _, true) => 0x0e00,
                    (false, true, false) => 0x0600,
                    (false, true, true) => 0x0d00,
                    (false, false, false) => 0,
                    (false, false, true) => 0x0c00,
                }
            }
            (243, _) => match e_flags & 6 {
                0 => 0x0f00,
                4 => 0x1000,
                _ => return None,
            },
            (258, _) => match e_flags & 7 {
                1 => 0x1100,
                3 => 0x1200,
                _ => return None,
            },
            _ => return None,
        };
        Some(Flags(architecture | 3))
    }

    /// Whether ld.so of the architecture `self` takes an entry with `flags`. Where an architecture has only one ABI, the
    /// untyped entries of old caches are good enough; the others insist.
    #[must_use]
    pub fn accepts(self, flags: Flags) -> bool {
        flags == self || (self == Flags::LIBC6 && flags == Flags::ELF)
    }
}

/// As `ldconfig -p` prints it: `libc6,x86-64`.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 & Self::TYPE {
            0 => "libc4",
            1 => "ELF",
            2 => "libc5",
            3 => "libc6",
            _ => "unknown",
        })?;
        match self.0 & Self::ARCHITECTURE {
            0 => Ok(()),
            number => match ARCHITECTURES.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => write!(f, ",{name}"),
                None => write!(f, ",{number}"),
            },
        }
    }
}
