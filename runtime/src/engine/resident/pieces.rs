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
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use elfuse_format::keys::Time;
    use elfuse_format::snapshot::{
        Content, File, FixUp, Head, NO_FILE, PAGE, Region, Run, SLIDE_LEN, Snapshot, Value,
        region_flags, tables_len,
    };
    use elfuse_format::span::Span;

    use super::{Piece, clean, pieces};

    const START: u64 = 0x7e00_0000_0000;
    const READ: u16 = 1;
    const WRITE: u16 = 3;

    /// A region of so many pages from page `at` on.
    fn region(at: u64, pages: u64, protection: u16) -> Region {
        Region {
            start: START + at * PAGE,
            len: pages * PAGE,
            offset: 0,
            file: NO_FILE,
            protection,
            flags: region_flags::MOVES,
        }
    }

    fn run(region: u32, first: u32, pages: u32) -> Run {
        Run {
            region,
            first,
            pages,
        }
    }

    /// Constants of which the last were relocated, data behind them, two pages in the middle of a BSS, data further up, and such of which
    /// only the first page differs. Word 1 of page `moving` moves.
    fn snapshot(moving: &[usize], filled: &[u32]) -> Vec<u8> {
        let mut slides = vec![[0; SLIDE_LEN]; 8];
        for page in moving {
            slides[*page][0] = 2;
        }
        let fix_up = |page: &u32| FixUp {
            addend: 0,
            page: *page,
            at: 0,
            value: Value::Guard as u16,
        };
        let time = Time { secs: 1, nanos: 2 };
        let content = Content {
            head: Head {
                boot_id: [0; 16],
                vdso_checksum: 0,
                vdso_len: 0,
                stack_limits: [0; 2],
                resume: 0,
                entry: 0,
                phdr: 0,
                phnum: 0,
                base: 0,
                thread_pointer: 0,
                clear_tid: 0,
                robust_list: [0; 2],
                rseq: [0; 3],
                heap: 0,
                extent: [0; 4],
                exe: Span::ABSENT,
                flags: 0,
            },
            exe: b"/bin/p",
            files: vec![File {
                dev: 1,
                ino: 1,
                size: 1,
                mtime: time,
                ctime: time,
            }],
            lookups: Vec::new(),
            regions: vec![
                region(0, 3, READ),
                region(3, 1, WRITE),
                region(4, 4, WRITE),
                region(9, 2, WRITE),
                region(12, 2, WRITE),
            ],
            runs: vec![
                run(0, 1, 2),
                run(1, 0, 1),
                run(2, 1, 2),
                run(3, 0, 2),
                run(4, 0, 1),
            ],
            slides,
            fix_ups: filled.iter().map(fix_up).collect(),
            auxiliary: Vec::new(),
            pages: vec![0; 8 * PAGE as usize],
        };
        content.to_bytes().expect("a snapshot")
    }

    fn pieces_of(bytes: &[u8], delta: u64) -> Vec<Piece> {
        let len = bytes.len() as u64;
        let tables = tables_len(bytes, len).unwrap() as usize;
        let snapshot = Snapshot::parse(&bytes[..tables], len).unwrap();
        let cleans: Vec<_> = (0..6).map(|number| clean(&snapshot, number)).collect();
        assert_eq!(cleans, [0..1, 1..1, 0..4, 2..2, 1..2, 0..0]);
        pieces(&snapshot, delta).collect()
    }

    fn piece(runs: [usize; 2], pages: [usize; 2], is_free: bool, is_filled: bool) -> Piece {
        Piece {
            runs: runs[0]..runs[1],
            first: pages[0],
            pages: pages[1] - pages[0],
            is_free,
            is_filled,
        }
    }

    #[test]
    fn what_adjoins_and_is_filled_in_is_one_piece_whatever_its_protection_will_be() {
        let bytes = snapshot(&[0, 2, 3], &[]);
        let expected = [
            piece([0, 2], [0, 3], true, true),
            // Of its region there is more on both sides.
            piece([2, 3], [3, 5], false, true),
            piece([3, 4], [5, 7], true, false),
            piece([4, 5], [7, 8], true, false),
        ];
        assert_eq!(pieces_of(&bytes, PAGE), expected);
    }

    #[test]
    fn what_is_left_as_it_is_has_its_protection_from_the_start_and_so_is_a_piece_of_its_own() {
        let bytes = snapshot(&[0, 2, 3], &[]);
        let expected = [
            piece([0, 1], [0, 2], true, false),
            piece([1, 2], [2, 3], true, false),
            piece([2, 3], [3, 5], false, false),
            piece([3, 4], [5, 7], true, false),
            piece([4, 5], [7, 8], true, false),
        ];
        assert_eq!(pieces_of(&bytes, 0), expected);
    }

    #[test]
    fn a_word_of_each_process_s_own_is_filled_in_where_nothing_moves_too() {
        let bytes = snapshot(&[], &[1, 2]);
        let expected = [
            piece([0, 2], [0, 3], true, true),
            piece([2, 3], [3, 5], false, false),
            piece([3, 4], [5, 7], true, false),
            piece([4, 5], [7, 8], true, false),
        ];
        assert_eq!(pieces_of(&bytes, 0), expected);
        assert_eq!(pieces_of(&bytes, PAGE), expected);
    }
}
