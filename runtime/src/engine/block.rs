//! The block of a patched copy: data and code of its stubs, mapped at the low address that they were linked for, and filled in.
//!
//! A block can be mapped once in a process. Whoever comes second, by dlmopen(3) or after dlclose(3), finds the place taken and gets the
//! original; so does a library whose block lies where a program without relocation is.
//!
//! # Safety
//! A block is mapped only where nothing is, and never taken away once the copy's text is mapped: its code may run from then on. Before that
//! nobody else knows of it, so its data may be written through a slice. What is written are addresses of the runtime's entries
//! and of the mapped text, at places that were checked against the layout. The copy's file is known by its identity; one that is cut while it is mapped
//! faults as a library would.
#![allow(unsafe_code)]

use core::ffi::CStr;

use elfuse_format::text::{ArchivedTextCopy, Layout, TEXT_DIR, copy_flags, copy_name, word};

use super::pool::Text as Room;
use super::text::{Code, Copy, Pages, state};
use super::{cpuid, descriptors, patched, store};
use crate::errno::Errno;
use crate::sys::abi::{
    O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, PROT_EXEC, PROT_READ, PROT_WRITE,
};
use crate::sys::host::{Fd, close, fstat, openat, pread};
use crate::sys::memory::{Place, map, unmap};

/// A block that is mapped, of a copy that is open and whose text is not mapped yet.
#[derive(Debug)]
pub struct Block {
    /// The copy.
    pub file: Fd,
    layout: Layout,
    pages: Pages,
    copy: Copy<'static>,
}

/// Opens the copy of a row, if it is the very file that the row was made from.
fn open(code: &Code, row: &ArchivedTextCopy, room: &mut Room) -> Result<Fd, Errno> {
    const NAME: usize = TEXT_DIR.len() + 1;
    let mut name = [b'/'; NAME + 64];
    name[..TEXT_DIR.len()].copy_from_slice(TEXT_DIR.as_bytes());
    name[NAME..].copy_from_slice(&copy_name(&row.content_hash));
    let flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    let mut short = [0; NAME + 64 + 64];
    let path: &CStr = match store::joined(code.store, &name, &mut short) {
        Ok(path) => path,
        Err(_) => store::joined(code.store, &name, room)?,
    };
    let file = openat(Fd::CWD, path, flags, 0)?;
    let is_copy = fstat(file).is_ok_and(|found| {
        let (state, size) = state(&found);
        code.texts.is_copy(row, &state, size)
    });
    if !is_copy {
        close(file);
        return Err(Errno::ESTALE);
    }
    Ok(file)
}

fn map_block(file: Fd, layout: &Layout) -> Result<(), Errno> {
    let (data, code) = (layout.data() as usize, layout.code() as usize);
    let (data_len, code_len) = (layout.data_len() as usize, layout.code_len() as usize);
    let from = Some((file, layout.annex()));
    // SAFETY: only a free range is taken.
    unsafe { map(Place::Free(data), data_len, PROT_READ | PROT_WRITE, from) }?;
    let from = Some((file, layout.annex() + layout.data_len()));
    // SAFETY: as before.
    let mapped = unsafe { map(Place::Free(code), code_len, PROT_READ | PROT_EXEC, from) };
    if mapped.is_err() {
        // SAFETY: mapped a moment ago and known to nobody.
        unsafe { unmap(data, data_len) };
    }
    mapped.map(drop)
}

impl Block {
    /// Opens a copy and maps its block. `room` is for its path.
    ///
    /// # Errors
    /// EEXIST: something lies there. ESTALE: another file than the index means. Those of open(2) and mmap(2). In any case the original
    /// is to be mapped.
    pub fn reserve(code: &Code, copy: Copy<'static>, room: &mut Room) -> Result<Self, Errno> {
        let pages = Pages::of(&copy.segment).ok_or(Errno::EINVAL)?;
        let file = open(code, copy.row, room)?;
        if let Err(errno) = map_block(file, &copy.layout) {
            close(file);
            return Err(errno);
        }
        Ok(Self {
            file,
            layout: copy.layout,
            pages,
            copy,
        })
    }

    /// Whether calls of CPUID are answered through this block.
    #[must_use]
    pub fn asks_cpuid(&self) -> bool {
        self.copy.row.flags.to_native() & copy_flags::CPUID != 0
    }

    /// Takes the block away again: the copy's text was not mapped.
    pub fn give_up(self) {
        close(self.file);
        let len = self.layout.data_len() + self.layout.code_len();
        // SAFETY: mapped by `reserve`, and nothing leads there.
        unsafe { unmap(self.layout.data() as usize, len as usize) };
    }

    /// Fills in what the stubs go by, now that the copy's text lies at `at`: the address of the first page of its segment. False: the copy is
    /// not what it should be, and `original` has been mapped over it with this protection.
    #[must_use]
    pub fn finish(self, at: usize, original: Fd, protection: usize) -> bool {
        let bias = (at as u64).wrapping_sub(self.pages.vaddr);
        let filled = self.fill(bias).is_ok();
        if !filled {
            let from = Some((original, self.pages.offset));
            // SAFETY: the mapping of the copy's text, made a moment ago, where nothing of Rust's is and nothing runs yet.
            let back = unsafe {
                map(
                    Place::Replace(at),
                    self.pages.len as usize,
                    protection,
                    from,
                )
            };
            debug_assert!(back.is_ok());
            self.give_up();
            return false;
        }
        close(self.file);
        true
    }

    fn fill(&self, bias: u64) -> Result<(), Errno> {
        let (layout, len) = (&self.layout, self.layout.data_len() as usize);
        let start = core::ptr::with_exposed_provenance_mut::<u8>(layout.data() as usize);
        // SAFETY: mapped by `reserve`, readable and writable, page-aligned; nobody else knows of it.
        let data = unsafe { core::slice::from_raw_parts_mut(start, len) };
        // Read by the kernel, which makes the pages this process's own; a file that has been cut is an error instead of a fault.
        if pread(self.file, data, layout.annex())? != len {
            return Err(Errno::EIO);
        }
        if !layout.accepts(data, &self.copy.segment) {
            return Err(Errno::EINVAL);
        }
        let (words, _) = data.as_chunks_mut::<8>();
        let heads = [
            (word::ENTRY, patched::entry_address() as u64),
            (word::FLAG, patched::flag_address() as u64),
            (word::CPUID, cpuid::entry_address() as u64),
            (word::BASE, bias),
            (word::KNOWN, descriptors::known_address() as u64),
        ];
        for (word, value) in heads {
            words[word as usize] = value.to_le_bytes();
        }
        let backs = word::SLOTS as usize + layout.slots() as usize;
        for word in &mut words[backs..][..layout.slots() as usize] {
            *word = u64::from_le_bytes(*word).wrapping_add(bias).to_le_bytes();
        }
        Ok(())
    }
}
