//! The suite of system calls, each against native Linux in the same run, in every coherence mode, in a dynamic and in a static
//! guest.

use std::collections::BTreeMap;

use crate::chart::{Bar, Chart, Group, Role};
use crate::cli::Within;
use crate::ground::Ground;
use crate::guest::{MODES, faults};
use crate::measure::Quartiles;
use crate::report::{Goal, Report, Section, Table, number};
use crate::told::{self, Told};
use crate::workspace::Workspace;

/// Name of the section and of the files of results.
pub const NAME: &str = "suite";

/// What `programs/suite.c` times, and what kind of call it is.
const CALLS: [(&str, Kind); 33] = [
    ("getpid", Kind::Plain),
    ("gettid", Kind::Plain),
    ("clock_gettime", Kind::Plain),
    ("read_null", Kind::Plain),
    ("write_null", Kind::Plain),
    ("pread", Kind::Plain),
    ("writev", Kind::Plain),
    ("pipe", Kind::Plain),
    ("open_close", Kind::Path),
    ("stat", Kind::Path),
    ("fstat", Kind::Fstat),
    ("lseek", Kind::Plain),
    ("fcntl_getfl", Kind::Plain),
    ("dup_close", Kind::Plain),
    ("getcwd", Kind::Path),
    ("access", Kind::Path),
    ("readlink", Kind::Path),
    ("fork_exit", Kind::Fork),
    ("mmap_munmap", Kind::Plain),
    ("mmap_fault", Kind::Plain),
    ("mprotect", Kind::Plain),
    ("brk", Kind::Plain),
    ("uname", Kind::Plain),
    ("sigaction", Kind::Signal),
    ("sigprocmask", Kind::Signal),
    ("sched_yield", Kind::Plain),
    ("getpriority", Kind::Plain),
    ("read_zero", Kind::Plain),
    ("signal_delivery", Kind::Return),
    ("open_missing", Kind::Path),
    ("stat_missing", Kind::Path),
    ("exec", Kind::Exec),
    ("urandom_read", Kind::Plain),
];

/// Calls of ours, beside those of the suite that the goal is about.
const OURS: [&str; 4] = ["open_missing", "stat_missing", "exec", "urandom_read"];

/// What a call must not exceed even on a busy machine: multiples of native.
const CEILINGS: [(&str, f64); 3] = [
    ("getpid", 2.0),
    ("clock_gettime", 2.0),
    ("urandom_read", 2.0),
];

/// Why a call may cost more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It names no path and touches no signal: the kernel's alone.
    Plain,
    /// It names a path.
    Path,
    /// glibc makes it of a call that may name a path.
    Fstat,
    /// It is about signals, some of which are the runtime's.
    Signal,
    /// A handler returns.
    Return,
    /// It makes a process.
    Fork,
    /// It executes a program.
    Exec,
}

/// How a call compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Faster,
    Ok,
    Slow,
    Unknown,
}

impl Verdict {
    fn of(ratio: f64) -> Self {
        match ratio {
            ratio if ratio <= 0.9 => Self::Faster,
            ratio if ratio <= 1.1 => Self::Ok,
            ratio if ratio > 1.1 => Self::Slow,
            _ => Self::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Faster => "FASTER",
            Self::Ok => "OK",
            Self::Slow => "SLOW",
            Self::Unknown => "?",
        }
    }
}

/// Why a slow call is slow, as far as its kind and by how much it is slower tell. `None`: nobody knows.
fn reason(kind: Kind, mode: &str, over_ns: f64, is_armed: bool) -> Option<&'static str> {
    // A trap is never cheaper than this, and nothing else of the runtime's is as dear.
    let is_trapped = is_armed && over_ns > 600.0;
    Some(match (kind, mode) {
        (Kind::Path, "off") if is_trapped => {
            "trapped, and without an index each component of the path is looked up by itself"
        }
        (Kind::Path, "strict") if is_trapped => "trapped, and `strict` asks the host each time",
        (Kind::Path, _) if is_trapped => {
            "trapped: a signal and the return from it, about a microsecond, as this site is not patched"
        }
        (Kind::Path, "off") => "without an index each component of the path is looked up by itself",
        (Kind::Path, "strict") => "`strict` asks the host each time",
        (Kind::Signal, _) if is_trapped => {
            "trapped: handlers and masks for SIGSYS, SIGSEGV and SIGBUS, which are the runtime's, have to be watched"
        }
        (Kind::Return, _) if is_trapped => {
            "rt_sigreturn is trapped: a handler may write SIGSYS into the mask that it returns to"
        }
        (Kind::Fstat, _) if is_trapped => {
            "trapped: glibc's is newfstatat with an empty path, which the filter cannot tell from others"
        }
        (Kind::Fork, _) => {
            "the kernel copies the runtime's mappings and dirty pages, too, and the child takes a fault for each part of its code that it comes to"
        }
        (Kind::Exec, _) => "the runtime executes itself, and maps the program a second time",
        (Kind::Plain, _) if is_armed && over_ns < 60.0 => {
            "the filter is asked: a few ns where the kernel knows its answer by number, up to 40 where it does not"
        }
        (Kind::Path, _) => {
            "served: the entry, what the index and the mounts say of the path, and the call itself from the sysroot's descriptor"
        }
        (Kind::Signal, _) => {
            "served: handlers and masks for SIGSYS, SIGSEGV and SIGBUS are the runtime's, so each of these is looked at before it is made"
        }
        (Kind::Fstat, _) => {
            "glibc's is newfstatat with an empty path, which the entry has to look at first"
        }
        _ => return None,
    })
}

