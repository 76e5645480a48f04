//! The doctor's report as text and JSON.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use elfuse_runtime::text::Shown;
use serde::Serialize;

use super::check::{Check, State};

/// Value of the JSON document's member `schema`.
pub const JSON_SCHEMA: u32 = 1;

/// Prints a line for each check under its heading, and where something is not fine what that means and what to do.
///
/// # Errors
/// Those of `out`.
pub fn text(
    checks: &[Check],
    sysroot: Option<&Path>,
    color: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let paint = |escape: &str, text: &str| {
        if color {
            format!("\x1b[{escape}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let width = |of: &dyn Fn(&Check) -> usize| checks.iter().map(of).max().unwrap_or_default();
    let word_chars = width(&|check| check.state.word().len());
    let what_chars = width(&|check| check.what.chars().count());
    let mut group = None;
    for check in checks {
        if group.replace(check.group) != Some(check.group) {
            let heading = check.group.heading();
            let heading = match sysroot {
                Some(path) if check.group == super::Group::Sysroot => {
                    format!("{heading} {}", Shown(path.as_os_str().as_bytes()))
                }
                _ => heading.to_owned(),
            };
            writeln!(out, "{}", paint("1", &heading))?;
        }
        let word = format!("{:word_chars$}", check.state.word());
        let word = match check.state {
            State::Fine => paint("32", &word),
            State::Slower | State::Missing => paint("33", &word),
            State::Needed => paint("31", &word),
        };
        let found = Shown(check.found.as_bytes());
        writeln!(out, "  {word}  {:what_chars$}  {found}", check.what)?;
        if check.state != State::Fine {
            let indent = word_chars + 4;
            writeln!(out, "{:indent$}so:  {}", "", check.without)?;
            if let Some(advice) = &check.advice {
                writeln!(out, "{:indent$}try: {}", "", Shown(advice.as_bytes()))?;
            }
        }
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let summary = match (
        count(State::Needed),
        count(State::Slower),
        count(State::Missing),
    ) {
        (0, 0, 0) => "Everything is there.".to_owned(),
        (0, slower, missing) => {
            format!("Everything needed is there. Slower: {slower}. Missing: {missing}.")
        }
        (needed, ..) => format!("Needed, and not there: {needed}. Nothing can be run so."),
    };
    writeln!(out, "{}", paint("1", &summary))
}

/// Prints one JSON document: `schema`, `sysroot`, `fine` (whether nothing needed is missing), `checks`.
///
/// # Errors
/// Those of `out`.
pub fn json(checks: &[Check], sysroot: Option<&Path>, out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        schema: u32,
        sysroot: Option<String>,
        fine: bool,
        checks: &'a [Check],
    }
    let document = Document {
        schema: JSON_SCHEMA,
        sysroot: sysroot.map(|path| Shown(path.as_os_str().as_bytes()).to_string()),
        fine: checks.iter().all(|check| check.state != State::Needed),
        checks,
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}
