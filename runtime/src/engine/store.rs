//! The index of a run: its files mapped, the memory that is shared with other runs, and lookup put together from both.
//!
//! # Safety
//! The store's files are read, later mapped privately, and never looked at through a reference: bytes are copied out by the kernel, or by a loop whose
//! faults are mended, and either says EFAULT where a file has been cut meanwhile. The generation is a mapping of its own, shared with whoever else maps the file, and only ever
//! used through atomics; where the file is cut under it, [`heal`] puts memory of the process's own in its place.
#![allow(unsafe_code)]

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use elfuse_format::file_systems;
use elfuse_format::header::HEADER_LEN;
use elfuse_format::names;

use super::arena::Arena;
use super::{board, faults, tell};
use crate::errno::Errno;
use crate::guest::{Address, Memory};
use crate::options::{Coherence as Rule, Inherited};
use crate::sys::abi::{
    O_CLOEXEC, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_RDWR, PAGE, PATH_MAX,
};
use crate::sys::clock;
use crate::sys::host::{
    Fd, chmod, close, file_system, getpid, getuid, mount_flags, openat, pread, rename, unlink,
    wall_clock, write,
};
use crate::sys::memory::{anonymous, anonymous_shared, hostile, replace_shared, shared};
use crate::vfs::coherence::GENERATION_LEN;
use crate::vfs::{
    Absences, Arena as IndexArena, Attributes, Catalogue, Coherence, Fault, Generation, IndexFile,
    Mode, Mounts, Prefixes, Source, Vfs,
};

/// Memory for what is kept of an index, of absent names, and of where the beginnings of paths lead; pages cost nothing until they are touched.
/// What does not fit is asked of the host.
const ROOM: usize = 64 << 20;

/// A file of the store: open until the guest begins, mapped from then on. Reading costs less than a look into a mapping whose pages
/// have to be found first; but the descriptors are the guest's.
#[derive(Debug)]
struct Opened {
    fd: AtomicI32,
    /// Where it is mapped; 0: it is not, or not yet.
    at: AtomicUsize,
    len: AtomicU64,
}

/// The store's files as this process found them. A file that is replaced later stays as it was.
#[derive(Debug)]
struct Files {
    loader_cache: Opened,
    keys: Opened,
}

/// The files that are open still.
static OPEN: AtomicPtr<Files> = AtomicPtr::new(core::ptr::null_mut());

/// How many descriptors the runtime may need at once before the guest begins. With fewer left over the files are mapped at once.
const SPARE: i32 = 16;

impl Opened {
    fn new(fd: Fd) -> Self {
        Self {
            fd: AtomicI32::new(fd.0),
            at: AtomicUsize::new(0),
            len: AtomicU64::new(0),
        }
    }

    fn close(&self) {
        close(Fd(self.fd.swap(-1, Ordering::Relaxed)));
    }

    fn map(&self) {
        let len = self.len.load(Ordering::Relaxed);
        let mapped =
            usize::try_from(len).map(|len| hostile(Fd(self.fd.load(Ordering::Relaxed)), len));
        if let Ok(Ok(at)) = mapped {
            self.at.store(at.addr(), Ordering::Release);
        }
        self.close();
    }

    fn copy(&self, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let at = self.at.load(Ordering::Acquire);
        if at == 0 {
            return match pread(Fd(self.fd.load(Ordering::Relaxed)), into, offset) {
                Ok(len) if len == into.len() => Ok(()),
                _ => Err(Fault),
            };
        }
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.len.load(Ordering::Relaxed)) {
            return Err(Fault);
        }
        let from = Address(at + offset as usize);
        how_to_copy().read(from, into).map_err(|_| Fault)
    }
}

/// Whether there is a handler that mends what faults.
static IS_MENDED: AtomicBool = AtomicBool::new(false);

/// How a mapping may be read that faults where its file has been cut. To touch it, and be it after asking for the mask, costs a small part of a
/// copy by the kernel, which has to find and pin the page.
fn how_to_copy() -> Memory {
    if IS_MENDED.load(Ordering::Relaxed) {
        faults::memory_here()
    } else {
        Memory::ByKernel
    }
}

