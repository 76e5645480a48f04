//! Names that others make and remove, and an index that others publish, while guests run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use elfuse_tests::scratch::{Random, seed};
use serde_json::Value;

use super::guest::{Guest, said};

const ROUNDS: usize = 30;
const DIRECTORIES: usize = 4;
const NAMES: usize = 6;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    File,
    Directory,
    /// A symlink that leads nowhere.
    Dangling,
}

/// The part of the tree that changes.
struct Changing<'g> {
    guest: &'g Guest,
    states: [[State; NAMES]; DIRECTORIES],
}

fn path(directory: usize, name: usize) -> String {
    format!("/w/changing/{directory}/name-{name}")
}

impl Changing<'_> {
    fn set(&mut self, directory: usize, name: usize, state: State) {
        let path = self.guest.scratch.path(&path(directory, name)[1..]);
        let old = &mut self.states[directory][name];
        match *old {
            State::Missing => {}
            State::File | State::Dangling => fs::remove_file(&path).unwrap(),
            State::Directory => fs::remove_dir_all(&path).unwrap(),
        }
        match state {
            State::Missing => {}
            State::File => fs::write(&path, "content").unwrap(),
            State::Directory => fs::create_dir(&path).unwrap(),
            State::Dangling => symlink("nowhere", &path).unwrap(),
        }
        *old = state;
    }

    /// One of the paths at which something is, or at which nothing is.
    fn any(&self, random: &mut Random, missing: bool) -> (usize, usize) {
        loop {
            let (directory, name) = (random.below(DIRECTORIES), random.below(NAMES));
            if (self.states[directory][name] == State::Missing) == missing {
                return (directory, name);
            }
        }
    }

    /// What a guest has to say of a path.
    fn answer(&self, (directory, name): (usize, usize)) -> String {
        let (lstat, access, open, readlink, listed) = match self.states[directory][name] {
            State::Missing => ("ENOENT", "ENOENT", "ENOENT", "ENOENT", "not listed"),
            State::File | State::Directory => ("ok", "ok", "ok", "EINVAL", "listed"),
            State::Dangling => ("ok", "ENOENT", "ENOENT", "ok", "listed"),
        };
        let path = path(directory, name);
        format!(
            "{path}: lstat {lstat}, access {access}, open {open}, readlink {readlink}, {listed}\n"
        )
    }
}

/// A guest that answers questions.
struct Asked {
    mode: &'static str,
    child: Child,
    /// Closed when it is to end.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Asked {
    fn start(guest: &Guest, mode: &'static str) -> Self {
        let options = ["--stats=json", "--coherence", mode];
        let mut child = guest
            .elfuse(&options, &["/bin/traps", "answers"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting a guest");
        Self {
            mode,
            questions: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        }
    }

    fn say(&mut self, line: &str) {
        let questions = self.questions.as_mut().expect("it was not ended");
        writeln!(questions, "{line}").expect("a guest that reads");
    }

    fn ask(&mut self, tree: &Changing<'_>, at: (usize, usize), when: &str) {
        self.say(&path(at.0, at.1));
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .expect("a guest that writes");
        assert_eq!(answer, tree.answer(at), "{} in {when}", self.mode);
    }

    /// Has it execute itself: from then on it has the index that was published last.
    fn again(&mut self) {
        self.say("again");
    }

    /// Lets it end: how often the index gave an answer.
    fn hits(mut self) -> u64 {
        self.questions = None;
        let (mut rest, mut report) = (String::new(), String::new());
        self.answers.read_to_string(&mut rest).expect("a pipe");
        let mut errors = self.child.stderr.take().expect("a pipe");
        errors.read_to_string(&mut report).expect("a pipe");
        let status = self.child.wait().expect("waiting for a guest");
        assert!(status.success() && rest.is_empty(), "{status}: {report}");
        let report: Value = serde_json::from_str(&report).expect("one JSON document");
        report["verdicts"]["hit"].as_u64().expect("a count")
    }
}

#[test]
fn names_that_others_change_and_indexes_that_are_published_reach_a_guest_that_runs() {
    let seed = seed();
    let mut random = Random(seed);
    let guest = Guest::new();
    let mut tree = Changing {
        guest: &guest,
        states: [[State::Missing; NAMES]; DIRECTORIES],
    };
    for directory in 0..DIRECTORIES {
        guest.scratch.directory(format!("w/changing/{directory}"));
        for name in 0..NAMES / 2 {
            tree.set(directory, name, State::File);
        }
    }
    let build = |wait: bool| {
        let mut command = Command::new(&guest.programs.index);
        command.args(["build", "--quiet"]);
        command.args((!wait).then_some("--no-wait"));
        let built = said(command.arg(guest.scratch.root()).env_clear());
        assert_eq!(built.status, 0, "{built:#?}");
    };
    build(true);
    let modes = ["lease", "strict", "off"];
    let mut guests = modes.map(|mode| Asked::start(&guest, mode));
    for round in 0..ROUNDS {
        let (added, removed) = (tree.any(&mut random, true), tree.any(&mut random, false));
        let kinds = [State::File, State::Directory, State::Dangling];
        tree.set(added.0, added.1, kinds[random.below(kinds.len())]);
        tree.set(removed.0, removed.1, State::Missing);
        // One that waits vouches for everything; another says of what has just changed that it cannot.
        let waits = round % 6 == 5;
        build(waits);
        // What a lease promises, and more.
        thread::sleep(Duration::from_millis(5));
        let others = [tree.any(&mut random, true), tree.any(&mut random, false)];
        let asked = [added, removed, others[0], others[1]];
        for running in &mut guests {
            for at in asked {
                running.ask(&tree, at, &format!("round {round}, seed {seed}"));
            }
            if random.below(5) == 0 {
                running.again();
            }
        }
        for mode in modes {
            let mut new = Asked::start(&guest, mode);
            for at in asked {
                new.ask(
                    &tree,
                    at,
                    &format!("a new guest of round {round}, seed {seed}"),
                );
            }
            let hits = new.hits();
            let uses = match mode {
                "lease" => !waits || hits >= 4,
                "off" => hits == 0,
                // Which of its answers, each looked up at the host, count as the index's is its own business.
                _ => true,
            };
            assert!(
                uses,
                "{hits} answers by the index of round {round} in {mode}"
            );
        }
    }
    let hits = guests.map(Asked::hits);
    assert!(hits[0] > 0 && hits[2] == 0, "{hits:?}");
}
