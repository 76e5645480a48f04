//! Running many cases in all ways, and saying what differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rayon::prelude::*;
use rustix::fs::StatVfsMountFlags;
use tempfile::TempDir;

use super::compile::Programs;
use super::disturb::Disturbance;
use super::exceptions::{self, Exception};
use super::outcome::Outcome;
use super::resident::Restored;
use super::room::{Ground, Job, Room};
use super::way::{IndexAt, Way};
use crate::scratch::{Random, Stop, age, copy_program};

/// A job, its name, and the tree it is done in.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: String,
    /// What is run.
    pub job: Job,
    /// Where.
    pub ground: Ground,
    /// Ways that it is not run in, by name, each with a reason beside it in the case.
    pub without: Vec<String>,
    /// Whether only root can be asked about it.
    pub needs_root: bool,
}

/// Runs the cases of a theme in all ways.
///
/// # Panics
/// Anything differs that is not among the exceptions. The message has all of it.
pub fn check(theme: &str, cases: &[Case], programs: &Programs) {
    let place = Place::new(programs);
    let _ = run(theme, cases, &Way::asked_for(), None, place);
}

/// The same in some ways, with rooms in a directory: how often each case went on from a snapshot, where that is one of the ways.
pub(super) fn run_in(
    theme: &str,
    cases: &[Case],
    ways: &[Way],
    directory: TempDir,
    programs: &Programs,
) -> Vec<(String, Restored)> {
    let place = Place::within(directory, programs);
    run(theme, cases, ways, None, place).restored
}

/// What is counted of a suite, apart from what differs.
struct Ran {
    /// Indexes that were published meanwhile.
    published: usize,
    /// Of each case that was run from snapshots.
    restored: Vec<(String, Restored)>,
}

/// The same, in the ways that believe an index, while something happens beside: how many indexes were published meanwhile.
///
/// # Panics
/// As [`check`].
pub fn check_while(
    disturbed: Disturbance,
    theme: &str,
    cases: &[Case],
    programs: &Programs,
) -> usize {
    let believing = [
        Way::Kernel,
        Way::Lease,
        Way::Frozen,
        Way::Strict,
        Way::Shadow,
    ];
    let ways = Way::asked_for();
    let ways: Vec<Way> = ways
        .into_iter()
        .filter(|way| believing.contains(way))
        .collect();
    let mut cases = cases.to_vec();
    for case in &mut cases {
        if let Ground::Shared { is_copied, .. } = &mut case.ground {
            *is_copied = true;
        }
    }
    run(theme, &cases, &ways, Some(disturbed), Place::new(programs)).published
}

fn run(
    theme: &str,
    cases: &[Case],
    ways: &[Way],
    disturbed: Option<Disturbance>,
    place: Place,
) -> Ran {
    let asked_for = std::env::var("ELFUSE_ORACLE_CASE").ok();
    let wanted = |case: &&Case| {
        asked_for.as_deref().is_none_or(|text| {
            let full = format!("{theme}: {}", case.name);
            full.contains(text)
        })
    };
    let names: BTreeSet<_> = cases.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.len(), "{theme}: two cases have one name");
    let is_root = rustix::process::geteuid().is_root();
    let possible = |case: &&Case| {
        let possible = is_root || !case.needs_root;
        if !possible {
            eprintln!("LEFT OUT, as only root can see it: {theme}: {}", case.name);
        }
        possible
    };
    let all = cases.iter().filter(wanted).filter(possible);
    let all: Vec<Case> = all.cloned().collect();
    let exceptions = match ways.contains(&Way::Resident) {
        true => exceptions::read_resident(),
        false => exceptions::read(),
    };
    check_names(theme, cases, &exceptions);

    let rooms = furnish(&all, ways, &place);
    let mut report = String::new();
    let mut failed = BTreeSet::new();
    let mut runs = 0;
    let seed = disturbed.map_or(0, |_| crate::scratch::seed());
    let published = AtomicUsize::new(0);
    let outcomes: Vec<Vec<(Way, Outcome)>> = all
        .par_iter()
        .zip(&rooms)
        .enumerate()
        .map(|(number, (case, rooms))| {
            let mut random = Random(seed ^ number as u64);
            let mut run = |room: &Room| {
                let outcome = match disturbed.filter(|_| room.way.is_elfuse()) {
                    None => room.run(&case.job, &place.programs),
                    Some(disturbed) => {
                        let stop = Stop::default();
                        thread::scope(|scope| {
                            let _at_end = stop.at_end();
                            scope.spawn(|| {
                                let (job, programs) = (&case.job, &place.programs);
                                let made =
                                    disturbed.disturb(room, job, programs, &mut random, &stop);
                                published.fetch_add(made, Ordering::Relaxed);
                            });
                            room.run(&case.job, &place.programs)
                        })
                    }
                };
                (room.way, outcome)
            };
            rooms.iter().map(&mut run).collect()
        })
        .collect();
    for (case, outcomes) in all.iter().zip(&outcomes) {
        runs += outcomes.len();
        if std::env::var_os("ELFUSE_ORACLE_SHOW").is_some() {
            println!("{theme}: {}", case.name);
            for (way, outcome) in outcomes {
                println!("  {}: {outcome}", way.name());
            }
        }
        let found = judge(theme, case, outcomes, &exceptions);
        if !found.is_empty() {
            failed.insert(&case.name);
            let _ = write!(report, "  {theme}: {}\n{found}", case.name);
        }
    }
    println!(
        "{theme}: {} cases, {runs} runs, {} differ",
        all.len(),
        failed.len()
    );
    assert!(
        failed.is_empty(),
        "{} of {} cases of {theme} differ (- expected, + found):\n{report}",
        failed.len(),
        all.len()
    );
    let from_snapshots = all.iter().zip(&rooms).filter_map(|(case, rooms)| {
        let room = rooms.iter().find(|room| room.way == Way::Resident)?;
        Some((case.name.clone(), Restored::of(&room.index_directory())))
    });
    Ran {
        published: published.into_inner(),
        restored: from_snapshots.collect(),
    }
}

