//! How musl's dynamic linker loads a program.
//!
//! A name without a slash is answered by the first of: musl itself, for the names of the libraries that it is; an
//! object that was found by that name; `LD_LIBRARY_PATH`; the `DT_RUNPATH` (or `DT_RPATH`) of the requester, of who
//! needed it first, and so on up to the program; the system path. There is no cache, no hwcaps, no check of the machine,
//! and SONAMEs do not matter.

use std::sync::Arc;

use elfuse_format::elf_facts::{ElfFacts, flags};
use rustix::io::Errno;

use crate::resolve::constants::musl_arch;
use crate::resolve::tokens::{Tokens, expand};
use crate::resolve::{
    Call, Edge, Fatal, Found, Linked, Loader, Main, Object, ObjectId, Probe, Question, Role,
    Source, Stage, Tie, Try, Verdict, absolute,
};
use crate::tree::{Elf, Kind, Node, Tree, split};

/// The libraries that musl is itself: `lib`, one of these, `.`, anything.
const ITSELF: [&[u8]; 7] = [
    b"c.",
    b"pthread.",
    b"rt.",
    b"m.",
    b"dl.",
    b"util.",
    b"xnet.",
];

/// Searched where there is no path file.
const DEFAULT_PATH: &[u8] = b"/lib:/usr/local/lib:/usr/lib";

/// The longest file name.
const NAME_MAX: usize = 255;

/// Room for a directory and a name; what does not fit is not tried.
const PATH_BUFFER: usize = 2 * NAME_MAX + 2;

/// Links `main` by the rules of musl.
#[must_use]
pub fn link(tree: &dyn Tree, question: &Question, loader: Loader, main: Main) -> Linked {
    let mut link = Link::new(tree, question, &loader, main);
    link.run();
    Linked {
        loader,
        objects: link.objects,
        order: link.order,
        edges: link.edges,
        probes: link.probes,
        fatal: None,
    }
}

/// What musl keeps of an object beside what is told of it.
#[derive(Default)]
struct Extra {
    /// Last name of its path, where it was found by searching.
    short_name: Option<Vec<u8>>,
    id: Option<(u64, u64)>,
    /// The expanded path, once asked for; `None` inside: there is none, or it has tokens other than `$ORIGIN`.
    rpath: Option<Option<Vec<u8>>>,
}

struct Link<'a> {
    tree: &'a dyn Tree,
    question: &'a Question,
    loader_path: Vec<u8>,
    mapped_by_kernel: bool,
    objects: Vec<Object>,
    extras: Vec<Extra>,
    edges: Vec<Edge>,
    order: Vec<ObjectId>,
    probes: Vec<Probe>,
    system_path: Option<(Vec<u8>, Source)>,
}

/// Whether the next rule is tried.
enum Search {
    Opened(Vec<u8>, Node),
    GoOn,
    Inhibit,
}

impl<'a> Link<'a> {
    fn new(tree: &'a dyn Tree, question: &'a Question, loader: &Loader, main: Main) -> Self {
        let interpreter = tree.locate(&loader.path, true).ok();
        let facts = match interpreter.as_ref().map(|node| tree.elf(node)) {
            Some(Ok(Elf::Facts(facts))) => facts,
            _ => Arc::default(),
        };
        let mut link = Self {
            tree,
            question,
            loader_path: loader.path.clone(),
            mapped_by_kernel: main.mapped_by_kernel,
            objects: vec![
                Object {
                    role: Role::Main,
                    name: question.program.clone(),
                    path: question.program.clone(),
                    node: Some(main.node),
                    facts: main.facts,
                    loader: None,
                },
                Object {
                    role: Role::Interpreter,
                    name: loader.path.clone(),
                    path: loader.path.clone(),
                    node: interpreter,
                    facts,
                    loader: None,
                },
            ],
            extras: vec![Extra::default(), Extra::default()],
            edges: Vec::new(),
            order: Vec::new(),
            probes: Vec::new(),
            system_path: None,
        };
        if !main.mapped_by_kernel {
            link.note(Call::Open, &question.program, None);
        }
        link
    }

