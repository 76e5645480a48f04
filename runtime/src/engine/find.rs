//! Finds the program of a command line in the guest, and starts it.

use core::ffi::CStr;

use super::arena::Arena;
use super::call::Call;
use super::exec::{self, Vectors};
use super::head;
use super::launch::{Program, launch};
use super::pool::Work;
use super::process::{self, Process};
use super::program::{Rooms, open_path};
use super::say::say;
use super::start::{NOT_EXECUTABLE, NOT_FOUND, fail, no_memory};
use super::tell::{self, Step};
use super::vector::Vector;
use crate::errno::Errno;
use crate::guest::Address;
use crate::loader::elf::{Header, NotLoadable};
use crate::options::{Inherited, RunOptions};
use crate::sys::abi::{PATH_MAX, SIG_BLOCK, SignalSet};
use crate::sys::host::{Fd, close, exit, pread, signal_mask};
use crate::text::Shown;

/// Where PATH leads when the guest has none, as bash has it.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that was found.
struct Located {
    file: Fd,
    /// The path that it was found at, as AT_EXECFN says it.
    path: &'static CStr,
    /// Its canonical guest path.
    exe: &'static [u8],
}

/// Finds the program and starts it.
pub fn find_and_start(
    mut arena: Arena,
    process: &'static Process,
    vector: Vector,
    options: &RunOptions<'static>,
) -> ! {
    // `skip` words before the guest's own: the runtime's name, and what was its own of the command line.
    let skip = options.program_at + 1;
    let own_mask = signal_mask(SIG_BLOCK, SignalSet::default());
    let call = Call::own(process, own_mask);
    let Located { file, path, exe } = find(&mut arena, &call, &vector, options);
    let refuse = |errno| -> ! { refuse(process, path.to_bytes(), errno) };
    let mut read = || {
        let head = arena.bytes(head::LEN)?;
        let len = pread(file, head, 0)?;
        Ok(&head[..len])
    };
    let head: &'static [u8] = read().unwrap_or_else(|errno| refuse(errno));
    let is_script = head.starts_with(b"#!");
    if !is_script && let Err(why) = Header::parse(head) {
        not_loadable(path.to_bytes(), why);
    }
    let edits_environment = options.clear_env || options.edit_count > 0;
    if is_script || edits_environment {
        close(file);
        let environment = if edits_environment {
            let arguments = vector.arguments().skip(1);
            let environment = options.guest_environment(arguments, vector.environment());
            exec::vector_of(&mut arena, environment)
                .unwrap_or_else(|errno| fail(format_args!("environment: {}", errno.text())))
        } else {
            vector.environment_address()
        };
        let vectors = Vectors {
            arguments: Address(vector.arguments_from(skip)),
            environment: Address(environment),
        };
        let path_at = Address(path.as_ptr().expose_provenance());
        match exec::execute(&call, Fd::CWD, path_at, 0, vectors) {
            Err(errno) => refuse(errno),
            Ok(_) => refuse(Errno::EIO),
        }
    }
    tell::done(Step::Found, options.trace);
    let run = Inherited {
        exe,
        execfn: path.to_bytes(),
        ..process.run
    };
    let state = arena.place(process.with_run(run));
    let process = process::set(state.unwrap_or_else(|errno| no_memory(errno)));
    let program = Program {
        file,
        head: Some(head),
        interpreter: None,
        skip,
        mask: own_mask,
        mask_now: Some(own_mask),
    };
    launch(&mut arena, process, vector, &program)
}

/// Finds the program: a guest path if there is a slash in it, else through the guest's PATH.
fn find(
    arena: &mut Arena,
    call: &Call<'_>,
    vector: &Vector,
    options: &RunOptions<'static>,
) -> Located {
    let program = options.program;
    let refuse = |errno| -> ! { refuse(call.process, program, errno) };
    let mut taken = call.area().unwrap_or_else(|errno| refuse(errno));
    let Work {
        first,
        second,
        told,
        start,
        area,
        state,
        scratch,
        ..
    } = taken.work();
    let mut rooms = Rooms {
        first,
        second,
        told,
        start,
        area,
        headers: state,
    };
    let mut open = |path: &[u8]| {
        let at = Address(path.as_ptr().expose_provenance());
        let (file, exe) = open_path(call, at, path, &mut rooms)?;
        let mut kept = || {
            let exe = arena.string(exe)?.to_bytes();
            Ok((arena.string(path)?, exe))
        };
        let (path, exe) = kept().unwrap_or_else(|errno| refuse(errno));
        Ok(Located { file, path, exe })
    };
    if program.contains(&b'/') {
        return open(program).unwrap_or_else(|errno| refuse(errno));
    }
    search(vector, options, scratch, open)
        .unwrap_or_else(|missing| missing.end(call.process, program))
}

