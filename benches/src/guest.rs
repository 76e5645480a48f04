//! What one lookup costs inside a guest, and how often it reaches the host.

use anyhow::Context;
use elfuse_tests::lookups::start::{Ground as Traced, Program, Way};

use crate::chart::{Bar, Chart, Group, Role};
use crate::cli::Within;
use crate::ground::{Ground, Root};
use crate::report::{Goal, Report, Section, Table, number};
use crate::told::{self, Told};
use crate::workspace::Workspace;

/// Name of the section and of the files of results.
pub const NAME: &str = "guest";

/// Modes of `elfuse run`, in the order of the columns.
pub const MODES: [&str; 4] = ["lease", "frozen", "strict", "off"];

const DEPTHS: [u32; 3] = [1, 3, 6];
/// What `programs/lookups.c` times, and whether it fails.
const LOOKUPS: [(&str, bool); 9] = [
    ("open_missing", true),
    ("stat_missing", true),
    ("access_missing", true),
    ("readlink_missing", true),
    ("readlink_einval", true),
    ("open+close", false),
    ("stat", false),
    ("access", false),
    ("readlink", false),
];

/// Lookups that are made when calls are counted. One is made for what they are compared with: the first finds out that the
/// directory has not changed.
const COUNTED: u32 = 1001;

/// Measures, and writes what was found.
///
/// # Errors
/// If nothing can be compiled, a guest does not even work natively, or results cannot be written.
pub fn run(options: &Within, workspace: &Workspace) -> anyhow::Result<Report> {
    let ground = Ground::new(workspace, options.cache.as_deref())?;
    let command = "cargo run --release -p elfuse-benches -- guest";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let made = ground.made_root(workspace)?;
    let line = ["/bin/lookups"];
    let mut sides = vec![("native".to_owned(), ground.chroot_exec(&made, &line))];
    for mode in MODES {
        sides.push((mode.to_owned(), ground.elfuse_run(&made, mode, &line)));
    }
    eprintln!("lookups");
    let told = told::take(sides, options.rounds(30))?;
    eprintln!("lookups under strace");
    let calls = count(&ground, &made)?;
    report.sections.push(section(&told, &calls));
    report.end();
    if options.quick {
        eprint!("{}", report.markdown());
        return Ok(report);
    }
    report.draw(&workspace.benches(), &chart(&told))?;
    report.write(&workspace.benches())?;
    Ok(report)
}

/// Calls of the host for one lookup each: natively, and by elfuse on a frozen tree.
fn count(ground: &Ground, made: &Root) -> anyhow::Result<Vec<[f64; 2]>> {
    let traced = Traced::new(
        &made.tree,
        &made.index,
        &ground.elfuse,
        &ground.elfuse_index,
    )?;
    let calls = |name: &str, way: Way| -> anyhow::Result<f64> {
        let with = |times: u32| -> anyhow::Result<f64> {
            let times = times.to_string();
            let line = ["/bin/lookups", name, "3", &times];
            let program = Program { name, line: &line };
            let started = traced.start(&program, way)?;
            let status = started.output.status;
            anyhow::ensure!(status.success(), "{line:?}, {way:?}: {status}");
            Ok(started.tally.calls as f64)
        };
        // How many a start itself takes depends on where things come to lie; to the hundredth of a lookup it does not matter.
        let each = (with(COUNTED)? - with(1)?) / f64::from(COUNTED - 1);
        Ok((each * 100.0).round() / 100.0)
    };
    LOOKUPS
        .iter()
        .map(|(name, _)| Ok([calls(name, Way::Chroot)?, calls(name, Way::Frozen)?]))
        .collect::<anyhow::Result<_>>()
        .context("counting under strace")
}

fn key(name: &str, depth: u32) -> String {
    format!("{name} {depth}")
}

