//! What `strace -ff -i -y -s 0` writes of one thread: a line a call, never two mixed, each with the address that it was made
//! from and the path of each descriptor. Strings that are no paths come as `""...`.

use anyhow::{Context, bail};

/// One system call that the kernel carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Address of the instruction after the one that made it; `None` where strace could not tell.
    pub address: Option<u64>,
    /// The paths that it names.
    pub paths: Vec<Named>,
    /// How it failed, by the error's name.
    pub errno: Option<String>,
}

/// A path as a call names it. Bytes that are not printable are escaped as in C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The host path of the directory that it is relative to; `None` where the call does not say.
    pub at: Option<String>,
    /// Never empty: the empty path asks about a descriptor, or is refused before anything is looked up.
    pub path: String,
}

/// The calls in a log, without those that a seccomp filter trapped.
///
/// # Errors
/// A line that is not understood: what was miscounted in silence would look like a result.
pub fn parse(log: &str) -> anyhow::Result<Vec<Call>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut follows_a_call = false;
    for line in log.lines().filter(|line| !line.is_empty()) {
        let inner = line
            .strip_prefix('[')
            .and_then(|line| line.split_once("] "));
        let (address, event) = inner.with_context(|| format!("no address in {line:?}"))?;
        if let Some(signal) = event.strip_prefix("--- ") {
            if signal.contains("si_code=SYS_SECCOMP") {
                let trapped = calls.pop().filter(|_| follows_a_call);
                let number = format!(
                    "si_syscall=__NR_{},",
                    trapped.map_or_else(String::new, |call| call.name)
                );
                if !signal.contains(&number) {
                    bail!("the call that was trapped is not in front of {line:?}");
                }
            }
            follows_a_call = false;
            continue;
        }
        // An end, or the second half of an execve(2) that another thread of the process made.
        if event.starts_with("+++ ") || event.starts_with("<... ") {
            follows_a_call = false;
            continue;
        }
        let call = call(address, event).with_context(|| format!("no system call in {line:?}"))?;
        calls.push(call);
        follows_a_call = true;
    }
    Ok(calls)
}

fn call(address: &str, event: &str) -> Option<Call> {
    let (name, rest) = event.split_once('(')?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let (arguments, rest) = arguments(rest);
    let result = rest.trim_start().strip_prefix("= ").unwrap_or_default();
    let error = result.strip_prefix("-1 E").map(|_| &result["-1 ".len()..]);
    let paths = match name {
        // It names no path, it is told one.
        "getcwd" => Vec::new(),
        "bind" | "connect" | "sendmsg" | "sendto" => {
            arguments.iter().filter_map(|text| socket(text)).collect()
        }
        _ => paths(&arguments),
    };
    Some(Call {
        name: name.to_owned(),
        address: u64::from_str_radix(address, 16).ok(),
        paths,
        errno: error.and_then(|error| Some(error.split(' ').next()?.to_owned())),
    })
}

fn paths(arguments: &[&str]) -> Vec<Named> {
    let mut paths = Vec::new();
    for (i, argument) in arguments.iter().enumerate() {
        let inner = argument
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        if let Some(path) = inner.filter(|path| !path.is_empty()) {
            let before = i.checked_sub(1).map(|before| arguments[before]);
            paths.push(Named {
                at: before.and_then(directory),
                path: path.to_owned(),
            });
        }
    }
    paths
}

/// The directory behind `4</usr/lib>` or `AT_FDCWD</usr/lib>`.
fn directory(argument: &str) -> Option<String> {
    let (descriptor, path) = argument.strip_suffix('>')?.split_once('<')?;
    let is_descriptor = descriptor == "AT_FDCWD" || descriptor.bytes().all(|b| b.is_ascii_digit());
    (is_descriptor && path.starts_with('/')).then(|| path.to_owned())
}

/// The path in `{sa_family=AF_UNIX, sun_path="/run/socket"}`; an abstract address is none.
fn socket(argument: &str) -> Option<Named> {
    let (_, rest) = argument.split_once("sun_path=\"")?;
    let (path, _) = rest.split_once('"')?;
    (!path.is_empty()).then(|| Named {
        at: None,
        path: path.to_owned(),
    })
}

