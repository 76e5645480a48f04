use proptest::prelude::*;

use super::*;

/// The run that is worth most, by trying all.
fn tried(written: &[bool]) -> Option<i64> {
    let worth = |run: &[bool]| -> i64 {
        let each = run.iter().map(|page| if *page { 1 } else { -UNWRITTEN });
        each.sum()
    };
    let starts = 0..written.len();
    let runs =
        starts.flat_map(|start| (start + MIN_PAGES..=written.len()).map(move |end| start..end));
    runs.map(|run| worth(&written[run]))
        .max()
        .filter(|worth| *worth > 0)
}

proptest! {
    #[test]
    fn the_run_is_worth_as_much_as_any_and_begins_and_ends_with_a_page_that_is_written(
        written in proptest::collection::vec(proptest::bool::weighted(0.85), 0..60)
    ) {
        let found = best_run(&written);
        if let Some((start, len, worth)) = found {
            let run = &written[start..start + len];
            prop_assert!(len >= MIN_PAGES && run[0] && run[len - 1]);
            let pages = run.iter().filter(|page| **page).count() as i64;
            prop_assert_eq!(worth, pages - UNWRITTEN * (len as i64 - pages));
            prop_assert_eq!(Some(worth), tried(&written));
        } else {
            // No four pages in a row are written to.
            prop_assert!(tried(&written).is_none_or(|worth| worth < MIN_PAGES as i64));
        }
    }
}

/// Where the writable segment is in the file, and its address.
const DATA: u64 = 3 * PAGE;
const DATA_VADDR: u64 = 0x2_0000 + DATA;

/// A file whose first segment has these tables, each with the tags of its address and length, and whose second one is `pages` long and
/// can be written to.
fn file(tables: &[(elf::DynamicTag, elf::DynamicTag, Vec<u64>)], pages: u64) -> Vec<u8> {
    const TABLES: u64 = 0x400;
    let mut rows = Vec::new();
    let mut body = Vec::new();
    for (at, len, words) in tables {
        let vaddr = TABLES + body.len() as u64;
        body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let bytes = 8 * words.len() as u64;
        rows.extend([
            (at.0.cast_unsigned(), vaddr),
            (len.0.cast_unsigned(), bytes),
        ]);
    }
    rows.push((0, 0));
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    for number in [0, 64, 0_u64] {
        file.extend(number.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    let dynamic = 64 + 3 * 56;
    let dynamic_len = 16 * rows.len() as u64;
    for (kind, flags, offset, vaddr, len) in [
        (1_u32, 4_u32, 0, 0, DATA),
        (1, 6, DATA, DATA_VADDR, pages * PAGE),
        (2, 6, dynamic, dynamic, dynamic_len),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for number in [offset, vaddr, vaddr, len, len, PAGE] {
            file.extend(number.to_le_bytes());
        }
    }
    file.extend(
        rows.iter()
            .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()),
    );
    assert!(file.len() as u64 <= TABLES);
    file.resize(TABLES as usize, 0);
    file.extend(body);
    file.resize((DATA + pages * PAGE) as usize, 0);
    file
}

/// First page and number of pages of the run.
fn run_of(file: &[u8]) -> Option<(u32, u32)> {
    of_bytes(file).map(|run| (run.first, run.pages))
}

/// Rows of a table, each for the first word of a page of the data.
fn rela(pages: impl IntoIterator<Item = u64>, kind: elf::RelocationType) -> Vec<u64> {
    let row = |page| [DATA_VADDR + page * PAGE, u64::from(kind.0), 7];
    pages.into_iter().flat_map(row).collect()
}

#[test]
fn relocated_words_of_all_tables_count_and_the_run_is_told_in_pages_of_the_file() {
    let relative = rela(1..4, elf::R_X86_64_RELATIVE);
    let slots = rela(4..6, elf::R_X86_64_JUMP_SLOT);
    // One address, then a bitmap: of the 63 words behind it those that begin the next page are out of reach.
    let relr = vec![DATA_VADDR + 6 * PAGE, DATA_VADDR + 7 * PAGE - 8, 0b11];
    let tables = [
        (elf::DT_RELA, elf::DT_RELASZ, relative),
        (elf::DT_JMPREL, elf::DT_PLTRELSZ, slots),
        (elf::DT_RELR, elf::DT_RELRSZ, relr),
    ];
    assert_eq!(run_of(&file(&tables, 10)), Some((4, 7)));
    assert_eq!(
        run_of(&file(&tables[..1], 10)),
        None,
        "three pages are too few"
    );
    assert_eq!(run_of(&file(&tables[..2], 10)), Some((4, 5)));
}

#[test]
fn a_relocation_that_does_nothing_writes_to_no_page() {
    let table = |kind| [(elf::DT_RELA, elf::DT_RELASZ, rela(0..8, kind))];
    assert_eq!(run_of(&file(&table(elf::R_X86_64_NONE), 8)), None);
    assert_eq!(
        run_of(&file(&table(elf::R_X86_64_IRELATIVE), 8)),
        Some((3, 8))
    );
}

#[test]
fn pages_that_are_not_written_are_taken_along_only_where_enough_others_are() {
    let table = |pages: &[u64]| {
        let rows = rela(pages.iter().copied(), elf::R_X86_64_64);
        run_of(&file(&[(elf::DT_RELA, elf::DT_RELASZ, rows)], 20))
    };
    let written: Vec<_> = (0..5).chain(6..11).collect();
    assert_eq!(table(&written), Some((3, 11)));
    let written: Vec<_> = (0..4).chain(6..14).collect();
    assert_eq!(table(&written), Some((9, 8)));
    assert_eq!(table(&[0, 2, 4, 6, 8, 10, 12]), None);
}

#[test]
fn numbers_that_lie_give_no_run() {
    let rows = rela(0..8, elf::R_X86_64_64);
    let whole = file(&[(elf::DT_RELA, elf::DT_RELASZ, rows)], 8);
    assert_eq!(run_of(&whole), Some((3, 8)));
    // Program header 1: offset, address and length.
    for at in [8, 16, 32] {
        let mut wrong = whole.clone();
        wrong[64 + 56 + at..][..8].fill(0xff);
        assert_eq!(run_of(&wrong), None, "{at}");
    }
    for len in [0, 63, 64, 100, 64 + 3 * 56, 0x400, whole.len() - 1] {
        let cut = &whole[..len];
        assert_eq!(of_bytes(cut), None, "{len}");
    }
}

proptest! {
    #[test]
    fn any_bytes_behind_the_header_give_a_run_inside_their_segment_or_none(
        bytes in proptest::collection::vec(any::<u8>(), 0x400..0x800)
    ) {
        let mut whole = file(&[(elf::DT_RELA, elf::DT_RELASZ, rela(0..8, elf::R_X86_64_64))], 8);
        whole[0x400..][..bytes.len()].copy_from_slice(&bytes);
        prop_assert_eq!(run_of(&whole), None);
        let dynamic = 64 + 3 * 56;
        whole[dynamic..][..0x100].copy_from_slice(&bytes[..0x100]);
        let _ = run_of(&whole);
    }
}
