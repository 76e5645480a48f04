//! The picture of all rows.

use crate::chart::{Bar, Chart, Group, Role};
use crate::report::{Report, number};

use super::{FIND, FIND_COLD};

pub(super) fn chart_of(report: &Report) -> Chart {
    let groups = report.sections.iter().map(|section| {
        let bars = section.rows.iter().map(|row| Bar {
            label: row.name.clone(),
            text: format!(
                "{} ms, {:.2}x",
                number(row.seconds.p50 * 1e3),
                row.ratio.p50
            ),
            value: row.ratio.p50,
            spread: (row.ratio.p25, row.ratio.p75),
            limit: row.at_most,
            role: match &*row.name {
                FIND | FIND_COLD => Role::Peer,
                _ if row.command.starts_with("elfuse-index") => Role::Ours,
                _ => Role::Context,
            },
        });
        Group {
            title: section.title.clone(),
            bars: bars.collect(),
        }
    });
    Chart {
        title: "Indexing a tree, as a multiple of find's time".to_owned(),
        unit: "bar: median of the rounds' ratios; whisker: p25 to p75; tick: at most".to_owned(),
        groups: groups.collect(),
        axis: None,
    }
}
