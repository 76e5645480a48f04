//! `elfuse run …` as it is typed: settles where everything is, finds the program, and starts it.

use core::ffi::CStr;

use super::exec;
use super::find::find_and_start;
use super::say::say;
use super::settle::{Setting, settle};
use super::start::{FAILED, fail};
use super::tell::{self, Step};
use super::vector::Vector;
use crate::errno::Errno;
use crate::options::{Command, RunOptions, TRACE_VARIABLE, parse};
use crate::sys::abi::PATH_MAX;
use crate::sys::host::{Fd, exit, readlinkat};
use crate::text::Shown;

/// What the names of all variables begin with that options are read from.
const VARIABLES: &[u8] = b"ELFUSE_";

/// Does what the command line says.
pub fn command(vector: Vector) -> ! {
    let variables = vector.environment_from(VARIABLES);
    if (variables.clone()).any(|variable| variable.starts_with(TRACE_VARIABLE.as_bytes())) {
        tell::begin();
    }
    let command = parse(vector.arguments().skip(1), variables);
    match command {
        Ok(Command::Run(options)) => run(vector, &options),
        Ok(Command::Other) => sibling(&vector),
        Err(error) => {
            say(format_args!("{error}"));
            exit(FAILED)
        }
    }
}

fn run(vector: Vector, options: &RunOptions<'static>) -> ! {
    if let Some(word) = options.unknown_trace_word {
        say(format_args!(
            "ELFUSE_STARTUP_TRACE: `{}` means nothing; known are steps, syscalls, all and 1",
            Shown(word)
        ));
    }
    tell::done(Step::Options, options.trace);
    let mut setting = Setting::new(&vector, options);
    let process = settle(&mut setting);
    tell::done(Step::Settled, options.trace);
    let arena = setting.into_arena();
    find_and_start(arena, process, vector, options)
}

/// Executes the program that does everything but `run`: it lies beside this one, or where distributions keep such.
#[cold]
fn sibling(vector: &Vector) -> ! {
    const NAME: &[u8] = b"elfuse-tools";
    const ELSEWHERE: &[u8] = b"../libexec/elfuse/elfuse-tools";
    let mut own = [0; PATH_MAX];
    let len = readlinkat(Fd::CWD, c"/proc/self/exe", &mut own).unwrap_or_else(|errno| {
        fail(format_args!(
            "cannot read /proc/self/exe: {}; is /proc mounted?",
            errno.text()
        ))
    });
    let dir = own[..len]
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let mut last = Errno::ENOENT;
    for place in [NAME, ELSEWHERE] {
        let end = dir + place.len();
        if end >= own.len() {
            continue;
        }
        own[dir..end].copy_from_slice(place);
        own[end] = 0;
        let Ok(path) = CStr::from_bytes_with_nul(&own[..=end]) else {
            continue;
        };
        last = exec::host_program(path, vector.arguments_from(0), vector.environment_address());
    }
    fail(format_args!(
        "cannot start elfuse-tools, which does everything but `run`: {} beside {}; install both from one build",
        last.text(),
        Shown(&own[..dir])
    ))
}
