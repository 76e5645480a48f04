//! The bytes themselves. The parser here follows FORMAT.md and uses nothing of the crate: what it reads, somebody can read who
//! has that page alone.

mod samples;

use elfuse_format::attributes::{AttributeRow, Attributes, Terms};
use elfuse_format::checksum::checksum;
use elfuse_format::header::{self, Kind};
use elfuse_format::keys::{Keys, KeysContent, Time};
use elfuse_format::text::SET_VERSION;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()).into()
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// FORMAT.md, "Archives": a table's reference at `at` is a distance from `at` and a number of rows.
fn table(archive: &[u8], at: usize, row_len: usize) -> &[u8] {
    let distance = i32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
    let start = at.checked_add_signed(distance as isize).unwrap();
    &archive[start..start + u32_at(archive, at + 4) * row_len]
}

/// The tables of an archive: they stand one after the other from its start, and their references in the same order behind.
fn tables<const N: usize>(archive: &[u8], row_lens: [usize; N]) -> [&[u8]; N] {
    let references = archive.len() - 8 * N;
    let mut at = references;
    let mut end = 0;
    let tables = row_lens.map(|row_len| {
        let table = table(archive, at, row_len);
        at += 8;
        if !table.is_empty() {
            assert_eq!(table.as_ptr().addr() - archive.as_ptr().addr(), end);
        }
        end += table.len();
        table
    });
    assert_eq!(end, references);
    tables
}

fn part(file: &[u8], kind: usize) -> &[u8] {
    let mut rows = (0..u16_at(file, 36)).map(|number| &file[64 + 32 * number..][..32]);
    let row = rows
        .rfind(|row| u16_at(row, 0) == kind && u32_at(row, 4) == 0)
        .unwrap();
    let start = u64_at(row, 8) as usize;
    let part = &file[start..start + u64_at(row, 16) as usize];
    if kind != 17 {
        assert_eq!(u64_at(row, 24), checksum(part));
    }
    part
}

fn span<'a>(blob: &'a [u8], row: &[u8], at: usize) -> Option<&'a [u8]> {
    let (start, len) = (u32_at(row, at), u32_at(row, at + 4));
    (start != 0xffff_ffff).then(|| &blob[start..start + len])
}

#[test]
fn the_header_is_where_the_page_says() {
    let block = samples::block();
    let file = header::wrap(Kind::Sidecar, 0, &block);
    assert_eq!(&file[..8], b"\x89elfuse\n");
    assert_eq!((u16_at(&file, 8), u16_at(&file, 10)), (3, 1));
    assert_eq!(
        (u32_at(&file, 12), u64_at(&file, 16)),
        (64, block.len() as u64)
    );
    assert_eq!(u64_at(&file, 24), checksum(&block));
    assert_eq!((u32_at(&file, 32), u16_at(&file, 36)), (0, 0));
    assert_eq!(
        (u16_at(&file, 38), u64_at(&file, 40), u64_at(&file, 48)),
        (0, 0, 0)
    );
    assert_eq!(u64_at(&file, 56), checksum(&file[..56]));
    assert_eq!(&file[64..], block);
}

