//! Small files of each kind that use every feature of the format.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;

use elfuse_format::checksum::checksum;
use elfuse_format::elf_facts::{ElfFacts, flags};
use elfuse_format::keys::{DeviceRow, DirKey, FileKey, KeysContent, Seal, Time};
use elfuse_format::loader_cache::{
    CandidateRow, LoaderCache, LoaderCacheContent, NONE, NewDir, NewInput, NewObject, NewProgram,
    NewSoname, Reason,
};
use elfuse_format::sidecar::{self, Content, NewEntry};
use elfuse_format::snapshot::{self, NO_FILE, Outcome, Value, region_flags};
use elfuse_format::span::Span;
use elfuse_format::text::{
    NO_COPY, RelocatedRun, SET_VERSION, TextCopy, TextIdentity, TextVerdict, block_start,
    copy_flags,
};

pub(crate) fn entry(name: &[u8], content: Content) -> NewEntry {
    NewEntry {
        name: name.to_vec(),
        content,
        host_spelling: None,
    }
}

pub(crate) fn facts() -> ElfFacts {
    ElfFacts {
        size: 0x1_0000_0002,
        content_hash: [0xab; 32],
        class: 2,
        data: 1,
        os_abi: 3,
        abi_version: 4,
        elf_type: 3,
        machine: 62,
        e_flags: 5,
        flags: flags::DYNAMIC | flags::PIE,
        dt_flags_1: 6,
        x86_isa_needed: 7,
        interpreter: Some(b"/lib/ld.so".to_vec()),
        soname: Some(b"libx.so.1".to_vec()),
        rpath: None,
        runpath: Some(Vec::new()),
        build_id: Some(vec![0, 1, 2]),
        needed: vec![b"libc.so.6".to_vec(), b"libm.so.6".to_vec()],
        filters: vec![b"alibx.so".to_vec()],
    }
}

/// A directory with one of everything.
pub(crate) fn entries() -> Vec<NewEntry> {
    let mut spelled = entry(b"README", Content::File);
    spelled.host_spelling = Some(b".ef=524541444d45".to_vec());
    vec![
        spelled,
        entry(b"dir", Content::Directory),
        entry(b"libx.so", Content::Symlink(b"libx.so.1".to_vec())),
        entry(b"libx.so.1", Content::Elf(Arc::new(facts()))),
        entry(b"broken", Content::BrokenElf),
        entry(b"fifo", Content::Other),
        entry(b"\xff\n", Content::Directory),
    ]
}

pub(crate) fn block() -> Vec<u8> {
    sidecar::encode(entries()).unwrap()
}

pub(crate) fn dir_key(ino: u64) -> DirKey {
    DirKey {
        ino,
        mtime: Time {
            secs: -1,
            nanos: 999_999_999,
        },
        ctime: Time {
            secs: 1 << 40,
            nanos: 0,
        },
        block_checksum: 0x1122_3344_5566_7788,
        device: 0,
        seal: Seal::Sealed as u8,
    }
}

pub(crate) fn keys_content() -> KeysContent {
    let file = FileKey {
        ino: 12,
        size: 34,
        mtime: Time {
            secs: 56,
            nanos: 78,
        },
        ctime: Time {
            secs: 90,
            nanos: 12,
        },
        device: 1,
        seal: Seal::Racy as u8,
    };
    KeysContent {
        bound_to: LoaderCache::parse(&loader_cache()).unwrap().binding(),
        flags: 0,
        devices: vec![
            DeviceRow {
                dev: 1,
                fs_type: 0xef53,
                fs_id: 2,
            },
            DeviceRow {
                dev: 3,
                fs_type: 4,
                fs_id: 5,
            },
        ],
        dirs: vec![
            dir_key(100),
            DirKey {
                seal: Seal::Unreadable as u8,
                ..dir_key(0)
            },
            dir_key(101),
        ],
        files: vec![file],
        inputs: vec![FileKey {
            seal: Seal::Sealed as u8,
            ..file
        }],
        plain: vec![7, 0, u64::MAX],
        text_identities: vec![
            (
                text_identity(12, TextVerdict::Complete, 0),
                RelocatedRun { first: 0, pages: 1 },
            ),
            (
                text_identity(9, TextVerdict::Clean, NO_COPY),
                RelocatedRun::default(),
            ),
        ],
        text_copies: vec![text_copy()],
        attributes: None,
    }
}

pub(crate) fn keys() -> Vec<u8> {
    keys_content().encode().unwrap()
}

