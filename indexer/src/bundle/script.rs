//! What the first line of a script starts.

/// How much of a file is looked at: the kernel reads 256 bytes and cuts the line there.
pub(super) const LINE_MAX: u64 = 256;

/// The interpreter of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shebang {
    /// The path after `#!`.
    pub interpreter: Vec<u8>,
    /// What env(1) would start, if the interpreter is env.
    pub through_env: Option<Vec<u8>>,
}

/// The interpreter, if `start`, the first bytes of a file, begins with `#!`.
pub(super) fn parse(start: &[u8]) -> Option<Shebang> {
    let line = start.strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n' || byte == 0).next()?;
    let line = line.trim_ascii();
    let end = line
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(line.len());
    let (interpreter, arguments) = line.split_at(end);
    if interpreter.is_empty() {
        return None;
    }
    let is_env = interpreter.rsplit(|&byte| byte == b'/').next() == Some(b"env");
    let through_env = if is_env { env_program(arguments) } else { None };
    Some(Shebang {
        interpreter: interpreter.to_vec(),
        through_env,
    })
}

/// The program among the arguments of env: after options and assignments. The kernel passes all of them as one
/// argument, which `-S` splits again; without it there can only be a name.
fn env_program(arguments: &[u8]) -> Option<Vec<u8>> {
    let mut words = arguments
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        match word {
            b"-u" | b"--unset" | b"-C" | b"--chdir" => {
                words.next();
            }
            b"-S" | b"--split-string" => {}
            _ if word.starts_with(b"-S") => {
                return Some(word[2..].to_vec()).filter(|rest| !rest.is_empty());
            }
            _ if word.starts_with(b"-") || word.contains(&b'=') => {}
            _ => return Some(word.to_vec()),
        }
    }
    None
}

/// Whether an interpreter of this name is a shell, whose scripts mostly start other programs.
pub(super) fn is_shell(name: &[u8]) -> bool {
    matches!(
        name,
        b"sh" | b"bash" | b"dash" | b"ash" | b"ksh" | b"mksh" | b"zsh" | b"fish" | b"busybox"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Option<(String, Option<String>)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        parse(line.as_bytes())
            .map(|shebang| (text(shebang.interpreter), shebang.through_env.map(text)))
    }

    #[test]
    fn the_interpreter_is_the_first_word_and_env_starts_the_program_after_its_options() {
        let plain = |name: &str| Some((name.to_owned(), None));
        let through = |name: &str| Some(("/usr/bin/env".to_owned(), Some(name.to_owned())));
        assert_eq!(parsed("#!/bin/sh\n"), plain("/bin/sh"));
        assert_eq!(parsed("#! /bin/sh -e\nexit"), plain("/bin/sh"));
        assert_eq!(parsed("#!/usr/bin/env python3\n"), through("python3"));
        assert_eq!(
            parsed("#!/usr/bin/env -S -i A=b perl -w\n"),
            through("perl")
        );
        assert_eq!(parsed("#!/usr/bin/env -Sperl -w\n"), through("perl"));
        assert_eq!(parsed("#!/usr/bin/env -u LANG awk\n"), through("awk"));
        assert_eq!(parsed("#!\n"), None);
        assert_eq!(parsed("\x7fELF"), None);
        assert_eq!(
            parsed("#!/usr/bin/env"),
            Some(("/usr/bin/env".into(), None))
        );
    }
}