#[test]
fn a_sidecar_is_read_by_the_rules_of_the_page_alone() {
    let block = samples::block();
    let [elves, lists, hosts, strings, targets, entries, slots] =
        tables(&block, [132, 8, 12, 1, 8, 11, 4]);
    let rows: Vec<_> = entries.chunks_exact(11).collect();
    let name = |row: &[u8]| &strings[u32_at(row, 0)..][..row[8].into()];
    let names: Vec<_> = rows.iter().map(|row| name(row)).collect();
    let expected: [&[u8]; 7] = [
        b"README",
        b"broken",
        b"dir",
        b"fifo",
        b"libx.so",
        b"libx.so.1",
        b"\xff\n",
    ];
    assert_eq!(names, expected);
    let kinds: Vec<_> = rows
        .iter()
        .map(|row| (row[9], row[10], u32_at(row, 4)))
        .collect();
    // Kind, flags, and rank, target or facts.
    assert_eq!(
        kinds,
        [
            (1, 4, 0),
            (1, 2, 0),
            (2, 0, 0),
            (4, 0, 0),
            (3, 0, 0),
            (1, 1, 0),
            (2, 0, 1)
        ]
    );
    assert_eq!(span(strings, targets, 0), Some(&b"libx.so.1"[..]));
    assert_eq!(
        (u32_at(hosts, 0), span(strings, hosts, 4)),
        (0, Some(&b".ef=524541444d45"[..]))
    );

    // Each name is found through the slots as the page says.
    assert_eq!(slots.len() / 4, 16);
    for (number, name) in names.iter().enumerate() {
        let hash = checksum(name);
        let mut at = (hash & 15) as usize;
        loop {
            let slot = u32_at(slots, at * 4);
            assert_ne!(slot, 0, "a free slot before {name:?}");
            if slot == ((hash >> 56) as usize) << 24 | (number + 1) {
                break;
            }
            at = (at + 1) & 15;
        }
    }

    let facts = samples::facts();
    assert_eq!((u32_at(elves, 0), u64_at(elves, 4)), (5, facts.size));
    assert_eq!(elves[12..44], facts.content_hash);
    assert_eq!(elves[44..48], [2, 1, 3, 4]);
    assert_eq!((u16_at(elves, 48), u16_at(elves, 50)), (3, 62));
    let numbers: Vec<_> = (0..5).map(|i| u32_at(elves, 52 + 4 * i)).collect();
    assert_eq!(numbers[..4], [5, 3, 6, 7]);
    let strings_of: Vec<_> = (0..5).map(|i| span(strings, elves, 68 + 8 * i)).collect();
    let expected: [Option<&[u8]>; 5] = [
        Some(b"/lib/ld.so"),
        Some(b"libx.so.1"),
        None,
        Some(b""),
        Some(&[0, 1, 2]),
    ];
    assert_eq!(strings_of, expected);
    let list = |at: usize| {
        let (start, len) = (u32_at(elves, at), u32_at(elves, at + 4));
        let rows = lists[start * 8..(start + len) * 8].chunks_exact(8);
        rows.map(|row| span(strings, row, 0).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(108), [b"libc.so.6", b"libm.so.6"]);
    assert_eq!(list(116), [b"alibx.so"]);
    // Reserved for the table of system calls.
    assert_eq!(span(strings, elves, 124), None);
}

#[test]
fn keys_are_read_by_the_rules_of_the_page_alone() {
    let file = samples::keys();
    assert_eq!(u16_at(&file, 10), 2);
    let [devices] = tables(part(&file, 1), [24]);
    assert_eq!(
        (
            u64_at(devices, 24),
            u64_at(devices, 32),
            u64_at(devices, 40)
        ),
        (3, 4, 5)
    );
    let [dirs] = tables(part(&file, 2), [43]);
    assert_eq!(dirs.len(), 3 * 43);
    assert_eq!(u64_at(dirs, 0), 100);
    assert_eq!(
        (u64_at(dirs, 8) as i64, u32_at(dirs, 16)),
        (-1, 999_999_999)
    );
    assert_eq!((u64_at(dirs, 20), u32_at(dirs, 28)), (1 << 40, 0));
    assert_eq!(u64_at(dirs, 32), 0x1122_3344_5566_7788);
    assert_eq!((u16_at(dirs, 40), dirs[42], dirs[43 + 42]), (0, 0, 3));
    let [files] = tables(part(&file, 3), [43]);
    assert_eq!((u64_at(files, 0), u64_at(files, 8)), (12, 34));
    assert_eq!(
        (u64_at(files, 16), u32_at(files, 24), u64_at(files, 28)),
        (56, 78, 90)
    );
    assert_eq!(
        (u32_at(files, 36), u16_at(files, 40), files[42]),
        (12, 1, 1)
    );
}

#[test]
fn text_identities_and_copies_are_read_by_the_rules_of_the_page_alone() {
    let file = samples::keys();
    let [rows] = tables(part(&file, 8), [47]);
    let rows: Vec<_> = rows.chunks_exact(47).collect();
    // Sorted by hash, unlike the sample.
    let hash = |row: &[u8]| checksum(&[&row[..8], &row[44..46]].concat());
    assert!(rows.is_sorted_by_key(|row| hash(row)));
    let row_of = |ino| *rows.iter().find(|row| u64_at(row, 0) == ino).unwrap();
    let [clean, complete] = [row_of(9), row_of(12)];
    assert_eq!(
        (
            u64_at(complete, 8),
            u64_at(complete, 16),
            u32_at(complete, 24)
        ),
        (34, 56, 78)
    );
    assert_eq!((u64_at(complete, 28), u32_at(complete, 36)), (90, 12));
    assert_eq!((u32_at(clean, 40), u32_at(complete, 40)), (0xffff_ffff, 0));
    assert_eq!((u16_at(complete, 44), complete[46], clean[46]), (1, 2, 1));

    // In the order of the identities.
    let [runs] = tables(part(&file, 12), [8]);
    let runs = runs.chunks_exact(8).zip(&rows);
    for (run, row) in runs {
        let expected = if *row == complete { (0, 1) } else { (0, 0) };
        assert_eq!((u32_at(run, 0), u32_at(run, 4)), expected);
    }

    let [copies] = tables(part(&file, 9), [136]);
    let hash: Vec<u8> = (0..32).collect();
    assert_eq!(copies[..32], hash);
    // L by the page's formula.
    let block = 0x1000_0000 + 0x1_0000 * (u64_at(&hash, 0) % 12_288);
    assert_eq!(u32_at(copies, 32) as u64, block);
    let numbers: Vec<_> = (0..3).map(|i| u32_at(copies, 36 + 4 * i)).collect();
    assert_eq!(numbers, [0x1000, 0x2000, 3]);
    let numbers: Vec<_> = (0..7).map(|i| u64_at(copies, 48 + 8 * i)).collect();
    assert_eq!(
        numbers,
        [
            0x9000,
            0x1000,
            0x2000,
            0x7654,
            0x1122_3344_5566_7788,
            13,
            0xc000
        ]
    );
    assert_eq!((u64_at(copies, 104), u32_at(copies, 112)), (1, 2));
    assert_eq!((u64_at(copies, 116), u32_at(copies, 124)), (3, 4));
    assert_eq!(u32_at(copies, 128), SET_VERSION as usize);
    assert_eq!((u16_at(copies, 132), u16_at(copies, 134)), (0, 2));
}

/// FORMAT.md, "Checksums of pages".
fn check_pages(file: &[u8]) -> usize {
    const PAGE: usize = 512;
    let body_len = u32_at(file, 12) + u64_at(file, 16) as usize;
    let (mut start, mut end) = (0, body_len);
    let mut levels = 0;
    while start == 0 || end - start > PAGE {
        let next = end.next_multiple_of(PAGE);
        assert!(file[end..next].iter().all(|byte| *byte == 0));
        let pages = file[start..next].chunks(PAGE);
        let count = pages.len();
        for (number, page) in pages.enumerate() {
            // The header has a checksum of its own.
            let page = if start + number == 0 {
                &page[64..]
            } else {
                page
            };
            assert_eq!(u64_at(file, next + 8 * number), checksum(page), "{number}");
        }
        (start, end) = (next, next + 8 * count);
        levels += 1;
    }
    assert_eq!(file.len(), end);
    assert_eq!(u64_at(file, 48), checksum(&file[start..]));
    levels
}

#[test]
fn each_page_has_its_checksum_where_the_page_says() {
    assert_eq!(check_pages(&samples::keys()), 1);
    assert_eq!(check_pages(&samples::loader_cache()), 1);
    assert_eq!(check_pages(&samples::snapshot()), 1);
    let content = samples::keys_content();
    let content = KeysContent {
        dirs: vec![content.dirs[0]; 20_000],
        plain: vec![1; 20_000],
        ..content
    };
    assert_eq!(check_pages(&content.encode().unwrap()), 2);
}

#[test]
fn a_loader_cache_is_read_by_the_rules_of_the_page_alone() {
    let file = samples::loader_cache();
    assert_eq!(u16_at(&file, 10), 3);
    let [dirs] = tables(part(&file, 16), [40]);
    let blocks = part(&file, 17);
    assert_eq!(dirs.len(), 3 * 40);
    let numbers: Vec<_> = (0..6).map(|i| u32_at(dirs, 4 * i)).collect();
    assert_eq!(numbers[..5], [0, 0xffff_ffff, 1, 2, 0]);
    let (start, len) = (u64_at(dirs, 24) as usize, numbers[5]);
    assert_eq!(&blocks[start..start + len], samples::block());
    assert_eq!(u64_at(dirs, 32), checksum(&samples::block()));
    let [strings, inputs] = tables(part(&file, 18), [1, 40]);
    assert_eq!(span(strings, inputs, 0), Some(&b"/etc/ld.so.cache"[..]));
    assert_eq!(inputs[8..40], [2; 32]);
    let [strings, names, candidates] = tables(part(&file, 19), [1, 16, 15]);
    assert_eq!(span(strings, names, 0), Some(&b"libx.so.1"[..]));
    assert_eq!((u32_at(names, 8), u32_at(names, 12)), (0, 2));
    let row: Vec<_> = (0..3).map(|i| u32_at(candidates, 4 * i)).collect();
    assert_eq!(
        (row, u16_at(candidates, 12), candidates[14]),
        (vec![0, 5, 0], 62, 2)
    );
    let [strings, programs, objects] = tables(part(&file, 20), [1, 20, 29]);
    let row: Vec<_> = (0..5).map(|i| u32_at(programs, 4 * i)).collect();
    assert_eq!(row, [0, 5, 2, 0, 2]);
    assert_eq!(span(strings, objects, 0), Some(&b"libx.so.1"[..]));
    assert_eq!(
        (u32_at(objects, 8), u32_at(objects, 12), u32_at(objects, 16)),
        (0, 5, 0)
    );
    assert_eq!(
        (span(strings, objects, 20), objects[28]),
        (Some(&b"/lib"[..]), 6)
    );
    assert_eq!(
        (u32_at(objects, 29 + 8), objects[29 + 28]),
        (0xffff_ffff, 0)
    );
}

fn hex_dump(bytes: &[u8]) -> String {
    let line = |(number, bytes): (usize, &[u8])| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text = bytes.iter().map(|byte| match byte {
            0x20..=0x7e => char::from(*byte),
            _ => '.',
        });
        format!(
            "{:04x}  {hex:<48} {}\n",
            number * 16,
            text.collect::<String>()
        )
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

/// If this fails, the format has changed: that takes a new version number.
#[test]
fn the_bytes_of_a_small_sidecar_have_not_changed() {
    insta::assert_snapshot!(hex_dump(&header::wrap(Kind::Sidecar, 0, &samples::block())));
}

/// Zeros that fill a page up, or are free slots, are left out.
fn without_zeros(dump: &str) -> String {
    let is_zeros = |line: &&str| line[6..53].bytes().all(|byte| matches!(byte, b'0' | b' '));
    let lines = dump.lines().filter(|line| !is_zeros(line));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_bytes_of_small_keys_have_not_changed() {
    insta::assert_snapshot!(without_zeros(&hex_dump(&samples::keys())));
}

/// What copies are believed by.
#[test]
fn the_bytes_of_text_identities_and_copies_have_not_changed() {
    let file = samples::keys();
    let parts = [8, 9, 12].map(|kind| hex_dump(part(&file, kind)));
    insta::assert_snapshot!(parts.join("\n"));
}

#[test]
fn the_bytes_of_a_small_loader_cache_have_not_changed() {
    insta::assert_snapshot!(without_zeros(&hex_dump(&samples::loader_cache())));
}

#[test]
fn attributes_are_read_by_the_rules_of_the_page_alone() {
    let row = |ino| AttributeRow {
        ino,
        size: 2,
        blocks: 3,
        rdev: 4,
        atime: Time { secs: 5, nanos: 6 },
        btime: Time { secs: 7, nanos: 8 },
        mtime: Time { secs: 9, nanos: 10 },
        ctime: Time {
            secs: 11,
            nanos: 12,
        },
        mode: 13,
        links: 14,
        user: 15,
        group: 16,
        block_size: 17,
        attributes: 18,
        flags: 19,
    };
    // 1 + 40 + 0 + 2 rows.
    let entries = vec![
        (0..40).map(row).collect(),
        Vec::new(),
        vec![row(80), row(81)],
    ];
    let terms = Terms {
        stamp: 1,
        attributes_mask: 2,
        answered: 3,
        answered_basic: 4,
        flags: 5,
    };
    let content = KeysContent {
        attributes: Some(Attributes {
            terms,
            root: row(90),
            entries,
        }),
        ..samples::keys_content()
    };
    let file = content.encode().unwrap();
    let keys = Keys::parse(&file).unwrap();
    keys.check().unwrap();
    assert_eq!(keys.attribute_terms().unwrap().unwrap().to_native(), terms);

    let [starts] = tables(part(&file, 10), [4]);
    assert_eq!([0, 4, 8].map(|at| u32_at(starts, at)), [1, 41, 41]);
    let [found] = tables(part(&file, 11), [28]);
    assert_eq!([0, 8].map(|at| u64_at(found, at)), [1, 2]);
    assert_eq!([16, 20, 24].map(|at| u32_at(found, at)), [3, 4, 5]);

    let [rows] = tables(part(&file, 6), [108]);
    let mut inodes = Vec::new();
    for row in rows.chunks(108) {
        inodes.push(u64_at(row, 0));
        assert_eq!([8, 16, 24].map(|at| u64_at(row, at)), [2, 3, 4]);
        for (at, secs) in [(32, 5), (44, 7), (56, 9), (68, 11)] {
            assert_eq!(
                (u64_at(row, at), u32_at(row, at + 8)),
                (secs, secs as usize + 1)
            );
        }
        let words = [80, 84, 88, 92, 96, 100, 104].map(|at| u32_at(row, at));
        assert_eq!(words, [13, 14, 15, 16, 17, 18, 19]);
    }
    let expected: Vec<u64> = [90].into_iter().chain(0..40).chain([80, 81]).collect();
    assert_eq!(inodes, expected);
}

/// If this fails, the format has changed: that takes a new version number.
#[test]
fn the_bytes_of_a_small_snapshot_have_not_changed() {
    let file = samples::snapshot();
    insta::assert_snapshot!(hex_dump(&file[..4096]));
    let pages = part(&file, 41);
    assert_eq!(
        pages.as_ptr_range().end.addr() - file.as_ptr().addr(),
        3 * 4096
    );
    assert!(file[4096..8192].iter().all(|byte| *byte == 0x11));
}

#[test]
fn a_snapshot_is_read_by_the_rules_of_the_page_alone() {
    let file = samples::snapshot();
    let head = part(&file, 32);
    let head = table(head, head.len() - 8, 196);
    assert_eq!(&head[..16], b"0123456789abcdef");
    assert_eq!(u64_at(head, 48), 0x7e00_0000_1008, "where it goes on");
    assert_eq!(u64_at(head, 88), 0x7e00_0000_3740, "the thread pointer");
    let paths = part(&file, 40);
    assert_eq!(span(paths, head, 184), Some(&b"/bin/hello"[..]));
    let regions = part(&file, 35);
    let regions = table(regions, regions.len() - 8, 32);
    assert_eq!(u64_at(regions, 2 * 32), 0x7e00_0000_3000);
    assert_eq!(u64_at(regions, 2 * 32 + 8), 3 * 4096);
    assert_eq!(u32_at(regions, 2 * 32 + 24), 0xffff_ffff, "no file");
    assert_eq!(u16_at(regions, 2 * 32 + 28), 3, "read and write");
    let fix_ups = part(&file, 37);
    let fix_ups = table(fix_ups, fix_ups.len() - 8, 16);
    assert_eq!((u64_at(fix_ups, 32), u32_at(fix_ups, 40)), (0x120, 1));
    assert_eq!(u16_at(fix_ups, 46), 9, "the vDSO");
    let slides = part(&file, 39);
    assert_eq!((slides.len(), slides[1]), (128, 0x81));
}
