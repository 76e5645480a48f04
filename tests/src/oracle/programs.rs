//! Cases that are programs of a sysroot at work: `tests/cases/programs/THEME`.
//!
//! ```text
//! == a name of the case
//! @ run PROGRAM ARGUMENT...   what is started; a blank behind a backslash is part of an argument. Else a shell with the rest
//! @ env NAME=VALUE
//! @ file NAME                 a compiled program that lies in /tmp
//! @ limit SECONDS             how long it may run, else 60
//! @ ignore-trees              what it leaves in /tmp is not compared
//! @ status-only               nor is what it prints
//! a line for the shell
//! ```
//!
//! They start in `/tmp`, which is empty and their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::calls::usual_binds;
use super::compile::Programs;
use super::room::{Ground, Job};
use super::suite::Case;
use crate::{need, sysroot};

/// A sysroot that programs are run in.
#[derive(Debug, Clone, Copy)]
pub struct Sysroot<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it lies.
    pub root: &'a Path,
    /// Its shell, which is given the lines of a case.
    pub shell: &'a str,
}

impl Sysroot<'static> {
    /// The example sysroot of that name, with bash.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn debian() -> Self {
        Self {
            name: "debian",
            root: sysroot::debian(),
            shell: "/bin/bash",
        }
    }
}

/// The cases of a theme.
///
/// # Panics
/// There are none, or a line makes no sense, or an index cannot be built.
#[must_use]
pub fn theme(name: &str, sysroot: Sysroot<'_>, programs: &Programs) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = path.join("cases/programs").join(name);
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let ground = ground(sysroot, programs);
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(case(name.trim(), &ground, sysroot.shell));
            continue;
        }
        let Some(case) = cases.last_mut() else {
            let comment = line.is_empty() || line.starts_with('#');
            assert!(comment, "{name}: a line before the first case: {line:?}");
            continue;
        };
        match line.strip_prefix("@ ") {
            Some(line) => option(case, line, programs),
            None => {
                let script = case.job.line.last_mut().expect("the shell's script");
                script.push_str(line);
                script.push('\n');
            }
        }
    }
    assert!(!cases.is_empty(), "{name} has no cases");
    cases
}

/// The sysroot, with an index of it beside.
///
/// # Panics
/// The index cannot be built.
#[must_use]
pub fn ground(sysroot: Sysroot<'_>, programs: &Programs) -> Ground {
    Ground::Shared {
        root: sysroot.root.to_owned(),
        index: index(sysroot, programs),
        is_copied: false,
        kept: None,
    }
}

/// An index of the sysroot, out of it: what did not change is not read again.
fn index(sysroot: Sysroot<'_>, programs: &Programs) -> PathBuf {
    let index = programs.directory.join(format!("index-{}", sysroot.name));
    fs::create_dir_all(&index).expect("a directory for an index");
    let mut command = Command::new(&programs.index);
    command
        .args(["build", "--quiet", "--index-dir"])
        .arg(&index)
        .arg(sysroot.root);
    let output = command.output().expect("starting elfuse-index");
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    index
}

fn case(name: &str, ground: &Ground, shell: &str) -> Case {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Case {
        name: name.to_owned(),
        job: Job {
            line: vec![shell.to_owned(), "-c".to_owned(), String::new()],
            environment: vec![
                pair("HOME", "/tmp"),
                pair("LANG", "C.UTF-8"),
                pair("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"),
                pair("TERM", "dumb"),
            ],
            directory: "/tmp".to_owned(),
            // The example sysroots belong to the user of the test, and are closed to others where his home is.
            privileged: true,
            binds: usual_binds(),
            limit_secs: 60,
            ..Job::default()
        },
        ground: ground.clone(),
        without: Vec::new(),
        needs_root: false,
    }
}

fn option(case: &mut Case, line: &str, programs: &Programs) {
    let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
    match key {
        "run" => case.job.line = words(rest),
        "env" => {
            let (name, value) = rest.split_once('=').expect("@ env NAME=VALUE");
            case.job
                .environment
                .push((name.to_owned(), value.to_owned()));
        }
        "file" => {
            match rest {
                "go-program" => go(programs),
                "traced" => programs.compile("programs/traced.c", rest, &["-g", "-O0"]),
                _ => panic!("{}: no compiled program {rest:?}", case.name),
            }
            case.job.files.push(programs.directory.join(rest));
        }
        "limit" => case.job.limit_secs = rest.parse().expect("@ limit SECONDS"),
        "ignore-trees" => case.job.ignores_trees = true,
        "status-only" => case.job.ignores_output = true,
        _ => panic!("{}: no option {key:?}", case.name),
    }
}

fn words(line: &str) -> Vec<String> {
    const BLANK: &str = "\u{1}";
    let joined = line.replace("\\ ", BLANK);
    let words = joined.split(' ').filter(|word| !word.is_empty());
    words.map(|word| word.replace(BLANK, " ")).collect()
}

/// A sysroot with the gdb of this machine, which the example sysroots do not have.
///
/// # Panics
/// There is none, or it cannot be bundled.
#[must_use]
pub fn bundle_of_gdb(programs: &Programs) -> PathBuf {
    let root = programs.directory.join("gdb-root");
    let mut command = Command::new(&programs.index);
    command.args(["bundle", "--quiet", "--into"]).arg(&root);
    for (tool, package) in [("gdb", "gdb"), ("sh", "dash"), ("bash", "bash")] {
        command.arg(need::tool(tool, package));
    }
    for (tool, package) in [
        ("env", "coreutils"),
        ("sleep", "coreutils"),
        ("sed", "sed"),
        ("grep", "grep"),
    ] {
        command.arg(need::tool(tool, package));
    }
    command.args(["--add", "/usr/share/gdb"]);
    // gdb has a Python in it, and does not start without its library.
    for entry in fs::read_dir("/usr/lib").expect("/usr/lib") {
        let path = entry.expect("a name").path();
        if path.join("encodings").is_dir() {
            command.arg("--add").arg(path);
        }
    }
    let output = command.output().expect("starting elfuse-index");
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    root
}

/// Compiles `cases/programs/go-program.go`, unless that was done.
fn go(programs: &Programs) {
    let go = need::tool("go", "golang-go");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/programs/go-program.go");
    let made = programs.directory.join("go-program");
    let age = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if age(&made) > age(&source) {
        return;
    }
    let status = Command::new(go)
        .args(["build", "-o"])
        .arg(&made)
        .arg(&source)
        // Static, and with nothing asked of the network.
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod")
        .env("GOCACHE", programs.directory.join("go-cache"))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{} cannot be compiled: see above",
        source.display()
    );
}
