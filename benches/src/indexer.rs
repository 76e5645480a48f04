//! `elfuse-index build` against `find` on the same tree: a copy of a configured Debian, and a synthetic tree of a million
//! entries.

mod phases;
mod picture;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use self::phases::{RACY_WAIT, phases, summary};
use self::picture::chart_of;
use crate::cli::IndexerOptions;
use crate::machine::{self, has};
use crate::measure::{Figures, Rounds, Series, Subject, interleave};
use crate::report::{Goal, Report, Row, Section, Table, number};
use crate::synthetic;
use crate::sysroot::Sysroot;
use crate::workspace::{self, Workspace};

/// Name of the section and of the files of results.
pub const NAME: &str = "indexer";

const FIND: &str = "find";
const FIRST: &str = "first build";
const FIRST_NO_WAIT: &str = "first build, --no-wait";
const UNCHANGED: &str = "nothing changed";
const FULL: &str = "build --full, sidecars there";
const FIND_COLD: &str = "find, cold";
const FIRST_COLD: &str = "first build, --no-wait, cold";

/// Limits for one tree.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// First build, in multiples of find's time.
    first: f64,
    /// Build with nothing changed, likewise.
    unchanged: Option<f64>,
    /// Peak memory of any build.
    memory_bytes: f64,
    /// Bytes of sidecars and store for each entry.
    index_bytes_per_entry: Option<f64>,
}

/// Measures, and writes what was found.
///
/// # Errors
/// If a tree cannot be made, a command fails, or results cannot be written.
pub fn run(options: &IndexerOptions, workspace: &Workspace) -> anyhow::Result<Report> {
    let elfuse_index = workspace.build("elfuse-indexer", "elfuse-index")?;
    let cache = match &options.cache {
        Some(path) => path.clone(),
        None => workspace::cache()?,
    };
    std::fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let bench = Bench {
        elfuse_index,
        cache,
        cold: options.cold,
    };
    let command = "cargo run --release -p elfuse-benches -- indexer";
    let mut report = Report::begin(NAME, command, workspace.commit());
    if options.wants("debian") {
        let source = match &options.sysroot {
            Some(path) => path.clone(),
            None => workspace.sysroot("debian")?,
        };
        report
            .sections
            .push(bench.debian(&source, options.debian_rounds())?);
    }
    if options.wants("synthetic") {
        let size = synthetic::Size {
            entries: options.entries,
            in_one_directory: options.entries / 10,
        };
        report
            .sections
            .push(bench.synthetic(size, options.synthetic_rounds())?);
    }
    report.end();
    if options.only.is_some() {
        // Half of the results, or of two different runs, would be taken for the whole.
        eprint!("{}", report.markdown());
        eprintln!("written down with both trees only");
        return Ok(report);
    }
    let chart = chart_of(&report);
    report.draw(&workspace.benches(), &chart)?;
    report.write(&workspace.benches())?;
    Ok(report)
}

struct Bench {
    elfuse_index: PathBuf,
    cache: PathBuf,
    cold: bool,
}

/// What is measured on one tree.
struct Measured {
    warm: Vec<Series>,
    cold: Vec<Series>,
    tables: Vec<Table>,
    goals: Vec<Goal>,
}

impl Bench {
    fn debian(&self, source: &Path, rounds: usize) -> anyhow::Result<Section> {
        let home = TempDir::with_prefix_in("debian-", &self.cache)
            .with_context(|| format!("making a directory in {}", self.cache.display()))?;
        let tree = home.path().join("tree");
        eprintln!("copying {} to {}", source.display(), tree.display());
        let mut copy = Command::new("cp");
        copy.args(["-a", "--reflink=never", "--"])
            .arg(source)
            .arg(&tree);
        succeed(&mut copy)?;
        let sysroot = Sysroot::new(tree, home.path())?;
        sysroot.unindex()?;
        let peers = self.peers(&sysroot, home.path())?;
        let limits = Limits {
            first: 8.0,
            unchanged: Some(1.5),
            memory_bytes: 200e6,
            index_bytes_per_entry: None,
        };
        let measured = self.measure(&sysroot, peers, rounds, limits)?;
        Ok(self.section("Debian sysroot", &sysroot, measured, limits))
    }

    fn synthetic(&self, size: synthetic::Size, rounds: usize) -> anyhow::Result<Section> {
        let tree = synthetic::tree(&self.cache, size)?;
        let sysroot = Sysroot::new(tree, &self.cache)?;
        sysroot.unindex()?;
        let limits = Limits {
            first: 3.0,
            unchanged: None,
            memory_bytes: 500e6,
            index_bytes_per_entry: Some(250.0),
        };
        let measured = self.measure(&sysroot, Vec::new(), rounds, limits)?;
        sysroot.unindex()?;
        let title = format!("Synthetic tree of {} entries", size.entries);
        Ok(self.section(&title, &sysroot, measured, limits))
    }

