//! What is started and from where: the sysroots, each shown twice and read only, their indices, and the programs that are
//! compiled for the purpose.
//!
//! ```text
//! CACHE/mnt/NAME/tree     the sysroot as it is              elfuse, proot and bwrap start from here
//! CACHE/mnt/NAME/native   with /dev, /proc, /sys and /tmp   chroot starts from here
//! CACHE/index-NAME        its index
//! CACHE/made              the sysroot of what was compiled here
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tempfile::TempDir;

use crate::namespace::{self, succeed};
use crate::workspace::{self, Workspace};

/// What programs find programs by.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Programs that were built or found.
#[derive(Debug)]
pub struct Ground {
    /// `elfuse`.
    pub elfuse: PathBuf,
    /// `elfuse-index`.
    pub elfuse_index: PathBuf,
    /// chroot(2) and execve(2) without a libc.
    pub starter: PathBuf,
    /// The peers of `peers.sh`, by name.
    pub peers: BTreeMap<String, PathBuf>,
    /// Where trees and indices are kept.
    pub cache: PathBuf,
    sources: PathBuf,
    /// Below `/tmp`, which guests see too; the home of all that is started, and where compilers write.
    home: TempDir,
}

/// A sysroot, shown and indexed.
#[derive(Debug, Clone)]
pub struct Root {
    /// As it is.
    pub tree: PathBuf,
    /// With what the host shows.
    pub native: PathBuf,
    /// Its index.
    pub index: PathBuf,
}

impl Ground {
    /// Builds and finds programs. This process has to be in a mount namespace of its own.
    ///
    /// # Errors
    /// If something does not build.
    pub fn new(workspace: &Workspace, cache: Option<&Path>) -> anyhow::Result<Self> {
        let cache = match cache {
            Some(path) => path.to_owned(),
            None => workspace::cache()?,
        };
        fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
        let cache = fs::canonicalize(cache)?;
        let home = tempfile::Builder::new()
            .prefix("elfuse-bench-")
            .tempdir_in("/tmp")
            .context("making a home in /tmp")?;
        let sources = workspace.benches().join("programs");
        let starter = home.path().join("chroot_exec");
        let mut cc = Command::new("cc");
        cc.args(FREESTANDING).arg("-o").arg(&starter);
        succeed(cc.arg(sources.join("chroot_exec.c")))?;
        Ok(Self {
            elfuse: workspace.build("elfuse-launcher", "elfuse")?,
            elfuse_index: workspace.build("elfuse-indexer", "elfuse-index")?,
            starter,
            peers: peers(workspace)?,
            cache,
            sources,
            home,
        })
    }

    /// Shows a sysroot and makes its index.
    ///
    /// # Errors
    /// If it cannot be mounted or indexed.
    pub fn root(&self, name: &str, sysroot: &Path) -> anyhow::Result<Root> {
        let root = self.shown(name, sysroot)?;
        self.index(&root.tree, &root.index, &[])?;
        Ok(root)
    }

    /// Shows a sysroot, without an index, or with one of an earlier run.
    fn shown(&self, name: &str, sysroot: &Path) -> anyhow::Result<Root> {
        let at = self.cache.join("mnt").join(name);
        let root = Root {
            tree: at.join("tree"),
            native: at.join("native"),
            index: self.cache.join(format!("index-{name}")),
        };
        namespace::show(sysroot, &root.tree)?;
        namespace::show(sysroot, &root.native)?;
        namespace::furnish(&root.native)?;
        Ok(root)
    }

    /// Makes or renews the index of a tree, out of it, with these options of `build`.
    ///
    /// # Errors
    /// If `elfuse-index` fails.
    pub fn index(&self, tree: &Path, index: &Path, options: &[&str]) -> anyhow::Result<()> {
        eprintln!("indexing {}", tree.display());
        fs::create_dir_all(index).with_context(|| format!("making {}", index.display()))?;
        let mut build = Command::new(&self.elfuse_index);
        build.args(["build", "--quiet"]).args(options);
        succeed(build.arg("--index-dir").arg(index).arg(tree))
    }