    fn run(&mut self) {
        if let Some(names) = &self.question.preload {
            let names = names.split(|&b| b == b':' || b.is_ascii_whitespace());
            for name in names.filter(|name| !name.is_empty()) {
                self.request(ObjectId::MAIN, None, name, Tie::Preload);
            }
        }
        // The chain grows while it is walked; that makes it breadth-first.
        let mut chain = vec![ObjectId::MAIN];
        chain.extend(self.order.iter().copied());
        let mut at = 0;
        while let Some(&id) = chain.get(at) {
            let facts = Arc::clone(&self.objects[id.0].facts);
            for name in &facts.needed {
                self.request(id, Some(id), name, Tie::Needed);
            }
            chain.splice(1.., self.order.iter().copied());
            at += 1;
        }
    }

    fn request(&mut self, from: ObjectId, needed_by: Option<ObjectId>, name: &[u8], tie: Tie) {
        let mut edge = Edge {
            from,
            tie,
            name: name.to_vec(),
            to: None,
            found: Found::Missing,
            stages: Vec::new(),
        };
        self.load(&mut edge, needed_by);
        if edge.to.is_none() && tie == Tie::Needed {
            edge.to = Some(self.add_missing(from, name));
        }
        self.edges.push(edge);
    }

    fn load(&mut self, edge: &mut Edge, needed_by: Option<ObjectId>) {
        const INTERPRETER: ObjectId = ObjectId(1);
        let name = edge.name.clone();
        if name.is_empty() {
            return;
        }
        if is_itself(&name) || name == self.loader_path {
            if !self.order.contains(&INTERPRETER) {
                self.order.push(INTERPRETER);
            }
            edge.to = Some(INTERPRETER);
            edge.found = Found::Opened(Source::Itself);
            return;
        }
        let searched = !name.contains(&b'/');
        let opened = if searched {
            if let Some(known) = self
                .extras
                .iter()
                .position(|e| e.short_name.as_deref() == Some(&name))
            {
                edge.to = Some(ObjectId(known));
                edge.found = Found::Loaded;
                return;
            }
            self.search(&name, needed_by, &mut edge.stages)
        } else {
            let mut stage = new_stage(Source::Path);
            let opened = self.try_open(&name, &mut Vec::new());
            let verdict = opened
                .as_ref()
                .map_or_else(|&errno| Verdict::Errno(errno), |_| Verdict::Taken);
            stage.tried.push(Try {
                written: Vec::new(),
                directory: split(&name).map_or(&b"/"[..], |(d, _)| d).to_vec(),
                files: vec![(name.clone(), verdict)],
            });
            edge.stages.push(stage);
            opened.ok().map(|node| (name.clone(), node))
        };
        let Some((path, node)) = opened else {
            return;
        };
        let source = edge
            .stages
            .last()
            .map_or(Source::Path, |stage| stage.source.clone());
        let short_name = path.rsplit(|&b| b == b'/').next().map(<[u8]>::to_vec);
        if let Some(same) = self
            .extras
            .iter()
            .position(|extra| extra.id == Some(node.id))
        {
            if searched && self.extras[same].short_name.is_none() {
                let known = self.objects[same].path.rsplit(|&b| b == b'/').next();
                self.extras[same].short_name = known.map(<[u8]>::to_vec);
            }
            edge.to = Some(ObjectId(same));
            edge.found = Found::SameFile(source);
            return;
        }
        let Some(facts) = self.mappable(&node) else {
            return;
        };
        let id = ObjectId(self.objects.len());
        self.extras.push(Extra {
            short_name: short_name.filter(|_| searched),
            id: Some(node.id),
            rpath: None,
        });
        self.objects.push(Object {
            role: Role::Library,
            name,
            path,
            node: Some(node),
            facts,
            loader: needed_by,
        });
        self.order.push(id);
        edge.to = Some(id);
        edge.found = Found::Opened(source);
    }

