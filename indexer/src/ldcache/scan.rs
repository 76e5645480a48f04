//! Which libraries `ldconfig -r SYSROOT` would list, found without creating a link or running anything.
//!
//! ```text
//! ld.so.conf and built-in directories, each inode once
//!   -> subdirectories of glibc-hwcaps, and before glibc 2.37 those named after capabilities
//!   -> per directory: names that look like libraries -> one per SONAME
//!   -> rows
//! ```

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use elfuse_format::elf_facts::{ElfFacts, flags};
use elfuse_format::ld_so_cache::{Flags, Need, Row, compare_names};
use rayon::prelude::*;
use serde::Serialize;

use super::machine::Machine;
use crate::report::Bytes;
use crate::resolve::conf::{LD_SO_CONF, LdSoConf, LibraryType};
use crate::resolve::constants::Version;
use crate::tree::{Elf, Kind, Node, Tree};
use crate::warning::{Warning, Warnings};

/// `e_type` of shared objects and position-independent programs.
const ET_DYN: u16 = 3;

/// Which ldconfig to be like.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// The architecture. `None`: that of the sysroot's own ldconfig, or else of its C library.
    pub machine: Option<Machine>,
    /// The built-in directories. `None`: Debian's if its multiarch directories are there, upstream's otherwise.
    pub system_directories: Option<Vec<Vec<u8>>>,
    /// The version of glibc it is of. `None`: as the sysroot's C library says, and where it does not, the newest.
    pub glibc: Option<Version>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The rows, directory by directory.
    pub rows: Vec<Row>,
    /// The directories searched, in order.
    pub directories: Vec<Vec<u8>>,
    /// Links that ldconfig would create; without them some rows name files that are not there.
    pub missing_links: Vec<MissingLink>,
}

/// A link from a SONAME to the library that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingLink {
    /// Where it should be.
    pub path: Bytes,
    /// The name beside it that it should lead to.
    pub target: Bytes,
}

/// Searches `tree`. What cannot be read or followed is counted in `warnings` and left out.
pub fn scan(tree: &dyn Tree, options: &ScanOptions, warnings: &Warnings) -> Scan {
    let conf = LdSoConf::read(tree, LD_SO_CONF);
    for problem in &conf.problems {
        let place = format!("line {}: {}", problem.line, problem.what);
        warnings.add(Warning::ConfigurationIgnored, &problem.file, place);
    }
    let machine = options.machine.or_else(|| machine_of(tree));
    let system = match &options.system_directories {
        Some(given) => given.clone(),
        None => system_directories(tree, machine),
    };
    let glibc = options
        .glibc
        .or_else(|| glibc_version(tree, &system))
        .unwrap_or(Version::NEWEST);

    let mut scanner = Scanner {
        tree,
        warnings,
        machine,
        legacy: glibc.has_legacy_hwcaps(),
        directories: Vec::new(),
        queued: HashMap::new(),
        missing_links: Vec::new(),
    };
    for configured in conf.directories {
        scanner.add(configured.path, configured.library_type);
    }
    for path in system {
        scanner.add(path, None);
    }
    let mut rows = Vec::new();
    let mut next = 0;
    // Searching a directory can add others at the end.
    while let Some(directory) = scanner.directories.get(next).cloned() {
        rows.extend(scanner.search(&directory));
        next += 1;
    }
    Scan {
        rows,
        directories: scanner
            .directories
            .into_iter()
            .map(|directory| directory.path)
            .collect(),
        missing_links: scanner.missing_links,
    }
}

/// A directory to be searched.
#[derive(Debug, Clone)]
struct Directory {
    /// As the configuration spells it: the rows say it so.
    path: Vec<u8>,
    node: Node,
    library_type: Option<LibraryType>,
    /// The name below `glibc-hwcaps`, if it is such a one.
    hwcaps: Option<Vec<u8>>,
}

/// A file that looks like a library, or a directory that libraries are in.
enum Candidate {
    Library(Library),
    Subdirectory(Node),
}

struct Library {
    name: Vec<u8>,
    soname: Vec<u8>,
    /// A link whose name is a SONAME or that is for the link editor; other links count as files.
    is_link: bool,
    node: Node,
    flags: Flags,
    isa_level: u16,
}

