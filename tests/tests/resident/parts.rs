//! Every part of a snapshot's key, one after the other: each is changed in the file, and the program starts normally. What a row has and is no
//! part of the key is listed too, so that a field that is added does not compile until somebody has said which it is.

use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use elfuse_format::header::PartKind;
use elfuse_format::keys::{ArchivedTime, Time};
use elfuse_format::names;
use elfuse_format::snapshot::counts::Refusal;
use elfuse_format::snapshot::{
    ArchivedFile, ArchivedHead, ArchivedLookup, ArchivedWord, File, Head, Lookup, Outcome, PROGRAM,
    Snapshot, Word, tables_len,
};
use elfuse_tests::enter::allowing_chroot;
use elfuse_tests::need;
use elfuse_tests::scratch::copy_program;
use rustix::fs::StatVfsMountFlags;

use super::guest::said;
use super::kept::{self, Kept};
use super::key::{edit, nothing};

/// What a field is to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    /// A part of it: where it is another, this is the reason.
    Key(Refusal),
    /// No part of it: what is mapped, and where.
    Image,
}
use Is::{Image, Key};

/// Name, offset in the row, and what it is, of all fields of a row.
macro_rules! fields {
    ($whole:ident, $archived:ident: $($field:ident $is:expr),* $(,)?) => {{
        // There is no `..` in this: a field that is added has to be named above.
        let _ = |whole: $whole| {
            let $whole { $($field: _),* } = whole;
        };
        [$((stringify!($field), offset_of!($archived, $field), $is)),*]
    }};
}

/// Flips bits of a byte of the snapshot.
fn flip(kept: &Kept, kind: PartKind, at: usize) {
    edit(kept, kind, |part| part[at] ^= 1);
}

/// Flips a byte, sees that the snapshot is refused for that, and flips it back.
fn is_noticed(kept: &Kept, kind: PartKind, at: usize, reason: Refusal) {
    flip(kept, kind, at);
    kept.is_refused(reason, nothing);
    flip(kept, kind, at);
}

