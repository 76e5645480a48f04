//! `elfuse run …` as it is typed: settles where everything is, finds the program, and starts it.

use core::ffi::CStr;

use elfuse_format::names;

use super::arena::Arena;
use super::call::Call;
use super::calls::directories;
use super::exec::{self, Vectors};
use super::process::{self, Process};
use super::say::say;
use super::start::{
    self, FAILED, NOT_EXECUTABLE, NOT_FOUND, Vector, fail, launch, no_memory, set_up,
};
use super::store;
use super::tell::{self, Step};
use crate::errno::Errno;
use crate::guest::Address;
use crate::loader::elf::{Header, NotLoadable};
use crate::options::inherited::Mount as Row;
use crate::options::{Bind, Command, Inherited, RunOptions, Stats, parse};
use crate::sys::abi::{
    O_CLOEXEC, O_PATH, OpenHow, PATH_MAX, RESOLVE_NO_SYMLINKS, S_IFDIR, S_IFMT, SIG_BLOCK,
    SignalSet, Stat,
};
use crate::sys::host::{
    Fd, close, exit, fstat, getcwd, getpid, lstatat, openat, openat2, pread, readlinkat,
    signal_mask,
};
use crate::text::Shown;
use crate::trace::TraceBits;
use crate::vfs::path::{Area, PathBuf};
use crate::vfs::{Found, Last, Mount, Mounts, Start, Vfs, Want};

/// Where PATH leads when the guest has none, as bash has it.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Does what the command line says.
pub fn command(vector: Vector) -> ! {
    let command = parse(vector.arguments().skip(1), vector.environment());
    match command {
        Ok(Command::Run(options)) => run(vector, &options),
        Ok(Command::Other) => sibling(&vector),
        Err(error) => {
            say(format_args!("{error}"));
            exit(FAILED)
        }
    }
}

/// Executes the program that does everything but `run`: it lies beside this one, or where distributions keep such.
fn sibling(vector: &Vector) -> ! {
    const NAME: &[u8] = b"elfuse-tools";
    const ELSEWHERE: &[u8] = b"../libexec/elfuse/elfuse-tools";
    let mut own = [0; PATH_MAX];
    let len = readlinkat(Fd::CWD, c"/proc/self/exe", &mut own).unwrap_or_else(|errno| {
        fail(format_args!(
            "cannot read /proc/self/exe: {}; is /proc mounted?",
            errno.text()
        ))
    });
    let dir = own[..len]
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |slash| slash + 1);
    let mut last = Errno::ENOENT;
    for place in [NAME, ELSEWHERE] {
        let end = dir + place.len();
        if end >= own.len() {
            continue;
        }
        own[dir..end].copy_from_slice(place);
        own[end] = 0;
        let Ok(path) = CStr::from_bytes_with_nul(&own[..=end]) else {
            continue;
        };
        last = exec::host_program(path, vector.arguments_from(0), vector.environment_address());
    }
    fail(format_args!(
        "cannot start elfuse-tools, which does everything but `run`: {} beside {}; install both from one build",
        last.text(),
        Shown(&own[..dir])
    ))
}

/// What is needed while the run is being settled.
struct Setting {
    arena: Arena,
    area: &'static mut Area,
}

impl Setting {
    fn new() -> Result<Self, Errno> {
        store::reserve()?;
        let mut arena = Arena::new()?;
        let area = arena.area()?;
        Ok(Self { arena, area })
    }

    /// Canonical host path of what is at `path`, and whether it is a directory.
    fn real(&mut self, path: &[u8]) -> Result<(&'static [u8], bool), Errno> {
        let path = self.arena.string(path)?;
        if let Some(found) = plain(path) {
            let is_directory = found.mode & S_IFMT == S_IFDIR;
            return Ok((path.to_bytes(), is_directory));
        }
        let fd = openat(Fd::CWD, path, O_PATH | O_CLOEXEC, 0)?;
        let mut link = [0; 32];
        let mut text = [0; PATH_MAX];
        let link = super::call::fd_link(fd, &mut link).ok_or(Errno::EBADF)?;
        let len = readlinkat(Fd::CWD, link, &mut text);
        let found = fstat(fd);
        close(fd);
        let is_directory = found?.mode & S_IFMT == S_IFDIR;
        Ok((self.arena.string(&text[..len?])?.to_bytes(), is_directory))
    }

