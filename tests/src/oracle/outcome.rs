//! What a run left behind, and how two of them differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::PathBuf;

/// All that is compared of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// "exited with N", "killed by signal N", "ran for too long".
    pub end: String,
    /// Lines of standard output.
    pub output: Vec<String>,
    /// Lines of standard error.
    pub errors: Vec<String>,
    /// The tree, below its names: the root, and each directory of the case that is bound into it.
    pub trees: BTreeMap<PathBuf, String>,
}

/// What [`Outcome::end`] says of a run that was stopped.
pub(super) const RAN_ON: &str = "ran for too long";

impl Outcome {
    /// Whether it was stopped, as it took too long.
    #[must_use]
    pub fn is_endless(&self) -> bool {
        self.end == RAN_ON
    }

    /// How `self`, which is expected, differs from `other`; `None`: not at all.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let mut text = String::new();
        if self.end != other.end {
            let _ = writeln!(text, "      - {}\n      + {}", self.end, other.end);
        }
        lines(&mut text, "stdout", &self.output, &other.output);
        lines(&mut text, "stderr", &self.errors, &other.errors);
        let paths: BTreeSet<_> = self.trees.keys().chain(other.trees.keys()).collect();
        for path in paths {
            let (ours, theirs) = (self.trees.get(path), other.trees.get(path));
            if ours != theirs {
                let show = |state: Option<&String>| state.map_or("-", String::as_str).to_owned();
                let path = path.display();
                let _ = writeln!(text, "      - {path}: {}", show(ours));
                let _ = writeln!(text, "      + {path}: {}", show(theirs));
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.end)?;
        let lines = self.output.iter().chain(&self.errors);
        lines
            .into_iter()
            .try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// The lines that differ, by place while the numbers are the same, else from the first difference on.
fn lines(text: &mut String, what: &str, expected: &[String], found: &[String]) {
    const MOST: usize = 12;
    if expected == found {
        return;
    }
    let _ = writeln!(text, "      {what}:");
    if expected.len() == found.len() {
        let pairs = expected.iter().zip(found).filter(|(a, b)| a != b);
        for (expected, found) in pairs.take(MOST) {
            let _ = writeln!(text, "      - {expected}\n      + {found}");
        }
        return;
    }
    let same = expected
        .iter()
        .zip(found)
        .take_while(|(expected, found)| expected == found)
        .count();
    let _ = writeln!(text, "      after {same} lines that agree:");
    for line in expected[same..].iter().take(MOST) {
        let _ = writeln!(text, "      - {line}");
    }
    for line in found[same..].iter().take(MOST) {
        let _ = writeln!(text, "      + {line}");
    }
}
