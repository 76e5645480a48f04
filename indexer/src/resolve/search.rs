//! glibc's search: lists of directories, what is known of each, and the calls that opening a library costs.
//!
//! A directory is one record however many lists it is on. For every capability subdirectory of it ld.so remembers
//! whether it exists, asking with one `stat` after the first open that fails there, so that what one search learns
//! saves the next its calls. Counting probes exactly means keeping the same records.

use std::collections::HashMap;
use std::sync::Arc;

use elfuse_format::elf_facts::ElfFacts;
use rustix::io::Errno;

use crate::inspect;
use crate::resolve::constants::Constants;
use crate::resolve::{Call, Fatal, Probe, Stage, Try, Verdict, absolute};
use crate::tree::{Elf, Kind, Node, Tree};

/// A directory of [`Search`], shared by the lists it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DirectoryId(usize);

/// What is known of one subdirectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Unknown,
    Existing,
    Missing,
}

struct Directory {
    /// With its trailing slash; empty for the working directory.
    path: Vec<u8>,
    /// One for each of [`Search::subdirectories`].
    status: Vec<Status>,
}

/// Directories in the order they are searched.
#[derive(Debug, Clone, Default)]
pub struct List {
    elements: Vec<Element>,
}

#[derive(Debug, Clone)]
struct Element {
    directory: DirectoryId,
    written: Vec<u8>,
}

impl List {
    /// Whether there is nothing to search.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }
}

/// A file that was opened and may be loaded.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The path it was opened by.
    pub path: Vec<u8>,
    /// The file.
    pub node: Node,
    /// What it says of itself.
    pub facts: Arc<ElfFacts>,
}

/// Why nothing was opened, as far as the search has to know.
enum Refused {
    /// Go on; the call (or the check after it) left this error.
    Skip(Errno, Verdict),
    /// ld.so ends.
    Fatal(Fatal),
}

/// The state of all searches of one start.
pub struct Search<'a> {
    tree: &'a dyn Tree,
    cwd: &'a [u8],
    constants: &'a Constants,
    subdirectories: Vec<Vec<u8>>,
    directories: Vec<Directory>,
    by_path: HashMap<Vec<u8>, DirectoryId>,
    errno: Option<Errno>,
    /// Every call so far.
    pub probes: Vec<Probe>,
}

impl<'a> Search<'a> {
    /// Nothing searched yet. `subdirectories`: [`super::hwcaps::Cpu::subdirectories`].
    #[must_use]
    pub fn new(
        tree: &'a dyn Tree,
        cwd: &'a [u8],
        constants: &'a Constants,
        subdirectories: Vec<Vec<u8>>,
    ) -> Self {
        Self {
            tree,
            cwd,
            constants,
            subdirectories,
            directories: Vec::new(),
            by_path: HashMap::new(),
            errno: None,
            probes: Vec::new(),
        }
    }

