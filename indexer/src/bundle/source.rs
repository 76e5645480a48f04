//! Where a bundle comes from: a tree whose paths are walked with a record of every symlink crossed.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;

use crate::live::LiveTree;
use crate::options::Sysroot;
use crate::tree::{Kind, Node, Step, Tree, join, walk};

/// The running system, or another sysroot.
pub(super) struct Source {
    tree: LiveTree,
    root: PathBuf,
}

/// A path followed to its end.
pub(super) struct Walked {
    /// What it leads to.
    pub node: Node,
    /// (path without symlinks above it, text) of every symlink on the way.
    pub symlinks: Vec<(Arc<[u8]>, Vec<u8>)>,
}

impl Source {
    pub(super) fn open(sysroot: &Sysroot) -> io::Result<Source> {
        Ok(Source {
            tree: LiveTree::open(sysroot.root())?,
            root: sysroot.root().to_owned(),
        })
    }

    /// For the resolver.
    pub(super) fn tree(&self) -> &LiveTree {
        &self.tree
    }

    /// Follows `path` to its end. The symlinks crossed are kept even if it leads nowhere.
    pub(super) fn walk(&self, path: &[u8]) -> Result<Walked, Errno> {
        let root = self.tree.locate(b"/", true)?;
        let mut symlinks: Vec<(Arc<[u8]>, Vec<u8>)> = Vec::new();
        let node = walk(&root, path, true, |directory, name| {
            let node = self.tree.locate(&join(&directory.real, name), false)?;
            let mut target = Vec::new();
            if node.kind == Kind::Symlink {
                target = self.link_text(&node)?;
                symlinks.push((Arc::clone(&node.real), target.clone()));
            }
            Ok(Step {
                node,
                target: target.into(),
            })
        })?;
        Ok(Walked { node, symlinks })
    }

    /// The text of a symlink.
    pub(super) fn link_text(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        let target = std::fs::read_link(self.host_path(&node.real));
        let target = target.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(target.into_os_string().into_vec())
    }

    /// Whether `path` leads to anything.
    pub(super) fn exists(&self, path: &[u8]) -> bool {
        self.tree.locate(path, true).is_ok()
    }

    /// Whether `path` itself is a symlink.
    pub(super) fn is_symlink(&self, path: &[u8]) -> bool {
        self.tree
            .locate(path, false)
            .is_ok_and(|node| node.kind == Kind::Symlink)
    }

    /// Whether `path` leads to a directory.
    pub(super) fn is_directory(&self, path: &[u8]) -> bool {
        self.tree
            .locate(path, true)
            .is_ok_and(|node| node.kind == Kind::Directory)
    }

    /// Whether `path` leads to a regular file.
    pub(super) fn is_file(&self, path: &[u8]) -> bool {
        self.tree
            .locate(path, true)
            .is_ok_and(|node| node.kind == Kind::File)
    }

    /// The whole content of a configuration file, if `path` leads to one that can be read.
    pub(super) fn read(&self, path: &[u8]) -> Option<Vec<u8>> {
        let node = self.tree.locate(path, true).ok()?;
        if node.kind == Kind::File {
            self.tree.read(&node).ok()
        } else {
            None
        }
    }

    /// The first `limit` bytes of a file.
    pub(super) fn read_start(&self, node: &Node, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(node)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Names in a directory; none if it cannot be listed.
    pub(super) fn names(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let directory = self.tree.locate(path, true).ok();
        directory
            .and_then(|node| self.tree.names(&node).ok())
            .unwrap_or_default()
    }

    pub(super) fn open_file(&self, node: &Node) -> io::Result<File> {
        self.tree.open_file(node)
    }

    /// Mode and times of what is at `real`, a path without symlinks.
    pub(super) fn metadata(&self, real: &[u8]) -> io::Result<Metadata> {
        self.host_path(real).symlink_metadata()
    }

    fn host_path(&self, real: &[u8]) -> PathBuf {
        self.root
            .join(OsStr::from_bytes(real.strip_prefix(b"/").unwrap_or(real)))
    }
}
