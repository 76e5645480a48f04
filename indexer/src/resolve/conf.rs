//! `/etc/ld.so.conf`: which directories `ldconfig` makes `ld.so.cache` of.
//!
//! ```text
//! # comment                                   up to the end of the line
//! include /etc/ld.so.conf.d/*.conf other.conf patterns; relative ones count from the including file
//! /usr/local/lib                              a directory; `=TYPE` behind it is of no account any more
//! hwcap 0 nosegneg                            of no account either
//! ```

use crate::tree::{Kind, Tree, join, split};

/// The most files one configuration may include, directly or not: a file may include itself.
const MAX_FILES: usize = 1000;

/// What a configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conf {
    /// The directories in order, without trailing slashes, each once.
    pub directories: Vec<Vec<u8>>,
    /// The files read, in order.
    pub files: Vec<Vec<u8>>,
    /// What was passed over: (file, line number from 1, why).
    pub ignored: Vec<(Vec<u8>, usize, &'static str)>,
}

/// Reads the configuration at `path` and all it includes. A file that is not there says nothing.
#[must_use]
pub fn read(tree: &dyn Tree, path: &[u8]) -> Conf {
    let mut conf = Conf::default();
    read_into(tree, path, &mut conf);
    conf
}

fn read_into(tree: &dyn Tree, path: &[u8], conf: &mut Conf) {
    // Also ends recursion: a file that is being read counts.
    if conf.files.len() >= MAX_FILES || conf.files.iter().any(|file| file == path) {
        return;
    }
    let Some(text) = tree
        .locate(path, true)
        .ok()
        .filter(|n| n.kind == Kind::File)
        .and_then(|n| tree.read(&n).ok())
    else {
        return;
    };
    conf.files.push(path.to_vec());
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = line
            .split(|&b| b == b'#')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if line.is_empty() {
            continue;
        }
        if let Some(patterns) = directive(line, b"include") {
            for pattern in patterns
                .split(|&b| b == b' ' || b == b'\t')
                .filter(|p| !p.is_empty())
            {
                let base = split(path).map_or(&b"/"[..], |(directory, _)| directory);
                let pattern = if pattern.starts_with(b"/") {
                    pattern.to_vec()
                } else {
                    join(base, pattern)
                };
                for file in glob(tree, &pattern) {
                    read_into(tree, &file, conf);
                }
            }
        } else if directive(&line.to_ascii_lowercase(), b"hwcap").is_some() {
            conf.ignored.push((
                path.to_vec(),
                number + 1,
                "hwcap lines mean nothing since glibc 2.33",
            ));
        } else {
            let mut directory = line
                .split(|&b| b == b'=')
                .next()
                .unwrap_or_default()
                .trim_ascii_end();
            while directory.len() > 1 && directory.ends_with(b"/") {
                directory = &directory[..directory.len() - 1];
            }
            if !directory.starts_with(b"/") {
                conf.ignored
                    .push((path.to_vec(), number + 1, "not an absolute path"));
            } else if conf.directories.iter().all(|known| known != directory) {
                conf.directories.push(directory.to_vec());
            }
        }
    }
}

fn directive<'a>(line: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(word)
        .filter(|rest| rest.first().is_some_and(|b| matches!(b, b' ' | b'\t')))
}

/// The paths that match an absolute pattern, sorted. A pattern without wildcards matches itself if it is there.
#[must_use]
pub fn glob(tree: &dyn Tree, pattern: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![b"/".to_vec()];
    for part in pattern
        .split(|&b| b == b'/')
        .filter(|part| !part.is_empty())
    {
        let wild = part.iter().any(|b| matches!(b, b'*' | b'?' | b'['));
        found = found
            .into_iter()
            .flat_map(|directory| -> Vec<Vec<u8>> {
                if !wild {
                    return vec![join(&directory, part)];
                }
                let node = tree
                    .locate(&directory, true)
                    .ok()
                    .filter(|node| node.kind == Kind::Directory);
                let names = node
                    .and_then(|node| tree.names(&node).ok())
                    .unwrap_or_default();
                names
                    .into_iter()
                    .filter(|name| matches(part, name))
                    .map(|name| join(&directory, &name))
                    .collect()
            })
            .collect();
    }
    found.retain(|path| tree.locate(path, false).is_ok());
    found
}