/// An exception for a case that there is not is one that nobody will ever miss.
fn check_names(theme: &str, cases: &[Case], exceptions: &[Exception]) {
    for exception in exceptions {
        if let Some((_, name)) = exception
            .case
            .split_once(": ")
            .filter(|(at, _)| *at == theme)
        {
            assert!(
                cases.iter().any(|case| case.name == name),
                "an exception is listed for a case that there is not: {}",
                exception.case
            );
        }
    }
}

/// All differences of one case, those that are the same in several ways once.
fn judge(theme: &str, case: &Case, outcomes: &[(Way, Outcome)], list: &[Exception]) -> String {
    let (_, kernel) = &outcomes[0];
    let mut text = String::new();
    let mistaken = |line: &&String| line.starts_with("calls: ");
    if let Some(line) = kernel.output.iter().find(mistaken) {
        return format!("    the script is wrong: {line}\n");
    }
    let expected = match exceptions::expected(kernel, &format!("{theme}: {}", case.name), list) {
        Ok(expected) => expected,
        Err(error) => return error,
    };
    let mut differences: Vec<(Vec<&str>, String)> = Vec::new();
    for (way, outcome) in &outcomes[1..] {
        let against = if way.is_elfuse() { &expected } else { kernel };
        if let Some(difference) = against.difference(outcome) {
            match differences.iter_mut().find(|(_, text)| *text == difference) {
                Some((ways, _)) => ways.push(way.name()),
                None => differences.push((vec![way.name()], difference)),
            }
        }
    }
    for (ways, difference) in differences {
        let _ = write!(text, "    {}:\n{difference}", ways.join(", "));
    }
    text
}

/// Where the rooms of one suite lie, and copies of the programs that everybody may execute.
struct Place {
    directory: TempDir,
    programs: Programs,
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a case made unreadable cannot be removed otherwise.
        let walk = walkdir::WalkDir::new(self.directory.path()).into_iter();
        let closed = walk.filter_map(|entry| entry.err()?.path().map(Path::to_owned));
        for path in closed.collect::<Vec<_>>() {
            let _ = fs::set_permissions(path, PermissionsExt::from_mode(0o755));
        }
        let fixed = walkdir::WalkDir::new(self.directory.path())
            .into_iter()
            .flatten();
        for entry in fixed.filter(|entry| entry.file_type().is_dir()) {
            let _ = fs::set_permissions(entry.path(), PermissionsExt::from_mode(0o755));
        }
    }
}

impl Place {
    fn new(programs: &Programs) -> Self {
        let shared = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("elfuse-oracle-");
        let in_memory = if may_execute(shared) {
            builder.tempdir_in(shared).ok()
        } else {
            None
        };
        let directory = in_memory.map_or_else(|| builder.tempdir(), Ok);
        Self::within(directory.expect("a temporary directory"), programs)
    }

    fn within(directory: TempDir, programs: &Programs) -> Self {
        let open = PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path(), open).expect("chmod");
        let mut programs = programs.clone();
        if rustix::process::geteuid().is_root() {
            let copied = |path: &Path| {
                let copy = directory.path().join(path.file_name().expect("a program"));
                copy_program(path, &copy);
                copy
            };
            let tools = programs.elfuse.with_file_name("elfuse-tools");
            if tools.is_file() {
                copied(&tools);
            }
            programs.elfuse = copied(&programs.elfuse);
            programs.index = copied(&programs.index);
        }
        Self {
            directory,
            programs,
        }
    }
}

/// Containers often mount `/dev/shm` so that nothing in it can be executed.
fn may_execute(directory: &Path) -> bool {
    let flags = rustix::fs::statvfs(directory).map(|found| found.f_flag);
    flags.is_ok_and(|flags| !flags.contains(StatVfsMountFlags::NOEXEC))
}

/// Makes the rooms of all cases, and the indexes in them, in two steps with one wait between: what was just written is too young
/// to be vouched for.
fn furnish(cases: &[Case], ways: &[Way], place: &Place) -> Vec<Vec<Room>> {
    let rooms: Vec<Vec<Room>> = cases
        .par_iter()
        .enumerate()
        .map(|(number, case)| {
            let without = |way: &Way| case.without.iter().any(|name| name == way.name());
            let ways = ways.iter();
            let ways = ways.filter(|way| case.ground.allows(**way) && !without(way));
            let room = |way: &Way| {
                let name = format!("{number}-{}", way.name());
                let at = place.directory.path().join(name);
                Room::new(*way, at, &case.ground, &case.job, &place.programs)
            };
            ways.map(room).collect()
        })
        .collect();
    let index_all = || {
        let pairs = cases.par_iter().zip(&rooms);
        pairs.for_each(|(case, rooms)| {
            for room in rooms {
                room.index(&case.job, &place.programs);
            }
        });
    };
    let own = |case: &Case| matches!(case.ground, Ground::Own(_));
    if cases.iter().any(own) && ways.iter().any(|way| way.index_at() != IndexAt::Nowhere) {
        index_all();
        age();
        index_all();
    }
    cases.par_iter().zip(&rooms).for_each(|(case, rooms)| {
        for room in rooms.iter().filter(|room| room.way == Way::Resident) {
            room.keep(&case.ground, &case.job, &place.programs);
        }
    });
    for (case, rooms) in cases.iter().zip(&rooms) {
        for room in rooms {
            room.finish(&case.ground, &case.job, &place.programs);
        }
    }
    rooms
}
