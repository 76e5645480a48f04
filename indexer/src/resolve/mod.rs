//! Which files a dynamic linker would load for a program, why, and what it asks the kernel on the way.
//!
//! Pure functions over a [`Tree`]: the same code answers for a live directory, for an index, and for tests. glibc
//! ([`glibc`]) and musl ([`musl`]) search by different rules; what is common to both is here. Of each program the
//! interpreter in its own tree is read for the constants compiled into it ([`constants`]), not executed.
//!
//! | module | what |
//! |---|---|
//! | [`glibc`] | loading: breadth-first, preloads, filters, duplicates |
//! | [`search`] | glibc's search lists and the probes each costs |
//! | [`tokens`] | `$ORIGIN`, `$LIB`, `$PLATFORM` |
//! | [`hwcaps`] | the processor, and the subdirectories searched for its sake |
//! | [`constants`] | version, directories and paths compiled into an ld.so |
//! | [`conf`], [`glob`] | `/etc/ld.so.conf` and the patterns in it |
//! | [`musl`] | the other dynamic linker |

pub mod conf;
pub mod constants;
pub mod glibc;
pub mod glob;
pub mod hwcaps;
pub mod musl;
pub mod search;
pub mod tokens;

use std::sync::Arc;

use elfuse_format::elf_facts::{ElfFacts, flags};
use rustix::io::Errno;

use crate::resolve::constants::{Constants, Family, Loaders};
use crate::resolve::hwcaps::Cpu;
use crate::tree::{Elf, Kind, Node, Tree};

/// A program or library, and the circumstances it is started in.
#[derive(Debug, Clone)]
pub struct Question {
    /// Absolute guest path.
    pub program: Vec<u8>,
    /// Who starts it.
    pub start: Start,
    /// `LD_LIBRARY_PATH`.
    pub library_path: Option<Vec<u8>>,
    /// `LD_PRELOAD`.
    pub preload: Option<Vec<u8>>,
    /// Guest directory that relative paths are taken from.
    pub cwd: Vec<u8>,
    /// The processor it runs on.
    pub cpu: Cpu,
}

impl Question {
    /// `program` started from `/` on this machine's processor, with an empty environment.
    #[must_use]
    pub fn new(program: impl Into<Vec<u8>>) -> Self {
        Self {
            program: program.into(),
            start: Start::Usual,
            library_path: None,
            preload: None,
            cwd: b"/".to_vec(),
            cpu: Cpu::host(),
        }
    }
}

/// Who maps the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The kernel when it names an interpreter; else, as it must be a library, the usual interpreter of its machine.
    Usual,
    /// This interpreter, called with the program as its argument.
    By(Vec<u8>),
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It is linked dynamically.
    Linked(Box<Linked>),
    /// No dynamic linker has anything to do with it. The text says why.
    NotLinked(NotLinked),
}

/// Why a file is not linked dynamically.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLinked {
    /// No interpreter and no dynamic section.
    #[error("statically linked: it has no interpreter and needs no library")]
    Static,
    /// No interpreter, relocates itself.
    #[error("statically linked, position-independent: it relocates itself and needs no library")]
    StaticPie,
    /// Not something that is run or loaded.
    #[error("an ELF file of type {0}, neither a program nor a shared library")]
    Type(u16),
    /// Starts with `#!`.
    #[error("a script; the kernel runs {} instead", String::from_utf8_lossy(.0))]
    Script(Vec<u8>),
    /// Anything else.
    #[error("not an ELF file")]
    NotElf,
    /// ELF and damaged.
    #[error("a broken ELF file: {0}")]
    Broken(&'static str),
}

/// Why there is no answer at all.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The program is not there.
    #[error("{} in the sysroot: {errno}", String::from_utf8_lossy(.path))]
    Locate {
        /// What was looked for.
        path: Vec<u8>,
        /// What the lookup gave.
        errno: Errno,
    },
    /// It is there and cannot be read.
    #[error("reading {} in the sysroot: {source}", String::from_utf8_lossy(.path))]
    Read {
        /// What was read.
        path: Vec<u8>,
        /// What reading gave.
        source: std::io::Error,
    },
}

/// Number of an [`Object`] in [`Linked::objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub usize);

impl ObjectId {
    /// The program itself.
    pub const MAIN: ObjectId = ObjectId(0);
}

/// What the dynamic linker did.
#[derive(Debug, Clone)]
pub struct Linked {
    /// The dynamic linker.
    pub loader: Loader,
    /// Everything it knows of, the program first. Not-found libraries have no file.
    pub objects: Vec<Object>,
    /// The list that `LD_TRACE_LOADED_OBJECTS` prints, without the program and the vDSO.
    pub order: Vec<ObjectId>,
    /// Every request, in the order they were made.
    pub edges: Vec<Edge>,
    /// Every call that names a path, in the order they were made.
    pub probes: Vec<Probe>,
    /// What the dynamic linker gave up with.
    pub fatal: Option<Fatal>,
}

