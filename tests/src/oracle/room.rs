//! A room: everything that one case has to itself in one way. Its tree, a directory that is its `/tmp`, an index beside.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::compile::Programs;
use super::entered::run_to_end;
use super::outcome::Outcome;
use super::resident;
use super::tree::{Tree, describe};
use super::way::{IndexAt, Way};
use crate::scratch::{copy_program, forget_shared};
use elfuse_format::names;
use elfuse_format::snapshot::counts;

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
    /// Files of the host that are copied into the directory `tmp` of the room, executable.
    pub files: Vec<PathBuf>,
    /// What it leaves in the directories of the room is not compared: there are times or inode numbers in it.
    pub ignores_trees: bool,
    /// What it prints is not compared: it is not started at all, and by whom the message is differs.
    pub ignores_output: bool,
    /// Directories of the host, and where they are seen inside; a name without a slash in front is beside the tree.
    pub binds: Vec<(String, String)>,
    /// Whether the root is one that nobody can write to: an example sysroot, and programs of which it is not known what they do.
    pub read_only: bool,
    /// How long it may run, in seconds.
    pub limit_secs: u64,
}

/// What a case is run in.
#[derive(Debug, Clone)]
pub enum Ground {
    /// A tree of its own, which it may change.
    Own(Tree),
    /// A sysroot that is only read, by many at a time, and an index of it beside.
    Shared {
        /// The sysroot.
        root: PathBuf,
        /// What `--index-dir` was when the index was built.
        index: PathBuf,
        /// Whether each room has a copy of the index, to be spoilt.
        is_copied: bool,
        /// A store with snapshots of its programs, on the file system of the rooms.
        kept: Option<PathBuf>,
    },
}

impl Ground {
    /// Whether a case can be run in a way: nobody changes a shared sysroot behind its index.
    #[must_use]
    pub fn allows(&self, way: Way) -> bool {
        matches!(self, Self::Own(_)) || way != Way::Stale
    }
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
    index: PathBuf,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.owns_root() {
            forget_shared(&self.root);
        }
    }
}

