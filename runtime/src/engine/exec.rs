//! execve: everything that can fail is tried while the old program is still there to be told; then the runtime executes itself, and the
//! new image goes on in [`super::start`].
//!
//! # Safety
//! The argument vector handed to the kernel is made of addresses of ours, held in a work area or a mapping until the call returns or
//! the image is gone, and of addresses of the guest's, which the kernel checks as it would have without us.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::sync::atomic::AtomicU32;

use super::arena::Arena;
use super::call::{At, Call, FOLLOW, NO_FOLLOW, fd_link};
use super::calls::files::names_nothing;
use super::pool::{Text, Work};
use super::{descriptors, signals, tell};
use crate::errno::Errno;
use crate::guest::Address;
use crate::loader::elf::{HEADER_LEN, Header, NotLoadable, PHDR_LEN, ProgramHeaders};
use crate::loader::plan::Plan;
use crate::loader::script::{WINDOW, shebang};
use crate::options::{Executed, List};
use crate::sys::abi::{
    AT_EACCESS, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, F_GETFD, F_SETFD, FD_CLOEXEC, O_CLOEXEC,
    O_NOFOLLOW, O_NONBLOCK, O_RDONLY, PATH_MAX, PROT_READ, PROT_WRITE, S_IFLNK, S_IFMT, S_IFREG,
    SIG_BLOCK, SIG_SETMASK, SIGTRAP, SignalSet,
};
use crate::sys::host::{
    Fd, close, faccessat2, fcntl, fstat, lstatat, openat, pread, readlinkat, signal_mask,
};
use crate::sys::memory::{Place, map, unmap};
use crate::sys::nr;
use crate::sys::raw::{Raw, call as call_};
use crate::vfs::path::{AT_ROOM, Area, PathBuf};

/// How many `#!` lines may lead to one another before the kernel says ELOOP.
const MAX_SCRIPTS: usize = 5;
/// The most words of `#!` lines: an interpreter and an argument each, and the script itself.
const MAX_WORDS: usize = 2 * MAX_SCRIPTS + 1;
const X_OK: usize = 1;

/// A string kept for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Kept {
    start: usize,
    end: usize,
}

/// Strings one behind the other, each with a NUL.
#[derive(Debug)]
struct Strings<'b> {
    bytes: &'b mut [u8],
    len: usize,
}

impl Strings<'_> {
    fn keep(&mut self, text: &[u8]) -> Result<Kept, Errno> {
        let (start, end) = (self.len, self.len + text.len());
        let room = self.bytes.get_mut(start..=end).ok_or(Errno::E2BIG)?;
        room[..text.len()].copy_from_slice(text);
        room[text.len()] = 0;
        self.len = end + 1;
        Ok(Kept { start, end })
    }

    fn get(&self, kept: Kept) -> &[u8] {
        &self.bytes[kept.start..kept.end]
    }

    fn address(&self, kept: Kept) -> usize {
        self.bytes.as_ptr().expose_provenance() + kept.start
    }
}

/// A program that can be started.
#[derive(Debug)]
struct Ready<'b> {
    /// The ELF file, opened.
    file: Fd,
    strings: Strings<'b>,
    /// Its canonical guest path.
    exe: Kept,
    /// The path that was executed.
    execfn: Kept,
    /// What stands in the place of the first argument; empty where there is no script.
    words: List<Kept, MAX_WORDS>,
}

/// Opens what is at a place to be executed, if it may be.
fn open(at: &At<'_>) -> Result<Fd, Errno> {
    let host = at.host.ok_or(Errno::ENOENT)?;
    if !at.magic {
        // Looked at before it is opened: to open a FIFO or a device has effects.
        match lstatat(at.dir, host)?.mode & S_IFMT {
            S_IFREG => {}
            S_IFLNK => return Err(Errno::ELOOP),
            _ => return Err(Errno::EACCES),
        }
    }
    let no_follow = if at.magic { 0 } else { O_NOFOLLOW };
    faccessat2(at.dir, host, X_OK, AT_EACCESS | at.no_follow())?;
    let file = openat(
        at.dir,
        host,
        O_RDONLY | O_NONBLOCK | O_CLOEXEC | no_follow,
        0,
    )?;
    regular(file)
}

