//! The objects of a process: what ld.so keeps of each, and which files it makes into one.

use std::sync::Arc;

use elfuse_format::elf_facts::{ElfFacts, flags};

use crate::resolve::search::{List, Opened};
use crate::resolve::{Fatal, Loader, Object, ObjectId, Role, absolute};
use crate::tree::{Elf, split};

use super::{Link, directory_of};

const ET_EXEC: u16 = 2;
/// `DF_1_PIE`.
const PIE: u32 = 0x0800_0000;

/// What ld.so keeps of an object beside what is told of it.
#[derive(Default)]
pub(super) struct Extra {
    /// Names it goes by, the SONAME apart.
    pub(super) names: Vec<Vec<u8>>,
    /// (device, inode), where ld.so knows it: not of what the kernel has mapped.
    pub(super) id: Option<(u64, u64)>,
    /// Where it comes from, found out when first needed.
    pub(super) origin: Option<Vec<u8>>,
    pub(super) rpath: Option<Arc<List>>,
    pub(super) runpath: Option<Arc<List>>,
    /// What the program is a filter for stands before it in ld.so's chain, and searches of the chain start at the
    /// program: it is not found there, and loaded once more when something else asks for it.
    pub(super) before_main: bool,
}

impl Link<'_> {
    pub(super) fn add_interpreter(&mut self, loader: &Loader) {
        let node = self.tree.locate(&loader.path, true).ok();
        let facts = match node.as_ref().map(|node| self.tree.elf(node)) {
            Some(Ok(Elf::Facts(facts))) => facts,
            _ => Arc::new(ElfFacts {
                soname: split(&loader.path).map(|(_, name)| name.to_vec()),
                ..ElfFacts::default()
            }),
        };
        // Of a library with an interpreter of its own that name counts too.
        let named = self.objects[0].facts.interpreter.clone();
        let names = named
            .into_iter()
            .chain([loader.path.clone()])
            .chain(facts.soname.clone());
        self.extras.push(Extra {
            names: names.collect(),
            ..Extra::default()
        });
        self.objects.push(Object {
            role: Role::Interpreter,
            name: loader.path.clone(),
            path: loader.path.clone(),
            node,
            facts,
            loader: None,
        });
    }

    /// Makes an object of a file that was opened; `false`: it is one already.
    pub(super) fn map(
        &mut self,
        from: ObjectId,
        name: &[u8],
        opened: Opened,
    ) -> Result<(ObjectId, bool), Fatal> {
        let same = self
            .extras
            .iter()
            .position(|extra| extra.id == Some(opened.node.id) && !extra.before_main);
        if let Some(same) = same {
            self.extras[same].names.push(name.to_vec());
            return Ok((ObjectId(same), false));
        }
        let refuse = |text: &str| {
            Err(Fatal {
                object: name.to_vec(),
                text: text.to_owned(),
            })
        };
        if opened.facts.elf_type == ET_EXEC {
            return refuse("cannot dynamically load executable");
        }
        if opened.facts.flags & flags::DYNAMIC == 0 {
            return refuse("object file has no dynamic section");
        }
        if opened.facts.dt_flags_1 & PIE != 0 {
            return refuse("cannot dynamically load position-independent executable");
        }
        let origin = directory_of(&absolute(&self.question.cwd, &opened.path));
        let extra = Extra {
            names: vec![name.to_vec()],
            id: Some(opened.node.id),
            origin: Some(origin),
            ..Extra::default()
        };
        let object = Object {
            role: Role::Library,
            name: name.to_vec(),
            path: opened.path,
            node: Some(opened.node),
            facts: opened.facts,
            loader: Some(from),
        };
        Ok((self.add(object, extra), true))
    }

    pub(super) fn add_missing(&mut self, from: ObjectId, name: &[u8]) -> ObjectId {
        let object = Object {
            role: Role::Missing,
            name: name.to_vec(),
            path: Vec::new(),
            node: None,
            facts: Arc::default(),
            loader: Some(from),
        };
        self.add(object, Extra::default())
    }

    fn add(&mut self, object: Object, extra: Extra) -> ObjectId {
        let id = ObjectId(self.objects.len());
        self.objects.push(object);
        self.extras.push(extra);
        self.chain.push(id);
        id
    }
}
