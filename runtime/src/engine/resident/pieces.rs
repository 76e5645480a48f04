//! Which pages of a snapshot are mapped at once, and which of a file. Pure.
//!
//! A dynamic linker writes to a library's data from where they begin, and to what it makes read-only afterwards, which lies in front of them and is
//! of one region with the constants. So of two regions that adjoin, what differs from the file adjoins too, in memory as in the snapshot:
//!
//! ```text
//!    regions     | code | constants, relocated | data ..          |
//!    file        | .... | ........ |                       | .... |
//!    snapshot                      | pages n ..      .. m  |
//! ```

use core::ops::Range;

use elfuse_format::snapshot::{ArchivedRegion, ArchivedRun, PAGE, Snapshot};

use super::map::{is_filled, protection};

/// Pages that one call maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Numbers of its runs.
    pub runs: Range<usize>,
    /// Number of its first page in the snapshot.
    pub first: usize,
    /// How many pages it has.
    pub pages: usize,
    /// Whether it lies where [`clean`] leaves room; else it goes over what was mapped for its region.
    pub is_free: bool,
    /// Whether words of it are filled in.
    pub is_filled: bool,
}

fn pages_of(region: &ArchivedRegion) -> u64 {
    region.len.to_native() / PAGE
}

/// Which pages of its region a run is.
fn span(run: &ArchivedRun) -> Range<u64> {
    let first = u64::from(run.first.to_native());
    first..first + u64::from(run.pages.to_native())
}

/// Whether a run begins or ends its region.
fn is_edge(region: &ArchivedRegion, run: &ArchivedRun) -> bool {
    let span = span(run);
    span.start == 0 || span.end == pages_of(region)
}

/// The pages of the region with this number that are to be mapped for it: without those that begin or end it and are the snapshot's.
#[must_use]
pub fn clean(snapshot: &Snapshot<'_>, number: usize) -> Range<u64> {
    let Some(region) = snapshot.regions.get(number) else {
        return 0..0;
    };
    let of = |run: &ArchivedRun| run.region.to_native() as usize;
    let start = snapshot.runs.partition_point(|run| of(run) < number);
    let end = snapshot.runs.partition_point(|run| of(run) <= number);
    let runs = snapshot.runs.get(start..end).unwrap_or_default();
    let mut clean = 0..pages_of(region);
    if let Some(first) = runs.first().map(span).filter(|span| span.start == 0) {
        clean.start = first.end;
    }
    if let Some(last) = runs.last().map(span).filter(|span| span.end == clean.end) {
        clean.end = last.start.max(clean.start);
    }
    clean
}

/// The pieces of a snapshot that is put `delta` from where it was captured, ascending.
#[must_use]
pub fn pieces<'s>(snapshot: &Snapshot<'s>, delta: u64) -> Pieces<'s> {
    Pieces {
        snapshot: *snapshot,
        delta,
        run: 0,
        page: 0,
    }
}

/// See [`pieces`].
#[derive(Debug, Clone)]
pub struct Pieces<'s> {
    snapshot: Snapshot<'s>,
    delta: u64,
    /// Number of the next run.
    run: usize,
    /// Number of its first page in the snapshot.
    page: usize,
}

/// What two runs have in common that are mapped at once.
#[derive(PartialEq, Eq)]
struct Kind {
    moves: bool,
    is_free: bool,
    is_filled: bool,
    /// What can be written to until it is filled in gets its protection after that.
    protection: Option<usize>,
}

/// A run: its kind, where it was captured, how many pages it has.
struct Part {
    kind: Kind,
    at: Range<u64>,
    pages: usize,
}

impl Pieces<'_> {
    fn part(&self, run: usize, page: usize) -> Option<Part> {
        let run = self.snapshot.runs.get(run)?;
        let region = self.snapshot.regions.get(run.region.to_native() as usize)?;
        let pages = run.pages.to_native() as usize;
        let is_filled = is_filled(&self.snapshot, (page, pages), self.delta);
        let start = region.start.to_native() + u64::from(run.first.to_native()) * PAGE;
        Some(Part {
            kind: Kind {
                moves: region.moves(),
                is_free: is_edge(region, run),
                is_filled,
                protection: (!is_filled).then(|| protection(region)),
            },
            at: start..start + pages as u64 * PAGE,
            pages,
        })
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let (run, page) = (self.run, self.page);
        let first = self.part(run, page)?;
        let mut end = first.at.end;
        (self.run, self.page) = (run + 1, page + first.pages);
        while let Some(next) = self.part(self.run, self.page)
            && next.at.start == end
            && next.kind == first.kind
        {
            end = next.at.end;
            self.run += 1;
            self.page += next.pages;
        }
        Some(Piece {
            runs: run..self.run,
            first: page,
            pages: self.page - page,
            is_free: first.kind.is_free,
            is_filled: first.kind.is_filled,
        })
    }
}

#[cfg(test)]
mod tests;