/// Root with two directories, one of them not covered; the other one empty.
pub(crate) fn loader_cache() -> Vec<u8> {
    let root = block();
    let empty = sidecar::encode(Vec::new()).unwrap();
    let dir = |parent, entry, children, elf_count, block| NewDir {
        parent,
        entry,
        children,
        elf_count,
        block,
    };
    let children = Span { start: 1, len: 2 };
    let object = |name: &str, place, requester, reason, search_dir: &str| NewObject {
        name: name.into(),
        place,
        requester,
        reason,
        search_dir: search_dir.into(),
    };
    let content = LoaderCacheContent {
        rules: 1,
        dirs: vec![
            dir(0, NONE, children, 1, &root),
            dir(0, 2, Span::default(), 0, &[]),
            dir(0, 6, Span::default(), 0, &empty),
        ],
        inputs: vec![
            NewInput {
                path: b"/etc/ld.so.conf".to_vec(),
                content_hash: [1; 32],
            },
            NewInput {
                path: b"/etc/ld.so.cache".to_vec(),
                content_hash: [2; 32],
            },
        ],
        sonames: vec![NewSoname {
            name: b"libx.so.1".to_vec(),
            candidates: vec![
                CandidateRow {
                    dir: 0,
                    entry: 5,
                    search_rank: 0,
                    machine: 62,
                    class: 2,
                },
                CandidateRow {
                    dir: 0,
                    entry: 4,
                    search_rank: NONE,
                    machine: 62,
                    class: 2,
                },
            ],
        }],
        programs: vec![NewProgram {
            dir: 0,
            entry: 5,
            flags: 2,
            objects: vec![
                object("libx.so.1", Some((0, 5)), 0, Reason::Runpath, "/lib"),
                object("libc.so.6", None, 1, Reason::NotFound, ""),
            ],
        }],
    };
    let bytes = content.encode().unwrap();
    assert_ne!(checksum(&bytes), 0);
    bytes
}

fn text_identity(ino: u64, verdict: TextVerdict, copy: u32) -> TextIdentity {
    TextIdentity {
        ino,
        size: 34,
        mtime: Time {
            secs: 56,
            nanos: 78,
        },
        ctime: Time {
            secs: 90,
            nanos: 12,
        },
        copy,
        device: 1,
        verdict: verdict as u8,
    }
}

fn text_copy() -> TextCopy {
    let content_hash = core::array::from_fn(|i| i as u8);
    TextCopy {
        content_hash,
        block: u32::try_from(block_start(&content_hash)).unwrap(),
        data_len: 0x1000,
        code_len: 0x2000,
        slots: 3,
        annex: 0x9000,
        p_offset: 0x1000,
        p_vaddr: 0x2000,
        p_filesz: 0x7654,
        checksum: 0x1122_3344_5566_7788,
        ino: 13,
        size: 0xc000,
        mtime: Time { secs: 1, nanos: 2 },
        ctime: Time { secs: 3, nanos: 4 },
        set_version: SET_VERSION,
        device: 0,
        flags: copy_flags::CPUID,
    }
}

/// Two files, three regions, a run of two pages in the last.
pub(crate) fn snapshot_content() -> snapshot::Content<'static> {
    let time = Time { secs: 7, nanos: 8 };
    let file = |ino| snapshot::File {
        dev: 5,
        ino,
        size: 9000,
        mtime: time,
        ctime: time,
    };
    let region = |start, pages, file, protection| snapshot::Region {
        start,
        len: pages * snapshot::PAGE,
        offset: 0,
        file,
        protection,
        flags: region_flags::MOVES,
    };
    let mut slide = [0; snapshot::SLIDE_LEN];
    slide[1] = 0x81;
    let fix_up = |page, at, value, addend| snapshot::FixUp {
        addend,
        page,
        at,
        value: value as u16,
    };
    let mut pages = vec![0x11; snapshot::PAGE as usize];
    pages.resize(2 * snapshot::PAGE as usize, 0x22);
    snapshot::Content {
        head: snapshot::Head {
            boot_id: *b"0123456789abcdef",
            vdso_checksum: 1,
            vdso_len: 8192,
            stack_limits: [8 << 20, u64::MAX],
            resume: 0x7e00_0000_1008,
            entry: 0x5600_0000_1000,
            phdr: 0x5600_0000_0040,
            phnum: 11,
            base: 0x7e00_0000_0000,
            thread_pointer: 0x7e00_0000_3740,
            clear_tid: 0x7e00_0000_3a10,
            robust_list: [0x7e00_0000_3a20, 24],
            rseq: [0x7e00_0000_4060, 32, 0x5305_3053],
            heap: 0x5600_0000_2000,
            extent: [1, 2, 3, 4],
            exe: Span::ABSENT,
            flags: snapshot::head_flags::PROGRAM_MOVES,
        },
        exe: b"/bin/hello",
        files: vec![file(11), file(12)],
        lookups: vec![
            (b"/lib/ld.so".to_vec(), Outcome::File(1)),
            (b"/etc/ld.so.preload".to_vec(), Outcome::Error(2)),
            (b"/lib/glibc-hwcaps".to_vec(), Outcome::Directory),
            (b"/bin/x86_64".to_vec(), Outcome::Other),
        ],
        regions: vec![
            region(0x5600_0000_0000, 2, 0, 5),
            region(0x7e00_0000_0000, 2, 1, 1),
            region(0x7e00_0000_3000, 3, NO_FILE, 3),
        ],
        runs: vec![snapshot::Run {
            region: 2,
            first: 1,
            pages: 2,
        }],
        slides: vec![slide, [0; snapshot::SLIDE_LEN]],
        fix_ups: vec![
            fix_up(0, 0x28, Value::Canary, 0),
            fix_up(0, 0x34, Value::ThreadId, 0),
            fix_up(1, 0, Value::Vdso, 0x120),
        ],
        auxiliary: vec![snapshot::Word { key: 16, value: 3 }],
        pages,
    }
}

pub(crate) fn snapshot() -> Vec<u8> {
    snapshot_content().to_bytes().unwrap()
}
