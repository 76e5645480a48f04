//! One trapped call, and how its paths become host paths.
//!
//! # Safety
//! [`Call::host`] makes the guest's own call for it: whatever pointers of the guest's are among the arguments are checked by the kernel,
//! as they would have been without us. Pointers of ours among them are to NUL-terminated paths in a work area that is held until the
//! call returns.
#![allow(unsafe_code)]

use core::ffi::CStr;

use super::pool::{Taken, Text, Work};
use super::process::Process;
use crate::errno::Errno;
use crate::guest::{Address, Memory};
use crate::sys::abi::{AT_SYMLINK_NOFOLLOW, SignalSet};
use crate::sys::host::{Fd, fstat, getcwd, readlinkat};
use crate::sys::raw::{Args, Nr, Raw, call};
use crate::vfs::path::{AT_ROOM, Area, PathBuf};
use crate::vfs::{Base, Found, Location, Start, Want};

/// A call of the guest.
#[derive(Debug)]
pub struct Call<'c> {
    /// Its number.
    pub nr: Nr,
    /// Its arguments.
    pub args: Args,
    /// The guest's signal mask: what it will be when the handler returns.
    pub mask: &'c mut SignalSet,
    /// How guest memory is reached.
    pub memory: Memory,
    /// The process.
    pub process: &'static Process,
}

/// Where a path of the guest's lies on the host, ready for one call.
#[derive(Debug, Clone, Copy)]
pub struct At<'w> {
    /// The directory that the path is relative to.
    pub dir: Fd,
    /// Address of the path, NUL-terminated: ours, or the guest's own where the call is made as it was given.
    pub path: usize,
    /// The host is to follow the last component: a magic link of procfs.
    pub magic: bool,
    /// Canonical guest path; `None`: the directory it starts from has no name the guest could use (it was deleted).
    pub guest: Option<&'w [u8]>,
    /// Where that is.
    pub base: Base,
    /// The host path, where it is ours.
    pub host: Option<&'w CStr>,
}

impl At<'_> {
    /// The directory as an argument.
    #[must_use]
    pub fn dir(&self) -> usize {
        self.dir.0 as isize as usize
    }

    /// `AT_SYMLINK_NOFOLLOW` unless the host has to follow.
    #[must_use]
    pub fn no_follow(&self) -> usize {
        if self.magic { 0 } else { AT_SYMLINK_NOFOLLOW }
    }
}

/// What a path ends in, which some calls refuse before they look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// A name.
    Name,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// Nothing: the path is slashes only.
    Root,
}

/// What the last component of a path is; `..` and `.` count with slashes behind them too.
#[must_use]
pub fn last_of(path: &[u8]) -> Last {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    match &path[start..end] {
        b"" => Last::Root,
        b"." => Last::Dot,
        b".." => Last::DotDot,
        _ => Last::Name,
    }
}

