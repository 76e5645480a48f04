//! The version that a program shows. Build scripts include this file.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Has `--version` show package and commit, by the environment variable `variable` of the compilation.
pub fn tell(variable: &str) {
    println!("cargo::rerun-if-env-changed=ELFUSE_COMMIT");
    let package = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    };
    println!("cargo::rustc-env={variable}={version}");
}

/// The commit this is built from: `ELFUSE_COMMIT` if a packager sets it, else what git says; nothing for a source
/// tarball, even one unpacked inside somebody else's repository.
fn commit() -> Option<String> {
    if let Ok(given) = env::var("ELFUSE_COMMIT") {
        return (!given.is_empty()).then_some(given);
    }
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let top_level = PathBuf::from(git(&manifest_dir, &["rev-parse", "--show-toplevel"])?);
    if !is_our_workspace(&top_level) {
        return None;
    }
    // A commit changes the branch's file, or, while the branch is packed, the reflog; a checkout changes HEAD. Files
    // that are not there must not be named: cargo would run this script every time.
    let branch = git(
        &manifest_dir,
        &["rev-parse", "--symbolic-full-name", "HEAD"],
    );
    for name in ["HEAD", "logs/HEAD", "packed-refs"]
        .into_iter()
        .chain(branch.as_deref())
    {
        if let Some(path) = git(&manifest_dir, &["rev-parse", "--git-path", name]) {
            let path = manifest_dir.join(path);
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
    git(&manifest_dir, &["rev-parse", "--short=12", "HEAD"])
}

/// Whether a repository's top is that of the workspace, and not of whatever repository a tarball was unpacked in.
fn is_our_workspace(top_level: &Path) -> bool {
    top_level.join("Cargo.toml").is_file() && top_level.join("format/FORMAT.md").is_file()
}

fn git(dir: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