    /// Makes a sysroot of a program of the running system, with these paths beside what it loads.
    ///
    /// # Errors
    /// If `elfuse-index` fails.
    pub fn bundle(&self, name: &str, program: &Path, add: &[PathBuf]) -> anyhow::Result<PathBuf> {
        /// Done, but for what could not be found: where it matters, the program does not start.
        const WITH_GAPS: i32 = 3;
        let tree = self.cache.join(name);
        let mut bundle = Command::new(&self.elfuse_index);
        bundle.args(["bundle", "--quiet", "--into"]).arg(&tree);
        for path in add {
            bundle.arg("--add").arg(path);
        }
        let output = bundle.arg(program).output();
        let output = output.with_context(|| format!("running {bundle:?}"))?;
        anyhow::ensure!(
            matches!(output.status.code(), Some(0 | WITH_GAPS)),
            "{bundle:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(tree)
    }

    /// A command whose environment is the same whoever runs this.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path())
            .current_dir("/");
        command
    }

    /// The command that others are compared with: chroot(2) and execve(2), and nothing else.
    #[must_use]
    pub fn chroot_exec(&self, root: &Root, line: &[&str]) -> Command {
        let mut command = self.command(&self.starter);
        command.arg(&root.native).args(line);
        command
    }

    /// `elfuse run` in a mode.
    #[must_use]
    pub fn elfuse_run(&self, root: &Root, mode: &str, line: &[&str]) -> Command {
        let mut command = self.command(&self.elfuse);
        command.args(["run", "--sysroot"]).arg(&root.tree);
        command.args(["--coherence", mode]);
        if mode != "off" {
            command.arg("--index-dir").arg(&root.index);
        }
        command.arg("--").args(line);
        command
    }

    /// A place in the home for one that makes files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn scratch(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.home.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// Makes the sysroot of the programs that are compiled here, with the C library and the compiler of the Debian one.
    ///
    /// # Errors
    /// If something does not compile.
    pub fn made(&self, debian: &Root) -> anyhow::Result<PathBuf> {
        let tree = self.cache.join("made");
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
        }
        let made = Made {
            ground: self,
            debian,
            scratch: self.scratch("compile")?,
            tree: &tree,
        };
        made.furnish(&tree)?;
        made.search_heavy()?;
        Ok(tree)
    }

    /// That sysroot, made, shown and indexed.
    ///
    /// # Errors
    /// As [`Self::made`] and [`Self::root`].
    pub fn made_root(&self, workspace: &Workspace) -> anyhow::Result<Root> {
        let debian = self.shown("debian", &workspace.sysroot("debian")?)?;
        let made = self.made(&debian)?;
        self.root("made", &made)
    }

    /// Puts those programs into another tree, beside what it has.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn put_into(&self, made: &Path, tree: &Path) -> anyhow::Result<()> {
        let mut copy = Command::new("cp");
        copy.arg("-aT").arg(made).arg(tree);
        succeed(&mut copy)
    }
}

const FREESTANDING: [&str; 8] = [
    "-O2",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pie",
    "-no-pie",
    "-Wl,--build-id=none",
];

/// What the tree of compiled programs is made by.
struct Made<'a> {
    ground: &'a Ground,
    debian: &'a Root,
    /// Seen under one path inside and outside.
    scratch: PathBuf,
    tree: &'a Path,
}

/// Libraries that the search-heavy program needs, and directories that each is looked for in.
pub const LIBRARIES: usize = 24;
/// See [`LIBRARIES`].
pub const DIRECTORIES: usize = 64;

