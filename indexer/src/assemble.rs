//! From a scan to the bytes of the loader cache: a pure function of the directories' blocks and of the configuration files
//! that loaders read. No directory is walked and no ELF file is opened.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use elfuse_format::FormatError;
use elfuse_format::loader_cache::{
    CandidateRow, LoaderCacheContent, NONE, NewDir, NewInput, NewObject, NewProgram, NewSoname,
    Reason, program_flags,
};
use elfuse_format::sidecar::Kind;
use elfuse_format::text::SET_VERSION;
use object::elf;
use rayon::prelude::*;

use crate::resolve::conf::{LD_SO_CONF, LdSoConf};
use crate::resolve::constants::Loaders;
use crate::resolve::hwcaps::Cpu;
use crate::resolve::{self, Edge, Found, ObjectId, Outcome, Question, Role, Source, Tie, Verdict};
use crate::scan::Scan;
use crate::scan_tree::{Place, ScanTree};
use crate::sys::Root;
use crate::tree::{self, Elf, Node, Tree};

/// Grows with every change to what SONAMEs or closures are computed from the same tree, or to what sites are patched.
pub const RULES: u32 = 2 | SET_VERSION << 16;

/// What resolving the programs gave.
#[derive(Debug, Default, Clone)]
pub struct Closures {
    /// Their closures.
    pub programs: Vec<elfuse_format::loader_cache::NewProgram>,
    /// What they were computed from besides the directories.
    pub inputs: Vec<NewInput>,
    /// Default search directories by number, in search order.
    pub default_dirs: Vec<u32>,
}

/// The loader cache's bytes.
///
/// # Errors
/// [`FormatError::TooLarge`].
pub fn loader_cache(scan: &Scan, closures: Closures) -> Result<Vec<u8>, FormatError> {
    let dirs = scan.dirs.iter().map(|dir| NewDir {
        parent: dir.parent,
        entry: dir.entry,
        children: dir.children,
        elf_count: u32::try_from(dir.elves.len()).unwrap_or(u32::MAX),
        block: &dir.block,
    });
    let content = LoaderCacheContent {
        rules: RULES,
        dirs: dirs.collect(),
        inputs: closures.inputs,
        sonames: sonames(scan, &closures.default_dirs),
        programs: closures.programs,
    };
    content.encode()
}

/// Every name a shared object can be asked for by, with the files that answer to it in search order: default directories
/// first, the rest in the order of their numbers.
fn sonames(scan: &Scan, default_dirs: &[u32]) -> Vec<NewSoname> {
    let rank_of: HashMap<u32, u32> = default_dirs.iter().copied().zip(0..).collect();
    let mut names: BTreeMap<Vec<u8>, Vec<CandidateRow>> = BTreeMap::new();
    for (dir, scanned) in (0..).zip(&scan.dirs) {
        let Some(block) = scanned.names() else {
            continue;
        };
        for entry in block.entries() {
            let Some((elf, name)) = entry.elf().zip(entry.name()) else {
                continue;
            };
            let is_library = elf.row.elf_type.to_native() == elf::ET_DYN.0
                && (elf.soname().is_some() || elf.interpreter().is_none());
            if entry.kind() != Some(Kind::File) || !is_library {
                continue;
            }
            // The loader asks for a file name: the symlink that bears the SONAME, if it is there.
            let soname = elf.soname().unwrap_or(name);
            let bearer = block.find(soname).ok().flatten().unwrap_or(entry);
            names
                .entry(soname.to_vec())
                .or_default()
                .push(CandidateRow {
                    dir,
                    entry: bearer.index,
                    search_rank: rank_of.get(&dir).copied().unwrap_or(NONE),
                    machine: elf.row.machine.to_native(),
                    class: elf.row.class,
                });
        }
    }
    let rows = names.into_iter().map(|(name, mut candidates)| {
        candidates.sort_by_key(|row| (row.search_rank, row.dir, row.entry));
        candidates.dedup();
        NewSoname { name, candidates }
    });
    rows.collect()
}

/// Resolves every program of the scan, as on the baseline of its machine: what a better processor would choose is not the
/// same on every host.
#[must_use]
pub fn closures(scan: &Scan, root: &Root) -> Closures {
    let tree = ScanTree::new(scan, root);
    let loaders = Loaders::default();
    let programs = (0..).zip(&scan.dirs).flat_map(|(dir, scanned)| {
        let entries = scanned
            .names()
            .into_iter()
            .flat_map(|block| block.entries());
        let with_interpreter =
            entries.filter(|entry| entry.elf().is_some_and(|elf| elf.interpreter().is_some()));
        with_interpreter.map(move |entry| Place {
            dir,
            entry: entry.index,
        })
    });
    let places: Vec<Place> = programs.collect();
    let programs = places
        .par_iter()
        .filter_map(|place| program(&tree, &loaders, *place))
        .collect();
    let default_dirs = default_dirs(&tree, &loaders, &places);
    let inputs = tree.files_read().into_iter().filter_map(|(path, bytes)| {
        // An interpreter was read for its constants: its facts have its hash already.
        let is_elf = bytes.starts_with(&elf::ELFMAG);
        (!is_elf).then(|| NewInput {
            path,
            content_hash: blake3::hash(&bytes).into(),
        })
    });
    Closures {
        programs,
        inputs: inputs.collect(),
        default_dirs,
    }
}