impl Files {
    fn open(dir: &CStr) -> Result<Self, Errno> {
        // The keys first: a loader cache that is published in between is another than the one they name.
        let keys = match FOUND.swap(-1, Ordering::Relaxed) {
            -1 => open(dir, names::KEYS.as_bytes(), O_RDONLY)?,
            found => Fd(found),
        };
        match open(dir, names::LOADER_CACHE.as_bytes(), O_RDONLY) {
            Ok(loader_cache) => Ok(Self {
                loader_cache: Opened::new(loader_cache),
                keys: Opened::new(keys),
            }),
            Err(errno) => {
                close(keys);
                Err(errno)
            }
        }
    }

    fn get(&self, file: IndexFile) -> &Opened {
        match file {
            IndexFile::LoaderCache => &self.loader_cache,
            IndexFile::Keys => &self.keys,
        }
    }

    fn close(&self) {
        self.keys.close();
        self.loader_cache.close();
    }

    fn map(&self) {
        self.keys.map();
        self.loader_cache.map();
    }

    /// Leaves the files open until [`guest_begins`], if there are descriptors enough for whatever else is opened until then. `most`: how many
    /// there may be.
    fn stay_open(&'static self, catalogue: &Catalogue<'_>, most: u64) {
        for file in [IndexFile::Keys, IndexFile::LoaderCache] {
            let len = catalogue.file_len(file);
            self.get(file).len.store(len, Ordering::Relaxed);
        }
        let highest = self.loader_cache.fd.load(Ordering::Relaxed);
        let highest = highest.max(self.keys.fd.load(Ordering::Relaxed));
        if most < (highest + SPARE).cast_unsigned().into() {
            self.map();
        } else {
            OPEN.store(core::ptr::from_ref(self).cast_mut(), Ordering::Relaxed);
        }
    }
}

/// Gives the descriptors back that were open for the runtime alone. While there is one thread, and with the handlers installed.
pub fn guest_begins() {
    IS_MENDED.store(true, Ordering::Relaxed);
    give_back();
}

fn give_back() {
    let files = OPEN.swap(core::ptr::null_mut(), Ordering::Relaxed);
    // SAFETY: null, or the address of files that are never dropped, and used through atomics only.
    if let Some(files) = unsafe { files.as_ref() } {
        files.map();
    }
}

impl Source for Files {
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.get(file).copy(offset, into)
    }
}

/// Opens a file of the store as `flags` say.
///
/// # Errors
/// Those of open(2).
pub fn open(dir: &CStr, name: &[u8], flags: usize) -> Result<Fd, Errno> {
    /// Room for nearly every path, so that the rest of a page of stack is not touched for it.
    const SHORT: usize = 256;
    let flags = flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    match joined(dir, name, &mut [0; SHORT]) {
        Ok(path) => openat(Fd::CWD, path, flags, 0),
        Err(_) => open_long(dir, name, flags),
    }
}

#[cold]
#[inline(never)]
fn open_long(dir: &CStr, name: &[u8], flags: usize) -> Result<Fd, Errno> {
    openat(Fd::CWD, joined(dir, name, &mut [0; PATH_MAX])?, flags, 0)
}

/// A path in the store, with a NUL.
///
/// # Errors
/// ENAMETOOLONG, EINVAL.
pub fn joined<'b>(dir: &CStr, name: &[u8], room: &'b mut [u8]) -> Result<&'b CStr, Errno> {
    let dir = dir.to_bytes();
    let len = dir.len() + 1 + name.len();
    let into = room.get_mut(..=len).ok_or(Errno::ENAMETOOLONG)?;
    into[..dir.len()].copy_from_slice(dir);
    into[dir.len()] = b'/';
    into[dir.len() + 1..len].copy_from_slice(name);
    into[len] = 0;
    CStr::from_bytes_with_nul(into).map_err(|_| Errno::EINVAL)
}

