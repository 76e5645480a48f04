//! One call of the guest's, and how its paths become host paths.
//!
//! # Safety
//! [`Call::host`] makes the guest's own call for it: whatever pointers of the guest's are among the arguments are checked by the kernel,
//! as they would have been without us. Pointers of ours among them are to NUL-terminated paths in a work area that is held until the
//! call returns.
#![allow(unsafe_code)]

use core::ffi::CStr;

use super::magic;
use super::pool::{Taken, Taker, Text, Work};
use super::process::Process;
use super::stand_ins::stand_in_of;
use super::way::Way;
use crate::errno::Errno;
use crate::guest::{Address, Memory};
use crate::sys::abi::{AT_SYMLINK_NOFOLLOW, PATH_MAX, S_IFDIR, S_IFMT, SignalSet};
use crate::sys::host::{Fd, fstat, getcwd, lstatat, readlinkat};
use crate::sys::nr;
use crate::sys::raw::{Args, Nr, Raw, call};
use crate::vfs::mounts::MountId;
use crate::vfs::path::{AT_ROOM, Area, PathBuf};
use crate::vfs::{Base, Found, Kind, Last, LastComponent, MAX_SYMLINKS, Place, Start, Want};

/// A call of the guest.
#[derive(Debug)]
pub struct Call<'c> {
    /// Its number.
    pub nr: Nr,
    /// Its arguments.
    pub args: Args,
    /// How it came, and where its signal mask is.
    pub way: Way<'c>,
    /// How guest memory is reached.
    pub memory: Memory,
    /// The process.
    pub process: &'static Process,
    /// What it has taken of the work areas.
    pub taker: Taker,
}

/// Where the guest has a path, and the directory that this is relative to.
pub type Named = (Fd, Address);

/// Where a path of the guest's lies on the host, ready for one call.
#[derive(Debug, Clone, Copy)]
pub struct At<'w> {
    /// The directory that the path is relative to.
    pub dir: Fd,
    /// Address of the path, NUL-terminated: ours, or the guest's own where the call is made as it was given.
    pub path: usize,
    /// The host is to follow the last component: a magic link of procfs.
    pub magic: bool,
    /// It is a magic link of procfs, followed or not.
    pub is_magic_link: bool,
    /// Canonical guest path; `None`: the directory it starts from has no name the guest could use (it was deleted).
    pub guest: Option<&'w [u8]>,
    /// Where that is.
    pub base: Base,
    /// The host path, where it is ours.
    pub host: Option<&'w CStr>,
    /// The mount it lies in, and whether that begins just there.
    pub mount: Option<MountId>,
    /// See [`At::mount`].
    pub is_mount_point: bool,
    /// Address of the guest's own path if it is relative; else 0.
    pub given: usize,
    /// The path is slashes only.
    pub is_root: bool,
    /// The symlink's text, where that was asked for and the index answered.
    pub text: Option<&'w [u8]>,
    /// What is there, if the index says so.
    pub kind: Option<Kind>,
}

impl At<'_> {
    /// Nothing is known.
    pub(super) const NOWHERE: Self = Self {
        dir: Fd::CWD,
        path: 0,
        magic: false,
        is_magic_link: false,
        guest: None,
        base: Base::Host,
        host: None,
        mount: None,
        is_mount_point: false,
        given: 0,
        is_root: false,
        text: None,
        kind: None,
    };

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

/// As [`Last::Follow`], without more.
pub const FOLLOW: Want = Want::new(Last::Follow);
/// As [`Last::NoFollow`], without more.
pub const NO_FOLLOW: Want = Want::new(Last::NoFollow);
/// As [`Last::Parent`], without more.
pub const PARENT: Want = Want::new(Last::Parent);