/// Why a program was not found through PATH.
enum Missing<'p> {
    /// Not in any of these directories.
    Nowhere(&'p [u8]),
    /// It may not be executed where it is.
    Refused,
}

impl Missing<'_> {
    #[cold]
    fn end(&self, process: &Process, program: &[u8]) -> ! {
        let Self::Nowhere(path) = self else {
            refuse(process, program, Errno::EACCES);
        };
        say(format_args!(
            "{}: not found in the sysroot {} through PATH={}",
            Shown(program),
            Shown(process.run.sysroot),
            Shown(path)
        ));
        exit(NOT_FOUND)
    }
}

/// Looks for a program through the guest's PATH, as execvp(3) does.
fn search<'p>(
    vector: &'p Vector,
    options: &'p RunOptions<'static>,
    room: &mut [u8],
    mut open: impl FnMut(&[u8]) -> Result<Located, Errno>,
) -> Result<Located, Missing<'p>> {
    let arguments = vector.arguments().skip(1);
    let environment = options.guest_environment(arguments, vector.environment_from(b"PATH="));
    let mut paths = environment.filter_map(|variable| variable.strip_prefix(b"PATH="));
    let path = paths.next().unwrap_or(DEFAULT_PATH);
    let mut missing = Missing::Nowhere(path);
    for dir in path.split(|byte| *byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let len = dir.len() + 1 + options.program.len();
        let Some(candidate) = room.get_mut(..len).filter(|_| len < PATH_MAX) else {
            continue;
        };
        candidate[..dir.len()].copy_from_slice(dir);
        candidate[dir.len()] = b'/';
        candidate[dir.len() + 1..].copy_from_slice(options.program);
        match open(candidate) {
            Ok(found) => return Ok(found),
            Err(Errno::EACCES) => missing = Missing::Refused,
            Err(_) => {}
        }
    }
    Err(missing)
}

/// Ends the run because its program cannot be started.
#[cold]
fn refuse(process: &Process, program: &[u8], errno: Errno) -> ! {
    let hint = match errno {
        Errno::ENOENT => ": there is no such file, or its interpreter is not there",
        Errno::EACCES => ": it is no regular file, or may not be read and executed",
        Errno::ENOEXEC => ": neither an ELF program for x86-64 nor a script with `#!`",
        _ => "",
    };
    say(format_args!(
        "cannot run {} from the sysroot {}: {}{hint}",
        Shown(program),
        Shown(process.run.sysroot),
        errno.text(),
    ));
    let is_missing = errno == Errno::ENOENT || errno == Errno::ENOTDIR;
    exit(if is_missing {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    })
}

#[cold]
fn not_loadable(program: &[u8], why: NotLoadable) -> ! {
    let program = Shown(program);
    match why {
        NotLoadable::NotElf => say(format_args!(
            "cannot run {program}: neither an ELF program nor a script with `#!`"
        )),
        NotLoadable::Class32 => say(format_args!(
            "cannot run {program}: a 32-bit program; elfuse runs x86-64 programs only"
        )),
        NotLoadable::Machine(machine) => say(format_args!(
            "cannot run {program}: built for another processor (ELF machine {machine}); elfuse runs programs of the \
             processor it runs on"
        )),
        NotLoadable::NotExecutable => say(format_args!(
            "cannot run {program}: an ELF file, but neither a program nor a shared object"
        )),
        NotLoadable::Malformed(what) => say(format_args!(
            "cannot run {program}: malformed ELF file: {what}"
        )),
    }
    exit(NOT_EXECUTABLE)
}
