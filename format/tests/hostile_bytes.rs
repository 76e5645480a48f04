//! Arbitrary bytes for every reader: what fuzzing found, replayed; random ones; and files that lie on purpose.

mod hostile;
mod samples;

use std::fs;
use std::path::Path;

use elfuse_format::FormatError;
use elfuse_format::header::{self, Kind};
use elfuse_format::keys::Keys;
use elfuse_format::loader_cache::LoaderCache;
use elfuse_format::sidecar::{self, Block};
use elfuse_format::snapshot::{FixUp, Outcome, Region, Run, Snapshot, tables_len};
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
    replay("sidecar", hostile::sidecar);
    replay("snapshot", hostile::snapshot);
    replay("keys", hostile::keys);
    replay("loader_cache", hostile::loader_cache);
    replay("ld_so_cache", hostile::ld_so_cache);
    replay("copy_data", hostile::copy_data);
}

/// The check that reads all of a file of ours.
fn check(file: &[u8], kind: Kind) -> Result<(), FormatError> {
    match kind {
        Kind::Keys => Keys::parse(file)?.check(),
        Kind::LoaderCache => LoaderCache::parse(file)?.check(),
        Kind::Snapshot => {
            header::File::parse(file, kind)?.check()?;
            let len = file.len() as u64;
            let tables = tables_len(file, len)? as usize;
            Snapshot::parse(&file[..tables], len).map(drop)
        }
        _ => {
            header::File::parse(file, Kind::Sidecar)?.check()?;
            Block::parse(sidecar::payload(file)?)?.check()
        }
    }
}

fn each_sample(mut test: impl FnMut(Kind, Vec<u8>)) {
    test(Kind::Sidecar, hostile::wrapped(&samples::block()));
    test(Kind::Keys, samples::keys());
    test(Kind::LoaderCache, samples::loader_cache());
    test(Kind::Snapshot, samples::snapshot());
}

#[test]
fn the_samples_are_good() {
    each_sample(|kind, file| check(&file, kind).unwrap());
}

#[test]
fn every_flipped_bit_is_detected_when_everything_is_read() {
    each_sample(|kind, mut file| {
        for bit in 0..file.len() * 8 {
            file[bit / 8] ^= 1 << (bit % 8);
            let found = check(&file, kind);
            assert!(
                found.is_err(),
                "{} with bit {bit} flipped passes",
                kind.name()
            );
            file[bit / 8] ^= 1 << (bit % 8);
        }
    });
}

#[test]
fn a_file_cut_short_anywhere_or_with_a_byte_too_many_is_refused() {
    each_sample(|kind, mut file| {
        for len in 0..file.len() {
            assert!(
                check(&file[..len], kind).is_err(),
                "{} of {len} bytes",
                kind.name()
            );
        }
        file.push(0);
        let refused = check(&file, kind);
        assert!(
            matches!(refused, Err(FormatError::Length { .. })),
            "{refused:?}"
        );
    });
}

#[test]
fn a_file_of_another_version_is_refused_by_its_number_alone() {
    each_sample(|kind, mut file| {
        file[8..10].copy_from_slice(&7_u16.to_le_bytes());
        // Whatever the rest of such a file may mean.
        file.truncate(header::HEADER_LEN);
        let refused = check(&file, kind).unwrap_err();
        assert_eq!(
            refused,
            FormatError::Version {
                expected: 3,
                found: 7
            }
        );
        assert_eq!(
            refused.to_string(),
            "format version 7, this build reads 3; build the index again"
        );
    });
}

#[test]
fn a_file_of_one_kind_is_not_taken_for_another() {
    each_sample(|kind, file| {
        for other in [Kind::Sidecar, Kind::Keys, Kind::LoaderCache, Kind::Snapshot] {
            if other != kind {
                let expected = FormatError::Kind {
                    expected: other as u16,
                    found: kind as u16,
                };
                assert_eq!(check(&file, other), Err(expected));
            }
        }
    });
}

#[test]
fn a_sidecar_with_a_part_table_is_refused_since_its_payload_has_no_checksum() {
    let mut file = header::Writer::new();
    file.part(header::PartKind::Inputs, samples::block());
    let file = file.finish(Kind::Sidecar, 0, 0).unwrap();
    assert!(matches!(
        sidecar::payload(&file),
        Err(FormatError::Length { .. })
    ));
}

#[test]
fn every_flipped_bit_behind_right_checksums_is_survived() {
    each_sample(|kind, original| {
        // A page is filled up with thousands of zeros, each like the next.
        let bits = (0..original.len() * 8).filter(|bit| *bit < 16_000 || bit % 61 == 0);
        for bit in bits {
            let mut file = original.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            match kind {
                Kind::Keys => hostile::keys(&file),
                Kind::LoaderCache => hostile::loader_cache(&file),
                Kind::Snapshot => hostile::snapshot(&file),
                _ => hostile::sidecar(&file),
            }
        }
    });
}

#[test]
fn tables_of_a_snapshot_whose_pages_are_cut_off_are_read_behind_right_checksums() {
    let whole = samples::snapshot();
    let len = whole.len() as u64;
    let tables = tables_len(&whole, len).unwrap() as usize;
    let mut start = whole[..tables].to_vec();
    let name = start.windows(5).position(|bytes| bytes == b"hello");
    start[name.expect("the program's path")] ^= 1;
    assert!(Snapshot::parse(&start, len).is_err());
    let header = hostile::repair_tables(&mut start, Kind::Snapshot).unwrap();
    assert_eq!(header.file_len(), len);
    assert!(Snapshot::parse(&start, len).is_ok());
    hostile::snapshot(&start);
}