impl Call<'_> {
    /// One of the runtime's own, for what it looks up before the guest runs. `mask` is for the program that it starts.
    #[must_use]
    pub fn own(process: &'static Process, mask: SignalSet) -> Self {
        Self {
            nr: nr::EXECVE,
            args: [0; 6],
            way: Way::Own(mask),
            memory: Memory::Direct,
            process,
            taker: Taker::at_start(),
        }
    }

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

    /// Has the guest's call made with its own stack and registers: where it stands, or once the trap is over by what stands in for that place.
    #[must_use]
    pub fn in_place(&mut self) -> Raw {
        match &mut self.way {
            Way::Patched(frame) => frame.in_place(self.nr),
            Way::Trap(context) => match stand_in_of(context.context.rip) {
                Some(stand_in) => {
                    context.context.rip = stand_in;
                    Raw(self.nr.0 as isize)
                }
                // As of a kernel that does not know the call.
                None => Errno::ENOSYS.into(),
            },
            Way::Own(_) => Errno::ENOSYS.into(),
        }
    }

    /// A work area.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn area(&self) -> Result<Taken<'static>, Errno> {
        self.process.pool.take(&self.taker)
    }

    /// Reads the path at `from` and makes `then` with where it lies, relative to `dir`.
    #[inline(always)]
    pub fn at(
        &self,
        dir: Fd,
        from: Address,
        want: Want,
        then: impl Fn(&Self, &At<'_>) -> Raw,
    ) -> Raw {
        match self.quick(from, want, &then) {
            Some(result) => result,
            None => self.at_length(dir, from, want, then),
        }
    }

    #[cold]
    #[inline(never)]
    fn at_length(
        &self,
        dir: Fd,
        from: Address,
        want: Want,
        then: impl Fn(&Self, &At<'_>) -> Raw,
    ) -> Raw {
        let run = || {
            let mut taken = self.area()?;
            let Work {
                first,
                told,
                start,
                area,
                ..
            } = taken.work();
            let path = self.memory.read_string(from, first)?;
            let at = self.locate((dir, from), path, want, told, start, area)?;
            Ok(then(self, &at))
        };
        run().unwrap_or_else(|errno: Errno| errno.into())
    }

    /// Where `path` lies, which the guest has at `given` and means relative to `dir`. `told` and `start` are room to work in.
    ///
    /// # Errors
    /// What the call is to return.
    pub fn locate<'w>(
        &self,
        (dir, given): Named,
        path: &[u8],
        want: Want,
        told: &mut Text,
        start: &mut PathBuf<AT_ROOM>,
        area: &'w mut Area,
    ) -> Result<At<'w>, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let as_given = At {
            dir,
            path: given.0,
            magic: want.last == Last::Follow,
            ..At::NOWHERE
        };
        let is_relative = !path.starts_with(b"/");
        if is_relative || want.beneath || want.in_root {
            if !self.directory(dir, told, start)? {
                return Ok(as_given);
            }
        } else {
            start.set(b"/")?;
        }
        // Not where the guest limits how a path may lead (openat2(2)): on the host nothing would hold it to that.
        let is_limited = want != Want::new(want.last);
        let falls_back = self.process.run.host_fallback && want.last != Last::Parent && !is_limited;
        // SAFETY: what the walk finds borrows the area; it is not looked at any more once the fallback has taken the area over.
        let again = unsafe { &mut *core::ptr::from_mut(area) };
        let walked = self.walk(path, want, told, start, area);
        if falls_back
            && is_absent(&walked)
            && let Some(at) = on_host(path, want, start.as_bytes(), again)
        {
            return Ok(at);
        }
        let mut at = walked?;
        if is_relative {
            at.given = given.0;
        }
        let is_too_long = |host: &CStr| host.count_bytes() >= PATH_MAX;
        if is_relative && at.host.is_some_and(is_too_long) {
            // From where it starts the path is short enough.
            return Ok(as_given);
        }
        Ok(at)
    }

    /// Resolves, going on behind magic links that are not at the end.
    fn walk<'w>(
        &self,
        path: &[u8],
        want: Want,
        told: &mut Text,
        start: &mut PathBuf<AT_ROOM>,
        area: &'w mut Area,
    ) -> Result<At<'w>, Errno> {
        let mut beyond = 0;
        for turn in 0..MAX_SYMLINKS {
            let from = Start::Guest(start.as_bytes());
            let path = if turn == 0 { path } else { &told[..beyond] };
            // SAFETY: what is found borrows the area for the rest of this turn, or, in the turn that returns it, for 'w.
            let area = unsafe { &mut *core::ptr::from_mut(area) };
            match self
                .process
                .vfs
                .resolve(self.process, area, from, path, want)
            {
                Found::Host(place) => return self.place(&place, false),
                Found::Synthetic(place) => return self.synthetic(&place, want),
                Found::Definite(errno) => return Err(errno),
                Found::Text(text) => {
                    return Ok(At {
                        text: Some(text),
                        ..At::NOWHERE
                    });
                }
                Found::Reserved { .. } => return Err(Errno::EPERM),
                Found::Magic { place, text, rest } => {
                    if rest.is_empty() && !magic::is_ours(&place, text) {
                        return self.place(&place, true);
                    }
                    magic::target(self, &place, text, start)?;
                    let target = start.as_bytes();
                    beyond = target.len() + rest.len();
                    let room = told.get_mut(..beyond).ok_or(Errno::ENAMETOOLONG)?;
                    room[..target.len()].copy_from_slice(target);
                    room[target.len()..].copy_from_slice(rest);
                }
            }
        }
        Err(Errno::ELOOP)
    }

    /// A directory that is there for a mount's sake only: it can be looked at, and not be changed.
    fn synthetic<'w>(&self, place: &Place<'w>, want: Want) -> Result<At<'w>, Errno> {
        match want.last {
            Last::Parent => Err(Errno::EEXIST),
            _ => self.place(place, false),
        }
    }

    /// The mount that a name lies in: where a mount begins, the one that it covers.
    fn mount_of(&self, place: &Place<'_>, is_mount_point: bool) -> Option<MountId> {
        let mut guest = place.guest;
        if is_mount_point {
            let slash = guest.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            guest = &guest[..slash.max(1)];
        }
        self.process.vfs.mounts().over(guest)
    }

    /// Whether two places lie in one mount, so that a name can move from one to the other. Of a working directory or descriptor in a
    /// directory that is mounted twice it is not known through which mount it was reached: then both will do.
    #[must_use]
    pub fn same_mount(&self, one: &At<'_>, other: &At<'_>) -> bool {
        let mounts = self.process.vfs.mounts();
        let host = |at: &At<'_>| at.mount.map(|id| mounts.row(id).host);
        let is_relative = one.given != 0 || other.given != 0;
        one.mount == other.mount || is_relative && host(one) == host(other)
    }

    fn place<'w>(&self, place: &Place<'w>, magic: bool) -> Result<At<'w>, Errno> {
        let is_mount_point = place.is_mount_point && place.last == LastComponent::Normal;
        let path = CStr::from_bytes_with_nul(place.location.path).map_err(|_| Errno::EINVAL)?;
        let dir = match place.location.base {
            Base::Sysroot => self.process.sysroot()?,
            Base::Host => Fd::CWD,
        };
        Ok(At {
            dir,
            path: path.as_ptr().expose_provenance(),
            magic,
            is_magic_link: place.is_magic,
            guest: Some(place.guest),
            base: place.location.base,
            host: Some(path),
            mount: self.mount_of(place, is_mount_point),
            is_mount_point,
            is_root: place.last == LastComponent::Root,
            given: 0,
            text: None,
            kind: place.kind,
        })
    }

    /// Writes the guest path of a directory that the guest has open to `into`; false: it has none.
    ///
    /// # Errors
    /// EBADF, ENOTDIR.
    pub fn directory(
        &self,
        dir: Fd,
        told: &mut Text,
        into: &mut PathBuf<AT_ROOM>,
    ) -> Result<bool, Errno> {
        let told = if dir == Fd::CWD {
            match getcwd(told) {
                Ok(path) => path,
                // Deleted, or deeper than a path may be: the kernel alone knows the way from there.
                Err(Errno::ENOENT | Errno::ENAMETOOLONG) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        } else {
            let found = fstat(dir)?;
            if found.mode & S_IFMT != S_IFDIR {
                return Err(Errno::ENOTDIR);
            }
            if found.nlink == 0 {
                return Ok(false);
            }
            let mut text = [0; 32];
            let link = fd_link(dir, &mut text).ok_or(Errno::EBADF)?;
            match readlinkat(Fd::CWD, link, told) {
                Ok(len) => &told[..len],
                Err(Errno::ENOENT) => return Err(Errno::EBADF),
                Err(Errno::ENAMETOOLONG) => return Ok(false),
                Err(errno) => return Err(errno),
            }
        };
        if !told.starts_with(b"/") {
            // Of a descriptor: a pipe or the like. Of the working directory: one that cannot be reached from the host's root.
            return if dir == Fd::CWD {
                Ok(false)
            } else {
                Err(Errno::ENOTDIR)
            };
        }
        Ok(self.process.vfs.mounts().to_guest(told, into).is_ok())
    }
}