/// One program in all modes. The first side is native.
struct Guest {
    title: &'static str,
    told: Vec<Told>,
}

/// Measures, and writes what was found.
///
/// # Errors
/// If nothing can be compiled, a guest does not even work natively, or results cannot be written.
pub fn run(options: &Within, workspace: &Workspace) -> anyhow::Result<Report> {
    let ground = Ground::new(workspace, options.cache.as_deref())?;
    let command = "cargo run --release -p elfuse-benches -- suite";
    let mut report = Report::begin(NAME, command, workspace.commit());
    let made = ground.made_root(workspace)?;
    let mut guests = Vec::new();
    for (title, program) in [
        ("Dynamic guest", "/bin/suite"),
        ("Static guest", "/bin/suite-static"),
    ] {
        eprintln!("{title}");
        let line = [program];
        let mut sides = vec![("native".to_owned(), ground.chroot_exec(&made, &line))];
        for mode in MODES {
            sides.push((mode.to_owned(), ground.elfuse_run(&made, mode, &line)));
        }
        let told = told::take(sides, options.rounds(20))?;
        guests.push(Guest { title, told });
    }
    report.sections.extend(guests.iter().map(Guest::section));
    report.sections.push(guardrail(&guests));
    report.end();
    if options.quick {
        eprint!("{}", report.markdown());
        return Ok(report);
    }
    report.draw(&workspace.benches(), &chart(&guests))?;
    report.write(&workspace.benches())?;
    Ok(report)
}

/// Whether a ceiling of the guardrail was exceeded, by the report of a run.
#[must_use]
pub fn is_beyond(report: &Report) -> bool {
    let guardrail = report
        .sections
        .iter()
        .filter(|section| section.title == GUARDRAIL);
    guardrail
        .flat_map(|section| &section.goals)
        .any(|goal| !goal.met())
}

const GUARDRAIL: &str = "Guardrail";

impl Guest {
    fn native(&self) -> &Told {
        &self.told[0]
    }

    fn mode(&self, mode: &str) -> Option<&Told> {
        self.told.iter().find(|told| told.name == mode)
    }

    fn ratio(&self, mode: &str, call: &str) -> Quartiles {
        let told = self.mode(mode);
        told.map_or_else(
            || Quartiles::of(Vec::new()),
            |told| told.ratio(self.native(), call),
        )
    }

    fn over_ns(&self, mode: &str, call: &str) -> f64 {
        let told = self.mode(mode);
        told.map_or(f64::NAN, |told| told.over(self.native(), call).p50)
    }

    /// Whether the kernel had a filter for it.
    fn is_armed(&self, mode: &str) -> bool {
        let told = self.mode(mode);
        told.is_some_and(|told| told.quartiles("seccomp").p50 > 1.5)
    }

    fn verdict(&self, mode: &str, call: &str) -> Verdict {
        Verdict::of(self.ratio(mode, call).p50)
    }

    fn why(&self, mode: &str, call: &str, kind: Kind) -> String {
        if self.verdict(mode, call) != Verdict::Slow {
            return String::new();
        }
        let over = self.over_ns(mode, call);
        let is_noise = Verdict::of(self.ratio(mode, call).p25) != Verdict::Slow;
        reason(kind, mode, over, self.is_armed(mode))
            .or(is_noise.then_some("noise: not SLOW in a quarter of the rounds"))
            .unwrap_or("**unexplained**")
            .to_owned()
    }