    /// Canonical guest path of `path`; whether something is there is told by `exists`.
    fn guest(
        &mut self,
        process: &Process,
        vfs: &Vfs<'_>,
        path: &[u8],
    ) -> Result<(&'static [u8], bool), Errno> {
        let want = Want::new(Last::Create);
        let (guest, exists) = match vfs.resolve(process, self.area, Start::Guest(b"/"), path, want)
        {
            Found::Host(place) | Found::Synthetic(place) => {
                let exists = crate::vfs::Host::stat(process, place.location).is_ok();
                (place.guest, exists)
            }
            Found::Definite(errno) => return Err(errno),
            _ => return Err(Errno::EINVAL),
        };
        Ok((self.arena.string(guest)?.to_bytes(), exists))
    }
}

/// What is at a host path that is canonical as it stands; `None`: it may not be.
fn plain(path: &CStr) -> Option<Stat> {
    if !crate::vfs::mounts::is_canonical(path.to_bytes()) {
        return None;
    }
    let how = OpenHow {
        flags: (O_PATH | O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_NO_SYMLINKS,
    };
    let fd = openat2(Fd::CWD, path, &how).ok()?;
    let found = fstat(fd);
    close(fd);
    found.ok()
}

fn run(vector: Vector, options: &RunOptions<'static>) -> ! {
    if let Some(word) = options.unknown_trace_word {
        say(format_args!(
            "ELFUSE_STARTUP_TRACE: `{}` means nothing; known are steps, syscalls, all and 1",
            Shown(word)
        ));
    }
    tell::done(Step::Options, options.trace);
    let mut setting =
        Setting::new().unwrap_or_else(|errno| fail(format_args!("no memory: {}", errno.text())));
    let (sysroot, is_directory) = setting.real(options.sysroot).unwrap_or_else(|errno| {
        fail(format_args!(
            "--sysroot {}: {}",
            Shown(options.sysroot),
            errno.text()
        ))
    });
    if !is_directory {
        fail(format_args!(
            "--sysroot {}: not a directory",
            Shown(options.sysroot)
        ));
    }
    let process = settle(&mut setting, &vector, options, sysroot);
    enter_workdir(&mut setting, process, options);
    tell::done(Step::Settled, options.trace);
    find_and_start(setting, process, vector, options)
}

/// What the host says of the sysroot.
fn identity(path: &CStr) -> Result<(u64, u64), Errno> {
    lstatat(Fd::CWD, path).map(|found| (found.dev, found.ino))
}

/// Where `elfuse-index` puts the store of a sysroot that it may not write to, if there is one there and none in the sysroot:
/// `$XDG_CACHE_HOME/elfuse/NAME-HASH`.
fn outside(setting: &mut Setting, vector: &Vector, sysroot: &[u8]) -> Option<&'static [u8]> {
    let variable = |name: &[u8]| {
        let mut environment = vector.environment();
        let value = environment.find_map(|variable| variable.strip_prefix(name))?;
        Some(value)
    };
    let mut path = PathBuf::<PATH_MAX>::new();
    path.set(sysroot)
        .and_then(|()| path.push(names::STORE))
        .ok()?;
    if store::is_there(CStr::from_bytes_with_nul(path.with_nul()).ok()?) {
        return None;
    }
    match variable(b"XDG_CACHE_HOME=").filter(|dir| dir.starts_with(b"/")) {
        Some(dir) => path.set(dir).ok()?,
        None => path
            .set(variable(b"HOME=")?)
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
    let dir = setting.arena.string(path.as_bytes()).ok()?;
    store::is_there(dir).then_some(dir.to_bytes())
}

/// Makes the mount table and the process's state.
fn settle(
    setting: &mut Setting,
    vector: &Vector,
    options: &RunOptions<'static>,
    sysroot: &'static [u8],
) -> &'static Process {
    let path = setting
        .arena
        .string(sysroot)
        .unwrap_or_else(|errno| no_memory(errno));
    let (sysroot_dev, sysroot_ino) = identity(path).unwrap_or_else(|errno| {
        fail(format_args!(
            "--sysroot {}: {}",
            Shown(sysroot),
            errno.text()
        ))
    });
    let index_dir = options.index_dir.map(|dir| match setting.real(dir) {
        Ok((dir, true)) => dir,
        Ok((_, false)) => fail(format_args!("--index-dir {}: not a directory", Shown(dir))),
        Err(errno) => fail(format_args!("--index-dir {}: {}", Shown(dir), errno.text())),
    });
    let index_dir = index_dir.or_else(|| outside(setting, vector, sysroot));
    let counters_fd = match options.stats {
        Stats::Off => None,
        _ => match tell::create() {
            Ok(counters) => Some(counters),
            Err(errno) => fail(format_args!("--stats: no memory file: {}", errno.text())),
        },
    };
    let prints = counters_fd.is_some() || options.trace != TraceBits::NONE;
    let stats_fd = if prints { tell::error_now() } else { None };
    let run = Inherited {
        sysroot,
        sysroot_dev,
        sysroot_ino,
        sysroot_fd: None,
        index_dir,
        coherence: options.coherence,
        shadow: options.shadow,
        patched: options.patched,
        mounts: Inherited::no_mounts(),
        host_fallback: options.host_fallback,
        cpuid_table: options.cpuid_table,
        resident: options.resident,
        stats: options.stats,
        stats_fd,
        counters_fd,
        trace: options.trace,
        filter_armed: false,
        program_fd: 0,
        exe: b"/",
        execfn: b"",
        top_level_pid: getpid().cast_signed(),
        signal_mask: 0,
    };
    tell::open(&run);
    let mut mounts = Mounts::new(sysroot)
        .unwrap_or_else(|_| fail(format_args!("{}: not a canonical path", Shown(sysroot))));
    if options.default_binds {
        for path in [&b"/proc"[..], b"/sys", b"/dev", b"/tmp"] {
            if let Some(host) = top_directory(setting, path) {
                add(
                    &mut mounts,
                    Mount {
                        guest: path,
                        host,
                        procfs: path == b"/proc",
                    },
                );
            }
        }
    }
    // What the sysroot itself has is asked of a process that has these mounts only.
    let probe = set_up(&mut setting.arena, run, mounts.clone());
    let vfs = Vfs::new(probe.vfs.mounts());
    if options.default_binds {
        let home = vector
            .environment()
            .find_map(|variable| variable.strip_prefix(b"HOME="));
        let mut cwd = [0; PATH_MAX];
        let cwd = getcwd(&mut cwd).ok().filter(|cwd| cwd.starts_with(b"/"));
        let cwd = cwd.filter(|cwd| crate::vfs::path::below(cwd, sysroot).is_none());
        for path in [home, cwd].into_iter().flatten() {
            offer(setting, probe, &vfs, &mut mounts, path);
        }
    }
    for bind in options.binds.iter() {
        bind_to(setting, probe, &vfs, &mut mounts, bind);
    }
    let mut rows = Inherited::no_mounts();
    for row in mounts.rows() {
        if rows
            .push(Row {
                guest: row.guest,
                host: row.host,
            })
            .is_err()
        {
            fail(format_args!("more mounts than there can be"));
        }
    }
    let run = Inherited {
        mounts: rows,
        ..run
    };
    start::settle(&mut setting.arena, probe, run, mounts)
}

