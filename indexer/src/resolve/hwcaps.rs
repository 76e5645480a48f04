//! The processor, and the subdirectories that glibc searches for its sake.
//!
//! Two mechanisms: since glibc 2.33 the named levels below `glibc-hwcaps`; until glibc 2.36 the power set of single
//! capabilities, the platform's name and `tls`.

use crate::resolve::constants::Version;

/// What a dynamic linker finds out about the processor it runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// `e_machine` of its native programs; `None`: whatever the program's is.
    pub machine: Option<u16>,
    /// Usable subdirectories of `glibc-hwcaps`, best first.
    pub levels: Vec<String>,
    /// What `$PLATFORM` stands for, and before glibc 2.37 a subdirectory.
    pub platform: Option<String>,
    /// Before glibc 2.37: important capabilities, lowest bit first.
    pub capabilities: Vec<String>,
    /// x86: the ISA levels a cache entry may ask for, bit 0 for the baseline.
    pub isa_levels: u32,
}

/// Names of `glibc-hwcaps` subdirectories by machine, best first: a machine has a tail of such a list.
const LEVELS: [(u16, &[&str]); 4] = [
    (EM_X86_64, &["x86-64-v4", "x86-64-v3", "x86-64-v2"]),
    (EM_PPC64, &["power10", "power9"]),
    (EM_S390, &["z17", "z16", "z15", "z14", "z13"]),
    (EM_AARCH64, &[]),
];

const EM_PPC64: u16 = 21;
const EM_S390: u16 = 22;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// Every `glibc-hwcaps` subdirectory of a machine, best first.
#[must_use]
pub fn levels_of(machine: u16) -> &'static [&'static str] {
    LEVELS
        .iter()
        .find(|(m, _)| *m == machine)
        .map_or(&[], |(_, levels)| levels)
}

impl Cpu {
    /// A processor with nothing above its architecture's baseline.
    #[must_use]
    pub fn baseline() -> Self {
        Self {
            isa_levels: 1,
            ..Self::default()
        }
    }

    /// `name` (like `x86-64-v3` or `z14`) and every level below it. `None` when no machine has such a level.
    /// `x86-64`, `x86-64-v1` and `baseline` are the baseline.
    ///
    /// The legacy names are those of an Intel processor of that level.
    #[must_use]
    pub fn of_level(name: &str) -> Option<Self> {
        if matches!(name, "x86-64" | "x86-64-v1" | "baseline") {
            return Some(Self::baseline());
        }
        let (machine, levels) = LEVELS.iter().find_map(|(m, all)| {
            all.iter()
                .position(|l| *l == name)
                .map(|at| (*m, &all[at..]))
        })?;
        let mut cpu = Self {
            machine: Some(machine),
            levels: levels.iter().map(ToString::to_string).collect(),
            isa_levels: u32::MAX,
            ..Self::default()
        };
        if machine == EM_X86_64 {
            cpu.isa_levels = (1 << (levels.len() + 1)) - 1;
            cpu.capabilities.push("x86_64".to_owned());
            let platform = if levels.len() >= 2 {
                "haswell"
            } else {
                "x86_64"
            };
            cpu.platform = Some(platform.to_owned());
            if levels.len() >= 3 {
                cpu.capabilities.push("avx512_1".to_owned());
            }
        }
        Some(cpu)
    }

    /// The processor this runs on; the baseline where the host is not the guest's architecture.
    #[must_use]
    pub fn host() -> Self {
        host::detect()
    }

    /// This processor as a program for `machine` finds it: one with nothing to offer when it is another machine's.
    #[must_use]
    pub fn seen_from(&self, machine: u16) -> Self {
        if self.machine.is_none_or(|own| own == machine) {
            return self.clone();
        }
        Self {
            isa_levels: if machine == EM_X86_64 { 1 } else { u32::MAX },
            ..Self::default()
        }
    }

    /// The subdirectories of every library directory in the order they are tried, each with its trailing slash, the
    /// directory itself (an empty string) last.
    #[must_use]
    pub fn subdirectories(&self, version: Version) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        if version.has_glibc_hwcaps() {
            let levels = self.levels.iter();
            all.extend(levels.map(|level| format!("glibc-hwcaps/{level}/").into_bytes()));
        }
        if version.has_legacy_hwcaps() {
            // The last of these is the highest bit; all combinations, counted down from all ones.
            let names: Vec<&str> = self
                .capabilities
                .iter()
                .map(String::as_str)
                .chain(self.platform.as_deref())
                .chain(["tls"])
                // A processor has three; the cap keeps the power set small whatever an option says.
                .take(MAX_LEGACY)
                .collect();
            for bits in (1..1u32 << names.len()).rev() {
                let mut subdirectory = Vec::new();
                for (number, name) in names.iter().enumerate().rev() {
                    if bits & (1 << number) != 0 {
                        subdirectory.extend_from_slice(name.as_bytes());
                        subdirectory.push(b'/');
                    }
                }
                all.push(subdirectory);
            }
        }
        all.push(Vec::new());
        all
    }
}

