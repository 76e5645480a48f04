//! `elfuse doctor`: what this host offers, what will be slower or missing, and what can be done.
//!
//! Finding out ([`facts`], [`sysroot`]) is apart from judging ([`judge`]), so that hosts can be judged that nobody has.

mod check;
pub mod facts;
mod judge;
mod print;
pub mod sysroot;

use std::env;
use std::io::Write;
use std::path::PathBuf;

pub use check::{Check, Group, State};
pub use judge::judge;
pub use print::{JSON_SCHEMA, json, text};

use crate::cli::DoctorArgs;
use crate::exit::Exit;

/// Looks at the host, and at a sysroot if there is one to look at, and prints what was found.
///
/// # Errors
/// Those of `out`.
pub fn run(arguments: &DoctorArgs, color: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut checks = judge(&facts::gather());
    let from_environment = || {
        let variable = env::var_os(elfuse_runtime::options::SYSROOT_VARIABLE)?;
        (!variable.is_empty()).then(|| PathBuf::from(variable))
    };
    let sysroot = arguments.sysroot.clone().or_else(from_environment);
    if let Some(sysroot) = &sysroot {
        let survey = sysroot::survey(sysroot, arguments.index_dir.as_deref());
        checks.extend(sysroot::judge(&survey));
    }
    if arguments.json {
        json(&checks, sysroot.as_deref(), out)?;
    } else {
        text(&checks, sysroot.as_deref(), color, out)?;
    }
    let needed = checks.iter().any(|check| check.state == State::Needed);
    Ok(if needed { Exit::No } else { Exit::Success })
}
