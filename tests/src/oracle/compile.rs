//! The programs that cases run, compiled, and the program under test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use object::{Object as _, ObjectSymbol as _};

use crate::need;
use crate::scratch::copy_program;

/// The programs for a test of this package.
#[macro_export]
macro_rules! oracle_programs {
    () => {
        $crate::oracle::compile::Programs::new(
            env!("CARGO_TARGET_TMPDIR"),
            env!("CARGO_BIN_EXE_elfuse-index-under-test"),
        )
    };
}

/// Where programs are that are run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The compiled programs of the cases, each under its name.
    pub directory: PathBuf,
    /// `cases/enter.c`.
    pub enter: PathBuf,
    /// `elfuse`; for `run` it needs nothing beside it.
    pub elfuse: PathBuf,
    /// `elfuse-index`.
    pub index: PathBuf,
}

/// Compilers run one at a time: tests are threads of one process, and processes take turns by cargo's own lock.
static COMPILING: Mutex<()> = Mutex::new(());

impl Programs {
    /// For [`oracle_programs!`](crate::oracle_programs).
    ///
    /// # Panics
    /// Something cannot be compiled.
    #[must_use]
    pub fn new(scratch: &str, index: &str) -> Self {
        let _alone = COMPILING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let index = PathBuf::from(index);
        let target = Path::new(scratch).parent().expect("the target directory");
        let profile = index.parent().expect("the profile's directory");
        let directory = Path::new(scratch).join("oracle");
        fs::create_dir_all(&directory).expect("a directory for compiled programs");
        let programs = Self {
            enter: directory.join("enter"),
            elfuse: elfuse(target, profile),
            index,
            directory,
        };
        programs.compile_calls(&["-static"]);
        programs.compile("enter.c", "enter", &[]);
        programs
    }

    /// `cases/calls`, without a libc: each call reaches the kernel as the script has it.
    fn compile_calls(&self, linked: &[&str]) {
        let freestanding = [
            "-nostdlib",
            "-nostartfiles",
            "-ffreestanding",
            "-fno-stack-protector",
            "-fno-asynchronous-unwind-tables",
        ];
        let entry = format!("-DENTRY={:#x}", self.entry_address());
        let flags: Vec<_> = linked
            .iter()
            .chain(&freestanding)
            .copied()
            .chain([entry.as_str()])
            .collect();
        self.compile("calls", "calls", &flags);
    }

    /// The same programs, those of the cases with a dynamic linker; and libraries of this machine, given by their paths below its root.
    ///
    /// # Panics
    /// Something cannot be compiled, or is not there.
    #[must_use]
    pub fn dynamic(&self, libraries: &[&str]) -> Self {
        let _alone = COMPILING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = self.directory.join("dynamic");
        fs::create_dir_all(&directory).expect("a directory for compiled programs");
        let programs = Self {
            directory,
            ..self.clone()
        };
        let linked = ["-pie", "-fPIE"];
        programs.compile_calls(&linked);
        programs.compile("process", "process", &linked);
        for library in libraries {
            programs.take(&Path::new("/").join(library));
        }
        programs
    }

    /// Puts a copy of a library of this machine among the programs, unless that was done.
    fn take(&self, library: &Path) {
        let name = library.file_name().expect("a name");
        let (copy, mut unfinished) = (self.directory.join(name), self.directory.join(name));
        unfinished.set_extension("unfinished");
        let content =
            fs::read(library).unwrap_or_else(|error| panic!("{}: {error}", library.display()));
        if fs::read(&copy).is_ok_and(|copied| copied == content) {
            return;
        }
        copy_program(
            &library.canonicalize().expect("it was just read"),
            &unfinished,
        );
        fs::rename(&unfinished, &copy).expect("putting it in place");
    }

    /// `elfuse-tools`, built beside `elfuse`, which finds it there.
    ///
    /// # Panics
    /// It cannot be built.
    pub fn build_tools(&self) {
        let profile = self.index.parent().expect("the profile's directory");
        let target = profile.parent().expect("the target directory");
        cargo_build("elfuse-tools", target, profile);
    }

    /// Where `elfuse` is entered from patched sites.
    ///
    /// # Panics
    /// It has no such symbol.
    #[must_use]
    pub fn entry_address(&self) -> u64 {
        let bytes = fs::read(&self.elfuse).expect("the program under test");
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let symbol = file.symbol_by_name("elfuse_patched_entry");
        symbol.expect("the entry's symbol").address()
    }

    /// Compiles `cases/source`, a file or all files of a directory, unless that was done.
    ///
    /// # Panics
    /// It cannot be compiled.
    pub fn compile(&self, source: &str, name: &str, flags: &[&str]) {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
        let files = files_of(&cases.join(source));
        let (code, headers): (Vec<_>, Vec<_>) = files.iter().partition(|file| {
            file.extension()
                .is_some_and(|kind| kind == "c" || kind == "cpp")
        });
        let mut hash = blake3::Hasher::new();
        for file in code.iter().chain(&headers) {
            hash.update(&fs::read(file).expect("a source file"));
        }
        hash.update(flags.join(" ").as_bytes());
        let stamp = self.directory.join(format!("{name}.stamp"));
        let made_of = hash.finalize().to_hex().to_string();
        if fs::read_to_string(&stamp).is_ok_and(|stamped| stamped == made_of) {
            return;
        }
        let unfinished = self
            .directory
            .join(format!("{name}.{}", std::process::id()));
        let is_cpp = code
            .iter()
            .any(|file| file.extension() == Some(OsStr::new("cpp")));
        let (compiler, standard) = if is_cpp {
            (need::tool("g++", "g++"), "-std=gnu++17")
        } else {
            (need::tool("cc", "gcc libc6-dev"), "-std=gnu11")
        };
        let status = Command::new(compiler)
            .args([
                standard, "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o",
            ])
            .arg(&unfinished)
            .args(&code)
            .args(flags)
            .status();
        let compiled = status.is_ok_and(|status| status.success());
        assert!(compiled, "{source} cannot be compiled: see above");
        fs::rename(&unfinished, self.directory.join(name)).expect("putting it in place");
        fs::write(&stamp, made_of).expect("its stamp");
    }
}

fn files_of(source: &Path) -> Vec<PathBuf> {
    let is_alone = source.is_file();
    let directory = if is_alone {
        source.parent().expect("a directory of sources")
    } else {
        source
    };
    let files = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("the sources in {}: {error}", source.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a name").path()).collect();
    if is_alone {
        // What it includes lies beside it.
        files.retain(|file| file == source || file.extension() == Some(OsStr::new("h")));
    }
    files.sort();
    files
}

/// Builds `elfuse`. Cargo tells a test only of the binaries of its own package, and a freestanding one must not be built with
/// that package's features.
fn elfuse(target: &Path, profile: &Path) -> PathBuf {
    if let Some(given) = std::env::var_os("ELFUSE_ORACLE_ELFUSE") {
        return given.into();
    }
    cargo_build("elfuse-launcher", target, profile);
    profile.join("elfuse")
}

fn cargo_build(package: &str, target: &Path, profile: &Path) {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo
        .args(["build", "--quiet", "-p", package])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.file_name() == Some(OsStr::new("release")) {
        cargo.arg("--release");
    }
    let status = cargo.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "the program under test cannot be built: {cargo:?} ended with {status:?}"
    );
}
