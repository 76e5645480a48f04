//! What the readers of this crate must take: arbitrary bytes. One function a fuzz target; the fuzz targets in `fuzz/` call these
//! too, and what they found is replayed from `fuzz/fixtures/`.
//!
//! A checksum keeps almost everything arbitrary out, so bytes are also *repaired*: every checksum is made right, as whoever
//! writes a hostile file would make it.
#![allow(
    dead_code,
    reason = "each test and each fuzz target takes what it needs"
)]

use std::sync::Arc;

use elfuse_format::checksum::checksum;
use elfuse_format::header::{self, File, HEADER_LEN, Header, Kind, PART_ROW_LEN, PartKind};
use elfuse_format::keys::Keys;
use elfuse_format::ld_so_cache::{Flags, LdSoCache, Wanted};
use elfuse_format::loader_cache::{ArchivedDirRow, LoaderCache};
use elfuse_format::pages;
use elfuse_format::sidecar::{self, Block, Content, NewEntry};
use elfuse_format::snapshot::{self, Snapshot};
use elfuse_format::text;

/// Rows touched one by one; a file may have more, and the fuzzer need not wait for all.
const ENOUGH: usize = 2000;

/// A sidecar: as a file, and as a payload on which somebody put the right checksum.
pub(crate) fn sidecar(data: &[u8]) {
    if let Ok(payload) = sidecar::payload(data) {
        block(payload);
    }
    let mut file = data.to_vec();
    repair(&mut file, Kind::Sidecar);
    if let Ok(payload) = sidecar::payload(&file) {
        block(payload);
    }
    block(data);
}

/// A snapshot: as it is, with the right checksums put on it, and as the tables of a longer one, whose pages nobody reads.
pub(crate) fn snapshot(data: &[u8]) {
    touch_snapshot(data, data.len() as u64);
    let mut file = data.to_vec();
    repair(&mut file, Kind::Snapshot);
    touch_snapshot(&file, file.len() as u64);
    let mut tables = data.to_vec();
    if let Some(header) = repair_tables(&mut tables, Kind::Snapshot) {
        touch_snapshot(&tables, header.file_len());
    }
}

/// Follows everything that the rows of a snapshot of `len` bytes point to, of which there are the first.
fn touch_snapshot(data: &[u8], len: u64) {
    let Ok(tables) = snapshot::tables_len(data, len) else {
        return;
    };
    let Some(start) = data.get(..usize::try_from(tables).unwrap()) else {
        return;
    };
    let Ok(found) = Snapshot::parse(start, len) else {
        return;
    };
    let _ = (found.head(), found.exe(), found.moves());
    for lookup in found.lookups {
        assert!(found.path(lookup).starts_with(b"/"));
        if let Some(snapshot::Outcome::File(file)) = lookup.outcome() {
            assert!((file as usize) < found.files.len());
        }
    }
    let mut pages = 0;
    for run in found.runs {
        let region = &found.regions[run.region.to_native() as usize];
        let end = u64::from(run.first.to_native()) + u64::from(run.pages.to_native());
        assert!(end * snapshot::PAGE <= region.len.to_native() && !region.is_executable());
        pages += run.pages.to_native() as usize;
    }
    assert_eq!(pages, found.page_count());
    let pages_len = pages as u64 * snapshot::PAGE;
    assert!(found.pages_at.is_multiple_of(snapshot::PAGE) && found.pages_at + pages_len <= len);
    for fix_up in found.fix_ups {
        let width = fix_up.value().unwrap().width();
        assert!(usize::from(fix_up.at.to_native()) + width <= snapshot::PAGE as usize);
        assert!((fix_up.page.to_native() as usize) < pages);
    }
    assert_eq!(found.slide(pages), [0; snapshot::SLIDE_LEN]);
}