fn regular(file: Fd) -> Result<Fd, Errno> {
    match fstat(file) {
        Ok(found) if found.mode & S_IFMT == S_IFREG => Ok(file),
        Ok(_) => {
            close(file);
            Err(Errno::EACCES)
        }
        Err(errno) => {
            close(file);
            Err(errno)
        }
    }
}

/// Why an ELF file is refused, in the kernel's words.
fn refusal(why: NotLoadable) -> Errno {
    match why {
        NotLoadable::Malformed(_)
        | NotLoadable::NotElf
        | NotLoadable::Class32
        | NotLoadable::Machine(_)
        | NotLoadable::NotExecutable => Errno::ENOEXEC,
    }
}

/// Reads and checks the headers of an ELF file as far as they decide whether it can be started; the interpreter's path if it has one.
///
/// # Errors
/// ENOEXEC, EIO, ENOMEM.
pub fn interpreter<'b>(
    file: Fd,
    start: &[u8],
    room: &'b mut [u8],
) -> Result<Option<&'b mut [u8]>, Errno> {
    let header = Header::parse(start).map_err(refusal)?;
    let len = header.phdrs_len();
    // 8 KiB of program headers are 146 segments, which no linker makes; the rest of the room is the path's.
    let (phdrs, path) = room
        .split_at_mut_checked(PATH_MAX * 2)
        .ok_or(Errno::ENOMEM)?;
    let phdrs = phdrs.get_mut(..len).ok_or(Errno::ENOEXEC)?;
    if pread(file, phdrs, header.phdr_offset)? != len || len % PHDR_LEN != 0 {
        return Err(Errno::ENOEXEC);
    }
    let phdrs = ProgramHeaders::new(phdrs);
    Plan::new(header, phdrs).map_err(refusal)?;
    let Some((offset, len)) = phdrs.interpreter() else {
        return Ok(None);
    };
    let len = usize::try_from(len).map_err(|_| Errno::ENOEXEC)?;
    if !(2..=PATH_MAX).contains(&len) {
        return Err(Errno::ENOEXEC);
    }
    let path = path.get_mut(..len).ok_or(Errno::ENOEXEC)?;
    if pread(file, path, offset)? != len {
        return Err(Errno::EIO);
    }
    match path.split_last_mut() {
        Some((0, path)) => {
            let end = path
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(path.len());
            Ok(Some(&mut path[..end]))
        }
        _ => Err(Errno::ENOEXEC),
    }
}

/// Follows `#!` lines until there is an ELF file, and makes sure that it and its interpreter can be loaded.
fn ready<'b>(
    call: &Call<'_>,
    mut file: Fd,
    mut strings: Strings<'b>,
    mut exe: Kept,
    execfn: Kept,
) -> Result<Ready<'b>, Errno> {
    let mut words = List::<Kept, MAX_WORDS>::new(Kept::default());
    let mut backwards = List::<Kept, MAX_WORDS>::new(Kept::default());
    let full = |_| Errno::ELOOP;
    for _ in 0..=MAX_SCRIPTS {
        let checked = check(call, file, &mut strings);
        let next = match checked {
            Ok(Next::Elf) => {
                for word in backwards.iter().rev() {
                    words.push(*word).map_err(full)?;
                }
                return Ok(Ready {
                    file,
                    strings,
                    exe,
                    execfn,
                    words,
                });
            }
            Ok(Next::Script {
                interpreter,
                argument,
            }) => {
                close(file);
                if backwards.is_empty() {
                    backwards.push(execfn).map_err(full)?;
                }
                if let Some(argument) = argument {
                    backwards.push(argument).map_err(full)?;
                }
                backwards.push(interpreter).map_err(full)?;
                interpreter
            }
            Err(errno) => {
                close(file);
                return Err(errno);
            }
        };
        (file, exe) = open_path(call, &mut strings, next)?;
    }
    close(file);
    Err(Errno::ELOOP)
}

