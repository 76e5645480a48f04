//! The libraries that a few programs need, and where each is: what Guix calls a per-application loader cache.
//!
//! A cache is flat: one SONAME, one file, whoever asks. Search paths are not: each library may have a RUNPATH of its own.
//! Where two requesters of one name would get different files the cache cannot say so; that is a [`Conflict`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::{Context, bail};
use elfuse_format::ld_so_cache::{Flags, Need, Row};
use rayon::prelude::*;
use serde::Serialize;

use super::machine::Machine;
use super::scan::isa_level;
use crate::report::{Bytes, escaped};
use crate::resolve::constants::{Family, Version};
use crate::resolve::hwcaps::{Cpu, levels_of};
use crate::resolve::{Edge, Linked, Object, Outcome, Question, Role, Tie, resolve};
use crate::tree::Tree;
use crate::warning::{Warning, Warnings};

/// What programs ask for and get.
#[derive(Debug, Default)]
pub struct Closure {
    /// One row for each name and processor.
    pub rows: Vec<Row>,
    /// What had no room.
    pub conflicts: Vec<Conflict>,
}

/// One name that means two files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The name.
    pub soname: Bytes,
    /// C library and architecture, as `ldconfig -p` prints them.
    pub kind: String,
    /// What the cache says.
    pub taken: Answer,
    /// What it should say too.
    pub left_out: Answer,
}

/// A file, and who gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The file.
    pub path: Bytes,
    /// The program or library that names it.
    pub requester: Bytes,
    /// The program being started.
    pub program: Bytes,
}

/// Follows what `programs` (absolute guest paths) need, on the baseline processor and on each better one that has a name.
/// Libraries not found are counted in `warnings`.
///
/// # Errors
/// A program that is not there, cannot be read, is not linked dynamically, or is linked with musl, which has no cache.
pub fn closure(
    tree: &dyn Tree,
    programs: &[&[u8]],
    warnings: &Warnings,
) -> anyhow::Result<Closure> {
    let linked: Vec<Vec<Linked>> = programs
        .par_iter()
        .map(|program| on_every_processor(tree, program))
        .collect::<anyhow::Result<_>>()?;
    let mut collector = Collector {
        tree,
        warnings,
        known: HashMap::new(),
        closure: Closure::default(),
    };
    // Baseline first for all programs, so that nothing depends on the order in which processors are tried.
    let levels = linked.iter().map(Vec::len).max().unwrap_or(0);
    for level in 0..levels {
        for (program, linked) in programs.iter().zip(&linked) {
            if let Some(linked) = linked.get(level) {
                collector.add(program, linked);
            }
        }
    }
    Ok(collector.closure)
}

fn on_every_processor(tree: &dyn Tree, program: &[u8]) -> anyhow::Result<Vec<Linked>> {
    let on = |cpu| {
        link(tree, program, cpu)
            .with_context(|| format!("following what {} needs", escaped(program)))
    };
    let baseline = on(Cpu::baseline())?;
    let better = levels_of(baseline.loader.constants.machine)
        .iter()
        .rev()
        .filter_map(|level| Cpu::of_level(level));
    let better: Vec<Linked> = better.map(on).collect::<anyhow::Result<_>>()?;
    Ok([baseline].into_iter().chain(better).collect())
}

fn link(tree: &dyn Tree, program: &[u8], cpu: Cpu) -> anyhow::Result<Linked> {
    let question = Question {
        cpu,
        ..Question::new(program)
    };
    match resolve(tree, &question)? {
        Outcome::Linked(linked) if linked.loader.constants.family == Family::Musl => {
            bail!(
                "it is linked with musl, whose loader reads no cache; give a program linked with glibc"
            )
        }
        Outcome::Linked(linked) => Ok(*linked),
        Outcome::NotLinked(why) => bail!("{why}; give a program that is linked dynamically"),
    }
}

struct Collector<'t> {
    tree: &'t dyn Tree,
    warnings: &'t Warnings,
    known: HashMap<(Vec<u8>, Flags, Need), Known>,
    closure: Closure,
}

/// The answer that a row gives.
struct Known {
    file: (u64, u64),
    answer: Answer,
}

