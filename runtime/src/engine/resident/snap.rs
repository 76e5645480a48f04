//! The snapshot's file: found by the program's path, believed if it is the caller's own or root's, read as far as its tables go.

use elfuse_format::header::HEADER_LEN;
use elfuse_format::names;
use elfuse_format::snapshot::counts::Refusal;
use elfuse_format::snapshot::tables_len;

use super::tables::Tables;
use crate::engine::arena::Arena;
use crate::engine::say::Line;
use crate::engine::store;
use crate::engine::vector::Vector;
use crate::errno::Errno;
use crate::sys::abi::{O_RDONLY, S_IFMT, S_IFREG, at};
use crate::sys::host::{Fd, fstat, pread};
use core::ffi::CStr;

/// What the files of a program are called in the store.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    hash: u64,
}

impl Names {
    /// Those of the program at this path of the guest.
    #[must_use]
    pub fn of(exe: &[u8]) -> Self {
        Self {
            hash: names::hash(exe),
        }
    }

    /// Opens the file with this suffix.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self, store: &CStr, suffix: &str, flags: usize) -> Result<Fd, Errno> {
        // Not formatted: the code that does so is touched by no start else.
        let mut name = Line::new();
        let digit = |shift: u32| b"0123456789abcdef"[(self.hash >> shift) as usize & 0xf];
        let mut hash = [0; 16];
        for (digit_at, shift) in hash.iter_mut().zip((0..64).step_by(4).rev()) {
            *digit_at = digit(shift);
        }
        name.put_bytes(names::RESIDENT.as_bytes());
        name.put_bytes(b"/");
        name.put_bytes(&hash);
        name.put_bytes(suffix.as_bytes());
        store::open(store, name.bytes(), flags)
    }
}

/// The snapshot of a program, if there is one.
#[must_use]
pub fn open(store: &CStr, names: &Names) -> Option<Fd> {
    names.open(store, names::SNAPSHOT_SUFFIX, O_RDONLY).ok()
}

/// Reads and checks the tables.
///
/// # Errors
/// [`Refusal::Owner`], [`Refusal::Malformed`], [`Refusal::Memory`].
pub fn read(arena: &mut Arena, vector: &Vector, snap: Fd) -> Result<Tables, Refusal> {
    /// What the tables of a program with a handful of libraries take. More would be copied for nothing, to pages touched for nothing.
    const FIRST: usize = 8 * 1024;
    const OTHERS_MAY_WRITE: u32 = 0o022;
    let found = fstat(snap).map_err(|_| Refusal::Owner)?;
    let is_trusted = found.uid == 0 || found.uid as usize == vector.auxiliary(at::EUID);
    if !is_trusted || found.mode & S_IFMT != S_IFREG || found.mode & OTHERS_MAY_WRITE != 0 {
        return Err(Refusal::Owner);
    }
    let len = found.size.cast_unsigned();
    let memory = |_| Refusal::Memory;
    let start = arena.bytes(FIRST).map_err(memory)?;
    let read = pread(snap, start, 0).map_err(memory)?;
    let start = &start[..read];
    if start.len() < HEADER_LEN {
        return Err(Refusal::Malformed);
    }
    let tables = tables_len(start, len).map_err(|_| Refusal::Malformed)? as usize;
    if start.len() >= tables {
        return Tables::parse(&start[..tables], len);
    }
    Tables::read(tables, len, |room| match pread(snap, room, 0) {
        Ok(read) if read == room.len() => Ok(()),
        _ => Err(Refusal::Malformed),
    })
}
