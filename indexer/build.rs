//! Puts the commit into `--version`, and makes the man pages from the same definitions that parse the command line.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "src/cli.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "only the definitions are needed here"
)]
mod cli;

fn main() {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/cli.rs");
    println!("cargo::rerun-if-env-changed=ELFUSE_COMMIT");

    let package = env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION");
    let version = match commit() {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    };
    println!("cargo::rustc-env=ELFUSE_INDEX_VERSION={version}");
    man_pages(&out_dir);
}

/// The commit this is built from: `ELFUSE_COMMIT` if a packager sets it, else what git says; nothing for a source
/// tarball, even one unpacked inside somebody else's repository.
fn commit() -> Option<String> {
    if let Ok(given) = env::var("ELFUSE_COMMIT") {
        return (!given.is_empty()).then_some(given);
    }
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent()?.canonicalize().ok()?;
    let top_level = PathBuf::from(git(&manifest_dir, &["rev-parse", "--show-toplevel"])?);
    if top_level.canonicalize().ok()? != workspace {
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

/// Writes `man/*.1` and `man_pages.rs`, a list of (file name, text) that `elfuse-index man` writes out.
fn man_pages(out_dir: &Path) {
    let dir = out_dir.join("man");
    fs::create_dir_all(&dir).expect("making the directory of man pages");
    let mut command = cli::command();
    // Without a date in it the page is the same however often it is built.
    command.build();
    let mut table = String::from("&[\n");
    let mut write_page = |command: clap::Command| {
        let name = command
            .get_display_name()
            .unwrap_or(command.get_name())
            .to_owned();
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .manual("elfuse")
            .render(&mut page)
            .expect("a page is written to memory");
        let file = dir.join(format!("{name}.1"));
        fs::write(&file, page).expect("writing a man page");
        writeln!(
            table,
            "    ({:?}, include_str!({:?})),",
            format!("{name}.1"),
            file
        )
        .expect("a string grows");
    };
    for sub in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        write_page(sub.clone());
    }
    write_page(command);
    table.push(']');
    fs::write(out_dir.join("man_pages.rs"), table).expect("writing the list of man pages");
}