/// Touches everything in a payload. What passes the check must keep its promises.
pub(crate) fn block(payload: &[u8]) {
    let Ok(block) = Block::parse(payload) else {
        return;
    };
    let checked = block.check().is_ok();
    let _ = block.find(b"a").map(|found| found.map(|entry| entry.index));
    for entry in block.entries().take(ENOUGH) {
        let found = entry.name().map(|name| block.find(name));
        if checked {
            assert_eq!(
                found.unwrap().unwrap().map(|found| found.index),
                Some(entry.index)
            );
        }
        let _ = (
            entry.kind(),
            entry.target(),
            entry.rank(),
            entry.elf_index(),
        );
        let _ = (entry.host_spelling(), entry.is_broken_elf());
        if let Some(elf) = entry.elf() {
            let _ = (elf.soname(), elf.interpreter(), elf.needed().count());
        }
    }
    for index in 0..block.elf_count().min(ENOUGH) {
        let facts = block.elf(index).and_then(|elf| elf.to_facts());
        assert!(facts.is_some() || !checked);
    }
    assert!(block.entry(block.len()).is_none() && block.elf(block.elf_count()).is_none());
    if checked {
        let entries = contents(&block);
        let again = sidecar::encode(entries.clone()).expect("what was read can be written");
        let again = Block::parse(&again).unwrap();
        again.check().unwrap();
        assert_eq!(contents(&again), entries);
    }
}

/// The entries of a checked block in memory.
pub(crate) fn contents(block: &Block<'_>) -> Vec<NewEntry> {
    use elfuse_format::sidecar::Kind;
    let content = |entry: &sidecar::Entry<'_>| match entry.kind().unwrap() {
        Kind::Directory => Content::Directory,
        Kind::Symlink => Content::Symlink(entry.target().unwrap().to_vec()),
        Kind::Other => Content::Other,
        Kind::File if entry.is_broken_elf() => Content::BrokenElf,
        Kind::File => match entry.elf() {
            Some(elf) => Content::Elf(Arc::new(elf.to_facts().unwrap())),
            None => Content::File,
        },
    };
    let entries = block.entries().map(|entry| NewEntry {
        name: entry.name().unwrap().to_vec(),
        content: content(&entry),
        host_spelling: entry.host_spelling().map(<[u8]>::to_vec),
    });
    entries.collect()
}

/// Keys: as they are, and repaired.
pub(crate) fn keys(data: &[u8]) {
    touch_keys(data);
    let mut file = data.to_vec();
    repair(&mut file, Kind::Keys);
    touch_keys(&file);
}

fn touch_keys(data: &[u8]) {
    let Ok(keys) = Keys::parse(data) else {
        return;
    };
    let checked = keys.check().is_ok();
    let devices = keys.devices().map(<[_]>::len);
    assert!(devices.is_ok() || !checked);
    for dir in (0..40).chain([1023, 1024, u32::MAX]) {
        assert!(keys.dir(dir).is_ok() || !checked || dir >= keys.dirs().unwrap().len() as u32);
    }
    let _ = (keys.files(), keys.plain(), keys.inputs());
    let _ = (keys.attributes(), keys.attribute_starts());
    let _ = (keys.attribute_terms(), keys.bound_to(), keys.flags());
    touch_texts(&keys, checked);
}

/// What copies are believed by: whatever rows say, a block lies in the room for blocks and inside its file.
fn touch_texts(keys: &Keys<'_>, checked: bool) {
    let rows = keys.text_identities().unwrap_or_default();
    let row_of = |number: u32| rows.get(number as usize).ok_or(());
    for row in rows.iter().take(ENOUGH) {
        let (device, ino) = (row.device.to_native(), row.ino.to_native());
        let found = text::find_identity(rows.len() as u32, (device, ino), row_of).unwrap();
        if let Some((number, found)) = found {
            assert!((number as usize) < rows.len());
            assert_eq!((found.ino, found.device), (row.ino, row.device));
        }
        assert!(found.is_some() || !checked);
        assert!(row.copy() != Some(text::NO_COPY));
    }
    for run in (keys.relocated_runs().ok().flatten().unwrap_or_default()).iter() {
        for (offset, len) in [(0, u64::MAX - 4095), (0, 4096), (4096, 1 << 40)] {
            if let Some((from, bytes)) = run.to_native().within(offset, len) {
                assert!(bytes > 0 && from + bytes <= len.next_multiple_of(4096));
            }
        }
    }
    for row in keys.text_copies().unwrap_or_default() {
        let Some(layout) = row.layout() else {
            continue;
        };
        assert!(layout.data() >= text::BLOCKS_START);
        assert!(layout.code() + layout.code_len() <= text::BLOCKS_END);
        assert_eq!(layout.file_len(), row.size.to_native());
        assert!(layout.back(layout.slots() - 1) < layout.code());
        if let Some(segment) = row.segment() {
            assert!(segment.offset + segment.file_len <= layout.annex());
        }
    }
}

