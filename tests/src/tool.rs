//! Running `elfuse-index` and reading what it says.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::scratch::{Scratch, copy_program};

/// The program under test, from a test of this package: cargo builds it first.
#[macro_export]
macro_rules! elfuse_index {
    () => {
        $crate::tool::Tool::new(env!("CARGO_BIN_EXE_elfuse-index-under-test"))
    };
}

/// `elfuse-index`, and what is put before its command line.
#[derive(Debug, Clone)]
pub struct Tool {
    before: Vec<OsString>,
    binary: PathBuf,
    cache_home: Option<PathBuf>,
}

/// How a run ended. That it neither panicked nor was killed has been checked.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub text: String,
    /// Standard error.
    pub notes: String,
}

/// A difference that `verify` reports: (kind, path). A path that is not UTF-8 is shown in hexadecimal.
pub type Difference = (String, String);

impl Tool {
    /// For [`elfuse_index!`](crate::elfuse_index).
    #[must_use]
    pub fn new(binary: &str) -> Self {
        Self {
            before: Vec::new(),
            binary: binary.into(),
            cache_home: None,
        }
    }

    /// Started by another program, such as `strace -f`.
    #[must_use]
    pub fn under<S: AsRef<OsStr>>(mut self, before: impl IntoIterator<Item = S>) -> Self {
        self.before = before.into_iter().map(|s| s.as_ref().into()).collect();
        self
    }

    /// With `XDG_CACHE_HOME` set. Without it there is no home at all, so that no test finds another's index.
    #[must_use]
    pub fn with_cache_home(mut self, directory: &Path) -> Self {
        self.cache_home = Some(directory.to_owned());
        self
    }

    /// As a user who owns nothing and may not look everywhere: root reads what nobody may read.
    ///
    /// # Panics
    /// `setpriv` is missing, or the binary cannot be copied to where that user can execute it.
    #[must_use]
    pub fn as_nobody(mut self, directory: &Path) -> Self {
        const NOBODY: &str = "65534";
        if !rustix::process::geteuid().is_root() {
            return self;
        }
        let copy = directory.join("elfuse-index-of-nobody");
        copy_program(&self.binary, &copy);
        self.binary = copy;
        let setpriv = crate::need::tool("setpriv", "util-linux");
        self.before = vec![
            setpriv.into(),
            "--reuid".into(),
            NOBODY.into(),
            "--regid".into(),
            NOBODY.into(),
            "--clear-groups".into(),
        ];
        self
    }

    /// With bounds on time and memory: what would read all of a sparse file ends, and does not end the machine.
    ///
    /// # Panics
    /// `prlimit` or `timeout` is missing.
    #[must_use]
    pub fn bounded(self) -> Self {
        let prlimit = crate::need::tool("prlimit", "util-linux");
        let timeout = crate::need::tool("timeout", "coreutils");
        let before: [&OsStr; 4] = [
            prlimit.as_os_str(),
            "--as=4294967296".as_ref(),
            timeout.as_os_str(),
            "30".as_ref(),
        ];
        self.under(before)
    }