    /// By all rules, in order.
    fn search(
        &mut self,
        name: &[u8],
        needed_by: Option<ObjectId>,
        stages: &mut Vec<Stage>,
    ) -> Option<(Vec<u8>, Node)> {
        if name.len() > NAME_MAX {
            return None;
        }
        if let Some(path) = self.question.library_path.as_deref() {
            match self.path_open(name, path, path, Source::LibraryPath, stages) {
                Search::Opened(path, node) => return Some((path, node)),
                Search::Inhibit => return None,
                Search::GoOn => {}
            }
        }
        let mut asked = needed_by;
        while let Some(id) = asked {
            if let Some(path) = self.rpath(id) {
                let facts = Arc::clone(&self.objects[id.0].facts);
                let written = facts
                    .runpath
                    .as_ref()
                    .or(facts.rpath.as_ref())
                    .map_or(&[][..], Vec::as_slice);
                match self.path_open(name, &path, written, Source::Runpath(id), stages) {
                    Search::Opened(path, node) => return Some((path, node)),
                    Search::Inhibit => return None,
                    Search::GoOn => {}
                }
            }
            asked = self.objects[id.0].loader;
        }
        let (path, source) = self.system_path();
        match self.path_open(name, &path, &path, source, stages) {
            Search::Opened(path, node) => Some((path, node)),
            Search::Inhibit | Search::GoOn => None,
        }
    }

    /// Tries the directories of one path. An error other than that the file is not there ends the whole search.
    fn path_open(
        &mut self,
        name: &[u8],
        path: &[u8],
        written: &[u8],
        source: Source,
        stages: &mut Vec<Stage>,
    ) -> Search {
        let is_separator = |b: &u8| matches!(b, b':' | b'\n');
        let mut stage = new_stage(source);
        let mut outcome = Search::GoOn;
        let elements = path.split(is_separator).filter(|d| !d.is_empty());
        let written: Vec<&[u8]> = written
            .split(is_separator)
            .filter(|d| !d.is_empty())
            .collect();
        for (number, directory) in elements.enumerate() {
            // "directory/" would be looked up with two slashes, as musl does.
            let file = [directory, b"/", name].concat();
            if file.len() >= PATH_BUFFER {
                continue;
            }
            let mut files = Vec::new();
            let opened = self.try_open(&file, &mut files);
            stage.tried.push(Try {
                written: written.get(number).copied().unwrap_or_default().to_vec(),
                directory: directory.to_vec(),
                files,
            });
            match opened {
                Ok(node) => {
                    outcome = Search::Opened(file, node);
                    break;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::NAMETOOLONG) => {}
                Err(_) => {
                    outcome = Search::Inhibit;
                    break;
                }
            }
        }
        stages.push(stage);
        outcome
    }

    fn try_open(
        &mut self,
        path: &[u8],
        files: &mut Vec<(Vec<u8>, Verdict)>,
    ) -> Result<Node, Errno> {
        let opened = self.tree.locate(&absolute(&self.question.cwd, path), true);
        let errno = opened.as_ref().err().copied();
        self.note(Call::Open, path, errno);
        files.push((path.to_vec(), errno.map_or(Verdict::Taken, Verdict::Errno)));
        opened
    }

    /// Whether musl would map it: it looks at little but the type and the program headers.
    fn mappable(&self, node: &Node) -> Option<Arc<ElfFacts>> {
        const ET_EXEC: u16 = 2;
        const ET_DYN: u16 = 3;
        if node.kind != Kind::File {
            return None;
        }
        match self.tree.elf(node) {
            Ok(Elf::Facts(facts))
                if matches!(facts.elf_type, ET_EXEC | ET_DYN)
                    && facts.flags & flags::DYNAMIC != 0 =>
            {
                Some(facts)
            }
            _ => None,
        }
    }

    /// `DT_RUNPATH`, else `DT_RPATH`, with `$ORIGIN` expanded. Any other `$` spoils the whole path.
    fn rpath(&mut self, id: ObjectId) -> Option<Vec<u8>> {
        if let Some(known) = &self.extras[id.0].rpath {
            return known.clone();
        }
        let facts = Arc::clone(&self.objects[id.0].facts);
        let written = facts.runpath.as_ref().or(facts.rpath.as_ref())?;
        let expanded = if written.contains(&b'$') {
            self.expand(id, written)
        } else {
            Some(written.clone())
        };
        self.extras[id.0].rpath = Some(expanded.clone());
        expanded
    }

