//! glob(3) inside a sysroot, for the `include` lines of `ld.so.conf`.

use crate::tree::{Kind, Tree};

/// The paths that match the absolute `pattern`, in byte order, as glob(3) gives them in the C locale: `*`, `?` and
/// `[...]` match within one component and never a leading dot, `\` takes the next character literally.
///
/// ```text
/// /etc/ld.so.conf.d/*.conf  ->  /etc/ld.so.conf.d/libc.conf
///                               /etc/ld.so.conf.d/x86_64-linux-gnu.conf
/// ```
#[must_use]
pub fn glob(tree: &dyn Tree, pattern: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![Vec::new()];
    for component in pattern
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
    {
        found = found
            .iter()
            .flat_map(|directory| expand(tree, directory, component))
            .collect();
    }
    found.sort_unstable();
    found
}

/// What `component` stands for in `directory` (without a trailing slash; empty for the root).
fn expand(tree: &dyn Tree, directory: &[u8], component: &[u8]) -> Vec<Vec<u8>> {
    let join = |name: &[u8]| [directory, b"/", name].concat();
    if !component
        .iter()
        .any(|byte| matches!(byte, b'*' | b'?' | b'['))
    {
        let path = join(&unescaped(component));
        return Vec::from_iter(tree.locate(&path, false).is_ok().then_some(path));
    }
    let root_or = if directory.is_empty() {
        b"/"
    } else {
        directory
    };
    let Ok(node) = tree.locate(root_or, true) else {
        return Vec::new();
    };
    if node.kind != Kind::Directory {
        return Vec::new();
    }
    // As glob(3) without GLOB_ERR: a directory that cannot be listed holds nothing.
    let names = tree.names(&node).unwrap_or_default();
    let matching = names.into_iter().filter(|name| {
        (name.first() != Some(&b'.') || component.first() == Some(&b'.'))
            && matches(component, name)
    });
    matching.map(|name| join(&name)).collect()
}

fn unescaped(component: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(component.len());
    let mut bytes = component.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.push(*bytes.next().unwrap_or(&b'\\')),
            _ => plain.push(byte),
        }
    }
    plain
}

/// Whether `name` matches `pattern` as a whole. A star is tried again only from the last one on, so the time is at most
/// the product of the lengths, whatever the pattern.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, name));
            pattern = rest;
        } else if let Some((&byte, rest)) = name.split_first() {
            if let Some(after) = one(pattern, byte) {
                (pattern, name) = (after, rest);
            } else if let Some((after_star, [_, from @ ..])) = retry {
                retry = Some((after_star, from));
                (pattern, name) = (after_star, from);
            } else {
                return false;
            }
        } else {
            return pattern.is_empty();
        }
    }
}

/// What is left of `pattern` after its first element has matched `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'\\', literal, rest @ ..] => (*literal == byte).then_some(rest),
        [b'[', set @ ..] => match bracket(set, byte) {
            Some((true, rest)) => Some(rest),
            Some((false, _)) => None,
            // Not closed: an ordinary character.
            None => (byte == b'[').then_some(set),
        },
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// Whether `byte` is in the set that starts after its `[`, and what follows the `]`. `None` if there is no `]`.
fn bracket(set: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match set {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut contained = false;
    let mut first = true;
    loop {
        let low = match rest {
            [] => return None,
            // A `]` at the very start is a member.
            [b']', after @ ..] if !first => return Some((contained != negated, after)),
            [b'[', b':', after @ ..] => {
                let end = after.windows(2).position(|two| two == b":]");
                if let Some(end) = end {
                    contained |= in_class(&after[..end], byte);
                    rest = &after[end + 2..];
                    first = false;
                    continue;
                }
                rest = &rest[1..];
                b'['
            }
            [b'\\', literal, after @ ..] => {
                rest = after;
                *literal
            }
            [literal, after @ ..] => {
                rest = after;
                *literal
            }
        };
        first = false;
        let high = match rest {
            [b'-', high, after @ ..] if *high != b']' => {
                rest = after;
                *high
            }
            _ => low,
        };
        contained |= (low..=high).contains(&byte);
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::memory::MemoryTree;

    #[test]
    fn patterns_match_as_fnmatch_has_it() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("*a*b*c", "xxaybzc", true),
            ("*a*b*c", "xxaybz", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("[[:digit:]]*", "00-x", true),
            ("[[:digit:]]*", "x", false),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} against {name}"
            );
        }
    }

    #[test]
    fn a_pattern_with_many_stars_is_not_exponential() {
        assert!(!matches(&b"*a".repeat(60), &b"a".repeat(59)));
        assert!(!matches(
            &[&b"*a".repeat(60)[..], b"b"].concat(),
            &[b'a'; 255]
        ));
    }

    #[test]
    fn wildcards_in_directories_and_hidden_files_are_as_in_glob() {
        let tree = MemoryTree::new([
            ("/etc/b.d/2.conf", "file"),
            ("/etc/a.d/1.conf", "file"),
            ("/etc/a.d/.hidden.conf", "file"),
            ("/etc/link", "-> a.d"),
        ]);
        let glob = |pattern: &str| {
            let found = glob(&tree, pattern.as_bytes());
            found
                .iter()
                .map(|path| String::from_utf8_lossy(path).into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            glob("/etc/*.d/*.conf"),
            ["/etc/a.d/1.conf", "/etc/b.d/2.conf"]
        );
        assert_eq!(glob("/etc/link/*"), ["/etc/link/1.conf"]);
        assert_eq!(glob("/etc/a.d/.h*"), ["/etc/a.d/.hidden.conf"]);
        assert_eq!(glob("/etc/a.d/1.conf"), ["/etc/a.d/1.conf"]);
        assert_eq!(glob("/etc/none/*"), [""; 0]);
        assert_eq!(glob("/*"), ["/etc"]);
    }
}
