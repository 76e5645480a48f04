//! Results as JSON for programs and as a section of `RESULTS.md` for people. The section is written from the same structure
//! as the JSON, so the two cannot disagree.

mod markdown;
mod place;

pub use self::markdown::goals;
pub use self::place::{fill_in, write_section};

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::chart::Chart;
use crate::machine::Machine;
use crate::measure::{Quartiles, Series};

/// Version of the JSON document.
const SCHEMA: u32 = 1;

/// One run of one benchmark.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Its name: of the section, and of the files below `results`.
    pub bench: String,
    /// When it began.
    pub date: String,
    /// The commit that was measured, with a plus if the sources differed from it.
    pub commit: String,
    /// How to run it again.
    pub command: String,
    /// Where.
    pub machine: Machine,
    /// Load averages before and after.
    pub load: [String; 2],
    /// How long all of it took.
    #[serde(default)]
    pub took_seconds: Option<u64>,
    /// What `results/BENCH.svg` shows, if there is one.
    #[serde(default)]
    pub picture: Option<String>,
    /// What was measured.
    pub sections: Vec<Section>,
    #[serde(skip)]
    began: Option<Instant>,
}

/// Measurements that belong together: of one tree, against one peer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// What a reader has to know to judge the numbers, a paragraph each.
    pub about: Vec<String>,
    /// Name of the row that the ratios are to.
    pub peer: String,
    /// A row a subject; none where nothing is timed.
    pub rows: Vec<Row>,
    /// Further tables.
    pub tables: Vec<Table>,
    /// What was aimed at.
    pub goals: Vec<Goal>,
}

/// One subject's figures.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// The command; empty where a table of its own says it.
    pub command: String,
    /// Runs.
    pub n: usize,
    /// Time, without what the command says it slept.
    pub seconds: Quartiles,
    /// Time from outside.
    pub elapsed_seconds: Quartiles,
    /// Quartiles of the ratios to the peer's run in the same round; of `seconds`.
    pub ratio: Quartiles,
    /// Processor time of all threads, user and system.
    pub cpu_seconds: Quartiles,
    /// The largest resident set of any run.
    pub peak_bytes: u64,
    /// The largest limit of the goals for the ratio, if there is one.
    pub at_most: Option<f64>,
}

impl Row {
    /// The row of a series.
    #[must_use]
    pub fn new(series: &Series, peer: &Series, at_most: Option<f64>) -> Self {
        Self {
            name: series.name.to_owned(),
            command: series.command.clone(),
            n: series.samples.len(),
            seconds: series.quartiles(|sample| sample.seconds),
            elapsed_seconds: series.quartiles(|sample| sample.elapsed_seconds),
            ratio: series.ratio_to(peer),
            cpu_seconds: series.quartiles(|sample| sample.cpu_seconds),
            peak_bytes: series.peak_bytes(),
            at_most,
        }
    }
}

/// A table of text.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// What stands above it.
    pub title: String,
    /// Heads; the first column is text, the others are numbers.
    pub columns: Vec<String>,
    /// As long as `columns`, each.
    pub rows: Vec<Vec<String>>,
}

/// A limit and what was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Goal {
    /// Of what.
    pub what: String,
    /// The limit.
    pub at_most: f64,
    /// What was found.
    #[serde(deserialize_with = "crate::measure::nan_if_null")]
    pub found: f64,
    /// Of both.
    pub unit: String,
}

impl Goal {
    /// Whether it was reached. A number that could not be had reaches nothing.
    #[must_use]
    pub fn met(&self) -> bool {
        self.found <= self.at_most
    }

    fn found(&self) -> String {
        if self.found.is_nan() {
            return "not measured".to_owned();
        }
        format!("{} {}", number(self.found), self.unit)
    }

    fn at_most(&self) -> String {
        format!("{} {}", number(self.at_most), self.unit)
    }

    fn verdict(&self) -> String {
        if self.met() { "met" } else { "**missed**" }.to_owned()
    }
}

