//! Start-up of programs that are kept resident, at addresses drawn anew and at fixed ones, against native starts, static programs, and
//! `elfuse run` without; and what memory they take.

mod loops;
mod memory;
mod stores;

use std::path::{Path, PathBuf};

use crate::chart::{Axis, Bar, Chart, Group, Role};
use crate::cli::Within;
use crate::ground::{Ground, Root};
use crate::machine;
use crate::report::{Goal, Report, Section, Table, number};
use crate::turns::{self, Rounds, Side, Taken};
use crate::workspace::Workspace;
use loops::LOOPS;
use memory::WAITING;
use stores::{Kept, Stores, side};

/// Name of the section and of the files of results.
pub const NAME: &str = "resident";

const LINKED: &str = "linked statically";
const NATIVE: &str = "chroot()+exec";
/// An empty program, linked statically with glibc.
const STATIC: &str = "static glibc";
const WITHOUT: &str = "elfuse without";
const SLIDE: &str = "resident";
const FIXED: &str = "resident, fixed";
const REFUSED: &str = "resident, refused";

/// A program of the Debian sysroot, and how long it may take as a multiple of its native start.
struct Program {
    name: &'static str,
    line: &'static [&'static str],
    slide: Option<f64>,
    fixed: Option<f64>,
}

const fn program(name: &'static str, line: &'static [&'static str]) -> Program {
    Program {
        name,
        line,
        slide: None,
        fixed: None,
    }
}

const PROGRAMS: [Program; 9] = [
    program("perl -e 1", &["/usr/bin/perl", "-e", "1"]),
    Program {
        slide: Some(0.25),
        fixed: Some(0.18),
        ..program("ffmpeg -version", &["/usr/bin/ffmpeg", "-version"])
    },
    Program {
        slide: Some(0.85),
        ..program(
            "emacs --batch --eval t",
            &["/usr/bin/emacs", "--batch", "--eval", "t"],
        )
    },
    program("getent passwd root", &["/usr/bin/getent", "passwd", "root"]),
    program("git --version", &["/usr/bin/git", "--version"]),
    program("python3 -c pass", &["/usr/bin/python3", "-c", "pass"]),
    program("ruby -e 1", &["/usr/bin/ruby", "-e", "1"]),
    program("node -e 0", &["/usr/bin/node", "-e", "0"]),
    program("gcc -v", &["/usr/bin/gcc", "-v"]),
];

/// Of the running system, as the sysroot has none.
const GDB: Program = Program {
    slide: Some(0.85),
    ..program("gdb --version", &["/usr/bin/gdb", "--version"])
};

/// What a start may take longer where a snapshot is there and cannot be used, in seconds.
const REFUSED_AT_MOST: f64 = 30e-6;
/// The most of a start of a static program of glibc's that a resident dynamic one may take, where CPUID traps.
const HELLO_AT_MOST: f64 = 0.30;

/// Measures, and writes what was found.
///
/// # Errors
/// If a program cannot be kept or does not start natively, or results cannot be written.
pub fn run(options: &Within, workspace: &Workspace) -> anyhow::Result<Report> {
    let ground = Ground::new(workspace, options.cache.as_deref())?;
    workspace.build("elfuse-tools", "elfuse-tools")?;
    let command = "cargo run --release -p elfuse-benches -- resident";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let made = ground.made_root(workspace)?;
    let debian = ground.root("debian", &workspace.sysroot("debian")?)?;
    let rounds = || Rounds {
        count: options.rounds(30),
        by_length: !options.quick,
        before: None,
    };
    let gdb = gdb(&ground)?;
    let programs = PROGRAMS.iter().map(|program| (&debian, "debian", program));
    let programs = programs.chain(gdb.iter().map(|root| (root, "gdb", &GDB)));
    let (mut groups, mut kept) = (Vec::new(), Vec::new());
    for (root, name, program) in programs {
        eprintln!("{}", program.name);
        let stores = Stores::new(&ground, root, name, program.line[0])?;
        kept.push((program.line[0], stores.kept));
        let mut sides = stores.sides(&ground, program.line);
        sides.extend(linked_statically(&ground, &made, program.line));
        let taken = turns::take(&mut sides, rounds())?;
        let file_system = machine::file_system(&root.tree);
        report.sections.push(section(program, &taken, &file_system));
        groups.push(group(program.name, &taken));
    }
    eprintln!("hello");
    let stores = Stores::new(&ground, &made, "made", "/bin/empty")?;
    kept.push(("/bin/empty", stores.kept));
    let mut sides = static_sides(&ground, &made, &debian);
    sides.extend(stores.sides(&ground, &["/bin/empty"]));
    let taken = turns::take(&mut sides, rounds())?;
    report.sections.push(hello(&taken));
    let starter = loops::compile(&ground, &workspace.benches().join("programs/starts.c"))?;
    for one in &LOOPS {
        eprintln!("{} starts of {}", one.count, one.name);
        let stores = Stores::new(&ground, &debian, "debian", one.line[0])?;
        let section = loops::measure(&ground, (&stores, &made), &starter, one, options.quick)?;
        report.sections.push(section);
    }
    for waiting in &WAITING {
        eprintln!("memory of {}", waiting.name);
        let stores = Stores::new(&ground, &debian, "debian", waiting.line[0])?;
        let section = memory::measure(&ground, &stores, waiting, options.quick);
        report.sections.push(section);
    }
    report.sections.push(snapshots(&kept));
    report.end();
    if options.quick {
        eprint!("{}", report.markdown());
        return Ok(report);
    }
    report.draw(&workspace.benches(), &chart(groups))?;
    report.write(&workspace.benches())?;
    Ok(report)
}

/// A sysroot with the running system's gdb, if it has one, and the Python that it is extended in.
fn gdb(ground: &Ground) -> anyhow::Result<Option<Root>> {
    let program = Path::new(GDB.line[0]);
    if !program.is_file() {
        eprintln!("going without {}", program.display());
        return Ok(None);
    }
    let libraries = std::fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    let is_python = |name: &str| name.strip_prefix("python3.").is_some();
    let pythons = libraries.map(|entry| entry.path()).filter(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(is_python)
    });
    let mut add = vec![PathBuf::from("/usr/share/gdb")];
    add.extend(pythons);
    add.retain(|path| path.is_dir());
    let tree = ground.bundle("gdb", program, &add)?;
    ground.root("gdb", &tree).map(Some)
}

