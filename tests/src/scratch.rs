//! Small sysroots, made for a test and gone after it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use elfuse_format::sidecar::Kind;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use tempfile::TempDir;

use crate::elf::ElfFile;
use crate::invariant::Reader;
use crate::oracle::room::NOBODY;

/// An ELF file for a [`Scratch`].
#[derive(Debug, Clone, Default)]
pub struct Elf {
    file: ElfFile,
    filler: u64,
}

impl Elf {
    /// A library called `soname`.
    #[must_use]
    pub fn library(soname: &str) -> Self {
        let mut elf = Self::default();
        elf.file.soname = Some(soname.to_owned());
        elf
    }

    /// A program that is started by the loader at `interpreter`.
    #[must_use]
    pub fn program(interpreter: &str) -> Self {
        let mut elf = Self::default();
        elf.file.interpreter = Some(interpreter.to_owned());
        elf
    }

    /// Also needs `soname`.
    #[must_use]
    pub fn needing(mut self, soname: &str) -> Self {
        self.file.needed.push(soname.to_owned());
        self
    }

    /// With this `DT_RUNPATH`.
    #[must_use]
    pub fn with_runpath(mut self, runpath: &str) -> Self {
        self.file.runpath = Some(runpath.to_owned());
        self
    }

    /// With another content hash and else the same facts, the size included.
    #[must_use]
    pub fn with_filler(mut self, filler: u64) -> Self {
        self.filler = filler;
        self
    }

    /// The file.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.file.bytes();
        bytes.extend_from_slice(&self.filler.to_le_bytes());
        bytes
    }
}

/// A directory with a sysroot in it, and room beside.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    root: PathBuf,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// An empty sysroot on the file system of `TMPDIR`.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// An empty sysroot on a tmpfs, where there is one: for many small builds, each of which syncs its file system.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn in_memory() -> Self {
        let shared = Path::new("/dev/shm");
        match TempDir::new_in(shared) {
            Ok(_) => Self::within(shared),
            Err(_) => Self::new(),
        }
    }

    /// An empty sysroot below `parent`.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn within(parent: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("elfuse-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        // Others may look in: some tests run as nobody.
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let base = dir.path().canonicalize().expect("it was just made");
        let root = base.join("root");
        fs::create_dir(&root).expect("an empty directory");
        Self { dir, root }
    }

    /// A sysroot with a bit of everything that an index has to say something about.
    ///
    /// `usr/bin/prog` needs `liba.so.1` of `usr/lib`, which needs `libb.so.1` of `opt/lib`, found through its
    /// RUNPATH, in which the directory `first` is not there.
    #[must_use]
    pub fn with_programs() -> Self {
        Self::new().populated()
    }

    /// Adds what [`Scratch::with_programs`] has.
    #[must_use]
    pub fn populated(self) -> Self {
        let loader = "/lib64/ld-linux-x86-64.so.2";
        let prog = Elf::program(loader).needing("liba.so.1");
        self.elf("usr/bin/prog", &prog);
        self.file("usr/bin/script", "#!/bin/sh\necho script\n");
        self.elf(
            "usr/lib64/ld-linux-x86-64.so.2",
            &Elf::library("ld-linux-x86-64.so.2"),
        );
        self.elf("usr/lib64/liba.so.1.0", &liba());
        self.link("usr/lib64/liba.so.1", "liba.so.1.0");
        self.elf("opt/lib/libb.so.1", &Elf::library("libb.so.1"));
        self.file("etc/ld.so.conf", "/opt/lib\n");
        self.file("etc/motd", "hello\n");
        self.file("usr/share/doc/prog/README", "read me\n");
        self.directory("var/empty");
        self.link("lib64", "usr/lib64");
        self.link("bin", "usr/bin");
        self
    }

    /// The sysroot.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path beside the sysroot.
    #[must_use]
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.with_file_name(name)
    }

    /// A path in the sysroot.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Makes a directory and those above it.
    pub fn directory(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// Makes or overwrites, in place, a file.
    pub fn file(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("its directory");
        fs::write(&path, content).expect("a file");
        path
    }

    /// A file by a name that need not be UTF-8.
    pub fn named(&self, directory: &str, name: &[u8], content: impl AsRef<[u8]>) -> PathBuf {
        self.file(Path::new(directory).join(OsStr::from_bytes(name)), content)
    }

    /// An executable file.
    pub fn elf(&self, path: impl AsRef<Path>, elf: &Elf) -> PathBuf {
        let path = self.file(path, elf.bytes());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
        path
    }

    /// A symlink that says `target`.
    pub fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("its directory");
        symlink(target, &path).expect("a symlink");
        path
    }

    /// Kind of a path by the index in the tree, as a reader finds it.
    #[must_use]
    pub fn kind_of(&self, path: impl AsRef<Path>) -> Option<Kind> {
        let reader = Reader::open(&self.path(".elfuse"))?;
        let (_, entry) = reader.find(path.as_ref())?;
        entry.kind()
    }

    /// Whether the index in the tree has facts of a file.
    ///
    /// # Panics
    /// There is no index, or no such name in it.
    #[must_use]
    pub fn has_facts(&self, path: impl AsRef<Path>) -> bool {
        let reader = Reader::open(&self.path(".elfuse")).expect("an index");
        let (_, entry) = reader.find(path.as_ref()).expect("a name in the index");
        entry.elf().is_some()
    }

    /// Every file of the index in the tree, sorted.
    #[must_use]
    pub fn index_files(&self) -> Vec<PathBuf> {
        index_files(&self.root)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        forget_shared(&self.root);
        // What a test made unreadable cannot be removed otherwise.
        let unreadable = walkdir::WalkDir::new(self.dir.path()).into_iter();
        let unreadable = unreadable.filter_map(|entry| entry.err()?.path().map(Path::to_owned));
        for path in unreadable.collect::<Vec<_>>() {
            let _ = fs::set_permissions(path, PermissionsExt::from_mode(0o755));
        }
    }
}

