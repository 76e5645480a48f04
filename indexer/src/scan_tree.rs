//! A scan as the resolver sees a tree: nothing is opened but configuration files.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, RwLock};

use elfuse_format::sidecar::{Block, Entry};
use rustix::io::Errno;

use crate::scan::{Scan, guest};
use crate::sys::{self, Root};
use crate::tree::{self, Elf, Kind, Node, Step, Tree};

/// Device number of what has no identity of its own in a scan. No real device has it.
const NO_DEVICE: u64 = u64::MAX;

/// [`Tree`] over a [`Scan`].
pub struct ScanTree<'a> {
    scan: &'a Scan,
    root: &'a Root,
    blocks: Vec<Option<Block<'a>>>,
    first_child: Vec<u32>,
    by_path: HashMap<&'a [u8], u32>,
    located: RwLock<HashMap<Located, Result<Node, Errno>>>,
    facts: RwLock<HashMap<(u64, u64), Elf>>,
    files: RwLock<BTreeMap<Vec<u8>, Arc<[u8]>>>,
}

/// A path, and whether a last symlink is followed.
type Located = (Box<[u8]>, bool);

/// A file by its place in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Directory.
    pub dir: u32,
    /// Entry in it.
    pub entry: u32,
}

fn unpoisoned<T>(result: Result<T, std::sync::PoisonError<T>>) -> T {
    // The maps hold whole values only: a panic elsewhere leaves them usable.
    result.unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<'a> ScanTree<'a> {
    /// A view of `scan`; configuration files are read below `root`.
    #[must_use]
    pub fn new(scan: &'a Scan, root: &'a Root) -> Self {
        let by_path = (0..)
            .zip(&scan.dirs)
            .map(|(number, dir)| (&*dir.path, number));
        Self {
            scan,
            root,
            blocks: scan.dirs.iter().map(|dir| dir.names()).collect(),
            first_child: scan.dirs.iter().map(|dir| dir.children.start).collect(),
            by_path: by_path.collect(),
            located: RwLock::default(),
            facts: RwLock::default(),
            files: RwLock::default(),
        }
    }

    fn dir_node(&self, dir: u32) -> Node {
        Node {
            real: guest(&self.scan.dirs[dir as usize].path).into(),
            kind: Kind::Directory,
            id: (NO_DEVICE, u64::from(dir)),
        }
    }

    /// Path and content of every file that was read, in the order of paths.
    #[must_use]
    pub fn files_read(&self) -> Vec<(Vec<u8>, Arc<[u8]>)> {
        let files = unpoisoned(self.files.read());
        files
            .iter()
            .map(|(path, bytes)| (path.clone(), Arc::clone(bytes)))
            .collect()
    }

    /// The entry that a node without symlinks is; `None` for the root.
    #[must_use]
    pub fn entry(&self, node: &Node) -> Option<(Place, Entry<'a>)> {
        let (dir, name) = tree::split(&node.real)?;
        let dir = *self.by_path.get(dir.get(1..)?)?;
        let entry = self.blocks[dir as usize]?.find(name).ok()??;
        let place = Place {
            dir,
            entry: entry.index,
        };
        Some((place, entry))
    }

    /// Number of a directory.
    #[must_use]
    pub fn dir_number(&self, node: &Node) -> Option<u32> {
        self.by_path.get(node.real.get(1..)?).copied()
    }

    /// The node of a place.
    #[must_use]
    pub fn node(&self, place: Place) -> Option<Node> {
        let entry = self
            .blocks
            .get(place.dir as usize)?
            .as_ref()?
            .entry(place.entry as usize)?;
        self.step(place.dir, entry).map(|step| step.node)
    }

    fn step(&self, dir: u32, entry: Entry<'a>) -> Option<Step> {
        let scanned = &self.scan.dirs[dir as usize];
        let kind = entry.kind()?;
        if kind == Kind::Directory {
            let child = self.first_child[dir as usize] + entry.rank()?;
            return Some(Step {
                node: self.dir_node(child),
                target: Arc::default(),
            });
        }
        let elf = entry
            .elf_index()
            .and_then(|elf| scanned.elves.get(elf as usize));
        let id = elf.map_or_else(
            || (NO_DEVICE - 1, u64::from(dir) << 32 | u64::from(entry.index)),
            |elf| (elf.identity.dev, elf.identity.ino),
        );
        let real = guest(&scanned.join(entry.name()?)).into();
        Some(Step {
            node: Node { real, kind, id },
            target: entry.target().unwrap_or_default().into(),
        })
    }

    fn lookup(&self, directory: &Node, name: &[u8]) -> Result<Step, Errno> {
        let dir = u32::try_from(directory.id.1).map_err(|_| Errno::IO)?;
        let block = self.blocks[dir as usize].ok_or(Errno::ACCESS)?;
        let entry = block
            .find(name)
            .map_err(|_| Errno::IO)?
            .ok_or(Errno::NOENT)?;
        self.step(dir, entry).ok_or(Errno::IO)
    }
}

impl Tree for ScanTree<'_> {
    fn locate(&self, path: &[u8], follow: bool) -> Result<Node, Errno> {
        let key = (Box::from(path), follow);
        if let Some(known) = unpoisoned(self.located.read()).get(&key) {
            return known.clone();
        }
        let root = self.dir_node(0);
        let found = tree::walk(&root, path, follow, |directory, name| {
            self.lookup(directory, name)
        });
        unpoisoned(self.located.write()).insert(key, found.clone());
        found
    }

    fn elf(&self, node: &Node) -> io::Result<Elf> {
        if let Some(known) = unpoisoned(self.facts.read()).get(&node.id) {
            return Ok(known.clone());
        }
        let Some((_, entry)) = self.entry(node) else {
            return Err(Errno::ISDIR.into());
        };
        let elf = match entry.elf().and_then(|elf| elf.to_facts()) {
            Some(facts) => Elf::Facts(Arc::new(facts)),
            None if entry.is_broken_elf() => Elf::Broken("broken"),
            None => Elf::NotElf,
        };
        unpoisoned(self.facts.write()).insert(node.id, elf.clone());
        Ok(elf)
    }

    fn read(&self, node: &Node) -> io::Result<Vec<u8>> {
        if let Some(known) = unpoisoned(self.files.read()).get(&*node.real) {
            return Ok(known.to_vec());
        }
        let (dir, name) = tree::split(&node.real).ok_or(Errno::ISDIR)?;
        let dir = self.root.open_dir(dir.get(1..).unwrap_or_default())?;
        let bytes = sys::read_file(&dir, name, tree::MAX_READ)?;
        // Another thread may have read it in another state: all go by what is kept, whose hash the index will state.
        let mut files = unpoisoned(self.files.write());
        let kept = files
            .entry(node.real.to_vec())
            .or_insert_with(|| bytes.into());
        Ok(kept.to_vec())
    }

    fn names(&self, node: &Node) -> io::Result<Vec<Vec<u8>>> {
        let dir = self.by_path.get(node.real.get(1..).unwrap_or_default());
        let block = dir
            .and_then(|dir| self.blocks[*dir as usize])
            .ok_or(Errno::ACCESS)?;
        Ok(block
            .entries()
            .filter_map(|entry| Some(entry.name()?.to_vec()))
            .collect())
    }
}
