//! What is written is what is read, whatever the names and facts; what was not written is not found.

mod hostile;
mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;

use elfuse_format::elf_facts::ElfFacts;
use elfuse_format::keys::{DirKey, FileKey, Keys, KeysContent, Time};
use elfuse_format::loader_cache::{
    CandidateRow, LoaderCache, LoaderCacheContent, NONE, NewDir, NewInput, NewObject, NewProgram,
    NewSoname, Reason,
};
use elfuse_format::sidecar::{self, Block, Content, NewEntry};
use elfuse_format::span::Span;
use elfuse_format::text::{RelocatedRun, TextIdentity, find_identity};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

/// Any name a kernel takes: 1 to 255 bytes, neither NUL nor slash.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("neither NUL nor slash", |byte| !matches!(byte, 0 | b'/'));
    let short = vec(byte.clone(), 1..12);
    let long = vec(byte, 250..=255);
    prop_oneof![9 => short, 1 => long].prop_filter("no dots", |n| n != b"." && n != b"..")
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn facts() -> impl Strategy<Value = ElfFacts> {
    let numbers = (
        any::<u64>(),
        any::<[u8; 32]>(),
        any::<[u8; 4]>(),
        any::<[u16; 2]>(),
        any::<[u32; 4]>(),
    );
    let strings = (
        option::of(string()),
        option::of(string()),
        option::of(string()),
        option::of(string()),
        option::of(string()),
    );
    let lists = (vec(string(), 0..5), vec(string(), 0..3));
    (numbers, strings, lists).prop_map(|(numbers, strings, lists)| ElfFacts {
        size: numbers.0,
        content_hash: numbers.1,
        class: numbers.2[0],
        data: numbers.2[1],
        os_abi: numbers.2[2],
        abi_version: numbers.2[3],
        elf_type: numbers.3[0],
        machine: numbers.3[1],
        e_flags: numbers.4[0],
        flags: numbers.4[1],
        dt_flags_1: numbers.4[2],
        x86_isa_needed: numbers.4[3],
        interpreter: strings.0,
        soname: strings.1,
        rpath: strings.2,
        runpath: strings.3,
        build_id: strings.4,
        needed: lists.0,
        filters: lists.1,
    })
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        3 => Just(Content::File),
        2 => Just(Content::Directory),
        1 => Just(Content::BrokenElf),
        1 => Just(Content::Other),
        2 => string().prop_map(Content::Symlink),
        2 => facts().prop_map(|facts| Content::Elf(Arc::new(facts))),
    ]
}

fn directory() -> impl Strategy<Value = BTreeMap<Vec<u8>, (Content, Option<Vec<u8>>)>> {
    btree_map(name(), (content(), option::weighted(0.1, name())), 0..60)
}

fn entries(directory: &BTreeMap<Vec<u8>, (Content, Option<Vec<u8>>)>) -> Vec<NewEntry> {
    let entry = |(name, (content, host))| {
        let (content, host): (&Content, &Option<Vec<u8>>) = (content, host);
        NewEntry {
            name: Vec::clone(name),
            content: content.clone(),
            host_spelling: host.clone(),
        }
    };
    directory
        .iter()
        .map(|(name, (content, host))| entry((name, (content, host))))
        .collect()
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Time { secs, nanos })
}