#[test]
fn a_snapshot_whose_rows_contradict_each_other_is_neither_written_nor_read() {
    use elfuse_format::snapshot::Content;
    assert!(samples::snapshot_content().to_bytes().is_ok());
    let changes: [fn(&mut Content<'_>); 13] = [
        |content| content.files.clear(),
        |content| content.lookups[0].1 = Outcome::File(2),
        |content| content.lookups[1].1 = Outcome::Error(0),
        |content| content.lookups[1].0 = b"relative".to_vec(),
        |content| content.regions.swap(0, 1),
        |content| content.regions[1].start += 1,
        |content| content.regions[1].file = 2,
        |content| content.regions[2].protection = 7,
        |content| content.runs[0].pages = 3,
        |content| content.runs[0].region = 0,
        |content| content.fix_ups.swap(0, 1),
        |content| content.fix_ups[2].page = 2,
        |content| content.fix_ups[0].value = 99,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut content = samples::snapshot_content();
        change(&mut content);
        let malformed = matches!(content.to_bytes(), Err(FormatError::Malformed { .. }));
        assert!(malformed, "change {number}");
    }
    // The end of what a region may be, and one page beyond.
    let mut content = samples::snapshot_content();
    let last = Region {
        start: 0x7fff_ffff_c000,
        ..content.regions[2]
    };
    content.regions[2] = last;
    assert!(content.to_bytes().is_ok());
    content.regions[2].start += 4096;
    assert!(content.to_bytes().is_err());
    // Rows that overlap.
    let mut content = samples::snapshot_content();
    content.runs = vec![
        Run {
            region: 2,
            first: 1,
            pages: 1,
        };
        2
    ];
    assert!(content.to_bytes().is_err());
    let mut content = samples::snapshot_content();
    content.fix_ups[1] = FixUp {
        at: 0x2c,
        ..content.fix_ups[1]
    };
    assert!(content.to_bytes().is_err());
}

#[test]
fn names_that_crowd_the_same_slots_are_found_by_halving() {
    // Names whose hashes agree in the low bits: more than may be probed.
    let crowd = (0_u32..).map(|i| format!("{i:x}").into_bytes());
    let crowd: Vec<_> = crowd
        .filter(|name| elfuse_format::names::hash(name) & 0x1ff == 5)
        .take(3 * sidecar::PROBES)
        .collect();
    let entries = crowd
        .iter()
        .map(|name| samples::entry(name, sidecar::Content::File));
    let payload = sidecar::encode(entries.collect()).unwrap();
    let block = Block::parse(&payload).unwrap();
    block.check().unwrap();
    for name in &crowd {
        assert_eq!(
            block.find(name).unwrap().unwrap().name(),
            Some(name.as_slice())
        );
    }
    // Absent, and in the crowd as well.
    let absent = (0_u32..).map(|i| format!("absent-{i}").into_bytes());
    for name in absent
        .filter(|name| elfuse_format::names::hash(name) & 0x1ff == 5)
        .take(5)
    {
        assert!(block.find(&name).unwrap().is_none());
    }
}

#[test]
fn facts_whose_strings_overlap_do_not_grow_beyond_their_bound_in_memory() {
    // One long string, named by every row of a list: 64 KiB of it and 4,096 rows would be 256 MiB.
    let long = vec![b'x'; 64 << 10];
    let facts = elfuse_format::elf_facts::ElfFacts {
        needed: vec![long; 4096],
        ..samples::facts()
    };
    let elf = sidecar::Content::Elf(facts.into());
    let refused = sidecar::encode(vec![samples::entry(b"a", elf)]);
    assert!(matches!(refused, Err(FormatError::TooLarge { .. })));
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..400)
}

proptest! {
    #[test]
    fn data_of_a_copy_are_accepted_only_if_they_lead_into_its_code(
        numbers in proptest::collection::vec(any::<u64>(), 7),
        words in proptest::collection::vec(0x1000_0000_u64..0x4000_0000, 0..40),
        leading in any::<bool>(),
    ) {
        let mut data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if leading {
            data.extend([0; 64]);
        }
        data.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        hostile::copy_data(&data);
    }

    #[test]
    fn arbitrary_bytes_break_no_reader(data in payloads()) {
        hostile::sidecar(&data);
        hostile::keys(&data);
        hostile::loader_cache(&data);
        hostile::ld_so_cache(&data);
        hostile::snapshot(&data);
    }

    #[test]
    fn arbitrary_changes_behind_right_checksums_break_no_reader(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<[u8; 4]>()), 1..6)
    ) {
        each_sample(|kind, mut file| {
            for (place, bytes) in &changes {
                let at = place.index(file.len() - 4);
                file[at..at + 4].copy_from_slice(bytes);
            }
            match kind {
                Kind::Keys => hostile::keys(&file),
                Kind::LoaderCache => hostile::loader_cache(&file),
                Kind::Snapshot => hostile::snapshot(&file),
                _ => hostile::sidecar(&file),
            }
        });
    }
}