/// Opens the program at a guest path of our own; its canonical guest path.
fn open_path(call: &Call<'_>, strings: &mut Strings<'_>, path: Kept) -> Result<(Fd, Kept), Errno> {
    let mut taken = call.area()?;
    let Work {
        told, start, area, ..
    } = taken.work();
    let text = strings.get(path);
    let named = (Fd::CWD, Address(strings.address(path)));
    let at = call.locate(named, text, FOLLOW, told, start, area)?;
    let file = open(&at)?;
    let exe = strings.keep(at.guest.unwrap_or(b"/"))?;
    Ok((file, exe))
}

/// Opens what is at a guest path to be executed.
///
/// # Errors
/// What execve(2) returns.
pub fn open_guest(call: &Call<'_>, path: &[u8]) -> Result<Fd, Errno> {
    let mut taken = call.area()?;
    let Work {
        told, start, area, ..
    } = taken.work();
    let at = call.locate((Fd::CWD, Address(0)), path, FOLLOW, told, start, area)?;
    open(&at)
}

/// Canonical guest path of a program, and its path as it was given.
///
/// # Errors
/// What execve(2) returns.
pub fn identity(
    call: &Call<'_>,
    arena: &mut Arena,
    path: &[u8],
) -> Result<(&'static [u8], &'static [u8]), Errno> {
    let mut taken = call.area()?;
    let Work {
        told, start, area, ..
    } = taken.work();
    let at = call.locate((Fd::CWD, Address(0)), path, FOLLOW, told, start, area)?;
    let exe = arena.string(at.guest.unwrap_or(b"/"))?.to_bytes();
    Ok((exe, arena.string(path)?.to_bytes()))
}

/// A vector of strings as execve(2) takes it: its address. The strings have a NUL behind them.
///
/// # Errors
/// ENOMEM.
pub fn vector_of(
    arena: &mut Arena,
    strings: impl Iterator<Item = &'static [u8]> + Clone,
) -> Result<usize, Errno> {
    let words = arena.bytes((strings.clone().count() + 1) * size_of::<usize>())?;
    let start = words.as_ptr().expose_provenance();
    for (word, text) in words.chunks_exact_mut(size_of::<usize>()).zip(strings) {
        let text = arena.string(text)?;
        word.copy_from_slice(&text.as_ptr().expose_provenance().to_ne_bytes());
    }
    Ok(start)
}

/// Executes a program of the host's in the place of this one; why that failed.
pub fn host_program(path: &CStr, arguments: usize, environment: usize) -> Errno {
    // SAFETY: a live path, and two vectors of the initial stack.
    let failed = unsafe {
        call_(
            nr::EXECVE,
            [
                path.as_ptr().expose_provenance(),
                arguments,
                environment,
                0,
                0,
                0,
            ],
        )
    };
    failed.result().err().unwrap_or(Errno::EIO)
}

enum Next {
    Elf,
    Script {
        interpreter: Kept,
        argument: Option<Kept>,
    },
}

fn check(call: &Call<'_>, file: Fd, strings: &mut Strings<'_>) -> Result<Next, Errno> {
    let mut start = [0; WINDOW];
    let len = pread(file, &mut start, 0)?;
    let start = &start[..len];
    match shebang(start) {
        Some(None) => return Err(Errno::ENOEXEC),
        Some(Some(line)) => {
            let interpreter = strings.keep(line.interpreter)?;
            let argument = line
                .argument
                .map(|argument| strings.keep(argument))
                .transpose()?;
            return Ok(Next::Script {
                interpreter,
                argument,
            });
        }
        None => {}
    }
    let mut taken = call.area()?;
    let Some(path) = interpreter(file, start, &mut taken.work().scratch)? else {
        return Ok(Next::Elf);
    };
    let before = strings.len;
    let kept = strings.keep(path)?;
    let opened = open_path(call, strings, kept);
    strings.len = before;
    let (interpreter, _) = opened?;
    let mut start = [0; HEADER_LEN];
    let read = pread(interpreter, &mut start, 0);
    close(interpreter);
    match Header::parse(&start[..read?]) {
        Ok(_) => Ok(Next::Elf),
        Err(_) => Err(Errno::ELIBBAD),
    }
}