fn dir_keys(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<DirKey>> {
    let key = (
        any::<u64>(),
        time(),
        time(),
        any::<u64>(),
        0_u16..2,
        0_u8..7,
    );
    vec(key, count).prop_map(|keys| {
        let keys = keys
            .into_iter()
            .map(|(ino, mtime, ctime, block_checksum, device, seal)| DirKey {
                ino,
                mtime,
                ctime,
                block_checksum,
                device,
                seal,
            });
        keys.collect()
    })
}

proptest! {
    #[test]
    fn a_directory_is_read_as_it_was_written(directory in directory(), absent in vec(name(), 20)) {
        let written = entries(&directory);
        let payload = sidecar::encode(written.clone()).unwrap();
        let block = Block::parse(&payload).unwrap();
        block.check().unwrap();
        prop_assert_eq!(hostile::contents(&block), written);
        for name in directory.keys() {
            let found = block.find(name).unwrap().expect("a name that was written");
            prop_assert_eq!(found.name(), Some(name.as_slice()));
        }
        for name in absent.iter().filter(|name| !directory.contains_key(*name)) {
            prop_assert!(block.find(name).unwrap().is_none());
        }
    }

    #[test]
    fn the_order_of_the_entries_does_not_show_in_the_bytes(
        directory in directory(), seed in any::<prop::sample::Index>()
    ) {
        let sorted = entries(&directory);
        let mut turned = sorted.clone();
        if !turned.is_empty() {
            let at = seed.index(turned.len());
            turned.rotate_left(at);
        }
        prop_assert_eq!(sidecar::encode(sorted).unwrap(), sidecar::encode(turned).unwrap());
    }

    #[test]
    fn keys_are_read_as_they_were_written(dirs in dir_keys(0..80), seal in 0_u8..7) {
        let file = FileKey {
            ino: 1,
            size: 2,
            mtime: Time::default(),
            ctime: Time { secs: 3, nanos: 4 },
            device: 0,
            seal,
        };
        let plain = vec![1; dirs.len()];
        let content = KeysContent { dirs: dirs.clone(), files: vec![file; 3], plain, ..samples::keys_content() };
        let bytes = content.encode().unwrap();
        let keys = Keys::parse(&bytes).unwrap();
        keys.check().unwrap();
        prop_assert_eq!(keys.bound_to(), content.bound_to);
        for (number, key) in (0..).zip(&dirs) {
            prop_assert_eq!(keys.dir(number).unwrap().to_native(), *key);
        }
        prop_assert!(keys.dir(u32::try_from(dirs.len()).unwrap()).is_err());
        prop_assert_eq!(keys.files().unwrap().len(), 3);
    }

    #[test]
    fn a_loader_cache_is_read_as_it_was_written(
        directory in directory(),
        sonames in btree_map(string(), vec((0_u32..5, any::<u16>()), 0..4), 0..10),
        objects in vec((string(), 0_u8..11, string()), 0..6),
    ) {
        let mut directory = directory;
        directory.insert(b"program".to_vec(), (Content::File, None));
        let root = sidecar::encode(entries(&directory)).unwrap();
        let root_block = Block::parse(&root).unwrap();
        let empty = sidecar::encode(Vec::new()).unwrap();
        let children = root_block.entries().filter(|entry| entry.rank().is_some());
        let children: Vec<_> = children.map(|entry| entry.index).collect();
        let span = Span {
            start: u32::from(!children.is_empty()),
            len: u32::try_from(children.len()).unwrap(),
        };
        let dir = |parent, entry, children, elf_count, block| NewDir { parent, entry, children, elf_count, block };
        let elf_count = u32::try_from(root_block.elf_count()).unwrap();
        let mut dirs = vec![dir(0, NONE, span, elf_count, root.as_slice())];
        dirs.extend(children.iter().map(|entry| dir(0, *entry, Span::default(), 0, empty.as_slice())));
        let candidate = |(rank, machine): &(u32, u16)| CandidateRow {
            dir: 0, entry: 0, search_rank: *rank, machine: *machine, class: 2,
        };
        let new_sonames = sonames.iter().map(|(name, rows)| NewSoname {
            name: name.clone(), candidates: rows.iter().map(candidate).collect(),
        });
        let program = root_block.find(b"program").unwrap().unwrap().index;
        let new_objects = objects.iter().map(|(name, reason, search_dir)| NewObject {
            name: name.clone(),
            place: (*reason != 0).then_some((0, 0)),
            requester: 0,
            reason: Reason::from_byte(*reason).unwrap(),
            search_dir: search_dir.clone(),
        });
        let content = LoaderCacheContent {
            rules: 1,
            dirs,
            inputs: vec![NewInput { path: b"/etc/x".to_vec(), content_hash: [7; 32] }],
            sonames: new_sonames.collect(),
            programs: vec![NewProgram { dir: 0, entry: program, flags: 1, objects: new_objects.collect() }],
        };
        let bytes = content.encode().unwrap();
        let cache = LoaderCache::parse(&bytes).unwrap();
        cache.check().unwrap();
        prop_assert_eq!(cache.block_bytes(cache.dir(0).unwrap()).unwrap(), Some(root.as_slice()));
        for (number, entry) in (1..).zip(&children) {
            prop_assert_eq!(cache.dir(number).unwrap().entry.to_native(), *entry);
        }
        let table = cache.sonames().unwrap();
        prop_assert_eq!(table.rows().count(), sonames.len());
        for (name, rows) in &sonames {
            let found: Vec<_> = table.candidates(name).iter()
                .map(|row| (row.search_rank.to_native(), row.machine.to_native()))
                .collect();
            prop_assert_eq!(&found, rows);
        }
        let closures = cache.closures().unwrap();
        let row = closures.program(0, program).expect("the program");
        let found: Vec<_> = closures.objects(row).iter()
            .map(|object| (
                closures.string(&object.name).to_vec(),
                object.reason,
                closures.string(&object.search_dir).to_vec(),
            ))
            .collect();
        prop_assert_eq!(found, objects);
        prop_assert!(closures.program(0, program + 1).is_none());
    }
}

#[test]
fn each_text_identity_is_found_among_many_and_no_other_is() {
    for count in [0, 1, 2, 100, 3000_u64] {
        let identity = |ino: u64| {
            let row = TextIdentity {
                ino: ino * 7,
                size: u64::from(u32::MAX),
                ..samples::keys_content().text_identities[0].0
            };
            let run = RelocatedRun {
                first: ino as u32,
                pages: 4,
            };
            (row, run)
        };
        let content = KeysContent {
            text_identities: (0..count).map(identity).collect(),
            ..samples::keys_content()
        };
        let bytes = content.encode().unwrap();
        let keys = Keys::parse(&bytes).unwrap();
        keys.check().unwrap();
        let rows = keys.text_identities().unwrap();
        let runs = keys.relocated_runs().unwrap().unwrap();
        let device = rows.first().map_or(0, |row| row.device.to_native());
        let mut looks = 0;
        for ino in 0..count * 7 {
            let row = |number: u32| {
                looks += 1;
                rows.get(number as usize).ok_or(number)
            };
            let found = find_identity(rows.len() as u32, (device, ino), row).unwrap();
            let expected = ino.is_multiple_of(7).then_some(ino);
            assert_eq!(found.map(|(_, row)| row.ino.to_native()), expected);
            // Each run stays beside its file's row.
            let run = found.and_then(|(number, _)| runs.get(number as usize));
            let first = run.map(|run| u64::from(run.to_native().first));
            assert_eq!(first, expected.map(|ino| ino / 7));
        }
        // Few rows, wherever the hash points.
        assert!(looks <= count * 7 * 8, "{looks} for {count}");
    }
}

#[test]
fn a_name_longer_than_a_kernel_takes_is_not_written() {
    let long = samples::entry(&[b'a'; 256], Content::File);
    assert!(sidecar::encode(vec![long]).is_err());
    let long = samples::entry(b"l", Content::Symlink(vec![b'a'; sidecar::MAX_TARGET + 1]));
    assert!(sidecar::encode(vec![long]).is_err());
}
