//! Each row is what was written, whatever the room, and a page that rots takes no other with it.

extern crate std;

use std::sync::atomic::{AtomicU32, Ordering};
use std::vec;
use std::vec::Vec;

use elfuse_format::header::{Header, Kind, PartKind, Writer, rows};
use elfuse_format::keys::{ArchivedDeviceRow, DeviceRow};
use elfuse_format::pages::{PAGE_LEN, SUM_LEN};

use super::{Arena, Fault, IndexError, IndexFile, Mirror, Miss, Slots, Source, Verdict, Verdicts};

const ROWS: u64 = 4000;

struct Bytes {
    file: Vec<u8>,
    copies: AtomicU32,
}

impl Source for Bytes {
    fn copy(&self, _: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.copies.fetch_add(1, Ordering::Relaxed);
        let from = self.file.get(offset as usize..).ok_or(Fault)?;
        into.copy_from_slice(from.get(..into.len()).ok_or(Fault)?);
        Ok(())
    }
}

/// A file of one table, whose rows say which they are.
fn source() -> Bytes {
    let row = |dev| DeviceRow {
        dev,
        fs_type: dev * 3,
        fs_id: !dev,
    };
    let mut file = Writer::new();
    let table: Vec<_> = (0..ROWS).map(row).collect();
    file.part(PartKind::Devices, rows::encode(&table));
    Bytes {
        file: file.finish(Kind::Keys, 0, 0).unwrap(),
        copies: AtomicU32::new(0),
    }
}

fn with<T>(
    source: &Bytes,
    room: usize,
    test: impl FnOnce(Result<&Mirror<'_>, IndexError>, &Verdicts) -> T,
) -> T {
    let mut memory = vec![0; room];
    let arena = Arena::cleared(&mut memory);
    let slots = Slots::new(&arena).expect("an arena is full when it is");
    let verdicts = Verdicts::new();
    let file = (IndexFile::Keys, Kind::Keys);
    let fail = IndexError::Keys;
    let mirror = Mirror::open(source, (&arena, &slots), file, Some(&verdicts), fail);
    test(mirror.as_ref().map_err(|error| *error), &verdicts)
}

fn row(mirror: &Mirror<'_>, number: u32) -> Result<u64, Miss> {
    let parts = mirror.parts(IndexError::Keys).unwrap();
    let table = Mirror::table::<ArchivedDeviceRow>(&parts, PartKind::Devices).unwrap();
    let row = mirror.row(&table, number)?;
    let dev = row.dev.to_native();
    let rest = (row.fs_type.to_native(), row.fs_id.to_native());
    assert_eq!(rest, (dev * 3, !dev));
    Ok(dev)
}

#[test]
fn each_row_is_what_was_written_and_no_page_is_copied_twice() {
    let source = source();
    with(&source, 1 << 20, |mirror, verdicts| {
        let mirror = mirror.unwrap();
        for _ in 0..2 {
            for number in (0..ROWS as u32).rev() {
                assert_eq!(row(mirror, number), Ok(number.into()));
            }
        }
        let [_, bytes] = verdicts.all_copied();
        assert_eq!(bytes, source.file.len() as u64);
        assert_eq!(row(mirror, ROWS as u32), Err(Miss::Known(Verdict::Corrupt)));
    });
}

#[test]
fn of_a_file_longer_than_the_room_what_is_asked_for_first_is_there_and_stays() {
    let source = source();
    let len = source.file.len();
    let uncovered = Err(Miss::Known(Verdict::NotCovered));
    let mut most = 0;
    for room in (2 * PAGE_LEN..8 * len).step_by(5000) {
        with(&source, room, |mirror, _| {
            let Ok(mirror) = mirror else {
                assert!(room < 4 * PAGE_LEN, "{room}");
                return;
            };
            let ask = || (0..ROWS as u32).rev().map(|number| row(mirror, number));
            let found: Vec<_> = ask().collect();
            let count = found.iter().filter(|row| row.is_ok()).count();
            let refused = found.iter().filter(|row| **row == uncovered);
            assert_eq!(count + refused.count(), ROWS as usize, "{room}");
            let mut both = ask().zip(&found);
            assert!(both.all(|(again, first)| first.is_err() || again == *first));
            most = count;
        });
    }
    assert_eq!(most, ROWS as usize);
}

#[test]
fn bytes_of_pages_that_came_apart_are_put_together_once() {
    let source = source();
    with(&source, 1 << 20, |mirror, verdicts| {
        let mirror = mirror.unwrap();
        let bytes = |page: usize, count: usize| {
            let start = page * PAGE_LEN + 7;
            let len = (count - 1) * PAGE_LEN + 20;
            let found = mirror.bytes(start as u64, len).unwrap();
            assert_eq!(found, &source.file[start..start + len]);
            found.as_ptr()
        };
        // Not in the order in which they stand in the file.
        let alone = [14, 13, 12, 10, 11].map(|page| bytes(page, 1));
        let before = (source.copies.load(Ordering::Relaxed), verdicts.all_copied());
        let pairs = [bytes(11, 2), bytes(12, 2), bytes(13, 2)];
        for _ in 0..3 {
            assert_eq!([bytes(11, 2), bytes(12, 2), bytes(13, 2)], pairs);
            assert_eq!([14, 13, 12, 10, 11].map(|page| bytes(page, 1)), alone);
        }
        let many = bytes(10, 5);
        assert_eq!([bytes(10, 5), bytes(10, 2), bytes(10, 1)], [many; 3]);
        let after = (source.copies.load(Ordering::Relaxed), verdicts.all_copied());
        assert_eq!(before, after, "nothing is read for that");
    });
}

#[test]
fn a_page_that_rots_takes_its_own_rows_and_a_page_of_sums_those_below() {
    let whole = source();
    let tree = Header::parse(&whole.file).unwrap().tree().unwrap();
    let lost = |at: u64| {
        let mut source = source();
        source.file[at as usize] ^= 1;
        with(&source, 1 << 20, |mirror, _| {
            let mirror = mirror.unwrap();
            let rows = (0..ROWS as u32).map(|number| row(mirror, number));
            let lost = rows.filter(|row| *row == Err(Miss::Known(Verdict::Corrupt)));
            lost.count()
        })
    };
    let of_a_page = lost(10 * PAGE_LEN as u64);
    assert!(
        (PAGE_LEN / 24..=PAGE_LEN / 24 + 2).contains(&of_a_page),
        "{of_a_page}"
    );
    let of_sums = lost(tree.start() + PAGE_LEN as u64);
    let pages = PAGE_LEN / SUM_LEN;
    assert!((pages * PAGE_LEN / 24..=pages * PAGE_LEN / 24 + 2).contains(&of_sums));
}
