//! Which row ld.so would take for a name.

use super::{Entry, Flags, Hwcap, Layout, LdSoCache, compare_names};

/// What a particular ld.so on a particular machine looks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Architecture and ABI of the program: [`Flags::of_elf`].
    pub flags: Flags,
    /// x86: the ISA levels that the processor has, one bit each (bit 0 baseline, bit 1 v2, ...). All ones elsewhere.
    pub isa_levels: u32,
    /// Legacy hardware capabilities. `None`: glibc 2.37 or later, which has none.
    pub legacy: Option<LegacyHwcaps>,
    /// The kernel's version as glibc packs it (`6.1.0` is `0x060100`). 0: do not ask, as glibc since 2.36.
    pub os_version: u32,
}

impl Wanted {
    /// Whatever the processor, with the rules of glibc 2.37 and later.
    #[must_use]
    pub fn new(flags: Flags) -> Wanted {
        Wanted {
            flags,
            isa_levels: u32::MAX,
            legacy: None,
            os_version: 0,
        }
    }

    fn kernel_will_do(&self, entry: &Entry<'_>) -> bool {
        self.os_version == 0 || entry.os_version <= self.os_version
    }
}

/// What glibc before 2.37 knows of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegacyHwcaps {
    /// The capabilities that the processor has and that `LD_HWCAP_MASK` lets through.
    pub mask: u64,
    /// The bits that stand for platforms on this architecture; none on those without.
    pub platforms: u64,
    /// The one bit of them that is this processor's, 0 if none is.
    pub platform: u64,
}

impl LegacyHwcaps {
    /// Always acceptable: libraries in `tls` directories, from the times when not every C library had threads.
    const TLS: u64 = 1 << 63;

    fn accept(self, bits: u64) -> bool {
        let platform = bits & self.platforms;
        bits & !(self.mask | self.platforms | Self::TLS) == 0
            && (platform == 0 || platform == self.platform)
    }
}

impl<'a> LdSoCache<'a> {
    /// The row that ld.so would take for `name`, and so the path it would open: `None` when there is none, or when the
    /// search meets a row whose strings lie outside the file. `hwcaps` are the usable subdirectories of `glibc-hwcaps`,
    /// best first (for an x86-64-v3 machine `x86-64-v3`, `x86-64-v2`).
    #[must_use]
    pub fn lookup(
        &self,
        name: &[u8],
        wanted: &Wanted,
        hwcaps: &[impl AsRef<[u8]>],
    ) -> Option<Entry<'a>> {
        let (first, end) = self.run_of(name)?;
        let mut best: Option<(usize, Entry<'a>)> = None;
        for number in first..end {
            let entry = self.get(number)?;
            if !wanted.flags.accepts(entry.flags) || entry.value.is_none() {
                continue;
            }
            match entry.hwcap {
                Hwcap::Named { index, isa_level } => {
                    let has_isa = 1u32
                        .checked_shl(isa_level.into())
                        .is_some_and(|bit| wanted.isa_levels & bit != 0);
                    if !has_isa || !wanted.kernel_will_do(&entry) {
                        continue;
                    }
                    let directory = self.hwcaps_name(index);
                    let rank = hwcaps
                        .iter()
                        .position(|usable| Some(usable.as_ref()) == directory);
                    if let Some(rank) = rank
                        && best.is_none_or(|(best, _)| rank < best)
                    {
                        best = Some((rank, entry));
                    }
                }
                Hwcap::Any | Hwcap::Legacy(_) => {
                    // In an old file the last row that is merely acceptable wins, unless one is exact; in a new one
                    // the first.
                    if best.is_some() && self.layout != Layout::Old {
                        break;
                    }
                    let accepted = match (entry.hwcap, wanted.legacy) {
                        (Hwcap::Legacy(bits), Some(legacy)) => legacy.accept(bits),
                        (Hwcap::Legacy(_), None) => false,
                        _ => true,
                    };
                    if accepted && wanted.kernel_will_do(&entry) {
                        best = Some((usize::MAX, entry));
                        if entry.flags == wanted.flags {
                            break;
                        }
                    }
                }
            }
        }
        best.map(|(_, entry)| entry)
    }

    /// The rows whose key equals `name`, found as ld.so finds them.
    fn run_of(&self, name: &[u8]) -> Option<(usize, usize)> {
        let is_name = |number: usize| {
            let key = self.get(number).and_then(|entry| entry.key);
            key.is_some_and(|key| compare_names(name, key).is_eq())
        };
        let mut low = 0;
        let mut high = self.len();
        while low < high {
            // The middle of `low..=high - 1`.
            let middle = low + (high - 1 - low) / 2;
            match compare_names(name, self.get(middle)?.key?) {
                core::cmp::Ordering::Less => low = middle + 1,
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => {
                    // Backwards to the very start, forwards only as far as the search has not excluded.
                    let first = (0..middle)
                        .rev()
                        .take_while(|&number| is_name(number))
                        .last()
                        .unwrap_or(middle);
                    let end = (middle..high)
                        .take_while(|&number| is_name(number))
                        .last()
                        .unwrap_or(middle)
                        + 1;
                    return Some((first, end));
                }
            }
        }
        None
    }
}
