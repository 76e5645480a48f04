//! A sysroot with the programs in it, and what they say there, by the real kernel and by `elfuse run`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use elfuse_tests::oracle::compile::Programs;
use elfuse_tests::oracle_programs;
use elfuse_tests::scratch::{Scratch, copy_program, make_node};
use rustix::fs::FileType;

/// A sysroot of a test's own: programs in `/bin`, and `/w` as `tests/cases/traps/traps.h` has it.
pub(crate) struct Guest {
    pub(crate) scratch: Scratch,
    pub(crate) programs: &'static Programs,
}

/// How a program ended, and all that it said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) errors: String,
    /// Its exit status; `-N` where signal N ended it.
    pub(crate) status: i32,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let status = output.status;
        Self {
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: status
                .code()
                .unwrap_or_else(|| -status.signal().unwrap_or(0)),
        }
    }
}

impl Said {
    /// What it said, where it ended well.
    pub(crate) fn well(self) -> String {
        assert!(self.status == 0 && self.errors.is_empty(), "{self:#?}");
        self.text
    }
}

/// All programs, compiled once for all tests.
fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let programs = oracle_programs!();
        programs.compile("traps", "traps", &["-static"]);
        programs.compile("traps", "traps-dynamic", &["-pie", "-fPIE"]);
        let hello = |name, flags: &[&str]| programs.compile("start/hello.c", name, flags);
        hello("hello-static", &["-static", "-no-pie"]);
        hello("hello-static-pie", &["-static-pie", "-fPIE"]);
        hello("hello-pie", &["-pie", "-fPIE"]);
        hello("hello-no-pie", &["-no-pie", "-fno-pie"]);
        let patched = |name, flags: &[&str]| programs.compile("start/patched.c", name, flags);
        patched("patched", &["-pie", "-fPIE", "-ldl"]);
        patched("patched-static", &["-static", "-no-pie", "-ldl"]);
        // Where all blocks are.
        let low = [
            "-no-pie",
            "-fno-pie",
            "-ldl",
            "-DROOM=0x2f000000",
            "-Wl,-Ttext-segment=0x10000000",
        ];
        patched("patched-low", &low);
        let populated = |name, flags: &[&str]| programs.compile("start/populated.c", name, flags);
        populated("populated", &["-pie", "-fPIE", "-ldl"]);
        populated("libpopulated.so", &["-shared", "-fPIC", "-DLIBRARY"]);
        programs.compile("start/told.c", "told", &["-pie", "-fPIE"]);
        let bare = [
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "-fno-stack-protector",
        ];
        programs.compile("start/entry.c", "entry", &bare);
        for kind in ["MIDDLE", "ALONE", "READ"] {
            let define = format!("-D{kind}");
            let flags: Vec<_> = bare.iter().copied().chain([define.as_str()]).collect();
            programs.compile("start/bss.c", &format!("bss-{kind}"), &flags);
        }
        programs
    })
}

/// The directory for temporary files, or one beside the build's where that is a tmpfs: patched copies are not used there.
fn on_disk() -> PathBuf {
    const TMPFS: i64 = 0x0102_1994;
    let temporary = std::env::temp_dir();
    match rustix::fs::statfs(&temporary) {
        Ok(found) if found.f_type == TMPFS => env!("CARGO_TARGET_TMPDIR").into(),
        _ => temporary,
    }
}

impl Guest {
    /// With `/bin/traps`.
    pub(crate) fn new() -> Self {
        let guest = Self {
            scratch: Scratch::within(&on_disk()),
            programs: programs(),
        };
        for directory in ["proc", "dev", "tmp", "w/d"] {
            guest.scratch.directory(directory);
        }
        guest.scratch.file("w/f", "content\n");
        make_node(&guest.scratch.path("w/fifo"), FileType::Fifo, 0).expect("a fifo");
        guest.add("traps", "bin/traps");
        guest
    }

    /// Adds a compiled program at a path inside.
    pub(crate) fn add(&self, name: &str, at: &str) -> PathBuf {
        self.add_file(&self.programs.directory.join(name), at)
    }

