//! A room: everything that one case has to itself in one way. Its tree, a directory that is its `/tmp`, an index beside.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::compile::Programs;
use super::entered::run_to_end;
use super::outcome::Outcome;
use super::tree::{Tree, describe};
use super::way::{IndexAt, Way};

/// What is run, apart from how.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// Program, by its path inside, and arguments.
    pub line: Vec<String>,
    /// Standard input.
    pub input: String,
    /// The environment; there is nothing else in it.
    pub environment: Vec<(String, String)>,
    /// The directory it starts in.
    pub directory: String,
    /// Whether it keeps the rights of root, where the test has them.
    pub privileged: bool,
    /// Directories of the host, and where they are seen inside; a name without a slash in front is beside the tree.
    pub binds: Vec<(String, String)>,
    /// How long it may run, in seconds.
    pub limit_secs: u64,
}

/// Who runs a case when the test is run by root, so that permissions mean something.
pub const NOBODY: u32 = 65534;

/// Whom the trees belong to and who runs the case: `None` is the user of the test.
#[must_use]
pub fn user(job: &Job) -> Option<u32> {
    let root = rustix::process::geteuid().is_root();
    (root && !job.privileged).then_some(NOBODY)
}

/// See the module.
#[derive(Debug)]
pub struct Room {
    /// How its case is run.
    pub way: Way,
    directory: PathBuf,
    root: PathBuf,
}

impl Room {
    /// Furnishes a room in `directory`, which is not there yet.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new(way: Way, directory: PathBuf, tree: &Tree, job: &Job, programs: &Programs) -> Self {
        let owner = user(job);
        let root = directory.join("root");
        fs::create_dir_all(&root).expect("a directory");
        let mut own = vec![directory.clone(), root.clone(), directory.join("index")];
        for (source, _) in &job.binds {
            if !source.starts_with('/') {
                own.push(directory.join(source));
            }
        }
        for path in &own {
            fs::create_dir_all(path).expect("a directory");
            chown(path, owner, owner).expect("chown");
        }
        match way {
            Way::Stale => tree.make_decoys(&root, &programs.directory, owner),
            _ => tree.make(&root, &programs.directory, owner),
        }
        Self {
            way,
            directory,
            root,
        }
    }

    /// The index of the tree, as far as it can be made now: what is too young is not sealed.
    ///
    /// # Panics
    /// `elfuse-index` fails.
    pub fn index(&self, job: &Job, programs: &Programs) {
        let mut command = Command::new(&programs.enter);
        if let Some(user) = user(job) {
            command.arg("--user").arg(user.to_string());
        }
        command.arg("--").arg(&programs.index);
        command
            .args(["build", "--quiet", "--no-wait"])
            .arg(&self.root);
        match self.way.index_at() {
            IndexAt::Nowhere => return,
            IndexAt::Inside => {}
            IndexAt::Beside => {
                command.arg("--index-dir").arg(self.directory.join("index"));
            }
        }
        command.env_clear();
        let output = command.output().expect("starting elfuse-index");
        // 3: directories that must not be read are left out.
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the tree what it is to be, where it was something else for its index.
    pub fn finish(&self, tree: &Tree, job: &Job, programs: &Programs) {
        if self.way == Way::Stale {
            tree.replace_decoys(&self.root, &programs.directory, user(job));
        }
    }

    /// The directory of the host that a bind shows.
    fn source(&self, source: &str) -> PathBuf {
        self.directory.join(source)
    }

    /// The command line of this way.
    #[must_use]
    pub fn command(&self, job: &Job, programs: &Programs) -> Command {
        let mut command = Command::new(&programs.enter);
        let inside = inside_command(self, job, &programs.elfuse);
        if let Some(user) = user(job) {
            command.arg("--user").arg(user.to_string());
        }
        if !self.way.is_elfuse() {
            command.arg("--root").arg(&self.root);
            command.arg("--cwd").arg(&job.directory);
            for (source, target) in &job.binds {
                command.arg("--bind").arg(self.source(source)).arg(target);
            }
        }
        command.arg("--").args(inside);
        command.env_clear();
        if self.way == Way::Shadow {
            command.env("ELFUSE_INDEX", "shadow");
        } else {
            command.envs(job.environment.iter().map(|(name, value)| (name, value)));
        }
        command
    }

    /// Runs the case, and takes stock.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn run(&self, job: &Job, programs: &Programs) -> Outcome {
        let mut outcome = run_to_end(self.command(job, programs), &job.input, job.limit_secs);
        outcome.trees = describe(&self.root);
        for (source, target) in &job.binds {
            if !source.starts_with('/') {
                let below = Path::new("bound").join(target.trim_start_matches('/'));
                let found = describe(&self.source(source));
                let found = found
                    .into_iter()
                    .map(|(path, state)| (below.join(path), state));
                outcome.trees.extend(found);
            }
        }
        outcome
    }
}

/// What is executed when all is prepared: the program itself, or `elfuse run` with it.
fn inside_command(room: &Room, job: &Job, elfuse: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    if room.way.is_elfuse() {
        let words: [&OsStr; 7] = [
            elfuse.as_os_str(),
            "run".as_ref(),
            "--sysroot".as_ref(),
            room.root.as_os_str(),
            "--coherence".as_ref(),
            room.way.coherence().as_ref(),
            "--no-default-binds".as_ref(),
        ];
        line.extend(words.map(OsStr::to_owned));
        if room.way.index_at() == IndexAt::Beside {
            line.push("--index-dir".into());
            line.push(room.directory.join("index").into());
        }
        for (source, target) in &job.binds {
            let mut bind = room.source(source).into_os_string();
            bind.push(":");
            bind.push(target);
            line.extend(["--bind".into(), bind]);
        }
        line.extend(["--workdir".into(), job.directory.clone().into()]);
        if room.way == Way::Shadow {
            // The guest must not see what made elfuse check itself.
            line.push("--clear-env".into());
            for (name, value) in &job.environment {
                line.extend(["--env".into(), format!("{name}={value}").into()]);
            }
        }
        line.push("--".into());
    }
    line.extend(job.line.iter().map(OsString::from));
    line
}