fn program(tree: &ScanTree<'_>, loaders: &Loaders, place: Place) -> Option<NewProgram> {
    let node = tree.node(place)?;
    let question = Question {
        cpu: Cpu::baseline(),
        ..Question::new(node.real.to_vec())
    };
    let Ok(Outcome::Linked(linked)) = resolve::resolve_with(tree, &question, loaders) else {
        return None;
    };
    let mut flags = 0;
    if linked.fatal.is_some() {
        flags |= program_flags::FAILS;
    }
    let stages = linked.edges.iter().flat_map(|edge| &edge.stages);
    for tried in stages.flat_map(|stage| &stage.tried) {
        if has_hwcaps(tree, &tried.directory) {
            flags |= program_flags::DEPENDS_ON_CPU;
        }
        let passed_over =
            |verdict: &Verdict| matches!(verdict, Verdict::OtherClass | Verdict::OtherMachine);
        if tried.files.iter().any(|(_, verdict)| passed_over(verdict)) {
            flags |= program_flags::PASSES_OVER;
        }
    }
    // Numbers in load order, by which requesters are named: 0 is the program.
    let numbers: HashMap<ObjectId, u32> = linked.order.iter().copied().zip(1..).collect();
    let objects = linked.order.iter().map(|&id| {
        let object = linked.object(id);
        let edge = linked.first_edge_to(id);
        let found_in = |node: &Node| tree.entry(node).map(|(place, _)| (place.dir, place.entry));
        if object.role == Role::Missing {
            flags |= program_flags::INCOMPLETE;
        }
        NewObject {
            name: object.name.clone(),
            place: object.node.as_ref().and_then(found_in),
            requester: edge
                .and_then(|edge| numbers.get(&edge.from).copied())
                .unwrap_or(0),
            reason: reason(object.role, edge),
            search_dir: edge.and_then(search_dir).unwrap_or_default().to_vec(),
        }
    });
    let objects = objects.collect();
    Some(NewProgram {
        dir: place.dir,
        entry: place.entry,
        flags,
        objects,
    })
}

fn has_hwcaps(tree: &ScanTree<'_>, directory: &[u8]) -> bool {
    directory.starts_with(b"/")
        && tree
            .locate(&tree::join(directory, b"glibc-hwcaps"), true)
            .is_ok()
}

fn reason(role: Role, edge: Option<&Edge>) -> Reason {
    match role {
        Role::Main => return Reason::Program,
        Role::Interpreter => return Reason::Interpreter,
        Role::Missing => return Reason::NotFound,
        Role::Library => {}
    }
    let Some(edge) = edge else {
        return Reason::Interpreter;
    };
    if matches!(edge.tie, Tie::Preload | Tie::PreloadFile) {
        return Reason::Preload;
    }
    match &edge.found {
        Found::Missing => Reason::NotFound,
        Found::Loaded => Reason::Interpreter,
        Found::SameFile(source) | Found::Opened(source) => match source {
            Source::Path => Reason::Path,
            Source::Rpath(_) => Reason::Rpath,
            Source::LibraryPath => Reason::LibraryPath,
            Source::Runpath(_) => Reason::Runpath,
            Source::Cache => Reason::Cache,
            Source::Default => Reason::Default,
            Source::MuslPath => Reason::SystemPath,
            Source::Itself => Reason::Interpreter,
        },
    }
}

/// The directory that had it.
fn search_dir(edge: &Edge) -> Option<&[u8]> {
    let found = matches!(edge.found, Found::Opened(_) | Found::SameFile(_));
    let last = edge.stages.last().filter(|_| found)?;
    Some(&last.tried.last()?.directory)
}

/// The directories that are searched for every program, in the order that ldconfig ranks them: those of `ld.so.conf`, then
/// those compiled into an interpreter.
fn default_dirs(tree: &ScanTree<'_>, loaders: &Loaders, programs: &[Place]) -> Vec<u32> {
    let conf = LdSoConf::read(tree, LD_SO_CONF);
    let mut paths: Vec<Vec<u8>> = conf.directories.into_iter().map(|dir| dir.path).collect();
    let mut interpreters = BTreeSet::new();
    for place in programs {
        let facts = tree.node(*place).and_then(|node| tree.elf(&node).ok());
        let Some(Elf::Facts(facts)) = facts else {
            continue;
        };
        if let Some(path) = facts.interpreter.clone()
            && interpreters.insert(path.clone())
        {
            paths.extend(loaders.get(tree, path, &facts).constants.system_directories);
        }
    }
    let mut numbers = Vec::new();
    for path in paths {
        let node = tree.locate(&path, true).ok();
        if let Some(dir) = node.and_then(|node| tree.dir_number(&node))
            && !numbers.contains(&dir)
        {
            numbers.push(dir);
        }
    }
    numbers
}
