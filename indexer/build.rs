//! Puts the commit into `--version`, and makes the man pages from the same definitions that parse the command line.

#[path = "src/cli.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "only the definitions are needed here"
)]
mod cli;
#[path = "build/man_pages.rs"]
#[allow(unreachable_pub, reason = "several build scripts include it")]
mod man_pages;
#[path = "build/version.rs"]
#[allow(unreachable_pub, reason = "several build scripts include it")]
mod version;

fn main() {
    for file in [
        "build.rs",
        "build/man_pages.rs",
        "build/version.rs",
        "src/cli.rs",
    ] {
        println!("cargo::rerun-if-changed={file}");
    }
    version::tell("ELFUSE_INDEX_VERSION");
    man_pages::write(cli::command());
}
