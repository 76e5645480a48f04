//! Which module carries out which verb.

use std::fs;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, bail};
use clap_complete::aot;

use crate::cli::{self, ColorWhen, Command, CompletionsArgs, ManArgs, Shell};
use crate::doctor;
use crate::exit::Exit;

/// (file name, text) of every man page; made by the build script.
const MAN_PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/man_pages.rs"));

/// Carries out a verb; answers go to `out`, which the caller flushes.
///
/// # Errors
/// What could not be done.
pub fn run(command: &Command, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match command {
        Command::Run(_) => bail!(
            "elfuse-tools is the helper of elfuse and does not run programs itself; start `elfuse run …`, \
             which is installed beside it"
        ),
        Command::Doctor(arguments) => doctor::run(arguments, use_color(arguments.color), out),
        #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
        Command::Resident(arguments) => crate::resident::run(arguments, out),
        #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
        Command::Resident(_) => bail!("programs are kept resident on Linux on x86-64 only"),
        Command::Completions(arguments) => completions(arguments, out),
        Command::Man(arguments) => man(arguments, out),
    }
}

/// Whether colour is used on the standard output: the flag decides, `auto` asks the terminal, `NO_COLOR` and `TERM`.
fn use_color(when: ColorWhen) -> bool {
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => {
            // no-color.org: set and not empty, whatever the value.
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
            io::stdout().is_terminal() && !no_color && !dumb
        }
    }
}

fn completions(arguments: &CompletionsArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let shell = match arguments.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Elvish => aot::Shell::Elvish,
        Shell::Fish => aot::Shell::Fish,
        Shell::PowerShell => aot::Shell::PowerShell,
        Shell::Zsh => aot::Shell::Zsh,
    };
    // Through memory: clap_complete panics where a write fails, as it does in `… | head -1`.
    let mut script = Vec::new();
    aot::generate(shell, &mut cli::command(), "elfuse", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Success)
}

fn man(arguments: &ManArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let dir = &arguments.into;
    fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
    for (name, page) in MAN_PAGES {
        let path = dir.join(name);
        fs::write(&path, page)
            .with_context(|| format!("writing the man page {}", path.display()))?;
    }
    writeln!(out, "{} pages in {}", MAN_PAGES.len(), dir.display())?;
    Ok(Exit::Success)
}