impl Report {
    /// A report of what is measured from now on.
    #[must_use]
    pub fn begin(bench: &str, command: &str, commit: String) -> Self {
        Self {
            schema: SCHEMA,
            bench: bench.to_owned(),
            date: crate::machine::date(),
            commit,
            command: command.to_owned(),
            machine: Machine::this(),
            load: [crate::machine::load(), String::new()],
            took_seconds: None,
            picture: None,
            sections: Vec::new(),
            began: Some(Instant::now()),
        }
    }

    /// Notes the load and how long it took: all is measured.
    pub fn end(&mut self) {
        self.load[1] = crate::machine::load();
        self.took_seconds = self.began.map(|began| began.elapsed().as_secs());
    }

    /// Writes `results/BENCH.svg` below `benches`, and has the section show it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn draw(&mut self, benches: &Path, chart: &Chart) -> anyhow::Result<()> {
        let results = benches.join("results");
        fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
        let path = results.join(format!("{}.svg", self.bench));
        self.picture = Some(chart.title.clone());
        write_file(&path, chart.svg().as_bytes())
    }

    /// Writes `results/BENCH.json` below `benches`, and the benchmark's section of `RESULTS.md`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, benches: &Path) -> anyhow::Result<()> {
        let results = benches.join("results");
        fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        write_file(
            &results.join(format!("{}.json", self.bench)),
            json.as_bytes(),
        )?;
        write_section(benches, &self.bench, &self.markdown())
    }

    /// What was written last.
    ///
    /// # Errors
    /// If there is none, or it is of another version.
    pub fn read(benches: &Path, bench: &str) -> anyhow::Result<Self> {
        let path = benches.join("results").join(format!("{bench}.json"));
        let json = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let report: Self = serde_json::from_slice(&json)
            .with_context(|| format!("understanding {}", path.display()))?;
        anyhow::ensure!(
            report.schema == SCHEMA,
            "{}: schema {}",
            path.display(),
            report.schema
        );
        Ok(report)
    }

    /// A line a goal.
    #[must_use]
    pub fn verdicts(&self) -> String {
        let mut out = String::new();
        for section in &self.sections {
            for goal in &section.goals {
                let verdict = if goal.met() { "met   " } else { "MISSED" };
                let (found, at_most) = (goal.found(), number(goal.at_most));
                let (title, what) = (&section.title, &goal.what);
                _ = writeln!(
                    out,
                    "{verdict} {title}: {what}: {found} (at most {at_most})"
                );
            }
        }
        out
    }
}

/// Three significant digits, and all of those before the point.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        magnitude if magnitude >= 100.0 || magnitude == 0.0 => 0,
        magnitude if magnitude >= 10.0 => 1,
        magnitude if magnitude >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Writes a file whose directory is there.
///
/// # Errors
/// Those of writing, with the path.
pub fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [1234.5, 55.55, 5.555, 0.012_34, 0.0].map(number);
        assert_eq!(shown, ["1234", "55.5", "5.55", "0.012", "0"]);
    }

    #[test]
    fn what_could_not_be_measured_is_so_still_when_it_is_read_again() -> anyhow::Result<()> {
        let goal = Goal {
            what: String::new(),
            at_most: 1.0,
            found: f64::NAN,
            unit: "ns".to_owned(),
        };
        let again: Goal = serde_json::from_str(&serde_json::to_string(&goal)?)?;
        assert_eq!(again.found(), "not measured");
        assert!(!again.met());
        let none = serde_json::to_string(&Quartiles::of(Vec::new()))?;
        assert!(serde_json::from_str::<Quartiles>(&none)?.p50.is_nan());
        Ok(())
    }

    #[test]
    fn what_could_not_be_measured_reaches_no_goal() {
        let goal = |found| Goal {
            what: String::new(),
            at_most: 3.0,
            found,
            unit: String::new(),
        };
        assert!(goal(3.0).met());
        assert!(!goal(3.1).met());
        assert!(!goal(f64::NAN).met());
    }
}
