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

/// A snapshot of these regions and runs. Word 1 of each page in `moving` moves, word 0 of each in `filled` is filled in.
fn snapshot_of(regions: Vec<Region>, runs: Vec<Run>, moving: &[usize], filled: &[u32]) -> Vec<u8> {
    let pages: usize = runs.iter().map(|run| run.pages as usize).sum();
    let mut slides = vec![[0; SLIDE_LEN]; pages];
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
        regions,
        runs,
        slides,
        fix_ups: filled.iter().map(fix_up).collect(),
        auxiliary: Vec::new(),
        pages: vec![0; pages * PAGE as usize],
    };
    content.to_bytes().expect("a snapshot")
}

fn parsed(bytes: &[u8]) -> Snapshot<'_> {
    let len = bytes.len() as u64;
    let tables = tables_len(bytes, len).unwrap() as usize;
    Snapshot::parse(&bytes[..tables], len).unwrap()
}

/// Constants of which the last were relocated, data behind them, two pages in the middle of a BSS, data further up, and such of which
/// only the first page differs.
fn snapshot(moving: &[usize], filled: &[u32]) -> Vec<u8> {
    let regions = vec![
        region(0, 3, READ),
        region(3, 1, WRITE),
        region(4, 4, WRITE),
        region(9, 2, WRITE),
        region(12, 2, WRITE),
    ];
    let runs = vec![
        run(0, 1, 2),
        run(1, 0, 1),
        run(2, 1, 2),
        run(3, 0, 2),
        run(4, 0, 1),
    ];
    snapshot_of(regions, runs, moving, filled)
}

fn pieces_of(bytes: &[u8], delta: u64) -> Vec<Piece> {
    let snapshot = parsed(bytes);
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

/// What is mapped at a page: of the file, or a page of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Nothing,
    File,
    Snapshot(usize),
}

/// Maps as is done for a process; whether each mapping goes where it may.
fn mapped(snapshot: &Snapshot<'_>, delta: u64) -> Vec<At> {
    let mut memory = vec![At::Nothing; 16];
    let page_of = |address: u64| ((address - START) / PAGE) as usize;
    for (number, region) in snapshot.regions.iter().enumerate() {
        for page in clean(snapshot, number) {
            memory[page_of(region.start.to_native()) + page as usize] = At::File;
        }
    }
    let mut expected = 0;
    for piece in pieces(snapshot, delta) {
        assert_eq!(piece.first, expected, "{piece:?}");
        expected += piece.pages;
        let run = &snapshot.runs[piece.runs.start];
        let region = &snapshot.regions[run.region.to_native() as usize];
        let start = page_of(region.start.to_native()) + run.first.to_native() as usize;
        for number in 0..piece.pages {
            let place = &mut memory[start + number];
            let before = if piece.is_free { At::Nothing } else { At::File };
            assert_eq!(*place, before, "{piece:?}");
            *place = At::Snapshot(piece.first + number);
        }
    }
    assert_eq!(expected, snapshot.page_count());
    memory
}

#[test]
fn whatever_differs_every_page_is_mapped_where_it_was() {
    // Three regions that adjoin, of three pages each; every set of pages that differ, of which every other one moves.
    const PAGES: usize = 9;
    let regions = [READ, WRITE, WRITE];
    for differs in 0_u32..1 << PAGES {
        let is_dirty = |page: usize| differs & 1 << page != 0;
        let (mut runs, mut dirty) = (Vec::<Run>::new(), Vec::new());
        for page in (0..PAGES).filter(|page| is_dirty(*page)) {
            dirty.push(page);
            let adjoins = !page.is_multiple_of(3) && is_dirty(page - 1);
            match runs.last_mut().filter(|_| adjoins) {
                Some(run) => run.pages += 1,
                None => runs.push(run(page as u32 / 3, page as u32 % 3, 1)),
            }
        }
        let regions = (0..).zip(regions);
        let regions = regions.map(|(number, protection)| region(3 * number, 3, protection));
        let moving: Vec<_> = (0..dirty.len()).filter(|page| page % 2 == 1).collect();
        let bytes = snapshot_of(regions.collect(), runs, &moving, &[]);
        let expected: Vec<_> = (0..16)
            .map(|page| match dirty.iter().position(|dirty| *dirty == page) {
                Some(number) => At::Snapshot(number),
                None if page < PAGES => At::File,
                None => At::Nothing,
            })
            .collect();
        for delta in [0, PAGE] {
            assert_eq!(mapped(&parsed(&bytes), delta), expected, "{differs:b}");
        }
    }
}