    fn build(&self, sysroot: &Sysroot, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.elfuse_index);
        command.args(["build", "--json"]).args(arguments);
        command.arg(sysroot.path());
        command
    }

    /// Other tools that walk such a tree, as far as they are here.
    fn peers<'a>(&self, sysroot: &'a Sysroot, scratch: &Path) -> anyhow::Result<Vec<Subject<'a>>> {
        let mut peers = Vec::new();
        let tree = sysroot.path();
        if let Some(fd) = ["fd", "fdfind"].into_iter().find(|name| has(name)) {
            peers.push(Subject::new("fd", move || {
                let mut command = Command::new(fd);
                command.args(["--unrestricted", "."]).arg(tree);
                command
            }));
        }
        if has("git") {
            let repository = scratch.join("git");
            let git = move || {
                let mut command = Command::new("git");
                command.arg("--git-dir").arg(&repository);
                command.arg("--work-tree").arg(tree);
                command
            };
            succeed(git().args(["init", "--quiet"]))?;
            // Everything into one uncompressed pack: only git's own index matters here.
            let settings = ["-c", "core.bigFileThreshold=1", "-c", "core.compression=0"];
            let settings = settings
                .into_iter()
                .chain(["-c", "advice.addEmbeddedRepo=false"]);
            succeed(git().args(settings).args(["add", "--all", "--force"]))?;
            peers.push(Subject::new("git status", move || {
                let mut command = git();
                command.args(["status", "--porcelain"]);
                command
            }));
        }
        if has("ldconfig") && rustix::process::geteuid().is_root() {
            // Without the auxiliary cache of the run before, which would be "nothing changed".
            peers.push(Subject::new("ldconfig -r", move || {
                let mut command = Command::new("ldconfig");
                command.args(["-i", "-X", "-r"]).arg(tree);
                command
            }));
        }
        Ok(peers)
    }

    fn measure<'a>(
        &self,
        sysroot: &'a Sysroot,
        peers: Vec<Subject<'a>>,
        rounds: usize,
        limits: Limits,
    ) -> anyhow::Result<Measured> {
        let find = |name| {
            let command = || {
                let mut command = Command::new("find");
                command
                    .arg(sysroot.path())
                    .args(["-printf", r"%p %i %T@\n"]);
                command
            };
            Subject::new(name, command)
        };
        let build = |name, arguments: &'static [&'static str]| {
            let subject = Subject::new(name, move || self.build(sysroot, arguments));
            subject.telling(summary).without(RACY_WAIT)
        };
        let unindexed = || {
            sysroot.unindex()?;
            sysroot.sync()
        };
        let indexed = || {
            succeed(&mut self.build(sysroot, &[]))?;
            sysroot.sync()
        };
        let mut subjects = vec![find(FIND).after(|| sysroot.sync())];
        subjects.extend(peers);
        subjects.push(build(FIRST_NO_WAIT, &["--no-wait"]).after(unindexed));
        subjects.push(build(FIRST, &[]).after(unindexed));
        subjects.push(build(UNCHANGED, &[]).after(indexed));
        subjects.push(build(FULL, &["--full", "--no-wait"]).after(indexed));
        let rounds = Rounds {
            warm_up: 1,
            measured: rounds,
        };
        let warm = interleave(&mut subjects, rounds, || {
            sysroot.unindex()?;
            sysroot.warm()
        })?;
        let cold = if self.cold {
            let mut subjects = [
                find(FIND_COLD).after(|| unindexed().and_then(|()| drop_caches())),
                build(FIRST_COLD, &["--no-wait"])
                    .after(|| unindexed().and_then(|()| drop_caches())),
            ];
            let rounds = Rounds {
                warm_up: 0,
                measured: 5,
            };
            interleave(&mut subjects, rounds, || Ok(()))?
        } else {
            Vec::new()
        };
        let (weight, weight_goals) = self.weigh(sysroot, limits)?;
        let mut goals = speed_goals(&warm, limits);
        goals.extend(weight_goals);
        Ok(Measured {
            tables: vec![phases(&warm), weight],
            warm,
            cold,
            goals,
        })
    }

    /// Builds with different numbers of threads, and what that makes.
    fn weigh(&self, sysroot: &Sysroot, limits: Limits) -> anyhow::Result<(Table, Vec<Goal>)> {
        let said = RefCell::new(Figures::new());
        let build = |jobs: &str| {
            sysroot.unindex()?;
            let mut command = self.build(sysroot, &["--no-wait", "--jobs", jobs]);
            let output = command.output().context("running elfuse-index")?;
            anyhow::ensure!(output.status.success(), "{command:?}: {}", output.status);
            *said.borrow_mut() = summary(&output.stdout)?;
            sysroot.sync()?;
            sysroot.footprint()
        };
        let (one, many) = (build("1")?, build("7")?);
        let said = said.into_inner();
        let entries = said.get("entries").copied().unwrap_or(f64::NAN);
        let bytes = (many.sidecar_bytes + many.store_bytes) as f64;
        let mut goals = Vec::new();
        if let Some(limit) = limits.index_bytes_per_entry {
            goals.push(goal(
                "index for each entry",
                limit,
                bytes / entries,
                "bytes",
            ));
        }
        let differ = u8::from(one.portable_digest != many.portable_digest);
        let what = "sidecars and loader cache that differ between --jobs 1 and --jobs 7";
        goals.push(goal(what, 0.0, differ.into(), "sets"));
        let row = |what: &str, bytes: u64| {
            vec![
                what.to_owned(),
                bytes.to_string(),
                number(bytes as f64 / entries),
            ]
        };
        let table = Table {
            title: format!(
                "What the index weighs: {entries} entries in {} directories, {} ELF files.",
                number(said.get("directories").copied().unwrap_or(f64::NAN)),
                number(said.get("elf_files").copied().unwrap_or(f64::NAN)),
            ),
            columns: ["", "bytes", "for each entry"].map(str::to_owned).to_vec(),
            rows: vec![
                row("sidecars", many.sidecar_bytes),
                row("store", many.store_bytes),
                row("blocks on disk", many.allocated_bytes),
            ],
        };
        Ok((table, goals))
    }

    fn section(
        &self,
        title: &str,
        sysroot: &Sysroot,
        measured: Measured,
        limits: Limits,
    ) -> Section {
        let limit_of = |name: &str| match name {
            FIRST | FIRST_NO_WAIT => Some(limits.first),
            UNCHANGED => limits.unchanged,
            _ => None,
        };
        let mut rows = Vec::new();
        for all in [&measured.warm, &measured.cold] {
            let peer = all.first();
            rows.extend(peer.into_iter().flat_map(|peer| {
                all.iter()
                    .map(|series| Row::new(series, peer, limit_of(series.name)))
            }));
        }
        let tree = sysroot.path().to_string_lossy().into_owned();
        for row in &mut rows {
            row.command = row.command.replace(&tree, "SYSROOT");
            let git_dir = sysroot.path().with_file_name("git");
            row.command = row
                .command
                .replace(&*git_dir.to_string_lossy(), "REPOSITORY");
        }
        let file_system = machine::file_system(sysroot.path());
        let mut about = vec![format!(
            "On {file_system}, all in the cache, runs interleaved. Time is from outside, less the racy wait that `build` \
             reports (two seconds in which it sleeps; `--no-wait` has none): the sync that goes on meanwhile is not in \
             the time of the first build, and is in that with `--no-wait`. Ratios are those of each round; CPU time is of \
             all threads."
        )];
        if !measured.cold.is_empty() {
            about.push(
                "Cold: with all caches dropped before each run; ratios are to `find`, cold."
                    .to_owned(),
            );
        }
        Section {
            title: title.to_owned(),
            about,
            peer: FIND.to_owned(),
            rows,
            tables: measured.tables,
            goals: measured.goals,
        }
    }
}