/// The arguments of a call, and what stands behind their closing parenthesis: nothing if the call never ended.
fn arguments(text: &str) -> (Vec<&str>, &str) {
    let bytes = text.as_bytes();
    let mut arguments = Vec::new();
    let (mut start, mut depth, mut i) = (0, 0_usize, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'"' => {
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
            }
            // The path of a descriptor, not a shift.
            b'<' if i > 0
                && (bytes[i - 1].is_ascii_digit() || bytes[..i].ends_with(b"AT_FDCWD"))
                && bytes.get(i + 1) != Some(&b'<') =>
            {
                while i < bytes.len() && bytes[i] != b'>' {
                    i += 1;
                }
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' if depth == 0 => {
                arguments.push(text[start..i].trim());
                return (arguments, &text[i + 1..]);
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                arguments.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
        i += 1;
    }
    (arguments, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trapped_call_is_left_out_and_what_the_handler_asks_is_not() -> anyhow::Result<()> {
        let calls = parse(
            "[00007f7c540b1d00] openat(AT_FDCWD</>, \"/etc/nothing\", O_RDONLY) = 257\n\
             [00007f7c540b1d00] --- SIGSYS {si_signo=SIGSYS, si_code=SYS_SECCOMP, si_call_addr=0x7f7c540b1d00, \
             si_syscall=__NR_openat, si_arch=AUDIT_ARCH_X86_64} ---\n\
             [00006f0000018b63] readlinkat(9</root>, \"etc/nothing\", 0x6f0080055018, 4097) = -1 ENOENT (No such file or directory)\n\
             [00006f00000205aa] rt_sigreturn({mask=[]}) = -1 ENOENT (No such file or directory)\n\
             [????????????????] +++ exited with 0 +++\n",
        )?;
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["readlinkat", "rt_sigreturn"]);
        assert_eq!(calls[0].address, Some(0x6f00_0001_8b63));
        assert_eq!(calls[0].errno.as_deref(), Some("ENOENT"));
        assert_eq!(
            calls[0].paths,
            [Named {
                at: Some("/root".to_owned()),
                path: "etc/nothing".to_owned()
            }]
        );
        assert!(calls[1].paths.is_empty());
        Ok(())
    }

    #[test]
    fn a_signal_that_follows_no_call_of_its_kind_is_an_error() {
        let trap = "[1] --- SIGSYS {si_signo=SIGSYS, si_code=SYS_SECCOMP, si_syscall=__NR_openat, si_arch=X} ---\n";
        let other = "[1] access(\"/a\", F_OK) = 21\n";
        assert!(parse(trap).is_err());
        assert!(parse(&format!("{other}{trap}")).is_err());
        assert!(parse("[1] +++ exited with 0 +++\nnonsense\n").is_err());
    }

    #[test]
    fn arguments_are_told_apart_whatever_is_in_them() {
        let (found, rest) =
            arguments(r#"5</a, (b>, "c, \")\"", {x=[1, 2], y=f(3)}, 1<<2, ""..., 4) = 0"#);
        let expected = [
            "5</a, (b>",
            r#""c, \")\"""#,
            "{x=[1, 2], y=f(3)}",
            "1<<2",
            "\"\"...",
            "4",
        ];
        assert_eq!((found.as_slice(), rest), (expected.as_slice(), " = 0"));
        assert_eq!(arguments("0x1, <unfinished ...>").1, "");
    }

    #[test]
    fn data_is_no_path_and_neither_is_the_answer_of_getcwd() -> anyhow::Result<()> {
        let calls = parse(
            "[1] write(1</dev/null>, \"\"..., 4) = 4\n[1] getcwd(\"/\", 4096) = 2\n\
             [1] newfstatat(3</etc>, \"\", {st_mode=S_IFDIR|0755, ...}, AT_EMPTY_PATH) = 0\n\
             [1] connect(3<socket:[1]>, {sa_family=AF_UNIX, sun_path=\"/run/a\"}, 110) = -1 ENOENT (No such file or directory)\n\
             [1] exit_group(0)        = ?\n",
        )?;
        let paths: Vec<_> = calls.iter().flat_map(|call| &call.paths).collect();
        assert_eq!(calls.len(), 5);
        assert_eq!(paths.len(), 1);
        assert_eq!((paths[0].path.as_str(), &paths[0].at), ("/run/a", &None));
        Ok(())
    }
}