impl Room {
    /// Furnishes a room in `directory`, which is not there yet.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new(
        way: Way,
        directory: PathBuf,
        ground: &Ground,
        job: &Job,
        programs: &Programs,
    ) -> Self {
        let owner = user(job);
        let own_index = directory.join("index");
        let (root, index) = match ground {
            Ground::Own(_) => (directory.join("root"), own_index.clone()),
            Ground::Shared {
                root, is_copied, ..
            } if *is_copied || matches!(way, Way::Bare | Way::Resident) => {
                (root.clone(), own_index.clone())
            }
            Ground::Shared { root, index, .. } => (root.clone(), index.clone()),
        };
        let mut own = vec![directory.clone(), own_index];
        if let Ground::Own(_) = ground {
            own.push(root.clone());
        }
        let beside = |source: &&str| !source.starts_with('/');
        let sources = job.binds.iter().map(|(source, _)| source.as_str());
        own.extend(sources.filter(beside).map(|source| directory.join(source)));
        for path in &own {
            fs::create_dir_all(path).expect("a directory");
            chown(path, owner, owner).expect("chown");
        }
        for file in &job.files {
            let copy = directory
                .join("tmp")
                .join(file.file_name().expect("a name"));
            copy_program(file, &copy);
            chown(&copy, owner, owner).expect("chown");
        }
        match (ground, way) {
            (Ground::Own(tree), Way::Stale) => tree.make_decoys(&root, &programs.directory, owner),
            (Ground::Own(tree), _) => tree.make(&root, &programs.directory, owner),
            (
                Ground::Shared {
                    index, is_copied, ..
                },
                _,
            ) if *is_copied && way.is_elfuse() || way == Way::Resident => {
                for file in fs::read_dir(index).expect("an index").flatten() {
                    // It tells whether there are snapshots, and is of the store that it lies in.
                    if way == Way::Resident && file.file_name() == names::GENERATION {
                        continue;
                    }
                    let copy = directory.join("index").join(file.file_name());
                    // Patched copies are known by their inodes: they stay what they are, and where they are.
                    let made = if file.path().is_dir() {
                        symlink(file.path(), copy)
                    } else {
                        fs::copy(file.path(), copy).map(drop)
                    };
                    made.expect("a file of the index");
                }
            }
            (Ground::Shared { .. }, _) => {}
        }
        Self {
            way,
            directory,
            root,
            index,
        }
    }

    /// Whether the tree is the room's own.
    fn owns_root(&self) -> bool {
        self.root.starts_with(&self.directory)
    }

    /// The directory of the index that this way is told of, or finds.
    #[must_use]
    pub fn index_directory(&self) -> PathBuf {
        match self.index_at() {
            IndexAt::Inside => self.root.join(".elfuse"),
            IndexAt::Beside | IndexAt::Nowhere => self.index.clone(),
        }
    }

    /// The tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the index lies that this way is told of.
    fn index_at(&self) -> IndexAt {
        match self.way {
            Way::Kernel | Way::Again => IndexAt::Nowhere,
            _ if !self.owns_root() => IndexAt::Beside,
            way => way.index_at(),
        }
    }

    /// What makes the index of the tree, as far as it can be made at that moment: what is too young is not sealed. `None`: there is none,
    /// or it is that of a shared sysroot, which is there.
    #[must_use]
    pub fn build(&self, job: &Job, programs: &Programs) -> Option<Command> {
        if !self.owns_root() || self.index_at() == IndexAt::Nowhere {
            return None;
        }
        let mut command = Command::new(&programs.enter);
        if let Some(user) = user(job) {
            command.arg("--user").arg(user.to_string());
        }
        command.arg("--").arg(&programs.index);
        command
            .args(["build", "--quiet", "--no-wait"])
            .arg(&self.root);
        if self.way == Way::Frozen {
            command.arg("--attributes");
        }
        if self.index_at() == IndexAt::Beside {
            command.arg("--index-dir").arg(&self.index);
        }
        command.env_clear();
        Some(command)
    }

    /// Makes it.
    ///
    /// # Panics
    /// `elfuse-index` fails.
    pub fn index(&self, job: &Job, programs: &Programs) {
        let Some(mut command) = self.build(job, programs) else {
            return;
        };
        let output = command.output().expect("starting elfuse-index");
        // 3: directories that must not be read are left out.
        assert!(
            matches!(output.status.code(), Some(0 | 3)),
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Keeps the programs of the tree; of a shared sysroot they are kept already, and come with counters of the room's own.
    ///
    /// # Panics
    /// One cannot be kept, or there is no store of a shared sysroot.
    pub fn keep(&self, ground: &Ground, job: &Job, programs: &Programs) {
        match ground {
            Ground::Own(tree) => {
                let mut command = Command::new(&programs.enter);
                if let Some(user) = user(job) {
                    command.arg("--user").arg(user.to_string());
                }
                command.arg("--").arg(&programs.elfuse).env_clear();
                let names = tree.programs().filter(|path| !path.starts_with("lib"));
                let names = names.filter(|path| !path.starts_with("lib64"));
                let names: Vec<_> = names.map(|path| format!("/{}", path.display())).collect();
                let added = resident::keep(command, &self.root, &self.index, &names);
                let refused = added.iter().find(|added| added.refused.is_some());
                assert!(refused.is_none(), "{refused:?}");
            }
            Ground::Shared { kept, .. } => {
                let kept = kept.as_ref().expect("a store of what is kept");
                let own = self.index.join(names::RESIDENT);
                fs::create_dir(&own).expect("a directory");
                for file in fs::read_dir(kept.join(names::RESIDENT)).expect("snapshots") {
                    let file = file.expect("a name");
                    let at = own.join(file.file_name());
                    let name = file.file_name();
                    if name.as_bytes().ends_with(names::SNAPSHOT_SUFFIX.as_bytes()) {
                        fs::hard_link(file.path(), at).expect("a link on one file system");
                    } else {
                        fs::write(at, counts::new_file()).expect("counters");
                    }
                }
            }
        }
    }

    /// Makes the tree what it is to be, where it was something else for its index.
    pub fn finish(&self, ground: &Ground, job: &Job, programs: &Programs) {
        if let (Way::Stale, Ground::Own(tree)) = (self.way, ground) {
            tree.replace_decoys(&self.root, &programs.directory, user(job));
        }
    }

    /// The directory of the host that a bind shows.
    fn source(&self, source: &str) -> PathBuf {
        self.directory.join(source)
    }

    /// Empties a directory beside the tree, which is bound into it.
    ///
    /// # Panics
    /// It is not there, or something cannot be removed.
    pub fn clear(&self, source: &str) {
        for entry in fs::read_dir(self.source(source))
            .expect("a directory")
            .flatten()
        {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.expect("removing what a case has left");
        }
    }

    /// The command line of this way.
    #[must_use]
    pub fn command(&self, job: &Job, programs: &Programs) -> Command {
        let mut command = Command::new(&programs.enter);
        let inside = inside_command(self, job, &programs.elfuse);
        if let Some(user) = user(job) {
            command.arg("--user").arg(user.to_string());
        }
        if job.read_only {
            command.arg("--read-only").arg(&self.root);
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
        let mut input = job.input.clone();
        let is_entered = self.way == Way::Entered || self.way.is_elfuse() && enters_always();
        if is_entered && job.line == ["/bin/calls"] {
            input.insert_str(0, "entered\n");
        }
        let mut outcome = run_to_end(self.command(job, programs), &input, job.limit_secs);
        if job.ignores_output {
            outcome.output.clear();
            outcome.errors.clear();
        }
        if job.ignores_trees {
            return outcome;
        }
        if self.owns_root() {
            outcome.trees = describe(&self.root);
        }
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
        if room.index_at() == IndexAt::Beside {
            line.extend(["--index-dir".into(), room.index.clone().into()]);
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
            // In the order in which std gives them to a command.
            let environment: BTreeMap<_, _> = job.environment.iter().cloned().collect();
            for (name, value) in &environment {
                line.extend(["--env".into(), format!("{name}={value}").into()]);
            }
        }
        line.push("--".into());
    }
    line.extend(job.line.iter().map(OsString::from));
    line
}

/// `ELFUSE_ORACLE_ENTERED`: each way makes the calls of scripts as patched sites make them.
fn enters_always() -> bool {
    std::env::var_os("ELFUSE_ORACLE_ENTERED").is_some()
}
