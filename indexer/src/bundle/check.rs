//! Whether a bundle keeps its promise: that its programs load what they load where they came from.

use serde::Serialize;

use super::closure::{self, Closure};
use crate::report::{Bytes, escaped};
use crate::tree::Tree;

/// A program that loads other files in the bundle.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// Its path.
    pub program: Bytes,
    /// `-` what it loads at the source and not in the bundle, `+` the other way round.
    pub lines: Vec<String>,
}

/// Resolves every program in both trees.
pub(super) fn compare(
    source: &dyn Tree,
    bundle: &dyn Tree,
    programs: &[Vec<u8>],
) -> anyhow::Result<Vec<Difference>> {
    let mut differences = Vec::new();
    for program in programs {
        let there = lines(&closure::of(source, program)?);
        let here = lines(&closure::of(bundle, program)?);
        if there != here {
            let gone = there
                .iter()
                .filter(|line| !here.contains(line))
                .map(|line| format!("- {line}"));
            let new = here
                .iter()
                .filter(|line| !there.contains(line))
                .map(|line| format!("+ {line}"));
            let mut lines: Vec<String> = gone.chain(new).collect();
            if lines.is_empty() {
                lines.push("the same files in another order".to_owned());
            }
            differences.push(Difference {
                program: Bytes(program.clone()),
                lines,
            });
        }
    }
    Ok(differences)
}

fn lines(closure: &Closure) -> Vec<String> {
    let loaded = closure.loaded.iter().map(|library| {
        if library.path == library.real {
            escaped(&library.path)
        } else {
            format!("{} -> {}", escaped(&library.path), escaped(&library.real))
        }
    });
    loaded
        .chain(
            closure
                .not_found
                .iter()
                .map(|missing| format!("{} not found", escaped(&missing.soname))),
        )
        .collect()
}