/// The keys that [`is_there`] found; -1: none, or they were taken.
static FOUND: AtomicI32 = AtomicI32::new(-1);

/// Whether there is a store in this directory, which then is that of the run: its keys stay open for [`vfs`].
#[must_use]
pub fn is_there(dir: &CStr) -> bool {
    let found = open(dir, names::KEYS.as_bytes(), O_RDONLY);
    if let Ok(Fd(keys)) = found {
        forget(FOUND.swap(keys, Ordering::Relaxed));
    }
    found.is_ok()
}

fn forget(found: i32) {
    if found >= 0 {
        close(Fd(found));
    }
}

/// Where the generation is mapped; 0: nowhere.
static GENERATION_AT: AtomicUsize = AtomicUsize::new(0);

/// Puts memory in the place of a generation whose file has been cut, if that is what `address` lies in. Changes made through other runs
/// then count when leases end, like all from outside.
pub fn heal(address: usize) -> bool {
    if board::heal(address) {
        return true;
    }
    let at = GENERATION_AT.load(Ordering::Relaxed);
    if at == 0 || address & !(PAGE - 1) != at {
        return false;
    }
    // SAFETY: the generation's own page, which is used through atomics only.
    unsafe { replace_shared(at, PAGE) }.is_ok()
}

/// Makes sure that nothing faults while SIGBUS or SIGSEGV is blocked, when that would end the process: the generation, the clock.
pub fn probe() {
    clock::probe();
    board::probe();
    let at = GENERATION_AT.load(Ordering::Relaxed);
    if at != 0 && Memory::ByKernel.read_word(Address(at)).is_err() {
        heal(at);
    }
}

fn generation_at(start: *mut u8) -> &'static Generation {
    GENERATION_AT.store(start.addr(), Ordering::Relaxed);
    // SAFETY: a shared page that is never unmapped; the words lie behind the header, at a multiple of 8, and are atomics.
    unsafe { &*start.add(HEADER_LEN).cast::<Generation>() }
}

const _: () = assert!(HEADER_LEN.is_multiple_of(align_of::<Generation>()));

/// Whether there may be snapshots in the store of this run.
static MAY_HAVE_SNAPSHOTS: AtomicBool = AtomicBool::new(true);

/// Whether a snapshot is worth looking for.
#[must_use]
pub fn may_have_snapshots() -> bool {
    MAY_HAVE_SNAPSHOTS.load(Ordering::Relaxed)
}

/// The generation in this file.
fn open_generation(dir: &CStr, name: &str) -> Result<&'static Generation, Errno> {
    let fd = open(dir, name.as_bytes(), O_RDWR)?;
    // One byte more, to see that there is none.
    let mut whole = [0; GENERATION_LEN + 1];
    let len = pread(fd, &mut whole, 0);
    let is_one = len.is_ok_and(|len| {
        let head = whole.first_chunk();
        head.is_some_and(|head| Generation::check_file(head, len as u64).is_ok())
    });
    let mapped = if is_one {
        shared(fd, GENERATION_LEN)
    } else {
        Err(Errno::EINVAL)
    };
    close(fd);
    mapped.map(generation_at)
}

/// Makes the file and opens it. Whoever was first has made it: a file that is there and good is not replaced.
fn make_generation(dir: &CStr, name: &str, mode: usize) -> Result<&'static Generation, Errno> {
    let mut temporary = super::say::Line::new();
    temporary.put(format_args!("{name}.{}.tmp", getpid()));
    let (mut room, mut target) = ([0; PATH_MAX], [0; PATH_MAX]);
    let temporary = joined(dir, temporary.bytes(), &mut room)?;
    let target = joined(dir, name.as_bytes(), &mut target)?;
    let flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    let fd = openat(Fd::CWD, temporary, flags, mode)?;
    // Others than the one who made it count too, whatever the umask is.
    let _ = chmod(fd, mode);
    let now = wall_clock();
    let time_ns = (now.secs as u64).wrapping_mul(1_000_000_000) + now.nanos as u64;
    let written = write(fd, &Generation::new_file(time_ns));
    close(fd);
    let is_good = open_generation(dir, name).is_ok();
    let placed = match written {
        Ok(GENERATION_LEN) if !is_good => rename(temporary, target),
        Ok(_) => Err(Errno::EEXIST),
        Err(errno) => Err(errno),
    };
    if placed.is_err() {
        unlink(temporary);
    }
    open_generation(dir, name)
}

