//! Opens what is to be executed: the file at a path, what its `#!` lines lead to, and the interpreter that its headers name. All that can fail
//! is tried here, while the old program is there to be told.

use core::ffi::CStr;

use super::call::{At, Call, FOLLOW, NO_FOLLOW, fd_link};
use super::calls::files::names_nothing;
use super::head;
use super::pool::{Text, Work};
use crate::errno::Errno;
use crate::guest::Address;
use crate::loader::elf::{HEADER_LEN, Header};
use crate::loader::script::{WINDOW, shebang};
use crate::options::List;
use crate::sys::abi::{
    AT_EACCESS, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, F_GETFD, FD_CLOEXEC, O_CLOEXEC, O_NOFOLLOW,
    O_NONBLOCK, O_RDONLY, S_IFLNK, S_IFMT, S_IFREG,
};
use crate::sys::host::{Fd, close, faccessat2, fcntl, fstat, lstatat, openat, pread, readlinkat};
use crate::vfs::path::{AT_ROOM, Area, PathBuf};

/// How many `#!` lines may lead to one another before the kernel says ELOOP.
const MAX_SCRIPTS: usize = 5;
/// The most words of `#!` lines: an interpreter and an argument each, and the script itself.
pub const MAX_WORDS: usize = 2 * MAX_SCRIPTS + 1;
const X_OK: usize = 1;

/// A string kept for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    start: usize,
    end: usize,
}

/// Strings one behind the other, each with a NUL.
#[derive(Debug)]
pub struct Strings<'b> {
    bytes: &'b mut [u8],
    len: usize,
}

impl<'b> Strings<'b> {
    /// None so far, in this room.
    #[must_use]
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Self { bytes, len: 0 }
    }

    fn keep(&mut self, text: &[u8]) -> Result<Kept, Errno> {
        let (start, end) = (self.len, self.len + text.len());
        let room = self.bytes.get_mut(start..=end).ok_or(Errno::E2BIG)?;
        room[..text.len()].copy_from_slice(text);
        room[text.len()] = 0;
        self.len = end + 1;
        Ok(Kept { start, end })
    }

    /// The string.
    #[must_use]
    pub fn get(&self, kept: Kept) -> &[u8] {
        &self.bytes[kept.start..kept.end]
    }

    /// Its address; a NUL is behind it.
    #[must_use]
    pub fn address(&self, kept: Kept) -> usize {
        self.bytes.as_ptr().expose_provenance() + kept.start
    }
}

/// A program that can be started.
#[derive(Debug)]
pub struct Ready<'b> {
    /// The ELF file, opened.
    pub file: Fd,
    /// Its interpreter, opened, if it has one.
    pub interpreter: Option<Fd>,
    /// What the following are of.
    pub strings: Strings<'b>,
    /// Its canonical guest path.
    pub exe: Kept,
    /// The path that was executed.
    pub execfn: Kept,
    /// What stands in the place of the first argument; empty where there is no script.
    pub words: List<Kept, MAX_WORDS>,
}

impl Ready<'_> {
    /// Each file that is open.
    pub fn files(&self) -> impl Iterator<Item = Fd> + use<> {
        [Some(self.file), self.interpreter].into_iter().flatten()
    }
}

/// Room that opening a program takes, of a work area.
#[derive(Debug)]
pub struct Rooms<'w> {
    /// For the path as the guest gave it.
    pub first: &'w mut Text,
    /// For the name of a program that is executed through a descriptor.
    pub second: &'w mut Text,
    /// For what the host tells.
    pub told: &'w mut Text,
    /// For where the path starts.
    pub start: &'w mut PathBuf<AT_ROOM>,
    /// For where it leads.
    pub area: &'w mut Area,
    /// For the headers of the files that it leads to.
    pub headers: &'w mut head::Room,
}

