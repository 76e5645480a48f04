//! Starting a program under strace in each of the ways that are compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use super::call;
use super::tally::{MOUNTS, Tally, View, is_own};
use crate::need;

/// What programs find programs by: what a guest would have that was given nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a start may take under strace.
const LIMIT_SECS: &str = "120";

/// A program and what it is to do.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// As it is typed.
    pub name: &'a str,
    /// The command line, with the program's path inside.
    pub line: &'a [&'a str],
}

macro_rules! programs {
    ($($name:literal: $($word:literal)+;)*) => { &[$(Program { name: $name, line: &[$($word),+] }),*] };
}

/// Programs of the Debian sysroot.
pub const DEBIAN: &[Program] = programs! {
    "getent passwd root": "/usr/bin/getent" "passwd" "root";
    "python3 -c 'import json'": "/usr/bin/python3" "-c" "import json";
    "python3 -c 'import numpy'": "/usr/bin/python3" "-c" "import numpy";
    "perl -MPOSIX -e 1": "/usr/bin/perl" "-MPOSIX" "-e" "1";
    "git --version": "/usr/bin/git" "--version";
    "ffmpeg -version": "/usr/bin/ffmpeg" "-version";
    "emacs --batch --eval t": "/usr/bin/emacs" "--batch" "--eval" "t";
    "ruby -e 1": "/usr/bin/ruby" "-e" "1";
    "guile -c 1": "/usr/bin/guile" "-c" "1";
    "node -e 0": "/usr/bin/node" "-e" "0";
    "bash -c 'ls /usr | sort | wc -l'": "/usr/bin/bash" "-c" "ls /usr | sort | wc -l";
};

/// Programs of the sysroot with a directory for each package.
pub const STORE: &[Program] = programs! {
    "ffmpeg -version": "/bin/ffmpeg" "-version";
    "emacs --batch --eval t": "/bin/emacs" "--batch" "--eval" "t";
};

/// How a program is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the real kernel: what the others are compared with.
    Chroot,
    /// By `elfuse run --coherence off`.
    NoIndex,
    /// By `elfuse run --coherence lease`.
    Index,
    /// By `elfuse run --coherence frozen`: without the looks at directories that a lease takes, which come the oftener the slower
    /// strace makes everything.
    Frozen,
}

/// What came of a start.
#[derive(Debug)]
pub struct Started {
    /// What it printed, and how it ended.
    pub output: Output,
    /// Its calls, with those of all threads and processes that it started.
    pub tally: Tally,
}

/// A sysroot that programs are started in, and its index out of it.
#[derive(Debug)]
pub struct Ground {
    root: String,
    index: PathBuf,
    elfuse: PathBuf,
    /// In a directory that a guest sees, so that nothing a program makes at home lands in the sysroot.
    home: TempDir,
}

