//! What depends on the architecture: which files one ldconfig takes, its built-in directories, legacy capabilities.

/// ELF `e_machine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine(pub u16);

/// Bit of the directories named `tls`, whatever the architecture.
const TLS_BIT: u8 = 63;

impl Machine {
    /// x86-64, with either size of pointers.
    pub const X86_64: Machine = Machine(62);
    /// i386.
    pub const I386: Machine = Machine(3);
    /// AArch64.
    pub const AARCH64: Machine = Machine(183);
    /// 32-bit ARM.
    pub const ARM: Machine = Machine(40);
    const RISCV: Machine = Machine(243);

    /// The name that Debian's directories have for it.
    const TRIPLETS: [(Machine, &'static [u8]); 9] = [
        (Machine::X86_64, b"x86_64-linux-gnu"),
        (Machine::AARCH64, b"aarch64-linux-gnu"),
        (Machine::I386, b"i386-linux-gnu"),
        (Machine::ARM, b"arm-linux-gnueabihf"),
        (Machine::ARM, b"arm-linux-gnueabi"),
        (Machine::RISCV, b"riscv64-linux-gnu"),
        (Machine(21), b"powerpc64le-linux-gnu"),
        (Machine(258), b"loongarch64-linux-gnu"),
        (Machine(8), b"mips64el-linux-gnuabi64"),
    ];

    /// The directory names of Debian's multiarch for this machine.
    pub(super) fn triplets(self) -> impl Iterator<Item = &'static [u8]> {
        let rows = Self::TRIPLETS.iter();
        rows.filter(move |(machine, _)| *machine == self)
            .map(|(_, triplet)| *triplet)
    }

    /// Whether the ldconfig for `self` takes libraries for `other`: one cache serves the sizes of one family.
    #[must_use]
    pub fn takes(self, other: Machine) -> bool {
        const FAMILIES: [&[u16]; 4] = [&[62, 3], &[183, 40], &[20, 21], &[2, 18, 43]];
        self == other
            || FAMILIES
                .iter()
                .any(|family| family.contains(&self.0) && family.contains(&other.0))
    }

    /// The directories that upstream's ldconfig always adds.
    pub(super) fn system_directories(self) -> Vec<Vec<u8>> {
        let variants: &[&str] = match self {
            Machine::X86_64 | Machine::I386 => &["", "32", "64", "x32"],
            Machine::AARCH64 => &["", "64", "ilp32"],
            Machine::RISCV => &["", "64/lp64d", "64/lp64"],
            _ => &["", "64"],
        };
        let all = ["/lib", "/usr/lib"].into_iter();
        all.flat_map(|base| {
            variants
                .iter()
                .map(move |variant| format!("{base}{variant}").into_bytes())
        })
        .collect()
    }

    /// Bit of a capability that can be a directory: (bit, whether glibc before 2.37 descends into directories of that
    /// name; the others only count when they are above one that it does descend into).
    fn capability(self, name: &[u8]) -> Option<(u8, bool)> {
        const AARCH64: [&[u8]; 9] = [
            b"fp", b"asimd", b"evtstrm", b"aes", b"pmull", b"sha1", b"sha2", b"crc32", b"atomics",
        ];
        if name == b"tls" {
            return Some((TLS_BIT, true));
        }
        match self {
            Machine::X86_64 | Machine::I386 => {
                let bit = match name {
                    b"sse2" => 0,
                    b"x86_64" => 1,
                    b"avx512_1" => 2,
                    b"i586" => 48,
                    b"i686" => 49,
                    b"haswell" => 50,
                    b"xeon_phi" => 51,
                    _ => return None,
                };
                Some((bit, true))
            }
            Machine::AARCH64 => {
                let bit = (0u8..).zip(AARCH64).find(|(_, known)| *known == name)?.0;
                Some((bit, name == b"atomics"))
            }
            _ => None,
        }
    }

    /// Whether ldconfig before glibc 2.37 looks into a subdirectory of this name.
    pub(super) fn is_capability(self, name: &[u8]) -> bool {
        self.capability(name).is_some_and(|(_, descend)| descend)
    }

    /// What the last components of `path` ask of the processor: `/lib/haswell/avx512_1` is two bits.
    pub(super) fn capabilities_of(self, path: &[u8]) -> u64 {
        let names = path.rsplit(|&byte| byte == b'/');
        let bits = names
            .map_while(|name| self.capability(name))
            .map(|(bit, _)| 1u64 << bit);
        // glibc adds where it should or: `haswell/haswell` is `xeon_phi`. So be it.
        bits.fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_end_of_the_path() {
        let x86 = |path: &str| Machine::X86_64.capabilities_of(path.as_bytes());
        assert_eq!(x86("/lib/haswell/avx512_1"), 1 << 50 | 1 << 2);
        assert_eq!(x86("/lib/haswell/x86_64-linux-gnu"), 0);
        assert_eq!(x86("/lib/tls"), 1 << 63);
        assert_eq!(x86("/lib/haswell/haswell"), 1 << 51);
        assert_eq!(Machine::AARCH64.capabilities_of(b"/lib/atomics"), 1 << 8);
    }

    #[test]
    fn one_ldconfig_takes_both_sizes_of_its_family_only() {
        assert!(Machine::X86_64.takes(Machine::I386));
        assert!(Machine::AARCH64.takes(Machine::ARM));
        assert!(!Machine::X86_64.takes(Machine::AARCH64));
    }
}
