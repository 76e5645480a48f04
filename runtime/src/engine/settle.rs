//! Settles where everything of a command line is: sysroot, store, mounts, working directory.
//!
//! Each path is resolved once. A path that is canonical as it stands, as nearly all are, takes one openat2(2) that refuses symlinks.

mod mounts;

use core::ffi::CStr;

use elfuse_format::names;

use self::mounts::{all_mounts, default_mounts, listed};
use super::arena::Arena;
use super::call::Call;
use super::calls::directories;
use super::pool::{Pool, Taken, Taker};
use super::process::{Process, keep_high};
use super::start::{self, fail, set_up};
use super::store;
use super::tell;
use super::vector::Vector;
use crate::errno::Errno;
use crate::options::inherited::MountList;
use crate::options::{Inherited, RunOptions, Stats};
use crate::sys::abi::{
    O_CLOEXEC, O_DIRECTORY, O_PATH, OpenHow, RESOLVE_NO_SYMLINKS, S_IFDIR, S_IFMT, SignalSet, Stat,
};
use crate::sys::host::{Fd, close, fstat, getcwd, getpid, openat, openat2, readlinkat};
use crate::text::Shown;
use crate::trace::TraceBits;
use crate::vfs::mounts::is_canonical;
use crate::vfs::{Found, Last, Start, Vfs, Want};

/// What is needed while a run is being settled.
#[derive(Debug)]
pub struct Setting<'v> {
    arena: Arena,
    pid: u32,
    pool: &'static Pool,
    vector: &'v Vector,
    options: &'v RunOptions<'static>,
}

/// Ends the process because of an option.
#[cold]
fn refuse(option: &str, given: &[u8], errno: Errno) -> ! {
    fail(format_args!("{option} {}: {}", Shown(given), errno.text()))
}

/// Opens, as a place only, what is at a path that is canonical as it stands.
///
/// # Errors
/// It is not, or is not to be opened like this. ENOENT: there is nothing, and no symlink on the way.
fn plain(dir: Fd, path: &CStr, flags: usize) -> Result<Fd, Errno> {
    let how = OpenHow {
        flags: (O_PATH | O_CLOEXEC | flags) as u64,
        mode: 0,
        resolve: RESOLVE_NO_SYMLINKS,
    };
    openat2(dir, path, &how)
}

/// The same of a directory at an absolute path.
fn plain_directory(path: &CStr) -> Option<Fd> {
    is_canonical(path.to_bytes())
        .then(|| plain(Fd::CWD, path, O_DIRECTORY).ok())
        .flatten()
}

fn is_directory(found: &Stat) -> bool {
    found.mode & S_IFMT == S_IFDIR
}

impl<'v> Setting<'v> {
    /// Nothing is settled so far.
    #[must_use]
    pub fn new(vector: &'v Vector, options: &'v RunOptions<'static>) -> Self {
        let pid = getpid();
        let (arena, pool) = start::own_memory(pid);
        Self {
            arena,
            pid,
            pool,
            vector,
            options,
        }
    }

    /// The memory that what was settled is kept in.
    #[must_use]
    pub fn into_arena(self) -> Arena {
        self.arena
    }

