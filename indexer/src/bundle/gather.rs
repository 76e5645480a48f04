//! Follows what programs need until nothing new turns up: symlinks, libraries, interpreters.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use anyhow::Context;

use super::plan::{Because, Group, Plan, What};
use super::source::Source;
use super::{closure, runtimes, script};
use crate::error::UsageError;
use crate::options::{BundleOptions, GUEST_PATH, find_program};
use crate::report::{Output, escaped};
use crate::tree::{Elf, Kind, Node, Tree, join, split};
use crate::warning::Warning;

/// What a file is to the bundle, from which follows what it brings with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    /// It is started: libraries, `#!` interpreters, the runtime of an interpreter.
    Program,
    /// It is loaded by something else: libraries only.
    Module,
}

/// How the files of a tree are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TreeFiles {
    /// Executable scripts bring their interpreters.
    Programs,
    /// Only what ELF files load is followed: the standard library of an interpreter has scripts that nobody starts.
    Modules,
}

/// The C libraries that turned up.
#[derive(Debug, Default)]
pub(super) struct CLibraries {
    /// Paths without symlinks of every `libc.so.6`.
    pub glibc: BTreeSet<Vec<u8>>,
    /// Whether a program for musl is there.
    pub musl: bool,
}

/// A plan in the making.
pub(super) struct Gather<'a> {
    pub(super) source: &'a Source,
    pub(super) options: &'a BundleOptions,
    pub(super) out: &'a Output,
    pub(super) plan: Plan,
    pub(super) c_libraries: CLibraries,
    /// Paths of everything that is started: what was named, and interpreters.
    pub(super) programs: Vec<Vec<u8>>,
    followed: HashSet<(Arc<[u8]>, Role)>,
    trees: HashSet<Arc<[u8]>>,
    /// soname -> who needs it, and whether that is a program.
    not_found: BTreeMap<Vec<u8>, (Vec<u8>, bool)>,
}

