//! How glibc's ld.so loads a program: preloads, then `DT_NEEDED` breadth-first, as `LD_TRACE_LOADED_OBJECTS` shows it.
//!
//! A name is answered by the first of: an object that has that name or SONAME; for a name with a slash, that path; the
//! `DT_RPATH`s of the requester, of who loaded it and so on, and of the program (none of this when the requester has a
//! `DT_RUNPATH`); `LD_LIBRARY_PATH`; the requester's `DT_RUNPATH`; `ld.so.cache`; the compiled-in directories.
//!
//! Facts hold `DT_NEEDED` apart from `DT_FILTER` and `DT_AUXILIARY`; link editors write them in that order too.

use std::sync::Arc;

use elfuse_format::elf_facts::flags;

use self::objects::Extra;
use crate::resolve::search::{List, Search};
use crate::resolve::{
    Call, Constants, Edge, Fatal, Found, Linked, Loader, Main, Object, ObjectId, Question, Role,
    Source, Stage, Tie, Verdict, absolute,
};
use crate::tree::{Tree, split};

mod cached;
mod lookup;
mod objects;
mod paths;

/// Links `main` by the rules of glibc.
#[must_use]
pub fn link(tree: &dyn Tree, question: &Question, loader: Loader, main: Main) -> Linked {
    let constants = loader.constants.clone();
    let mut link = Link::new(tree, question, &constants, &loader, main);
    let fatal = link.run().err();
    let order = link.trace_order();
    Linked {
        loader,
        objects: link.objects,
        order,
        edges: link.edges,
        probes: link.search.probes,
        fatal,
    }
}

/// `ld.so.cache`, read when first needed.
enum Cache {
    Unread,
    Unusable,
    Read(Vec<u8>),
}

struct Link<'a> {
    tree: &'a dyn Tree,
    question: &'a Question,
    constants: &'a Constants,
    mapped_by_kernel: bool,
    search: Search<'a>,
    objects: Vec<Object>,
    extras: Vec<Extra>,
    edges: Vec<Edge>,
    cache: Cache,
    library_path: Arc<List>,
    system: Arc<List>,
    /// ld.so's chain of all objects but itself, in the order it prints them.
    chain: Vec<ObjectId>,
    /// The breadth-first search list.
    list: Vec<ObjectId>,
}

impl<'a> Link<'a> {
    fn new(
        tree: &'a dyn Tree,
        question: &'a Question,
        constants: &'a Constants,
        loader: &Loader,
        main: Main,
    ) -> Self {
        let mut link = Self {
            tree,
            question,
            constants,
            mapped_by_kernel: main.mapped_by_kernel,
            search: Search::new(
                tree,
                &question.cwd,
                constants,
                question.cpu.subdirectories(constants.rules()),
            ),
            objects: Vec::new(),
            extras: Vec::new(),
            edges: Vec::new(),
            cache: Cache::Unread,
            library_path: Arc::default(),
            system: Arc::default(),
            chain: vec![ObjectId::MAIN],
            list: Vec::new(),
        };
        let mut extra = Extra::default();
        // ld.so takes note neither of the program's name nor of its file, even when it opened it: the program is loaded
        // once more when a library needs it by a name that is not its SONAME.
        if !main.mapped_by_kernel {
            let path = if constants.rules().canonicalizes_program() {
                main.node.real.to_vec()
            } else {
                absolute(&question.cwd, &question.program)
            };
            extra.origin = Some(directory_of(&path));
        }
        link.extras.push(extra);
        link.objects.push(Object {
            role: Role::Main,
            name: question.program.clone(),
            path: question.program.clone(),
            node: Some(main.node),
            facts: main.facts,
            loader: None,
        });
        link.add_interpreter(loader);
        link
    }

    fn run(&mut self) -> Result<(), Fatal> {
        if !self.mapped_by_kernel {
            self.open_main()?;
        }
        self.init_paths();
        let preloads = self.preload()?;
        self.load_dependencies(&preloads)
    }