    fn expand(&mut self, id: ObjectId, written: &[u8]) -> Option<Vec<u8>> {
        let mut dollars = (0..written.len()).filter(|&at| written[at] == b'$');
        if !dollars.all(|at| {
            written[at..].starts_with(b"$ORIGIN") || written[at..].starts_with(b"${ORIGIN}")
        }) {
            return None;
        }
        let path = if id == ObjectId::MAIN && self.mapped_by_kernel {
            self.note(Call::Readlink, b"/proc/self/exe", None);
            self.objects[0].node.as_ref()?.real.to_vec()
        } else {
            self.objects[id.0].path.clone()
        };
        let origin = match path.iter().rposition(|&b| b == b'/') {
            Some(slash) => path[..slash].to_vec(),
            None => b".".to_vec(),
        };
        // Unlike glibc's, a token ends after its last letter whatever follows: make that explicit for `expand`.
        let braced = replace(written, b"$ORIGIN", b"${ORIGIN}");
        let tokens = Tokens {
            origin: Some(origin),
            ..Tokens::default()
        };
        expand(&braced, &tokens)
    }

    /// The path file lies where the interpreter's own path says: `/lib/ld-musl-x86_64.so.1` gives
    /// `/etc/ld-musl-x86_64.path`, and `/opt/musl/lib/ld.so` `/opt/musl/etc/...`.
    fn system_path(&mut self) -> (Vec<u8>, Source) {
        if let Some(known) = &self.system_path {
            return known.clone();
        }
        let slashes: Vec<usize> = (0..self.loader_path.len())
            .filter(|&at| self.loader_path[at] == b'/')
            .collect();
        let prefix = match (self.loader_path.first(), slashes.len()) {
            (Some(b'/'), 2..) => &self.loader_path[..slashes[slashes.len() - 2]],
            _ => &[],
        };
        let arch = musl_arch(&self.objects[1].facts);
        let file = [prefix, b"/etc/ld-musl-", arch.as_bytes(), b".path"].concat();
        let located = self.tree.locate(&file, true);
        self.note(Call::Open, &file, located.as_ref().err().copied());
        let known = match located {
            Ok(node) => (self.tree.read(&node).unwrap_or_default(), Source::MuslPath),
            Err(Errno::NOENT) => (DEFAULT_PATH.to_vec(), Source::Default),
            Err(_) => (Vec::new(), Source::MuslPath),
        };
        self.system_path = Some(known.clone());
        known
    }

    fn add_missing(&mut self, from: ObjectId, name: &[u8]) -> ObjectId {
        let id = ObjectId(self.objects.len());
        self.objects.push(Object {
            role: Role::Missing,
            name: name.to_vec(),
            path: Vec::new(),
            node: None,
            facts: Arc::default(),
            loader: Some(from),
        });
        self.extras.push(Extra::default());
        self.order.push(id);
        id
    }

    fn note(&mut self, call: Call, path: &[u8], errno: Option<Errno>) {
        self.probes.push(Probe {
            call,
            path: path.to_vec(),
            errno,
        });
    }
}

fn new_stage(source: Source) -> Stage {
    Stage {
        source,
        tried: Vec::new(),
    }
}

fn is_itself(name: &[u8]) -> bool {
    name.strip_prefix(b"lib")
        .is_some_and(|rest| ITSELF.iter().any(|own| rest.starts_with(own)))
}

/// `text` with every `from` replaced, braced ones left alone (they do not contain it).
fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(text.len() + to.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(from) {
            replaced.extend_from_slice(to);
            rest = after;
        } else {
            replaced.push(first);
            rest = after;
        }
    }
    replaced
}

/// The text musl ends with when a library is missing; it lists the others first.
#[must_use]
pub fn missing_text(linked: &Linked) -> Option<Fatal> {
    let missing = linked
        .objects
        .iter()
        .find(|object| object.role == Role::Missing)?;
    Some(Fatal {
        object: missing.name.clone(),
        text: "Error loading shared library: No such file or directory".to_owned(),
    })
}
