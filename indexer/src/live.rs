//! [`Tree`] over a real directory: what a question is answered from when there is no index.
//!
//! Every path is resolved name by name with descriptors below the root's, and no call follows a symlink, so that
//! nothing outside the sysroot is reached whatever its links say. Answers are kept for the life of the value: one
//! question asks for the same few directories thousands of times, and sees one state of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use elfuse_format::names::is_reserved;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::inspect::inspect_without_hash;
use crate::tree::{Elf, Kind, MAX_READ, Node, Step, Tree, split, walk};

/// How a directory is opened to look things up in it. Linux needs no read permission for that.
#[cfg(target_os = "linux")]
const LOOKUP: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const LOOKUP: OFlags = OFlags::RDONLY;

/// The most directories kept open; programs may be limited to 1,024 descriptors.
const MAX_OPEN: usize = 256;

/// A sysroot on disk.
pub struct LiveTree {
    path: PathBuf,
    root_fd: OwnedFd,
    root: Node,
    known: Mutex<Known>,
}

/// What the names of one directory are, as far as they were asked for.
type Steps = HashMap<Vec<u8>, Result<Step, Errno>>;

/// What was already asked. Errors are answers too.
#[derive(Default)]
struct Known {
    paths: HashMap<(Vec<u8>, bool), Result<Node, Errno>>,
    steps: HashMap<Arc<[u8]>, Steps>,
    directories: HashMap<Arc<[u8]>, Arc<OwnedFd>>,
    elf: HashMap<Arc<[u8]>, Elf>,
}

impl LiveTree {
    /// The tree whose root is `path`.
    ///
    /// # Errors
    /// What opening `path` as a directory gives.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The sysroot itself may be given through a symlink; what is below may not leave it.
        let root_fd = rustix::fs::open(
            path,
            LOOKUP | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = rustix::fs::fstat(&root_fd)?;
        let root = Node {
            real: Arc::from(&b"/"[..]),
            kind: Kind::Directory,
            id: identity(&stat),
        };
        Ok(Self {
            path: path.to_owned(),
            root_fd,
            root,
            known: Mutex::default(),
        })
    }

