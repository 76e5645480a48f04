use std::io::Write;

use proptest::prelude::*;

use super::*;

fn inspect_bytes(bytes: &[u8]) -> Elf {
    let head = &bytes[..bytes.len().min(HEADER)];
    read_facts(&bytes, head, bytes.len() as u64).unwrap()
}

fn facts(bytes: &[u8]) -> Arc<ElfFacts> {
    match inspect_bytes(bytes) {
        Elf::Facts(facts) => facts,
        other => panic!("{other:?}"),
    }
}

/// A number in the byte order and of the width of a file.
struct Writer {
    wide: bool,
    big: bool,
    bytes: Vec<u8>,
}

impl Writer {
    fn number(&mut self, value: u64, len: usize) {
        let bytes = value.to_le_bytes();
        let bytes = bytes[..len].iter().copied();
        if self.big {
            self.bytes.extend(bytes.rev());
        } else {
            self.bytes.extend(bytes);
        }
    }

    fn half(&mut self, value: u64) {
        self.number(value, 2);
    }

    fn word(&mut self, value: u64) {
        self.number(value, 4);
    }

    fn address(&mut self, value: u64) {
        self.number(value, if self.wide { 8 } else { 4 });
    }

    /// Loaded 0x1000 above where it lies in the file.
    fn segment(&mut self, kind: u64, flags: u64, at: u64, len: u64) {
        self.word(kind);
        if self.wide {
            self.word(flags);
        }
        for value in [at, at + 0x1000, at + 0x1000, len, len] {
            self.address(value);
        }
        if !self.wide {
            self.word(flags);
        }
        self.address(8);
    }
}

/// A library with one of everything that facts tell of.
fn library(wide: bool, big: bool) -> Vec<u8> {
    let strings =
        b"\0libown.so.1\0libc.so.6\0$ORIGIN/../lib\0/opt/rpath\0libaux.so\0libfil.so\0libm.so.6\0";
    let interpreter = b"/lib/ld.so.1\0";
    let note = {
        let mut note = Writer {
            wide,
            big,
            bytes: Vec::new(),
        };
        for value in [4, 4, 3] {
            note.word(value);
        }
        note.bytes.extend_from_slice(b"GNU\0\xde\xad\xbe\xef");
        note.bytes
    };
    let header: u64 = if wide { 64 } else { 52 };
    let segment: u64 = if wide { 56 } else { 32 };
    let strings_at = header + 5 * segment;
    let interpreter_at = strings_at + strings.len() as u64;
    let note_at = interpreter_at + interpreter.len() as u64;
    let dynamic_at = (note_at + note.len() as u64).next_multiple_of(8);
    let rows: [(u64, u64); 11] = [
        (1, 13),
        (14, 1),
        (29, 23),
        (15, 38),
        (0x7fff_fffd, 49),
        (0x7fff_ffff, 59),
        (1, 69),
        (5, strings_at + 0x1000),
        (30, 4),
        (0x6fff_fffb, 0x800),
        (0, 0),
    ];
    let row_len = if wide { 16 } else { 8 };
    let end = dynamic_at + rows.len() as u64 * row_len;

    let mut file = Writer {
        wide,
        big,
        bytes: Vec::new(),
    };
    let ident = [
        0x7f,
        b'E',
        b'L',
        b'F',
        1 + u8::from(wide),
        1 + u8::from(big),
        1,
        0,
    ];
    file.bytes.extend_from_slice(&ident);
    file.bytes.extend_from_slice(&[0; 8]);
    file.half(3);
    file.half(if wide { 22 } else { 40 });
    file.word(1);
    file.address(0);
    file.address(header);
    file.address(0);
    file.word(0x0500_0400);
    for value in [header, segment, 5, 0, 0, 0] {
        file.half(value);
    }
    file.segment(3, 4, interpreter_at, interpreter.len() as u64);
    file.segment(1, 5, 0, end);
    file.segment(2, 6, dynamic_at, rows.len() as u64 * row_len);
    file.segment(4, 4, note_at, note.len() as u64);
    file.segment(0x6474_e551, 7, 0, 0);
    file.bytes.extend_from_slice(strings);
    file.bytes.extend_from_slice(interpreter);
    file.bytes.extend_from_slice(&note);
    file.bytes.resize(usize::try_from(dynamic_at).unwrap(), 0);
    for (tag, value) in rows {
        file.address(tag);
        file.address(value);
    }
    file.bytes
}