/// Where the arguments and the environment of a program to be executed are.
#[derive(Debug, Clone, Copy)]
pub struct Vectors {
    /// Address of the guest's `argv`.
    pub arguments: Address,
    /// Address of the guest's `envp`.
    pub environment: Address,
}

/// execve(2).
pub fn execve(call: &mut Call<'_>) -> Raw {
    let vectors = Vectors {
        arguments: call.address(1),
        environment: call.address(2),
    };
    execute(call, Fd::CWD, call.address(0), 0, vectors).into()
}

/// execveat(2).
pub fn execveat(call: &mut Call<'_>) -> Raw {
    let vectors = Vectors {
        arguments: call.address(2),
        environment: call.address(3),
    };
    let flags = call.flags(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Errno::EINVAL.into();
    }
    execute(call, call.fd(0), call.address(1), flags, vectors).into()
}

/// Executes the program at a path; returns only if that failed.
///
/// # Errors
/// What execve(2) returns.
pub fn execute(
    call: &Call<'_>,
    dir: Fd,
    path: Address,
    flags: usize,
    vectors: Vectors,
) -> Result<usize, Errno> {
    let mut taken = call.area()?;
    let owner = core::ptr::from_ref(taken.owner());
    let Work {
        first,
        second,
        told,
        start,
        area,
        scratch,
        state,
        vector,
        ..
    } = taken.work();
    let strings = Strings {
        bytes: scratch,
        len: 0,
    };
    let rooms = Rooms {
        first,
        second,
        told,
        start,
        area,
    };
    let ready = open_ready(call, dir, path, flags, strings, rooms)?;
    let result = replace(call, &ready, vectors, state, vector, owner);
    close(ready.file);
    result
}

/// Room that opening a program takes.
struct Rooms<'w> {
    first: &'w mut Text,
    second: &'w mut Text,
    told: &'w mut Text,
    start: &'w mut PathBuf<AT_ROOM>,
    area: &'w mut Area,
}

/// Opens the program at a path and what its `#!` lines lead to.
///
/// # Errors
/// What execve(2) returns.
fn open_ready<'w>(
    call: &Call<'_>,
    dir: Fd,
    path: Address,
    flags: usize,
    mut strings: Strings<'w>,
    rooms: Rooms<'_>,
) -> Result<Ready<'w>, Errno> {
    let Rooms {
        first,
        second,
        told,
        start,
        area,
    } = rooms;
    if flags & AT_EMPTY_PATH != 0 && names_nothing(call, path) {
        if dir == Fd::CWD {
            // A directory.
            return Err(Errno::EACCES);
        }
        let mut text = [0; 32];
        let link = fd_link(dir, &mut text).ok_or(Errno::EBADF)?;
        // Opened anew, as the guest's own descriptor need not be readable and must not be closed here.
        let file = regular(openat(Fd::CWD, link, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0)?)?;
        if let Err(errno) = faccessat2(Fd::CWD, link, X_OK, AT_EACCESS) {
            close(file);
            return Err(errno);
        }
        let exe = linked(call, link, told, start, &mut strings);
        let execfn = dev_fd(dir, b"", second).and_then(|execfn| strings.keep(execfn));
        // A script is opened again by its interpreter, which cannot be done by a descriptor that is closed on exec.
        let closes = fcntl(dir, F_GETFD, 0).is_ok_and(|flags| flags & FD_CLOEXEC != 0);
        return match (exe, execfn, closes && is_script(file)) {
            (Ok(exe), Ok(execfn), false) => ready(call, file, strings, exe, execfn),
            (Err(errno), ..) | (_, Err(errno), _) => {
                close(file);
                Err(errno)
            }
            (.., true) => {
                close(file);
                Err(Errno::ENOENT)
            }
        };
    }
    let text = &*call.memory.read_string(path, first)?;
    let by_dir = dir != Fd::CWD && !text.starts_with(b"/");
    let execfn = if by_dir {
        dev_fd(dir, text, second)?
    } else {
        text
    };
    let execfn = strings.keep(execfn)?;
    let want = if flags & AT_SYMLINK_NOFOLLOW != 0 {
        NO_FOLLOW
    } else {
        FOLLOW
    };
    let at = call.locate((dir, path), text, want, told, start, area)?;
    let file = open(&at)?;
    let exe = match (at.is_magic_link, at.host) {
        (true, Some(link)) => linked(call, link, told, start, &mut strings),
        _ => strings.keep(at.guest.unwrap_or(b"/")),
    };
    let exe = match exe {
        Ok(exe) => exe,
        Err(errno) => {
            close(file);
            return Err(errno);
        }
    };
    ready(call, file, strings, exe, execfn)
}

