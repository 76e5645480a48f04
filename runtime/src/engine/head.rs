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

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::{LEN, Room, bytes, read, split};
    use crate::errno::Errno;
    use crate::sys::host::{Fd, close, memory_file, pread, write};

    const PATH: &[u8] = b"/lib/ld.so\0";

    /// A program of one segment whose headers lie at `phdrs`, and whose interpreter's path at `path`.
    fn program(phdrs: usize, path: usize) -> Vec<u8> {
        let mut file = vec![0; 20_000];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02");
        put(16, &3_u16.to_le_bytes());
        put(18, &62_u16.to_le_bytes());
        put(32, &(phdrs as u64).to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &2_u16.to_le_bytes());
        for (row, [kind, offset, len]) in [[1, 0, 20_000], [3, path, PATH.len()]]
            .into_iter()
            .enumerate()
        {
            let row = phdrs + 56 * row;
            put(row, &(kind as u32).to_le_bytes());
            put(row + 4, &4_u32.to_le_bytes());
            let words = [offset, offset, 0, len, len, 4096];
            for (number, word) in words.into_iter().enumerate() {
                put(row + 8 + 8 * number, &(word as u64).to_le_bytes());
            }
        }
        put(path, PATH);
        file
    }

    /// Makes `then` with a file of these bytes and its first ones.
    fn with_file<T>(content: &[u8], then: impl FnOnce(Fd, &[u8]) -> T) -> T {
        let file = memory_file(c"head").unwrap();
        assert_eq!(write(file, content), Ok(content.len()));
        let mut head = [0; LEN];
        let len = pread(file, &mut head, 0).unwrap();
        let result = then(file, &head[..len]);
        close(file);
        result
    }

    fn interpreter(content: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        with_file(content, |file, head| {
            let mut room: Room = [0xaa; size_of::<Room>()];
            let found = read(file, head, split(&mut room).1)?;
            assert_eq!(found.plan.len, 20_480);
            Ok(found.interpreter.map(<[u8]>::to_vec))
        })
    }

    #[test]
    fn headers_and_path_are_found_in_front_and_wherever_else_they_lie() {
        for (phdrs, path) in [
            (64, 400),
            (64, 9000),
            (5000, 400),
            (5000, 9000),
            (950, 1100),
        ] {
            let found = interpreter(&program(phdrs, path));
            assert_eq!(
                found,
                Ok(Some(b"/lib/ld.so".to_vec())),
                "{phdrs} and {path}"
            );
        }
    }

    #[test]
    fn what_a_file_does_not_hold_is_an_error_as_the_kernel_has_it() {
        let whole = program(5000, 9000);
        assert_eq!(interpreter(&whole[..5000]), Err(Errno::ENOEXEC));
        assert_eq!(interpreter(&whole[..9005]), Err(Errno::EIO));
        let mut unended = whole;
        unended[9000 + PATH.len() - 1] = b'x';
        assert_eq!(interpreter(&unended), Err(Errno::ENOEXEC));
    }

    #[test]
    fn bytes_beyond_the_room_are_refused_and_those_in_front_need_none() {
        with_file(&program(64, 400), |file, head| {
            let mut room = [0; 8];
            let found = bytes(file, head, (400, PATH.len()), &mut room);
            assert_eq!(found, Ok(Some(PATH)));
            let found = bytes(file, head, (2000, 9), &mut room);
            assert_eq!(found, Err(Errno::ENOEXEC));
            let found = bytes(file, head, (u64::MAX, 8), &mut room);
            assert!(found.is_err() || found == Ok(None));
        });
    }
}