impl Collector<'_> {
    fn add(&mut self, program: &[u8], linked: &Linked) {
        for edge in &linked.edges {
            let wanted = matches!(edge.tie, Tie::Needed | Tie::Auxiliary | Tie::Filter);
            // A name with a slash is a path and looked up nowhere.
            if wanted && !edge.name.is_empty() && !edge.name.contains(&b'/') {
                self.request(program, linked, edge);
            }
        }
    }

    fn request(&mut self, program: &[u8], linked: &Linked, edge: &Edge) {
        let Some(object) = edge.to.map(|id| linked.object(id)) else {
            return;
        };
        let requester = linked.object(edge.from);
        let (Some(node), Role::Library | Role::Interpreter) = (&object.node, object.role) else {
            if object.role == Role::Missing {
                let whom = format!("needed by {}", escaped(&requester.path));
                self.warnings
                    .add(Warning::LibraryNotFound, &edge.name, whom);
            }
            return;
        };
        let facts = &object.facts;
        let Some(flags) = Flags::of_elf(facts.class, facts.machine, facts.e_flags) else {
            let what = format!("no loader cache has a number for machine {}", facts.machine);
            self.warnings.add(Warning::BrokenElf, &object.path, what);
            return;
        };
        let path = self.tidy(object);
        let need = need_of(&path, object, linked.loader.constants.rules());
        let answer = Answer {
            path: Bytes(path.clone()),
            requester: Bytes(requester.path.clone()),
            program: Bytes(program.to_vec()),
        };
        match self.known.entry((edge.name.clone(), flags, need.clone())) {
            Entry::Vacant(free) => {
                free.insert(Known {
                    file: node.id,
                    answer,
                });
                self.closure.rows.push(Row {
                    key: edge.name.clone(),
                    value: path,
                    flags,
                    need,
                    os_version: 0,
                });
            }
            Entry::Occupied(known) if known.get().file == node.id => {}
            Entry::Occupied(known) => {
                let conflict = Conflict {
                    soname: Bytes(edge.name.clone()),
                    kind: flags.to_string(),
                    taken: known.get().answer.clone(),
                    left_out: answer,
                };
                let seen = self.closure.conflicts.iter().any(|earlier| {
                    (&earlier.soname, &earlier.left_out.path)
                        == (&conflict.soname, &conflict.left_out.path)
                });
                if !seen {
                    self.warnings
                        .add(Warning::LibrariesDisagree, &edge.name, conflict.in_words());
                    self.closure.conflicts.push(conflict);
                }
            }
        }
    }

    /// The path of `object` as a cache should have it: absolute and without detours.
    fn tidy(&self, object: &Object) -> Vec<u8> {
        let path = &object.path;
        let straight = path.strip_prefix(b"/").is_some_and(|below| {
            below
                .split(|&byte| byte == b'/')
                .all(|name| !matches!(name, b"" | b"." | b".."))
        });
        if straight {
            return path.clone();
        }
        // The directory without detours, and the last name as it was asked for: it outlives an update of the library.
        let slash = path.iter().rposition(|&byte| byte == b'/');
        if let Some(slash) = slash
            && path.starts_with(b"/")
            && let Ok(directory) = self.tree.locate(&path[..=slash], true)
        {
            return crate::tree::join(&directory.real, &path[slash + 1..]);
        }
        object
            .node
            .as_ref()
            .map_or_else(|| path.clone(), |node| node.real.to_vec())
    }
}

impl Conflict {
    fn in_words(&self) -> String {
        let Conflict {
            taken, left_out, ..
        } = self;
        format!(
            "{} for {} started as {}, but {} for {} started as {}",
            taken.path,
            taken.requester,
            taken.program,
            left_out.path,
            left_out.requester,
            left_out.program
        )
    }
}

