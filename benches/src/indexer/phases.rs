//! What `build` tells of its own time.

use anyhow::Context;

use crate::measure::{Figures, Quartiles, Sample, Series};
use crate::report::{Table, number};

/// What `build` reports its time by, in the order of its work.
const PHASES: [&str; 9] = [
    "load",
    "scan",
    "write_sidecars",
    "assemble",
    "sync",
    "capture",
    "publish",
    "work",
    "racy_wait",
];
pub(super) const RACY_WAIT: &str = "seconds.racy_wait";

/// Where the time of the builds went, by their own account.
pub(super) fn phases(all: &[Series]) -> Table {
    let builds: Vec<&Series> = all
        .iter()
        .filter(|series| {
            !series
                .samples
                .iter()
                .all(|sample| sample.figures.is_empty())
        })
        .collect();
    let rows = PHASES.map(|phase| {
        let median = |series: &&Series| {
            let name = format!("seconds.{phase}");
            let of = |sample: &Sample| sample.figures.get(&name).copied().unwrap_or(f64::NAN);
            let Quartiles { p50, .. } = series.quartiles(of);
            number(p50 * 1e3)
        };
        std::iter::once(phase.to_owned())
            .chain(builds.iter().map(median))
            .collect()
    });
    let names = builds.iter().map(|series| series.name.to_owned());
    Table {
        title: "Where the time goes by the program's own account: medians in ms. During the racy wait the sync goes on; \
                `work` is all but that wait."
            .to_owned(),
        columns: std::iter::once(String::new()).chain(names).collect(),
        rows: rows.to_vec(),
    }
}

/// The numbers of the JSON document that `build` prints: those at the top, and `seconds.PHASE`.
pub(super) fn summary(output: &[u8]) -> anyhow::Result<Figures> {
    let document: serde_json::Value =
        serde_json::from_slice(output).context("understanding what elfuse-index printed")?;
    let mut figures = Figures::new();
    for (prefix, object) in [("", &document), ("seconds.", &document["seconds"])] {
        let members = object.as_object().into_iter().flatten();
        let numbers = members.filter_map(|(name, value)| Some((name, value.as_f64()?)));
        figures.extend(numbers.map(|(name, value)| (format!("{prefix}{name}"), value)));
    }
    Ok(figures)
}