struct Scanner<'t> {
    tree: &'t dyn Tree,
    warnings: &'t Warnings,
    machine: Option<Machine>,
    /// Before glibc 2.37: directories like `haswell` are searched, and i386 libraries are told apart by C library.
    legacy: bool,
    directories: Vec<Directory>,
    /// Where in `directories` each is, by device and inode.
    queued: HashMap<(u64, u64), usize>,
    missing_links: Vec<MissingLink>,
}

impl Scanner<'_> {
    /// Where nothing says which, x86-64: it only decides what capabilities are called.
    fn machine_or_default(&self) -> Machine {
        self.machine.unwrap_or(Machine::X86_64)
    }

    /// Queues `path` with its `glibc-hwcaps` subdirectories, unless it is there under another name.
    fn add(&mut self, path: Vec<u8>, library_type: Option<LibraryType>) {
        let Some(node) = directory(self.tree, &path) else {
            return;
        };
        if !self.queue(Directory {
            path: path.clone(),
            node,
            library_type,
            hwcaps: None,
        }) {
            return;
        }
        let hwcaps = join(&path, b"glibc-hwcaps");
        let Some(node) = directory(self.tree, &hwcaps) else {
            return;
        };
        for name in self.names(&node) {
            // ld.so could not be told of a name with a colon.
            if name.starts_with(b".") || name.contains(&b':') {
                continue;
            }
            let path = join(&hwcaps, &name);
            if let Some(node) = directory(self.tree, &path) {
                self.queue(Directory {
                    path,
                    node,
                    library_type,
                    hwcaps: Some(name),
                });
            }
        }
    }

    fn queue(&mut self, directory: Directory) -> bool {
        match self.queued.entry(directory.node.id) {
            Entry::Occupied(known) => {
                // The first name stays, the last type counts.
                self.directories[*known.get()].library_type = directory.library_type;
                false
            }
            Entry::Vacant(free) => {
                free.insert(self.directories.len());
                self.directories.push(directory);
                true
            }
        }
    }

    fn names(&self, node: &Node) -> Vec<Vec<u8>> {
        self.tree.names(node).unwrap_or_else(|error| {
            self.warnings
                .add(Warning::UnreadableDirectory, &node.real, error);
            Vec::new()
        })
    }

    fn search(&mut self, directory: &Directory) -> Vec<Row> {
        let names = self.names(&directory.node);
        let this = &*self;
        let candidates: Vec<_> = names
            .into_par_iter()
            .map(|name| (this.examine(directory, &name), name))
            .collect();

        let mut libraries: Vec<Library> = Vec::new();
        let mut of_soname: HashMap<Vec<u8>, usize> = HashMap::new();
        for (candidate, name) in candidates {
            match candidate {
                None => {}
                Some(Candidate::Subdirectory(node)) => {
                    let path = join(&directory.path, &name);
                    self.queue(Directory {
                        path,
                        node,
                        library_type: directory.library_type,
                        hwcaps: None,
                    });
                }
                Some(Candidate::Library(library)) => match of_soname.get(&library.soname) {
                    None => {
                        of_soname.insert(library.soname.clone(), libraries.len());
                        libraries.push(library);
                    }
                    Some(&earlier) => {
                        let earlier = &mut libraries[earlier];
                        let newer = library.is_link == earlier.is_link
                            && compare_names(&earlier.name, &library.name).is_lt();
                        if newer || (!library.is_link && earlier.is_link) {
                            // The flags stay those of the first: ldconfig only warns when they differ.
                            *earlier = Library {
                                flags: earlier.flags,
                                ..library
                            };
                        }
                    }
                },
            }
        }
        // ldconfig keeps a list to whose head it adds.
        libraries
            .into_iter()
            .rev()
            .map(|library| self.row(directory, library))
            .collect()
    }

    fn row(&mut self, directory: &Directory, library: Library) -> Row {
        let (file, need) = match &directory.hwcaps {
            // Not the SONAME: ldconfig makes no links there.
            Some(hwcaps) => {
                let need = Need::Named {
                    directory: hwcaps.clone(),
                    isa_level: library.isa_level,
                };
                (library.name, need)
            }
            None => {
                if !library.is_link {
                    self.check_link(directory, &library);
                }
                let bits = self.machine_or_default().capabilities_of(&directory.path);
                let need = if self.legacy && bits != 0 {
                    Need::Legacy(bits)
                } else {
                    Need::Any
                };
                (library.soname.clone(), need)
            }
        };
        Row {
            value: join(&directory.path, &file),
            key: library.soname,
            flags: library.flags,
            need,
            os_version: 0,
        }
    }

    fn check_link(&mut self, directory: &Directory, library: &Library) {
        let path = join(&directory.path, &library.soname);
        if library.soname != library.name
            && !self
                .tree
                .locate(&path, true)
                .is_ok_and(|node| node.id == library.node.id)
        {
            self.missing_links.push(MissingLink {
                path: Bytes(path),
                target: Bytes(library.name.clone()),
            });
        }
    }

    fn examine(&self, directory: &Directory, name: &[u8]) -> Option<Candidate> {
        let path = join(&directory.path, name);
        let here = self.tree.locate(&path, false).ok()?;
        let is_capability = directory.hwcaps.is_none()
            && self.legacy
            && self.machine_or_default().is_capability(name);
        if !looks_like_library(name)
            && (here.kind == Kind::File || (directory.hwcaps.is_none() && !is_capability))
        {
            return None;
        }
        if is_temporary_of_prelink(name) {
            return None;
        }
        let node = match here.kind {
            Kind::Symlink => self.tree.locate(&path, true).ok()?,
            _ => here.clone(),
        };
        match node.kind {
            Kind::Directory if is_capability => return Some(Candidate::Subdirectory(node)),
            Kind::File => {}
            _ => return None,
        }
        let facts = self.facts(&path, &node)?;
        let flags = self.wanted(directory, &facts)?;
        let own = facts.soname.as_deref().unwrap_or(name);
        // A link counts as one if its name is the SONAME, or is the SONAME's beginning up to `.so`: what the link editor
        // uses. Every other link stands for a file.
        let is_link = here.kind == Kind::Symlink
            && (own == name || (name.ends_with(b".so") && own.starts_with(name)));
        let soname = if is_link { name } else { own }.to_vec();
        Some(Candidate::Library(Library {
            name: name.to_vec(),
            soname,
            is_link,
            node,
            flags,
            isa_level: isa_level(&facts),
        }))
    }

    fn facts(&self, path: &[u8], node: &Node) -> Option<std::sync::Arc<ElfFacts>> {
        match self.tree.elf(node) {
            Ok(Elf::Facts(facts)) if facts.flags & flags::DAMAGED == 0 => Some(facts),
            Ok(Elf::Facts(_)) => {
                self.warnings.add(
                    Warning::BrokenElf,
                    path,
                    "a string of its dynamic section is outside of it",
                );
                None
            }
            Ok(Elf::Broken(what)) => {
                self.warnings.add(Warning::BrokenElf, path, what);
                None
            }
            Ok(Elf::NotElf) => None,
            Err(error) => {
                self.warnings.add(Warning::UnreadableFile, path, error);
                None
            }
        }
    }

    /// The flags of a library for this cache. `None`: none of ours.
    fn wanted(&self, directory: &Directory, facts: &ElfFacts) -> Option<Flags> {
        let machine = Machine(facts.machine);
        let ours = self.machine.is_none_or(|ours| ours.takes(machine));
        if !ours || facts.elf_type != ET_DYN || facts.flags & flags::DYNAMIC == 0 {
            return None;
        }
        let flags = Flags::of_elf(facts.class, facts.machine, facts.e_flags)?;
        if machine != Machine::I386 || !self.legacy {
            return Some(flags);
        }
        Some(match (flags_of_libc(facts), directory.library_type) {
            (Flags::ELF, Some(LibraryType::Libc5)) => Flags::LIBC5,
            (Flags::ELF, Some(LibraryType::Libc6)) => Flags::LIBC6,
            (found, _) => found,
        })
    }
}