#[test]
fn both_classes_and_both_byte_orders_are_read() {
    for (wide, big) in [(true, false), (true, true), (false, false), (false, true)] {
        let bytes = library(wide, big);
        let facts = facts(&bytes);
        let expected = ElfFacts {
            size: bytes.len() as u64,
            class: 1 + u8::from(wide),
            data: 1 + u8::from(big),
            elf_type: 3,
            machine: if wide { 22 } else { 40 },
            e_flags: 0x0500_0400,
            flags: flags::DYNAMIC | flags::PIE | flags::TEXTREL | flags::EXEC_STACK,
            dt_flags_1: 0x800,
            interpreter: Some(b"/lib/ld.so.1".to_vec()),
            soname: Some(b"libown.so.1".to_vec()),
            rpath: Some(b"/opt/rpath".to_vec()),
            runpath: Some(b"$ORIGIN/../lib".to_vec()),
            build_id: Some(b"\xde\xad\xbe\xef".to_vec()),
            needed: vec![b"libc.so.6".to_vec(), b"libm.so.6".to_vec()],
            filters: vec![b"alibaux.so".to_vec(), b"flibfil.so".to_vec()],
            ..ElfFacts::default()
        };
        assert_eq!(*facts, expected);
    }
}

#[test]
fn the_hash_is_that_of_the_whole_file() {
    let mut file = tempfile::tempfile().unwrap();
    let mut bytes = library(true, false);
    bytes.resize(300_000, 7);
    file.write_all(&bytes).unwrap();
    let Elf::Facts(facts) = inspect(&file).unwrap().0 else {
        panic!("no facts");
    };
    assert_eq!(facts.content_hash, *blake3::hash(&bytes).as_bytes());
    assert_eq!(facts.size, 300_000);
}

#[test]
fn what_does_not_start_as_elf_is_no_elf() {
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(inspect(&file).unwrap().0, Elf::NotElf);
    file.write_all(b"#!/bin/sh\n").unwrap();
    assert_eq!(inspect(&file).unwrap().0, Elf::NotElf);
}

#[test]
fn a_string_that_runs_out_of_the_file_is_damage_and_the_rest_is_told() {
    let mut bytes = library(true, false);
    // DT_SONAME is the second row; its value is made to point behind the strings.
    let dynamic = bytes.len() - 11 * 16;
    bytes[dynamic + 16 + 8..dynamic + 32].copy_from_slice(&u64::MAX.to_le_bytes());
    let facts = facts(&bytes);
    assert_ne!(facts.flags & flags::DAMAGED, 0);
    assert_eq!(facts.soname, None);
    assert_eq!(facts.needed.len(), 2);
}

#[test]
fn a_file_may_not_make_us_keep_more_than_the_cap() {
    // Every DT_NEEDED names the same long string.
    let mut bytes = library(true, false);
    let dynamic = bytes.len() - 11 * 16;
    let strings_at = bytes.len() as u64 + 65_536 * 16;
    let mut rows = Vec::new();
    for _ in 0..65_000 {
        rows.extend_from_slice(&1u64.to_le_bytes());
        rows.extend_from_slice(&0u64.to_le_bytes());
    }
    rows.extend_from_slice(&5u64.to_le_bytes());
    rows.extend_from_slice(&(strings_at + 0x1000).to_le_bytes());
    rows.resize(rows.len() + 16, 0);
    bytes.truncate(dynamic);
    let rows_len = rows.len() as u64;
    bytes.extend_from_slice(&rows);
    bytes.resize(usize::try_from(strings_at).unwrap(), 0);
    bytes.resize(bytes.len() + 100_000, b'x');
    bytes.push(0);
    let end = bytes.len() as u64;
    // Sizes of PT_LOAD and PT_DYNAMIC, in the file.
    bytes[64 + 56 + 32..][..8].copy_from_slice(&end.to_le_bytes());
    bytes[64 + 2 * 56 + 32..][..8].copy_from_slice(&rows_len.to_le_bytes());
    let facts = facts(&bytes);
    assert_ne!(facts.flags & flags::DAMAGED, 0);
    assert_eq!(facts.needed.len(), MAX_STRINGS / 100_001);
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = inspect_bytes(&bytes);
        let _ = inspect_bytes(&[b"\x7fELF\x02\x01\x01".as_slice(), &bytes].concat());
    }

    #[test]
    fn changed_bytes_do_no_harm(
        wide: bool,
        big: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = library(wide, big);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = inspect_bytes(&bytes);
        let _ = inspect_bytes(&bytes[..cut.index(bytes.len())]);
    }
}
