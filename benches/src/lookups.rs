//! What reaches the host when programs start: under chroot, by `elfuse run` without an index, and with one. Counts, not times:
//! they are exact, and the same on any machine but for what `/proc`, `/sys` and the clock say.

use std::path::Path;

use anyhow::Context;
use elfuse_tests::lookups::start::{DEBIAN, Ground, Program, STORE, Started, Way};
use elfuse_tests::lookups::tally::Tally;

use crate::cli::LookupsOptions;
use crate::machine;
use crate::report::{Goal, Report, Section, Table};
use crate::workspace::{self, Workspace};

/// Name of the section and of the file of results.
pub const NAME: &str = "lookups";

/// The ways, in the order of the tables' columns.
const WAYS: [(Way, &str); 3] = [
    (Way::Chroot, "chroot"),
    (Way::NoIndex, "no index"),
    (Way::Index, "index"),
];

/// A program's starts, as [`WAYS`] has them.
struct Counted {
    program: &'static Program<'static>,
    starts: [Started; 3],
}

/// Counts, and writes what was found.
///
/// # Errors
/// If a sysroot or an index cannot be made, strace may not trace, or results cannot be written.
pub fn run(options: &LookupsOptions, workspace: &Workspace) -> anyhow::Result<Report> {
    let elfuse = workspace.build("elfuse-launcher", "elfuse")?;
    let elfuse_index = workspace.build("elfuse-indexer", "elfuse-index")?;
    let cache = match &options.cache {
        Some(path) => path.clone(),
        None => workspace::cache()?,
    };
    let command = "cargo run --release -p elfuse-benches -- lookups";
    let mut report = Report::begin(NAME, command, workspace.commit());
    for (name, title, programs) in [
        ("debian", "Debian sysroot", DEBIAN),
        ("store", "Sysroot with a directory for each package", STORE),
    ] {
        let wanted = |program: &&'static Program<'static>| {
            let only = options.only.as_deref();
            only.is_none_or(|text| program.name.contains(text))
        };
        let programs: Vec<_> = programs.iter().filter(wanted).collect();
        if programs.is_empty() {
            continue;
        }
        let root = workspace.sysroot(name)?;
        let index = cache.join(format!("{NAME}-index-{name}"));
        let ground = Ground::new(&root, &index, &elfuse, &elfuse_index)?;
        let mut counted = Vec::new();
        for program in programs {
            eprintln!("starting {} of {}", program.name, root.display());
            let starts = count(&ground, program)?;
            if options.list {
                list(program, &starts);
            }
            counted.push(Counted { program, starts });
        }
        report.sections.push(section(title, &root, &counted));
    }
    report.end();
    if options.only.is_some() || options.list {
        // A part would be taken for the whole.
        eprint!("{}", report.markdown());
        eprintln!("written down with all programs only");
        return Ok(report);
    }
    report.write(&workspace.benches())?;
    Ok(report)
}

fn count(ground: &Ground, program: &Program) -> anyhow::Result<[Started; 3]> {
    let start = |way| {
        let started = ground.start(program, way);
        started.with_context(|| format!("starting {}, {way:?}", program.name))
    };
    // The first start makes what is made once, such as a cache in the home.
    start(Way::Chroot)?;
    let [first, second, third] = WAYS.map(|(way, _)| start(way));
    Ok([first?, second?, third?])
}

fn list(program: &Program, starts: &[Started]) {
    for ((_, way), started) in WAYS.iter().zip(starts) {
        let tally = &started.tally;
        for (of, failures) in [("inside", &tally.failing), ("elsewhere", &tally.elsewhere)] {
            for (failure, count) in failures {
                println!("{}\t{way}\t{of}\t{count}\t{failure}", program.name);
            }
        }
    }
}

