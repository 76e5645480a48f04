//! Where things are: the workspace, its programs, its caches.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::machine::first_line;

/// The workspace that the results are written to.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace around the current directory.
    ///
    /// # Errors
    /// If there is none.
    pub fn find() -> anyhow::Result<Self> {
        let here = std::env::current_dir()?;
        let root = here
            .ancestors()
            .find(|dir| dir.join("benches/src/workspace.rs").is_file())
            .with_context(|| {
                format!(
                    "{} is not inside the elfuse workspace; run this from there",
                    here.display()
                )
            })?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// The directory of this crate.
    #[must_use]
    pub fn benches(&self) -> PathBuf {
        self.root.join("benches")
    }

    /// The commit, with a plus if what is measured differs from it.
    #[must_use]
    pub fn commit(&self) -> String {
        let root = self.root.to_string_lossy();
        let git = |arguments: &[&str]| first_line("git", &[&["-C", &root], arguments].concat());
        let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
            return "unknown".to_owned();
        };
        let sources = [
            "status",
            "--porcelain",
            "--",
            "*.rs",
            "*.toml",
            "Cargo.lock",
        ];
        let plus = if git(&sources).is_some() { "+" } else { "" };
        format!("{commit}{plus}")
    }

    /// Builds a program of the workspace as released, so that no stale one is measured, and says where it is.
    ///
    /// # Errors
    /// If it does not build.
    pub fn build(&self, package: &str, program: &str) -> anyhow::Result<PathBuf> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--release", "--package", package, "--bin", program])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(&self.root)
            .stderr(std::process::Stdio::inherit());
        let output = command.output().context("running cargo")?;
        anyhow::ensure!(
            output.status.success(),
            "building {program}: {}",
            output.status
        );
        let text = String::from_utf8(output.stdout)?;
        let messages = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let built = messages
            .filter(|message| message["target"]["name"] == program)
            .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
        built.with_context(|| format!("cargo did not say where {program} is"))
    }

    /// An example sysroot, `debian` or `store`, made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn sysroot(&self, name: &str) -> anyhow::Result<PathBuf> {
        let script = self
            .root
            .join("example-sysroots")
            .join(name)
            .join("make.sh");
        let output = Command::new(&script)
            .stderr(std::process::Stdio::inherit())
            .output()
            .with_context(|| format!("running {}", script.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "{}: {}",
            script.display(),
            output.status
        );
        let text = String::from_utf8(output.stdout)?;
        let path = text.lines().last().context("make.sh printed no path")?;
        Ok(PathBuf::from(path))
    }
}

/// Where trees to measure on are made: `$XDG_CACHE_HOME/elfuse/bench`, or below `~/.cache`.
///
/// # Errors
/// Without a home.
pub fn cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| Path::is_absolute(path))
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let base = base.context("neither XDG_CACHE_HOME nor HOME is set; give --cache")?;
    Ok(base.join("elfuse/bench"))
}
