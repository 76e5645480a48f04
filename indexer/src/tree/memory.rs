//! A tree in memory, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use elfuse_format::elf_facts::{ElfFacts, flags};
use rustix::io::Errno;

use super::{Elf, Kind, Node, Step, Tree, join, walk};

#[derive(Debug, Clone)]
enum Item {
    Directory,
    Symlink(Vec<u8>),
    File(Vec<u8>),
    Library(Arc<ElfFacts>),
}

/// Paths and what is there; directories come by themselves.
#[derive(Debug, Default)]
pub(crate) struct MemoryTree {
    items: BTreeMap<Vec<u8>, (u64, Item)>,
}

impl MemoryTree {
    /// One row a file: `(path, "-> target")` is a symlink, `(path, "/")` an empty directory, `(path, "elf SONAME")` an
    /// x86-64 library (`elf` alone: without SONAME), everything else a file with that content.
    pub(crate) fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> MemoryTree {
        let mut tree = MemoryTree::default();
        tree.insert(b"/".to_vec(), Item::Directory);
        for (path, what) in files {
            let item = if what == "/" {
                Item::Directory
            } else if let Some(target) = what.strip_prefix("-> ") {
                Item::Symlink(target.as_bytes().to_vec())
            } else if let Some(soname) = what.strip_prefix("elf") {
                Item::Library(Arc::new(library(soname.trim())))
            } else {
                Item::File(what.as_bytes().to_vec())
            };
            tree.insert(path.as_bytes().to_vec(), item);
        }
        tree
    }

    /// Changes the facts of a library.
    pub(crate) fn adjust(&mut self, path: &str, change: impl FnOnce(&mut ElfFacts)) {
        let Some((_, Item::Library(facts))) = self.items.get_mut(path.as_bytes()) else {
            panic!("{path} is no library");
        };
        change(Arc::make_mut(facts));
    }

    fn insert(&mut self, path: Vec<u8>, item: Item) {
        for (at, _) in path
            .iter()
            .enumerate()
            .filter(|&(at, &byte)| at > 0 && byte == b'/')
        {
            let parent = path[..at].to_vec();
            let number = self.items.len() as u64;
            self.items
                .entry(parent)
                .or_insert((number, Item::Directory));
        }
        let number = self.items.len() as u64;
        self.items.insert(path, (number, item));
    }

    fn item(&self, node: &Node) -> io::Result<&Item> {
        let found = self.items.get(node.real.as_ref());
        found
            .map(|(_, item)| item)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn node(&self, real: &[u8]) -> Option<(Node, &Item)> {
        let (number, item) = self.items.get(real)?;
        let node = Node {
            real: real.into(),
            kind: match item {
                Item::Directory => Kind::Directory,
                Item::Symlink(_) => Kind::Symlink,
                Item::File(_) | Item::Library(_) => Kind::File,
            },
            id: (1, *number),
        };
        Some((node, item))
    }
}

/// Facts of an x86-64 library.
fn library(soname: &str) -> ElfFacts {
    ElfFacts {
        class: 2,
        data: 1,
        elf_type: 3,
        machine: 62,
        flags: flags::DYNAMIC,
        soname: (!soname.is_empty()).then(|| soname.as_bytes().to_vec()),
        ..ElfFacts::default()
    }
}

impl Tree for MemoryTree {
    fn locate(&self, path: &[u8], follow: bool) -> Result<Node, Errno> {
        let (root, _) = self.node(b"/").ok_or(Errno::NOENT)?;
        walk(&root, path, follow, |directory, name| {
            let (node, item) = self
                .node(&join(&directory.real, name))
                .ok_or(Errno::NOENT)?;
            let target = match item {
                Item::Symlink(target) => target.as_slice().into(),
                _ => [].into(),
            };
            Ok(Step { node, target })
        })
    }

    fn elf(&self, node: &Node) -> io::Result<Elf> {
        Ok(match self.item(node)? {
            Item::Library(facts) => Elf::Facts(Arc::clone(facts)),
            _ => Elf::NotElf,
        })
    }

    fn read(&self, node: &Node) -> io::Result<Vec<u8>> {
        match self.item(node)? {
            Item::File(content) => Ok(content.clone()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn names(&self, node: &Node) -> io::Result<Vec<Vec<u8>>> {
        let prefix: &[u8] = if node.real.as_ref() == b"/" {
            b""
        } else {
            &node.real
        };
        let below = self
            .items
            .keys()
            .filter_map(|path| path.strip_prefix(prefix)?.strip_prefix(b"/"));
        let names = below
            .filter_map(|rest| rest.split(|&byte| byte == b'/').next())
            .filter(|name| !name.is_empty());
        Ok(names
            .map(<[u8]>::to_vec)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect())
    }
}
