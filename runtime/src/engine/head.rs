//! The beginning of an ELF file as far as it decides whether the file can be loaded: its header, its program headers, its interpreter's path.
//! Linkers put all of that in front, so that one read is enough for nearly all files.

use crate::errno::Errno;
use crate::loader::elf::{Header, NotLoadable, PHDR_LEN, ProgramHeaders};
use crate::loader::plan::Plan;
use crate::sys::abi::PATH_MAX;
use crate::sys::host::{Fd, pread};

/// How many bytes of a file are read at first.
pub const LEN: usize = 1024;
/// Room for program headers that lie elsewhere: 146 segments, which no linker makes.
const PHDRS_ROOM: usize = 2 * PATH_MAX;

/// Room for the beginning of a file, and for what lies elsewhere in it.
pub type Room = [u8; 16384];

const _: () = assert!(LEN + PHDRS_ROOM + PATH_MAX <= size_of::<Room>());

/// What was read of a file.
#[derive(Debug, Clone, Copy)]
pub struct Head<'b> {
    /// How it is to be mapped, with its headers.
    pub plan: Plan<'b>,
    /// Guest path of its interpreter, if it has one.
    pub interpreter: Option<&'b [u8]>,
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

/// Room for the first [`LEN`] bytes, and for [`read`].
pub fn split(room: &mut Room) -> (&mut [u8], &mut [u8]) {
    room.split_at_mut(LEN)
}

/// `len` bytes of the file, of which `head` is the beginning; `None`: it is shorter.
fn bytes<'b>(
    file: Fd,
    head: &'b [u8],
    (offset, len): (u64, usize),
    room: &'b mut [u8],
) -> Result<Option<&'b [u8]>, Errno> {
    let start = usize::try_from(offset).ok();
    let in_head = start.and_then(|start| head.get(start..start.checked_add(len)?));
    if let Some(found) = in_head {
        return Ok(Some(found));
    }
    let room = room.get_mut(..len).ok_or(Errno::ENOEXEC)?;
    let is_whole = pread(file, room, offset)? == len;
    Ok(is_whole.then_some(room))
}

/// Reads and checks the headers of a file, of which `head` is the beginning.
///
/// # Errors
/// ENOEXEC, EIO, ENOMEM.
pub fn read<'b>(file: Fd, head: &'b [u8], room: &'b mut [u8]) -> Result<Head<'b>, Errno> {
    let header = Header::parse(head).map_err(refusal)?;
    let len = header.phdrs_len();
    let (phdrs_room, path_room) = room.split_at_mut_checked(PHDRS_ROOM).ok_or(Errno::ENOMEM)?;
    let phdrs = bytes(file, head, (header.phdr_offset, len), phdrs_room)?;
    let phdrs = phdrs
        .filter(|_| len % PHDR_LEN == 0)
        .ok_or(Errno::ENOEXEC)?;
    let phdrs = ProgramHeaders::new(phdrs);
    let plan = Plan::new(header, phdrs).map_err(refusal)?;
    let interpreter = match phdrs.interpreter() {
        None => None,
        Some((offset, len)) => {
            let len = usize::try_from(len).map_err(|_| Errno::ENOEXEC)?;
            if !(2..=PATH_MAX).contains(&len) {
                return Err(Errno::ENOEXEC);
            }
            let path = bytes(file, head, (offset, len), path_room)?.ok_or(Errno::EIO)?;
            Some(up_to_nul(path).ok_or(Errno::ENOEXEC)?)
        }
    };
    Ok(Head { plan, interpreter })
}

/// A path that ends with a NUL, up to the first one.
fn up_to_nul(path: &[u8]) -> Option<&[u8]> {
    let (0, path) = path.split_last()? else {
        return None;
    };
    path.split(|byte| *byte == 0).next()
}
