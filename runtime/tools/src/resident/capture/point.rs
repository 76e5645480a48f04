//! The point: where a dynamic linker is done and nothing else has begun.

/// Where a dynamic linker hands over: when the instruction there is about to be executed it is done, and its frames are gone.
///
/// glibc's `_start` is `mov rdi, rsp; call _dl_start`, and behind it lies `_dl_start_user`; musl's goes to the program's entry.
pub(super) fn point(start: &[u8], loader_entry: u64, program_entry: u64) -> Option<u64> {
    const GLIBC: &[u8] = b"\x48\x89\xe7\xe8";
    const MUSL: &[u8] = b"\x48\x31\xed\x48\x89\xe7\x48\x8d\x35";
    if start.starts_with(GLIBC) {
        Some(loader_entry + 8)
    } else {
        start.starts_with(MUSL).then_some(program_entry)
    }
}

#[cfg(test)]
mod tests {
    use super::point;

    #[test]
    fn the_point_is_known_by_how_a_dynamic_linker_begins() {
        let glibc = b"\x48\x89\xe7\xe8\x58\x0c\x00\x00\x49\x89\xc4";
        assert_eq!(point(glibc, 0x1000, 0x5000), Some(0x1008));
        let musl = b"\x48\x31\xed\x48\x89\xe7\x48\x8d\x35\x00";
        assert_eq!(point(musl, 0x1000, 0x5000), Some(0x5000));
        assert_eq!(
            point(b"\xf3\x0f\x1e\xfa\x48\x89\xe7\xe8", 0x1000, 0x5000),
            None
        );
    }
}
