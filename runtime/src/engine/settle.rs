//! Settles where everything of a command line is: sysroot, store, mounts, working directory.
//!
//! Each path is resolved once. A path that is canonical as it stands, as nearly all are, takes one openat2(2) that refuses symlinks.

use core::ffi::CStr;

use elfuse_format::names;

use super::arena::Arena;
use super::call::Call;
use super::calls::directories;
use super::pool::{Pool, Taken, Taker};
use super::process::{Process, keep_high};
use super::start::{self, fail, no_memory, set_up};
use super::store;
use super::tell;
use super::vector::Vector;
use crate::errno::Errno;
use crate::options::inherited::{Mount as Row, MountList};
use crate::options::{Bind, DEFAULT_MOUNTS, Inherited, RunOptions, Stats, binds};
use crate::sys::abi::{
    O_CLOEXEC, O_DIRECTORY, O_PATH, OpenHow, RESOLVE_NO_SYMLINKS, S_IFDIR, S_IFLNK, S_IFMT,
    SignalSet, Stat,
};
use crate::sys::host::{Fd, close, fstat, getcwd, getpid, lstatat, openat, openat2, readlinkat};
use crate::text::Shown;
use crate::trace::TraceBits;
use crate::vfs::mounts::is_canonical;
use crate::vfs::{Found, Last, Mount, Mounts, Start, Vfs, Want};

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