    /// A program that ld.so is called with has to suit it as a library has.
    fn open_main(&mut self) -> Result<(), Fatal> {
        let path = self.question.program.clone();
        let mut stage = Stage {
            source: Source::Path,
            tried: Vec::new(),
        };
        let opened = self.search.open_path(&path, &mut stage)?;
        let tried = stage.tried.first().and_then(|tried| tried.files.first());
        let text = match (opened, tried) {
            (Some(opened), _) if opened.facts.flags & flags::DYNAMIC != 0 => {
                if self.constants.rules().canonicalizes_program() {
                    // The first descriptor that is free in a process with the usual three.
                    self.search.note(Call::Readlink, b"/proc/self/fd/3", None);
                }
                return Ok(());
            }
            (Some(_), _) => "object file has no dynamic section".to_owned(),
            (None, Some((_, Verdict::OtherClass))) => {
                format!(
                    "wrong ELF class: ELFCLASS{}",
                    if self.constants.class == 1 { 64 } else { 32 }
                )
            }
            (None, _) => "cannot open shared object file: No such file or directory".to_owned(),
        };
        Err(Fatal { object: path, text })
    }

    /// The lists that are there from the start. Their order decides what is asked first.
    fn init_paths(&mut self) {
        let directories = self.constants.system_directories.iter();
        self.system = Arc::new(
            self.search
                .list(directories.map(|d| (d.clone(), d.clone()))),
        );
        let main = ObjectId::MAIN;
        self.runpath(main);
        self.rpath(main);
        if let Some(written) = self
            .question
            .library_path
            .as_deref()
            .filter(|path| !path.is_empty())
        {
            self.library_path = self.path_list(main, written, |b| b == b':' || b == b';');
        }
    }

    fn preload(&mut self) -> Result<Vec<ObjectId>, Fatal> {
        let mut preloads = Vec::new();
        if let Some(names) = &self.question.preload {
            for name in names
                .split(|&b| b == b' ' || b == b':')
                .filter(|name| !name.is_empty())
            {
                preloads.extend(self.preload_one(name, Tie::Preload));
            }
        }
        let path = &self.constants.preload;
        let file = self.tree.locate(path, true);
        self.search
            .note(Call::Access, path, file.as_ref().err().copied());
        if let Ok(node) = file {
            self.search.note(Call::Open, path, None);
            let text = self.tree.read(&node).unwrap_or_default();
            for line in text.split(|&b| b == b'\n') {
                let names = line.split(|&b| b == b'#').next().unwrap_or_default();
                for name in names
                    .split(|&b| b == b':' || b.is_ascii_whitespace())
                    .filter(|name| !name.is_empty())
                {
                    preloads.extend(self.preload_one(name, Tie::PreloadFile));
                }
            }
        }
        Ok(preloads)
    }

    /// A preload that fails is ignored. One that was there already is not in the list twice.
    fn preload_one(&mut self, name: &[u8], tie: Tie) -> Option<ObjectId> {
        let before = self.objects.len();
        let found = self.request(ObjectId::MAIN, name.to_vec(), tie, OnMissing::Ignore);
        found.ok().flatten().filter(|id| id.0 >= before)
    }

    fn load_dependencies(&mut self, preloads: &[ObjectId]) -> Result<(), Fatal> {
        // (object, whether its own dependencies are loaded)
        let mut known: Vec<(ObjectId, bool)> = vec![(ObjectId::MAIN, false)];
        known.extend(preloads.iter().map(|&id| (id, false)));
        let mut at = 0;
        let result = loop {
            let Some((id, done)) = known.get_mut(at) else {
                break Ok(());
            };
            if std::mem::replace(done, true) {
                at += 1;
                continue;
            }
            let id = *id;
            if let Err(fatal) = self.load_for(id, at, &mut known) {
                break Err(fatal);
            }
        };
        self.list = known.into_iter().map(|(id, _)| id).collect();
        result
    }