/// For which C library an i386 object was made, as far as what it asks for tells.
fn flags_of_libc(facts: &ElfFacts) -> Flags {
    match facts.interpreter.as_deref() {
        Some(b"/lib/ld-linux.so.2") => return Flags::LIBC6,
        Some(b"/lib/ld-linux.so.1") => return Flags::LIBC5,
        _ => {}
    }
    let known = facts.needed.iter().find_map(|name| match name.as_slice() {
        b"libc.so.6" | b"libm.so.6" => Some(Flags::LIBC6),
        b"libc.so.5" | b"libm.so.5" => Some(Flags::LIBC5),
        _ => None,
    });
    known.unwrap_or(Flags::ELF)
}

/// Number of the highest ISA level that an x86 library says it needs.
pub(super) fn isa_level(facts: &ElfFacts) -> u16 {
    let highest = facts.x86_isa_needed.checked_ilog2().unwrap_or(0);
    u16::try_from(highest).unwrap_or(u16::MAX)
}

fn directory(tree: &dyn Tree, path: &[u8]) -> Option<Node> {
    tree.locate(path, true)
        .ok()
        .filter(|node| node.kind == Kind::Directory)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    [directory, b"/", name].concat()
}

/// `lib*.so*`, `ld-*.so*`, and the loaders `ld.so.*` and `ld64.so.*`.
fn looks_like_library(name: &[u8]) -> bool {
    let has_so = || name.windows(3).any(|three| three == b".so");
    ((name.starts_with(b"lib") || name.starts_with(b"ld-")) && has_so())
        || name.starts_with(b"ld.so.")
        || name.starts_with(b"ld64.so.")
}