/// The same line with perl linked statically, where `peers.sh` could build it.
fn linked_statically(ground: &Ground, made: &Root, line: &[&str]) -> Option<Side> {
    let ["/usr/bin/perl", rest @ ..] = line else {
        return None;
    };
    ground.peers.get("perl-static")?;
    let line = [&["/bin/perl"], rest].concat();
    Some(side(LINKED, ground.chroot_exec(made, &line)))
}

/// Programs that have no dynamic linker to save.
fn static_sides(ground: &Ground, made: &Root, debian: &Root) -> Vec<Side> {
    let native = |name: &str, root, line: &[&str]| side(name, ground.chroot_exec(root, line));
    vec![
        native(STATIC, made, &["/bin/empty-static"]),
        native("static musl", made, &["/bin/empty-musl"]),
        native("static, no libc", made, &["/bin/static"]),
        native("busybox-static true", debian, &["/bin/busybox", "true"]),
    ]
}

fn find<'a>(taken: &'a [Taken], name: &str) -> Option<&'a Taken> {
    let found = taken.iter().find(|taken| taken.name == name);
    found.filter(|taken| taken.fault.is_none())
}

/// The median ratio of a way to another; NaN where one has none.
fn ratio(taken: &[Taken], way: &str, peer: &str) -> f64 {
    let both = find(taken, way).zip(find(taken, peer));
    both.map_or(f64::NAN, |(own, peer)| own.ratio_to(peer).p50)
}

fn section(program: &Program, taken: &[Taken], file_system: &str) -> Section {
    let goals = [(SLIDE, program.slide), (FIXED, program.fixed)];
    let goals = goals.into_iter().filter_map(|(way, at_most)| {
        Some(Goal {
            what: way.to_owned(),
            at_most: at_most?,
            found: ratio(taken, way, NATIVE),
            unit: format!("x {NATIVE}"),
        })
    });
    let refused = find(taken, REFUSED).zip(find(taken, WITHOUT));
    let refused = Goal {
        what: format!("{REFUSED}, over {WITHOUT}"),
        at_most: REFUSED_AT_MOST * 1e6,
        found: refused.map_or(f64::NAN, |(own, peer)| own.over(peer).p50 * 1e6),
        unit: "us".to_owned(),
    };
    // Where a start takes long, what is between two of them is noise.
    let is_short = taken[0].seconds().p50 < 0.005;
    Section {
        title: program.name.to_owned(),
        about: vec![format!(
            "On {file_system} and in the cache; all ways in turn, on one processor, timed from outside. `{SLIDE}`: at addresses drawn anew at each start, \
             the default; `{REFUSED}`: there is a snapshot, and an environment that forbids it."
        )],
        peer: NATIVE.to_owned(),
        rows: rows(taken, &taken[0]),
        tables: Vec::new(),
        goals: goals.chain(is_short.then_some(refused)).collect(),
    }
}

