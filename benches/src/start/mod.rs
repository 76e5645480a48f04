//! Start-up of programs by elfuse and by everything else that starts a program with another root directory.

mod picture;
pub mod programs;
pub mod ways;

use std::path::Path;

use anyhow::Context;

use self::picture::{chart, lead};
use self::programs::{Program, STATIC, Tree};
use self::ways::Way;
use crate::cli::StartOptions;
use crate::ground::{DIRECTORIES, Ground, LIBRARIES, Root, drop_caches};
use crate::machine;
use crate::measure::Quartiles;
use crate::report::{self, Goal, Report, Row, Section, Table, number};
use crate::turns::{self, Rounds, Taken};
use crate::workspace::Workspace;

/// Name of the section and of the files of results.
pub const NAME: &str = "start";

/// What the README's part is marked with.
const README_MARK: &str = "startup";

/// One way of one program.
struct Cell {
    way: Way,
    /// What was timed, or why the way cannot be gone.
    taken: Result<Taken, String>,
}

/// One program in one state of the caches.
struct Timed {
    program: &'static Program,
    is_cold: bool,
    cells: Vec<Cell>,
}

/// Measures, and writes what was found.
///
/// # Errors
/// If a sysroot cannot be made, a program does not even start natively, or results cannot be written.
pub fn run(options: &StartOptions, workspace: &Workspace) -> anyhow::Result<Report> {
    let within = &options.within;
    let ground = Ground::new(workspace, within.cache.as_deref())?;
    let command = "cargo run --release -p elfuse-benches -- start";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let debian = ground.root("debian", &workspace.sysroot("debian")?)?;
    let made = ground.made(&debian)?;
    let made = ground.root("made", &made)?;
    let store = ground.root("store", &workspace.sysroot("store")?)?;
    let cpuid = cpuid_ns(&ground, &made)?;
    let root = |tree| match tree {
        Tree::Debian => &debian,
        Tree::Store => &store,
        Tree::Made => &made,
    };
    let is_wanted = |program: &&'static Program| {
        let only = options.only.as_deref();
        only.is_none_or(|text| program.name.contains(text))
    };
    let mut all = Vec::new();
    for program in programs::ALL.iter().filter(is_wanted) {
        let rounds = Rounds {
            count: within.rounds(30),
            by_length: !within.quick,
            before: None,
        };
        eprintln!("{}", program.name);
        let cells = time(&ground, root(program.tree), program, &Way::ALL, rounds)?;
        all.push(Timed {
            program,
            is_cold: false,
            cells,
        });
    }
    let why_not_cold = match options.no_cold {
        true => Some("--no-cold".to_owned()),
        false => drop_caches().err().map(|error| format!("{error:#}")),
    };
    for program in programs::ALL.iter().filter(is_wanted) {
        if why_not_cold.is_some() {
            break;
        }
        let rounds = Rounds {
            count: within.rounds(30).div_ceil(6),
            by_length: false,
            before: Some(&mut drop_caches),
        };
        eprintln!("{}, cold", program.name);
        let cells = time(&ground, root(program.tree), program, &Way::COLD, rounds)?;
        all.push(Timed {
            program,
            is_cold: true,
            cells,
        });
    }
    for is_cold in [false, true] {
        for tree in Tree::ALL {
            let of_section =
                |timed: &&Timed| timed.program.tree == tree && timed.is_cold == is_cold;
            let timed: Vec<_> = all.iter().filter(of_section).collect();
            if !timed.is_empty() {
                let about = about(tree, is_cold, cpuid, &root(tree).tree);
                report.sections.push(section(&timed, about, cpuid));
            }
        }
    }
    report.sections.push(against(&all, why_not_cold));
    report.end();
    if options.only.is_some() || within.quick {
        eprint!("{}", report.markdown());
        eprintln!("written down with all programs and rounds only");
        return Ok(report);
    }
    let benches = workspace.benches();
    report.draw(&benches, &chart(&all, false))?;
    report.write(&benches)?;
    let picture = benches.join("results/startup.svg");
    report::write_file(&picture, chart(&all, true).svg().as_bytes())?;
    report::fill_in(
        &benches.join("../README.md"),
        README_MARK,
        &lead(&all, &report, cpuid),
    )?;
    Ok(report)
}