impl Linked {
    /// The object of that number.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> &Object {
        &self.objects[id.0]
    }

    /// How the first request that brought `id` in was answered.
    #[must_use]
    pub fn first_edge_to(&self, id: ObjectId) -> Option<&Edge> {
        self.edges.iter().find(|edge| edge.to == Some(id))
    }
}

/// The dynamic linker of an answer.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Its path, as `PT_INTERP` has it, or as it was called.
    pub path: Vec<u8>,
    /// Whether that path leads to a file in the sysroot. Otherwise [`Constants`] are the usual ones of its machine.
    pub exists: bool,
    /// What is compiled into it.
    pub constants: Constants,
}

/// The dynamic linker's error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// The file it is about, as the dynamic linker names it.
    pub object: Vec<u8>,
    /// What is wrong with it.
    pub text: String,
}

/// What an object is to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The program.
    Main,
    /// The dynamic linker itself.
    Interpreter,
    /// A library.
    Library,
    /// A name that no file was found for.
    Missing,
}

/// One loaded file, or a name that there is no file for.
#[derive(Debug, Clone)]
pub struct Object {
    /// What it is to the program.
    pub role: Role,
    /// The name it was first asked for by.
    pub name: Vec<u8>,
    /// The path it was opened by, symlinks and `..` and all. Empty for [`Role::Missing`].
    pub path: Vec<u8>,
    /// The file; `None` for [`Role::Missing`] and for an interpreter that the sysroot does not hold.
    pub node: Option<Node>,
    /// Its facts.
    pub facts: Arc<ElfFacts>,
    /// Who asked first.
    pub loader: Option<ObjectId>,
}

/// Why an object is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// `DT_NEEDED`.
    Needed,
    /// `DT_AUXILIARY`.
    Auxiliary,
    /// `DT_FILTER`.
    Filter,
    /// `LD_PRELOAD`.
    Preload,
    /// `/etc/ld.so.preload`.
    PreloadFile,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Who asks.
    pub from: ObjectId,
    /// Why.
    pub tie: Tie,
    /// For what, `$ORIGIN` and the like expanded.
    pub name: Vec<u8>,
    /// The answer. `None`: a preload or filter that was ignored, or the dynamic linker gave up.
    pub to: Option<ObjectId>,
    /// Where that came from.
    pub found: Found,
    /// Where it was looked for, in order; the last stage is the one that had it, if any.
    pub stages: Vec<Stage>,
}

/// Where an answer came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing was opened: an object of that name or SONAME was there already.
    Loaded,
    /// Opened, and it was a file that is loaded already under another name.
    SameFile(Source),
    /// Opened.
    Opened(Source),
    /// Not found.
    Missing,
}

/// A rule by which directories are searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The name is a path.
    Path,
    /// `DT_RPATH` of this object.
    Rpath(ObjectId),
    /// `LD_LIBRARY_PATH`.
    LibraryPath,
    /// `DT_RUNPATH` of the requester; for musl, of this object, which the requester may have inherited it from.
    Runpath(ObjectId),
    /// `ld.so.cache`.
    Cache,
    /// The directories compiled in.
    Default,
    /// `/etc/ld-musl-ARCH.path`.
    MuslPath,
    /// musl is its own libc, libpthread and so on.
    Itself,
}

/// One rule being tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The rule.
    pub source: Source,
    /// What it came down to.
    pub tried: Vec<Try>,
}

/// One directory of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// The element of the list as it is written; empty where there is none.
    pub written: Vec<u8>,
    /// The directory it stands for. Empty: the working directory.
    pub directory: Vec<u8>,
    /// What was opened there, hwcaps subdirectories first; none where the directory is known not to be there.
    pub files: Vec<(Vec<u8>, Verdict)>,
}

/// What opening a candidate came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Taken.
    Taken,
    /// Could not be opened.
    Errno(Errno),
    /// Of the other class; passed over.
    OtherClass,
    /// Of another machine; passed over.
    OtherMachine,
}

/// A system call that names a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Which.
    pub call: Call,
    /// The path as the dynamic linker gives it.
    pub path: Vec<u8>,
    /// The error it ends with.
    pub errno: Option<Errno>,
}

/// The system calls a dynamic linker asks about paths with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// `access`.
    Access,
    /// `openat` (`open` where there is one and the dynamic linker uses it).
    Open,
    /// `newfstatat`, `stat` and their kin.
    Stat,
    /// `readlink`.
    Readlink,
}