fn section(told: &[Told], calls: &[[f64; 2]]) -> Section {
    let native = &told[0];
    let own = |mode: &str| told.iter().find(|told| told.name == mode);
    // What could not be had is worst.
    let worst = |of: &dyn Fn(&str) -> f64, names: &dyn Fn(&str, bool) -> bool| {
        let names = LOOKUPS
            .iter()
            .filter(|(name, is_failing)| names(name, *is_failing));
        let all = names.flat_map(|(name, _)| DEPTHS.map(|depth| of(&key(name, depth))));
        all.max_by(f64::total_cmp).unwrap_or(f64::NAN)
    };
    let ns = |mode| move |of: &str| own(mode).map_or(f64::NAN, |told| told.quartiles(of).p50);
    let ratio =
        |mode| move |of: &str| own(mode).map_or(f64::NAN, |told| told.ratio(native, of).p50);
    let goal = |what: &str, at_most: f64, found: f64, unit: &str| Goal {
        what: what.to_owned(),
        at_most,
        found,
        unit: unit.to_owned(),
    };
    let asked = LOOKUPS.iter().zip(calls).filter(|((_, fails), _)| *fails);
    let asked = asked.map(|(_, [_, own])| *own).max_by(f64::total_cmp);
    let mut goals = vec![goal(
        "host calls for a failing lookup, frozen",
        0.0,
        asked.unwrap_or(f64::NAN),
        "calls",
    )];
    for mode in ["lease", "frozen"] {
        let what = format!("slowest failing lookup, {mode}");
        goals.push(goal(&what, 60.0, worst(&ns(mode), &|_, fails| fails), "ns"));
        for name in ["open+close", "stat"] {
            let what = format!("{name} of what is there, {mode}");
            let found = worst(&ratio(mode), &|other, _| other == name);
            goals.push(goal(&what, 1.15, found, "x native"));
        }
    }
    let rows = LOOKUPS.iter().zip(calls).flat_map(|((name, _), calls)| {
        DEPTHS.map(|depth| {
            let of = key(name, depth);
            let mut row = vec![
                of.replace(' ', ", depth "),
                number(native.quartiles(&of).p50),
            ];
            for mode in MODES {
                row.push(number(ns(mode)(&of)));
                row.push(format!("{:.2}", ratio(mode)(&of)));
            }
            row.extend(calls.map(|calls| {
                if depth == 3 {
                    number(calls)
                } else {
                    String::new()
                }
            }));
            row
        })
    });
    let modes = MODES
        .iter()
        .flat_map(|mode| [format!("{mode} ns"), "x".to_owned()]);
    let ends = ["native calls", "frozen: host calls"].map(str::to_owned);
    let heads = ["", "native ns"].map(str::to_owned).into_iter();
    Section {
        title: "Lookups in an indexed directory".to_owned(),
        about: vec![format!(
            "By a dynamic program of the sysroot, in a directory 1, 3 and 6 below `/l`: ns for each call, the median over {} rounds of what each \
             run found to be the median over its batches. `x` is to the native run of the same round. Each answer is checked. Calls are \
             counted under strace, of {COUNTED} lookups less those of one; a call that is trapped and answered is none.",
            native.rounds.len()
        )],
        peer: native.name.clone(),
        rows: Vec::new(),
        tables: std::iter::once(Table {
            title: "Medians:".to_owned(),
            columns: heads.chain(modes).chain(ends).collect(),
            rows: rows.collect(),
        })
        .chain(faults(told))
        .collect(),
        goals,
    }
}

/// Sides that did not work, if there are any.
#[must_use]
pub fn faults(told: &[Told]) -> Option<Table> {
    let faults = told
        .iter()
        .filter_map(|told| Some(vec![told.name.clone(), told.fault.clone()?]));
    let rows: Vec<_> = faults.collect();
    (!rows.is_empty()).then(|| Table {
        title: "What did not work, and why:".to_owned(),
        columns: ["", "of which"].map(str::to_owned).to_vec(),
        rows,
    })
}

fn chart(told: &[Told]) -> Chart {
    let groups = LOOKUPS.iter().map(|(name, _)| {
        let of = key(name, 3);
        let bars = told.iter().map(|side| {
            let found = side.quartiles(&of);
            Bar {
                label: side.name.clone(),
                text: format!(
                    "{} ns, {:.2}x",
                    number(found.p50),
                    side.ratio(&told[0], &of).p50
                ),
                value: found.p50,
                spread: (found.p25, found.p75),
                limit: None,
                role: if side.name == told[0].name {
                    Role::Peer
                } else {
                    Role::Ours
                },
            }
        });
        Group {
            title: format!("{name}, depth 3"),
            bars: bars.collect(),
        }
    });
    Chart {
        title: "A lookup inside a guest, by coherence mode".to_owned(),
        unit: "ns for each call; bar: median of the rounds; whisker: p25 to p75".to_owned(),
        groups: groups.collect(),
        axis: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figures;

    fn told(name: &str, ns: f64, fault: Option<&str>) -> Told {
        let all = LOOKUPS
            .iter()
            .flat_map(|(name, _)| DEPTHS.map(|depth| key(name, depth)));
        let figures: Figures = all.map(|key| (key, ns)).collect();
        Told {
            name: name.to_owned(),
            rounds: if fault.is_some() {
                Vec::new()
            } else {
                vec![figures]
            },
            fault: fault.map(str::to_owned),
        }
    }

    #[test]
    fn goals_are_met_by_what_is_fast_and_makes_no_calls() {
        let told = [
            told("native", 300.0, None),
            told("lease", 50.0, None),
            told("frozen", 40.0, None),
        ];
        let quiet = vec![[1.0, 0.0]; LOOKUPS.len()];
        assert!(section(&told, &quiet).goals.iter().all(Goal::met));
        let mut asking = quiet;
        asking[2][1] = 0.02;
        let missed = section(&told, &asking).goals;
        assert_eq!(missed.iter().filter(|goal| !goal.met()).count(), 1);
    }

    #[test]
    fn a_mode_that_does_not_work_meets_no_goal() {
        let told = [
            told("native", 300.0, None),
            told("lease", 0.0, Some("exit status 1")),
            told("frozen", 40.0, None),
        ];
        let calls = vec![[1.0, 0.0]; LOOKUPS.len()];
        let section = section(&told, &calls);
        let missed = section.goals.iter().filter(|goal| !goal.met());
        assert!(missed.clone().all(|goal| goal.what.contains("lease")));
        assert_eq!(missed.count(), 3);
        assert_eq!(section.tables.len(), 2);
    }
}