impl Call<'_> {
    /// An argument as a descriptor: the kernel looks at the lower half only.
    #[must_use]
    pub fn fd(&self, number: usize) -> Fd {
        Fd(self.args[number] as i32)
    }

    /// An argument as an address.
    #[must_use]
    pub fn address(&self, number: usize) -> Address {
        Address(self.args[number])
    }

    /// An argument that is an `int` of flags.
    #[must_use]
    pub fn flags(&self, number: usize) -> usize {
        self.args[number] & 0xffff_ffff
    }

    /// Makes a call of the host's.
    #[must_use]
    pub fn host(&self, nr: Nr, args: Args) -> Raw {
        // SAFETY: see the top.
        unsafe { call(nr, args) }
    }

    /// Makes the guest's call as it stands.
    #[must_use]
    pub fn as_given(&self) -> Raw {
        self.host(self.nr, self.args)
    }

    /// A work area.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn area(&self) -> Result<Taken<'static>, Errno> {
        self.process.pool.take()
    }

    /// Reads the path at `from` and makes `then` with where it lies, relative to `dir`.
    pub fn at(
        &self,
        dir: Fd,
        from: Address,
        want: Want,
        then: impl FnOnce(&Self, &At<'_>) -> Raw,
    ) -> Raw {
        let run = || {
            let mut taken = self.area()?;
            let Work { first, told, start, area, .. } = taken.work();
            let path = self.memory.read_string(from, first)?;
            let at = self.locate(dir, from, path, want, told, start, area)?;
            Ok(then(self, &at))
        };
        run().unwrap_or_else(|errno: Errno| errno.into())
    }

    /// Where `path` lies, which the guest has at `given`. `told` and `start` are room to work in.
    ///
    /// # Errors
    /// What the call is to return.
    pub fn locate<'w>(
        &self,
        dir: Fd,
        given: Address,
        path: &[u8],
        want: Want,
        told: &mut Text,
        start: &mut PathBuf<AT_ROOM>,
        area: &'w mut Area,
    ) -> Result<At<'w>, Errno> {
        let as_given = At {
            dir,
            path: given.0,
            magic: want.follow_last,
            guest: None,
            base: Base::Host,
            host: None,
        };
        let from: &[u8] = if path.starts_with(b"/") {
            b"/"
        } else if path.is_empty() {
            return Err(Errno::ENOENT);
        } else {
            match self.directory(dir, told, start)? {
                Some(from) => from,
                None => return Ok(as_given),
            }
        };
        let found = self.process.vfs.resolve(self.process, area, Start::Guest(from), path, want);
        match found {
            Found::Host { location, guest, .. } => self.place(location, guest, false),
            Found::Magic { location, guest, .. } => self.place(location, guest, true),
            Found::Definite(errno) => Err(errno),
        }
    }

    fn place<'w>(
        &self,
        location: Location<'w>,
        guest: &'w [u8],
        magic: bool,
    ) -> Result<At<'w>, Errno> {
        let path = CStr::from_bytes_with_nul(location.path).map_err(|_| Errno::EINVAL)?;
        let dir = match location.base {
            Base::Sysroot => self.process.sysroot()?,
            Base::Host => Fd::CWD,
        };
        Ok(At {
            dir,
            path: path.as_ptr().addr(),
            magic,
            guest: Some(guest),
            base: location.base,
            host: Some(path),
        })
    }

    /// Guest path of a directory that the guest has open; `None`: it has none.
    ///
    /// # Errors
    /// EBADF, ENOTDIR.
    pub fn directory<'b>(
        &self,
        dir: Fd,
        told: &mut Text,
        into: &'b mut PathBuf<AT_ROOM>,
    ) -> Result<Option<&'b [u8]>, Errno> {
        const DELETED: &[u8] = b" (deleted)";
        let told = if dir == Fd::CWD {
            match getcwd(told) {
                Ok(path) => path,
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        } else {
            let mut text = [0; 32];
            let link = fd_link(dir, &mut text).ok_or(Errno::EBADF)?;
            match readlinkat(Fd::CWD, link, told) {
                Ok(len) => &told[..len],
                Err(Errno::ENOENT) => return Err(Errno::EBADF),
                Err(errno) => return Err(errno),
            }
        };
        if !told.starts_with(b"/") {
            // Of a descriptor: a pipe or the like. Of the working directory: one that cannot be reached from the host's root.
            return if dir == Fd::CWD { Ok(None) } else { Err(Errno::ENOTDIR) };
        }
        // A directory may also be called so; one that was deleted has no link left.
        if dir != Fd::CWD && told.ends_with(DELETED) && fstat(dir).is_ok_and(|dir| dir.nlink == 0) {
            return Ok(None);
        }
        match self.process.vfs.mounts().to_guest(told, into) {
            Ok(()) => Ok(Some(into.as_bytes())),
            Err(_) => Ok(None),
        }
    }
}

/// `/proc/self/fd/N` of a descriptor.
#[must_use]
pub fn fd_link(fd: Fd, into: &mut [u8; 32]) -> Option<&CStr> {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let mut number = u32::try_from(fd.0).ok()?;
    into[..PREFIX.len()].copy_from_slice(PREFIX);
    let mut digits = [0_u8; 10];
    let mut count = 0;
    loop {
        digits[count] = b'0' + (number % 10) as u8;
        count += 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    for (to, digit) in into[PREFIX.len()..].iter_mut().zip(digits[..count].iter().rev()) {
        *to = *digit;
    }
    let end = PREFIX.len() + count;
    into[end] = 0;
    CStr::from_bytes_with_nul(&into[..=end]).ok()
}

#[cfg(test)]
mod tests {
    use super::{Fd, Last, fd_link, last_of};

    #[test]
    fn the_last_component_is_known_whatever_slashes_follow_it() {
        for (path, last) in [
            (&b"a"[..], Last::Name),
            (b"a/b//", Last::Name),
            (b"a/.", Last::Dot),
            (b"./", Last::Dot),
            (b"a/..//", Last::DotDot),
            (b"a/...", Last::Name),
            (b"/", Last::Root),
            (b"///", Last::Root),
        ] {
            assert_eq!(last_of(path), last, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn a_descriptor_has_a_link_and_a_negative_number_has_none() {
        let mut text = [0; 32];
        assert_eq!(fd_link(Fd(0), &mut text), Some(c"/proc/self/fd/0"));
        assert_eq!(fd_link(Fd(i32::MAX), &mut text), Some(c"/proc/self/fd/2147483647"));
        assert_eq!(fd_link(Fd(-1), &mut text), None);
    }
}