/// Whether `name` matches `pattern` (`*`, `?`, `[a-z]`, `[!a]`, `\x`). A leading dot is matched by a dot alone.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    // Where to go on when the rest does not match: after the last `*`, with one more byte of the name taken by it.
    let mut retry: Option<(&[u8], &[u8])> = None;
    let (mut pattern, mut name) = (pattern, name);
    loop {
        if let Some(rest) = pattern.strip_prefix(b"*") {
            retry = Some((rest, name));
            pattern = rest;
            continue;
        }
        if pattern.is_empty() && name.is_empty() {
            return true;
        }
        if let (Some((rest, true)), Some((_, after))) = (
            match_one(pattern, name.first().copied()),
            name.split_first(),
        ) {
            (pattern, name) = (rest, after);
            continue;
        }
        match retry {
            Some((rest, [_, after @ ..])) => {
                retry = Some((rest, after));
                (pattern, name) = (rest, after);
            }
            _ => return false,
        }
    }
}

/// What follows the first element of `pattern`, and whether that element matches `byte`.
fn match_one(pattern: &[u8], byte: Option<u8>) -> Option<(&[u8], bool)> {
    let byte = byte?;
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some((rest, true)),
        [b'\\', quoted, rest @ ..] => Some((rest, *quoted == byte)),
        [b'[', rest @ ..] => Some(match_set(rest, byte).unwrap_or((rest, byte == b'['))),
        [plain, rest @ ..] => Some((rest, *plain == byte)),
    }
}

/// A bracket expression after its `[`; `None` where it is not closed and `[` stands for itself.
fn match_set(set: &[u8], byte: u8) -> Option<(&[u8], bool)> {
    let (negated, mut set) = match set {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut hit = false;
    let mut first = true;
    loop {
        set = match set {
            [b']', rest @ ..] if !first => return Some((rest, hit != negated)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                hit |= (*low..=*high).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                hit |= *one == byte;
                rest
            }
            [] => return None,
        };
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::LiveTree;

    #[test]
    fn patterns_match_as_in_the_shell() {
        for (pattern, name, expected) in [
            ("*.conf", "x86_64-linux-gnu.conf", true),
            ("*.conf", ".hidden.conf", false),
            (".*.conf", ".hidden.conf", true),
            ("*.conf", "a.conf~", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?[0-9]", "a7", true),
            ("[!a]x", "ax", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*", "", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn includes_are_globbed_in_order_and_never_twice() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        std::fs::create_dir_all(etc.join("ld.so.conf.d")).unwrap();
        let main = "include ld.so.conf.d/*.conf  # all of them\nhwcap 0 nosegneg\nrelative\n/opt/lib/=libc6\n/a\n";
        std::fs::write(etc.join("ld.so.conf"), main).unwrap();
        std::fs::write(etc.join("ld.so.conf.d/b.conf"), "/b\n/a/\n").unwrap();
        std::fs::write(
            etc.join("ld.so.conf.d/a.conf"),
            "# nothing\n  /a  \ninclude /etc/ld.so.conf\n",
        )
        .unwrap();
        std::fs::write(etc.join("ld.so.conf.d/c.conf.bak"), "/c\n").unwrap();
        let tree = LiveTree::open(root.path()).unwrap();
        let conf = read(&tree, b"/etc/ld.so.conf");
        assert_eq!(
            conf.directories,
            [b"/a".to_vec(), b"/b".to_vec(), b"/opt/lib".to_vec()]
        );
        assert_eq!(conf.files.len(), 3);
        let lines: Vec<usize> = conf.ignored.iter().map(|(_, line, _)| *line).collect();
        assert_eq!(lines, [2, 3]);
    }
}
