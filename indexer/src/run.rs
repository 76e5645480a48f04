//! Which module carries out which command. Each has `run(&XOptions, &mut Output) -> anyhow::Result<Exit>`.

use std::fs;

use anyhow::Context;
use clap_complete::aot;

use crate::cli::{self, Shell};
use crate::commands;
use crate::exit::Exit;
use crate::ldcache;
use crate::options::{CompletionsOptions, ManOptions, Request};
use crate::query;
use crate::report::{Output, count};

/// (file name, text) of every man page; made by the build script.
const MAN_PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/man_pages.rs"));

/// Carries out a command. The caller still has to call [`Output::finish`].
///
/// # Errors
/// What the command could not do; [`crate::error::UsageError`] if the command line is to blame.
pub fn run(request: &Request, out: &mut Output) -> anyhow::Result<Exit> {
    match request {
        Request::Build(options) => commands::build::run(options, out),
        Request::Seal(options) => commands::build::seal(options, out),
        Request::Verify(options) => commands::verify::run(options, out),
        Request::Clean(options) => commands::clean::run(options, out),
        Request::Show(options) => commands::show::run(options, out),
        Request::Tree(options) => query::tree::run(options, out),
        Request::Why(options) => query::why::run(options, out),
        Request::WhoNeeds(options) => commands::who_needs::run(options, out),
        Request::Stats(options) => commands::stats::run(options, out),
        Request::Probes(options) => query::probes::run(options, out),
        Request::Bundle(options) => crate::bundle::run(options, out),
        Request::Ldcache(options) => ldcache::run(options, out),
        Request::Completions(options) => completions(options, out),
        Request::Man(options) => man(options, out),
    }
}

fn completions(options: &CompletionsOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let shell = match options.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Elvish => aot::Shell::Elvish,
        Shell::Fish => aot::Shell::Fish,
        Shell::PowerShell => aot::Shell::PowerShell,
        Shell::Zsh => aot::Shell::Zsh,
    };
    // Through memory: clap_complete panics where a write fails, as it does in `… | head -1`.
    let mut script = Vec::new();
    aot::generate(shell, &mut cli::command(), "elfuse-index", &mut script);
    out.text().write_all(&script)?;
    Ok(Exit::Success)
}

fn man(options: &ManOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let dir = &options.into;
    fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
    for (name, page) in MAN_PAGES {
        let path = dir.join(name);
        fs::write(&path, page)
            .with_context(|| format!("writing the man page {}", path.display()))?;
    }
    let pages = MAN_PAGES.len() as u64;
    if out.is_json() {
        out.json("man", &serde_json::json!({ "pages": MAN_PAGES.iter().map(|(name, _)| name).collect::<Vec<_>>() }))?;
    } else if !out.is_quiet() {
        writeln!(
            out.text(),
            "{} in {}",
            count(pages, "page", "pages"),
            dir.display()
        )?;
    }
    Ok(Exit::Success)
}
