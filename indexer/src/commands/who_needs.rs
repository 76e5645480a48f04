//! `who-needs`: every file whose `DT_NEEDED` names a library.

use serde::Serialize;

use crate::commands::current::current;
use crate::exit::Exit;
use crate::options::WhoNeedsOptions;
use crate::report::{Bytes, Output, Style, count};
use crate::scan::{Scan, guest};

#[derive(Debug, Serialize)]
struct Answer {
    sysroot: String,
    soname: Bytes,
    needed_by: Vec<Needer>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Needer {
    path: Bytes,
    /// Its own.
    soname: Option<Bytes>,
    interpreter: Option<Bytes>,
}

/// `elfuse-index who-needs`.
///
/// # Errors
/// If the sysroot cannot be read.
pub fn run(options: &WhoNeedsOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let now = current(&options.sysroot, options.index_dir.as_deref(), out)?;
    let answer = Answer {
        sysroot: options.sysroot.to_string(),
        soname: Bytes(options.soname.clone()),
        needed_by: needers(&now.scan, &options.soname),
    };
    let exit = if answer.needed_by.is_empty() {
        Exit::No
    } else {
        Exit::Success
    };
    if out.is_json() {
        out.json("who-needs", &answer)?;
        return Ok(exit);
    }
    for needer in &answer.needed_by {
        writeln!(out.text(), "{}", needer.path)?;
    }
    if !out.is_quiet() {
        let number = answer.needed_by.len() as u64;
        let verb = if number == 1 { "needs" } else { "need" };
        let summary = if number == 0 {
            format!("nothing needs {}", answer.soname)
        } else {
            let what = count(number, "file", "files");
            format!("{what} {verb} {}", answer.soname)
        };
        let summary = out.paint(Style::Dim, summary);
        writeln!(out.text(), "{summary}")?;
    }
    Ok(exit)
}

/// In the order of their paths.
fn needers(scan: &Scan, soname: &[u8]) -> Vec<Needer> {
    let mut found = Vec::new();
    for dir in &scan.dirs {
        let Some(block) = dir.names() else {
            continue;
        };
        for (entry, elf) in block
            .entries()
            .filter_map(|entry| Some((entry, entry.elf()?)))
        {
            let Some(name) = entry
                .name()
                .filter(|_| elf.needed().any(|name| name == soname))
            else {
                continue;
            };
            found.push(Needer {
                path: Bytes(guest(&dir.join(name))),
                soname: elf.soname().map(|name| Bytes(name.to_vec())),
                interpreter: elf.interpreter().map(|path| Bytes(path.to_vec())),
            });
        }
    }
    found.sort();
    found
}
