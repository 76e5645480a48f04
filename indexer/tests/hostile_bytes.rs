//! Arbitrary bytes for the readers of the indexer: what fuzzing found, replayed, and random ones.

mod hostile;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

/// Every file in `fuzz/fixtures/TARGET`: inputs that once broke a reader.
fn replay(target: &str, read: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/fixtures")
        .join(target);
    for entry in fs::read_dir(&dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        read(&fs::read(&path).unwrap());
    }
}

#[test]
fn what_fuzzing_found_breaks_no_reader_again() {
    replay("inspect", hostile::inspect);
    replay("patch", hostile::patch);
    replay("walk", hostile::walk);
    replay("conf", hostile::conf);
    replay("resolve", hostile::resolve);
}

/// A string table whose offset in the file is so large that a string's offset in it passes 2^64.
#[test]
fn a_string_beyond_the_last_offset_is_damage_and_no_overflow() {
    let mut file = vec![0_u8; 64 + 3 * 56 + 4 * 16];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    put(&mut file, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 54, &[56, 0, 2, 0]);
    let dynamic = 64 + 2 * 56;
    // PT_LOAD that claims to be at the very end of what an offset can say.
    segment(&mut file, 64, 1, u64::MAX - 8, 0x1000, 0x100);
    segment(&mut file, 64 + 56, 2, dynamic as u64, 0x2000, 3 * 16);
    for (row, (tag, value)) in [(5_u64, 0x1000_u64), (1, 0x20), (0, 0)]
        .into_iter()
        .enumerate()
    {
        put(&mut file, dynamic + 16 * row, &tag.to_le_bytes());
        put(&mut file, dynamic + 16 * row + 8, &value.to_le_bytes());
    }
    let elf = elfuse_indexer::inspect::inspect_bytes(&file).unwrap();
    let elfuse_indexer::tree::Elf::Facts(facts) = elf else {
        panic!("{elf:?}");
    };
    assert_ne!(facts.flags & elfuse_format::elf_facts::flags::DAMAGED, 0);
    assert!(facts.needed.is_empty());
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn segment(file: &mut [u8], at: usize, kind: u32, offset: u64, address: u64, len: u64) {
    put(file, at, &kind.to_le_bytes());
    put(file, at + 8, &offset.to_le_bytes());
    put(file, at + 16, &address.to_le_bytes());
    put(file, at + 32, &len.to_le_bytes());
    put(file, at + 40, &len.to_le_bytes());
}

/// 65,535 rows that name one string without an end: each may not have it read again.
#[test]
fn one_endless_string_named_by_every_row_is_read_once() {
    const ROWS: usize = 60_000;
    let dynamic = 64 + 2 * 56;
    let strings = dynamic + (ROWS + 2) * 16;
    let mut file = vec![b'x'; strings + (6 << 20)];
    file[..strings].fill(0);
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    put(&mut file, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 54, &[56, 0, 2, 0]);
    let len = file.len() as u64;
    segment(&mut file, 64, 1, 0, 0, len);
    segment(
        &mut file,
        64 + 56,
        2,
        dynamic as u64,
        dynamic as u64,
        ((ROWS + 2) * 16) as u64,
    );
    for row in 0..=ROWS {
        let (tag, value) = if row == 0 {
            (5_u64, strings as u64)
        } else {
            (1, 0)
        };
        put(&mut file, dynamic + 16 * row, &tag.to_le_bytes());
        put(&mut file, dynamic + 16 * row + 8, &value.to_le_bytes());
    }
    let started = std::time::Instant::now();
    hostile_inspect_is_damaged(&file);
    // 60,000 times 4 MiB would take minutes.
    assert!(started.elapsed().as_secs() < 10);
}

fn hostile_inspect_is_damaged(file: &[u8]) {
    match elfuse_indexer::inspect::inspect_bytes(file).unwrap() {
        elfuse_indexer::tree::Elf::Facts(facts) => {
            assert_ne!(facts.flags & elfuse_format::elf_facts::flags::DAMAGED, 0);
        }
        other => panic!("{other:?}"),
    }
}

/// Records of a random tree over few names, so that links meet.
fn records() -> impl Strategy<Value = Vec<u8>> {
    let path = "(/[ab.]{1,2}){1,4}";
    let what = "(/|>/?([ab.]{1,2}/){0,3}[ab.]{1,2}|=[ -~]{0,20})";
    let record = (path, what).prop_map(|(path, what)| format!("{path}\n{what}\0"));
    (path, proptest::collection::vec(record, 0..12))
        .prop_map(|(path, records)| format!("{path}\n{}", records.concat()).into_bytes())
}

proptest! {
    #[test]
    fn any_path_in_any_tree_leads_to_one_place_or_to_an_error(data in records()) {
        hostile::walk(&data);
    }

    #[test]
    fn any_bytes_behind_the_magic_number_are_inspected_without_panic(
        class in 0_u8..4, data in proptest::collection::vec(any::<u8>(), 0..512)
    ) {
        hostile::inspect(&data);
        hostile::inspect(&[b"\x7fELF", [class].as_slice(), &data].concat());
    }

    #[test]
    fn any_code_makes_a_copy_that_a_run_accepts_or_none(
        pieces in proptest::collection::vec(prop_oneof![
            Just(b"\x0f\x05".to_vec()),
            Just(b"\x0f\xa2".to_vec()),
            // mov $257, %eax; mov $0, %eax; mov %rcx, %r10; xor %edi, %edi; lea 0(%rip), %rsi; jne .+9; ret
            Just(b"\xb8\x01\x01\0\0".to_vec()),
            Just(b"\xb8\0\0\0\0".to_vec()),
            Just(b"\x49\x89\xca".to_vec()),
            Just(b"\x31\xff".to_vec()),
            Just(b"\x48\x8d\x35\0\0\0\0".to_vec()),
            Just(b"\x75\x07".to_vec()),
            Just(b"\xc3".to_vec()),
            proptest::collection::vec(any::<u8>(), 1..4),
        ], 0..60)
    ) {
        hostile::patch(&pieces.concat());
    }

    #[test]
    fn any_configuration_is_read_to_its_end(
        text in "((include|hwcap|#|)[ \t]?[/a-c*?\\[\\]=.]{0,12}\n){0,8}"
    ) {
        let mut data = b"/etc/ld.so.conf\n=".to_vec();
        data.extend_from_slice(text.as_bytes());
        data.extend_from_slice(b"\0/a\n=include /[a-c]\nb\n\0/b\n=include a*\n");
        hostile::conf(&data);
    }
}