/// Whether this looks like the root of a procfs (`PROC_ROOT_INO`, and its mode): else that it is one has to be asked for.
fn is_procfs_root(found: &Stat) -> bool {
    found.ino == 1 && found.mode == S_IFDIR | 0o555
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

    /// The directories of the host that a guest expects, each a mount.
    fn add_defaults(&mut self, mounts: &mut Mounts<'static>) {
        for path in DEFAULT_MOUNTS {
            let procfs = path == b"/proc";
            if let Some(host) = self.top_directory(path, procfs) {
                add(
                    mounts,
                    Mount {
                        guest: path,
                        host,
                        procfs,
                    },
                );
            }
        }
    }

    /// Canonical path of a directory of the host's root, which nearly always is a directory and no symlink.
    fn top_directory(&mut self, path: &'static [u8], procfs: bool) -> Option<&'static [u8]> {
        let name = self.string(path).ok()?;
        let found = lstatat(Fd::CWD, name);
        if procfs && !found.is_ok_and(|found| is_procfs_root(&found)) {
            require_procfs();
        }
        match found {
            Ok(found) if is_directory(&found) => Some(path),
            _ => self.real(path).ok().map(|(host, _)| host),
        }
    }

    /// Mounts the caller's home or working directory at its own path, unless the sysroot has that path, or a mount shows it already. `host`: its
    /// canonical host path, if that is known.
    fn offer(
        &mut self,
        process: &'static Process,
        mounts: &mut Mounts<'static>,
        path: &[u8],
        host: Option<&'static [u8]>,
    ) {
        if !path.starts_with(b"/") || path == b"/" {
            return;
        }
        let defaults = process.vfs.mounts();
        let over = defaults.over(path).map(|id| defaults.row(id));
        let known = match over {
            None if is_canonical(path) => self.known(process, path),
            _ => None,
        };
        if known == Some(true) {
            return;
        }
        let real = host.map_or_else(|| self.real(path), |host| Ok((host, true)));
        let Ok((host, true)) = real else {
            return;
        };
        if host == path && over.is_some_and(|row| row.host == row.guest) {
            return;
        }
        let guest = match known {
            Some(_) => self.string(path).map(|path| (path.to_bytes(), false)),
            None => self.guest(process, path),
        };
        let Ok((guest, false)) = guest else {
            return;
        };
        let is_shown = mounts.over(guest).is_some();
        if !is_shown && guest != b"/" {
            add(
                mounts,
                Mount {
                    guest,
                    host,
                    procfs: false,
                },
            );
        }
    }

    /// Whether the sysroot has this canonical path, which is below no mount; `None`: it takes a walk to tell. Of one that is not there what is
    /// above it is.
    fn known(&mut self, process: &'static Process, path: &[u8]) -> Option<bool> {
        let below = self.string(path.get(1..)?).ok()?;
        // Opened by this process a moment ago.
        let sysroot = process.cached_fd();
        let mut names = below.to_bytes().split(|byte| *byte == b'/');
        let is_shown = |name| !names::is_reserved(name, true);
        if !names.all(is_shown) {
            return None;
        }
        let Some(slash) = below.to_bytes().iter().rposition(|byte| *byte == b'/') else {
            return match lstatat(sysroot, below) {
                Ok(found) => (found.mode & S_IFMT != S_IFLNK).then_some(true),
                Err(errno) => (errno == Errno::ENOENT).then_some(false),
            };
        };
        match plain(sysroot, below, 0) {
            Ok(there) => {
                close(there);
                Some(true)
            }
            Err(Errno::ENOENT) => {
                let above = self.string(&below.to_bytes()[..slash]).ok()?;
                close(plain(sysroot, above, O_DIRECTORY).ok()?);
                Some(false)
            }
            Err(_) => None,
        }
    }

    fn bind(
        &mut self,
        process: &'static Process,
        mounts: &mut Mounts<'static>,
        bind: &Bind<'static>,
    ) {
        let (host, _) = self
            .real(bind.host)
            .unwrap_or_else(|errno| refuse("--bind", bind.host, errno));
        let wanted = bind.guest.unwrap_or(host);
        let (guest, _) = self.guest(process, wanted).unwrap_or_else(|errno| {
            fail(format_args!(
                "--bind {}: the guest's path {}: {}",
                Shown(bind.host),
                Shown(wanted),
                errno.text()
            ))
        });
        add(
            mounts,
            Mount {
                guest,
                host,
                procfs: false,
            },
        );
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

fn add(mounts: &mut Mounts<'static>, mount: Mount<'static>) {
    if mounts.add(mount).is_err() {
        fail(format_args!(
            "cannot mount {} at {}: not canonical paths, or more than 64 mounts",
            Shown(mount.host),
            Shown(mount.guest)
        ));
    }
}

/// Ends the process if the host has no procfs: executing a program needs it.
#[cold]
fn require_procfs() {
    if let Err(errno) = readlinkat(Fd::CWD, c"/proc/self/exe", &mut [0; 1]) {
        fail(format_args!(
            "cannot read /proc/self/exe: {}; is /proc mounted?",
            errno.text()
        ));
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

/// The directories of the host that a guest expects, or nothing.
fn default_mounts(setting: &mut Setting<'_>, sysroot: &'static [u8]) -> &'static Mounts<'static> {
    let Some(mounts) = start::mounts_over(&mut setting.arena, sysroot) else {
        fail(format_args!("{}: not a canonical path", Shown(sysroot)));
    };
    if setting.options.default_binds {
        setting.add_defaults(mounts);
    } else {
        require_procfs();
    }
    mounts
}

/// The default mounts, home and working directory, and what the options bind. Its table of mounts is large, and would stay in the frame of a
/// caller that it is inlined in.
#[inline(never)]
fn all_mounts(
    setting: &mut Setting<'_>,
    probe: &'static Process,
    cwd: Option<&'static [u8]>,
) -> &'static Mounts<'static> {
    let defaults = probe.vfs.mounts();
    let mut mounts = *defaults;
    if setting.options.default_binds {
        let home = setting.vector.variable(b"HOME=");
        let cwd = cwd.filter(|cwd| cwd.starts_with(b"/"));
        let cwd = cwd.filter(|cwd| crate::vfs::path::below(cwd, defaults.sysroot()).is_none());
        if let Some(home) = home {
            setting.offer(probe, &mut mounts, home, None);
        }
        if let Some(cwd) = cwd {
            setting.offer(probe, &mut mounts, cwd, Some(cwd));
        }
    }
    let arguments = setting.vector.arguments().skip(1);
    for bind in binds(arguments).take(setting.options.bind_count) {
        setting.bind(probe, &mut mounts, &bind);
    }
    if mounts.rows() == defaults.rows() {
        return defaults;
    }
    let placed = setting.arena.copy_mut(&mounts);
    placed.unwrap_or_else(|errno| no_memory(errno))
}

/// The mounts as they are handed on.
fn listed(setting: &mut Setting<'_>, mounts: &Mounts<'_>) -> MountList<'static> {
    let rows = mounts.rows().iter().map(|row| Row {
        guest: row.guest,
        host: row.host,
    });
    // The numbers of two lengths, and what stands around them.
    const AROUND: usize = 48;
    let len = rows
        .clone()
        .map(|row| AROUND + row.guest.len() + row.host.len())
        .sum();
    let room = (setting.arena.bytes(len)).unwrap_or_else(|errno| no_memory(errno));
    match MountList::write(rows, room) {
        Ok(list) => list,
        Err(_) => fail(format_args!("more mounts than there can be")),
    }
}