impl Call {
    /// As `strace` has it on x86-64.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Open => "openat",
            Self::Stat => "newfstatat",
            Self::Readlink => "readlink",
        }
    }
}

/// Answers `question` for the program in `tree`.
///
/// # Errors
/// The program is not in the tree or cannot be read. What goes wrong while it is linked is part of the answer.
pub fn resolve(tree: &dyn Tree, question: &Question) -> Result<Outcome, ResolveError> {
    resolve_with(tree, question, &Loaders::default())
}

/// As [`resolve`], for many programs of one tree: dynamic linkers are read once.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(
    tree: &dyn Tree,
    question: &Question,
    loaders: &Loaders,
) -> Result<Outcome, ResolveError> {
    let locate = |path: &[u8]| {
        tree.locate(path, true)
            .map_err(|errno| ResolveError::Locate {
                path: path.to_vec(),
                errno,
            })
    };
    let program = &question.program;
    let read_error = |source| ResolveError::Read {
        path: program.clone(),
        source,
    };
    let node = locate(&question.program)?;
    if node.kind != Kind::File {
        let errno = if node.kind == Kind::Directory {
            Errno::ISDIR
        } else {
            Errno::INVAL
        };
        return Err(read_error(errno.into()));
    }
    let facts = match tree.elf(&node).map_err(read_error)? {
        Elf::Facts(facts) => facts,
        Elf::Broken(why) => return Ok(Outcome::NotLinked(NotLinked::Broken(why))),
        Elf::NotElf => return Ok(Outcome::NotLinked(script_or_other(tree, &node))),
    };
    if let Some(why) = not_linked(&facts, &question.start) {
        return Ok(Outcome::NotLinked(why));
    }
    let (path, mapped_by_kernel) = match (&question.start, &facts.interpreter) {
        (Start::By(path), _) => (path.clone(), false),
        (Start::Usual, Some(path)) => (path.clone(), true),
        (Start::Usual, None) => (constants::usual_interpreter(tree, &facts), false),
    };
    let loader = loaders.get(tree, path, &facts);
    let question = &Question {
        cpu: question.cpu.seen_from(loader.constants.machine),
        ..question.clone()
    };
    let main = Main {
        node,
        facts,
        mapped_by_kernel,
    };
    Ok(Outcome::Linked(Box::new(match loader.constants.family {
        Family::Glibc => glibc::link(tree, question, loader, main),
        Family::Musl => musl::link(tree, question, loader, main),
    })))
}

/// The program, found and read.
#[derive(Debug, Clone)]
pub struct Main {
    /// Where it is.
    pub node: Node,
    /// What it is.
    pub facts: Arc<ElfFacts>,
    /// Whether the kernel maps it, and not its dynamic linker.
    pub mapped_by_kernel: bool,
}

fn not_linked(facts: &ElfFacts, start: &Start) -> Option<NotLinked> {
    const ET_EXEC: u16 = 2;
    const ET_DYN: u16 = 3;
    if facts.elf_type != ET_EXEC && facts.elf_type != ET_DYN {
        return Some(NotLinked::Type(facts.elf_type));
    }
    if facts.interpreter.is_some() && *start == Start::Usual {
        return None;
    }
    if facts.flags & flags::DYNAMIC == 0 {
        return Some(NotLinked::Static);
    }
    // The interpreter itself is such an object too, and so is a library that needs nothing: only the PIE flag tells.
    if facts.interpreter.is_none() && facts.flags & flags::PIE != 0 && facts.needed.is_empty() {
        return Some(NotLinked::StaticPie);
    }
    None
}

fn script_or_other(tree: &dyn Tree, node: &Node) -> NotLinked {
    let Ok(bytes) = tree.read(node) else {
        return NotLinked::NotElf;
    };
    let Some(rest) = bytes.strip_prefix(b"#!") else {
        return NotLinked::NotElf;
    };
    let line = rest.split(|&b| b == b'\n').next().unwrap_or_default();
    NotLinked::Script(line.trim_ascii().to_vec())
}

/// `path` as an absolute one.
fn absolute(cwd: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        path.to_vec()
    } else {
        crate::tree::join(cwd, path)
    }
}

/// The name of an error that path lookups end with, as `errno(3)` has it; others are `E` and their number.
#[must_use]
pub fn errno_name(errno: Errno) -> std::borrow::Cow<'static, str> {
    let names = [
        (Errno::NOENT, "ENOENT"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::ACCESS, "EACCES"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::PERM, "EPERM"),
        (Errno::NXIO, "ENXIO"),
    ];
    match names.iter().find(|(known, _)| *known == errno) {
        Some((_, name)) => (*name).into(),
        None => format!("E{}", errno.raw_os_error()).into(),
    }
}
