//! Paths that a program was compiled with. They are the one place where a C library says where its locales are, and perl
//! where its modules are, that holds for Debian, Fedora and the store of Nix or Guix alike.

/// The longest path worth keeping.
const PATH_MAX: usize = 4096;

/// Every absolute path in `bytes` that stands between NULs, alone or in a list with colons, in order of appearance and
/// without a trailing slash.
pub(super) fn paths(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|&byte| byte == 0)
        .flat_map(|text| text.split(|&byte| byte == b':'))
        .filter_map(|text| {
            let plausible = text.len() > 1
                && text.len() < PATH_MAX
                && text[0] == b'/'
                && text[1] != b'/'
                && text.iter().all(u8::is_ascii_graphic);
            plausible.then(|| text.strip_suffix(b"/").unwrap_or(text))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_absolute_paths_are_taken() {
        let bytes =
            b"\x7fELF\0/usr/lib/gconv\0x/usr\0/etc/perl/\0/with space\0/\0//x\0/end:rel:/list\0";
        let found: Vec<&[u8]> = paths(bytes).collect();
        assert_eq!(
            found,
            [&b"/usr/lib/gconv"[..], b"/etc/perl", b"/end", b"/list"]
        );
    }
}
