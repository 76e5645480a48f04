//! What a program or module loads, as the resolver has it.

use anyhow::Context;

use crate::report::escaped;
use crate::resolve::{Outcome, Question, Role, resolve};
use crate::tree::Tree;

/// Every library of one program or module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Closure {
    /// In load order, the dynamic linker among them.
    pub loaded: Vec<Loaded>,
    /// Names that no file was found for.
    pub not_found: Vec<NotFound>,
}

/// A library that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The path it is opened by, symlinks and all.
    pub path: Vec<u8>,
    /// The same file's path without symlinks.
    pub real: Vec<u8>,
    /// Path of what asked for it first.
    pub needed_by: Vec<u8>,
}

/// A library that was not found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotFound {
    /// As DT_NEEDED names it.
    pub soname: Vec<u8>,
    /// Path of what asked for it first.
    pub needed_by: Vec<u8>,
}

/// The closure of the ELF file at `path`; empty if it loads nothing.
pub(super) fn of(tree: &dyn Tree, path: &[u8]) -> anyhow::Result<Closure> {
    let answer = resolve(tree, &Question::new(path));
    let answer = answer.with_context(|| format!("resolving the libraries of {}", escaped(path)))?;
    let mut closure = Closure::default();
    let Outcome::Linked(linked) = answer else {
        return Ok(closure);
    };
    for object in &linked.objects {
        let needed_by = object
            .loader
            .map_or(path, |id| &linked.object(id).path)
            .to_vec();
        match (object.role, &object.node) {
            // A loader that is not there is the caller's to see: nothing is searched for it.
            (Role::Main, _) | (Role::Interpreter, None) => {}
            (Role::Missing, _) | (Role::Library, None) => {
                closure.not_found.push(NotFound {
                    soname: object.name.clone(),
                    needed_by,
                });
            }
            (Role::Library | Role::Interpreter, Some(node)) => {
                closure.loaded.push(Loaded {
                    path: object.path.clone(),
                    real: node.real.to_vec(),
                    needed_by,
                });
            }
        }
    }
    Ok(closure)
}
