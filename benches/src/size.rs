//! Start-up against the size of the sysroot: what is not looked at must not cost anything.

use crate::chart::{Bar, Chart, Group, Role};
use crate::cli::Within;
use crate::ground::{Ground, Root};
use crate::machine;
use crate::report::{Goal, Report, Section, number};
use crate::synthetic;
use crate::turns::{self, Expected, Rounds, Side, Taken};
use crate::workspace::Workspace;

/// Name of the section and of the files of results.
pub const NAME: &str = "size";

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const PROGRAMS: [(&str, &str); 2] = [
    ("empty dynamic", "/bin/empty"),
    ("search-heavy", "/bin/search-heavy"),
];
const NATIVE: &str = "chroot()+exec";
const WAYS: [&str; 3] = [NATIVE, "lease", "frozen"];

/// How much longer a start may take from the largest tree than from the smallest. It is to be none; this is what medians of the
/// same thing differ by.
const FLAT: f64 = 1.1;

/// Measures, and writes what was found.
///
/// # Errors
/// If a tree cannot be made, a program does not start natively, or results cannot be written.
pub fn run(options: &Within, workspace: &Workspace) -> anyhow::Result<Report> {
    let ground = Ground::new(workspace, options.cache.as_deref())?;
    let command = "cargo run --release -p elfuse-benches -- size";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let made = ground.made_root(workspace)?;
    let mut roots = Vec::new();
    for size in SIZES {
        let tree = synthetic::tree(
            &ground.cache,
            synthetic::Size {
                entries: size,
                in_one_directory: size / 10,
            },
        )?;
        // Beside the entries and not among them, as that tree is measured on as it is by others too.
        let home = tree.with_file_name("");
        ground.put_into(&made.tree, &home)?;
        roots.push((size, ground.root(&format!("size-{size}"), &home)?));
    }
    let mut groups = Vec::new();
    for (name, path) in PROGRAMS {
        eprintln!("{name}");
        let mut sides = sides(&ground, &roots, path);
        let rounds = Rounds {
            count: options.rounds(30),
            by_length: !options.quick,
            before: None,
        };
        let taken = turns::take(&mut sides, rounds)?;
        report
            .sections
            .push(section(name, &taken, &machine::file_system(&made.tree)));
        groups.push(group(name, &taken));
    }
    report.end();
    if options.quick {
        eprint!("{}", report.markdown());
        return Ok(report);
    }
    let chart = Chart {
        title: "Start-up against the size of the sysroot".to_owned(),
        unit: "ms; bar: median; whisker: p25 to p75".to_owned(),
        groups,
        axis: None,
    };
    report.draw(&workspace.benches(), &chart)?;
    report.write(&workspace.benches())?;
    Ok(report)
}

fn name(way: &str, size: usize) -> String {
    format!("{way}, {size} entries")
}

fn sides(ground: &Ground, roots: &[(usize, Root)], path: &str) -> Vec<Side> {
    let mut sides = Vec::new();
    for way in WAYS {
        for (size, root) in roots {
            sides.push(Side {
                name: name(way, *size),
                command: match way {
                    NATIVE => ground.chroot_exec(root, &[path]),
                    mode => ground.elfuse_run(root, mode, &[path]),
                },
                expected: Expected::SameOutput,
            });
        }
    }
    sides
}

fn find<'a>(taken: &'a [Taken], way: &str, size: usize) -> Option<&'a Taken> {
    let name = name(way, size);
    let found = taken.iter().find(|taken| taken.name == name);
    found.filter(|taken| taken.fault.is_none())
}

fn section(program: &str, taken: &[Taken], file_system: &str) -> Section {
    let [smallest, .., largest] = SIZES;
    let goals = ["lease", "frozen"].map(|way| {
        let both = find(taken, way, largest).zip(find(taken, way, smallest));
        Goal {
            what: format!("{way}, {largest} entries"),
            at_most: FLAT,
            found: both.map_or(f64::NAN, |(large, small)| large.ratio_to(small).p50),
            unit: format!("x {way}, {smallest} entries"),
        }
    });
    Section {
        title: program.to_owned(),
        about: vec![format!(
            "From a tree with so many entries besides what the program needs, a tenth of them in one directory, on {file_system} and in the cache; all \
             sizes in turn. Ratios are to chroot()+exec from the smallest."
        )],
        peer: name(NATIVE, smallest),
        rows: taken
            .iter()
            .map(|one| {
                let fault = one.fault.iter().map(|fault| format!(": {fault}"));
                one.row(
                    one.name.clone() + &fault.collect::<String>(),
                    &taken[0],
                    None,
                )
            })
            .collect(),
        tables: Vec::new(),
        goals: goals.into(),
    }
}

fn group(program: &str, taken: &[Taken]) -> Group {
    let bars = taken.iter().map(|one| {
        let milliseconds = one.seconds();
        Bar {
            label: one.name.clone(),
            text: format!("{} ms", number(milliseconds.p50 * 1e3)),
            value: milliseconds.p50 * 1e3,
            spread: (milliseconds.p25 * 1e3, milliseconds.p75 * 1e3),
            limit: None,
            role: if one.name.starts_with(NATIVE) {
                Role::Peer
            } else {
                Role::Ours
            },
        }
    });
    Group {
        title: program.to_owned(),
        bars: bars.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turns::Start;

    fn taken(way: &str, milliseconds: [f64; SIZES.len()]) -> Vec<Taken> {
        let of = |(size, milliseconds): (usize, f64)| Taken {
            name: name(way, size),
            starts: vec![Some(Start {
                seconds: milliseconds / 1e3,
                cpu_seconds: 0.0,
                peak_bytes: 0,
            })],
            fault: None,
            output: Vec::new(),
        };
        SIZES.into_iter().zip(milliseconds).map(of).collect()
    }

    #[test]
    fn a_start_that_grows_with_the_tree_misses_its_goal() {
        let mut all = taken(NATIVE, [1.0; 4]);
        all.extend(taken("lease", [1.0, 1.0, 1.0, 1.05]));
        all.extend(taken("frozen", [1.0, 1.1, 1.2, 1.3]));
        let goals = section("program", &all, "ext4").goals;
        assert!(goals[0].met() && !goals[1].met());
    }
}
