//! The checksum of every part and file: XXH3-64 with seed 0.
//!
//! It guards against torn, truncated and rotten files, not against an adversary: whoever can write the index can also
//! write the sysroot. Where content decides which code runs (patched text), BLAKE3 is used instead: see
//! [`crate::elf_facts::ContentHash`].

/// XXH3-64 of `bytes`, seed 0.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}
