//! `probes`: how many lookups a program's dynamic linker makes, how many of them fail, and how many of those the index
//! answers so that they never reach the host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use elfuse_format::sidecar::{Block, Kind as SidecarKind};
use rustix::io::Errno;
use serde::Serialize;

use crate::exit::Exit;
use crate::index::Index;
use crate::options::ProbesOptions;
use crate::query::{LoaderAnswer, ask};
use crate::report::{Bytes, Output, Style, count};
use crate::resolve::{Outcome, Probe};
use crate::store::Store;
use crate::sys::{Root, fstat};
use crate::tree::{Kind, Node, Step, walk};
use crate::warning::Warning;

/// Directories that are never indexed: other file systems are mounted there when the program runs.
const MOUNTS: [&[u8]; 4] = [b"/proc", b"/sys", b"/dev", b"/tmp"];

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbesAnswer {
    /// The program.
    pub program: Bytes,
    /// Its dynamic linker; none where it is not linked dynamically.
    pub loader: Option<LoaderAnswer>,
    /// Why it is not linked dynamically.
    pub not_linked: Option<String>,
    /// Calls that name a path, by call.
    pub calls: BTreeMap<&'static str, CallAnswer>,
    /// All of them.
    pub total: CallAnswer,
    /// Whether there is an index; if not, none of the failing calls is spared.
    pub indexed: bool,
}

/// How many calls there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CallAnswer {
    /// Calls made.
    pub made: u64,
    /// Those that fail.
    pub failing: u64,
    /// Failing ones that reach the host even with the index: in directories it does not cover or whose key does not hold.
    pub host_failing: u64,
}

impl CallAnswer {
    fn add(&mut self, probe: &Probe, answered: bool) {
        let failing = probe.errno.is_some();
        self.made += 1;
        self.failing += u64::from(failing);
        self.host_failing += u64::from(failing && !answered);
    }
}

