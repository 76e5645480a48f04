//! Every program of a sysroot's `/usr/bin`, asked what it is and how it is used: natively, by `elfuse run` as if nothing were kept, and from
//! its snapshot.
//!
//! A program that says something else each time is told by running it natively again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rayon::prelude::*;

use super::calls::usual_binds;
use super::compile::Programs;
use super::outcome::Outcome;
use super::programs::{Sysroot, ground};
use super::resident::{self, Added, Restored};
use super::room::{Ground, Job, Room};
use super::way::Way;

/// What a program is asked.
pub const OPTIONS: [&str; 2] = ["--version", "--help"];

/// How a program that was asked compares with itself under the real kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Same output, errors and status in all ways.
    Same,
    /// What differs, and in which way.
    Differs(String),
    /// It differs from itself under the real kernel.
    Varies,
    /// It does not end: it was stopped after so many seconds.
    RanOn(u64),
}

/// A program that was asked.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// One of [`OPTIONS`].
    pub option: &'static str,
    /// How it ended under the real kernel.
    pub end: String,
    /// What went on from snapshots: of a script its interpreter, and what it starts.
    pub restored: Restored,
    /// See there.
    pub verdict: Verdict,
}

impl Row {
    /// Whether it does what it is asked.
    #[must_use]
    pub fn starts(&self) -> bool {
        self.end == "exited with 0"
    }
}

/// All that was found.
#[derive(Debug)]
pub struct Swept {
    /// What became of the programs that were to be kept.
    pub added: Vec<Added>,
    /// By name.
    pub rows: Vec<Row>,
}

/// Names in the sysroot's `/usr/bin`, sorted: all but those of directories and of symlinks that lead to none.
///
/// # Panics
/// It cannot be read.
#[must_use]
pub fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("usr/bin")).expect("/usr/bin");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("a name").file_name())
        .filter_map(|name| name.into_string().ok())
        .filter(|name| !is_directory(root, &format!("/usr/bin/{name}"), 0))
        .collect();
    names.sort();
    names
}

/// Whether a path of the sysroot leads to a directory, through symlinks that are meant inside.
fn is_directory(root: &Path, path: &str, depth: usize) -> bool {
    let host = root.join(path.trim_start_matches('/'));
    match fs::read_link(&host) {
        Ok(_) if depth > 40 => false,
        Ok(target) => {
            let above = Path::new(path).parent().expect("an absolute path");
            let target = above.join(target);
            is_directory(root, target.to_str().unwrap_or_default(), depth + 1)
        }
        Err(_) => host.is_dir(),
    }
}

/// Asks programs, and keeps those among them that can be kept, and all others of the sysroot that they may start.
///
/// # Panics
/// Something cannot be started.
#[must_use]
pub fn sweep(sysroot: Sysroot<'_>, names: &[String], programs: &Programs) -> Swept {
    programs.build_tools();
    let directory = resident::directory(programs);
    let store = directory.path().join("kept");
    fs::create_dir_all(&store).expect("a directory");
    let elfuse = std::process::Command::new(&programs.elfuse);
    let wanted = resident::programs_of(sysroot.root);
    let added = resident::keep(elfuse, sysroot.root, &store, &wanted);
    let mut ground = ground(sysroot, programs);
    if let Ground::Shared { kept, .. } = &mut ground {
        *kept = Some(store);
    }
    // Rooms are furnished once for many programs.
    const AT_ONCE: usize = 25;
    let rows = names
        .par_chunks(AT_ONCE)
        .enumerate()
        .flat_map_iter(|(number, names)| {
            let ways = [Way::Kernel, Way::Lease, Way::Resident];
            let rooms = ways.map(|way| {
                let at = directory.path().join(format!("{number}-{}", way.name()));
                let room = Room::new(way, at, &ground, &job("", ""), programs);
                if way == Way::Resident {
                    room.keep(&ground, &job("", ""), programs);
                }
                room
            });
            let lines = names
                .iter()
                .flat_map(|name| OPTIONS.map(|option| (name, option)));
            let rows: Vec<_> = lines
                .map(|(name, option)| ask(&rooms, name, option, programs))
                .collect();
            rows
        })
        .collect();
    Swept { added, rows }
}

/// The longest that a program may take, in seconds: under load it takes a multiple of what it takes alone.
const LIMIT_SECS: u64 = 20;

fn job(name: &str, option: &str) -> Job {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Job {
        line: vec![format!("/usr/bin/{name}"), option.to_owned()],
        environment: vec![
            pair("HOME", "/tmp"),
            pair("LANG", "C.UTF-8"),
            pair("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"),
            // The order in which these go through a table differs from run to run otherwise.
            pair("PERL_HASH_SEED", "0"),
            pair("PYTHONHASHSEED", "0"),
            pair("TERM", "dumb"),
        ],
        directory: "/tmp".to_owned(),
        privileged: true,
        binds: usual_binds(),
        ignores_trees: true,
        // `ld-musl-config --version` writes to /etc.
        read_only: true,
        limit_secs: LIMIT_SECS,
        ..Job::default()
    }
}

fn ask(rooms: &[Room; 3], name: &str, option: &'static str, programs: &Programs) -> Row {
    /// How often the real kernel is asked whether it is the program itself that differs.
    const TIMES: usize = 4;
    let [native, loaded, kept] = rooms;
    let job = job(name, option);
    let run = |room: &Room| {
        let outcome = room.run(&job, programs);
        room.clear("tmp");
        outcome
    };
    let expected = run(native);
    let before = Restored::of(&kept.index_directory());
    let mut row = Row {
        name: name.to_owned(),
        option,
        end: expected.end.clone(),
        restored: Restored::default(),
        verdict: Verdict::Same,
    };
    if expected.is_endless() {
        row.verdict = Verdict::RanOn(LIMIT_SECS);
        return row;
    }
    let found = [
        (loaded, "as if nothing were kept"),
        (kept, "from its snapshot"),
    ];
    let mut different = String::new();
    for (room, how) in found {
        if let Some(difference) = expected.difference(&run(room)) {
            let _ = write!(different, "    {how}:\n{difference}");
        }
    }
    row.restored = Restored::of(&kept.index_directory()).since(&before);
    if !different.is_empty() {
        let is_the_same = |other: Outcome| expected == other;
        let is_steady = (0..TIMES).all(|_| is_the_same(run(native)));
        row.verdict = match is_steady {
            true => Verdict::Differs(different),
            false => Verdict::Varies,
        };
    }
    row
}