    /// Loads what the object at `known[at]` names. What it needs goes to the end of the list; what it is a filter for
    /// goes before it, and has its turn next.
    fn load_for(
        &mut self,
        id: ObjectId,
        mut at: usize,
        known: &mut Vec<(ObjectId, bool)>,
    ) -> Result<(), Fatal> {
        let facts = Arc::clone(&self.objects[id.0].facts);
        for name in &facts.needed {
            let Some(name) = self.expand_name(id, name) else {
                return Err(Fatal {
                    object: name.clone(),
                    text: "empty dynamic string token substitution".to_owned(),
                });
            };
            if let Some(to) = self.request(id, name, Tie::Needed, OnMissing::Record)?
                && known.iter().all(|&(other, _)| other != to)
            {
                known.push((to, false));
            }
        }
        for filter in &facts.filters {
            let Some((letter, name)) = filter.split_first() else {
                continue;
            };
            let tie = if *letter == b'a' {
                Tie::Auxiliary
            } else {
                Tie::Filter
            };
            let Some(name) = self.expand_name(id, name) else {
                continue;
            };
            let to = match self.request(id, name, tie, OnMissing::Record) {
                Ok(Some(to)) => to,
                Ok(None) => continue,
                Err(_) if tie == Tie::Auxiliary => continue,
                Err(fatal) => return Err(fatal),
            };
            match known.iter().position(|&(other, _)| other == to) {
                // Its symbols are found before those of the filter already.
                Some(earlier) if earlier <= at => continue,
                Some(later) => {
                    let entry = known.remove(later);
                    known.insert(at, (entry.0, false));
                }
                None => known.insert(at, (to, false)),
            }
            at += 1;
            self.chain.retain(|&other| other != to);
            let before = self
                .chain
                .iter()
                .position(|&other| other == id)
                .unwrap_or(self.chain.len());
            self.extras[to.0].before_main = id == ObjectId::MAIN;
            self.chain.insert(before, to);
        }
        Ok(())
    }

    /// Answers one request and records it.
    fn request(
        &mut self,
        from: ObjectId,
        name: Vec<u8>,
        tie: Tie,
        on_missing: OnMissing,
    ) -> Result<Option<ObjectId>, Fatal> {
        let mut edge = Edge {
            from,
            tie,
            name,
            to: None,
            found: Found::Missing,
            stages: Vec::new(),
        };
        if let Some(loaded) = self.loaded(&edge.name) {
            edge.to = Some(loaded);
            edge.found = Found::Loaded;
            self.edges.push(edge);
            return Ok(Some(loaded));
        }
        let opened = match self.find(from, &edge.name, &mut edge.stages) {
            Ok(Some(opened)) => self.map(from, &edge.name, opened).map(Some),
            Ok(None) => Ok(None),
            Err(fatal) => Err(fatal),
        };
        let source = edge
            .stages
            .last()
            .map_or(Source::Path, |stage| stage.source.clone());
        match opened {
            Ok(Some((id, true))) => {
                edge.to = Some(id);
                edge.found = Found::Opened(source);
            }
            Ok(Some((id, false))) => {
                edge.to = Some(id);
                edge.found = Found::SameFile(source);
            }
            Ok(None) if on_missing == OnMissing::Record => {
                edge.to = Some(self.add_missing(from, &edge.name))
            }
            Ok(None) => {}
            Err(fatal) => {
                self.edges.push(edge);
                return Err(fatal);
            }
        }
        let to = edge.to;
        self.edges.push(edge);
        Ok(to)
    }

    /// The chain after the program, and in it the interpreter where a request named it: behind what precedes it in the
    /// search list. What the program itself is a filter for stands before it in the chain and is not printed.
    fn trace_order(&self) -> Vec<ObjectId> {
        const INTERPRETER: ObjectId = ObjectId(1);
        let mut order = self.chain.clone();
        order.retain(|&id| id != INTERPRETER);
        let found = |id: &&ObjectId| self.objects[id.0].role != Role::Missing;
        let list: Vec<ObjectId> = self.list.iter().filter(found).copied().collect();
        if let Some([previous, _]) = list.windows(2).find(|pair| pair[1] == INTERPRETER) {
            let at = order.iter().position(|id| id == previous);
            order.insert(at.map_or(0, |at| at + 1), INTERPRETER);
        }
        let main = order.iter().position(|&id| id == ObjectId::MAIN);
        order.split_off(main.map_or(0, |main| main + 1))
    }
}

/// What becomes of a name that no file is found for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnMissing {
    /// It is listed as not found.
    Record,
    /// It is forgotten.
    Ignore,
}

fn directory_of(path: &[u8]) -> Vec<u8> {
    split(path).map_or_else(|| b"/".to_vec(), |(directory, _)| directory.to_vec())
}