    /// Adds a copy of a program of the host.
    pub(crate) fn add_file(&self, file: &Path, at: &str) -> PathBuf {
        let path = self.scratch.path(at);
        fs::create_dir_all(path.parent().expect("below the root")).expect("its directory");
        copy_program(file, &path);
        path
    }

    /// Adds a file of the host at the same path, where symlinks lead to inside.
    pub(crate) fn add_of_host(&self, path: &str) {
        self.add_file(Path::new(path), path.trim_start_matches('/'));
    }

    /// Adds what a program that is linked against glibc is started with.
    pub(crate) fn add_glibc(&self) {
        self.add_of_host("/lib64/ld-linux-x86-64.so.2");
        self.add_of_host("/lib/x86_64-linux-gnu/libc.so.6");
    }

    /// `elfuse run` with options before the program.
    pub(crate) fn elfuse(&self, options: &[&str], line: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.elfuse);
        command
            .args([
                "run",
                "--no-default-binds",
                "--bind",
                "/proc",
                "--bind",
                "/dev",
            ])
            .arg("--sysroot")
            .arg(self.scratch.root())
            .args(["--workdir", "/w"])
            .args(["--bind".as_ref(), self.bound("tmp").as_os_str()])
            .args(options)
            .arg("--")
            .args(line)
            .env_clear()
            .env("GREETING", "hello");
        command
    }

    /// HOST:GUEST of the guest's own `/tmp`, which is no part of the tree.
    fn bound(&self, name: &str) -> PathBuf {
        let host = self.scratch.beside(name);
        fs::create_dir_all(&host).expect("a directory beside the root");
        let mut bind = host.into_os_string();
        bind.push(format!(":/{name}"));
        bind.into()
    }

    /// What a line says under `elfuse run`.
    pub(crate) fn run(&self, line: &[&str]) -> Said {
        said(&mut self.elfuse(&[], line))
    }

    /// What it says under the real kernel, in the sysroot as its root.
    pub(crate) fn native(&self, line: &[&str]) -> Said {
        said(&mut self.native_command(line))
    }

    /// The command of [`Self::native`].
    pub(crate) fn native_command(&self, line: &[&str]) -> Command {
        let temporary = self.scratch.beside("tmp");
        fs::create_dir_all(&temporary).expect("a directory beside the root");
        let mut command = Command::new(&self.programs.enter);
        command
            .arg("--root")
            .arg(self.scratch.root())
            .args([
                "--cwd", "/w", "--bind", "/proc", "/proc", "--bind", "/dev", "/dev", "--bind",
            ])
            .args([temporary.as_os_str(), OsStr::new("/tmp"), OsStr::new("--")])
            .args(line)
            .env_clear()
            .env("GREETING", "hello");
        command
    }

    /// What a case of `/bin/traps` says, by both the same.
    pub(crate) fn both(&self, words: &[&str]) -> Said {
        let line: Vec<_> = ["/bin/traps"].iter().chain(words).copied().collect();
        let (native, run) = (self.native(&line), self.run(&line));
        assert_eq!(native, run, "the real kernel's answer is on the left");
        run
    }
}

/// Runs a command to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    let output = command.output();
    output
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
        .into()
}

/// A case of `/bin/traps` in a sysroot of its own, which says the same by both and ends well: what it says.
pub(crate) fn same(words: &[&str]) -> String {
    Guest::new().both(words).well()
}

/// The same where all that is to be heard is that nothing went wrong.
pub(crate) fn same_and(words: &[&str], expected: &str) {
    assert_eq!(same(words), expected);
}

/// Numbers that stand behind names, a line each.
pub(crate) fn numbers(text: &str) -> Vec<(&str, usize)> {
    let number = |line: &'_ str| -> Option<(usize, usize)> {
        let at = line.rfind(' ')?;
        Some((at, line[at + 1..].parse().ok()?))
    };
    let line = |line| {
        let (at, number) = number(line).unwrap_or_else(|| panic!("no number: {line}"));
        (&line[..at], number)
    };
    text.lines().map(line).collect()
}

/// The path of a file of this test's own as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
