//! Cases run from snapshots: what a program does that goes on where its dynamic linker had ended, against what it does under the real kernel.
//!
//! Programs that are linked statically cannot be kept, and those of the scripts are: here they are linked dynamically, in all trees, that of the
//! real kernel's run too. How often a case went on from a snapshot is counted by the runtime itself, in the store of the case's own room; a case
//! that never did has shown nothing, and is a failure unless it is listed, with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use elfuse_format::names;
use elfuse_format::snapshot::counts::{self, Refusal, STARTS};
use serde_json::Value;
use tempfile::TempDir;

use super::compile::Programs;
use super::room::Ground;
use super::suite::{self, Case};
use super::way::Way;

/// A case that does not go on from any snapshot, and why not.
pub type Unrestored<'a> = (&'a str, &'a str);

/// How often programs went on from snapshots, and how often they were loaded although there was one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Starts from snapshots.
    pub starts: u64,
    /// Starts without, by reason.
    pub refusals: BTreeMap<&'static str, u64>,
}

impl Restored {
    /// What the counters in a store say.
    ///
    /// # Panics
    /// One cannot be read.
    #[must_use]
    pub fn of(store: &Path) -> Self {
        let mut all = Self::default();
        for file in files(&store.join(names::RESIDENT), names::COUNTS_SUFFIX) {
            let words = counts::words(&fs::read(&file).expect("counters"));
            let words = words.unwrap_or_else(|| panic!("no counters: {}", file.display()));
            all.starts += words[STARTS];
            for reason in Refusal::ALL {
                let count = words[reason as usize];
                if count != 0 {
                    *all.refusals.entry(reason.name()).or_default() += count;
                }
            }
        }
        all
    }
}

impl Restored {
    /// What was added since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let refusals = self.refusals.iter().map(|(reason, count)| {
            let before = before.refusals.get(reason).copied().unwrap_or(0);
            (*reason, count - before)
        });
        Self {
            starts: self.starts - before.starts,
            refusals: refusals.filter(|(_, count)| *count != 0).collect(),
        }
    }
}

fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("a name").path());
    let ours = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(suffix));
    paths.filter(ours).collect()
}

/// A directory for stores and rooms: on a tmpfs nothing is kept, since a file there may change without its times.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn directory(programs: &Programs) -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("elfuse-oracle-");
    let directory = builder
        .tempdir_in(on_disk(&programs.directory))
        .expect("a temporary directory");
    // Cases run as nobody.
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    directory
}

/// The directory for temporary files, or `other` where that is a tmpfs.
fn on_disk(other: &Path) -> PathBuf {
    const TMPFS: i64 = 0x0102_1994;
    let temporary = std::env::temp_dir();
    match rustix::fs::statfs(&temporary) {
        Ok(found) if found.f_type == TMPFS => other.to_owned(),
        _ => temporary,
    }
}

/// What became of a program that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its path as it was given.
    pub program: String,
    /// Why it is not kept; `None`: it is.
    pub refused: Option<String>,
}