fn hello(taken: &[Taken]) -> Section {
    let peer = taken[0].name.clone();
    let goal = Goal {
        what: SLIDE.to_owned(),
        at_most: HELLO_AT_MOST,
        found: ratio(taken, SLIDE, &peer),
        unit: format!("x {peer}"),
    };
    Section {
        title: "An empty program, dynamic and resident, against a static one".to_owned(),
        about: vec![
            "A static program of glibc's executes CPUID some 68 times before `main`, which traps in a virtual machine; a resident one does not."
                .to_owned(),
        ],
        rows: rows(taken, &taken[0]),
        peer,
        tables: Vec::new(),
        goals: vec![goal],
    }
}

/// What snapshots take on the disk, and what making them takes.
fn snapshots(kept: &[(&str, Kept)]) -> Section {
    let row = |(program, kept): &(&str, Kept)| {
        vec![
            (*program).to_owned(),
            kept.files.to_string(),
            kept.pages.to_string(),
            (kept.bytes / 1024).to_string(),
            number(kept.capture_ms),
        ]
    };
    let columns = ["", "files", "pages of its own", "KiB", "captured in ms"];
    Section {
        title: "Snapshots".to_owned(),
        about: Vec::new(),
        peer: NATIVE.to_owned(),
        rows: Vec::new(),
        tables: vec![Table {
            title: "What each takes on the disk, and how long `elfuse resident add` took for it, which runs the program twice up to its first constructor."
                .to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            rows: kept.iter().map(row).collect(),
        }],
        goals: Vec::new(),
    }
}

fn rows(taken: &[Taken], peer: &Taken) -> Vec<crate::report::Row> {
    let row = |one: &Taken| {
        let fault = one.fault.iter().map(|fault| format!(": {fault}"));
        one.row(one.name.clone() + &fault.collect::<String>(), peer, None)
    };
    taken.iter().map(row).collect()
}

fn group(name: &str, taken: &[Taken]) -> Group {
    let bars = taken.iter().map(|one| {
        let ratio = one.ratio_to(&taken[0]);
        Bar {
            label: one.name.clone(),
            text: format!("{} ms, {:.2}x", number(one.seconds().p50 * 1e3), ratio.p50),
            value: ratio.p50,
            spread: (ratio.p25, ratio.p75),
            limit: None,
            role: if one.name == NATIVE {
                Role::Peer
            } else {
                Role::Ours
            },
        }
    });
    Group {
        title: name.to_owned(),
        bars: bars.collect(),
    }
}

fn chart(groups: Vec<Group>) -> Chart {
    Chart {
        title: "Start-up of resident programs, as a multiple of chroot()+exec".to_owned(),
        unit: "bar: median of the rounds' ratios; whisker: p25 to p75".to_owned(),
        groups,
        axis: Some(Axis {
            end: 1.5,
            step: 0.5,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::Start;

    fn taken(name: &str, milliseconds: f64) -> Taken {
        let start = Start {
            seconds: milliseconds / 1e3,
            cpu_seconds: 0.0,
            peak_bytes: 0,
        };
        Taken {
            name: name.to_owned(),
            starts: vec![Some(start)],
            fault: None,
            output: Vec::new(),
        }
    }

    #[test]
    fn a_program_that_is_kept_and_not_used_misses_its_goals() {
        let gdb = &GDB;
        let met = |ways: [f64; 5]| {
            let names = [NATIVE, WITHOUT, SLIDE, FIXED, REFUSED];
            let all: Vec<_> = names
                .iter()
                .zip(ways)
                .map(|(name, ms)| taken(name, ms))
                .collect();
            let goals = section(gdb, &all, "ext4").goals;
            goals.iter().map(Goal::met).collect::<Vec<_>>()
        };
        assert_eq!(met([1.0, 0.8, 0.4, 0.3, 0.82]), [true, true]);
        assert_eq!(met([1.0, 0.8, 0.9, 0.8, 0.9]), [false, false]);
        // What takes long is not asked for microseconds.
        assert_eq!(met([10.0, 8.0, 4.0, 3.0, 9.0]), [true]);
    }

    #[test]
    fn a_way_that_does_not_work_has_missed() {
        let mut all = vec![taken(STATIC, 1.0), taken(SLIDE, 0.1)];
        assert!(hello(&all).goals[0].met());
        all[1].fault = Some("other output".to_owned());
        assert!(!hello(&all).goals[0].met());
    }
}