fn goal(what: &str, at_most: f64, found: f64, unit: &str) -> Goal {
    Goal {
        what: what.to_owned(),
        at_most,
        found,
        unit: unit.to_owned(),
    }
}

fn speed_goals(all: &[Series], limits: Limits) -> Vec<Goal> {
    let by_name: BTreeMap<&str, &Series> = all.iter().map(|series| (series.name, series)).collect();
    let ratio = |name| {
        let both = by_name.get(name).zip(by_name.get(FIND));
        both.map_or(f64::NAN, |(own, find)| own.ratio_to(find).p50)
    };
    let mut goals = vec![
        goal(FIRST, limits.first, ratio(FIRST), "x find"),
        goal(FIRST_NO_WAIT, limits.first, ratio(FIRST_NO_WAIT), "x find"),
    ];
    if let Some(limit) = limits.unchanged {
        goals.push(goal(UNCHANGED, limit, ratio(UNCHANGED), "x find"));
    }
    let builds = [FIRST, FIRST_NO_WAIT, UNCHANGED, FULL];
    let peaks = builds
        .iter()
        .filter_map(|name| by_name.get(name))
        .map(|series| series.peak_bytes());
    let peak = peaks.max().unwrap_or(0) as f64;
    goals.push(goal(
        "peak memory of any build",
        limits.memory_bytes / 1e6,
        peak / 1e6,
        "MB",
    ));
    goals
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}: {errors}",
        output.status
    );
    Ok(())
}

/// Empties the kernel's caches of file content, directories and inodes.
fn drop_caches() -> anyhow::Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .context("dropping the kernel's caches, which takes root; leave --cold away")
}
