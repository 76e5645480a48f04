//! Questions about one program: [`tree`], [`why`], [`probes`]. Each is a plain answer made of bytes and numbers, which
//! serializes to JSON, and a text made of that answer.

pub mod probes;
pub mod tree;
pub mod why;

use anyhow::Context;
use serde::Serialize;

use crate::live::LiveTree;
use crate::options::{GuestPath, LookupOptions, Sysroot};
use crate::report::{Bytes, escaped};
use crate::resolve::{
    Edge, Found, Linked, ObjectId, Outcome, Question, Source, Stage, Verdict, errno_name, resolve,
};
use crate::tree::Tree;

/// Puts the question that the options of a command come to.
///
/// # Errors
/// The sysroot cannot be opened, or the program is not in it.
fn ask(
    sysroot: &Sysroot,
    program: &GuestPath,
    lookup: &LookupOptions,
) -> anyhow::Result<(LiveTree, Outcome)> {
    let tree =
        LiveTree::open(sysroot.root()).with_context(|| format!("opening the sysroot {sysroot}"))?;
    let outcome = ask_tree(&tree, program.as_bytes(), lookup)?;
    Ok((tree, outcome))
}

fn ask_tree(tree: &dyn Tree, program: &[u8], lookup: &LookupOptions) -> anyhow::Result<Outcome> {
    let question = Question {
        library_path: lookup.library_path.clone(),
        cpu: lookup.cpu.clone(),
        ..Question::new(program)
    };
    resolve(tree, &question).with_context(|| format!("resolving {}", escaped(program)))
}

/// The dynamic linker of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoaderAnswer {
    /// Its path.
    pub path: Bytes,
    /// glibc's version, where it says.
    pub version: Option<String>,
    /// Whether it is in the sysroot; otherwise its constants are guesses.
    pub exists: bool,
}

impl LoaderAnswer {
    fn of(linked: &Linked) -> Self {
        Self {
            path: Bytes(linked.loader.path.clone()),
            version: linked.loader.constants.version.map(|v| v.to_string()),
            exists: linked.loader.exists,
        }
    }
}

/// Where a library came from, in words a machine can tell apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `loaded`, `path`, `rpath`, `library-path`, `runpath`, `cache`, `default`, `musl-path`, `itself` or `missing`.
    pub rule: &'static str,
    /// Whose `DT_RPATH` or `DT_RUNPATH` it is.
    pub of: Option<Bytes>,
    /// The element of the path as it is written.
    pub written: Option<Bytes>,
    /// The directory that comes to.
    pub directory: Option<Bytes>,
    /// Whether the file was loaded already under another name.
    pub same_file: bool,
}

impl Reason {
    /// Why `edge` was answered as it was.
    #[must_use]
    pub fn of(linked: &Linked, edge: &Edge) -> Self {
        let (source, same_file) = match &edge.found {
            Found::Loaded => return Self::bare("loaded"),
            Found::Missing => return Self::bare("missing"),
            Found::Opened(source) => (source, false),
            Found::SameFile(source) => (source, true),
        };
        let place = edge.stages.last().and_then(|stage| stage.tried.last());
        let is_list = !matches!(source, Source::Path | Source::Cache | Source::Itself);
        let place = place.filter(|_| is_list);
        Self {
            of: owner(linked, source),
            written: place.map(|place| Bytes(place.written.clone())),
            directory: place.map(|place| Bytes(directory(&place.directory).to_vec())),
            same_file,
            ..Self::bare(rule(source))
        }
    }

    const fn bare(rule: &'static str) -> Self {
        Self {
            rule,
            of: None,
            written: None,
            directory: None,
            same_file: false,
        }
    }
}

/// `DT_RUNPATH $ORIGIN/../lib = /opt/bin/../lib`
impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.rule {
            "loaded" => "already loaded",
            "missing" => "not found",
            "path" => "named by its path",
            rule => rule_text(rule),
        })?;
        if let Some(of) = &self.of {
            write!(f, " of {of}")?;
        }
        match (&self.written, &self.directory) {
            (Some(written), Some(directory)) if same_directory(&written.0, &directory.0) => {
                write!(f, ": {directory}")?;
            }
            (Some(written), Some(directory)) => write!(f, ": {written} = {directory}")?,
            _ => {}
        }
        if self.same_file {
            f.write_str(", the same file under another name")?;
        }
        Ok(())
    }
}

