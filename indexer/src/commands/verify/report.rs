//! What was found, listed for people or as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Difference;
use crate::report::{Bytes, Output, Style, count};

#[derive(Debug, Serialize)]
pub(super) struct Found {
    pub(super) difference: Difference,
    pub(super) path: Bytes,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) detail: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) index: String,
    pub(super) directories: u64,
    pub(super) entries: u64,
    pub(super) elf_files: u64,
    pub(super) sealed_directories: u64,
    pub(super) unsealed_directories: BTreeMap<&'static str, u64>,
    pub(super) differences: Vec<Found>,
}

impl Report {
    pub(super) fn add(&mut self, difference: Difference, path: Vec<u8>, detail: impl ToString) {
        self.differences.push(Found {
            difference,
            path: Bytes(path),
            detail: detail.to_string(),
        });
    }
}

/// How many differences of one kind are listed for people; JSON has them all.
const LISTED: usize = 20;

pub(super) fn print(report: &Report, out: &mut Output) -> anyhow::Result<()> {
    if out.is_json() {
        return out.json("verify", report);
    }
    let mut lines = Vec::new();
    let mut kinds: BTreeMap<Difference, Vec<&Found>> = BTreeMap::new();
    for found in &report.differences {
        kinds.entry(found.difference).or_default().push(found);
    }
    for (kind, all) in &kinds {
        lines.push(out.paint(Style::Bad, format!("{}: {}", kind.what(), all.len())));
        for found in all.iter().take(LISTED) {
            let detail = if found.detail.is_empty() {
                String::new()
            } else {
                format!(": {}", found.detail)
            };
            lines.push(format!("  {}{detail}", found.path));
        }
        if all.len() > LISTED {
            lines.push(format!(
                "  … and {} more; --json lists all",
                all.len() - LISTED
            ));
        }
        lines.push(format!("  {}", out.paint(Style::Dim, kind.remedy())));
    }
    let checked = format!(
        "{}, {}, {}",
        count(report.directories, "directory", "directories"),
        count(report.entries, "name", "names"),
        count(report.elf_files, "ELF file", "ELF files"),
    );
    for (state, number) in &report.unsealed_directories {
        lines.push(out.paint(
            Style::Caution,
            format!(
                "{} unsealed: {state}",
                count(*number, "directory", "directories")
            ),
        ));
    }
    lines.push(if report.differences.is_empty() {
        format!("{checked}: {}", out.paint(Style::Good, "every claim holds"))
    } else {
        let differences = count(report.differences.len() as u64, "difference", "differences");
        format!("{checked}: {}", out.paint(Style::Bad, differences))
    });
    if !out.is_quiet() {
        for line in lines {
            writeln!(out.text(), "{line}")?;
        }
    }
    Ok(())
}
