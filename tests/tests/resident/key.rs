//! Each part of a snapshot's key, changed: the program starts normally, and the reason is counted.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::process::Command;

use elfuse_format::checksum::checksum;
use elfuse_format::header::{File as Whole, HEADER_LEN, Header, Kind, PART_ROW_LEN, PartKind};
use elfuse_format::names;
use elfuse_format::snapshot::counts::Refusal;

use super::kept::Kept;

/// Changes bytes of a part of the snapshot, with the right checksums.
pub(crate) fn edit(kept: &Kept, kind: PartKind, change: impl FnOnce(&mut [u8])) {
    let mut bytes = fs::read(kept.snapshot()).expect("the snapshot");
    let rows: Vec<_> = Whole::parse(&bytes, Kind::Snapshot)
        .unwrap()
        .parts()
        .collect();
    let number = rows.iter().position(|row| row.kind == kind as u16).unwrap();
    let (start, len) = (rows[number].offset as usize, rows[number].len as usize);
    change(&mut bytes[start..start + len]);
    let sum = checksum(&bytes[start..start + len]);
    let at = HEADER_LEN + number * PART_ROW_LEN + 24;
    bytes[at..at + 8].copy_from_slice(&sum.to_le_bytes());
    let header = Header::parse(&bytes).unwrap();
    let table = checksum(&bytes[HEADER_LEN..header.header_len as usize]);
    let header = Header {
        payload_checksum: table,
        ..header
    };
    bytes[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    fs::write(kept.snapshot(), bytes).expect("writing the snapshot");
}

/// Changes eight bytes of its head, or of the first row of another table.
fn edit_word(kept: &Kept, kind: PartKind, at: usize, change: impl FnOnce(u64) -> u64) {
    edit(kept, kind, |part| {
        let word = &mut part[at..at + 8];
        let changed = change(u64::from_le_bytes((&*word).try_into().unwrap()));
        word.copy_from_slice(&changed.to_le_bytes());
    });
}

pub(crate) fn nothing(_: &mut Command) {}

#[test]
fn another_program_under_its_path_is_not_taken_for_it() {
    let kept = Kept::new();
    kept.is_used();
    kept.replace("bin/resident");
    kept.is_refused(Refusal::Program, nothing);
}

#[test]
fn another_dynamic_linker_library_or_cache_is_noticed() {
    for path in [
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
    ] {
        let kept = Kept::new();
        kept.is_used();
        kept.replace(path);
        kept.is_refused(Refusal::File, nothing);
    }
}

#[test]
fn a_library_that_was_written_to_in_place_is_noticed() {
    let kept = Kept::new();
    let path = kept.guest.scratch.path("lib/x86_64-linux-gnu/libc.so.6");
    let file = File::options().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(b"\0", len).unwrap();
    drop(file);
    kept.is_refused(Refusal::File, nothing);
}

#[test]
fn a_file_that_was_not_there_is_noticed_when_it_is() {
    let kept = Kept::new();
    kept.is_used();
    // Without a cache the dynamic linker has looked for it, and for libraries before where they are.
    kept.guest.scratch.file("etc/ld.so.cache", "");
    kept.is_refused(Refusal::Lookup, nothing);
    fs::remove_file(kept.guest.scratch.path("etc/ld.so.cache")).unwrap();
    kept.is_used();
    kept.guest.scratch.file("etc/ld.so.preload", "");
    kept.is_refused(Refusal::Lookup, nothing);
}

#[test]
fn a_library_that_is_gone_is_noticed() {
    let kept = Kept::new();
    let path = kept.guest.scratch.path("lib/x86_64-linux-gnu/libc.so.6");
    let elsewhere = kept.guest.scratch.path("lib/libc.so.6");
    fs::rename(&path, &elsewhere).unwrap();
    kept.is_refused(Refusal::Lookup, nothing);
}

#[test]
fn what_the_environment_tells_the_dynamic_linker_or_malloc_counts() {
    let kept = Kept::new();
    for variable in ["LD_BIND_NOW", "GLIBC_TUNABLES", "MALLOC_ARENA_MAX"] {
        kept.is_refused(Refusal::Environment, |command| {
            command.env(variable, "1");
        });
    }
    kept.is_used();
}

#[test]
fn another_limit_of_the_stack_is_noticed() {
    let kept = Kept::new();
    edit_word(&kept, PartKind::SnapshotHead, 32, |soft| soft / 2);
    kept.is_refused(Refusal::StackLimit, nothing);
}

#[test]
fn a_snapshot_of_another_boot_is_not_used() {
    let kept = Kept::new();
    edit_word(&kept, PartKind::SnapshotHead, 0, |id| !id);
    kept.is_refused(Refusal::Boot, nothing);
}

#[test]
fn another_vdso_is_noticed() {
    let kept = Kept::new();
    edit_word(&kept, PartKind::SnapshotHead, 16, |sum| !sum);
    kept.is_refused(Refusal::Vdso, nothing);
    edit_word(&kept, PartKind::SnapshotHead, 24, |_| 1 << 40);
    kept.is_refused(Refusal::Vdso, nothing);
}

#[test]
fn another_word_of_the_auxiliary_vector_is_noticed() {
    let kept = Kept::new();
    edit_word(&kept, PartKind::SnapshotAuxiliary, 8, |value| value + 1);
    kept.is_refused(Refusal::Auxiliary, nothing);
}

#[test]
fn a_snapshot_that_others_may_write_to_is_not_used() {
    let kept = Kept::new();
    for mode in [0o664, 0o646] {
        fs::set_permissions(kept.snapshot(), Permissions::from_mode(mode)).unwrap();
        kept.is_refused(Refusal::Owner, nothing);
    }
    fs::set_permissions(kept.snapshot(), Permissions::from_mode(0o600)).unwrap();
    kept.is_used();
    if rustix::process::geteuid().is_root() {
        const NOBODY: u32 = 65534;
        chown(kept.snapshot(), Some(NOBODY), None).unwrap();
        kept.is_refused(Refusal::Owner, nothing);
    }
}

#[test]
fn a_snapshot_that_is_cut_or_damaged_is_not_used() {
    let kept = Kept::new();
    let bytes = fs::read(kept.snapshot()).unwrap();
    for len in [0, 63, 64, 500, bytes.len() - 1] {
        fs::write(kept.snapshot(), &bytes[..len]).unwrap();
        kept.is_refused(Refusal::Malformed, nothing);
    }
    for at in [0, 8, 70, 1000] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        fs::write(kept.snapshot(), damaged).unwrap();
        kept.is_refused(Refusal::Malformed, nothing);
    }
    fs::write(kept.snapshot(), bytes).unwrap();
    kept.is_used();
}