/// The most names of the power set.
const MAX_LEGACY: usize = 8;

#[cfg(target_arch = "x86_64")]
mod host {
    use std::arch::is_x86_feature_detected as has;

    use super::Cpu;

    pub(super) fn detect() -> Cpu {
        let v2 = has!("cmpxchg16b")
            && has!("popcnt")
            && has!("sse3")
            && has!("sse4.1")
            && has!("sse4.2")
            && has!("ssse3");
        let haswell = has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let v3 = v2 && haswell && has!("avx") && has!("f16c");
        let avx512 = has!("avx512cd") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        let v4 = v3 && avx512 && has!("avx512f");
        let level = if v4 {
            "x86-64-v4"
        } else if v3 {
            "x86-64-v3"
        } else if v2 {
            "x86-64-v2"
        } else {
            "x86-64"
        };
        let mut cpu = Cpu::of_level(level).unwrap_or_default();
        cpu.machine = Some(super::EM_X86_64);
        // glibc gives these names to Intel's processors alone; the others keep what the kernel calls them.
        cpu.capabilities = vec!["x86_64".to_owned()];
        cpu.platform = Some("x86_64".to_owned());
        if is_intel() {
            if haswell {
                cpu.platform = Some("haswell".to_owned());
            }
            if avx512 {
                cpu.capabilities.push("avx512_1".to_owned());
            }
        }
        cpu
    }

    fn is_intel() -> bool {
        let leaf = std::arch::x86_64::__cpuid(0);
        // "Genu" "ineI" "ntel"
        (leaf.ebx, leaf.edx, leaf.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod host {
    use super::Cpu;

    pub(super) fn detect() -> Cpu {
        let mut cpu = Cpu::baseline();
        if cfg!(target_arch = "aarch64") {
            cpu.machine = Some(super::EM_AARCH64);
            cpu.platform = Some("aarch64".to_owned());
        }
        cpu.isa_levels = u32::MAX;
        cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subdirectories(cpu: &Cpu, minor: u32) -> Vec<String> {
        let version = Version { major: 2, minor };
        let all = cpu.subdirectories(version);
        all.into_iter()
            .map(|s| String::from_utf8(s).unwrap())
            .collect()
    }

    #[test]
    fn glibc_2_36_tries_levels_then_the_power_set_of_the_old_names() {
        let cpu = Cpu::of_level("x86-64-v4").unwrap();
        let expected = [
            "glibc-hwcaps/x86-64-v4/",
            "glibc-hwcaps/x86-64-v3/",
            "glibc-hwcaps/x86-64-v2/",
            "tls/haswell/avx512_1/x86_64/",
            "tls/haswell/avx512_1/",
            "tls/haswell/x86_64/",
            "tls/haswell/",
            "tls/avx512_1/x86_64/",
            "tls/avx512_1/",
            "tls/x86_64/",
            "tls/",
            "haswell/avx512_1/x86_64/",
            "haswell/avx512_1/",
            "haswell/x86_64/",
            "haswell/",
            "avx512_1/x86_64/",
            "avx512_1/",
            "x86_64/",
            "",
        ];
        assert_eq!(subdirectories(&cpu, 36), expected);
    }

    #[test]
    fn glibc_2_37_tries_levels_alone_and_2_32_the_old_names_alone() {
        let cpu = Cpu::of_level("x86-64-v2").unwrap();
        assert_eq!(subdirectories(&cpu, 37), ["glibc-hwcaps/x86-64-v2/", ""]);
        // Once as the platform, once as a capability.
        let old = [
            "tls/x86_64/x86_64/",
            "tls/x86_64/",
            "tls/x86_64/",
            "tls/",
            "x86_64/x86_64/",
            "x86_64/",
            "x86_64/",
            "",
        ];
        assert_eq!(subdirectories(&cpu, 32), old);
    }

    #[test]
    fn other_machines_have_their_own_levels() {
        assert_eq!(Cpu::of_level("z14").unwrap().levels, ["z14", "z13"]);
        assert_eq!(Cpu::of_level("power9").unwrap().levels, ["power9"]);
        assert_eq!(Cpu::of_level("x86-64").unwrap(), Cpu::baseline());
        assert_eq!(Cpu::of_level("i9"), None);
    }
}
