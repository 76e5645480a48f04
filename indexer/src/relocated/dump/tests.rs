use super::*;

/// Pages that a made-up dump maps to be written to.
const HOT: u64 = 40;

/// A dump with tables that have these rows, each a type and the offset of a word.
fn dump(tables: [&[(u32, u64)]; TABLES]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.resize(NUMBERS, 0xfe);
    bytes.resize((HOT * PAGE) as usize + 100, 0);
    for (at, rows) in tables.into_iter().enumerate() {
        let table = [bytes.len() as u32, rows.len() as u32];
        for (kind, offset) in rows {
            bytes.extend((kind << 27 | (offset / UNIT) as u32).to_le_bytes());
        }
        bytes.extend([0; 8]);
        put(&mut bytes, 2 * at, table[0]);
        put(&mut bytes, 2 * at + 1, table[1]);
    }
    put(&mut bytes, DISCARDABLE, (30 * PAGE) as u32 + 8);
    put(&mut bytes, COLD, (HOT * PAGE) as u32);
    bytes
}

fn put(bytes: &mut [u8], number: usize, value: u32) {
    bytes[NUMBERS + 4 * number..][..4].copy_from_slice(&value.to_le_bytes());
}

/// Rows of one type for a word in each of these pages.
fn rows(kind: u32, pages: impl IntoIterator<Item = u64>) -> Vec<(u32, u64)> {
    let row = |page| (kind, page * PAGE + 4092 - 8 * u64::from(kind));
    pages.into_iter().map(row).collect()
}

/// First page and number of pages of the run.
fn run_of(dump: &[u8]) -> Option<(u32, u32)> {
    of_bytes(dump).map(|run| (run.first, run.pages))
}

/// One whose run is pages 2 to 13.
fn good() -> Vec<u8> {
    dump([&rows(1, 2..10), &rows(2, [10]), &rows(31, 11..14)])
}

#[test]
fn pages_that_any_table_has_words_of_count_whatever_is_written_there() {
    assert_eq!(run_of(&good()), Some((2, 12)));
    // Of what is copied out of the dump too.
    assert_eq!(run_of(&dump([&rows(0, 30..40), &[], &[]])), Some((30, 10)));
    assert_eq!(
        run_of(&dump([&rows(9, 4..7), &[], &[]])),
        None,
        "three pages"
    );
    assert_eq!(run_of(&dump([&[], &[], &[]])), None);
}

#[test]
fn words_beyond_what_is_written_to_do_not_count() {
    let beyond = rows(5, (0..12).chain(HOT..HOT + 50));
    assert_eq!(run_of(&dump([&beyond, &[], &[]])), Some((0, 12)));
    assert_eq!(run_of(&dump([&rows(5, HOT..HOT + 50), &[], &[]])), None);
}

#[test]
fn a_header_that_does_not_add_up_gives_no_run() {
    let changes: [fn(&mut Vec<u8>); 10] = [
        |bytes| bytes[0] = b'!',
        |bytes| bytes[15] = 1,
        |bytes| bytes.truncate(NUMBERS + 4 * COLD),
        // A table over the end of the file, one over what is mapped, and two over each other.
        |bytes| bytes.truncate((HOT * PAGE) as usize + 110),
        |bytes| put(bytes, 0, (HOT * PAGE) as u32 - 4),
        |bytes| put(bytes, 1, 40),
        |bytes| put(bytes, 1, u32::MAX),
        |bytes| put(bytes, DISCARDABLE, (HOT * PAGE) as u32 + 1),
        |bytes| put(bytes, COLD, (HOT * PAGE) as u32 - 8),
        |bytes| put(bytes, COLD, !0xfff),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut bytes = good();
        change(&mut bytes);
        assert_eq!(run_of(&bytes), None, "{number}");
    }
}
