//! A tree in memory, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use elfuse_format::elf_facts::{ElfFacts, flags};
use rustix::io::Errno;

use super::{Elf, Kind, Node, Tree};

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

    fn walk(&self, path: &[u8], follow: bool, links: usize) -> Result<Node, Errno> {
        let mut real: Vec<u8> = Vec::new();
        let mut names = path
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        while let Some(name) = names.next() {
            match name {
                b"." => continue,
                b".." => {
                    real.truncate(real.iter().rposition(|&byte| byte == b'/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let parent = real.clone();
            real.push(b'/');
            real.extend_from_slice(name);
            match self.items.get(&real) {
                None => return Err(Errno::NOENT),
                Some((_, Item::Symlink(target))) if follow || names.peek().is_some() => {
                    if links == 40 {
                        return Err(Errno::LOOP);
                    }
                    let mut rest = if target.starts_with(b"/") {
                        Vec::new()
                    } else {
                        parent
                    };
                    for name in [target.as_slice()].into_iter().chain(names) {
                        rest.push(b'/');
                        rest.extend_from_slice(name);
                    }
                    return self.walk(&rest, follow, links + 1);
                }
                Some((_, Item::Directory)) => {}
                Some(_) if names.peek().is_some() => return Err(Errno::NOTDIR),
                Some(_) => {}
            }
        }
        if real.is_empty() {
            real.push(b'/');
        }
        let (number, item) = &self.items[&real];
        Ok(Node {
            real: real.into(),
            kind: match item {
                Item::Directory => Kind::Directory,
                Item::Symlink(_) => Kind::Symlink,
                Item::File(_) | Item::Library(_) => Kind::File,
            },
            id: (1, *number),
        })
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
        self.walk(path, follow, 0)
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