/// Guest path of what a magic link leads to; of a memory file or the like, what the host shows.
fn linked(
    call: &Call<'_>,
    link: &CStr,
    told: &mut Text,
    into: &mut PathBuf<AT_ROOM>,
    strings: &mut Strings<'_>,
) -> Result<Kept, Errno> {
    let len = readlinkat(Fd::CWD, link, told)?;
    let told = &told[..len];
    match call.process.vfs.mounts().to_guest(told, into) {
        Ok(()) => strings.keep(into.as_bytes()),
        Err(_) if told.starts_with(b"/") => strings.keep(told),
        Err(_) => strings.keep(b"/"),
    }
}

fn is_script(file: Fd) -> bool {
    let mut start = [0; 2];
    pread(file, &mut start, 0) == Ok(2) && start == *b"#!"
}

/// The name that a program executed through a descriptor goes by: `/dev/fd/N` or `/dev/fd/N/path`.
fn dev_fd<'b>(dir: Fd, path: &[u8], into: &'b mut Text) -> Result<&'b [u8], Errno> {
    let mut text = [0; 32];
    let link = fd_link(dir, &mut text).ok_or(Errno::EBADF)?.to_bytes();
    let number = link.rsplit(|byte| *byte == b'/').next().unwrap_or(link);
    let parts = [
        &b"/dev/fd/"[..],
        number,
        if path.is_empty() { b"" } else { b"/" },
        path,
    ];
    let mut len = 0;
    for part in parts {
        into.get_mut(len..len + part.len())
            .ok_or(Errno::ENAMETOOLONG)?
            .copy_from_slice(part);
        len += part.len();
    }
    Ok(&into[..len])
}

/// Room for what is passed on, in an area or in a mapping of its own.
struct Room {
    at: usize,
    len: usize,
}

impl Room {
    fn new(len: usize) -> Result<Self, Errno> {
        // SAFETY: only a free range is taken.
        let at = unsafe { map(Place::OwnForACall, len, PROT_READ | PROT_WRITE, None) }?;
        Ok(Self { at, len })
    }