    fn work(&self) -> Result<Taken<'static>, Errno> {
        self.pool.take(&Taker::at_start())
    }

    fn string(&mut self, text: &[u8]) -> Result<&'static CStr, Errno> {
        self.arena.string(text)
    }

    /// Canonical host path of what is at `path`, and whether it is a directory.
    fn real(&mut self, path: &[u8]) -> Result<(&'static [u8], bool), Errno> {
        let path = self.string(path)?;
        if let Some(fd) = plain_directory(path) {
            close(fd);
            return Ok((path.to_bytes(), true));
        }
        let fd = openat(Fd::CWD, path, O_PATH | O_CLOEXEC, 0)?;
        let found = fstat(fd);
        let told = self.path_of(fd);
        close(fd);
        Ok((told?, is_directory(&found?)))
    }

    /// Where a descriptor leads to.
    fn path_of(&mut self, fd: Fd) -> Result<&'static [u8], Errno> {
        let mut link = [0; 32];
        let link = super::call::fd_link(fd, &mut link).ok_or(Errno::EBADF)?;
        let path = self.arena.path(|room| readlinkat(Fd::CWD, link, room))?;
        Ok(path.to_bytes())
    }

    /// Canonical guest path of `path`, and whether something is there.
    fn guest(
        &mut self,
        process: &'static Process,
        path: &[u8],
    ) -> Result<(&'static [u8], bool), Errno> {
        let mut taken = self.work()?;
        let area = &mut taken.work().area;
        let want = Want::new(Last::Create);
        let vfs = Vfs::new(process.vfs.mounts());
        let (guest, exists) = match vfs.resolve(process, area, Start::Guest(b"/"), path, want) {
            Found::Host(place) | Found::Synthetic(place) => {
                let exists = crate::vfs::Host::stat(process, place.location).is_ok();
                (place.guest, exists)
            }
            Found::Definite(errno) => return Err(errno),
            _ => return Err(Errno::EINVAL),
        };
        Ok((self.arena.string(guest)?.to_bytes(), exists))
    }

    /// Opens the sysroot: its canonical path, its descriptor, and what the host says of it.
    fn sysroot(&mut self) -> (&'static [u8], Fd, Stat) {
        let given = self.options.sysroot;
        let mut opened = || {
            let path = self.string(given)?;
            if let Some(fd) = plain_directory(path) {
                return Ok((path.to_bytes(), fd));
            }
            let (path, is_directory) = self.real(given)?;
            if !is_directory {
                fail(format_args!("--sysroot {}: not a directory", Shown(given)));
            }
            let flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
            Ok((path, openat(Fd::CWD, self.string(path)?, flags, 0)?))
        };
        let (path, fd) = opened().unwrap_or_else(|errno| refuse("--sysroot", given, errno));
        let found = fstat(fd).unwrap_or_else(|errno| refuse("--sysroot", given, errno));
        (path, fd, found)
    }

    /// The store, if it is not in the sysroot.
    fn index_dir(&mut self, sysroot: &[u8]) -> Option<&'static [u8]> {
        let Some(given) = self.options.index_dir else {
            return self.outside(sysroot);
        };
        match self.real(given) {
            Ok((dir, true)) => Some(dir),
            Ok((_, false)) => fail(format_args!(
                "--index-dir {}: not a directory",
                Shown(given)
            )),
            Err(errno) => refuse("--index-dir", given, errno),
        }
    }

    /// Where `elfuse-index` puts the store of a sysroot that it may not write to, if there is one there and none in the sysroot:
    /// `$XDG_CACHE_HOME/elfuse/NAME-HASH`.
    fn outside(&mut self, sysroot: &[u8]) -> Option<&'static [u8]> {
        let mut taken = self.work().ok()?;
        let path = taken.work().area.room();
        path.set(sysroot)
            .and_then(|()| path.push(names::STORE))
            .ok()?;
        if store::is_there(CStr::from_bytes_with_nul(path.with_nul()).ok()?) {
            return None;
        }
        match self
            .vector
            .variable(b"XDG_CACHE_HOME=")
            .filter(|dir| dir.starts_with(b"/"))
        {
            Some(dir) => path.set(dir).ok()?,
            None => path
                .set(self.vector.variable(b"HOME=")?)
                .and_then(|()| path.push(b".cache"))
                .ok()?,
        }
        path.push(b"elfuse").ok()?;
        let name = sysroot
            .rsplit(|byte| *byte == b'/')
            .next()
            .filter(|name| !name.is_empty());
        path.push(name.unwrap_or(b"root")).ok()?;
        let mut hash = super::say::Line::new();
        hash.put(format_args!("-{:016x}", names::hash(sysroot)));
        path.extend(hash.bytes()).ok()?;
        let dir = self.arena.string(path.as_bytes()).ok()?;
        store::is_there(dir).then_some(dir.to_bytes())
    }

    /// The working directory, as the host tells it.
    fn cwd(&mut self) -> Option<&'static [u8]> {
        let path = self.arena.path(|room| getcwd(room).map(<[u8]>::len)).ok()?;
        Some(path.to_bytes())
    }

    /// Puts the process where the guest is to start: at `--workdir`, or where it is, or, where the sysroot has that path, there.
    fn enter_workdir(&mut self, process: &'static Process, cwd: Option<&'static [u8]>) {
        let workdir = self.options.workdir;
        let told = cwd.unwrap_or(b"/");
        let is_shown = || {
            let mut taken = self.work().ok()?;
            let guest = taken.work().area.room();
            process.vfs.mounts().to_guest(told, guest).ok()
        };
        let wanted = match workdir {
            Some(wanted) => wanted,
            None if is_shown().is_some() => return,
            None => told,
        };
        let Ok(path) = self.string(wanted) else {
            return;
        };
        let mut call = Call::own(process, SignalSet::default());
        call.args[0] = path.as_ptr().expose_provenance();
        match directories::chdir(&mut call).result() {
            Ok(_) => {}
            Err(errno) if workdir.is_some() => refuse("--workdir", wanted, errno),
            // Nothing of the guest's is there: its root is.
            Err(_) => {
                call.args[0] = c"/".as_ptr().expose_provenance();
                let _ = directories::chdir(&mut call);
            }
        }
    }
}

/// Settles sysroot, store, mounts and working directory: the process's state.
pub fn settle(setting: &mut Setting<'_>) -> &'static Process {
    let options = setting.options;
    let (sysroot, sysroot_fd, found) = setting.sysroot();
    let sysroot_fd = keep_high(sysroot_fd);
    let index_dir = setting.index_dir(sysroot);
    let counters_fd = match options.stats {
        Stats::Off => None,
        _ => match tell::create() {
            Ok(counters) => Some(counters),
            Err(errno) => fail(format_args!("--stats: no memory file: {}", errno.text())),
        },
    };
    let prints = counters_fd.is_some() || options.trace != TraceBits::NONE;
    let run = Inherited {
        sysroot,
        sysroot_dev: found.dev,
        sysroot_ino: found.ino,
        sysroot_fd: Some(sysroot_fd.0),
        index_dir,
        coherence: options.coherence,
        shadow: options.shadow,
        patched: options.patched,
        mounts: MountList::default(),
        host_fallback: options.host_fallback,
        cpuid_table: options.cpuid_table,
        resident: options.resident,
        populate: options.populate,
        stats: options.stats,
        stats_fd: if prints { tell::error_now() } else { None },
        counters_fd,
        trace: options.trace,
        filter_armed: false,
        program_fd: 0,
        interpreter_fd: None,
        exe: b"/",
        execfn: b"",
        top_level_pid: setting.pid.cast_signed(),
        signal_mask: 0,
        boot_id: None,
    };
    tell::open(&run);
    // What the sysroot itself has is asked of a process that has the default mounts only.
    let defaults = default_mounts(setting, sysroot);
    let probe = set_up(&mut setting.arena, run, defaults, setting.pool);
    let cwd = setting.cwd();
    let mounts = all_mounts(setting, probe, cwd);
    let run = Inherited {
        mounts: listed(setting, mounts),
        ..run
    };
    let process = start::settle(&mut setting.arena, probe, run, mounts, true);
    setting.enter_workdir(process, cwd);
    process
}
