//! What a dynamic linker asks the kernel about paths, as `strace` sees it.

use std::path::Path;

/// One system call that names a path: (call, path, error).
pub type PathCall = (String, String, Option<String>);

/// The calls of `program` (a path inside the sysroot) after it was executed with `LD_TRACE_LOADED_OBJECTS=1` and
/// `environment`, up to its end.
///
/// # Panics
/// `strace` is missing, may not trace, or the program cannot be started.
#[must_use]
pub fn path_calls(sysroot: &Path, program: &[&str], environment: &[(&str, &str)]) -> Vec<PathCall> {
    let strace = crate::need::tool("strace", "strace");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = directory.path().join("strace");
    // A store has no /usr/bin/env.
    const SET_AND_RUN: &str =
        r#"while case $1 in *=*) ;; *) false ;; esac; do export "$1"; shift; done; exec "$@""#;
    let inside = crate::enter::command(sysroot, "/bin/sh");
    let mut command = std::process::Command::new(strace);
    // One process all the way: unshare, sh, env, chroot and sh execute each other.
    command
        .args(["-e", "trace=file", "-s", "4096", "-f", "-o"])
        .arg(&log)
        .arg(inside.get_program())
        .args(inside.get_args())
        .args(["-c", SET_AND_RUN, "sh"])
        .arg("LD_TRACE_LOADED_OBJECTS=1")
        .args(
            environment
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        )
        .args(program);
    let output = command.output().expect("running strace");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let mut lines = text.lines();
    let start = format!("execve(\"{}\"", program[0]);
    assert!(
        lines.any(|line| line.contains(&start) && line.ends_with("= 0")),
        "strace did not see {program:?} start: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    lines.filter_map(parse).collect()
}

/// "4711 openat(AT_FDCWD, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)"
fn parse(line: &str) -> Option<PathCall> {
    let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    let (call, rest) = line.split_once('(')?;
    // It names no path, it is told one.
    if call == "getcwd" {
        return None;
    }
    let (_, rest) = rest.split_once('"')?;
    let (path, rest) = rest.split_once('"')?;
    // fstat by another name: it asks about a descriptor.
    if path.is_empty() && rest.contains("AT_EMPTY_PATH") {
        return None;
    }
    let (_, result) = rest.rsplit_once(" = ")?;
    let errno = result
        .strip_prefix("-1 ")
        .and_then(|error| error.split(' ').next());
    Some((call.to_owned(), path.to_owned(), errno.map(str::to_owned)))
}