impl<'a> Gather<'a> {
    pub(super) fn new(
        source: &'a Source,
        options: &'a BundleOptions,
        out: &'a Output,
    ) -> Gather<'a> {
        Gather {
            source,
            options,
            out,
            plan: Plan::default(),
            c_libraries: CLibraries::default(),
            programs: Vec::new(),
            followed: HashSet::new(),
            trees: HashSet::new(),
            not_found: BTreeMap::new(),
        }
    }

    /// A program named on the command line.
    pub(super) fn program(&mut self, path: &[u8]) -> anyhow::Result<()> {
        let node = self.must_have(path, &Because::new(Group::Program, path))?;
        if node.kind != Kind::File {
            let why =
                "a program has to be a regular file; directories can be given to --add".to_owned();
            return Err(UsageError::NoSuchFile {
                path: escaped(path).into(),
                why,
            }
            .into());
        }
        self.follow(&node, path, Role::Program)
    }

    /// A file or tree named by `--add`.
    pub(super) fn add(&mut self, path: &[u8]) -> anyhow::Result<()> {
        let because = Because::new(Group::Added, path);
        let node = self.must_have(path, &because)?;
        match node.kind {
            Kind::Directory => self.tree(path, &because, TreeFiles::Programs, &|_| true),
            _ => self.follow(&node, path, Role::Program),
        }
    }

    fn must_have(&mut self, path: &[u8], because: &Because) -> anyhow::Result<Node> {
        let walked = self.source.walk(path);
        let walked = walked
            .with_context(|| format!("following {}, which is to be bundled", escaped(path)))?;
        self.take(walked, because);
        let node = self.source.tree().locate(path, true)?;
        Ok(node)
    }

    /// Adds what `path` leads to and every symlink on the way; nothing if it leads nowhere. A directory comes empty.
    pub(super) fn want(&mut self, path: &[u8], because: &Because) -> Option<Node> {
        let walked = self.source.walk(path).ok()?;
        Some(self.take(walked, because))
    }

    fn take(&mut self, walked: super::source::Walked, because: &Because) -> Node {
        for (real, target) in walked.symlinks {
            self.plan.add(&real, What::Symlink(target), because);
        }
        let node = walked.node;
        match node.kind {
            Kind::Directory => {
                self.plan.add(&node.real, What::Directory, because);
            }
            Kind::File => {
                self.plan.add(&node.real, What::File(node.clone()), because);
            }
            Kind::Symlink | Kind::Other => {
                self.out.warn(Warning::SpecialFileLeftOut, &node.real, "")
            }
        }
        node
    }

    /// Adds what a module needs besides itself: its libraries.
    pub(super) fn want_module(&mut self, path: &[u8], because: &Because) -> anyhow::Result<bool> {
        match self.want(path, because) {
            Some(node) if node.kind == Kind::File => {
                self.follow(&node, path, Role::Module).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Adds the directory that `path` leads to with everything below it that `keep`, given the path below it, accepts.
    pub(super) fn tree(
        &mut self,
        path: &[u8],
        because: &Because,
        files: TreeFiles,
        keep: &dyn Fn(&[u8]) -> bool,
    ) -> anyhow::Result<()> {
        let Some(top) = self.want(path, because) else {
            return Ok(());
        };
        if top.kind != Kind::Directory || !self.trees.insert(Arc::clone(&top.real)) {
            return Ok(());
        }
        let mut pending = vec![top.clone()];
        while let Some(directory) = pending.pop() {
            let names = match self.source.tree().names(&directory) {
                Ok(names) => names,
                Err(error) => {
                    self.out
                        .warn(Warning::UnreadableDirectory, &directory.real, error);
                    continue;
                }
            };
            for name in names {
                let child = join(&directory.real, &name);
                if !keep(below(&top.real, &child)) {
                    continue;
                }
                let Ok(node) = self.source.tree().locate(&child, false) else {
                    continue;
                };
                match node.kind {
                    Kind::Directory => {
                        self.plan.add(&node.real, What::Directory, because);
                        pending.push(node);
                    }
                    Kind::File => {
                        self.plan.add(&node.real, What::File(node.clone()), because);
                        self.tree_file(&node, files)?;
                    }
                    Kind::Symlink => self.tree_symlink(&top, &node, because, files)?,
                    Kind::Other => self.out.warn(Warning::SpecialFileLeftOut, &node.real, ""),
                }
            }
        }
        Ok(())
    }

    fn tree_file(&mut self, node: &Node, files: TreeFiles) -> anyhow::Result<()> {
        let starts = files == TreeFiles::Programs
            && self.source.metadata(&node.real).is_ok_and(|metadata| {
                use std::os::unix::fs::MetadataExt;
                metadata.mode() & 0o111 != 0
            });
        let role = if starts { Role::Program } else { Role::Module };
        self.follow(node, &Arc::clone(&node.real), role)
    }

    /// A symlink in a tree: it stays as it is. A file it leads to comes too, a directory outside the tree does not.
    fn tree_symlink(
        &mut self,
        top: &Node,
        link: &Node,
        because: &Because,
        files: TreeFiles,
    ) -> anyhow::Result<()> {
        let text = self.source.link_text(link);
        let text = text.with_context(|| format!("reading the symlink {}", escaped(&link.real)))?;
        self.plan.add(&link.real, What::Symlink(text), because);
        let Ok(walked) = self.source.walk(&link.real) else {
            return Ok(());
        };
        match walked.node.kind {
            Kind::File => {
                let node = self.take(walked, because);
                self.tree_file(&node, files)
            }
            Kind::Directory => {
                let inside = walked.node.real.starts_with(&top.real);
                if inside {
                    self.take(walked, because);
                } else {
                    self.out.warn(
                        Warning::SymlinkLeadsOut,
                        &link.real,
                        escaped(&walked.node.real),
                    );
                }
                Ok(())
            }
            Kind::Symlink | Kind::Other => Ok(()),
        }
    }

    fn follow(&mut self, node: &Node, path: &[u8], role: Role) -> anyhow::Result<()> {
        if node.kind != Kind::File || !self.followed.insert((Arc::clone(&node.real), role)) {
            return Ok(());
        }
        match self.source.tree().elf(node) {
            Ok(Elf::Facts(facts)) => self.follow_elf(node, path, &facts, role),
            Ok(Elf::NotElf) if role == Role::Program => self.follow_script(node, path),
            Ok(Elf::NotElf) => Ok(()),
            Ok(Elf::Broken(why)) => {
                self.out.warn(Warning::BrokenElf, path, why);
                Ok(())
            }
            Err(error) => {
                self.out.warn(Warning::UnreadableFile, path, error);
                Ok(())
            }
        }
    }

    fn follow_elf(
        &mut self,
        node: &Node,
        path: &[u8],
        facts: &elfuse_format::elf_facts::ElfFacts,
        role: Role,
    ) -> anyhow::Result<()> {
        if let Some(interpreter) = &facts.interpreter {
            if self
                .want(interpreter, &Because::new(Group::Loader, path))
                .is_none()
            {
                self.out
                    .warn(Warning::InterpreterNotFound, path, escaped(interpreter));
            }
            self.c_libraries.musl |= file_name(interpreter).starts_with(b"ld-musl-");
        }
        let mut libraries = Vec::new();
        if !facts.needed.is_empty() || !facts.filters.is_empty() {
            let closure = closure::of(self.source.tree(), path)?;
            for library in closure.loaded {
                let because = Because::new(Group::Library, &library.needed_by);
                let Some(found) = self.want(&library.path, &because) else {
                    continue;
                };
                self.want_hwcaps_variants(&library.path, &because);
                if file_name(&library.path) == b"libc.so.6" {
                    self.c_libraries.glibc.insert(found.real.to_vec());
                }
                libraries.push(found);
            }
            for missing in closure.not_found {
                let entry = self
                    .not_found
                    .entry(missing.soname)
                    .or_insert((missing.needed_by, false));
                entry.1 |= role == Role::Program;
            }
        }
        if role == Role::Program {
            self.programs.push(path.to_vec());
        }
        if role == Role::Program && self.options.runtimes {
            runtimes::add(self, node, path, &libraries)?;
        }
        Ok(())
    }

    /// The same library for other CPUs: the bundle may be used on one that has more or less than this one.
    fn want_hwcaps_variants(&mut self, path: &[u8], because: &Because) {
        let Some((directory, name)) = split(path) else {
            return;
        };
        // DIR/glibc-hwcaps/LEVEL/NAME is the variant of DIR/NAME that was chosen for this CPU.
        let above = split(directory).and_then(|(levels, _)| split(levels));
        let plain = above
            .filter(|(_, name)| name == b"glibc-hwcaps")
            .map(|(plain, _)| plain);
        if let Some(plain) = plain {
            self.want(&join(plain, name), because);
        }
        let levels = join(plain.unwrap_or(directory), b"glibc-hwcaps");
        for level in self.source.names(&levels) {
            let variant = join(&join(&levels, &level), name);
            self.want(&variant, because);
        }
    }

    fn follow_script(&mut self, node: &Node, path: &[u8]) -> anyhow::Result<()> {
        let start = self.source.read_start(node, script::LINE_MAX);
        let start =
            start.with_context(|| format!("reading the first line of {}", escaped(path)))?;
        let Some(shebang) = script::parse(&start) else {
            return Ok(());
        };
        if script::is_shell(file_name(
            shebang
                .through_env
                .as_deref()
                .unwrap_or(&shebang.interpreter),
        )) {
            self.out.warn(Warning::ScriptMayNeedMore, path, "");
        }
        let mut interpreters = vec![shebang.interpreter];
        if let Some(name) = shebang.through_env {
            match self.find_in_path(&name) {
                Some(found) => interpreters.push(found),
                None => self
                    .out
                    .warn(Warning::InterpreterNotFound, path, escaped(&name)),
            }
        }
        for interpreter in interpreters {
            let because = Because::new(Group::Interpreter, path);
            match self.want(&interpreter, &because) {
                Some(node) => self.follow(&node, &interpreter, Role::Program)?,
                None => self
                    .out
                    .warn(Warning::InterpreterNotFound, path, escaped(&interpreter)),
            }
        }
        Ok(())
    }

    /// What env(1) would start. In the bundle there is no `$PATH` of this shell, so only usual directories count.
    fn find_in_path(&self, name: &[u8]) -> Option<Vec<u8>> {
        if name.contains(&b'/') {
            return Some(name.to_vec());
        }
        find_program(name, GUEST_PATH.as_bytes(), |candidate| {
            self.source.is_file(candidate.as_bytes())
        })
        .map(|found| found.as_bytes().to_vec())
    }

    /// Warns of libraries that were not found anywhere. A module often counts on its program having loaded a library
    /// already: what is in the bundle under that name is not missing.
    pub(super) fn warn_of_missing_libraries(&self) {
        for (soname, (needed_by, by_program)) in &self.not_found {
            if !self.plan.holds_name(soname) {
                let kind = if *by_program {
                    Warning::LibraryNotFound
                } else {
                    Warning::ModuleLacksLibrary
                };
                self.out
                    .warn(kind, soname, format!("needed by {}", escaped(needed_by)));
            }
        }
    }
}

/// The last name of a path.
pub(super) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// `path` without the directory `top` and the slash after it.
fn below<'p>(top: &[u8], path: &'p [u8]) -> &'p [u8] {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}
