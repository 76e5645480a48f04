//! Running a command to its end, however it ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::outcome::{Outcome, RAN_ON};

/// Runs `command`, which makes itself the leader of a session, with `input`. What it leaves running is killed.
///
/// # Panics
/// It cannot be started, or says that a way cannot be gone here.
#[must_use]
pub fn run_to_end(mut command: Command, input: &str, limit_secs: u64) -> Outcome {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    let group = Pid::from_child(&child);
    let mut stdin = child.stdin.take().expect("a pipe");
    let stdout = child.stdout.take().expect("a pipe");
    let stderr = child.stderr.take().expect("a pipe");
    let outcome = thread::scope(|scope| {
        scope.spawn(move || {
            // A program that does not read its input is no failure of the harness.
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = scope.spawn(move || read(stdout));
        let errors = scope.spawn(move || read(stderr));
        let started = Instant::now();
        let mut pause = Duration::from_micros(200);
        let end = loop {
            if let Some(status) = child.try_wait().expect("waiting") {
                break match (status.code(), status.signal()) {
                    (Some(code), _) => format!("exited with {code}"),
                    (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
                };
            }
            if started.elapsed() > Duration::from_secs(limit_secs) {
                break RAN_ON.to_owned();
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        };
        kill_session(group);
        let _ = child.wait();
        Outcome {
            end,
            output: output.join().expect("a reader"),
            errors: errors.join().expect("a reader"),
            trees: BTreeMap::new(),
        }
    });
    let cannot = outcome
        .errors
        .iter()
        .find(|line| line.starts_with("enter: "));
    assert!(
        cannot.is_none(),
        "this test needs the real kernel's answers, and cannot ask for them here: {cannot:?}. It needs root, or user namespaces"
    );
    outcome
}

/// Kills what belongs to a session: a debugger's child is in a group of its own, and holds the pipes as long as it lives.
fn kill_session(leader: Pid) {
    let session = leader.as_raw_nonzero().to_string();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // "pid (name) state parent group session": a name may have anything in it.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if fields.split(' ').nth(3) != Some(&session) {
            continue;
        }
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// What a program says, to its end or as far as it is listened to: some never end.
fn read(from: impl Read) -> Vec<String> {
    const LONGEST: u64 = 4 << 20;
    let mut all = Vec::new();
    from.take(LONGEST).read_to_end(&mut all).expect("a pipe");
    let all = String::from_utf8_lossy(&all);
    all.lines().map(str::to_owned).collect()
}