fn time(
    ground: &Ground,
    root: &Root,
    program: &'static Program,
    ways: &[Way],
    rounds: Rounds<'_>,
) -> anyhow::Result<Vec<Cell>> {
    let mut sides = Vec::new();
    let mut cells = Vec::new();
    for &way in ways {
        let taken = match way.side(ground, root, program) {
            Ok(side) => {
                sides.push(side);
                // Its place is taken by what is measured.
                Err(String::new())
            }
            Err(why) => Err(why),
        };
        cells.push(Cell { way, taken });
    }
    let taken = turns::take(&mut sides, rounds).with_context(|| program.name.to_owned())?;
    for taken in taken {
        let cell = cells.iter_mut().find(|cell| cell.way.name() == taken.name);
        cell.context("a side of no way")?.taken = Ok(taken);
    }
    Ok(cells)
}

/// What one CPUID costs, in ns.
fn cpuid_ns(ground: &Ground, made: &Root) -> anyhow::Result<f64> {
    let output = ground.chroot_exec(made, &["/bin/cpuid"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim()
        .parse()
        .with_context(|| format!("what a CPUID costs: {text:?}, {}", output.status))
}

/// By far more than the instruction itself takes, and far less than a hypervisor.
fn traps(cpuid_ns: f64) -> bool {
    cpuid_ns > 1000.0
}

impl Timed {
    fn taken(&self, way: Way) -> Option<&Taken> {
        let cell = self.cells.iter().find(|cell| cell.way == way)?;
        let taken = cell.taken.as_ref().ok()?;
        taken.fault.is_none().then_some(taken)
    }

    /// Quartiles of the ratios of one way to another; NaN if one of them failed.
    fn ratio(&self, way: Way, to: Way) -> Quartiles {
        let both = self.taken(way).zip(self.taken(to));
        both.map_or_else(|| Quartiles::of(Vec::new()), |(way, to)| way.ratio_to(to))
    }

    /// Whether a way starts something else than is meant.
    fn leaks(&self, way: Way) -> bool {
        self.program.spawns && way.leaks()
    }

    fn at_most(&self, way: Way, cpuid_ns: f64) -> Option<f64> {
        if way != Way::OURS || self.is_cold {
            return None;
        }
        let (trapping, elsewhere) = self.program.at_most?;
        Some(if traps(cpuid_ns) { trapping } else { elsewhere })
    }

    fn rows(&self, cpuid_ns: f64) -> impl Iterator<Item = Row> {
        self.cells.iter().filter_map(move |cell| {
            let both = self.taken(cell.way).zip(self.taken(Way::ChrootExec));
            both.map(|(taken, peer)| {
                let name = format!("{}, {}", self.program.name, cell.way.name());
                taken.row(name, peer, self.at_most(cell.way, cpuid_ns))
            })
        })
    }

    /// One row of the table that people look at.
    fn line(&self) -> Vec<String> {
        let mut line = vec![self.program.name.to_owned()];
        for cell in &self.cells {
            line.push(match self.taken(cell.way) {
                // What the host has is not the program that was meant anyway.
                None if cell.taken.is_ok() && cell.way != Way::Host => "**wrong**".to_owned(),
                None => "–".to_owned(),
                Some(taken) if cell.way == Way::ChrootExec => {
                    format!("{} ms", number(taken.seconds().p50 * 1e3))
                }
                Some(_) => {
                    let ratio = self.ratio(cell.way, Way::ChrootExec).p50;
                    let leaks = if self.leaks(cell.way) { " (leaks)" } else { "" };
                    format!("{ratio:.2}{leaks}")
                }
            });
        }
        line
    }

    fn faults(&self) -> impl Iterator<Item = Vec<String>> {
        self.cells.iter().filter_map(|cell| {
            let (what, why) = match &cell.taken {
                Ok(taken) if cell.way == Way::Host => ("–", taken.fault.clone()?),
                Ok(taken) => ("wrong", taken.fault.clone()?),
                Err(why) => ("–", why.clone()),
            };
            let (name, way) = (self.program.name.to_owned(), cell.way.name());
            Some(vec![name, way, what.to_owned(), why])
        })
    }
}

fn about(tree: Tree, is_cold: bool, cpuid_ns: f64, root: &Path) -> Vec<String> {
    let mut about = vec![format!(
        "On {}, {}. From outside, from before the process is made to after it was waited for, all on one processor, ways in turn; \
         ratios are those of each round, to chroot()+exec. A way that takes more than 0.15 s and twice as long as that has a turn in each sixth \
         round only. What is not natively so, in output or status, is no start and has no time.",
        machine::file_system(root),
        if is_cold {
            "with the caches of file content, directories and inodes dropped before each start"
        } else {
            "all in the cache"
        }
    )];
    if tree == Tree::Made {
        about.push(format!(
            "`search-heavy` has {LIBRARIES} libraries, which lie in the last of the {DIRECTORIES} directories of its RUNPATH. One CPUID takes \
             {} ns here, which {}; glibc executes some 68 of them at start.",
            number(cpuid_ns),
            if traps(cpuid_ns) { "the hypervisor traps" } else { "nothing traps" },
        ));
    }
    about
}

fn section(timed: &[&Timed], about: Vec<String>, cpuid_ns: f64) -> Section {
    let first = timed[0];
    let ways = first.cells.iter().map(|cell| cell.way.name());
    let text = |heads: &[&str]| heads.iter().map(|&head| head.to_owned()).collect();
    let state = if first.is_cold { "cold" } else { "warm" };
    let faults: Vec<_> = timed.iter().flat_map(|timed| timed.faults()).collect();
    let mut tables = vec![Table {
        title: "Medians: of chroot()+exec in ms, of all others as multiples of that.".to_owned(),
        columns: std::iter::once(String::new()).chain(ways).collect(),
        rows: timed.iter().map(|timed| timed.line()).collect(),
    }];
    if !faults.is_empty() {
        tables.push(Table {
            title: "What was not timed, and why:".to_owned(),
            columns: text(&["program", "command", "", "of which"]),
            rows: faults,
        });
    }
    Section {
        title: format!("{}, {state}", first.program.tree.title()),
        about,
        peer: Way::ChrootExec.name(),
        rows: timed
            .iter()
            .flat_map(|timed| timed.rows(cpuid_ns))
            .collect(),
        tables,
        goals: timed
            .iter()
            .flat_map(|timed| goals(timed, cpuid_ns))
            .collect(),
    }
}

fn goals(timed: &Timed, cpuid_ns: f64) -> Vec<Goal> {
    let mut goals = Vec::new();
    if let Some(at_most) = timed.at_most(Way::OURS, cpuid_ns) {
        goals.push(Goal {
            what: timed.program.name.to_owned(),
            at_most,
            found: timed.ratio(Way::OURS, Way::ChrootExec).p50,
            unit: "x chroot()+exec".to_owned(),
        });
    }
    if timed.program.name == STATIC && !timed.is_cold {
        let both = timed.taken(Way::OURS).zip(timed.taken(Way::Host));
        goals.push(Goal {
            what: format!("{STATIC}, over execve(2) of the same file"),
            at_most: 60.0,
            found: both.map_or(f64::NAN, |(own, host)| own.over(host).p50 * 1e6),
            unit: "us".to_owned(),
        });
    }
    goals
}

/// A goal for each rival: the program at which elfuse comes off worst.
fn against(all: &[Timed], why_not_cold: Option<String>) -> Section {
    let warm = || all.iter().filter(|timed| !timed.is_cold);
    let goal = |rival: Way| {
        let right = warm().filter(|timed| !timed.leaks(rival) && timed.taken(rival).is_some());
        let ratios = right.map(|timed| (timed.ratio(Way::OURS, rival).p50, timed.program.name));
        // A ratio that could not be had is the worst of all.
        let worst = ratios.max_by(|left, right| left.0.total_cmp(&right.0));
        let (found, name) = worst.unwrap_or((f64::NAN, "nothing"));
        Goal {
            what: format!("slowest against {}: {name}", rival.name()),
            at_most: 1.0,
            found,
            unit: format!("x {}", rival.name()),
        }
    };
    let compared = |rival: Way| {
        let count =
            |is: &dyn Fn(&Timed) -> bool| warm().filter(|timed| is(timed)).count().to_string();
        vec![
            rival.name(),
            count(&|timed| !timed.leaks(rival) && timed.taken(rival).is_some()),
            count(&|timed| timed.taken(rival).is_some() && timed.leaks(rival)),
            count(&|timed| timed.taken(rival).is_none()),
        ]
    };
    let heads = [
        "",
        "programs compared",
        "leaks, not compared",
        "wrong or not to be had",
    ];
    let commands = Way::ALL.map(|way| vec![way.name(), format!("`{}`", way.typed())]);
    let mut about = vec![format!(
        "{}, warm, against each way that gives a program another root directory. `leaks`: what the program starts is the host's.",
        Way::OURS.name()
    )];
    about.extend(why_not_cold.map(|why| format!("Not measured with cold caches: {why}.")));
    Section {
        title: "Against others".to_owned(),
        about,
        peer: String::new(),
        rows: Vec::new(),
        tables: vec![
            Table {
                title: "How many programs that is said of:".to_owned(),
                columns: heads.map(str::to_owned).to_vec(),
                rows: Way::RIVALS.map(compared).to_vec(),
            },
            Table {
                title: "ROOT is SYSROOT with `/dev`, `/proc`, `/sys` and `/tmp` of the host mounted in it:".to_owned(),
                columns: ["", "command"].map(str::to_owned).to_vec(),
                rows: commands.to_vec(),
            },
        ],
        goals: Way::RIVALS.map(goal).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::Start;

    fn taken(way: Way, seconds: &[f64], fault: Option<&str>) -> Cell {
        let start = |&seconds: &f64| {
            Some(Start {
                seconds,
                cpu_seconds: 0.0,
                peak_bytes: 0,
            })
        };
        Cell {
            way,
            taken: Ok(Taken {
                name: way.name(),
                starts: seconds.iter().map(start).collect(),
                fault: fault.map(str::to_owned),
                output: Vec::new(),
            }),
        }
    }

    fn timed(program: &str, cells: Vec<Cell>) -> Timed {
        let program = programs::ALL.iter().find(|one| one.name == program);
        Timed {
            program: program.expect("a program of that name"),
            is_cold: false,
            cells,
        }
    }

    #[test]
    fn what_was_wrong_is_shown_and_has_no_time_even_if_it_was_right_at_first() {
        let timed = timed(
            "bash, 50 x /bin/true",
            vec![
                taken(Way::ChrootExec, &[0.002, 0.002], None),
                taken(Way::Proot, &[0.001], Some("exit status 1")),
                taken(Way::Qemu, &[0.008, 0.008], None),
                Cell {
                    way: Way::Bwrap,
                    taken: Err("not installed".to_owned()),
                },
            ],
        );
        let line = timed.line();
        assert_eq!(line[1..], ["2.00 ms", "**wrong**", "4.00 (leaks)", "–"]);
        assert_eq!(timed.rows(0.0).count(), 2);
        assert_eq!(timed.faults().count(), 2);
    }

    #[test]
    fn a_rival_is_beaten_only_where_it_does_the_same() {
        let all = [
            timed(
                "bash, 50 x /bin/true",
                vec![
                    taken(Way::OURS, &[0.002], None),
                    taken(Way::Qemu, &[0.001], None),
                    taken(Way::Bwrap, &[0.004], None),
                ],
            ),
            timed(
                "ruby -e 1",
                vec![
                    taken(Way::OURS, &[0.003], None),
                    taken(Way::Qemu, &[0.004], None),
                    taken(Way::Bwrap, &[0.002], None),
                ],
            ),
        ];
        let goals = against(&all, None).goals;
        let found = |rival: &str| {
            let goal = goals.iter().find(|goal| goal.unit.ends_with(rival));
            goal.expect("a goal for each").found
        };
        assert!((found("qemu -L") - 0.75).abs() < 1e-9);
        assert!((found("bwrap") - 1.5).abs() < 1e-9);
        assert!(found("fakechroot").is_nan());
    }

    #[test]
    fn a_way_of_ours_that_fails_meets_no_goal() {
        let failing = timed(
            "ruby -e 1",
            vec![
                taken(Way::ChrootExec, &[0.004], None),
                taken(Way::OURS, &[], Some("wrong output")),
                taken(Way::Bwrap, &[0.002], None),
            ],
        );
        assert!(goals(&failing, 0.0).iter().all(|goal| !goal.met()));
        let against = against(&[failing], None).goals;
        assert!(against.iter().all(|goal| !goal.met()));
    }

    #[test]
    fn the_limit_depends_on_whether_cpuid_traps() {
        let timed = timed("getent passwd root", Vec::new());
        assert_eq!(timed.at_most(Way::OURS, 7000.0), Some(0.55));
        assert_eq!(timed.at_most(Way::OURS, 100.0), Some(1.05));
        assert_eq!(timed.at_most(Way::Bwrap, 100.0), None);
    }

    #[test]
    fn the_readme_is_told_of_no_gain_that_was_not_measured() {
        let of = |program: &str, cell: Cell| {
            let native = taken(Way::ChrootExec, &[0.004], None);
            timed(program, vec![native, cell])
        };
        let all = [
            of("ruby -e 1", taken(Way::OURS, &[0.003], None)),
            of("guile -c 1", taken(Way::OURS, &[0.005], None)),
            of("node -e 0", taken(Way::OURS, &[0.001], Some("signal 11"))),
        ];
        let text = lead(&all, &Report::begin(NAME, "", String::new()), 100.0);
        let (faster, slower) = text.split_once("Not faster: ").expect("both lists");
        assert!(faster.contains("`ruby -e 1` 0.75") && !faster.contains("node"));
        assert!(slower.contains("`guile -c 1` 1.25") && slower.contains("`node -e 0`"));
    }
}