/// Whether there is nothing in the sysroot where a path leads.
fn is_absent(walked: &Result<At<'_>, Errno>) -> bool {
    match walked {
        Err(errno) => *errno == Errno::ENOENT,
        Ok(at) => {
            let host = at.host.filter(|_| at.base == Base::Sysroot);
            host.is_some_and(|host| lstatat(at.dir, host).err() == Some(Errno::ENOENT))
        }
    }
}

/// `--host-fallback`: the same path on the host, if something is there.
fn on_host<'w>(path: &[u8], want: Want, start: &[u8], area: &'w mut Area) -> Option<At<'w>> {
    let kept = match path {
        [b'/', ..] => area.keep(&[path]),
        _ => area.keep(&[start, b"/", path]),
    };
    let host = CStr::from_bytes_with_nul(kept.ok()?).ok()?;
    lstatat(Fd::CWD, host).ok()?;
    Some(At {
        path: host.as_ptr().expose_provenance(),
        magic: matches!(want.last, Last::Follow | Last::Create),
        guest: Some(host.to_bytes()),
        host: Some(host),
        ..At::NOWHERE
    })
}

/// `/proc/thread-self/fd/N` of a descriptor.
#[must_use]
pub fn fd_link(fd: Fd, into: &mut [u8; 32]) -> Option<&CStr> {
    // Of the thread: of a process whose first thread has ended, /proc/self shows no descriptors.
    const PREFIX: &[u8] = b"/proc/thread-self/fd/";
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
    for (to, digit) in into[PREFIX.len()..]
        .iter_mut()
        .zip(digits[..count].iter().rev())
    {
        *to = *digit;
    }
    let end = PREFIX.len() + count;
    into[end] = 0;
    CStr::from_bytes_with_nul(&into[..=end]).ok()
}

#[cfg(test)]
mod tests {
    use super::{Fd, fd_link};

    #[test]
    fn a_descriptor_has_a_link_and_a_negative_number_has_none() {
        let mut text = [0; 32];
        assert_eq!(fd_link(Fd(0), &mut text), Some(c"/proc/thread-self/fd/0"));
        assert_eq!(
            fd_link(Fd(i32::MAX), &mut text),
            Some(c"/proc/thread-self/fd/2147483647")
        );
        assert_eq!(fd_link(Fd(-1), &mut text), None);
    }
}
