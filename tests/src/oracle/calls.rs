//! Cases that are scripts of system calls: `tests/cases/scripts/THEME`; and those of `tests/cases/process`, which are C.
//!
//! ```text
//! == a name of the case
//! + l -> d/f              a line added to the tree (see `tree`)
//! @ cwd /w/d              the directory it starts in, else /w
//! @ bind shared /mnt      a directory of its own, seen there
//! @ tree NAME             another tree than `standard`
//! @ privileged            it keeps the rights of root, where the test has them
//! @ root-only             it is left out where the test has them not: a user namespace does not give them
//! @ without WAY reason    a way it is not run in
//! openat AT_FDCWD "l" 0   the script (see `cases/calls/calls.h`)
//! ```

use std::fs;
use std::path::Path;
use std::process::Command;

use super::compile::Programs;
use super::room::{Ground, Job};
use super::suite::Case;
use super::tree::Tree;

/// The cases of a theme.
///
/// # Panics
/// There are none, or a line makes no sense.
#[must_use]
pub fn theme(name: &str) -> Vec<Case> {
    let text = read(&format!("scripts/{name}"));
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(case(name.trim()));
            continue;
        }
        let Some(case) = cases.last_mut() else {
            let comment = line.is_empty() || line.starts_with('#');
            assert!(comment, "{name}: a line before the first case: {line:?}");
            continue;
        };
        if let Some(line) = line.strip_prefix("+ ") {
            match &mut case.ground {
                Ground::Own(tree) => tree.add(line),
                Ground::Shared { .. } => panic!("{name}: a line for a tree that is shared"),
            }
        } else if let Some(line) = line.strip_prefix("@ ") {
            option(case, line);
        } else {
            case.job.input.push_str(line);
            case.job.input.push('\n');
        }
    }
    assert!(!cases.is_empty(), "{name} has no cases");
    cases
}

/// The cases of `cases/process`, which is compiled first.
///
/// # Panics
/// It cannot be asked for their names.
#[must_use]
pub fn processes(programs: &Programs) -> Vec<Case> {
    programs.compile("process", "process", &["-static"]);
    let names = Command::new(programs.directory.join("process")).output();
    let names = names.expect("the names of the cases").stdout;
    let named = |name: &str| {
        let mut case = case(name);
        case.job.line = vec!["/bin/process".to_owned(), name.to_owned()];
        case.ground = standing_in("process");
        case
    };
    let names = String::from_utf8_lossy(&names);
    let cases: Vec<Case> = names.lines().map(named).collect();
    assert!(!cases.is_empty(), "cases/process has no cases");
    cases
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cases")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A tree of its own, as `tests/cases/trees` has it.
fn standing_in(name: &str) -> Ground {
    Ground::Own(Tree::parse(&read(&format!("trees/{name}"))))
}

fn case(name: &str) -> Case {
    Case {
        name: name.to_owned(),
        job: Job {
            line: vec!["/bin/calls".to_owned()],
            environment: vec![("PATH".to_owned(), "/bin".to_owned())],
            directory: "/w".to_owned(),
            binds: usual_binds(),
            limit_secs: 30,
            ..Job::default()
        },
        ground: standing_in("standard"),
        without: Vec::new(),
        needs_root: false,
    }
}

/// What programs expect of the host, and a `/tmp` that is nobody else's.
#[must_use]
pub fn usual_binds() -> Vec<(String, String)> {
    let pair = |source: &str, target: &str| (source.to_owned(), target.to_owned());
    vec![
        pair("/proc", "/proc"),
        pair("/dev", "/dev"),
        pair("tmp", "/tmp"),
    ]
}

fn option(case: &mut Case, line: &str) {
    let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
    match key {
        "cwd" => case.job.directory = rest.to_owned(),
        "bind" => {
            let (source, target) = rest.split_once(' ').expect("@ bind SOURCE TARGET");
            case.job.binds.push((source.to_owned(), target.to_owned()));
        }
        "env" => {
            let (name, value) = rest.split_once('=').expect("@ env NAME=VALUE");
            case.job
                .environment
                .push((name.to_owned(), value.to_owned()));
        }
        "root-only" => case.needs_root = true,
        "privileged" => case.job.privileged = true,
        "tree" => case.ground = standing_in(rest),
        "without" => {
            let (way, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(!reason.is_empty(), "{}: without {way}, and why?", case.name);
            case.without.push(way.to_owned());
        }
        _ => panic!("{}: no option {key:?}", case.name),
    }
}