/// Answers `probes`.
///
/// # Errors
/// The program cannot be read, or the answer cannot be written.
pub fn run(options: &ProbesOptions, out: &mut Output) -> anyhow::Result<Exit> {
    let (_, outcome) = ask(&options.sysroot, &options.program, &options.lookup)?;
    let store = Store::find(options.sysroot.root(), None);
    let index = store.load().unwrap_or_else(|error| {
        out.warn(
            Warning::UnreadableFile,
            store.dir().as_os_str().as_encoded_bytes(),
            error,
        );
        None
    });
    let mut names = match index {
        Some(index) => Some(IndexedNames {
            index,
            root: Root::open(options.sysroot.root())?,
            valid: BTreeMap::new(),
        }),
        None => None,
    };
    let indexed = names.is_some();
    let answer = answer(options.program.as_bytes(), &outcome, indexed, |probe| {
        names.as_mut().is_some_and(|names| names.answers(probe))
    });
    if out.is_json() {
        out.json("probes", &answer)?;
    } else {
        let text = text(&answer, |style, text| out.paint(style, text));
        out.text().write_all(text.as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Counts the probes of `outcome`; `answered` says of a failing one whether the index spares it.
#[must_use]
pub fn answer(
    program: &[u8],
    outcome: &Outcome,
    indexed: bool,
    mut answered: impl FnMut(&Probe) -> bool,
) -> ProbesAnswer {
    let mut answer = ProbesAnswer {
        program: Bytes(program.to_vec()),
        loader: None,
        not_linked: None,
        calls: BTreeMap::new(),
        total: CallAnswer::default(),
        indexed,
    };
    match outcome {
        Outcome::NotLinked(why) => answer.not_linked = Some(why.to_string()),
        Outcome::Linked(linked) => {
            answer.loader = Some(LoaderAnswer::of(linked));
            for probe in &linked.probes {
                let spared = probe.errno.is_some() && answered(probe);
                answer
                    .calls
                    .entry(probe.call.name())
                    .or_default()
                    .add(probe, spared);
                answer.total.add(probe, spared);
            }
        }
    }
    answer
}

/// The answer as text.
#[must_use]
pub fn text(answer: &ProbesAnswer, paint: impl Fn(Style, &str) -> String) -> String {
    let mut text = format!("{}\n", paint(Style::Bold, &answer.program.to_string()));
    if let Some(why) = &answer.not_linked {
        let _ = writeln!(text, "  {why}");
        return text;
    }
    let _ = writeln!(
        text,
        "  {:12} {:>8} {:>8} {:>16}",
        "call", "made", "failing", "failing on host"
    );
    let rows = answer.calls.iter().map(|(name, calls)| (*name, calls));
    for (name, calls) in rows.chain([("all", &answer.total)]) {
        let host = if answer.indexed {
            calls.host_failing.to_string()
        } else {
            "-".to_owned()
        };
        let _ = writeln!(
            text,
            "  {name:12} {:>8} {:>8} {host:>16}",
            calls.made, calls.failing
        );
    }
    let total = &answer.total;
    let _ = if answer.indexed {
        let spared = total.failing - total.host_failing;
        writeln!(
            text,
            "  With the index {} of {} never reach the host.",
            spared,
            count(total.failing, "failing lookup", "failing lookups")
        )
    } else {
        writeln!(
            text,
            "  There is no index: `elfuse-index build` makes one that answers failing lookups."
        )
    };
    text
}

/// The index as what a run would ask about a path: each directory on the way must be covered, and its key must hold now.
struct IndexedNames {
    index: Index,
    root: Root,
    /// Directories already validated.
    valid: BTreeMap<u32, bool>,
}

impl IndexedNames {
    /// Whether the failure that `probe` ends with follows from the index alone.
    fn answers(&mut self, probe: &Probe) -> bool {
        if !probe.path.starts_with(b"/") {
            return false;
        }
        let root = Node {
            real: Arc::from(&b"/"[..]),
            kind: Kind::Directory,
            // Number of the directory in the index.
            id: (0, 0),
        };
        let mut unknown = false;
        let found = walk(&root, &probe.path, true, |directory, name| {
            let step = self.step(directory, name);
            unknown |= step.is_none();
            step.unwrap_or(Err(Errno::AGAIN))
        });
        !unknown && found.err() == probe.errno
    }

    /// One name; `None`: ask the host.
    fn step(&mut self, directory: &Node, name: &[u8]) -> Option<Result<Step, Errno>> {
        if MOUNTS.contains(&&*directory.real) {
            return None;
        }
        let number = u32::try_from(directory.id.0).ok()?;
        if !self.is_valid(number, &directory.real) {
            return None;
        }
        let block = Block::parse(self.index.block_bytes(number)?).ok()?;
        let Some(entry) = block.find(name).ok()? else {
            return Some(Err(Errno::NOENT));
        };
        let kind = match entry.kind()? {
            SidecarKind::File => Kind::File,
            SidecarKind::Directory => Kind::Directory,
            SidecarKind::Symlink => Kind::Symlink,
            SidecarKind::Other => Kind::Other,
        };
        let child = match entry.rank() {
            Some(rank) => u64::from(self.index.child(number, rank)?),
            None => 0,
        };
        Some(Ok(Step {
            node: Node {
                real: crate::tree::join(&directory.real, name).into(),
                kind,
                id: (child, 0),
            },
            target: entry.target().unwrap_or_default().into(),
        }))
    }

    fn is_valid(&mut self, number: u32, real: &[u8]) -> bool {
        if let Some(&known) = self.valid.get(&number) {
            return known;
        }
        let relative = real.strip_prefix(b"/").unwrap_or(real);
        let status = self.root.open_dir(relative).and_then(fstat);
        let valid = status.is_ok_and(|status| self.index.dir_key_holds(number, &status.identity));
        self.valid.insert(number, valid);
        valid
    }
}