    /// Makes a list of path elements, which are expanded already and kept beside what was written: trailing slashes
    /// do not matter, later mentions of a directory are dropped. An empty element is the working directory.
    pub fn list(&mut self, elements: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> List {
        let mut list = List::default();
        for (written, mut path) in elements {
            if !path.is_empty() {
                while path.len() > 1 && path.ends_with(b"/") {
                    path.pop();
                }
                if !path.ends_with(b"/") {
                    path.push(b'/');
                }
            }
            let directory = self.directory(path);
            if list
                .elements
                .iter()
                .all(|element| element.directory != directory)
            {
                list.elements.push(Element { directory, written });
            }
        }
        list
    }

    fn directory(&mut self, path: Vec<u8>) -> DirectoryId {
        if let Some(&known) = self.by_path.get(&path) {
            return known;
        }
        let id = DirectoryId(self.directories.len());
        // A relative directory is another one after chdir: nothing is remembered of it.
        let status = if path.starts_with(b"/") {
            Status::Unknown
        } else {
            Status::Existing
        };
        self.by_path.insert(path.clone(), id);
        self.directories.push(Directory {
            path,
            status: vec![status; self.subdirectories.len()],
        });
        id
    }

    /// Searches a list for `name`, noting in `stage` what was tried.
    ///
    /// # Errors
    /// A file that ends the search and the program.
    pub fn search(
        &mut self,
        name: &[u8],
        list: &List,
        stage: &mut Stage,
    ) -> Result<Option<Opened>, Fatal> {
        for element in &list.elements {
            let mut tried = Try {
                written: element.written.clone(),
                directory: self.directories[element.directory.0].path.clone(),
                files: Vec::new(),
            };
            let mut any_here = false;
            let mut found = None;
            for number in 0..self.subdirectories.len() {
                if self.directories[element.directory.0].status[number] == Status::Missing {
                    continue;
                }
                let mut directory = tried.directory.clone();
                directory.extend_from_slice(&self.subdirectories[number]);
                let path = [&directory[..], name].concat();
                let opened = match self.open(&path) {
                    Ok(opened) => Some(opened),
                    Err(Refused::Skip(errno, verdict)) => {
                        self.errno = Some(errno);
                        tried.files.push((path, verdict));
                        None
                    }
                    Err(Refused::Fatal(fatal)) => {
                        stage.tried.push(tried);
                        return Err(fatal);
                    }
                };
                if self.directories[element.directory.0].status[number] == Status::Unknown {
                    let exists = opened.is_some() || self.is_directory(directory);
                    self.directories[element.directory.0].status[number] = if exists {
                        Status::Existing
                    } else {
                        Status::Missing
                    };
                }
                any_here |= self.directories[element.directory.0].status[number] != Status::Missing;
                if let Some(opened) = opened {
                    tried.files.push((opened.path.clone(), Verdict::Taken));
                    found = Some(opened);
                    break;
                }
            }
            stage.tried.push(tried);
            if found.is_some() {
                return Ok(found);
            }
            // Anything but "not there" ends this list, though not the search.
            let ordinary = matches!(
                self.errno,
                None | Some(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR)
            );
            if any_here && !ordinary {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Opens `path`, noting it in `stage`; `None`: not there, or nothing for this program.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub fn open_path(&mut self, path: &[u8], stage: &mut Stage) -> Result<Option<Opened>, Fatal> {
        let (opened, verdict) = match self.open(path) {
            Ok(opened) => (Some(opened), Verdict::Taken),
            Err(Refused::Skip(errno, verdict)) => {
                self.errno = Some(errno);
                (None, verdict)
            }
            Err(Refused::Fatal(fatal)) => return Err(fatal),
        };
        stage.tried.push(Try {
            written: Vec::new(),
            directory: crate::tree::split(path)
                .map_or(&b"/"[..], |(directory, _)| directory)
                .to_vec(),
            files: vec![(path.to_vec(), verdict)],
        });
        Ok(opened)
    }

    /// Notes a call whose outcome is `errno`.
    pub fn note(&mut self, call: Call, path: &[u8], errno: Option<Errno>) {
        self.probes.push(Probe {
            call,
            path: path.to_vec(),
            errno,
        });
    }

    fn is_directory(&mut self, mut directory: Vec<u8>) -> bool {
        // Older versions cut the slash off. Of the root nothing is left then, and it counts as missing.
        if !self.constants.rules().stats_with_slash() {
            directory.pop();
        }
        let found = self.locate(&directory);
        self.note(Call::Stat, &directory, found.as_ref().err().copied());
        match found {
            Ok(node) => node.kind == Kind::Directory,
            Err(errno) => {
                self.errno = Some(errno);
                false
            }
        }
    }

    fn locate(&self, path: &[u8]) -> Result<Node, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        self.tree.locate(&absolute(self.cwd, path), true)
    }

    /// Opens a file and looks at its header, as ld.so does before it decides to load it.
    fn open(&mut self, path: &[u8]) -> Result<Opened, Refused> {
        let located = self.locate(path);
        let elf = match &located {
            Ok(node) if node.kind == Kind::File => Some(self.tree.elf(node)),
            _ => None,
        };
        let unreadable = match &elf {
            Some(Err(error)) => Some(Errno::from_io_error(error).unwrap_or(Errno::IO)),
            _ => None,
        };
        let errno = located.as_ref().err().copied().or(unreadable);
        self.note(Call::Open, path, errno);
        if let Some(errno) = errno {
            return Err(Refused::Skip(errno, Verdict::Errno(errno)));
        }
        let fatal = |text: &str| {
            Refused::Fatal(Fatal {
                object: path.to_vec(),
                text: text.to_owned(),
            })
        };
        let Ok(node) = located else {
            return Err(fatal("cannot open shared object file"));
        };
        let facts = match elf {
            Some(Ok(Elf::Facts(facts))) => facts,
            Some(Ok(Elf::Broken(why))) => return Err(fatal(broken_text(why))),
            Some(Ok(Elf::NotElf)) => {
                let short = self
                    .tree
                    .read(&node)
                    .is_ok_and(|bytes| bytes.len() < self.header_len());
                return Err(fatal(if short {
                    "file too short"
                } else {
                    "invalid ELF header"
                }));
            }
            _ if node.kind == Kind::Directory => {
                return Err(fatal("cannot read file data: Error 21"));
            }
            _ => return Err(fatal("cannot read file data")),
        };
        match suits(&facts, self.constants) {
            Ok(()) => Ok(Opened {
                path: path.to_vec(),
                node,
                facts,
            }),
            Err(Unsuited::Skip(verdict)) => Err(Refused::Skip(Errno::NOENT, verdict)),
            Err(Unsuited::Fatal(why)) => Err(fatal(why)),
        }
    }

    fn header_len(&self) -> usize {
        if self.constants.class == 1 { 52 } else { 64 }
    }
}

enum Unsuited {
    Skip(Verdict),
    Fatal(&'static str),
}

/// Whether an ELF file is one for the dynamic linker with these constants. What is for another class or machine is passed
/// over; other oddities are reported, since they hint at a broken installation.
fn suits(facts: &ElfFacts, own: &Constants) -> Result<(), Unsuited> {
    const OSABI_SYSV: u8 = 0;
    const OSABI_GNU: u8 = 3;
    /// `EI_ABIVERSION` from which on `OSABI_GNU` files need a newer glibc than there is.
    const GNU_ABI_END: u8 = 4;
    const ET_EXEC: u16 = 2;
    const ET_DYN: u16 = 3;
    // ld.so reads the field in its own byte order.
    let machine = if facts.data == own.data {
        facts.machine
    } else {
        facts.machine.swap_bytes()
    };
    let other_machine = machine != own.machine
        || abi_of(facts.machine, facts.e_flags) != abi_of(own.machine, own.e_flags);
    if facts.class != own.class {
        return Err(Unsuited::Skip(Verdict::OtherClass));
    }
    if other_machine && own.machine_first {
        return Err(Unsuited::Skip(Verdict::OtherMachine));
    }
    if facts.data != own.data {
        return Err(Unsuited::Fatal(if own.data == 2 {
            "ELF file data encoding not big-endian"
        } else {
            "ELF file data encoding not little-endian"
        }));
    }
    if !matches!(facts.os_abi, OSABI_SYSV | OSABI_GNU) {
        return Err(Unsuited::Fatal("ELF file OS ABI invalid"));
    }
    let abi_version_end = if facts.os_abi == OSABI_GNU {
        GNU_ABI_END
    } else {
        1
    };
    if facts.abi_version >= abi_version_end {
        return Err(Unsuited::Fatal("ELF file ABI version invalid"));
    }
    if other_machine {
        return Err(Unsuited::Skip(Verdict::OtherMachine));
    }
    if !matches!(facts.elf_type, ET_DYN | ET_EXEC) {
        return Err(Unsuited::Fatal("only ET_DYN and ET_EXEC can be loaded"));
    }
    Ok(())
}

/// ld.so's words for what [`crate::inspect`] found.
fn broken_text(why: &'static str) -> &'static str {
    match why {
        inspect::BAD_IDENT_VERSION => "ELF file version ident does not match current one",
        inspect::BAD_VERSION => "ELF file version does not match current one",
        inspect::BAD_SEGMENT_SIZE => "ELF file's phentsize not the expected size",
        inspect::SEGMENTS_OUTSIDE => "cannot read file data",
        other => other,
    }
}

/// The part of `e_flags` that makes a file one for another machine.
fn abi_of(machine: u16, e_flags: u32) -> u32 {
    const EM_RISCV: u16 = 243;
    const EM_LOONGARCH: u16 = 258;
    match machine {
        // Which registers floating-point arguments are in.
        EM_RISCV => e_flags & 6,
        EM_LOONGARCH => e_flags & 7,
        _ => 0,
    }
}