impl Made<'_> {
    fn furnish(&self, tree: &Path) -> anyhow::Result<()> {
        for directory in ["bin", "dev", "proc", "sys", "tmp", "etc", "lib64", "l"] {
            let path = tree.join(directory);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        for file in [
            "/lib64/ld-linux-x86-64.so.2",
            "/lib/x86_64-linux-gnu/libc.so.6",
        ] {
            let to = tree.join(&file[1..]);
            fs::create_dir_all(to.parent().context("a file's directory")?)?;
            let from = inside(&self.debian.native, file)?;
            fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
        let mut ldconfig = self.ground.command(Path::new("ldconfig"));
        succeed(ldconfig.arg("-r").arg(tree))?;
        // For a path of any depth, what is looked up there.
        let mut directory = tree.join("l");
        for level in 1..=6 {
            directory.push(level.to_string());
            fs::create_dir_all(&directory)?;
            fs::write(directory.join("file"), "text\n")?;
            std::os::unix::fs::symlink("file", directory.join("link"))?;
        }
        let source = |name: &str| self.ground.sources.join(format!("{name}.c"));
        let mut cc = Command::new("cc");
        cc.args(FREESTANDING).arg("-o").arg(tree.join("bin/static"));
        succeed(cc.arg(source("empty_static")))?;
        for name in ["empty", "lookups", "suite", "cpuid"] {
            fs::copy(source(name), self.scratch.join(format!("{name}.c")))?;
        }
        let header = self.ground.sources.join("timing.h");
        fs::copy(header, self.scratch.join("timing.h"))?;
        for (name, output, how) in [
            ("empty", "empty", ""),
            ("empty", "empty-static", "-static"),
            ("lookups", "lookups", ""),
            ("suite", "suite", ""),
            ("suite", "suite-static", "-static"),
            ("cpuid", "cpuid", ""),
        ] {
            let source = format!("{name}.c");
            let arguments = ["-O2", "-o", output, &source, how];
            self.gcc(arguments.into_iter().filter(|word| !word.is_empty()))?;
            fs::copy(self.scratch.join(output), tree.join("bin").join(output))?;
        }
        self.compile(
            "musl-gcc",
            ["-O2", "-static", "-o", "empty-musl", "empty.c"],
        )?;
        fs::copy(self.scratch.join("empty-musl"), tree.join("bin/empty-musl"))?;
        if let Some(perl) = self.ground.peers.get("perl-static") {
            fs::copy(perl, tree.join("bin/perl"))?;
        }
        Ok(())
    }

    /// A program of [`LIBRARIES`] libraries, all in the last of [`DIRECTORIES`] directories of a `RUNPATH`.
    fn search_heavy(&self) -> anyhow::Result<()> {
        let path: Vec<_> = (1..=DIRECTORIES)
            .map(|number| format!("/opt/d{number:02}"))
            .collect();
        for directory in &path {
            fs::create_dir_all(self.tree.join(&directory[1..]))?;
        }
        let last = path.last().context("there are directories")?;
        let runpath = format!("-Wl,--enable-new-dtags,-rpath,{}", path.join(":"));
        let mut program = String::new();
        let mut calls = String::new();
        let mut libraries = Vec::new();
        for number in 1..=LIBRARIES {
            let name = format!("libs{number:02}.so");
            let source = format!("s{number:02}.c");
            fs::write(
                self.scratch.join(&source),
                format!("int s{number}(void) {{ return {number}; }}\n"),
            )?;
            program += &format!("int s{number}(void);\n");
            calls += &format!(" + s{number}()");
            self.gcc(["-O2", "-shared", "-fPIC", "-o", &name, &source, &runpath])?;
            let to = self.tree.join(&last[1..]).join(&name);
            fs::copy(self.scratch.join(&name), to)?;
            libraries.push(name);
        }
        let sum = LIBRARIES * (LIBRARIES + 1) / 2;
        program += &format!("int main(void) {{ return (0{calls}) != {sum}; }}\n");
        fs::write(self.scratch.join("search.c"), program)?;
        let mut arguments = vec!["-O2", "-o", "search", "search.c", &runpath];
        arguments.extend(libraries.iter().map(String::as_str));
        self.gcc(arguments)?;
        fs::copy(
            self.scratch.join("search"),
            self.tree.join("bin/search-heavy"),
        )?;
        Ok(())
    }

    /// gcc of the Debian sysroot, in it, so that what is compiled fits its C library.
    fn gcc<'s>(&'s self, arguments: impl IntoIterator<Item = &'s str>) -> anyhow::Result<()> {
        self.compile("gcc", arguments)
    }

    /// The same of any compiler.
    fn compile<'s>(
        &'s self,
        compiler: &'s str,
        arguments: impl IntoIterator<Item = &'s str>,
    ) -> anyhow::Result<()> {
        let place = self.scratch.to_str().context("a path of /tmp")?;
        let line = ["/usr/bin/env", "-C", place, compiler];
        let line: Vec<_> = line.into_iter().chain(arguments).collect();
        succeed(&mut self.ground.chroot_exec(self.debian, &line))
    }
}

/// The host's path of a path inside a root, with all symlinks followed there.
///
/// # Errors
/// If there is nothing.
pub fn inside(root: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let context = || format!("finding {path} in {}", root.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, root, flags, Mode::empty()).with_context(context)?;
    let found = rustix::fs::openat2(top, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let found = found.with_context(context)?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    let target = rustix::fs::readlink(link, Vec::new()).with_context(context)?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(
        target.as_bytes(),
    )))
}

/// What `peers.sh` could get.
fn peers(workspace: &Workspace) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let script = workspace.benches().join("peers.sh");
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", script.display()))?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        script.display(),
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
        .collect())
}

/// Empties the kernel's caches of file content, directories and inodes.
///
/// # Errors
/// Without the right to.
pub fn drop_caches() -> anyhow::Result<()> {
    fs::write("/proc/sys/vm/drop_caches", "3")
        .context("dropping the kernel's caches, which takes root")
}