/// One rule being tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageAnswer {
    /// As [`Reason::rule`].
    pub rule: &'static str,
    /// Whose path it is.
    pub of: Option<Bytes>,
    /// The directories, in order.
    pub tried: Vec<TriedAnswer>,
}

/// One directory being tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriedAnswer {
    /// As it is written, where that is somewhere.
    pub written: Bytes,
    /// The directory.
    pub directory: Bytes,
    /// Files that were opened there; fewer than there are hwcaps subdirectories where those are known to be missing.
    pub opened: usize,
    /// `taken`, an error's name, `other-class`, `other-machine`, or `known-missing` where nothing had to be opened.
    pub verdict: String,
}

impl StageAnswer {
    fn of(linked: &Linked, stage: &Stage) -> Self {
        let tried = stage.tried.iter().map(|tried| TriedAnswer {
            written: Bytes(tried.written.clone()),
            directory: Bytes(directory(&tried.directory).to_vec()),
            opened: tried.files.len(),
            verdict: match tried.files.last() {
                None => "known-missing".to_owned(),
                Some((_, Verdict::Taken)) => "taken".to_owned(),
                Some((_, Verdict::Errno(errno))) => errno_name(*errno).into_owned(),
                Some((_, Verdict::OtherClass)) => "other-class".to_owned(),
                Some((_, Verdict::OtherMachine)) => "other-machine".to_owned(),
            },
        });
        Self {
            rule: rule(&stage.source),
            of: owner(linked, &stage.source),
            tried: tried.collect(),
        }
    }

    /// The lines that tell of this stage, not indented.
    fn lines(&self) -> Vec<String> {
        let mut head = rule_text(self.rule).to_owned();
        if let Some(of) = &self.of {
            head.push_str(&format!(" of {of}"));
        }
        if self.tried.is_empty() {
            return vec![format!("{head}: no entry")];
        }
        let mut lines = vec![format!("{head}:")];
        lines.extend(self.tried.iter().map(|tried| {
            let written = if tried.written.0.is_empty()
                || same_directory(&tried.written.0, &tried.directory.0)
            {
                String::new()
            } else {
                format!(" ({})", tried.written)
            };
            let verdict = match tried.verdict.as_str() {
                "taken" => "found",
                "ENOENT" => "not there",
                "ENOTDIR" => "no directory",
                "other-class" => "passed over: of another ELF class",
                "other-machine" => "passed over: for another machine",
                "known-missing" => "known to be missing, not asked again",
                errno => errno,
            };
            format!("  {}{written}: {verdict}", tried.directory)
        }));
        lines
    }
}

fn rule(source: &Source) -> &'static str {
    match source {
        Source::Path => "path",
        Source::Rpath(_) => "rpath",
        Source::LibraryPath => "library-path",
        Source::Runpath(_) => "runpath",
        Source::Cache => "cache",
        Source::Default => "default",
        Source::MuslPath => "musl-path",
        Source::Itself => "itself",
    }
}

fn rule_text(rule: &str) -> &'static str {
    match rule {
        "path" => "the path itself",
        "rpath" => "DT_RPATH",
        "library-path" => "LD_LIBRARY_PATH",
        "runpath" => "DT_RUNPATH",
        "cache" => "ld.so.cache",
        "default" => "default directories",
        "musl-path" => "musl's path file",
        "itself" => "the dynamic linker itself",
        _ => "",
    }
}

fn owner(linked: &Linked, source: &Source) -> Option<Bytes> {
    match source {
        Source::Rpath(id) | Source::Runpath(id) => Some(name_of(linked, *id)),
        _ => None,
    }
}

fn name_of(linked: &Linked, id: ObjectId) -> Bytes {
    let object = linked.object(id);
    Bytes(if object.path.is_empty() {
        object.name.clone()
    } else {
        object.path.clone()
    })
}

/// Without its trailing slash; the working directory by its name.
fn directory(path: &[u8]) -> &[u8] {
    match path {
        b"" => b".",
        b"/" => path,
        _ => path.strip_suffix(b"/").unwrap_or(path),
    }
}

fn same_directory(written: &[u8], expanded: &[u8]) -> bool {
    directory(written) == expanded
}

#[cfg(test)]
mod tests;