/// The data of a copy: five numbers that say where its block lies, two for the segment, then the data.
pub(crate) fn copy_data(bytes: &[u8]) {
    let Some((numbers, data)) = bytes.split_at_checked(7 * 8) else {
        return;
    };
    let number = |at: usize| u64::from_le_bytes(numbers[8 * at..8 * at + 8].try_into().unwrap());
    let segment = text::Segment {
        offset: 0,
        vaddr: number(5),
        file_len: number(6),
    };
    // As they are, and as somebody would write them who knows what they must be like.
    let slots = number(3) as u32;
    let near = [
        text::BLOCKS_START + text::BLOCK_STEP * (number(0) % 12_288),
        text::words_len(slots % 1024).next_multiple_of(text::PAGE),
        text::PAGE * (number(2) % 16),
        u64::from(slots % 1024),
        text::PAGE * (number(4) % 1024),
    ];
    for [block, data_len, code_len, slots, annex] in [near, [0, 1, 2, 3, 4].map(number)] {
        let Some(layout) = text::Layout::new(block, data_len, code_len, slots as u32, annex) else {
            continue;
        };
        let mut data = data.to_vec();
        data.resize((data_len as usize).min(1 << 20), 0);
        let words = data.as_chunks::<8>().0.to_vec();
        if layout.accepts(&data, &segment) {
            let slots = layout.slots() as usize;
            let code = layout.code()..layout.code() + layout.code_len();
            assert!((words[8..8 + slots].iter()).all(|to| code.contains(&u64::from_le_bytes(*to))));
            assert!(words[..8].iter().all(|word| *word == [0; 8]));
        }
    }
}

/// A loader cache: as it is, and repaired.
pub(crate) fn loader_cache(data: &[u8]) {
    touch_loader_cache(data);
    let mut file = data.to_vec();
    repair(&mut file, Kind::LoaderCache);
    repair_blocks(&mut file);
    touch_loader_cache(&file);
}

fn touch_loader_cache(data: &[u8]) {
    let Ok(cache) = LoaderCache::parse(data) else {
        return;
    };
    let checked = cache.check().is_ok();
    let _ = cache.binding();
    for dir in (0..40).chain([1023, 1024, u32::MAX]) {
        let Ok(row) = cache.dir(dir) else {
            continue;
        };
        match cache.block_bytes(row) {
            Ok(Some(bytes)) => block(bytes),
            other => assert!(other.is_ok() || !checked),
        }
    }
    if let Ok(inputs) = cache.inputs() {
        let _ = inputs.rows().count();
    }
    if let Ok(sonames) = cache.sonames() {
        for (name, candidates) in sonames.rows().take(ENOUGH) {
            let found = sonames.candidates(name);
            assert!(!checked || found.len() == candidates.len());
        }
    }
    if let Ok(closures) = cache.closures() {
        for program in closures.programs.get().iter().take(ENOUGH) {
            let (dir, entry) = (program.dir.to_native(), program.entry.to_native());
            assert!(closures.program(dir, entry).is_some() || !checked);
            for object in closures.objects(program).iter().take(ENOUGH) {
                let _ = (
                    closures.string(&object.name),
                    closures.string(&object.search_dir),
                );
            }
        }
    }
}

/// glibc's cache.
pub(crate) fn ld_so_cache(data: &[u8]) {
    let Ok(cache) = LdSoCache::parse(data) else {
        return;
    };
    let names: Vec<_> = cache.hwcaps().take(ENOUGH).flatten().collect();
    for entry in cache.entries().take(ENOUGH) {
        let _ = cache.listing(entry).to_string();
        let _ = cache.to_row(entry);
        let wanted = Wanted::new(entry.flags);
        if let Some(found) = entry.key.and_then(|key| cache.lookup(key, &wanted, &names)) {
            assert_eq!(
                elfuse_format::ld_so_cache::compare_names(found.key.unwrap(), entry.key.unwrap()),
                std::cmp::Ordering::Equal
            );
        }
    }
    let _ = cache.lookup(b"libc.so.6", &Wanted::new(Flags::X86_64), &names);
    let _ = (
        cache.generator(),
        cache.get(cache.len()),
        cache.hwcaps_name(u32::MAX),
    );
}

