//! Counting the system calls that the runtime makes.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::table::{Column, Table};
use super::{NUMBERS, row};
use crate::text::Json;

const ENOENT: u16 = 2;
const ENOTDIR: u16 = 20;
const EINVAL: u16 = 22;
const ELOOP: u16 = 40;
const READLINK: usize = 89;
const READLINKAT: usize = 267;

/// The name of a system call by its number; `crate::sys::names::name` on x86-64.
pub type CallName = fn(usize) -> Option<&'static str>;

/// Shows a name, or the number where there is none.
pub(super) struct Called {
    pub(super) number: usize,
    pub(super) name: CallName,
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name)(self.number) {
            Some(name) => f.write_str(name),
            None if self.number == NUMBERS - 1 => f.write_str("other"),
            None => write!(f, "#{}", self.number),
        }
    }
}

impl Called {
    pub(super) fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        match (self.name)(self.number) {
            Some(name) => write!(out, "{{\"call\":{},\"number\":{}", Json(name), self.number),
            None => write!(out, "{{\"call\":null,\"number\":{}", self.number),
        }
    }
}

/// Whether a call that failed with `errno` (x86-64's numbers) is a lookup that an index could have answered: there is no such
/// name, or `readlink` of something that is no symlink.
#[must_use]
pub const fn is_failing_lookup(number: usize, errno: u16) -> bool {
    match errno {
        ENOENT | ENOTDIR | ELOOP => true,
        EINVAL => matches!(number, READLINK | READLINKAT),
        _ => false,
    }
}

/// The system calls that the runtime made itself, by number.
#[derive(Debug)]
#[repr(C)]
pub struct HostCalls {
    rows: [Row; NUMBERS],
}

#[derive(Debug)]
#[repr(C)]
struct Row {
    count: AtomicU64,
    failing_lookups: AtomicU64,
}

impl HostCalls {
    /// None were made yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            rows: [const {
                Row {
                    count: AtomicU64::new(0),
                    failing_lookups: AtomicU64::new(0),
                }
            }; NUMBERS],
        }
    }

    /// Counts a call that did not fail, or failed with `errno`.
    pub fn record(&self, number: usize, errno: Option<u16>) {
        let row = &self.rows[row(number)];
        row.count.fetch_add(1, Relaxed);
        if errno.is_some_and(|errno| is_failing_lookup(number, errno)) {
            row.failing_lookups.fetch_add(1, Relaxed);
        }
    }

    /// How many calls were made, and how many of them were lookups that failed.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.rows().fold((0, 0), |(count, failing), (_, row)| {
            (count + row.0, failing + row.1)
        })
    }

    /// Number, count and failing lookups of each that was made.
    fn rows(&self) -> impl Iterator<Item = (usize, (u64, u64))> {
        let rows = self.rows.iter().map(|row| {
            let count = row.count.load(Relaxed);
            (count, row.failing_lookups.load(Relaxed))
        });
        rows.enumerate().filter(|(_, (count, _))| *count != 0)
    }

    /// Numbers in the order in which they are printed: the most frequent first.
    fn by_count(&self) -> impl Iterator<Item = (usize, (u64, u64))> {
        super::histogram::descending(move |number| {
            let row = &self.rows[number];
            (row.count.load(Relaxed), row.failing_lookups.load(Relaxed))
        })
    }

    pub(super) fn text(&self, out: &mut dyn fmt::Write, name: CallName) -> fmt::Result {
        let mut table = Table::new([
            Column::left("host call"),
            Column::right("made"),
            Column::right("failing lookups"),
        ]);
        table.print(out, |row| {
            for (number, (count, failing)) in self.by_count() {
                row(&[&Called { number, name }, &count, &failing])?;
            }
            Ok(())
        })
    }

    pub(super) fn json(&self, out: &mut dyn fmt::Write, name: CallName) -> fmt::Result {
        let (total, failing) = self.totals();
        write!(
            out,
            "{{\"total\":{total},\"failing_lookups\":{failing},\"by_call\":["
        )?;
        for (at, (number, (count, failing))) in self.by_count().enumerate() {
            out.write_str(if at == 0 { "" } else { "," })?;
            Called { number, name }.json(out)?;
            write!(out, ",\"count\":{count},\"failing_lookups\":{failing}}}")?;
        }
        out.write_str("]}")
    }
}

impl Default for HostCalls {
    fn default() -> Self {
        Self::new()
    }
}
