//! Where programs are kept, and the ways in which one is started from there.

use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use super::{FIXED, NATIVE, REFUSED, SLIDE, WITHOUT};
use crate::ground::{Ground, Root};
use crate::namespace::said;
use crate::turns::{Expected, Side};

/// A tree with an index in which a program is kept at addresses that move, and another in which it is at fixed ones.
pub(super) struct Stores {
    slide: Root,
    fixed: Root,
    /// What was captured for addresses that move.
    pub(super) kept: Kept,
}

/// A snapshot, as `elfuse resident add` tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// Files that are mapped or were read.
    pub(super) files: u64,
    /// Pages that differ from the files.
    pub(super) pages: u64,
    /// Length of the snapshot.
    pub(super) bytes: u64,
    /// How long it took to run the program twice, compare, and write.
    pub(super) capture_ms: f64,
}

impl Kept {
    fn of(json: &[u8]) -> anyhow::Result<Self> {
        let document: Value = serde_json::from_slice(json)?;
        let program = &document["programs"][0];
        let number = |name: &str| {
            let found = program[name].as_u64();
            found.with_context(|| format!("no {name} in {document}"))
        };
        Ok(Self {
            files: number("files")?,
            pages: number("pages")?,
            bytes: number("bytes")?,
            capture_ms: program["capture_ms"].as_f64().unwrap_or(f64::NAN),
        })
    }
}

impl Stores {
    /// Keeps a program of a tree.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(super) fn new(
        ground: &Ground,
        root: &Root,
        name: &str,
        program: &str,
    ) -> anyhow::Result<Self> {
        // Not the index that other benchmarks start from: they would find these.
        let kept = |how: &str| Root {
            index: ground.cache.join(format!("index-{name}-{how}")),
            ..root.clone()
        };
        let (slide, fixed) = (kept("kept"), kept("fixed"));
        let add = |root: &Root, more: &[&str]| {
            ground.index(&root.tree, &root.index, &[])?;
            let mut add = ground.command(&ground.elfuse);
            add.args(["resident", "add", "--json", "--sysroot"])
                .arg(&root.tree)
                .arg("--index-dir")
                .arg(&root.index)
                .args(more);
            said(add.arg(program))
        };
        add(&fixed, &["--fixed"])?;
        let kept = Kept::of(&add(&slide, &[])?)?;
        Ok(Self { slide, fixed, kept })
    }

    /// `elfuse run` of a line with one of the stores.
    fn run(&self, ground: &Ground, root: &Root, more: &[&str], line: &[&str]) -> Command {
        let mut run = ground.command(&ground.elfuse);
        run.args(["run", "--sysroot"]).arg(&root.tree);
        run.arg("--index-dir").arg(&root.index).args(more);
        run.arg("--").args(line);
        run
    }

    /// Native, without, resident, resident at fixed addresses.
    pub(super) fn ways(&self, ground: &Ground, line: &[&str]) -> Vec<(&'static str, Command)> {
        let run = |root, more: &[&str]| self.run(ground, root, more, line);
        let mut without = run(&self.slide, &["--no-resident"]);
        // So that it differs from the refused one in one thing.
        without.env("MALLOC_", "");
        vec![
            (NATIVE, ground.chroot_exec(&self.slide, line)),
            (WITHOUT, without),
            (SLIDE, run(&self.slide, &[])),
            (FIXED, run(&self.fixed, &[])),
        ]
    }

    /// All ways, and with a snapshot that is not used.
    pub(super) fn sides(&self, ground: &Ground, line: &[&str]) -> Vec<Side> {
        // Nobody reads it, and a snapshot is not used where malloc may be told something.
        let mut refused = self.run(ground, &self.slide, &[], line);
        refused.env("MALLOC_", "");
        let ways = self.ways(ground, line);
        let ways = ways.into_iter().chain([(REFUSED, refused)]);
        ways.map(|(name, command)| side(name, command)).collect()
    }
}

/// A side that has to print what the first prints.
pub(super) fn side(name: &str, command: Command) -> Side {
    Side {
        name: name.to_owned(),
        command,
        expected: Expected::SameOutput,
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;

    #[test]
    fn what_is_kept_is_read_and_what_is_not_is_told() {
        let json = br#"{"schema":1,"programs":[{"kept":true,"files":6,"pages":41,"bytes":179248,"capture_ms":9.5}]}"#;
        let kept = Kept::of(json).unwrap();
        assert_eq!((kept.files, kept.pages, kept.bytes), (6, 41, 179_248));
        let json = br#"{"schema":1,"programs":[{"kept":false,"reason":"it is static"}]}"#;
        let error = format!("{:#}", Kept::of(json).unwrap_err());
        assert!(error.contains("it is static"), "{error}");
    }
}