/// The generation that runs on this sysroot share: in the store; where that may not be written to, one of this user's; else one of this
/// process's and its children. And whether it is the store's.
fn generation(
    (dir, has_index): (&CStr, bool),
    run: &Inherited<'_>,
    make: bool,
) -> Option<(&'static Generation, bool)> {
    MAY_HAVE_SNAPSHOTS.store(true, Ordering::Relaxed);
    let of_store = |found: &'static Generation| {
        MAY_HAVE_SNAPSHOTS.store(found.may_have_snapshots(), Ordering::Relaxed);
        Some((found, true))
    };
    // Also where this run has no use for the index: others may.
    if let Ok(found) = open_generation(dir, names::GENERATION) {
        return of_store(found);
    }
    if make
        && has_index
        && let Ok(made) = make_generation(dir, names::GENERATION, 0o666)
    {
        // Only now: see `elfuse_format::generation::SNAPSHOTS`.
        if let Ok(snapshots) = open(dir, names::RESIDENT.as_bytes(), O_RDONLY) {
            close(snapshots);
            made.has_snapshots();
        }
        return of_store(made);
    }
    if !make {
        return None;
    }
    let mut name = super::say::Line::new();
    let user = getuid();
    name.put(format_args!(
        "elfuse-{user}-{:x}-{:x}",
        run.sysroot_dev, run.sysroot_ino
    ));
    let own = core::str::from_utf8(name.bytes()).ok().and_then(|name| {
        let dir = c"/dev/shm";
        open_generation(dir, name)
            .or_else(|_| make_generation(dir, name, 0o600))
            .ok()
    });
    match own {
        Some(own) => Some((own, false)),
        None => Some((generation_at(anonymous_shared(PAGE).ok()?), false)),
    }
}

/// Zeroed memory to be handed out in pieces, from signal handlers too.
fn room(arena: &mut Arena) -> Result<&'static IndexArena<'static>, Errno> {
    let room = anonymous(ROOM)?;
    let base = NonNull::from(room).cast();
    // SAFETY: fresh memory of the process's own, given away here.
    arena.place(unsafe { IndexArena::new(base, ROOM) })
}

/// A word of 0 that this process has in common with its children until they execute something.
#[must_use]
pub fn common_word() -> Option<&'static AtomicU64> {
    let at = anonymous_shared(PAGE).ok()?;
    // SAFETY: a zeroed page that is never unmapped, used through this atomic only.
    Some(unsafe { &*at.cast() })
}

/// Where the store of this run is.
///
/// # Errors
/// ENOMEM.
pub fn directory(arena: &mut Arena, run: &Inherited<'static>) -> Result<&'static CStr, Errno> {
    match run.index_dir {
        Some(dir) => arena.string(dir),
        None => {
            let bytes = arena.bytes(run.sysroot.len() + 1 + names::STORE.len() + 1)?;
            let (root, rest) = bytes.split_at_mut(run.sysroot.len());
            root.copy_from_slice(run.sysroot);
            rest[0] = b'/';
            rest[1..=names::STORE.len()].copy_from_slice(names::STORE);
            CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::EINVAL)
        }
    }
}

/// Whether nobody can write to the sysroot's file system.
fn is_on_an_image(run: &Inherited<'_>) -> bool {
    let mut room = [0; PATH_MAX];
    let kind = joined(
        c"",
        run.sysroot.strip_prefix(b"/").unwrap_or(b""),
        &mut room,
    )
    .and_then(file_system);
    let known = kind.ok().and_then(file_systems::known);
    known.is_some_and(|known| known.unchangeable)
}