impl<'w> Rooms<'w> {
    /// Those of a work area that is used for nothing else.
    pub fn of(work: &'w mut Work) -> Self {
        let Work {
            first,
            second,
            told,
            start,
            area,
            state,
            ..
        } = work;
        Self {
            first,
            second,
            told,
            start,
            area,
            headers: state,
        }
    }
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

/// Follows `#!` lines until there is an ELF file, and makes sure that it and its interpreter can be loaded.
fn ready<'b>(
    call: &Call<'_>,
    mut file: Fd,
    mut strings: Strings<'b>,
    mut exe: Kept,
    execfn: Kept,
    rooms: &mut Rooms<'_>,
) -> Result<Ready<'b>, Errno> {
    let mut words = List::<Kept, MAX_WORDS>::new(Kept::default());
    let mut backwards = List::<Kept, MAX_WORDS>::new(Kept::default());
    let full = |_| Errno::ELOOP;
    for _ in 0..=MAX_SCRIPTS {
        let checked = check(call, file, &mut strings, rooms);
        let next = match checked {
            Ok(Next::Elf { interpreter }) => {
                for word in backwards.iter().rev() {
                    words.push(*word).map_err(full)?;
                }
                return Ok(Ready {
                    file,
                    interpreter,
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
        let text = strings.get(next);
        let (opened, guest) = open_path(call, Address(strings.address(next)), text, rooms)?;
        file = opened;
        exe = strings.keep(guest).inspect_err(|_| close(file))?;
    }
    close(file);
    Err(Errno::ELOOP)
}

/// Opens what is at a guest path of our own to be executed; its canonical guest path. `at`: where the path lies, if a guest may be shown.
///
/// # Errors
/// What execve(2) returns.
pub fn open_path<'w>(
    call: &Call<'_>,
    at: Address,
    path: &[u8],
    rooms: &'w mut Rooms<'_>,
) -> Result<(Fd, &'w [u8]), Errno> {
    let Rooms {
        told, start, area, ..
    } = rooms;
    let at = call.locate((Fd::CWD, at), path, FOLLOW, told, start, area)?;
    let file = open(&at)?;
    Ok((file, at.guest.unwrap_or(b"/")))
}

enum Next {
    Elf {
        interpreter: Option<Fd>,
    },
    Script {
        interpreter: Kept,
        argument: Option<Kept>,
    },
}

fn check(
    call: &Call<'_>,
    file: Fd,
    strings: &mut Strings<'_>,
    rooms: &mut Rooms<'_>,
) -> Result<Next, Errno> {
    let Rooms {
        told,
        start,
        area,
        headers,
        ..
    } = rooms;
    let (head, room) = head::split(headers);
    let len = pread(file, head, 0)?;
    let head = &head[..len];
    match shebang(&head[..len.min(WINDOW)]) {
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
    let Some(path) = head::read(file, head, room)?.interpreter else {
        return Ok(Next::Elf { interpreter: None });
    };
    let named = (Fd::CWD, Address(path.as_ptr().expose_provenance()));
    let at = call.locate(named, path, FOLLOW, told, start, area)?;
    let interpreter = open(&at)?;
    let mut start = [0; HEADER_LEN];
    let is_good = pread(interpreter, &mut start, 0)
        .map(|len| Header::parse(&start[..len]).map_err(|_| Errno::ELIBBAD));
    match is_good {
        Ok(Ok(_)) => Ok(Next::Elf {
            interpreter: Some(interpreter),
        }),
        Ok(Err(errno)) | Err(errno) => {
            close(interpreter);
            Err(errno)
        }
    }
}

/// Opens the program at a path and what its `#!` lines lead to.
///
/// # Errors
/// What execve(2) returns.
pub fn open_ready<'w>(
    call: &Call<'_>,
    dir: Fd,
    path: Address,
    flags: usize,
    mut strings: Strings<'w>,
    mut rooms: Rooms<'_>,
) -> Result<Ready<'w>, Errno> {
    let Rooms {
        first,
        second,
        told,
        start,
        area,
        ..
    } = &mut rooms;
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
            (Ok(exe), Ok(execfn), false) => ready(call, file, strings, exe, execfn, &mut rooms),
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
    let text = &*call.memory.read_string(path, &mut **first)?;
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
    ready(call, file, strings, exe, execfn, &mut rooms)
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
