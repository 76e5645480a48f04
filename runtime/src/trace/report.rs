//! `--stats`: everything that was counted, as text or as one JSON document.

use core::fmt;

use super::calls::{CallName, HostCalls};
use super::table::{Column, Table};
use super::{Histogram, Populated, Steps};
use crate::text::Json;

/// Value of the JSON document's member `schema`. It grows when a member changes its meaning or goes, not when one is added.
pub const SCHEMA: u32 = 1;

/// What is printed at the end of a run.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// What came of asking the index: name of the verdict, and how often.
    pub verdicts: &'a [(&'static str, u64)],
    /// How many pieces of the index were copied and checked, and their bytes.
    pub index_copied: [u64; 2],
    /// The pages that were populated.
    pub populated: &'a Populated,
    /// The system calls that the runtime made.
    pub host_calls: &'a HostCalls,
    /// How long the start took, if it was traced.
    pub steps: Option<&'a Steps>,
    /// The guest's system calls, if they were traced.
    pub histogram: Option<&'a Histogram>,
    /// Names of system calls.
    pub call_name: CallName,
}

impl Report<'_> {
    /// Prints tables for people: verdicts that were given, and host calls.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        if let Some(steps) = self.steps {
            steps.text(out)?;
            out.write_char('\n')?;
        }
        if let Some(histogram) = self.histogram {
            histogram.text(out, self.call_name)?;
            out.write_char('\n')?;
        }
        // Without an index there is nothing to answer by.
        if self.verdicts.iter().any(|(_, count)| *count != 0) {
            self.verdict_table(out)?;
            out.write_char('\n')?;
        }
        if let [pieces @ (1..), bytes] = self.index_copied {
            writeln!(
                out,
                "  {bytes} bytes of the index copied and checked, in {pieces} pieces\n"
            )?;
        }
        self.populated.text(out)?;
        self.host_calls.text(out, self.call_name)?;
        let (total, failing) = self.host_calls.totals();
        writeln!(
            out,
            "  {total} host calls, {failing} of them lookups that failed"
        )
    }

    fn verdict_table(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut table = Table::new([Column::left("index verdict"), Column::right("times")]);
        table.print(out, |row| {
            for (name, count) in self.verdicts.iter().filter(|(_, count)| *count != 0) {
                row(&[name, count])?;
            }
            Ok(())
        })
    }

    /// Prints one JSON document on one line.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write!(out, "{{\"schema\":{SCHEMA},\"verdicts\":{{")?;
        for (at, (name, count)) in self.verdicts.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(out, "{comma}{}:{count}", Json(name))?;
        }
        let [pieces, bytes] = self.index_copied;
        write!(
            out,
            "}},\"index_copied\":{{\"pieces\":{pieces},\"bytes\":{bytes}}},\"pages_populated\":"
        )?;
        self.populated.json(out)?;
        out.write_str(",\"host_calls\":")?;
        self.host_calls.json(out, self.call_name)?;
        if let Some(steps) = self.steps {
            out.write_str(",\"steps\":")?;
            steps.json(out)?;
        }
        if let Some(histogram) = self.histogram {
            out.write_str(",\"system_calls\":")?;
            histogram.json(out, self.call_name)?;
        }
        out.write_str("}\n")
    }
}