/// Whether no run changes anything there, whichever index it goes by.
fn is_read_only(run: &Inherited<'_>) -> bool {
    const ST_RDONLY: u64 = 1;
    let mut room = [0; PATH_MAX];
    let path = run.sysroot.strip_prefix(b"/").unwrap_or(b"");
    let flags = joined(c"", path, &mut room).and_then(mount_flags);
    flags.is_ok_and(|flags| flags & ST_RDONLY != 0)
}

/// Lookup for this run, with the index if there is one that may be used; and where changes are announced. `dir`: the store; `most_files`: the
/// process's limit of descriptors.
///
/// # Errors
/// ENOMEM.
pub fn vfs(
    arena: &mut Arena,
    run: &Inherited<'static>,
    mounts: &'static Mounts<'static>,
    dir: &'static CStr,
    most_files: u64,
) -> Result<(Vfs<'static>, Option<&'static Coherence<'static>>), Errno> {
    let mut vfs = Vfs::new(mounts);
    if let Some(verdicts) = tell::verdicts() {
        vfs = vfs.with_verdicts(verdicts);
    }
    let mode = match run.coherence {
        Rule::Lease => Mode::Lease,
        Rule::Frozen => Mode::Frozen,
        Rule::Strict => Mode::Strict,
        Rule::Off => Mode::Off,
    };
    let files = match mode {
        Mode::Off => {
            forget(FOUND.swap(-1, Ordering::Relaxed));
            Err(Errno::ENOENT)
        }
        _ => Files::open(dir),
    };
    // Without an index of its own a run still tells the others what it changes.
    let is_there = files.is_ok();
    let Some((generation, is_of_tree)) = generation((dir, is_there), run, mode != Mode::Off) else {
        if let Ok(files) = files {
            files.close();
        }
        return Ok((vfs, None));
    };
    let coherence = arena.place(Coherence::new(mode, run.shadow, generation))?;
    if mode == Mode::Off {
        return Ok((vfs, Some(coherence)));
    }
    // Behind the generation, which every lookup reads, so that one page table is for both.
    let Ok(room) = room(arena) else {
        // As if there were no index: it costs speed.
        if let Ok(files) = files {
            files.close();
        }
        return Ok((vfs, Some(coherence)));
    };
    if let Some(prefixes) = Prefixes::new(room) {
        vfs = vfs.with_prefixes(prefixes);
    }
    let files = files.and_then(|files| arena.place(files));
    let catalogue = files.and_then(|files| {
        let catalogue = Catalogue::open_counted(files, room, tell::verdicts());
        let catalogue = catalogue.map_err(|_| Errno::EINVAL);
        let placed = catalogue.and_then(|catalogue| arena.place(catalogue));
        placed
            .map(|placed| (files, placed))
            .inspect_err(|_| files.close())
    });
    // What is large, and of which a start with an index touches nothing, comes last.
    if let Some(absences) = Absences::new(room) {
        vfs = vfs.with_absences(arena.place(absences)?, coherence);
    }
    let Ok((files, catalogue)) = catalogue else {
        return Ok((vfs, Some(coherence)));
    };
    // Those of a run before this one, if there was one.
    give_back();
    files.stay_open(catalogue, most_files);
    vfs = vfs.with_index(catalogue, coherence);
    if mode == Mode::Frozen
        && !run.shadow
        && (is_of_tree && run.index_dir.is_none() || is_read_only(run))
        && let Some(compared) = board::compared(arena, run, catalogue, coherence)
    {
        vfs = vfs.with_compared(compared);
    }
    let is_image = catalogue.is_of_an_image() && is_on_an_image(run);
    if (mode == Mode::Frozen || is_image)
        && let Some(attributes) = Attributes::new(catalogue, is_image)
    {
        vfs = vfs.with_attributes(arena.place(attributes)?);
    }
    Ok((vfs, Some(coherence)))
}
