//! The histogram of a guest's system calls.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use super::calls::{CallName, Called};
use super::table::{Column, Micros, Table};
use super::{NUMBERS, row};

/// How a system call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did not fail.
    Done,
    /// It failed, and names no path.
    Failed,
    /// It names a path, and failed: counted apart as well.
    PathFailed,
}

const OFF: u8 = 0;
const COUNTING: u8 = 1;
const FROZEN: u8 = 2;

/// Count and times by system call number.
///
/// Off until [`Histogram::start`], frozen for good by [`Histogram::freeze`]. A fork child must not count, which is for the
/// engine to see to: its copy of this is the parent's until then.
#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    state: AtomicU8,
    rows: [Row; NUMBERS],
}

#[derive(Debug)]
#[repr(C)]
struct Row {
    failing: AtomicU64,
    all: Cell,
    path_failed: Cell,
}

#[derive(Debug)]
#[repr(C)]
struct Cell {
    count: AtomicU64,
    total_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Cell {
    const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            total_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }

    fn record(&self, took_ns: u64) {
        self.count.fetch_add(1, Relaxed);
        self.total_ns.fetch_add(took_ns, Relaxed);
        self.max_ns.fetch_max(took_ns, Relaxed);
    }

    fn read(&self) -> Times {
        Times {
            total_ns: self.total_ns.load(Relaxed),
            count: self.count.load(Relaxed),
            max_ns: self.max_ns.load(Relaxed),
        }
    }
}

/// What a cell held at one moment. Ordered by the total first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Times {
    total_ns: u64,
    count: u64,
    max_ns: u64,
}

impl Times {
    fn mean_ns(self) -> u64 {
        self.total_ns.checked_div(self.count).unwrap_or_default()
    }

    fn json(self, out: &mut dyn fmt::Write) -> fmt::Result {
        let Times {
            total_ns,
            count,
            max_ns,
        } = self;
        let mean_ns = self.mean_ns();
        write!(
            out,
            ",\"count\":{count},\"total_ns\":{total_ns},\"mean_ns\":{mean_ns},\"max_ns\":{max_ns}"
        )
    }
}

impl Histogram {
    /// An empty one, off.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(OFF),
            rows: [const {
                Row {
                    failing: AtomicU64::new(0),
                    all: Cell::new(),
                    path_failed: Cell::new(),
                }
            }; NUMBERS],
        }
    }

    /// Begins to count, unless it is frozen.
    pub fn start(&self) {
        // Frozen or counting already: as it should be.
        let _ = self.state.compare_exchange(OFF, COUNTING, Relaxed, Relaxed);
    }

    /// Whether it counts: worth a look at the clock before a call.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.state.load(Relaxed) == COUNTING
    }

    /// Ends counting for good, and says whether it was this call that did: whoever is told so prints.
    pub fn freeze(&self) -> bool {
        self.state.swap(FROZEN, Relaxed) == COUNTING
    }

    /// Counts a call; nothing unless [`Histogram::enabled`].
    pub fn record(&self, number: usize, took_ns: u64, outcome: Outcome) {
        if !self.enabled() {
            return;
        }
        let row = &self.rows[row(number)];
        row.all.record(took_ns);
        if outcome != Outcome::Done {
            row.failing.fetch_add(1, Relaxed);
        }
        if outcome == Outcome::PathFailed {
            row.path_failed.record(took_ns);
        }
    }

    /// Prints two tables for people: all calls, and the path calls that failed, each with the greatest total first.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn text(&self, out: &mut dyn fmt::Write, name: CallName) -> fmt::Result {
        let mut table = Table::new([
            Column::left("call"),
            Column::right("count"),
            Column::right("failing"),
            Column::right("total us"),
            Column::right("mean us"),
            Column::right("max us"),
        ]);
        table.print(out, |row| {
            let mut sum = (0, 0, Times::default());
            for (number, times) in self.all() {
                let failing = self.rows[number].failing.load(Relaxed);
                sum = (sum.0 + times.count, sum.1 + failing, sum.2.joined(times));
                row(&[
                    &Called { number, name },
                    &times.count,
                    &failing,
                    &Micros(times.total_ns),
                    &Micros(times.mean_ns()),
                    &Micros(times.max_ns),
                ])?;
            }
            row(&[
                &"all",
                &sum.0,
                &sum.1,
                &Micros(sum.2.total_ns),
                &Micros(sum.2.mean_ns()),
                &Micros(sum.2.max_ns),
            ])
        })?;
        if self.path_failed().next().is_none() {
            return Ok(());
        }
        out.write_char('\n')?;
        let mut table = Table::new([
            Column::left("failing path call"),
            Column::right("count"),
            Column::right("total us"),
            Column::right("mean us"),
            Column::right("max us"),
        ]);
        table.print(out, |row| {
            let mut sum = Times::default();
            for (number, times) in self.path_failed() {
                sum = sum.joined(times);
                row(&[
                    &Called { number, name },
                    &times.count,
                    &Micros(times.total_ns),
                    &Micros(times.mean_ns()),
                    &Micros(times.max_ns),
                ])?;
            }
            row(&[
                &"all",
                &sum.count,
                &Micros(sum.total_ns),
                &Micros(sum.mean_ns()),
                &Micros(sum.max_ns),
            ])
        })
    }

    /// Prints a JSON object with `by_call` and `failing_path_calls`, both with the greatest total first.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn json(&self, out: &mut dyn fmt::Write, name: CallName) -> fmt::Result {
        out.write_str("{\"by_call\":[")?;
        for (at, (number, times)) in self.all().enumerate() {
            out.write_str(if at == 0 { "" } else { "," })?;
            Called { number, name }.json(out)?;
            times.json(out)?;
            let failing = self.rows[number].failing.load(Relaxed);
            write!(out, ",\"failing\":{failing}}}")?;
        }
        out.write_str("],\"failing_path_calls\":[")?;
        for (at, (number, times)) in self.path_failed().enumerate() {
            out.write_str(if at == 0 { "" } else { "," })?;
            Called { number, name }.json(out)?;
            times.json(out)?;
            out.write_str("}")?;
        }
        out.write_str("]}")
    }

    fn all(&self) -> impl Iterator<Item = (usize, Times)> {
        descending(|number| self.rows[number].all.read()).filter(|(_, times)| times.count != 0)
    }

    fn path_failed(&self) -> impl Iterator<Item = (usize, Times)> {
        descending(|number| self.rows[number].path_failed.read())
            .filter(|(_, times)| times.count != 0)
    }
}

impl Times {
    fn joined(self, other: Times) -> Times {
        Times {
            total_ns: self.total_ns + other.total_ns,
            count: self.count + other.count,
            max_ns: self.max_ns.max(other.max_ns),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// All numbers whose value is not the smallest there can be, the greatest value first, equal ones by number. It looks for
/// the next one each time, since there is nowhere to sort; a value that moves meanwhile may be missed or come twice.
pub(super) fn descending<T: Copy + Ord + Default>(
    value: impl Fn(usize) -> T,
) -> impl Iterator<Item = (usize, T)> {
    use core::cmp::Reverse;
    let mut before = None;
    core::iter::from_fn(move || {
        let rows = (0..NUMBERS).map(|number| (value(number), Reverse(number)));
        let rest = rows.filter(|row| before.is_none_or(|before| *row < before));
        let next = rest.max().filter(|(value, _)| *value != T::default())?;
        before = Some(next);
        Some((next.1.0, next.0))
    })
}
