//! `ld.so.cache` as ld.so uses it.

use elfuse_format::ld_so_cache::{Flags, LdSoCache, LegacyHwcaps, Wanted};

use crate::resolve::{Call, Constants, Question};
use crate::tree::Kind;

use super::{Cache, Link};

impl Link<'_> {
    /// The path that `ld.so.cache` has for a name.
    pub(super) fn in_cache(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        if matches!(self.cache, Cache::Unread) {
            let path = &self.constants.cache;
            let node = self.tree.locate(path, true);
            self.search
                .note(Call::Open, path, node.as_ref().err().copied());
            let bytes = node
                .ok()
                .filter(|n| n.kind == Kind::File)
                .and_then(|node| self.tree.read(&node).ok());
            self.cache = bytes.map_or(Cache::Unusable, Cache::Read);
        }
        let Cache::Read(bytes) = &self.cache else {
            return None;
        };
        let wanted = wanted(self.constants, self.question)?;
        let entry =
            LdSoCache::parse(bytes)
                .ok()?
                .lookup(name, &wanted, &self.question.cpu.levels)?;
        entry.value.map(<[u8]>::to_vec)
    }
}

/// What this ld.so takes from a cache.
fn wanted(constants: &Constants, question: &Question) -> Option<Wanted> {
    let flags = Flags::of_elf(constants.class, constants.machine, constants.e_flags)?;
    let legacy = constants
        .rules()
        .has_legacy_hwcaps()
        .then(|| legacy_hwcaps(question));
    Some(Wanted {
        isa_levels: question.cpu.isa_levels,
        legacy,
        ..Wanted::new(flags)
    })
}

/// The bits that glibc before 2.37 had for x86 processors.
fn legacy_hwcaps(question: &Question) -> LegacyHwcaps {
    const CAPABILITIES: [&str; 3] = ["sse2", "x86_64", "avx512_1"];
    const PLATFORMS: [&str; 4] = ["i586", "i686", "haswell", "xeon_phi"];
    const FIRST_PLATFORM: usize = 48;
    let bit_of = |names: &[&str], name: &str| names.iter().position(|n| *n == name);
    let capabilities = question.cpu.capabilities.iter();
    let mask = capabilities
        .filter_map(|name| bit_of(&CAPABILITIES, name))
        .fold(0, |mask, bit| mask | 1 << bit);
    let platform = question
        .cpu
        .platform
        .as_deref()
        .and_then(|name| bit_of(&PLATFORMS, name));
    LegacyHwcaps {
        mask,
        platforms: 0xf << FIRST_PLATFORM,
        platform: platform.map_or(0, |bit| 1 << (FIRST_PLATFORM + bit)),
    }
}