/// What runs on a sysroot share by its identity, and would outlive it: what `user`'s runs have compared (with `-compared` as the suffix), and
/// how often guests have changed something, where the store cannot say (with none). It need not be there.
///
/// # Panics
/// There is no sysroot.
#[must_use]
pub fn shared(root: &Path, user: u32, suffix: &str) -> PathBuf {
    let found = fs::metadata(root).expect("a root");
    shared_of(&found, user, suffix)
}

fn shared_of(root: &fs::Metadata, user: u32, suffix: &str) -> PathBuf {
    let (device, inode) = (root.dev(), root.ino());
    format!("/dev/shm/elfuse-{user}-{device:x}-{inode:x}{suffix}").into()
}

/// Removes what runs on a sysroot share, of every user whom tests run something as. Before the sysroot goes.
pub fn forget_shared(root: &Path) {
    let Ok(found) = fs::metadata(root) else {
        return;
    };
    // In a user namespace the user is root.
    for user in [rustix::process::getuid().as_raw(), 0, NOBODY] {
        for suffix in ["", "-compared"] {
            // An error means that there is none.
            let _ = fs::remove_file(shared_of(&found, user, suffix));
        }
    }
}

/// The library that `usr/bin/prog` needs in [`Scratch::populated`].
#[must_use]
pub fn liba() -> Elf {
    let library = Elf::library("liba.so.1").needing("libb.so.1");
    library.with_runpath("/first:/opt/lib")
}

/// Copies a program that is going to be executed, with its permissions, to where nothing is or a file that it replaces.
///
/// Another process does it: a descriptor that is open for writing here would be inherited by what another thread starts meanwhile, and
/// as long as that has not executed its program the kernel refuses to execute the copy (`ETXTBSY`).
///
/// # Panics
/// It cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .args(["--preserve=mode", "--remove-destination", "--"])
        .args([from, to])
        .status();
    assert!(
        copied.as_ref().is_ok_and(ExitStatus::success),
        "copying {} to {}: {copied:?}",
        from.display(),
        to.display()
    );
}

/// Makes a FIFO, socket or device node.
///
/// # Errors
/// Those of mknod(2): only root makes device nodes other than 0:0.
pub fn make_node(path: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device)
}

/// Every file of an index in a tree, sorted: what lies in the store at its root, sidecars, and temporaries of both.
///
/// # Panics
/// The tree cannot be read.
#[must_use]
pub fn index_files(root: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter();
    let files = walk.map(|entry| {
        let entry = entry.expect("a tree that can be read");
        let path = entry.path().strip_prefix(root).expect("below the root");
        path.to_owned()
    });
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        path.starts_with(".elfuse") || is_sidecar_or_temporary(name)
    };
    files.filter(ours).collect()
}

/// Whether a name is one that an index uses in every directory.
#[must_use]
pub fn is_sidecar_or_temporary(name: &[u8]) -> bool {
    match name.strip_prefix(b".elfuse-sidecar-index") {
        Some(rest) => {
            rest.is_empty() || rest.len() > 4 && rest[0] == b'.' && rest.ends_with(b".tmp")
        }
        None => false,
    }
}

/// Gives a file, directory or symlink the mtime of an earlier state: what tar, rsync and liars do.
///
/// # Panics
/// It cannot be set.
pub fn set_mtime(path: &Path, (secs, nanos): (i64, i64)) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("setting a time");
}

/// What [`set_mtime`] takes.
///
/// # Panics
/// There is no such file.
#[must_use]
pub fn mtime(path: &Path) -> (i64, i64) {
    let found = fs::symlink_metadata(path).expect("a file");
    (found.mtime(), found.mtime_nsec())
}

/// Does something and gives a path its mtime back.
pub fn keeping_mtime<T>(path: &Path, change: impl FnOnce() -> T) -> T {
    let before = mtime(path);
    let done = change();
    set_mtime(path, before);
    done
}

/// Waits until what was changed up to now is no longer too young to be sealed.
pub fn age() {
    std::thread::sleep(Duration::from_millis(2100));
}

/// A number for a generator, printed: with `ELFUSE_TEST_SEED` set, that one.
///
/// # Panics
/// The variable is no number.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("ELFUSE_TEST_SEED") {
        Ok(text) => text.parse().expect("ELFUSE_TEST_SEED is a number"),
        Err(_) => {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| since.as_nanos() as u64)
        }
    };
    eprintln!("to run this again: ELFUSE_TEST_SEED={seed}");
    seed
}

/// SplitMix64: numbers that are the same on every machine for one seed.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// Tells another thread to end, when what it accompanies has ended or panicked: else a scope waits for it for ever.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Whether it was told.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Tells it when the value returned is dropped.
    #[must_use]
    pub fn at_end(&self) -> impl Drop + '_ {
        struct AtEnd<'a>(&'a Stop);
        impl Drop for AtEnd<'_> {
            fn drop(&mut self) {
                self.0.0.store(true, Ordering::Relaxed);
            }
        }
        AtEnd(self)
    }
}
