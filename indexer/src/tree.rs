//! The one view of a sysroot that the resolver works on, whether it is the live tree or a scan in memory.

#[cfg(test)]
pub(crate) mod memory;

use std::io;
use std::sync::Arc;

use elfuse_format::elf_facts::ElfFacts;
use rustix::io::Errno;

/// What a name stands for. Numbers are those of the sidecar format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A socket, FIFO or device node.
    Other = 4,
}

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