/// Canonical path of a directory of the host's root, which nearly always is a directory and no symlink.
fn top_directory(setting: &mut Setting, path: &'static [u8]) -> Option<&'static [u8]> {
    let name = setting.arena.string(path).ok()?;
    match lstatat(Fd::CWD, name) {
        Ok(found) if found.mode & S_IFMT == S_IFDIR => Some(path),
        _ => setting.real(path).ok().map(|(host, _)| host),
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

/// Mounts the caller's home or working directory at its own path, unless the sysroot has that path, or a mount shows it already.
fn offer(
    setting: &mut Setting,
    process: &Process,
    vfs: &Vfs<'_>,
    mounts: &mut Mounts<'static>,
    path: &[u8],
) {
    if !path.starts_with(b"/") || path == b"/" {
        return;
    }
    let Ok((host, true)) = setting.real(path) else {
        return;
    };
    let Ok((guest, false)) = setting.guest(process, vfs, path) else {
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

fn bind_to(
    setting: &mut Setting,
    process: &Process,
    vfs: &Vfs<'_>,
    mounts: &mut Mounts<'static>,
    bind: &Bind<'static>,
) {
    let (host, _) = setting.real(bind.host).unwrap_or_else(|errno| {
        fail(format_args!(
            "--bind {}: {}",
            Shown(bind.host),
            errno.text()
        ))
    });
    let wanted = bind.guest.unwrap_or(host);
    let (guest, _) = setting.guest(process, vfs, wanted).unwrap_or_else(|errno| {
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

/// Puts the process where the guest is to start: at `--workdir`, or where it is, or, where the sysroot has that path, there.
fn enter_workdir(setting: &mut Setting, process: &'static Process, options: &RunOptions<'_>) {
    let mut cwd = [0; PATH_MAX];
    let told = getcwd(&mut cwd).unwrap_or(b"/");
    let mut guest = PathBuf::<{ crate::vfs::path::AT_ROOM }>::new();
    let is_shown = process.vfs.mounts().to_guest(told, &mut guest).is_ok();
    let wanted = match options.workdir {
        Some(wanted) => wanted,
        None if is_shown => return,
        None => told,
    };
    let Ok(path) = setting.arena.string(wanted) else {
        return;
    };
    let mut call = Call::own(process, SignalSet::default());
    call.args[0] = path.as_ptr().expose_provenance();
    match directories::chdir(&mut call).result() {
        Ok(_) => {}
        Err(errno) if options.workdir.is_some() => fail(format_args!(
            "--workdir {}: {}",
            Shown(wanted),
            errno.text()
        )),
        // Nothing of the guest's is there: its root is.
        Err(_) => {
            call.args[0] = c"/".as_ptr().expose_provenance();
            let _ = directories::chdir(&mut call);
        }
    }
}

fn find_and_start(
    mut setting: Setting,
    process: &'static Process,
    vector: Vector,
    options: &RunOptions<'static>,
) -> ! {
    // `skip` words before the guest's own: the runtime's name, and what was its own of the command line.
    let skip = options.program_at + 1;
    let program = options.program;
    let own_mask = signal_mask(SIG_BLOCK, SignalSet::default());
    let call = Call::own(process, own_mask);
    let (path, file) = if program.contains(&b'/') {
        let path = setting
            .arena
            .string(program)
            .unwrap_or_else(|errno| refuse(process, program, errno));
        match exec::open_guest(&call, path.to_bytes()) {
            Ok(file) => (path, file),
            Err(errno) => refuse(process, program, errno),
        }
    } else {
        search(&mut setting, &call, &vector, options)
    };
    let mut start = [0; 256];
    let len =
        pread(file, &mut start, 0).unwrap_or_else(|errno| refuse(process, path.to_bytes(), errno));
    let start = &start[..len];
    let is_script = start.starts_with(b"#!");
    if !is_script && let Err(why) = Header::parse(start) {
        not_loadable(path.to_bytes(), why);
    }
    let edits_environment = options.clear_env || !options.env_edits.is_empty();
    if is_script || edits_environment {
        close(file);
        let environment = if edits_environment {
            exec::vector_of(
                &mut setting.arena,
                options.guest_environment(vector.environment()),
            )
            .unwrap_or_else(|errno| fail(format_args!("environment: {}", errno.text())))
        } else {
            vector.environment_address()
        };
        let vectors = Vectors {
            arguments: Address(vector.arguments_from(skip)),
            environment: Address(environment),
        };
        let path_at = Address(path.as_ptr().expose_provenance());
        let errno = match exec::execute(&call, Fd::CWD, path_at, 0, vectors) {
            Err(errno) => errno,
            Ok(_) => Errno::EIO,
        };
        refuse(process, path.to_bytes(), errno);
    }
    tell::done(Step::Found, options.trace);
    let (exe, execfn) = exec::identity(&call, &mut setting.arena, path.to_bytes())
        .unwrap_or_else(|errno| refuse(process, path.to_bytes(), errno));
    let run = Inherited {
        exe,
        execfn,
        ..process.run
    };
    let state = setting.arena.place(process.with_run(run));
    let process = process::set(state.unwrap_or_else(|errno| no_memory(errno)));
    launch(&mut setting.arena, process, vector, skip, file, own_mask)
}

/// Looks for a program through the guest's PATH, as execvp(3) does.
fn search(
    setting: &mut Setting,
    call: &Call<'_>,
    vector: &Vector,
    options: &RunOptions<'static>,
) -> (&'static CStr, Fd) {
    let environment = options.guest_environment(vector.environment());
    let mut paths = environment.filter_map(|variable| variable.strip_prefix(b"PATH="));
    let path = paths.next().unwrap_or(DEFAULT_PATH);
    let mut refused = Errno::ENOENT;
    for dir in path.split(|byte| *byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let mut candidate = [0; PATH_MAX];
        let len = dir.len() + 1 + options.program.len();
        if len >= PATH_MAX {
            continue;
        }
        candidate[..dir.len()].copy_from_slice(dir);
        candidate[dir.len()] = b'/';
        candidate[dir.len() + 1..len].copy_from_slice(options.program);
        match exec::open_guest(call, &candidate[..len]) {
            Ok(file) => match setting.arena.string(&candidate[..len]) {
                Ok(path) => return (path, file),
                Err(errno) => refuse(call.process, options.program, errno),
            },
            Err(Errno::EACCES) => refused = Errno::EACCES,
            Err(_) => {}
        }
    }
    if refused == Errno::EACCES {
        refuse(call.process, options.program, refused);
    }
    say(format_args!(
        "{}: not found in the sysroot {} through PATH={}",
        Shown(options.program),
        Shown(call.process.run.sysroot),
        Shown(path)
    ));
    exit(NOT_FOUND)
}

/// Ends the run because its program cannot be started.
fn refuse(process: &Process, program: &[u8], errno: Errno) -> ! {
    let hint = match errno {
        Errno::ENOENT => ": there is no such file, or its interpreter is not there",
        Errno::EACCES => ": it is no regular file, or may not be read and executed",
        Errno::ENOEXEC => ": neither an ELF program for x86-64 nor a script with `#!`",
        _ => "",
    };
    say(format_args!(
        "cannot run {} from the sysroot {}: {}{hint}",
        Shown(program),
        Shown(process.run.sysroot),
        errno.text(),
    ));
    let is_missing = errno == Errno::ENOENT || errno == Errno::ENOTDIR;
    exit(if is_missing {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    })
}

fn not_loadable(program: &[u8], why: NotLoadable) -> ! {
    let program = Shown(program);
    match why {
        NotLoadable::NotElf => say(format_args!(
            "cannot run {program}: neither an ELF program nor a script with `#!`"
        )),
        NotLoadable::Class32 => say(format_args!(
            "cannot run {program}: a 32-bit program; elfuse runs x86-64 programs only"
        )),
        NotLoadable::Machine(machine) => say(format_args!(
            "cannot run {program}: built for another processor (ELF machine {machine}); elfuse runs programs of the \
             processor it runs on"
        )),
        NotLoadable::NotExecutable => say(format_args!(
            "cannot run {program}: an ELF file, but neither a program nor a shared object"
        )),
        NotLoadable::Malformed(what) => say(format_args!(
            "cannot run {program}: malformed ELF file: {what}"
        )),
    }
    exit(NOT_EXECUTABLE)
}