/// What the tables of the snapshot say.
fn tables<T>(kept: &Kept, look: impl FnOnce(&Snapshot<'_>) -> T) -> T {
    let bytes = fs::read(kept.snapshot()).expect("the snapshot");
    let len = bytes.len() as u64;
    let tables = tables_len(&bytes, len).unwrap() as usize;
    look(&Snapshot::parse(&bytes[..tables], len).unwrap())
}

#[test]
fn every_field_of_the_head_that_is_of_the_key_is_noticed() {
    let kept = Kept::new();
    let fields = fields!(Head, ArchivedHead:
        boot_id Key(Refusal::Boot),
        vdso_checksum Key(Refusal::Vdso),
        vdso_len Key(Refusal::Vdso),
        stack_limits Key(Refusal::StackLimit),
        exe Key(Refusal::Program),
        resume Image, entry Image, phdr Image, phnum Image, base Image, thread_pointer Image, clear_tid Image,
        robust_list Image, rseq Image, heap Image, extent Image, flags Image,
    );
    for (name, at, is) in fields {
        match is {
            Image => {}
            // Another path: it is some bytes of the paths that all rows share.
            Key(reason) if name == "exe" => is_noticed(&kept, PartKind::SnapshotPaths, 1, reason),
            Key(reason) => is_noticed(&kept, PartKind::SnapshotHead, at, reason),
        }
    }
    // The hard limit lies behind the soft one.
    let hard = offset_of!(ArchivedHead, stack_limits) + 8;
    is_noticed(&kept, PartKind::SnapshotHead, hard, Refusal::StackLimit);
    kept.is_used();
}

#[test]
fn every_field_of_every_files_identity_is_noticed() {
    let kept = Kept::new();
    let fields = fields!(File, ArchivedFile:
        dev Key(Refusal::File), ino Key(Refusal::File), size Key(Refusal::File),
        mtime Key(Refusal::File), ctime Key(Refusal::File),
    );
    let times = fields!(Time, ArchivedTime: secs Key(Refusal::File), nanos Key(Refusal::File));
    let files = tables(&kept, |snapshot| snapshot.files.len());
    assert!(files >= 3, "program, dynamic linker, libc: {files}");
    for file in 0..files {
        let reason = match file as u32 {
            PROGRAM => Refusal::Program,
            _ => Refusal::File,
        };
        for (name, at, _) in fields {
            let at = file * size_of::<ArchivedFile>() + at;
            let parts = if name.ends_with("time") {
                times.map(|(_, part, _)| at + part).to_vec()
            } else {
                vec![at]
            };
            for at in parts {
                is_noticed(&kept, PartKind::SnapshotFiles, at, reason);
            }
        }
    }
    kept.is_used();
}

#[test]
fn every_word_of_the_auxiliary_vector_is_noticed() {
    let kept = Kept::new();
    let fields =
        fields!(Word, ArchivedWord: key Key(Refusal::Auxiliary), value Key(Refusal::Auxiliary));
    let words = tables(&kept, |snapshot| snapshot.auxiliary.len());
    // AT_HWCAP, AT_HWCAP2, AT_PAGESZ, AT_MINSIGSTKSZ and more.
    assert!(words >= 6, "{words}");
    for word in 0..words {
        for (name, at, _) in fields {
            // Of a key that no vector has the value is 0, as of one that is asked for and 0.
            if name == "value" {
                let at = word * size_of::<ArchivedWord>() + at;
                is_noticed(&kept, PartKind::SnapshotAuxiliary, at, Refusal::Auxiliary);
            }
        }
    }
    kept.is_used();
}

#[test]
fn every_lookup_is_made_again() {
    let kept = Kept::new();
    let fields = fields!(Lookup, ArchivedLookup:
        path Key(Refusal::Lookup), outcome Key(Refusal::Lookup), value Key(Refusal::Lookup));
    let offset = |wanted: &str| {
        let mut all = fields.iter();
        all.find(|(name, ..)| *name == wanted).expect("a field").1
    };
    let outcomes = tables(&kept, |snapshot| -> Vec<_> {
        let lookups = snapshot.lookups.iter();
        lookups
            .map(|lookup| lookup.outcome().expect("one that is known"))
            .collect()
    });
    let (mut files, mut failures) = (0, 0);
    let put = |lookup: usize, outcome: Outcome| {
        let (number, value) = outcome.to_words();
        edit(&kept, PartKind::SnapshotLookups, |part| {
            for (name, word) in [("outcome", number), ("value", value)] {
                let at = lookup * size_of::<ArchivedLookup>() + offset(name);
                part[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
        });
    };
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let others = match outcome {
            Outcome::File(_) => {
                files += 1;
                vec![
                    (Outcome::File(PROGRAM), Refusal::File),
                    (Outcome::Error(2), Refusal::Lookup),
                    (Outcome::Directory, Refusal::Lookup),
                ]
            }
            Outcome::Error(errno) => {
                failures += 1;
                vec![
                    (Outcome::File(PROGRAM), Refusal::Lookup),
                    (Outcome::Error(errno + 1), Refusal::Lookup),
                    (Outcome::Directory, Refusal::Lookup),
                    (Outcome::Other, Refusal::Lookup),
                ]
            }
            Outcome::Directory => vec![(Outcome::Other, Refusal::Lookup)],
            Outcome::Other => vec![(Outcome::Directory, Refusal::Lookup)],
        };
        for (other, reason) in others {
            put(number, other);
            kept.is_refused(reason, nothing);
        }
        put(number, outcome);
    }
    assert!(
        files >= 2 && failures >= 2,
        "{files} files, {failures} failures"
    );
    kept.is_used();
}

#[test]
fn a_cache_of_the_dynamic_linkers_that_was_written_anew_is_noticed() {
    let kept = Kept::without_snapshot();
    let root = kept.guest.scratch.root();
    kept.guest
        .scratch
        .file("etc/ld.so.conf", "/lib/x86_64-linux-gnu\n");
    let write = || {
        let ldconfig = need::tool("ldconfig", "libc-bin");
        said(allowing_chroot(ldconfig).arg("-X").arg("-r").arg(root)).well();
    };
    write();
    kept.add(&[kept::PROGRAM]);
    kept.is_used();
    write();
    kept.is_refused(Refusal::File, nothing);
}

#[test]
fn a_file_whose_times_alone_were_changed_is_noticed() {
    let kept = Kept::new();
    let library = kept.guest.scratch.path("lib/x86_64-linux-gnu/libc.so.6");
    // To what it was: the change itself has a time.
    elfuse_tests::scratch::keeping_mtime(&library, || ());
    kept.is_refused(Refusal::File, nothing);
}

#[test]
fn a_snapshot_in_the_place_of_another_programs_is_not_used() {
    const OTHER: &str = "/bin/other";
    let kept = Kept::new();
    let root = |path: &str| kept.guest.scratch.path(path.trim_start_matches('/'));
    fs::hard_link(root(kept::PROGRAM), root(OTHER)).unwrap();
    // Another name changes the file's ctime.
    kept.add(&[kept::PROGRAM]);
    kept.is_used();
    for suffix in [names::SNAPSHOT_SUFFIX, names::COUNTS_SUFFIX] {
        fs::copy(kept.file(kept::PROGRAM, suffix), kept.file(OTHER, suffix)).unwrap();
    }
    let before = kept.counts_of(OTHER);
    assert_eq!(said(&mut kept.command(&[], &[OTHER, "last"])).status, 7);
    let after = kept.counts_of(OTHER);
    let reason = Refusal::Program as usize;
    assert_eq!(after[reason], before[reason] + 1, "{after:?}");
}

#[test]
fn a_limit_of_the_stack_that_was_set_for_the_start_is_noticed() {
    let kept = Kept::new();
    let [soft, hard] = tables(&kept, |snapshot| snapshot.head().stack_limits);
    let under = |limit: String| {
        move |command: &mut Command| {
            let mut limited = Command::new(need::tool("prlimit", "util-linux"));
            limited
                .arg(format!("--stack={limit}"))
                .arg(command.get_program())
                .args(command.get_args())
                .env_clear()
                .env("GREETING", "hello");
            *command = limited;
        }
    };
    let smaller = soft.min(8 << 20) / 2;
    kept.is_refused(Refusal::StackLimit, under(format!("{smaller}:")));
    let hard = if hard == u64::MAX {
        1 << 40
    } else {
        hard - 4096
    };
    if soft < hard {
        kept.is_refused(Refusal::StackLimit, under(format!(":{hard}")));
    }
    kept.is_used();
}

/// Why no program of a directory is started with the rights of its owner.
fn without_privileges(directory: &Path) -> Option<&'static str> {
    let mount = rustix::fs::statvfs(directory).expect("its file system");
    if mount.f_flag.contains(StatVfsMountFlags::NOSUID) {
        return Some("TMPDIR is mounted with nosuid");
    }
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let is_refused = status.lines().any(|line| line == "NoNewPrivs:\t1");
    is_refused.then_some("the tests run with no_new_privs")
}

#[test]
fn a_program_that_is_started_with_privileges_is_loaded() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !rustix::process::geteuid().is_root() {
        eprintln!("LEFT OUT, as only root can give a program away: AT_SECURE");
        return;
    }
    const NOBODY: u32 = 65534;
    let kept = Kept::new();
    let elfuse = kept.guest.scratch.beside("elfuse");
    if let Some(why) = without_privileges(kept.guest.scratch.root()) {
        eprintln!("LEFT OUT, as {why}: AT_SECURE");
        return;
    }
    copy_program(&kept.guest.programs.elfuse, &elfuse);
    chown(&elfuse, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&elfuse, PermissionsExt::from_mode(0o4755)).unwrap();
    for suffix in [names::SNAPSHOT_SUFFIX, names::COUNTS_SUFFIX] {
        chown(kept.file(kept::PROGRAM, suffix), Some(NOBODY), None).unwrap();
    }
    kept.is_refused(Refusal::Secure, |command| {
        let mut privileged = Command::new(&elfuse);
        privileged
            .args(command.get_args())
            .env_clear()
            .env("GREETING", "hello");
        *command = privileged;
    });
}
