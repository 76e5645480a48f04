//! A tree made of arbitrary bytes, walked as every tree is.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use elfuse_format::elf_facts::{ElfFacts, flags};
use elfuse_indexer::tree::{Elf, Kind, Node, Step, Tree, join, split, walk};
use rustix::io::Errno;

#[derive(Debug)]
enum Item {
    Directory(Vec<Vec<u8>>),
    Symlink(Arc<[u8]>),
    File(Vec<u8>),
    Elf(Arc<ElfFacts>),
}

/// The tree. Records are separated by a NUL: a path, a newline, and what is there: `>` and the text of a symlink; `/`, a
/// directory; `=` and the content of a file; or words that describe an ELF file: `soname:`, `needed:`, `rpath:`,
/// `runpath:`, `interp:`, `machine:`, `exec`. Directories above a record come by themselves; what stands below a
/// file is left out.
#[derive(Debug)]
pub(crate) struct RandomTree {
    items: BTreeMap<Vec<u8>, (u64, Item)>,
}

impl RandomTree {
    pub(crate) fn new(data: &[u8]) -> Self {
        let root = (0, Item::Directory(Vec::new()));
        let mut tree = Self {
            items: BTreeMap::from([(b"/".to_vec(), root)]),
        };
        for record in data.split(|&byte| byte == 0) {
            let end = record.iter().position(|&byte| byte == b'\n');
            if let Some(end) = end {
                tree.add(&record[..end], &record[end + 1..]);
            }
        }
        tree
    }

    fn add(&mut self, path: &[u8], what: &[u8]) {
        let names = path.split(|&byte| byte == b'/');
        let names: Vec<_> = names
            .filter(|name| !name.is_empty() && *name != b"." && *name != b"..")
            .collect();
        let Some((last, parents)) = names.split_last() else {
            return;
        };
        let mut at = b"/".to_vec();
        for name in parents {
            at = match self.child(&at, name, || Item::Directory(Vec::new())) {
                Some(path) => path,
                None => return,
            };
        }
        self.child(&at, last, || item(what));
    }

    /// Path of a name in a directory, made where it is not there; `None` where that is no directory.
    fn child(&mut self, parent: &[u8], name: &[u8], new: impl FnOnce() -> Item) -> Option<Vec<u8>> {
        let number = self.items.len() as u64;
        let path = join(parent, name);
        let (_, Item::Directory(names)) = self.items.get_mut(parent)? else {
            return None;
        };
        if let Err(place) = names.binary_search_by(|known| known.as_slice().cmp(name)) {
            names.insert(place, name.to_vec());
            self.items.insert(path.clone(), (number, new()));
        }
        Some(path)
    }

    fn node(&self, path: &[u8]) -> Result<Node, Errno> {
        let (number, item) = self.items.get(path).ok_or(Errno::NOENT)?;
        Ok(Node {
            real: path.into(),
            kind: match item {
                Item::Directory(_) => Kind::Directory,
                Item::Symlink(_) => Kind::Symlink,
                Item::File(_) | Item::Elf(_) => Kind::File,
            },
            id: (1, *number),
        })
    }

    fn item(&self, node: &Node) -> io::Result<&Item> {
        let found = self.items.get(&*node.real);
        Ok(&found.ok_or(Errno::NOENT)?.1)
    }
}

fn item(what: &[u8]) -> Item {
    match what {
        [] | [b'/', ..] => Item::Directory(Vec::new()),
        [b'>', target @ ..] => Item::Symlink(target.into()),
        [b'=', content @ ..] => Item::File(content.to_vec()),
        words => Item::Elf(Arc::new(facts(words))),
    }
}

fn facts(words: &[u8]) -> ElfFacts {
    let mut facts = ElfFacts {
        class: 2,
        data: 1,
        elf_type: 3,
        machine: 62,
        flags: flags::DYNAMIC,
        ..ElfFacts::default()
    };
    for word in words.split(u8::is_ascii_whitespace) {
        let (key, value) = match word.iter().position(|&byte| byte == b':') {
            Some(at) => (&word[..at], word[at + 1..].to_vec()),
            None => (word, Vec::new()),
        };
        match key {
            b"soname" => facts.soname = Some(value),
            b"needed" => facts.needed.push(value),
            b"filter" => facts.filters.push([b"f", &*value].concat()),
            b"rpath" => facts.rpath = Some(value),
            b"runpath" => facts.runpath = Some(value),
            b"interp" => facts.interpreter = Some(value),
            b"machine" => facts.machine = value.first().map_or(62, |&byte| byte.into()),
            b"class" => facts.class = value.first().map_or(2, |&byte| byte % 4),
            b"exec" => facts.elf_type = 2,
            _ => facts.dt_flags_1 ^= u32::from(word.first().copied().unwrap_or(0)) << 1,
        }
    }
    facts
}

impl Tree for RandomTree {
    fn locate(&self, path: &[u8], follow: bool) -> Result<Node, Errno> {
        walk(&self.node(b"/")?, path, follow, |directory, name| {
            let path = join(&directory.real, name);
            let target = match self.items.get(&path) {
                Some((_, Item::Symlink(target))) => Arc::clone(target),
                _ => Arc::default(),
            };
            let node = self.node(&path)?;
            Ok(Step { node, target })
        })
    }

    fn elf(&self, node: &Node) -> io::Result<Elf> {
        Ok(match self.item(node)? {
            Item::Elf(facts) => Elf::Facts(Arc::clone(facts)),
            Item::File(content) if content.starts_with(b"\x7fELF") => Elf::Broken("made up"),
            _ => Elf::NotElf,
        })
    }

    fn read(&self, node: &Node) -> io::Result<Vec<u8>> {
        match self.item(node)? {
            Item::File(content) => Ok(content.clone()),
            Item::Elf(_) => Ok(b"\x7fELF".to_vec()),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    fn names(&self, node: &Node) -> io::Result<Vec<Vec<u8>>> {
        debug_assert!(split(&node.real).is_some() || &*node.real == b"/");
        match self.item(node)? {
            Item::Directory(names) => Ok(names.clone()),
            _ => Err(Errno::NOTDIR.into()),
        }
    }
}