    /// Runs a shell script in a mount namespace of its own, where it may mount; `$1` is the sysroot, `$elfuse` the program. As
    /// root or, by a user namespace, without.
    ///
    /// # Panics
    /// Mounting is not possible here.
    #[track_caller]
    pub fn with_mounts(&self, tree: &Scratch, script: &str) -> Ran {
        let mut command = Command::new(crate::need::tool("unshare", "util-linux"));
        command.args(["--mount", "--propagation", "private"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-euc", script, "with-mounts"]);
        command.arg(tree.root()).env("elfuse", &self.binary);
        command.env("XDG_CACHE_HOME", tree.beside("cache"));
        let output = command.output().expect("running unshare");
        let ran = Ran::of(&command, &output);
        assert!(
            !ran.notes.contains("unshare:") && !ran.notes.contains("mount:"),
            "this test needs mount namespaces, and cannot have them: {}",
            ran.notes
        );
        ran
    }

    /// The program's path.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command to be started.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut line = self.before.iter().map(OsString::as_os_str);
        let mut command = match line.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(line).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command.args(arguments).stdin(Stdio::null());
        command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
        command.env("RUST_BACKTRACE", "1");
        if let Some(directory) = &self.cache_home {
            command.env("XDG_CACHE_HOME", directory);
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// It cannot be started, is killed by a signal, or panics.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command(arguments);
        let output = command.output().expect("starting elfuse-index");
        Ran::of(&command, &output)
    }

    /// `build` with further arguments.
    #[track_caller]
    pub fn build(&self, root: &Path, arguments: &[&str]) -> Ran {
        self.on("build", root, arguments)
    }

    /// `seal` with further arguments.
    #[track_caller]
    pub fn seal(&self, root: &Path, arguments: &[&str]) -> Ran {
        self.on("seal", root, arguments)
    }

    /// `clean` with further arguments.
    #[track_caller]
    pub fn clean(&self, root: &Path, arguments: &[&str]) -> Ran {
        self.on("clean", root, arguments)
    }

    /// What `verify` finds. Its exit status has been compared with that.
    ///
    /// # Panics
    /// It fails, or its exit status does not fit its list.
    #[track_caller]
    pub fn verify(&self, root: &Path, arguments: &[&str]) -> Vec<Difference> {
        let ran = self.on("verify", root, arguments);
        let document = ran.json();
        let list = document["differences"]
            .as_array()
            .expect("a list of differences");
        let found = list.iter().map(|found| {
            let path = match &found["path"] {
                Value::String(path) => path.clone(),
                other => other["bytes"].as_str().unwrap_or_default().to_owned(),
            };
            (
                found["difference"].as_str().unwrap_or_default().to_owned(),
                path,
            )
        });
        let found: Vec<_> = found.collect();
        let gaps = i32::from(has_gap(&document)) * 3;
        assert_eq!(
            ran.status,
            if found.is_empty() { gaps } else { 1 },
            "the exit status does not fit {found:?}: {}",
            ran.notes
        );
        found
    }

    /// A command about a sysroot, with `--json`.
    #[track_caller]
    pub fn on(&self, command: &str, root: &Path, arguments: &[&str]) -> Ran {
        let mut all: Vec<&OsStr> = vec![command.as_ref(), "--json".as_ref(), root.as_ref()];
        all.extend(arguments.iter().map(OsStr::new));
        self.run(all)
    }
}

/// Whether a document's warnings say that something is left out.
fn has_gap(document: &Value) -> bool {
    let gaps = [
        "unreadable-directory",
        "unreadable-file",
        "keeps-changing",
        "not-removed",
        "too-many-entries",
        "too-deep",
    ];
    warning_kinds(document)
        .iter()
        .any(|kind| gaps.contains(&kind.as_str()))
}

fn warning_kinds(document: &Value) -> Vec<String> {
    let warnings = document["warnings"].as_array().expect("a list of warnings");
    let kinds = warnings
        .iter()
        .map(|warning| warning["kind"].as_str().unwrap_or_default().to_owned());
    kinds.collect()
}

impl Ran {
    /// What a command that has ended left behind.
    ///
    /// # Panics
    /// It was killed by a signal, or panicked.
    #[must_use]
    #[track_caller]
    pub fn of(command: &Command, output: &Output) -> Self {
        let ran = Self {
            status: output.status.code().unwrap_or(-1),
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            notes: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!(
            output.status.signal().is_none() && !ran.notes.contains("panicked at"),
            "{command:?} ended with {}: {}",
            output.status,
            ran.notes
        );
        ran
    }

    /// Asserts an exit status.
    ///
    /// # Panics
    /// It was another.
    #[track_caller]
    pub fn ended_with(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}{}", self.text, self.notes);
        self
    }

    /// Asserts exit status 0.
    ///
    /// # Panics
    /// It was another.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.ended_with(0)
    }

    /// The document that `--json` asks for.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {:?} {}", self.text, self.notes))
    }

    /// A number in that document.
    ///
    /// # Panics
    /// There is none of that name.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        let document = self.json();
        document[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no number {name:?} in {document}"))
    }

    /// Kinds of the warnings in that document, in the order they are reported in.
    #[must_use]
    #[track_caller]
    pub fn warnings(&self) -> Vec<String> {
        warning_kinds(&self.json())
    }

    /// The same but for what was too young to be sealed: on a slow machine what a test has just made is old before a build ends.
    #[must_use]
    #[track_caller]
    pub fn warnings_but_of_age(&self) -> Vec<String> {
        let mut kinds = self.warnings();
        kinds.retain(|kind| kind != "unsealed");
        kinds
    }
}
