//! The one view of a sysroot that the resolver works on, whether it is the live tree or a scan in memory.

#[cfg(test)]
pub(crate) mod memory;

use std::io;
use std::sync::Arc;

use elfuse_format::elf_facts::ElfFacts;
pub use elfuse_format::sidecar::Kind;
use rustix::io::Errno;

/// The largest configuration file that is read. A real `ld.so.cache` has some hundred kilobytes.
pub const MAX_READ: u64 = 256 << 20;

/// A place in the tree, all symlinks resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Absolute guest path without symlinks, `.` or `..`, and without a trailing slash unless it is the root.
    pub real: Arc<[u8]>,
    /// What it is; [`Kind::Symlink`] only where the caller asked not to follow.
    pub kind: Kind,
    /// (device, inode): two names of one file have the same. What ld.so deduplicates by.
    pub id: (u64, u64),
}

/// What opening a file as an ELF object gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elf {
    /// Well-formed enough to state facts.
    Facts(Arc<ElfFacts>),
    /// Does not start with the ELF magic number.
    NotElf,
    /// Starts as ELF and is too short or contradicts itself. The text says what is wrong.
    Broken(&'static str),
}

/// A sysroot as its guest sees it: absolute symlinks start at its root and `..` stops there.
pub trait Tree: Sync {
    /// Resolves `path` (absolute) from the root. With `follow` a final symlink is followed too.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` (over 40 symlinks), `ENAMETOOLONG`, `EACCES`, as the kernel would give them.
    fn locate(&self, path: &[u8], follow: bool) -> Result<Node, Errno>;

    /// What the file is to the dynamic linker.
    ///
    /// # Errors
    /// What opening or reading it gives.
    fn elf(&self, node: &Node) -> io::Result<Elf>;

    /// The whole content of a (configuration) file.
    ///
    /// # Errors
    /// What opening or reading it gives.
    fn read(&self, node: &Node) -> io::Result<Vec<u8>>;

    /// The names in a directory, byte-sorted, without `.`, `..` and our reserved names.
    ///
    /// # Errors
    /// What opening or reading it gives.
    fn names(&self, node: &Node) -> io::Result<Vec<Vec<u8>>>;
}

/// The longest path the kernel takes, with its NUL.
pub const PATH_MAX: usize = 4096;

/// The most symlinks one resolution crosses.
pub const MAX_SYMLINKS: usize = 40;

/// What a single name in a directory is: the answer to one step of [`walk`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Kind and identity of the name itself, never of what a symlink leads to.
    pub node: Node,
    /// The text of a symlink; empty for anything else.
    pub target: Arc<[u8]>,
}

/// Resolves `path` as the kernel does for a process whose root is the tree: an absolute symlink starts at the root again,
/// `..` stops there. `lookup` says what one name (never empty, `.` or `..`) in one directory is; it does not follow.
///
/// Every implementation of [`Tree`] goes through here, so that they cannot disagree on symlinks.
///
/// # Errors
/// As [`Tree::locate`], and what `lookup` gives.
pub fn walk(
    root: &Node,
    path: &[u8],
    follow: bool,
    mut lookup: impl FnMut(&Node, &[u8]) -> Result<Step, Errno>,
) -> Result<Node, Errno> {
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    if path.len() >= PATH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    // Directories from the root to where the walk is: `..` is the last but one.
    let mut chain = vec![root.clone()];
    // What is still to walk, the next piece last. A symlink's text is pushed on top of what followed the symlink.
    let mut rest: Vec<Arc<[u8]>> = vec![path.into()];
    let mut symlinks = 0;
    while let Some(piece) = rest.pop() {
        let Some(start) = piece.iter().position(|&b| b != b'/') else {
            continue;
        };
        let here = &piece[start..];
        let (name, after) = match here.iter().position(|&b| b == b'/') {
            Some(end) => (&here[..end], &here[end..]),
            None => (here, &[][..]),
        };
        // "a/" asks for a directory although nothing follows the slash.
        let is_last = after.is_empty() && rest.is_empty();
        if !after.is_empty() {
            rest.push(after.into());
        }
        let Some(directory) = chain.last() else {
            return Err(Errno::NOENT);
        };
        if directory.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        match name {
            b"." => {}
            b".." => {
                if chain.len() > 1 {
                    chain.pop();
                }
            }
            _ => {
                let step = lookup(directory, name)?;
                if step.node.kind == Kind::Symlink && (!is_last || follow) {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(Errno::LOOP);
                    }
                    if step.target.is_empty() {
                        return Err(Errno::NOENT);
                    }
                    if step.target.first() == Some(&b'/') {
                        chain.truncate(1);
                    }
                    rest.push(step.target);
                } else if step.node.kind != Kind::Directory && !is_last {
                    return Err(Errno::NOTDIR);
                } else {
                    chain.push(step.node);
                }
            }
        }
    }
    chain.pop().ok_or(Errno::NOENT)
}

/// `directory` and `name` as one path.
#[must_use]
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Directory and last name of an absolute path without trailing slash; `None` for the root.
#[must_use]
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|&b| b == b'/')?;
    let name = &path[slash + 1..];
    if name.is_empty() {
        return None;
    }
    Some((if slash == 0 { b"/" } else { &path[..slash] }, name))
}
