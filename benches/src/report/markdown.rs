//! Reports as sections of `RESULTS.md`.

use std::fmt::Write as _;

use super::{Report, Section, number};

/// More rows than this are folded away below the other tables.
const LONG: usize = 12;

impl Report {
    /// The section of `RESULTS.md`.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n", self.bench);
        let machine = &self.machine;
        let bench = &self.bench;
        _ = writeln!(
            out,
            "{}, commit {}, by `{}`{}.",
            self.date,
            self.commit,
            self.command,
            self.took_seconds
                .map_or_else(String::new, |seconds| format!(", which took {seconds} s")),
        );
        _ = writeln!(
            out,
            "{}, {} x {}{}, {} MB of memory{}. Load averages before: {}, after: {}.\n",
            machine.kernel,
            machine.cpus,
            machine.cpu,
            if machine.is_virtual {
                " in a virtual machine"
            } else {
                ""
            },
            number(machine.memory_bytes as f64 / 1e6),
            if machine.reclaims_idle_memory {
                ", idle page cache reclaimed by the kernel (DAMON)"
            } else {
                ""
            },
            self.load[0],
            self.load[1],
        );
        if let Some(picture) = &self.picture {
            _ = writeln!(out, "![{picture}](results/{bench}.svg)\n");
        }
        for section in &self.sections {
            section.markdown(&mut out);
        }
        out
    }
}

impl Section {
    fn markdown(&self, out: &mut String) {
        _ = writeln!(out, "### {}\n", self.title);
        for paragraph in &self.about {
            _ = writeln!(out, "{paragraph}\n");
        }
        let goals = self.goals.iter().map(|goal| {
            vec![
                goal.what.clone(),
                goal.at_most(),
                goal.found(),
                goal.verdict(),
            ]
        });
        if !self.goals.is_empty() {
            table(out, &["goal", "at most", "found", ""], goals);
        }
        // So many that the tables made of them come first.
        let is_long = self.rows.len() > LONG;
        if !is_long {
            self.times(out);
        }
        for extra in &self.tables {
            _ = writeln!(out, "{}\n", extra.title);
            let columns: Vec<&str> = extra.columns.iter().map(String::as_str).collect();
            table(out, &columns, extra.rows.iter().cloned());
        }
        if is_long {
            out.push_str("<details><summary>All times</summary>\n\n");
            self.times(out);
            out.push_str("</details>\n\n");
        }
    }

    /// The rows, and their commands; nothing where there are only counts.
    fn times(&self, out: &mut String) {
        if self.rows.is_empty() {
            return;
        }
        let ratio = format!("x {}", self.peer);
        let columns = [
            "", "n", "p25 ms", "p50 ms", "p75 ms", &ratio, "p25..p75", "cpu ms", "peak MB",
        ];
        let rows = self.rows.iter().map(|row| {
            let milliseconds = |seconds: f64| number(seconds * 1e3);
            vec![
                row.name.clone(),
                row.n.to_string(),
                milliseconds(row.seconds.p25),
                milliseconds(row.seconds.p50),
                milliseconds(row.seconds.p75),
                format!("{:.2}", row.ratio.p50),
                format!("{:.2}..{:.2}", row.ratio.p25, row.ratio.p75),
                milliseconds(row.cpu_seconds.p50),
                number(row.peak_bytes as f64 / 1e6),
            ]
        });
        table(out, &columns, rows);
        let typed = self.rows.iter().filter(|row| !row.command.is_empty());
        let commands: Vec<_> = typed
            .map(|row| vec![row.name.clone(), format!("`{}`", row.command)])
            .collect();
        if !commands.is_empty() {
            table(out, &["", "command"], commands.into_iter());
        }
    }
}

/// All goals of some benchmarks in one table, with when each was measured.
#[must_use]
pub fn goals(reports: &[Report]) -> String {
    let mut out =
        String::from("## goals\n\nThose of all benchmarks below, as each found them last.\n\n");
    let rows = reports.iter().flat_map(|report| {
        report.sections.iter().flat_map(move |section| {
            section.goals.iter().map(move |goal| {
                vec![
                    format!("{}, {}: {}", report.bench, section.title, goal.what),
                    goal.at_most(),
                    goal.found(),
                    goal.verdict(),
                    report.date.clone(),
                ]
            })
        })
    });
    table(
        &mut out,
        &["goal", "at most", "found", "", "measured"],
        rows,
    );
    out
}

fn table(out: &mut String, columns: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let line = |cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.fold(String::from("|"), |line, cell| {
            line + " " + &cell.replace('|', "\\|") + " |"
        })
    };
    _ = writeln!(out, "{}", line(&mut columns.iter().copied()));
    let rule = columns.iter().enumerate();
    let rule = rule.map(|(i, head)| match (i, *head) {
        (0, _) | (_, "command" | "of which") => "---",
        _ => "---:",
    });
    _ = writeln!(out, "{}", line(&mut rule.into_iter()));
    for row in rows {
        _ = writeln!(out, "{}", line(&mut row.iter().map(String::as_str)));
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_bar_in_a_cell_ends_no_column() {
        let mut out = String::new();
        table(&mut out, &["a"], [vec!["ls | wc".to_owned()]].into_iter());
        assert!(out.contains("| ls \\| wc |"), "{out}");
    }
}