/// How many rows the part table of `file` has, and where it ends; `None`: further than the file.
fn table_of(file: &[u8], kind: Kind) -> Option<(u16, usize)> {
    let parts = match kind {
        Kind::Sidecar => 0,
        _ => u16::from_le_bytes(file.get(36..38)?.try_into().unwrap()),
    };
    let header_len = HEADER_LEN + PART_ROW_LEN * usize::from(parts);
    (file.len() >= header_len).then_some((parts, header_len))
}

fn word(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Makes the checksums in the part table right, of the parts that are there whole.
fn repair_parts(file: &mut [u8], parts: u16) {
    for number in 0..usize::from(parts) {
        let at = HEADER_LEN + number * PART_ROW_LEN;
        let (start, len) = (word(file, at + 8), word(file, at + 16));
        let bytes = start
            .checked_add(len)
            .and_then(|end| file.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?));
        if let Some(sum) = bytes.map(checksum) {
            file[at + 24..at + 32].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// Makes header, part table, checksums and the tree of `file` right, and leaves everything else as it is.
pub(crate) fn repair(file: &mut Vec<u8>, kind: Kind) {
    if file.len() < HEADER_LEN {
        return;
    }
    let Some((parts, header_len)) = table_of(file, kind) else {
        return;
    };
    if parts > 0 {
        // The tree is made anew behind what the header says is no tree.
        let body_len = word(file, 16).saturating_add(header_len as u64);
        file.truncate(usize::try_from(body_len).unwrap_or(usize::MAX));
    }
    repair_parts(file, parts);
    let covered = if parts == 0 {
        &file[HEADER_LEN..]
    } else {
        &file[HEADER_LEN..header_len]
    };
    let (payload_len, payload_checksum) = (file.len() - header_len, checksum(covered));
    let top_checksum = match parts {
        0 => 0,
        _ => pages::finish(file),
    };
    let fixed = Header {
        kind: kind as u16,
        header_len: header_len as u32,
        payload_len: payload_len as u64,
        payload_checksum,
        flags: u32::from_le_bytes(file[32..36].try_into().unwrap()),
        part_count: parts,
        bound_to: word(file, 40),
        top_checksum,
    };
    file[..HEADER_LEN].copy_from_slice(&fixed.to_bytes());
}

/// The same of a file of which only the first bytes are there: it stays as long as its header says. `None`: the part table is not there.
pub(crate) fn repair_tables(start: &mut [u8], kind: Kind) -> Option<Header> {
    let (parts, header_len) = table_of(start, kind)?;
    repair_parts(start, parts);
    let fixed = Header {
        kind: kind as u16,
        header_len: header_len as u32,
        payload_len: word(start, 16),
        payload_checksum: checksum(&start[HEADER_LEN..header_len]),
        flags: 0,
        part_count: parts,
        bound_to: 0,
        top_checksum: word(start, 48),
    };
    start[..HEADER_LEN].copy_from_slice(&fixed.to_bytes());
    Some(fixed)
}

/// Makes the checksums of a loader cache's blocks right, then those around them.
pub(crate) fn repair_blocks(file: &mut Vec<u8>) {
    let mut fixes = Vec::new();
    if let Ok(parsed) = File::parse(file, Kind::LoaderCache) {
        let Ok(blocks) = parsed.part_unchecked(PartKind::Blocks) else {
            return;
        };
        let rows = parsed.rows::<ArchivedDirRow>(PartKind::Dirs);
        for row in rows.unwrap_or_default() {
            let start = usize::try_from(row.block_offset.to_native()).unwrap_or(usize::MAX);
            let end = start.checked_add(row.block_len.to_native() as usize);
            let Some(bytes) = end.and_then(|end| blocks.get(start..end)) else {
                continue;
            };
            // The checksum is the last member of the row.
            let at = std::ptr::from_ref(row).addr() + size_of::<ArchivedDirRow>() - 8;
            fixes.push((at - file.as_ptr().addr(), checksum(bytes)));
        }
    }
    for (at, sum) in fixes {
        file[at..at + 8].copy_from_slice(&sum.to_le_bytes());
    }
    repair(file, Kind::LoaderCache);
}

/// A sidecar file around a payload.
pub(crate) fn wrapped(payload: &[u8]) -> Vec<u8> {
    header::wrap(Kind::Sidecar, 0, payload)
}
