//! How long each step of a start took.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::table::{Column, Micros, Table};
use crate::text::Json;

/// The most steps a start may have.
pub const MAX_STEPS: usize = 24;

/// When each step of a start was done. Times are of CLOCK_MONOTONIC, in nanoseconds.
#[derive(Debug)]
pub struct Steps {
    names: &'static [&'static str],
    start_ns: AtomicU64,
    /// 0: not done.
    done_ns: [AtomicU64; MAX_STEPS],
}

/// A step that was done.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    /// Since the start.
    at_ns: u64,
    /// Since the step done before it.
    took_ns: u64,
}

impl Steps {
    /// Steps with these names, numbered from 0.
    ///
    /// # Panics
    /// If there are more than [`MAX_STEPS`]; when compiling, if it is made in a constant.
    #[must_use]
    pub const fn new(names: &'static [&'static str]) -> Self {
        assert!(names.len() <= MAX_STEPS, "MAX_STEPS is too small");
        Self {
            names,
            start_ns: AtomicU64::new(0),
            done_ns: [const { AtomicU64::new(0) }; MAX_STEPS],
        }
    }

    /// Sets what times are counted from.
    pub fn start(&self, now_ns: u64) {
        self.start_ns.store(now_ns, Relaxed);
    }

    /// Step `number` is done. The first time counts; a number without a name does not.
    pub fn done(&self, number: usize, now_ns: u64) {
        if let Some(done) = self.done_ns.get(number) {
            // Whoever was first has set it, whatever comes of this exchange.
            let _ = done.compare_exchange(0, now_ns.max(1), Relaxed, Relaxed);
        }
    }

    /// Steps that were done, in the order of their times.
    fn rows(&self) -> impl Iterator<Item = Row> {
        let start_ns = self.start_ns.load(Relaxed);
        let mut before = (start_ns, None);
        core::iter::from_fn(move || {
            let done = self.names.iter().enumerate().filter_map(|(number, name)| {
                let done_ns = self.done_ns.get(number)?.load(Relaxed);
                (done_ns != 0).then_some((done_ns, Some(number), *name))
            });
            let next = done
                .filter(|&(done_ns, number, _)| (done_ns, number) > before)
                .min_by_key(|&(done_ns, number, _)| (done_ns, number));
            let (done_ns, number, name) = next?;
            let row = Row {
                name,
                at_ns: done_ns.saturating_sub(start_ns),
                took_ns: done_ns.saturating_sub(before.0),
            };
            before = (done_ns, number);
            Some(row)
        })
    }

    /// Prints a table for people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut table = Table::new([
            Column::left("step"),
            Column::right("took us"),
            Column::right("at us"),
        ]);
        table.print(out, |row| {
            for step in self.rows() {
                row(&[&step.name, &Micros(step.took_ns), &Micros(step.at_ns)])?;
            }
            Ok(())
        })
    }

    /// Prints a JSON array of `{"step","took_ns","at_ns"}`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_char('[')?;
        for (number, step) in self.rows().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let name = Json(step.name);
            let (took, at) = (step.took_ns, step.at_ns);
            write!(
                out,
                "{comma}{{\"step\":{name},\"took_ns\":{took},\"at_ns\":{at}}}"
            )?;
        }
        out.write_char(']')
    }
}