impl Ground {
    /// Makes the index in `index`, or finds it unchanged.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(
        root: &Path,
        index: &Path,
        elfuse: &Path,
        elfuse_index: &Path,
    ) -> anyhow::Result<Self> {
        let root = fs::canonicalize(root).with_context(|| format!("finding {}", root.display()))?;
        let root = root.to_str().unwrap_or_default().to_owned();
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !br#""\<>"#.contains(&byte);
        ensure!(
            !root.is_empty() && root.bytes().all(is_plain),
            "the path of the sysroot, {root:?}, has bytes that strace escapes: move it"
        );
        fs::create_dir_all(index).with_context(|| format!("making {}", index.display()))?;
        let mut build = Command::new(elfuse_index);
        build
            .args(["build", "--quiet", "--index-dir"])
            .arg(index)
            .arg(&root);
        let output = build
            .output()
            .with_context(|| format!("starting {build:?}"))?;
        let notes = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{build:?} ended with {}: {notes}",
            output.status
        );
        let home = tempfile::Builder::new()
            .prefix("elfuse-home-")
            .tempdir_in("/tmp");
        Ok(Self {
            root,
            index: index.to_owned(),
            elfuse: fs::canonicalize(elfuse)
                .with_context(|| format!("finding {}", elfuse.display()))?,
            home: home.context("making a home in /tmp")?,
        })
    }

    /// Starts a program, and counts.
    ///
    /// # Errors
    /// If strace cannot trace, the way cannot be gone here, or the log is not understood.
    pub fn start(&self, program: &Program, way: Way) -> anyhow::Result<Started> {
        let logs = tempfile::tempdir().context("making a directory for strace's logs")?;
        let mut command = match way {
            Way::Chroot => self.entering(logs.path()),
            Way::NoIndex | Way::Index | Way::Frozen => self.running(logs.path(), way),
        };
        command
            .args(program.line)
            .current_dir("/")
            .stdin(Stdio::null());
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path());
        let output = command
            .output()
            .with_context(|| format!("starting {command:?}"))?;
        let tally = self.count(logs.path(), program, way).with_context(|| {
            let notes = String::from_utf8_lossy(&output.stderr);
            format!(
                "counting the calls of {command:?}, which ended with {}: {notes}",
                output.status
            )
        })?;
        Ok(Started { output, tally })
    }

    fn running(&self, logs: &Path, way: Way) -> Command {
        let mut command = Command::new(need::tool("timeout", "coreutils"));
        command.arg(LIMIT_SECS).args(strace(logs)).arg(&self.elfuse);
        command.args(["run", "--sysroot", &self.root]);
        let mode = match way {
            Way::Index => "lease",
            Way::Frozen => "frozen",
            Way::Chroot | Way::NoIndex => "off",
        };
        command.args(["--coherence", mode]);
        if mode != "off" {
            command.arg("--index-dir").arg(&self.index);
        }
        command.arg("--");
        command
    }

    /// chroot(8) with the guest's mounts, where the sysroot has a directory for them. strace stays outside, and begins after
    /// the mounts are made.
    fn entering(&self, logs: &Path) -> Command {
        const ENTER: &str = r#"
            root=$1 mounts=$2; shift 2
            for mount in $mounts; do
                [ ! -d "$root$mount" ] || mount --rbind "$mount" "$root$mount" || exit 125
            done
            exec env -i "PATH=$PATH" "HOME=$HOME" "$@""#;
        let mut command = Command::new(need::tool("timeout", "coreutils"));
        command
            .arg(LIMIT_SECS)
            .arg(need::tool("unshare", "util-linux"));
        command.args(["--mount", "--propagation", "private"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", ENTER, "enter", &self.root, &MOUNTS.join(" ")]);
        command.args(strace(logs));
        command
            .arg(need::tool("chroot", "coreutils"))
            .arg(&self.root);
        command
    }

    fn count(&self, logs: &Path, program: &Program, way: Way) -> anyhow::Result<Tally> {
        let (view, first) = match way {
            Way::Chroot => (View::Chroot, program.line[0]),
            Way::NoIndex | Way::Index | Way::Frozen => {
                (View::Elfuse, self.elfuse.to_str().unwrap_or_default())
            }
        };
        let mut tally = Tally::default();
        let mut logs: Vec<_> = fs::read_dir(logs)?.collect::<Result<_, _>>()?;
        logs.sort_by_key(fs::DirEntry::file_name);
        let mut begun = 0;
        for log in logs {
            let text = fs::read(log.path())?;
            let calls = call::parse(&String::from_utf8_lossy(&text))?;
            // The first by strace, or by chroot(8); elfuse executes itself again where the guest executes a program.
            let starts = |call: &call::Call| {
                let is_first = call.paths.first().is_some_and(|named| named.path == first);
                call.name == "execve" && call.errno.is_none() && is_first
            };
            let start = calls
                .iter()
                .position(|call| starts(call) && !is_own(call.address));
            // That call itself is the last of who started the program, not the program's.
            let calls = match start {
                Some(start) => {
                    begun += 1;
                    &calls[start + 1..]
                }
                None => &calls[..],
            };
            tally.add(calls, &self.root, view);
        }
        if begun != 1 {
            bail!("{first} was seen to start {begun} times, not once");
        }
        Ok(tally)
    }
}

/// strace, writing a file a thread, each line with the caller's address and the paths of descriptors, and no data.
fn strace(logs: &Path) -> Vec<std::ffi::OsString> {
    let mut line = vec![need::tool("strace", "strace").into_os_string()];
    line.extend(["-ff", "-i", "-y", "-qq", "-s", "0", "-o"].map(Into::into));
    line.push(logs.join("thread").into_os_string());
    line
}