/// Which processors get the file at `path`, by the directory it is in.
fn need_of(path: &[u8], object: &Object, version: Version) -> Need {
    let mut names = path.rsplit(|&byte| byte == b'/').skip(1);
    if let (Some(level), Some(b"glibc-hwcaps")) = (names.next(), names.next()) {
        return Need::Named {
            directory: level.to_vec(),
            isa_level: isa_level(&object.facts),
        };
    }
    let directory = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(&[][..], |slash| &path[..slash]);
    match Machine(object.facts.machine).capabilities_of(directory) {
        bits if bits != 0 && version.has_legacy_hwcaps() => Need::Legacy(bits),
        _ => Need::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::memory::MemoryTree;

    /// A tree with one program for each of `programs`, which needs `liba.so` of its own RUNPATH.
    fn tree(programs: &[(&str, &str)], libraries: &[(&str, &str)]) -> MemoryTree {
        let names: Vec<String> = programs
            .iter()
            .map(|(name, _)| format!("/bin/{name}"))
            .collect();
        let files = names.iter().map(|name| (name.as_str(), "elf"));
        let loader = [("/lib64/ld-linux-x86-64.so.2", "elf ld-linux-x86-64.so.2")];
        let mut tree = MemoryTree::new(files.chain(libraries.iter().copied()).chain(loader));
        for (name, (_, runpath)) in names.iter().zip(programs) {
            tree.adjust(name, |facts| {
                facts.interpreter = Some(b"/lib64/ld-linux-x86-64.so.2".to_vec());
                facts.runpath = Some(runpath.as_bytes().to_vec());
                facts.needed = vec![b"liba.so".to_vec()];
            });
        }
        tree
    }

    fn show(closure: &Closure) -> Vec<String> {
        let row = |row: &Row| {
            let hwcaps = row
                .need
                .directory()
                .map(|name| format!(" [{}]", name.escape_ascii()))
                .unwrap_or_default();
            format!(
                "{} {}{hwcaps}",
                row.key.escape_ascii(),
                row.value.escape_ascii()
            )
        };
        closure.rows.iter().map(row).collect()
    }

    #[test]
    fn each_name_asked_for_leads_to_the_file_that_its_runpath_has() {
        let mut tree = tree(
            &[("prog", "/a:/b")],
            &[
                ("/b/liba.so", "elf liba.so"),
                ("/c/libc.so", "elf libc.so"),
                ("/lib64/libc.so", "elf libc.so"),
            ],
        );
        tree.adjust("/b/liba.so", |facts| {
            facts.runpath = Some(b"$ORIGIN/../c/.".to_vec());
            facts.needed = vec![b"libc.so".to_vec(), b"/lib64/libpath.so".to_vec()];
        });
        let warnings = Warnings::default();
        let closure = closure(&tree, &[b"/bin/prog"], &warnings).unwrap();
        assert_eq!(show(&closure), ["liba.so /b/liba.so", "libc.so /c/libc.so"]);
        assert_eq!(closure.conflicts, []);
    }

    #[test]
    fn two_programs_that_mean_different_files_are_a_conflict_and_the_first_wins() {
        let tree = tree(
            &[
                ("one", "/x"),
                ("two", "/y"),
                ("three", "/link"),
                ("four", "/y"),
            ],
            &[
                ("/x/liba.so", "elf liba.so"),
                ("/y/liba.so", "elf liba.so"),
                ("/link", "-> x"),
            ],
        );
        let warnings = Warnings::default();
        let programs: [&[u8]; 4] = [b"/bin/one", b"/bin/two", b"/bin/three", b"/bin/four"];
        let closure = closure(&tree, &programs, &warnings).unwrap();
        assert_eq!(show(&closure), ["liba.so /x/liba.so"]);
        let words: Vec<String> = closure.conflicts.iter().map(Conflict::in_words).collect();
        assert_eq!(
            words,
            [
                "/x/liba.so for /bin/one started as /bin/one, but /y/liba.so for /bin/two started as /bin/two"
            ]
        );
        assert!(warnings.has_gaps());
    }

    #[test]
    fn better_processors_get_rows_of_their_own() {
        let tree = tree(
            &[("prog", "/x")],
            &[
                ("/x/liba.so", "elf liba.so"),
                ("/x/glibc-hwcaps/x86-64-v3/liba.so", "elf liba.so"),
                ("/x/glibc-hwcaps/x86-64-v2/liba.so", "elf liba.so"),
            ],
        );
        let closure = closure(&tree, &[b"/bin/prog"], &Warnings::default()).unwrap();
        assert_eq!(
            show(&closure),
            [
                "liba.so /x/liba.so",
                "liba.so /x/glibc-hwcaps/x86-64-v2/liba.so [x86-64-v2]",
                "liba.so /x/glibc-hwcaps/x86-64-v3/liba.so [x86-64-v3]",
            ]
        );
        assert_eq!(closure.conflicts, []);
    }

    #[test]
    fn a_library_that_is_nowhere_is_a_warning_and_no_row() {
        let tree = tree(&[("prog", "/x")], &[]);
        let warnings = Warnings::default();
        assert_eq!(
            show(&closure(&tree, &[b"/bin/prog"], &warnings).unwrap()),
            [""; 0]
        );
        assert_eq!(warnings.reported()[0].kind, Warning::LibraryNotFound);
        assert_eq!(warnings.reported()[0].detail, "needed by /bin/prog");
    }

    #[test]
    fn what_is_not_linked_dynamically_is_an_error_that_says_what_it_is() {
        let tree = MemoryTree::new([("/bin/script", "#!/bin/sh\n"), ("/lib64", "/")]);
        let error = closure(&tree, &[b"/bin/script"], &Warnings::default()).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "following what /bin/script needs: a script; the kernel runs /bin/sh instead; give a program that is linked dynamically"
        );
    }
}