    fn words(&mut self) -> &mut [usize] {
        // SAFETY: a mapping of this value's own, page-aligned, of any bytes.
        unsafe {
            let start = core::ptr::with_exposed_provenance_mut(self.at);
            core::slice::from_raw_parts_mut(start, self.len / size_of::<usize>())
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference outlives the value.
        unsafe { unmap(self.at, self.len) };
    }
}

/// How many words a vector of the guest's has before its null.
fn count(call: &Call<'_>, vector: Address) -> Result<usize, Errno> {
    // What the kernel allows at most: MAX_ARG_STRINGS.
    const MOST: usize = 0x7fff_ffff;
    if vector.is_null() {
        return Ok(0);
    }
    for number in 0..MOST {
        if call
            .memory
            .read_word(vector.plus(number * size_of::<usize>()))?
            == 0
        {
            return Ok(number);
        }
    }
    Err(Errno::E2BIG)
}

/// Replaces this image by the runtime, which goes on with the program.
fn replace(
    call: &Call<'_>,
    ready: &Ready<'_>,
    vectors: Vectors,
    state: &mut [u8],
    vector: &mut [usize],
    owner: *const AtomicU32,
) -> Result<usize, Errno> {
    let given = count(call, vectors.arguments)?;
    let program = Executed {
        program_fd: ready.file.0,
        exe: ready.strings.get(ready.exe),
        execfn: ready.strings.get(ready.execfn),
        sysroot_fd: call.process.sysroot().ok().map(|fd| fd.0),
        filter_armed: call.process.is_armed(),
        signal_mask: call.way.mask().0,
    };
    let room = state.len() - 1;
    let len = (call.process.run)
        .encode_for(&program, &mut state[..room])
        .map_err(|_| Errno::E2BIG)?;
    state[len] = 0;
    let needed = given + MAX_WORDS + 4;
    // A child of vfork(2) leaves such a mapping behind in its parent.
    let mut mapped: Room;
    let pointers: &mut [usize] = if needed <= vector.len() {
        vector
    } else {
        mapped = Room::new(needed * size_of::<usize>())?;
        mapped.words()
    };
    pointers[0] = c"elfuse".as_ptr().expose_provenance();
    pointers[1] = state.as_ptr().expose_provenance();
    let mut used = 2;
    for word in ready.words.iter() {
        pointers[used] = ready.strings.address(*word);
        used += 1;
    }
    let first = usize::from(!ready.words.is_empty());
    for number in first..given {
        let word = vectors.arguments.plus(number * size_of::<usize>());
        pointers[used] = call.memory.read_word(word)?;
        used += 1;
    }
    if used == 2 {
        // As the kernel does it: there is always a first argument.
        pointers[used] = c"".as_ptr().expose_provenance();
        used += 1;
    }
    pointers[used] = 0;
    go(call, ready.file, pointers, vectors.environment, owner)
}

/// The last step. In a child of vfork(2) the area that this call works in is the parent's, who gets it back when the image is gone.
fn go(
    call: &Call<'_>,
    file: Fd,
    arguments: &[usize],
    environment: Address,
    owner: *const AtomicU32,
) -> Result<usize, Errno> {
    let shared = call.process.pool.is_guest_in_memory();
    fcntl(file, F_SETFD, 0)?;
    signals::uninstall_for_exec(shared);
    // A tracer is told of an exec by SIGTRAP. It is to come when the program is in place, not the runtime: the new image opens it again.
    let mask = signal_mask(SIG_BLOCK, SignalSet::of(SIGTRAP));
    if shared && call.process.pool.is_traced_from_exec() {
        const PTRACE_TRACEME: usize = 0;
        let _ = call.host(nr::PTRACE, [PTRACE_TRACEME, 0, 0, 0, 0, 0]);
    }
    if shared {
        super::pool::leave_with_image(owner);
    }
    if !shared {
        tell::freeze();
    }
    let left = descriptors::leave();
    let path = c"/proc/thread-self/exe".as_ptr().expose_provenance();
    // SAFETY: see the top.
    let failed = unsafe {
        call_(
            nr::EXECVE,
            [
                path,
                arguments.as_ptr().expose_provenance(),
                environment.0,
                0,
                0,
                0,
            ],
        )
    };
    if left {
        descriptors::come_back();
    }
    if shared {
        super::pool::stay_with_image();
    }
    signal_mask(SIG_SETMASK, mask);
    signals::reinstall(shared);
    let _ = fcntl(file, F_SETFD, FD_CLOEXEC);
    failed.result()
}