    fn section(&self) -> Section {
        let slow = |mode: &str| {
            let of_suite = CALLS.iter().filter(|(call, _)| !OURS.contains(call));
            let is_good = |call| matches!(self.verdict(mode, call), Verdict::Faster | Verdict::Ok);
            of_suite.filter(|(call, _)| !is_good(call)).count() as f64
        };
        let mut goals = Vec::new();
        for mode in ["lease", "frozen"] {
            goals.push(Goal {
                what: format!("calls of the suite that are SLOW, {mode}"),
                at_most: 0.0,
                found: slow(mode),
                unit: "calls".to_owned(),
            });
            goals.push(self.plain_goal(mode));
        }
        // Without an index nothing is patched, so the filter is there from the start.
        goals.push(self.plain_goal("off"));
        let modes = MODES
            .iter()
            .flat_map(|mode| [mode.to_string(), "p25..p75".to_owned()]);
        let heads = ["", "native ns"].map(str::to_owned).into_iter();
        let rows = CALLS.iter().map(|&(call, _)| {
            let native = self.native().quartiles(call);
            let mut row = vec![call.to_owned(), number(native.p50)];
            for mode in MODES {
                let ratio = self.ratio(mode, call);
                row.push(format!("{:.2}", ratio.p50));
                row.push(format!("{:.2}..{:.2}", ratio.p25, ratio.p75));
            }
            row.push(self.verdict("lease", call).name().to_owned());
            row
        });
        let mut reasons = BTreeMap::<_, Vec<String>>::new();
        for (number, mode) in MODES.iter().enumerate() {
            for &(call, kind) in &CALLS {
                let why = self.why(mode, call, kind);
                if !why.is_empty() {
                    let more = format!("{call} {:+}", self.over_ns(mode, call).round());
                    reasons.entry((number, why)).or_default().push(more);
                }
            }
        }
        let reasons = Table {
            title: "Calls that are SLOW, by mode, with the ns that they take more than natively, and why:".to_owned(),
            columns: ["mode", "command", "of which"].map(str::to_owned).to_vec(),
            rows: reasons
                .into_iter()
                .map(|((number, why), calls)| vec![MODES[number].to_owned(), calls.join(", "), why])
                .collect(),
        };
        let armed = MODES.map(|mode| {
            let is = if self.is_armed(mode) {
                "armed"
            } else {
                "not armed"
            };
            format!("{mode} {is}")
        });
        Section {
            title: self.title.to_owned(),
            about: vec![format!(
                "Multiples of native Linux in the same round, {} rounds; FASTER: at most 0.90, OK: at most 1.10, SLOW: above, by the median in \
                 lease mode. `open_missing`, `stat_missing`, `exec` and `urandom_read` are not of the suite. Filter by `/proc/self/status` in the \
                 guest: {}.",
                self.native().rounds.len(),
                armed.join(", ")
            )],
            peer: self.native().name.clone(),
            rows: Vec::new(),
            tables: std::iter::once(Table {
                title: "Medians:".to_owned(),
                columns: heads.chain(modes).chain(["verdict".to_owned()]).collect(),
                rows: rows.collect(),
            })
            .chain((!reasons.rows.is_empty()).then_some(reasons))
            .chain(faults(&self.told))
            .collect(),
            goals,
        }
    }

    /// What calls that name no path cost more: nothing without the filter, and little with it.
    fn plain_goal(&self, mode: &str) -> Goal {
        // Calls so short that what is added to them can be told from noise.
        const SHORT_NS: f64 = 200.0;
        let plain = CALLS.iter().filter(|(call, kind)| {
            *kind == Kind::Plain && self.native().quartiles(call).p50 < SHORT_NS
        });
        if self.is_armed(mode) {
            let over = plain.map(|(call, _)| self.over_ns(mode, call));
            return Goal {
                what: format!(
                    "calls under {SHORT_NS} ns that name no path, filter armed, {mode}: median of what is added"
                ),
                at_most: 12.0,
                found: Quartiles::of(over.collect()).p50,
                unit: "ns".to_owned(),
            };
        }
        let ratios = plain.map(|(call, _)| self.ratio(mode, call).p50);
        Goal {
            what: format!(
                "calls under {SHORT_NS} ns that name no path, filter not armed, {mode}: median of the ratios"
            ),
            // 1.00, and what medians of the same thing differ by.
            at_most: 1.02,
            found: Quartiles::of(ratios.collect()).p50,
            unit: "x native".to_owned(),
        }
    }
}

