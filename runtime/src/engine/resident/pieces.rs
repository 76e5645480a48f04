//! Which pages of a snapshot are mapped at once. Pure.
//!
//! A dynamic linker writes to a library's data where they begin and often to all of them, so that of two regions that adjoin, what differs
//! from the file adjoins too, in memory as in the snapshot:
//!
//! ```text
//!    memory    | code | constants | relocated, read-only | data     |
//!    snapshot                     | pages  n ..                .. m |
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
    /// Whether it takes up its regions, of which then nothing comes from a file.
    pub is_whole: bool,
    /// Whether words of it are filled in.
    pub is_filled: bool,
}

/// Whether a run is all of its region.
fn is_whole(region: &ArchivedRegion, run: &ArchivedRun) -> bool {
    run.first.to_native() == 0 && u64::from(run.pages.to_native()) * PAGE == region.len.to_native()
}

/// Whether nothing of the region with this number comes from its file.
#[must_use]
pub fn is_replaced(snapshot: &Snapshot<'_>, number: usize) -> bool {
    let before = |run: &ArchivedRun| (run.region.to_native() as usize) < number;
    let run = snapshot.runs.partition_point(before);
    let run = snapshot.runs.get(run);
    let run = run.filter(|run| run.region.to_native() as usize == number);
    run.zip(snapshot.regions.get(number))
        .is_some_and(|(run, region)| is_whole(region, run))
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
    is_whole: bool,
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
                is_whole: is_whole(region, run),
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
            is_whole: first.kind.is_whole,
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

    use super::{Piece, is_replaced, pieces};

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

    /// Constants that were relocated, data behind them, two pages in the middle of a BSS, and data further up. Word 1 of page `moving` moves.
    fn snapshot(moving: &[usize], filled: &[u32]) -> Vec<u8> {
        let mut slides = vec![[0; SLIDE_LEN]; 7];
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
                region(0, 2, READ),
                region(2, 1, WRITE),
                region(3, 4, WRITE),
                region(9, 2, WRITE),
            ],
            runs: vec![run(0, 0, 2), run(1, 0, 1), run(2, 1, 2), run(3, 0, 2)],
            slides,
            fix_ups: filled.iter().map(fix_up).collect(),
            auxiliary: Vec::new(),
            pages: vec![0; 7 * PAGE as usize],
        };
        content.to_bytes().expect("a snapshot")
    }

    fn pieces_of(bytes: &[u8], delta: u64) -> Vec<Piece> {
        let len = bytes.len() as u64;
        let tables = tables_len(bytes, len).unwrap() as usize;
        let snapshot = Snapshot::parse(&bytes[..tables], len).unwrap();
        let replaced: Vec<_> = (0..5)
            .map(|number| is_replaced(&snapshot, number))
            .collect();
        assert_eq!(replaced, [true, true, false, true, false]);
        pieces(&snapshot, delta).collect()
    }

    fn piece(runs: [usize; 2], pages: [usize; 2], is_whole: bool, is_filled: bool) -> Piece {
        Piece {
            runs: runs[0]..runs[1],
            first: pages[0],
            pages: pages[1] - pages[0],
            is_whole,
            is_filled,
        }
    }

    #[test]
    fn what_adjoins_and_is_filled_in_is_one_piece_whatever_its_protection_will_be() {
        let bytes = snapshot(&[0, 2, 3], &[]);
        let expected = [
            piece([0, 2], [0, 3], true, true),
            // Of its region there is more.
            piece([2, 3], [3, 5], false, true),
            piece([3, 4], [5, 7], true, false),
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
        ];
        assert_eq!(pieces_of(&bytes, 0), expected);
        assert_eq!(pieces_of(&bytes, PAGE), expected);
    }
}