/// Keeps programs, by `command`: `elfuse` or what starts it.
///
/// # Panics
/// `elfuse resident add` fails for another reason than that programs cannot be kept.
#[must_use]
pub fn keep(mut command: Command, root: &Path, store: &Path, programs: &[String]) -> Vec<Added> {
    command
        .args(["resident", "add", "--json", "--sysroot"])
        .args([root, Path::new("--index-dir"), store])
        .args(programs);
    let output = command.output().expect("starting elfuse");
    let document: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let rows = document.as_ref().and_then(|all| all["programs"].as_array());
    let rows = rows.unwrap_or_else(|| {
        panic!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let text = |value: &Value| value.as_str().map(str::to_owned);
    rows.iter()
        .map(|row| Added {
            program: text(&row["program"]).expect("a name"),
            refused: text(&row["reason"]),
        })
        .collect()
}

/// Paths in `root` of all programs of its with a dynamic linker, sorted.
#[must_use]
pub fn programs_of(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .flatten()
    {
        let is_program = entry.file_type().is_file()
            && entry
                .metadata()
                .is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
            && has_interpreter(entry.path());
        let inside = entry.path().strip_prefix(root).expect("below the root");
        if let Some(inside) = inside.to_str().filter(|_| is_program) {
            found.push(format!("/{inside}"));
        }
    }
    found
}

/// Whether a file is an ELF file that names a dynamic linker. libc.so.6 does too, and can be run.
fn has_interpreter(path: &Path) -> bool {
    use object::read::elf::{FileHeader, ProgramHeader};
    use std::io::Read;

    // Program headers are at the beginning of whatever a linker has made.
    let mut start = vec![0; 8192];
    let Ok(mut file) = fs::File::open(path) else {
        return false;
    };
    let Ok(len) = file.read(&mut start) else {
        return false;
    };
    let start = &start[..len];
    let headers = || {
        let header = object::elf::FileHeader64::<object::Endianness>::parse(start).ok()?;
        let endian = header.endian().ok()?;
        let headers = header.program_headers(endian, start).ok()?;
        let is = |header: &object::elf::ProgramHeader64<_>| {
            header.p_type(endian) == object::elf::PT_INTERP
        };
        Some(headers.iter().any(is))
    };
    headers().unwrap_or(false)
}

/// The same cases with programs that can be kept: those of `cases/calls` and `cases/process` linked dynamically, and their dynamic linker and
/// libc in each tree; of a shared sysroot all programs, kept once.
fn prepared(cases: &[Case], programs: &mut Programs, directory: &Path) -> Vec<Case> {
    const LINKER: &str = "lib64/ld-linux-x86-64.so.2";
    const LIBC: &str = "lib/x86_64-linux-gnu/libc.so.6";
    let mut cases = cases.to_vec();
    let mut stores: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut is_linked = false;
    for case in &mut cases {
        match &mut case.ground {
            Ground::Own(tree) => {
                if !is_linked {
                    *programs = programs.dynamic(&[LINKER, LIBC]);
                    is_linked = true;
                }
                tree.add(&format!("{LINKER} program"));
                tree.add(&format!("{LIBC} program"));
            }
            Ground::Shared { root, kept, .. } => {
                let store = stores.entry(root.clone()).or_insert_with(|| {
                    let store = directory.join("kept");
                    fs::create_dir_all(&store).expect("a directory");
                    let command = Command::new(&programs.elfuse);
                    let added = keep(command, root, &store, &programs_of(root));
                    assert!(added.iter().any(|added| added.refused.is_none()));
                    store
                });
                *kept = Some(store.clone());
            }
        }
    }
    cases
}

/// Runs the cases of a theme by the real kernel and from snapshots.
///
/// # Panics
/// Anything differs that is not among the exceptions; a case never went on from a snapshot and is not among `unrestored`, or did and is.
pub fn check(theme: &str, cases: &[Case], programs: &Programs, unrestored: &[Unrestored<'_>]) {
    programs.build_tools();
    let directory = directory(programs);
    let mut programs = programs.clone();
    let cases = prepared(cases, &mut programs, directory.path());
    let ways = [Way::Kernel, Way::Resident];
    let ran = suite::run_in(theme, &cases, &ways, directory, &programs);
    let starts: u64 = ran.iter().map(|(_, restored)| restored.starts).sum();
    println!("{theme}: {starts} starts from snapshots");
    let listed = |name: &str| unrestored.iter().any(|(case, _)| *case == name);
    let wrong: Vec<_> = ran
        .iter()
        .filter(|(name, restored)| (restored.starts == 0) != listed(name))
        .collect();
    assert!(
        wrong.is_empty(),
        "cases of {theme} that should have gone on from a snapshot and did not, or the other way round: {wrong:#?}"
    );
    for (name, reason) in unrestored {
        assert!(!reason.is_empty(), "{theme}: {name}: why?");
        assert!(
            std::env::var_os("ELFUSE_ORACLE_CASE").is_some()
                || ran.iter().any(|(case, _)| case == name),
            "{theme} has no case {name:?}"
        );
    }
}