fn section(title: &str, root: &Path, counted: &[Counted]) -> Section {
    let failing_with_index: u64 = counted
        .iter()
        .map(|it| it.starts[2].tally.failing_calls())
        .sum();
    let untrapped = counted.iter().flat_map(|it| &it.starts[1..]);
    let untrapped: u64 = untrapped
        .flat_map(|start| start.tally.from_guest.values())
        .sum();
    let differing = counted.iter().filter(|it| it.differs()).count();
    let goal = |what: &str, found: f64, unit: &str| Goal {
        what: what.to_owned(),
        at_most: 0.0,
        found,
        unit: unit.to_owned(),
    };
    Section {
        title: title.to_owned(),
        about: vec![
            format!(
                "System calls of one start each, of all its threads and processes, as `strace -ff -i -y` sees them, on {}. A call \
                 fails if it names a path inside the sysroot and ends with ENOENT, ENOTDIR or ELOOP, or is a readlink and ends with \
                 EINVAL. A call that elfuse's filter traps never reaches the host and is not counted; what its handler asks the host \
                 is, and so are the return from the trap, the looks at directories that the lease takes, and elfuse's own start.",
                machine::file_system(root)
            ),
            "`chroot`: by the real kernel, chroot(8) in a mount namespace with the guest's mounts. `no index`: `elfuse run \
             --coherence off`, which looks up each component of a path by itself. `index`: `elfuse run --coherence lease` with an \
             index out of the tree. Output and exit status are compared with those under chroot."
                .to_owned(),
        ],
        peer: WAYS[0].1.to_owned(),
        rows: Vec::new(),
        tables: vec![totals(counted), by_call(counted), elsewhere(counted)],
        goals: vec![
            goal(
                "failing path calls inside the sysroot that reach the host, with the index",
                failing_with_index as f64,
                "calls",
            ),
            goal("path calls of guests that are not trapped", untrapped as f64, "calls"),
            goal(
                "programs whose output or status is not that under chroot",
                differing as f64,
                "programs",
            ),
        ],
    }
}

impl Counted {
    /// Whether any way printed or ended otherwise than chroot did.
    fn differs(&self) -> bool {
        let said = |started: &Started| (started.output.stdout.clone(), started.output.status);
        let chroot = said(&self.starts[0]);
        self.starts.iter().any(|started| said(started) != chroot)
    }

    fn tallies(&self) -> impl Iterator<Item = &Tally> {
        self.starts.iter().map(|started| &started.tally)
    }
}

/// A head for each way behind that of the programs.
fn columns(heads: &[&str]) -> Vec<String> {
    let of_ways = WAYS
        .iter()
        .flat_map(|(_, way)| heads.iter().map(move |head| format!("{way}: {head}")));
    std::iter::once(String::new()).chain(of_ways).collect()
}

fn totals(counted: &[Counted]) -> Table {
    let row = |it: &Counted| {
        let cells = it.tallies().flat_map(|tally| {
            let failing = tally.failing_calls();
            [
                tally.calls.to_string(),
                failing.to_string(),
                share(failing, tally.calls),
            ]
        });
        std::iter::once(it.program.name.to_owned())
            .chain(cells)
            .collect()
    };
    Table {
        title: "All calls, those that fail inside the sysroot, and their share:".to_owned(),
        columns: columns(&["calls", "failing", "share"]),
        rows: counted.iter().map(row).collect(),
    }
}

fn by_call(counted: &[Counted]) -> Table {
    let rows = counted.iter().flat_map(|it| {
        WAYS.iter().zip(it.tallies()).map(|((_, way), tally)| {
            let calls = tally.failing_by_call();
            let calls: Vec<_> = calls
                .iter()
                .map(|(call, count)| format!("{call} {count}"))
                .collect();
            vec![
                format!("{}, {way}", it.program.name),
                tally.failing_calls().to_string(),
                tally.failing.len().to_string(),
                calls.join(", "),
            ]
        })
    });
    Table {
        title: "The failing calls by call; different ones by call, error and path:".to_owned(),
        columns: ["", "failing", "different", "of which"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    }
}

fn elsewhere(counted: &[Counted]) -> Table {
    let row = |it: &Counted| {
        let cells = it
            .tallies()
            .map(|tally| tally.failing_elsewhere().to_string());
        std::iter::once(it.program.name.to_owned())
            .chain(cells)
            .collect()
    };
    Table {
        title: "What fails outside the sysroot, in what is mounted over it (`/dev`, `/proc`, `/sys`, `/tmp`, the home), which no index covers:"
            .to_owned(),
        columns: columns(&["failing"]),
        rows: counted.iter().map(row).collect(),
    }
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1}%", part as f64 / whole.max(1) as f64 * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_in_percent_and_of_nothing_is_nothing() {
        assert_eq!(share(1, 3), "33.3%");
        assert_eq!(share(0, 0), "0.0%");
    }

    #[test]
    fn each_way_has_its_columns() {
        let found = columns(&["calls", "failing"]);
        assert_eq!(found.len(), 1 + WAYS.len() * 2);
        assert_eq!(found[1], "chroot: calls");
    }
}