    /// Where the sysroot lies on the host.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file of the tree for reading; never waits for the other end of a FIFO.
    ///
    /// # Errors
    /// What opening it gives, `EINVAL` where it is no regular file (any more).
    pub fn open_file(&self, node: &Node) -> io::Result<File> {
        let (parent, name) = split(&node.real).ok_or(Errno::ISDIR)?;
        let directory = self.directory(&mut self.known(), parent)?;
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory.as_fd(), name, flags, Mode::empty())?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    /// Nothing is half done while the lock is held, so a panic elsewhere does not spoil what is known.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A descriptor of the directory whose path without symlinks is `real`.
    fn directory(&self, known: &mut Known, real: &[u8]) -> Result<Descriptor<'_>, Errno> {
        if let Some(open) = known.directories.get(real) {
            return Ok(Descriptor::Kept(Arc::clone(open)));
        }
        let Some((parent, name)) = split(real) else {
            return Ok(Descriptor::Root(self.root_fd.as_fd()));
        };
        // As deep as the path has names, which PATH_MAX bounds to 2,048.
        let parent = self.directory(known, parent)?;
        let flags = LOOKUP | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = Arc::new(rustix::fs::openat(
            parent.as_fd(),
            name,
            flags,
            Mode::empty(),
        )?);
        if known.directories.len() >= MAX_OPEN {
            known.directories.clear();
        }
        known.directories.insert(real.into(), Arc::clone(&open));
        Ok(Descriptor::Kept(open))
    }

    fn step(&self, known: &mut Known, directory: &Node, name: &[u8]) -> Result<Step, Errno> {
        if let Some(answer) = known
            .steps
            .get(&directory.real)
            .and_then(|names| names.get(name))
        {
            return answer.clone();
        }
        let answer = self.ask(known, directory, name);
        let names = known.steps.entry(Arc::clone(&directory.real)).or_default();
        names.insert(name.to_vec(), answer.clone());
        answer
    }

    fn ask(&self, known: &mut Known, directory: &Node, name: &[u8]) -> Result<Step, Errno> {
        if is_reserved(name, &*directory.real == b"/") {
            return Err(Errno::NOENT);
        }
        let fd = self.directory(known, &directory.real)?;
        let stat = rustix::fs::statat(fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        };
        let target = match kind {
            Kind::Symlink => rustix::fs::readlinkat(fd.as_fd(), name, Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        Ok(Step {
            node: Node {
                real: crate::tree::join(&directory.real, name).into(),
                kind,
                id: identity(&stat),
            },
            target: target.into(),
        })
    }
}

impl Tree for LiveTree {
    fn locate(&self, path: &[u8], follow: bool) -> Result<Node, Errno> {
        let mut known = self.known();
        let question = (path.to_vec(), follow);
        if let Some(answer) = known.paths.get(&question) {
            return answer.clone();
        }
        let answer = walk(&self.root, path, follow, |directory, name| {
            self.step(&mut known, directory, name)
        });
        known.paths.insert(question, answer.clone());
        answer
    }

    fn elf(&self, node: &Node) -> io::Result<Elf> {
        if let Some(elf) = self.known().elf.get(&node.real) {
            return Ok(elf.clone());
        }
        let elf = inspect_without_hash(&self.open_file(node)?)?;
        self.known().elf.insert(Arc::clone(&node.real), elf.clone());
        Ok(elf)
    }

    fn read(&self, node: &Node) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self
            .open_file(node)?
            .take(MAX_READ + 1)
            .read_to_end(&mut bytes)?;
        if read as u64 > MAX_READ {
            return Err(Errno::FBIG.into());
        }
        Ok(bytes)
    }

    fn names(&self, node: &Node) -> io::Result<Vec<Vec<u8>>> {
        let directory = self.directory(&mut self.known(), &node.real)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut names = Vec::new();
        for entry in Dir::new(rustix::fs::openat(
            directory.as_fd(),
            c".",
            flags,
            Mode::empty(),
        )?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !is_reserved(name, &*node.real == b"/") {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// A directory to look things up in.
enum Descriptor<'a> {
    Root(BorrowedFd<'a>),
    Kept(Arc<OwnedFd>),
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Kept(fd) => fd.as_fd(),
        }
    }
}

fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    // st_dev is a signed 32-bit number on macOS and an unsigned 64-bit one on Linux.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    (stat.st_dev as u64, stat.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree_with(build: impl Fn(&Path)) -> (tempfile::TempDir, LiveTree) {
        let directory = tempfile::tempdir().unwrap();
        build(directory.path());
        let tree = LiveTree::open(directory.path()).unwrap();
        (directory, tree)
    }

    fn real(tree: &LiveTree, path: &str) -> Result<String, Errno> {
        tree.locate(path.as_bytes(), true)
            .map(|node| String::from_utf8(node.real.to_vec()).unwrap())
    }

    #[test]
    fn symlinks_stay_inside_the_sysroot() {
        let (_guard, tree) = tree_with(|root| {
            std::fs::create_dir_all(root.join("usr/lib")).unwrap();
            std::fs::write(root.join("usr/lib/a"), "").unwrap();
            symlink("/usr/lib", root.join("lib")).unwrap();
            symlink("../../../../usr", root.join("usr/lib/up")).unwrap();
        });
        assert_eq!(real(&tree, "/lib/a"), Ok("/usr/lib/a".into()));
        assert_eq!(real(&tree, "/lib/up/lib/a"), Ok("/usr/lib/a".into()));
        assert_eq!(real(&tree, "/../../usr"), Ok("/usr".into()));
        assert_eq!(real(&tree, "//usr///lib/"), Ok("/usr/lib".into()));
    }

    #[test]
    fn errors_are_those_of_the_kernel() {
        let (_guard, tree) = tree_with(|root| {
            std::fs::write(root.join("file"), "").unwrap();
            symlink("loop", root.join("loop")).unwrap();
            symlink("nowhere", root.join("dangling")).unwrap();
        });
        assert_eq!(real(&tree, ""), Err(Errno::NOENT));
        assert_eq!(real(&tree, "/file/"), Err(Errno::NOTDIR));
        assert_eq!(real(&tree, "/file/."), Err(Errno::NOTDIR));
        assert_eq!(real(&tree, "/file/.."), Err(Errno::NOTDIR));
        assert_eq!(real(&tree, "/file/x"), Err(Errno::NOTDIR));
        assert_eq!(real(&tree, "/loop"), Err(Errno::LOOP));
        assert_eq!(real(&tree, "/dangling"), Err(Errno::NOENT));
        assert_eq!(
            tree.locate(b"/dangling", false).unwrap().kind,
            Kind::Symlink
        );
        assert_eq!(
            real(&tree, &format!("/{}", "n".repeat(256))),
            Err(Errno::NAMETOOLONG)
        );
        assert_eq!(real(&tree, &"/n".repeat(2048)), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn forty_symlinks_are_followed_and_one_more_is_not() {
        let (_guard, tree) = tree_with(|root| {
            std::fs::write(root.join("0"), "").unwrap();
            for n in 1..=41 {
                symlink((n - 1).to_string(), root.join(n.to_string())).unwrap();
            }
        });
        assert_eq!(real(&tree, "/40"), Ok("/0".into()));
        assert_eq!(real(&tree, "/41"), Err(Errno::LOOP));
    }

    #[test]
    fn the_files_of_the_index_are_invisible() {
        let (_guard, tree) = tree_with(|root| {
            std::fs::create_dir(root.join(".elfuse")).unwrap();
            std::fs::write(root.join(".elfuse-sidecar-index"), "").unwrap();
            std::fs::write(root.join("seen"), "").unwrap();
        });
        let root = tree.locate(b"/", true).unwrap();
        assert_eq!(tree.names(&root).unwrap(), [b"seen".to_vec()]);
        assert_eq!(real(&tree, "/.elfuse"), Err(Errno::NOENT));
        assert_eq!(real(&tree, "/.elfuse-sidecar-index"), Err(Errno::NOENT));
    }
}