/// Has the kernel refuse the snapshot's last mapping, which is that of code.
fn spoil_last_code(kept: &Kept) {
    edit(kept, PartKind::SnapshotRegions, |part| {
        const ROW: usize = 32;
        const READ_AND_EXECUTE: u8 = 5;
        let (rows, _) = part.as_chunks_mut::<ROW>();
        let mut code = rows.iter_mut().filter(|row| row[28] == READ_AND_EXECUTE);
        // No file is so long that an offset of it could be that: EOVERFLOW.
        let row = code.next_back().expect("code");
        row[16..24].copy_from_slice(&0x7fff_ffff_ffff_f000_u64.to_le_bytes());
    });
}

#[test]
fn what_was_mapped_is_gone_where_the_kernel_refuses_the_last_mapping() {
    let kept = Kept::new();
    kept.is_used();
    spoil_last_code(&kept);
    kept.is_refused(Refusal::Memory, nothing);
    let trace = kept.trace("openat,mmap,munmap", &[]);
    // Between these two nothing is mapped but the snapshot.
    let (_, rest) = trace.split_once(names::SNAPSHOT_SUFFIX).expect("its file");
    let (calls, _) = rest.split_once(names::COUNTS_SUFFIX).expect("its counters");
    let (mut mapped, mut most) = (BTreeSet::new(), 0);
    for line in calls.lines() {
        if let Some(arguments) = line.strip_prefix("munmap(") {
            for page in pages(arguments) {
                mapped.remove(&page);
            }
        } else if let Some(arguments) = line.strip_prefix("mmap(")
            && line.contains(") = 0x")
        {
            mapped.extend(pages(arguments));
        }
        most = most.max(mapped.len());
    }
    assert!(calls.contains("EOVERFLOW") && most > 0, "{calls}");
    assert!(mapped.is_empty(), "still mapped: {mapped:x?}: {calls}");
}

/// The addresses of the pages that a call's first two arguments, address and length, are about, as strace(1) writes them.
fn pages(arguments: &str) -> impl Iterator<Item = u64> {
    let (start, rest) = arguments.split_once(", ").expect("an address");
    let start = start.strip_prefix("0x").expect("a place that was chosen");
    let start = u64::from_str_radix(start, 16).expect("an address");
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
    let len: u64 = digits.and_then(|len| len.parse().ok()).expect("a length");
    (start..start + len).step_by(4096)
}

#[test]
fn blocks_of_copies_are_free_again_where_the_kernel_refuses_the_last_mapping() {
    let kept = Kept::without_snapshot();
    kept.index();
    kept.add(&[super::kept::PROGRAM]);
    kept.is_used();
    spoil_last_code(&kept);
    kept.is_refused(Refusal::Memory, nothing);
    let trace = kept.trace("seccomp,openat,munmap", &[]);
    // A copy was mapped for the snapshot, and then for the dynamic linker: where a block's place is taken, the original is, and a filter goes with it.
    assert!(trace.contains(".snap"), "{trace}");
    assert!(trace.matches("/store/text/").count() > 1, "{trace}");
    assert!(!trace.contains("SECCOMP_SET_MODE_FILTER"), "{trace}");
}

#[test]
fn without_a_place_of_its_own_a_program_is_loaded() {
    let kept = Kept::without_snapshot();
    kept.add(&["--fixed", super::kept::PROGRAM]);
    // The last region is put where the runtime itself lies.
    let regions = |part: &mut [u8]| {
        const ROW: usize = 32;
        let rows = (part.len() - 8) / ROW;
        let start = u64::from_le_bytes(part[..8].try_into().unwrap());
        assert!(
            start < 0x6f00_0000_0000,
            "the program lies below the runtime"
        );
        let program = (0..rows)
            .take_while(|row| {
                let at = row * ROW;
                u64::from_le_bytes(part[at..at + 8].try_into().unwrap()) < 0x6f00_0000_0000
            })
            .last()
            .unwrap();
        let at = program * ROW;
        part[at..at + 8].copy_from_slice(&0x6f00_0000_0000_u64.to_le_bytes());
    };
    edit(&kept, PartKind::SnapshotRegions, regions);
    kept.is_refused(Refusal::Collision, nothing);
}