/// `*.#prelink#` and `*.#prelink#.XXXXXX`.
fn is_temporary_of_prelink(name: &[u8]) -> bool {
    const MARK: &[u8] = b".#prelink#";
    name.ends_with(MARK)
        || name
            .len()
            .checked_sub(7)
            .is_some_and(|end| name[end] == b'.' && name[..end].ends_with(MARK))
}

/// The architecture of whoever runs ldconfig there.
fn machine_of(tree: &dyn Tree) -> Option<Machine> {
    let triplets = [
        Machine::X86_64,
        Machine::AARCH64,
        Machine::I386,
        Machine::ARM,
    ];
    let ldconfig = [
        "/sbin/ldconfig.real",
        "/sbin/ldconfig",
        "/usr/sbin/ldconfig",
    ]
    .map(|path| path.as_bytes().to_vec());
    let multiarch = triplets
        .into_iter()
        .flat_map(Machine::triplets)
        .map(|triplet| join(b"/lib", &join(triplet, b"libc.so.6")));
    let plain = ["/lib64/libc.so.6", "/lib/libc.so.6", "/usr/lib/libc.so.6"]
        .map(|path| path.as_bytes().to_vec());
    ldconfig
        .into_iter()
        .chain(multiarch)
        .chain(plain)
        .find_map(|path| {
            let node = tree
                .locate(&path, true)
                .ok()
                .filter(|node| node.kind == Kind::File)?;
            match tree.elf(&node) {
                Ok(Elf::Facts(facts)) => Some(Machine(facts.machine)),
                _ => None,
            }
        })
}

fn system_directories(tree: &dyn Tree, machine: Option<Machine>) -> Vec<Vec<u8>> {
    let machine = machine.unwrap_or(Machine::X86_64);
    let multiarch = machine.triplets().find(|triplet| {
        ["/lib", "/usr/lib"]
            .iter()
            .any(|base| directory(tree, &join(base.as_bytes(), triplet)).is_some())
    });
    match multiarch {
        // Debian's ldconfig has the multiarch directories compiled in, and then only these two.
        Some(triplet) => vec![
            join(b"/lib", triplet),
            join(b"/usr/lib", triplet),
            b"/lib".to_vec(),
            b"/usr/lib".to_vec(),
        ],
        None => machine.system_directories(),
    }
}

/// The version of the sysroot's glibc, from the banner in its `libc.so.6`.
fn glibc_version(tree: &dyn Tree, directories: &[Vec<u8>]) -> Option<Version> {
    const BANNER: &[u8] = b"release version 2.";
    let libc = directories.iter().find_map(|directory| {
        let node = tree.locate(&join(directory, b"libc.so.6"), true).ok()?;
        (node.kind == Kind::File).then_some(node)
    })?;
    let bytes = tree.read(&libc).ok()?;
    let at = bytes
        .windows(BANNER.len())
        .position(|window| window == BANNER)?
        + BANNER.len();
    let digits = bytes[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .take(4);
    let minor = digits.fold(None, |number, digit| {
        Some(number.unwrap_or(0) * 10 + u32::from(digit - b'0'))
    })?;
    Some(Version { major: 2, minor })
}
