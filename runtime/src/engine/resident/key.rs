//! Whether everything that the dynamic linker went by is as it was: it is asked anew, name by name, by the lookup that serves the guest.

use elfuse_format::checksum::checksum;
use elfuse_format::snapshot::counts::Refusal;
use elfuse_format::snapshot::{ArchivedFile, Outcome, PROGRAM, Snapshot};

use crate::engine::arena::Arena;
use crate::engine::call::{Call, FOLLOW};
use crate::engine::cpuid;
use crate::engine::launch::HANDLER_STACK;
use crate::engine::pool::Work;
use crate::engine::text::state;
use crate::engine::vector::Vector;
use crate::errno::Errno;
use crate::guest::{Address, Memory};
use crate::loader::stack::raised;
use crate::sys::abi::{
    O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, RLIMIT_STACK, S_IFDIR,
    S_IFMT, S_IFREG, at,
};
use crate::sys::host::{Fd, close, fstat, limits, openat};

/// Whether a variable may have the dynamic linker or malloc do something else.
fn speaks_to_the_linker(variable: &[u8]) -> bool {
    [&b"LD_"[..], b"GLIBC_TUNABLES=", b"MALLOC_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}

/// Whether the program is started as it was captured, as far as its caller goes.
///
/// # Errors
/// [`Refusal::Environment`], [`Refusal::Secure`].
pub fn caller(vector: &Vector) -> Result<(), Refusal> {
    if vector.environment().any(speaks_to_the_linker) {
        return Err(Refusal::Environment);
    }
    if vector.auxiliary(at::SECURE) != 0 {
        return Err(Refusal::Secure);
    }
    Ok(())
}

/// Whether machine, kernel and limits are those of the capture.
///
/// # Errors
/// [`Refusal::Boot`], [`Refusal::Auxiliary`], [`Refusal::StackLimit`], [`Refusal::Vdso`], [`Refusal::Memory`].
pub fn machine(arena: &mut Arena, snapshot: &Snapshot<'_>, vector: &Vector) -> Result<(), Refusal> {
    let head = snapshot.head();
    let is_same = |key: usize, value: u64| {
        let found = vector.auxiliary(key);
        let found = match key {
            at::MINSIGSTKSZ => raised(found, HANDLER_STACK),
            _ => found,
        };
        found as u64 == value
    };
    for word in snapshot.auxiliary {
        if !is_same(word.key.to_native() as usize, word.value.to_native()) {
            return Err(Refusal::Auxiliary);
        }
    }
    if limits(RLIMIT_STACK) != Ok(head.stack_limits) {
        return Err(Refusal::StackLimit);
    }
    if cpuid::boot_id() != Some(head.boot_id) {
        return Err(Refusal::Boot);
    }
    vdso(
        arena,
        vector.auxiliary(at::SYSINFO_EHDR),
        (head.vdso_len, head.vdso_checksum),
    )
}

fn vdso(arena: &mut Arena, at: usize, (len, sum): (u64, u64)) -> Result<(), Refusal> {
    /// More than any has.
    const MOST: u64 = 1 << 16;
    if at == 0 && len == 0 {
        return Ok(());
    }
    if at == 0 || len > MOST {
        return Err(Refusal::Vdso);
    }
    let copy = arena.bytes(len as usize).map_err(|_| Refusal::Memory)?;
    // Not through a slice: it may be shorter than what was captured.
    let read = Memory::ByKernel.read(Address(at), copy);
    match read {
        Ok(()) if checksum(copy) == sum => Ok(()),
        _ => Err(Refusal::Vdso),
    }
}

/// The files of a snapshot, open.
#[derive(Debug)]
pub struct Files {
    descriptors: &'static mut [[u8; 4]],
    program: Fd,
}

const CLOSED: [u8; 4] = (-1_i32).to_ne_bytes();

impl Files {
    /// Makes every lookup again: the files that it led to, if they are the same, and all that failed fails in the same way.
    ///
    /// # Errors
    /// [`Refusal::Program`], [`Refusal::File`], [`Refusal::Lookup`], [`Refusal::Memory`].
    pub fn open(
        arena: &mut Arena,
        call: &Call<'_>,
        snapshot: &Snapshot<'_>,
        program: Fd,
    ) -> Result<Self, Refusal> {
        let room = arena.bytes(4 * snapshot.files.len());
        let (descriptors, _) = room.map_err(|_| Refusal::Memory)?.as_chunks_mut();
        descriptors.fill(CLOSED);
        let mut files = Self {
            descriptors,
            program,
        };
        match files.look(call, snapshot) {
            Ok(()) => Ok(files),
            Err(refusal) => {
                files.close();
                Err(refusal)
            }
        }
    }

    fn look(&mut self, call: &Call<'_>, snapshot: &Snapshot<'_>) -> Result<(), Refusal> {
        let is_program = snapshot
            .files
            .first()
            .is_some_and(|file| is(file, self.program));
        if !is_program {
            return Err(Refusal::Program);
        }
        for lookup in snapshot.lookups {
            let path = snapshot.path(lookup);
            let outcome = lookup.outcome().ok_or(Refusal::Malformed)?;
            match (outcome, open(call, path, outcome)) {
                (Outcome::File(number), Ok(found)) => {
                    let file = snapshot.files.get(number as usize);
                    if !file.is_some_and(|file| is(file, found)) {
                        close(found);
                        return Err(Refusal::File);
                    }
                    self.put(number, found);
                }
                (Outcome::Directory, Ok(found)) => close(found),
                (Outcome::Other, Ok(found)) => {
                    let mode = fstat(found).map(|found| found.mode & S_IFMT);
                    close(found);
                    if mode.is_ok_and(|mode| mode == S_IFDIR) {
                        return Err(Refusal::Lookup);
                    }
                }
                (Outcome::Error(expected), Err(Errno(errno))) if u32::from(errno) == expected => {}
                (_, Ok(found)) => {
                    close(found);
                    return Err(Refusal::Lookup);
                }
                (_, Err(_)) => return Err(Refusal::Lookup),
            }
        }
        Ok(())
    }

    fn put(&mut self, number: u32, fd: Fd) {
        match self.descriptors.get_mut(number as usize) {
            Some(place) if *place == CLOSED && number != PROGRAM => *place = fd.0.to_ne_bytes(),
            _ => close(fd),
        }
    }

    /// A file by its number; `None`: no lookup led to it.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Fd> {
        if number == PROGRAM {
            return Some(self.program);
        }
        let found = self.descriptors.get(number as usize)?;
        (*found != CLOSED).then_some(Fd(i32::from_ne_bytes(*found)))
    }

    /// Closes all but the program.
    pub fn close(self) {
        for fd in self.descriptors.iter().filter(|fd| **fd != CLOSED) {
            close(Fd(i32::from_ne_bytes(*fd)));
        }
    }
}

/// Whether this is the very file, unchanged.
fn is(file: &ArchivedFile, fd: Fd) -> bool {
    let file = file.to_native();
    fstat(fd).is_ok_and(|found| {
        let (state, size) = state(&found);
        let same = (state.dev, state.ino, size) == (file.dev, file.ino, file.size);
        same && state.mtime == file.mtime
            && state.ctime == file.ctime
            && found.mode & S_IFMT == S_IFREG
    })
}

/// Opens what is at a path of the guest, as the outcome wants it.
fn open(call: &Call<'_>, path: &[u8], outcome: Outcome) -> Result<Fd, Errno> {
    let mut taken = call.area()?;
    let Work {
        told, start, area, ..
    } = taken.work();
    let at = call.locate((Fd::CWD, Address(0)), path, FOLLOW, told, start, area)?;
    // What the guest reaches by a link of procfs is nothing that could be the same again.
    let host = at.host.filter(|_| !at.magic).ok_or(Errno::ELOOP)?;
    let flags = match outcome {
        Outcome::Directory => O_PATH | O_DIRECTORY,
        Outcome::Other => O_PATH,
        // Without effect, whatever is there by now.
        Outcome::File(_) | Outcome::Error(_) => O_RDONLY | O_NONBLOCK,
    };
    openat(at.dir, host, flags | O_NOFOLLOW | O_CLOEXEC, 0)
}

#[cfg(test)]
mod tests {
    use super::speaks_to_the_linker;

    #[test]
    fn what_speaks_to_the_linker_is_told_by_its_name() {
        let does: [&[u8]; 4] = [
            b"LD_PRELOAD=x",
            b"LD_BIND_NOW=",
            b"GLIBC_TUNABLES=glibc.rtld.nns=2",
            b"MALLOC_ARENA_MAX=1",
        ];
        assert!(does.iter().all(|variable| speaks_to_the_linker(variable)));
        let does_not: [&[u8]; 4] = [b"LDFLAGS=x", b"OLD_PATH=LD_", b"GLIBC=1", b""];
        assert!(
            !does_not
                .iter()
                .any(|variable| speaks_to_the_linker(variable))
        );
    }
}
