//! `elfuse resident`: programs that are kept as their dynamic linker leaves them.
//!
//! [`capture`] runs a program twice up to that point, under [`trace`], and [`image`] finds what both have in common. What is kept is put into
//! the store ([`store`]), where `elfuse run` finds it.

pub mod calls;
pub mod capture;
mod current;
pub mod image;
mod print;
pub mod program;
pub mod stopped;
mod store;
pub mod trace;

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use elfuse_format::names;

use crate::cli::{ResidentAddArgs, ResidentArgs, ResidentCommand, ResidentStoreArgs};
use crate::exit::Exit;
use store::{Entry, Store};

/// Carries out a command of `resident`.
///
/// # Errors
/// What could not be done.
pub fn run(arguments: &ResidentArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    match &arguments.command {
        ResidentCommand::Add(arguments) => add(arguments, out),
        ResidentCommand::List(arguments) => {
            let store = open(&arguments.store)?;
            print::list(&store.entries()?, arguments.store.json, out)?;
            Ok(Exit::Success)
        }
        ResidentCommand::Show(arguments) => {
            let store = open(&arguments.store)?;
            for entry in chosen(&store, &arguments.programs)? {
                print::show(&entry, arguments.store.json, out)?;
            }
            Ok(Exit::Success)
        }
        ResidentCommand::Verify(arguments) => {
            let store = open(&arguments.store)?;
            let entries = store.entries()?;
            let faults: Vec<_> = entries.iter().map(|entry| entry.verify().err()).collect();
            print::verdicts(&entries, &faults, "good", arguments.store.json, out)?;
            Ok(exit(faults.iter().all(Option::is_none)))
        }
        ResidentCommand::Rm(arguments) => {
            let store = open(&arguments.store)?;
            for entry in chosen(&store, &arguments.programs)? {
                entry.remove()?;
            }
            Ok(Exit::Success)
        }
        ResidentCommand::Prune(arguments) => {
            let store = open(&arguments.store)?;
            let entries = store.entries()?;
            let faults: Vec<_> = entries
                .iter()
                .map(|entry| entry.fault(&store.sysroot))
                .collect::<anyhow::Result<_>>()?;
            for (entry, _) in entries
                .iter()
                .zip(&faults)
                .filter(|(_, fault)| fault.is_some())
            {
                entry.remove()?;
            }
            print::verdicts(&entries, &faults, "kept", arguments.store.json, out)?;
            Ok(Exit::Success)
        }
    }
}

const fn exit(is_well: bool) -> Exit {
    if is_well { Exit::Success } else { Exit::No }
}

fn open(arguments: &ResidentStoreArgs) -> anyhow::Result<Store> {
    let from_environment = || {
        let variable = env::var_os(elfuse_runtime::options::SYSROOT_VARIABLE)?;
        (!variable.is_empty()).then(|| PathBuf::from(variable))
    };
    let sysroot = arguments.sysroot.clone().or_else(from_environment);
    let sysroot = sysroot.context("which sysroot? --sysroot DIR says so, or ELFUSE_SYSROOT")?;
    Store::of(&sysroot, arguments.index_dir.as_deref())
}

/// The entries of the programs that were named.
fn chosen(store: &Store, programs: &[OsString]) -> anyhow::Result<Vec<Entry>> {
    let mut entries = store.entries()?;
    let mut found = Vec::new();
    for program in programs {
        let named = |entry: &Entry| {
            let exe = Path::new(entry.exe());
            exe == Path::new(program) || exe.file_name() == Some(program)
        };
        let matching: Vec<_> = entries.extract_if(.., |entry| named(entry)).collect();
        if matching.is_empty() {
            bail!(
                "{} is not kept in {}; `elfuse resident list` says what is",
                program.display(),
                store.dir.display()
            );
        }
        found.extend(matching);
    }
    Ok(found)
}

/// `elfuse`, which lies beside this program, or where distributions keep programs.
fn elfuse() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("finding elfuse-tools itself")?;
    let dir = own.parent().unwrap_or(Path::new("/"));
    let places = ["elfuse", "../../bin/elfuse"].map(|place| dir.join(place));
    let found = places.iter().find(|place| place.is_file());
    found.cloned().with_context(|| {
        format!(
            "there is no elfuse beside {}; install both from one build",
            own.display()
        )
    })
}

/// The programs of a list: one a line, blank lines and those that begin with `#` do not count.
fn listed(text: &[u8]) -> Vec<OsString> {
    text.split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| OsString::from_vec(line.to_vec()))
        .collect()
}

fn add(arguments: &ResidentAddArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let store = open(&arguments.store)?;
    let mut programs = arguments.programs.clone();
    let shipped = store.dir.join(names::RESIDENT_LIST);
    let list = arguments.list.clone().or_else(|| {
        let is_wanted = programs.is_empty() && shipped.is_file();
        is_wanted.then_some(shipped.clone())
    });
    if let Some(list) = &list {
        let text =
            std::fs::read(list).with_context(|| format!("reading the list {}", list.display()))?;
        programs.extend(listed(&text));
    }
    if programs.is_empty() {
        bail!(
            "no program was named, and there is no list {}",
            shipped.display()
        );
    }
    let elfuse = elfuse()?;
    let mut done = Vec::new();
    for program in programs {
        let request = capture::Request {
            elfuse: &elfuse,
            sysroot: &store.sysroot,
            program: &program,
            is_fixed: arguments.fixed,
        };
        let start = Instant::now();
        let kept = capture::capture(&request).and_then(|captured| {
            store.put(&captured.exe, &captured.bytes)?;
            Ok(captured)
        });
        done.push(print::Added {
            program,
            kept,
            took: start.elapsed(),
        });
    }
    print::added(&done, arguments.store.json, out)?;
    Ok(exit(done.iter().all(|added| added.kept.is_ok())))
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn a_list_has_a_program_a_line_and_remarks() {
        let text = b"# what we start often\n/usr/bin/perl\n\n  git \n";
        assert_eq!(listed(text), ["/usr/bin/perl", "git"]);
    }
}