fn guardrail(guests: &[Guest]) -> Section {
    let goals = guests.iter().flat_map(|guest| {
        CEILINGS.map(|(call, at_most)| {
            let ratios = ["lease", "frozen", "strict"].map(|mode| guest.ratio(mode, call).p50);
            Goal {
                what: format!(
                    "{call}, {}, slowest of lease, frozen and strict",
                    guest.title.to_lowercase()
                ),
                at_most,
                found: ratios
                    .into_iter()
                    .max_by(f64::total_cmp)
                    .unwrap_or(f64::NAN),
                unit: "x native".to_owned(),
            }
        })
    });
    Section {
        title: GUARDRAIL.to_owned(),
        about: vec![
            "Ceilings that hold on a busy machine too: the benchmark ends with status 1 beyond them. That these calls reach the host exactly as often \
             as natively is tested by counting, in `tests/tests/guardrail.rs`."
                .to_owned(),
        ],
        peer: String::new(),
        rows: Vec::new(),
        tables: Vec::new(),
        goals: goals.collect(),
    }
}

fn chart(guests: &[Guest]) -> Chart {
    let groups = guests.iter().map(|guest| {
        let bars = CALLS.iter().map(|&(call, _)| {
            let ratio = guest.ratio("lease", call);
            Bar {
                label: call.to_owned(),
                text: format!(
                    "{:.2}x, natively {} ns",
                    ratio.p50,
                    number(guest.native().quartiles(call).p50)
                ),
                value: ratio.p50,
                spread: (ratio.p25, ratio.p75),
                limit: None,
                role: Role::Ours,
            }
        });
        Group {
            title: guest.title.to_owned(),
            bars: bars.collect(),
        }
    });
    Chart {
        title: "System calls in a guest in lease mode, as a multiple of native".to_owned(),
        unit: "bar: median of the rounds' ratios; whisker: p25 to p75; a bar with a gap goes on beyond the axis".to_owned(),
        groups: groups.collect(),
        axis: Some(crate::chart::Axis {
            end: 2.0,
            step: 0.5,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Figures;

    fn told(name: &str, ns: impl Fn(&str) -> f64, seccomp: f64) -> Told {
        let mut figures: Figures = CALLS
            .iter()
            .map(|&(call, _)| (call.to_owned(), ns(call)))
            .collect();
        figures.insert("seccomp".to_owned(), seccomp);
        Told {
            name: name.to_owned(),
            rounds: vec![figures],
            fault: None,
        }
    }

    fn guest(ns: impl Fn(&str) -> f64 + Copy, seccomp: f64) -> Guest {
        let mut told_of = vec![told("native", |_| 100.0, 0.0)];
        told_of.extend(MODES.map(|mode| told(mode, ns, seccomp)));
        Guest {
            title: "Dynamic guest",
            told: told_of,
        }
    }

    #[test]
    fn verdicts_have_the_limits_of_the_suite() {
        let all = [0.9, 0.91, 1.1, 1.11, f64::NAN].map(|ratio| Verdict::of(ratio).name());
        assert_eq!(all, ["FASTER", "OK", "OK", "SLOW", "?"]);
    }

    #[test]
    fn what_is_as_fast_as_natively_meets_the_goals() {
        let guest = guest(|_| 100.0, 0.0);
        assert!(guest.section().goals.iter().all(Goal::met));
        assert!(guardrail(&[guest]).goals.iter().all(Goal::met));
    }

    #[test]
    fn a_slow_call_is_counted_and_explained_or_said_to_be_unexplained() {
        let guest = guest(
            |call| {
                if matches!(call, "stat" | "uname") {
                    1300.0
                } else {
                    105.0
                }
            },
            2.0,
        );
        let section = guest.section();
        let goals: Vec<_> = section.goals.iter().map(|goal| goal.found).collect();
        assert_eq!(goals, [2.0, 5.0, 2.0, 5.0, 5.0]);
        let reasons = &section.tables[1].rows;
        let why = |call: &str| {
            let is_of = |row: &&Vec<String>| row[0] == "lease" && row[1].starts_with(call);
            Some(reasons.iter().find(is_of)?[2].as_str())
        };
        assert!(why("stat +1200").is_some_and(|why| why.starts_with("trapped")));
        assert_eq!(why("uname +1200"), Some("**unexplained**"));
        assert_eq!(why("getpid"), None);
    }

    #[test]
    fn a_mode_that_does_not_work_is_beyond_every_ceiling() {
        let mut guest = guest(|_| 100.0, 0.0);
        guest.told[1].rounds.clear();
        let missed = guardrail(&[guest]).goals;
        assert!(missed.iter().all(|goal| !goal.met()));
    }
}
