//! Trees as nobody makes them on purpose, or only on purpose.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use elfuse_format::sidecar::Kind;
use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::{Reader, no_stale_key_validates, no_stale_key_validates_in};
use elfuse_tests::need;
use elfuse_tests::scratch::{Elf, Random, Scratch, mtime};
use elfuse_tests::snapshot;
use elfuse_tests::tool::{Ran, Tool};
use rustix::fs::{
    CWD, FileType, Mode, OFlags, RenameFlags, mkdirat, mknodat, openat, renameat_with,
};

fn node(path: &Path, kind: FileType, device: u64) -> rustix::io::Result<()> {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device)
}

/// Kind of a path by the index, as a reader finds it.
fn kind_of(tree: &Scratch, path: impl AsRef<Path>) -> Option<Kind> {
    let reader = Reader::open(&tree.path(".elfuse"))?;
    let (_, entry) = reader.find(path.as_ref())?;
    entry.kind()
}

/// Whether the index has facts of a file.
fn has_facts(tree: &Scratch, path: &str) -> bool {
    let reader = Reader::open(&tree.path(".elfuse")).expect("an index");
    let (_, entry) = reader.find(path.as_ref()).expect("a name in the index");
    entry.elf().is_some()
}

/// Builds, and asserts that everything in the index is sealed and so.
#[track_caller]
fn build(tree: &Scratch) -> Ran {
    let ran = elfuse_index!().build(tree.root(), &[]);
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed, "{believed:?}");
    ran
}

/// Runs a shell script in a mount namespace of its own, where it may mount; `$1` is the sysroot, `$elfuse` the program. As root
/// or, by a user namespace, without.
#[track_caller]
fn with_mounts(tree: &Scratch, script: &str) -> Ran {
    let mut command = Command::new(need::tool("unshare", "util-linux"));
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["sh", "-euc", script, "with-mounts"])
        .arg(tree.root());
    command.env("elfuse", elfuse_index!().binary());
    command.env("XDG_CACHE_HOME", tree.beside("cache"));
    let output = command.output().expect("running unshare");
    let ran = Ran::of(&command, &output);
    assert!(
        !ran.notes.contains("unshare") && !ran.notes.contains("mount:"),
        "this test needs mount namespaces, and cannot have them: {}",
        ran.notes
    );
    ran
}

#[test]
fn an_empty_tree_has_an_index() {
    let tree = Scratch::new();
    let ran = build(&tree).succeeded();
    assert_eq!((ran.number("directories"), ran.number("entries")), (1, 0));
    assert_eq!(tree.index_files().len(), 5, "{:?}", tree.index_files());
}

#[test]
fn symlink_loops_and_links_out_of_the_tree_are_kept_as_text_and_never_followed() {
    let tree = Scratch::new();
    let outside = tree.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("canary"), Elf::library("libcanary.so").bytes()).unwrap();
    let before = snapshot::of(&outside);
    tree.link("a", "b");
    tree.link("b", "a");
    tree.link("self", "self");
    tree.link("sub/up", "..");
    tree.link("sub/here", ".");
    tree.link("sub/out", "../../outside");
    tree.link("absolute", &outside);
    tree.link("host", "/");
    tree.link("dangling", "nowhere");
    tree.link("long", "x/".repeat(2000));
    let ran = build(&tree).succeeded();
    assert_eq!((ran.number("directories"), ran.number("entries")), (2, 11));
    let cache = fs::read(tree.path(".elfuse/loader-cache")).unwrap();
    assert!(!cache.windows(6).any(|window| window == b"canary"));
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    snapshot::assert_same(&before, &snapshot::of(&outside));
}

#[test]
fn sockets_fifos_and_device_nodes_are_names_and_are_not_opened() {
    let tree = Scratch::new();
    let _listener = UnixListener::bind(tree.path("socket")).unwrap();
    node(&tree.path("fifo"), FileType::Fifo, 0).unwrap();
    // The one device node that needs no privilege: overlayfs's mark of a removed file.
    node(&tree.path("whiteout"), FileType::CharacterDevice, 0).unwrap();
    let mut names = vec!["socket", "fifo", "whiteout"];
    match node(
        &tree.path("zero"),
        FileType::CharacterDevice,
        rustix::fs::makedev(1, 5),
    ) {
        Ok(()) => names.push("zero"),
        Err(error) => eprintln!("SKIPPED in part: only root makes device nodes ({error})"),
    }
    let ran = build(&tree).succeeded();
    assert_eq!(ran.number("entries"), names.len() as u64);
    assert_eq!(ran.warnings(), [""; 0]);
    for name in names {
        assert_eq!(kind_of(&tree, name), Some(Kind::Other), "{name}");
    }
}

#[test]
fn names_of_any_bytes_and_255_of_them_are_found() {
    let tree = Scratch::new();
    let names: Vec<Vec<u8>> = vec![
        b"new\nline".to_vec(),
        b"not utf-8 \xff\xfe".to_vec(),
        b"\x01\x1b[31mred".to_vec(),
        b"-rf".to_vec(),
        b" ".to_vec(),
        b"...".to_vec(),
        b"back\\slash".to_vec(),
        "größe".as_bytes().to_vec(),
        vec![b'n'; 255],
        vec![0xff; 255],
        b".elfuse".to_vec(),
    ];
    for name in &names {
        tree.named("d", name, Elf::library("lib.so").bytes());
        fs::create_dir_all(tree.path("e").join(OsStr::from_bytes(name)).join("f")).unwrap();
    }
    let ran = build(&tree).succeeded();
    assert_eq!(ran.number("elf_files"), names.len() as u64);
    for name in &names {
        let name = OsStr::from_bytes(name);
        assert_eq!(kind_of(&tree, Path::new("d").join(name)), Some(Kind::File));
        assert_eq!(
            kind_of(&tree, Path::new("e").join(name).join("f")),
            Some(Kind::Directory)
        );
    }
    // Both as text and as JSON it can be said which of them is gone.
    fs::remove_file(tree.path("d").join(OsStr::from_bytes(&names[1]))).unwrap();
    let found = elfuse_index!().verify(tree.root(), &[]);
    let hex: String = b"/d/not utf-8 \xff\xfe"
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(found, [("no-such-name".to_owned(), hex)]);
    let text = elfuse_index!()
        .run(["verify".as_ref(), tree.root().as_os_str()])
        .ended_with(1)
        .text;
    assert!(text.contains(r"/d/not utf-8 \xff\xfe"), "{text}");
}

#[test]
fn a_file_with_several_names_has_facts_under_each() {
    let tree = Scratch::new();
    tree.elf("lib/a.so", &Elf::library("a.so"));
    fs::hard_link(tree.path("lib/a.so"), tree.path("lib/b.so")).unwrap();
    fs::create_dir(tree.path("other")).unwrap();
    fs::hard_link(tree.path("lib/a.so"), tree.path("other/c.so")).unwrap();
    let ran = build(&tree).succeeded();
    assert_eq!(ran.number("elf_files"), 3);
    assert_eq!(no_stale_key_validates(tree.root()).files, 3);
}

#[test]
fn a_directory_of_a_hundred_thousand_names_is_indexed_and_not_read_again() {
    const NAMES: usize = 100_000;
    let tree = Scratch::in_memory();
    let directory = tree.directory("many");
    for number in 0..NAMES {
        let path = directory.join(format!("name-{number}"));
        drop(fs::File::create(path).unwrap());
    }
    let ran = build(&tree).succeeded();
    assert_eq!(ran.number("entries"), NAMES as u64 + 1);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.names, NAMES + 1);
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], true);
}

/// The names from a directory down, each with the same single name, made and read without ever writing the whole path.
fn descend(root: &Path, name: &str, levels: usize, each: impl Fn(&fs::File)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = fs::File::open(root).unwrap();
    for level in 0..=levels {
        each(&at);
        if level < levels {
            match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => panic!("{error}"),
            }
            at = openat(&at, name, flags, Mode::empty()).unwrap().into();
        }
    }
}

#[test]
fn a_tree_deeper_than_a_path_can_be_long_is_indexed_verified_and_cleaned() {
    const LEVELS: usize = 400;
    const NAME: &str = "a-rather-long-name-of-a-directory";
    let tree = Scratch::new();
    let has = |name: &'static str| {
        move |at: &fs::File| {
            let found = rustix::fs::statat(at, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            assert!(found.is_ok(), "no {name}");
        }
    };
    descend(tree.root(), NAME, LEVELS, |at| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = openat(at, "lib.so", flags, Mode::from_raw_mode(0o644)).unwrap();
        io::Write::write_all(&mut fs::File::from(file), &Elf::library("lib.so").bytes()).unwrap();
    });
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.number("directories"), LEVELS as u64 + 1);
    assert_eq!(ran.number("elf_files"), LEVELS as u64 + 1);
    assert_eq!(ran.json()["unsealed_directories"], serde_json::json!({}));
    descend(tree.root(), NAME, LEVELS, has(".elfuse-sidecar-index"));
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], true);
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(ran.number("sidecars_removed"), LEVELS as u64 + 1);
    descend(tree.root(), NAME, LEVELS, |at| {
        let found = rustix::fs::statat(at, ".elfuse-sidecar-index", rustix::fs::AtFlags::empty());
        assert_eq!(found.err(), Some(rustix::io::Errno::NOENT));
    });
}

#[test]
fn truncated_and_garbled_elf_files_are_counted_and_reported_once() {
    let tree = Scratch::in_memory();
    let whole = Elf::program("/lib/ld.so")
        .needing("liba.so.1")
        .with_runpath("$ORIGIN")
        .bytes();
    for len in 0..whole.len() {
        tree.file(format!("truncated/{len}"), &whole[..len]);
    }
    let mut random = Random(1);
    for number in 0..500 {
        let mut garbled = whole.clone();
        for _ in 0..1 + random.below(8) {
            let at = 4 + random.below(garbled.len() - 4);
            garbled[at] = random.next() as u8;
        }
        tree.file(format!("garbled/{number}"), garbled);
    }
    // A header that promises more than any file holds.
    let mut lying = whole.clone();
    lying[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    tree.file("lying", lying);
    let ran = build(&tree).succeeded();
    assert_eq!(ran.warnings(), ["broken-elf"]);
    let again = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(again.json()["unchanged"], true);
    assert_eq!(again.warnings(), ["broken-elf"], "they still are");
    let count = |ran: &Ran| ran.json()["warnings"][0]["count"].as_u64();
    assert_eq!(count(&again), count(&ran));
}

#[test]
fn a_sparse_file_larger_than_the_disk_costs_nothing() {
    const HUGE: u64 = 1 << 43;
    let tree = Scratch::in_memory().populated();
    let huge = tree.file("etc/huge", "plain");
    fs::File::options()
        .write(true)
        .open(huge)
        .unwrap()
        .set_len(HUGE)
        .unwrap();
    let elf = tree.elf("usr/lib64/libhuge.so", &Elf::library("libhuge.so"));
    fs::File::options()
        .write(true)
        .open(elf)
        .unwrap()
        .set_len(HUGE)
        .unwrap();
    // A program needs one that is no ELF file, and the loader's configuration is one, too.
    tree.elf(
        "usr/bin/needs-huge",
        &Elf::program("/lib64/ld-linux-x86-64.so.2").needing("libplain.so"),
    );
    let plain = tree.file("usr/lib64/libplain.so", "plain");
    fs::File::options()
        .write(true)
        .open(plain)
        .unwrap()
        .set_len(HUGE)
        .unwrap();
    let conf = tree.file("etc/ld.so.conf", "/opt/lib\n");
    fs::File::options()
        .write(true)
        .open(conf)
        .unwrap()
        .set_len(HUGE)
        .unwrap();
    let ran = bounded().build(tree.root(), &["--no-wait"]).ended_with(3);
    assert_eq!(ran.warnings(), ["unreadable-file", "unsealed"]);
    assert!(!has_facts(&tree, "usr/lib64/libhuge.so"));
    assert_eq!(bounded().verify(tree.root(), &[]), []);
}

#[test]
fn names_that_only_look_like_the_indexs_own_are_indexed_and_kept() {
    let tree = Scratch::new();
    let names = [
        ".elfuse-sidecar-index.txt",
        ".elfuse-sidecar-index~",
        ".elfuse-sidecar-index.tmp",
        ".elfuse-sidecar",
        ".elfuse.old",
        "sub/.elfuse/keys",
        "elfuse",
    ];
    for name in names {
        tree.file(name, "mine");
    }
    let before = snapshot::of(tree.root());
    build(&tree).succeeded();
    for name in names {
        assert!(kind_of(&tree, name).is_some(), "{name}");
    }
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    let paths = |snapshot: &snapshot::Snapshot| snapshot.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&before), paths(&snapshot::of(tree.root())));
}

#[test]
fn a_store_that_is_no_directory_is_refused_and_left_alone() {
    for make in [
        |tree: &Scratch| drop(tree.file(".elfuse", "mine")),
        |tree: &Scratch| drop(tree.link(".elfuse", tree.beside("outside"))),
        |tree: &Scratch| drop(tree.link(".elfuse", "nowhere")),
        |tree: &Scratch| node(&tree.path(".elfuse"), FileType::Fifo, 0).unwrap(),
    ] {
        let tree = Scratch::in_memory().populated();
        let other = Scratch::in_memory().populated();
        bounded().build(other.root(), &["--no-wait"]).succeeded();
        fs::rename(other.path(".elfuse"), tree.beside("outside")).unwrap();
        make(&tree);
        let (inside, outside) = (
            snapshot::of(tree.root()),
            snapshot::of(&tree.beside("outside")),
        );
        for command in ["build", "seal"] {
            let ran = bounded().on(command, tree.root(), &[]).ended_with(125);
            assert!(
                ran.notes.contains(".elfuse is not a directory"),
                "{}",
                ran.notes
            );
        }
        // There is no index here, whatever lies where a link leads.
        bounded().on("verify", tree.root(), &[]).ended_with(125);
        bounded().clean(tree.root(), &[]).succeeded();
        snapshot::assert_same(&inside, &snapshot::of(tree.root()));
        snapshot::assert_same(&outside, &snapshot::of(&tree.beside("outside")));
    }
}

#[test]
fn a_store_full_of_traps_leads_nowhere() {
    let names = [
        "lock",
        "keys",
        "loader-cache",
        "keys.tmp",
        "loader-cache.tmp",
        "generation",
    ];
    for trap in ["symlink", "fifo", "directory", "sparse"] {
        let tree = Scratch::in_memory().populated();
        let victim = tree.beside("victim");
        fs::write(&victim, "precious").unwrap();
        let before = snapshot::of(&victim);
        tree.directory(".elfuse");
        for name in names {
            let path = tree.path(".elfuse").join(name);
            match trap {
                "symlink" => symlink(&victim, path).unwrap(),
                "fifo" => node(&path, FileType::Fifo, 0).unwrap(),
                "directory" => fs::create_dir(path).unwrap(),
                _ => fs::File::create(path).unwrap().set_len(1 << 43).unwrap(),
            }
        }
        let verified = bounded().on("verify", tree.root(), &[]);
        assert!(
            [1, 125].contains(&verified.status),
            "{trap}: {}",
            verified.notes
        );
        for command in ["build", "seal"] {
            let ran = bounded().on(command, tree.root(), &["--no-wait"]);
            assert!([0, 125].contains(&ran.status), "{trap}: {}", ran.notes);
            no_stale_key_validates(tree.root());
        }
        bounded().on("clean", tree.root(), &[]);
        snapshot::assert_same(&before, &snapshot::of(&victim));
    }
}

#[test]
fn a_sidecar_that_is_a_trap_leads_nowhere() {
    for trap in ["symlink", "fifo", "directory", "sparse", "device"] {
        let tree = Scratch::in_memory().populated();
        let victim = tree.beside("victim");
        fs::write(&victim, "precious").unwrap();
        let before = snapshot::of(&victim);
        for directory in ["", "usr/lib64", "etc"] {
            let path = tree.path(directory).join(".elfuse-sidecar-index");
            match trap {
                "symlink" => symlink(&victim, path).unwrap(),
                "fifo" => node(&path, FileType::Fifo, 0).unwrap(),
                "directory" => fs::create_dir(path).unwrap(),
                "sparse" => fs::File::create(path).unwrap().set_len(1 << 43).unwrap(),
                _ => {
                    let zero = rustix::fs::makedev(1, 5);
                    if let Err(error) = node(&path, FileType::CharacterDevice, zero) {
                        eprintln!("SKIPPED in part: only root makes device nodes ({error})");
                    }
                }
            }
        }
        for command in ["seal", "build"] {
            bounded()
                .on(command, tree.root(), &["--no-wait"])
                .succeeded();
            no_stale_key_validates(tree.root());
        }
        let found = bounded().verify(tree.root(), &[]);
        assert!(
            found.iter().all(|(kind, _)| kind == "no-sidecar"),
            "{trap}: {found:?}"
        );
        snapshot::assert_same(&before, &snapshot::of(&victim));
    }
}

#[test]
fn times_at_both_ends_of_what_can_be_set_are_taken_as_they_are() {
    let tree = Scratch::in_memory();
    for (number, secs) in [i64::MIN, -1, 0, 1 << 32, 1 << 53, i64::MAX]
        .into_iter()
        .enumerate()
    {
        let directory = tree.directory(format!("{number}"));
        let file = tree.elf(format!("{number}/lib.so"), &Elf::library("lib.so"));
        elfuse_tests::scratch::set_mtime(&file, (secs, 999_999_999));
        elfuse_tests::scratch::set_mtime(&directory, (secs, 0));
    }
    elfuse_index!()
        .build(tree.root(), &["--preserve-mtime"])
        .succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!((believed.directories, believed.files), (7, 6));
}

/// The program with bounds: what reads all of a sparse file ends, and does not end the machine.
fn bounded() -> Tool {
    let prlimit = need::tool("prlimit", "util-linux");
    let timeout = need::tool("timeout", "coreutils");
    let before: [&OsStr; 4] = [
        prlimit.as_os_str(),
        "--as=4294967296".as_ref(),
        timeout.as_os_str(),
        "30".as_ref(),
    ];
    elfuse_index!().under(before)
}

/// A tree with everything that somebody who is not root cannot read, and how often.
fn unreadable() -> Scratch {
    let tree = Scratch::new().populated();
    for (path, mode) in [
        ("secret-a", 0o000),
        ("secret-b", 0o000),
        ("listable", 0o744),
        ("searchable", 0o711),
    ] {
        tree.file(format!("{path}/lib.so"), Elf::library("lib.so").bytes());
        fs::set_permissions(tree.path(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    for number in 0..3 {
        let file = tree.elf(
            format!("usr/lib64/secret-{number}.so"),
            &Elf::library("secret.so"),
        );
        fs::set_permissions(file, PermissionsExt::from_mode(0o000)).unwrap();
    }
    if !rustix::process::geteuid().is_root() {
        for path in ["listable", "searchable"] {
            let mode = if path == "listable" { 0o444 } else { 0o111 };
            fs::set_permissions(tree.path(path), PermissionsExt::from_mode(mode)).unwrap();
        }
    }
    tree
}

#[test]
fn what_may_not_be_read_is_left_out_counted_and_named_once_for_every_build() {
    let tree = unreadable();
    let beside = tree.beside("index");
    fs::create_dir(&beside).unwrap();
    fs::set_permissions(&beside, PermissionsExt::from_mode(0o777)).unwrap();
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    let elsewhere = ["--index-dir", beside.to_str().unwrap()];
    for round in ["first", "second"] {
        let ran = nobody.build(tree.root(), &elsewhere).ended_with(3);
        assert_eq!(
            ran.warnings(),
            ["unreadable-directory", "unreadable-file"],
            "{round}"
        );
        let warnings = &ran.json()["warnings"];
        assert_eq!(warnings[0]["count"], 4, "{round}: {warnings}");
        assert_eq!(warnings[0]["example"], "/listable", "the least path");
        assert_eq!(warnings[1]["count"], 3, "{round}: {warnings}");
        assert_eq!(warnings[1]["example"], "/usr/lib64/secret-0.so");
        assert_eq!(ran.json()["unchanged"], round == "second");
        let text = nobody.run([
            "build".as_ref(),
            tree.root().as_os_str(),
            "--index-dir".as_ref(),
            beside.as_os_str(),
        ]);
        assert_eq!(text.notes.matches("warning:").count(), 2, "{}", text.notes);
        assert_eq!(nobody.verify(tree.root(), &elsewhere), []);
    }
    // Nothing was claimed of what could not be read.
    let reader = Reader::open(&beside).unwrap();
    assert!(reader.find("secret-a".as_ref()).is_some());
    assert!(reader.find("secret-a/lib.so".as_ref()).is_none());
    drop(reader);

    // Root, or whoever may look, finds what was left out; and it is repaired once it can be read. No directory changes by that.
    for number in 0..3 {
        let file = tree.path(format!("usr/lib64/secret-{number}.so"));
        fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    }
    let found = nobody.verify(tree.root(), &elsewhere);
    assert_eq!(found.len(), 3, "{found:?}");
    for path in ["secret-a", "secret-b", "listable", "searchable"] {
        fs::set_permissions(tree.path(path), PermissionsExt::from_mode(0o755)).unwrap();
    }
    nobody.build(tree.root(), &elsewhere).succeeded();
    assert_eq!(nobody.verify(tree.root(), &elsewhere), []);
    let believed = no_stale_key_validates_in(tree.root(), &beside);
    assert_eq!(believed.directories, believed.indexed);
    assert_eq!(believed.files, 4 + 3 + 4);
}

#[test]
fn a_root_that_may_not_be_read_is_an_error() {
    let tree = Scratch::new().populated();
    fs::set_permissions(tree.root(), PermissionsExt::from_mode(0o000)).unwrap();
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    let ran = nobody.build(
        tree.root(),
        &["--index-dir", tree.beside("index").to_str().unwrap()],
    );
    assert_eq!(ran.status, 125, "{}", ran.notes);
    assert!(ran.notes.contains("Permission denied"), "{}", ran.notes);
}

#[test]
fn directories_that_take_no_sidecar_are_indexed_all_the_same() {
    let tree = Scratch::new().populated();
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    // Only the root belongs to whoever builds.
    let locked = [tree.path("usr/lib64"), tree.path("etc")];
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(tree.root(), Some(65534), Some(65534)).unwrap();
    } else {
        for directory in &locked {
            fs::set_permissions(directory, PermissionsExt::from_mode(0o555)).unwrap();
        }
    }
    let ran = nobody.build(tree.root(), &[]).succeeded();
    assert_eq!(ran.warnings(), ["sidecar-not-written"]);
    assert!(tree.path(".elfuse-sidecar-index").exists());
    assert!(!locked[0].join(".elfuse-sidecar-index").exists());
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
    let found = nobody.verify(tree.root(), &[]);
    assert!(
        found.iter().all(|(kind, _)| kind == "no-sidecar"),
        "{found:?}"
    );
    assert_eq!(
        nobody.build(tree.root(), &[]).succeeded().json()["unchanged"],
        true
    );
}

#[test]
fn mount_points_are_names_and_what_is_mounted_there_is_not_indexed() {
    let tree = Scratch::new().populated();
    tree.file("mnt/hidden", "by the mount");
    let ran = with_mounts(
        &tree,
        r#"mount -t tmpfs none "$1/mnt"; echo x > "$1/mnt/mounted"; exec "$elfuse" build --json "$1""#,
    )
    .succeeded();
    assert_eq!(
        ran.json()["unsealed_directories"],
        serde_json::json!({ "mount point": 1 })
    );
    assert_eq!(ran.warnings(), [""; 0]);
    assert_eq!(kind_of(&tree, "mnt"), Some(Kind::Directory));
    assert_eq!(kind_of(&tree, "mnt/mounted"), None);
    assert_eq!(kind_of(&tree, "mnt/hidden"), None);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed - 1);

    // Not mounted any more: found, and covered by the next build.
    let found = elfuse_index!().verify(tree.root(), &[]);
    assert_eq!(found, [("not-covered".to_owned(), "/mnt".to_owned())]);
    build(&tree).succeeded();
    assert_eq!(kind_of(&tree, "mnt/hidden"), Some(Kind::File));

    // Mounted over what was indexed: stale, not wrong, and left out by the next build.
    let script = r#"mount -t tmpfs none "$1/usr"; "$elfuse" verify --json "$1" && exit 9; "$elfuse" build --json "$1" >&2; exit 1"#;
    let ran = with_mounts(&tree, script).ended_with(1);
    let differences = ran.json()["differences"].clone();
    assert_eq!(differences[0]["difference"], "stale-key", "{differences}");
    assert_eq!(differences[0]["path"], "/usr", "{differences}");
    assert!(ran.notes.contains(r#""mount point": 1"#), "{}", ran.notes);
    no_stale_key_validates(tree.root());
    assert_eq!(kind_of(&tree, "usr/bin"), None);
}

#[test]
fn a_read_only_sysroot_has_its_index_in_the_cache_directory() {
    let tree = Scratch::new().populated();
    let script = r#"
        mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
        "$elfuse" build --json "$1" >&2
        "$elfuse" verify --json "$1" >&2
        exec "$elfuse" build --json "$1""#;
    let before = snapshot::of(tree.root());
    let ran = with_mounts(&tree, script).succeeded();
    snapshot::assert_same(&before, &snapshot::of(tree.root()));
    let document = ran.json();
    assert_eq!(
        (&document["in_tree"], &document["unchanged"]),
        (&false.into(), &true.into())
    );
    let store = PathBuf::from(document["index"].as_str().unwrap());
    assert!(
        store.starts_with(tree.beside("cache/elfuse")),
        "{}",
        store.display()
    );
    let believed = no_stale_key_validates_in(tree.root(), &store);
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
    // clean finds it there too.
    let tool = elfuse_index!().with_cache_home(&tree.beside("cache"));
    let ran = tool.clean(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["store_removed"], true);
    assert!(!store.exists());
}

#[test]
fn a_sysroot_that_has_an_index_inside_and_is_read_only_now_is_sealed_outside() {
    let tree = Scratch::new().populated();
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let copy = Scratch::new();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(tree.root().join("."))
        .arg(copy.root())
        .status();
    assert!(copied.unwrap().success());
    let script = r#"
        mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
        "$elfuse" seal --json "$1" >&2
        exec "$elfuse" verify --json "$1""#;
    let before = snapshot::of(copy.root());
    let ran = with_mounts(&copy, script).succeeded();
    snapshot::assert_same(&before, &snapshot::of(copy.root()));
    let store = PathBuf::from(ran.json()["index"].as_str().unwrap());
    assert!(
        store.starts_with(copy.beside("cache/elfuse")),
        "{}",
        store.display()
    );
    let believed = no_stale_key_validates_in(copy.root(), &store);
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
}

#[test]
fn a_full_disk_is_an_error_and_the_old_index_stands() {
    let tree = Scratch::new();
    tree.directory("root");
    let script = r#"
        mount -t tmpfs -o size=1m none "$1"; cd "$1"
        mkdir a b; seq 1000 > a/file; for i in $(seq 300); do : > "b/name-$i"; done
        "$elfuse" build --json . >&2
        "$elfuse" verify --quiet .
        : > a/new
        dd if=/dev/zero of=fill bs=1k 2>/dev/null || true
        if "$elfuse" build --json . >&2; then echo 'it fits all the same' >&2; fi
        find . -name '*.tmp' >&2; test -z "$(find . -name '*.tmp')"
        rm fill
        "$elfuse" build --json . >&2
        exec "$elfuse" verify --json ."#;
    let ran = with_mounts(&tree, script).succeeded();
    assert_eq!(ran.json()["differences"], serde_json::json!([]));
    assert!(
        ran.notes.contains("No space left on device"),
        "{}",
        ran.notes
    );
}

#[test]
fn with_an_index_dir_nothing_in_the_sysroot_is_touched() {
    let tree = Scratch::new().populated();
    let beside = tree.beside("index");
    let elsewhere = ["--index-dir", beside.to_str().unwrap()];
    let ctimes = |root: &Path| {
        let walk = walkdir::WalkDir::new(root).into_iter();
        let ctime = |entry: walkdir::DirEntry| {
            let found = entry.metadata().unwrap();
            (entry.path().to_owned(), found.ctime(), found.ctime_nsec())
        };
        walk.map(|entry| ctime(entry.unwrap())).collect::<Vec<_>>()
    };
    let before = (snapshot::of(tree.root()), ctimes(tree.root()));
    elfuse_index!().build(tree.root(), &elsewhere).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &elsewhere), []);
    let believed = no_stale_key_validates_in(tree.root(), &beside);
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 4)
    );
    let ran = elfuse_index!().seal(tree.root(), &elsewhere).succeeded();
    assert_eq!(ran.number("sidecars_written"), 0);
    assert_eq!(elfuse_index!().verify(tree.root(), &elsewhere), []);
    elfuse_index!().clean(tree.root(), &elsewhere).succeeded();
    assert!(!beside.exists());
    snapshot::assert_same(&before.0, &snapshot::of(tree.root()));
    assert_eq!(before.1, ctimes(tree.root()));
}

#[test]
fn an_index_dir_inside_the_sysroot_is_refused_and_not_made() {
    let tree = Scratch::in_memory().populated();
    let before = snapshot::of(tree.root());
    tree.link("way-in", ".");
    fs::rename(tree.path("way-in"), tree.beside("way-in")).unwrap();
    symlink(tree.root(), tree.beside("through-a-link")).unwrap();
    for inside in [
        tree.path("index"),
        tree.path("usr/new/index"),
        tree.root().to_owned(),
        tree.beside("through-a-link").join("index"),
    ] {
        let ran = elfuse_index!().build(tree.root(), &["--index-dir", inside.to_str().unwrap()]);
        assert_eq!(ran.status, 125, "{}", ran.notes);
        assert!(
            ran.notes.contains("lies inside the sysroot"),
            "{}",
            ran.notes
        );
    }
    let after = snapshot::of(tree.root());
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
}

#[test]
fn a_package_is_indexed_alone_shipped_with_its_sidecars_and_only_sealed_on_the_target() {
    // The build host: one package's directories, nothing else is there yet.
    let package = Scratch::in_memory();
    let prefix = "gnu/store/abc-hello-1.0";
    let loader = "/gnu/store/xyz-glibc/lib/ld-linux-x86-64.so.2";
    package.elf(
        format!("{prefix}/bin/hello"),
        &Elf::program(loader).needing("libhello.so.1"),
    );
    package.elf(
        format!("{prefix}/lib/libhello.so.1"),
        &Elf::library("libhello.so.1"),
    );
    package.file("gnu/store/other/file", "not ours");
    let ran = elfuse_index!()
        .build(package.root(), &["--only", prefix])
        .succeeded();
    assert_eq!(
        (ran.number("directories"), ran.number("sidecars_written")),
        (3, 3)
    );
    let sidecars: Vec<_> = ["", "/bin", "/lib"]
        .map(|directory| PathBuf::from(format!("{prefix}{directory}/.elfuse-sidecar-index")))
        .into();
    assert_eq!(package.index_files(), sidecars);

    // The target: unpacked among others.
    let target = Scratch::new().populated();
    target.directory("gnu/store");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(package.path(prefix))
        .arg(target.path("gnu/store"))
        .status();
    assert!(copied.unwrap().success());
    let ran = elfuse_index!().seal(target.root(), &[]).succeeded();
    assert_eq!(ran.number("elf_files"), 6);
    assert_eq!(elfuse_index!().verify(target.root(), &[]), []);
    let believed = no_stale_key_validates(target.root());
    assert_eq!(
        (believed.directories, believed.files),
        (believed.indexed, 6)
    );
    for sidecar in sidecars {
        let (shipped, there) = (package.path(&sidecar), target.path(&sidecar));
        assert_eq!(fs::read(shipped).unwrap(), fs::read(there).unwrap());
    }
}

#[test]
fn an_only_that_cannot_be_meant_is_said_to_be_so() {
    let tree = Scratch::in_memory().populated();
    let beside = tree.beside("index");
    for (arguments, status) in [
        // Everything --only makes lies in the tree.
        (
            vec!["--index-dir", beside.to_str().unwrap(), "--only", "usr"],
            2,
        ),
        (vec!["--only", "nowhere"], 2),
        (vec!["--only", "etc/motd"], 2),
        (vec!["--only", "lib64"], 2),
        // Through a symlink: the directory is another.
        (vec!["--only", "bin/../usr", "lib64/."], 2),
    ] {
        elfuse_index!()
            .build(tree.root(), &arguments)
            .ended_with(status);
    }
    tree.directory("usr/lib64/sub");
    elfuse_index!()
        .build(tree.root(), &["--only", "lib64/sub"])
        .ended_with(2);
    assert_eq!(tree.index_files(), [PathBuf::new(); 0]);
    assert!(!beside.exists());

    // Sidecars are all that --only makes: if they cannot be written, it is not done.
    let nobody = elfuse_index!().as_nobody(tree.beside("").as_path());
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(tree.path("usr/lib64"), PermissionsExt::from_mode(0o555)).unwrap();
    }
    let ran = nobody
        .build(tree.root(), &["--only", "usr/lib64"])
        .ended_with(3);
    assert_eq!(ran.warnings(), ["sidecar-not-written"]);
}

#[test]
fn with_preserve_mtime_every_directory_keeps_its_mtime_and_clean_leaves_the_tree_as_it_was() {
    let tree = Scratch::new().populated();
    tree.named("odd", b"\xff", "x");
    node(&tree.path("odd/fifo"), FileType::Fifo, 0).unwrap();
    for (number, directory) in ["", "usr", "usr/lib64", "odd"].into_iter().enumerate() {
        let secs = 1_000_000_000 + number as i64;
        elfuse_tests::scratch::set_mtime(&tree.path(directory), (secs, 123_456_789));
    }
    fs::set_permissions(tree.path("odd"), PermissionsExt::from_mode(0o2710)).unwrap();
    let before = snapshot::of(tree.root());
    elfuse_index!()
        .build(tree.root(), &["--preserve-mtime"])
        .succeeded();
    for (path, state) in &before {
        assert_eq!(mtime(&tree.path(path)), state.mtime, "{}", path.display());
    }
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed);
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    snapshot::assert_same(&before, &snapshot::of(tree.root()));

    // Without it, the same but for the times of directories, which got a file.
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["store_removed"], true);
    let mut after = snapshot::of(tree.root());
    for (path, state) in &mut after {
        let directory = state.mode & 0o170_000 == 0o040_000;
        if let Some(known) = before.get(path).filter(|_| directory) {
            state.mtime = known.mtime;
        }
    }
    snapshot::assert_same(&before, &after);
}

#[test]
fn clean_removes_what_a_killed_command_left_and_keeps_what_is_not_its_own() {
    let tree = Scratch::in_memory().populated();
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    for name in [
        "keys.tmp",
        "loader-cache.tmp",
        "ld.so.cache",
        ".ld.so.cache.4711.tmp",
    ] {
        tree.file(format!(".elfuse/{name}"), "half");
    }
    tree.file("usr/.elfuse-sidecar-index.4711.tmp", "half");
    tree.file(".elfuse/notes-of-mine", "mine");
    let ran = elfuse_index!().clean(tree.root(), &[]).ended_with(3);
    assert_eq!(ran.warnings(), ["not-removed"]);
    assert_eq!(
        tree.index_files(),
        [PathBuf::from(".elfuse"), ".elfuse/notes-of-mine".into()]
    );
    fs::remove_file(tree.path(".elfuse/notes-of-mine")).unwrap();
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(tree.index_files(), [PathBuf::new(); 0]);
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    assert_eq!(
        (ran.number("sidecars_removed"), &ran.json()["store_removed"]),
        (0, &false.into())
    );
}

#[test]
fn a_build_removes_what_a_killed_one_left() {
    let tree = Scratch::new().populated();
    build(&tree).succeeded();
    // Beside an index that stands: nothing else is left to do.
    for name in ["keys.tmp", "loader-cache.tmp"] {
        tree.file(format!(".elfuse/{name}"), "half");
    }
    let ran = elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(ran.json()["unchanged"], true);
    tree.file("usr/.elfuse-sidecar-index.4711.tmp", "half");
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let temporary = |path: &PathBuf| path.extension() == Some(OsStr::new("tmp"));
    assert!(
        !tree.index_files().iter().any(temporary),
        "{:?}",
        tree.index_files()
    );
}

#[test]
fn exit_statuses_are_those_of_the_documentation() {
    let tree = Scratch::in_memory().populated();
    let root = tree.root().as_os_str();
    let run = |arguments: &[&OsStr]| elfuse_index!().run(arguments);
    let arg = OsStr::new;
    run(&[arg("verify"), root]).ended_with(125);
    run(&[arg("build"), root, arg("--no-wait")]).succeeded();
    run(&[arg("verify"), root]).succeeded();
    tree.file("etc/new", "");
    run(&[arg("verify"), root]).ended_with(1);
    run(&[arg("build"), root, arg("--no-wait")]).succeeded();
    run(&[arg("clean"), root]).succeeded();
    run(&[arg("build")]).ended_with(2);
    run(&[arg("build"), root, arg("--nonsense")]).ended_with(2);
    run(&[arg("build"), root, arg("--jobs"), arg("0")]).ended_with(2);
    run(&[arg("build"), tree.path("nowhere").as_os_str()]).ended_with(2);
    run(&[arg("build"), tree.path("etc/motd").as_os_str()]).ended_with(2);
    let outside = tree.beside("file");
    fs::write(&outside, "").unwrap();
    run(&[arg("build"), root, arg("--index-dir"), outside.as_os_str()]).ended_with(125);
    // 3, done with gaps: see the tests of what may not be read.
}

#[test]
fn json_documents_have_the_members_that_scripts_rely_on() {
    let tree = Scratch::in_memory().populated();
    let members = |ran: &Ran| {
        let document = ran.json();
        assert_eq!(document["schema"], 1);
        let names = document.as_object().unwrap().keys().cloned();
        names.collect::<BTreeSet<_>>()
    };
    let has = |ran: Ran, command: &str, expected: &[&str]| {
        assert_eq!(ran.json()["command"], command);
        let found = members(&ran);
        for name in expected.iter().chain(&["schema", "command", "warnings"]) {
            assert!(found.contains(*name), "{command} has no {name}: {found:?}");
        }
    };
    let built = [
        "sysroot",
        "index",
        "in_tree",
        "directories",
        "entries",
        "elf_files",
        "libraries",
        "programs",
        "directories_reused",
        "elf_files_reused",
        "sidecars_written",
        "sidecar_bytes",
        "store_bytes",
        "bytes_written",
        "unsealed_directories",
        "unsealed_files",
        "file_system",
        "file_system_trusted",
        "unchanged",
        "seconds",
    ];
    let ran = elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let seconds = ran.json()["seconds"].clone();
    for phase in [
        "load",
        "scan",
        "write_sidecars",
        "assemble",
        "sync",
        "capture",
        "publish",
        "work",
        "racy_wait",
    ] {
        assert!(seconds[phase].is_number(), "{phase}: {seconds}");
    }
    let warning = ran.json()["warnings"][0].clone();
    for name in ["kind", "count", "example", "detail", "hint"] {
        assert!(!warning[name].is_null(), "{name}: {warning}");
    }
    assert_eq!((ran.number("libraries"), ran.number("programs")), (3, 1));
    has(ran, "build", &built);
    has(
        elfuse_index!()
            .seal(tree.root(), &["--no-wait"])
            .succeeded(),
        "seal",
        &built,
    );
    tree.file("etc/new", "");
    let ran = elfuse_index!().on("verify", tree.root(), &[]).ended_with(1);
    let difference = ran.json()["differences"][0].clone();
    assert_eq!(
        (&difference["difference"], &difference["path"]),
        (&"missing-name".into(), &"/etc/new".into())
    );
    has(
        ran,
        "verify",
        &[
            "index",
            "directories",
            "entries",
            "elf_files",
            "sealed_directories",
            "unsealed_directories",
            "differences",
        ],
    );
    let ran = elfuse_index!()
        .build(tree.root(), &["--only", "usr"])
        .succeeded();
    has(
        ran,
        "build",
        &[
            "sysroot",
            "directories",
            "entries",
            "sidecars_written",
            "sidecar_bytes",
        ],
    );
    let ran = elfuse_index!().clean(tree.root(), &[]).succeeded();
    has(
        ran,
        "clean",
        &["sidecars_removed", "store_removed", "store"],
    );
}

/// Paths that a run opened or changed below any of `places`, and programs it executed, by strace.
struct Seen {
    paths: BTreeSet<PathBuf>,
    executed: usize,
}

/// Runs a command under strace, which resolves descriptors to paths.
#[track_caller]
fn watched(tree: &Scratch, arguments: &[&str]) -> Seen {
    let log = tree.beside("strace");
    let strace = need::tool("strace", "strace");
    let line = [
        "-f",
        "-y",
        "-qq",
        "-s",
        "8192",
        "-e",
        "trace=%file,%process",
        "-o",
    ];
    let mut before: Vec<&OsStr> = vec![strace.as_os_str()];
    before.extend(line.iter().map(OsStr::new));
    before.push(log.as_os_str());
    let ran = elfuse_index!().under(before).run(arguments);
    assert!([0, 1].contains(&ran.status), "{}", ran.notes);
    let mut seen = Seen {
        paths: BTreeSet::new(),
        executed: 0,
    };
    for line in fs::read_to_string(log).unwrap().lines() {
        seen.executed += usize::from(line.contains("execve(") || line.contains("execveat("));
        // `openat(3</root>, "name", …) = 4</root/name>`: what was opened is at the end, whatever led there.
        let Some((_, result)) = line.rsplit_once(" = ") else {
            continue;
        };
        let path = result
            .split_once('<')
            .and_then(|(_, rest)| rest.rsplit_once('>'));
        let own = format!("/proc/{}/", line.split(' ').next().unwrap_or_default());
        let path = path.map(|(path, _)| path.replacen(&own, "/proc/self/", 1));
        seen.paths.extend(path.map(PathBuf::from));
    }
    seen
}

#[test]
fn nothing_outside_the_sysroot_is_opened_through_it_and_nothing_in_it_is_executed() {
    let plain = Scratch::new();
    let tree = Scratch::new().populated();
    let outside = tree.beside("outside");
    fs::create_dir_all(outside.join("lib")).unwrap();
    fs::write(
        outside.join("lib/liba.so.1"),
        Elf::library("liba.so.1").bytes(),
    )
    .unwrap();
    fs::write(outside.join("more.conf"), "/opt/lib\n").unwrap();
    fs::remove_file(tree.path("lib64")).unwrap();
    tree.link("lib64", outside.join("lib"));
    tree.link("lib", "../outside/lib");
    tree.link("out", &outside);
    tree.link("usr/lib64/libout.so.1", outside.join("lib/liba.so.1"));
    tree.link("etc/ld.so.cache", outside.join("lib/liba.so.1"));
    tree.file(
        "etc/ld.so.conf",
        format!(
            "include {}/*.conf\ninclude ../outside/*.conf\n/lib\n/out/lib\n",
            outside.display()
        ),
    );
    tree.elf(
        "usr/bin/out",
        &Elf::program("/lib64/ld-linux-x86-64.so.2")
            .needing("libout.so.1")
            .with_runpath("/../outside/lib:/out/lib"),
    );
    // What would be noticed if it ran: a script and a real program.
    let canary = tree.file(
        "usr/bin/canary",
        format!("#!/bin/sh\ntouch '{}'\n", tree.beside("ran").display()),
    );
    fs::set_permissions(canary, PermissionsExt::from_mode(0o755)).unwrap();
    fs::copy("/bin/true", tree.path("usr/bin/true")).unwrap();

    let root = tree.root().to_str().unwrap();
    let allowed = |commands: &[&[&str]]| {
        let mut paths = BTreeSet::new();
        for command in commands {
            let seen = watched(&plain, command);
            paths.extend(
                seen.paths
                    .into_iter()
                    .filter(|path| !path.starts_with(plain.root())),
            );
        }
        paths
    };
    let plain_root = plain.root().to_str().unwrap();
    let allowed = allowed(&[
        &["build", plain_root, "--no-wait"],
        &["seal", plain_root, "--no-wait"],
        &["verify", plain_root],
        &["clean", plain_root],
    ]);
    for command in [
        &["build", root, "--no-wait"][..],
        &["build", root, "--no-wait"],
        &["seal", root, "--no-wait"],
        &["verify", root],
        &["clean", root],
    ] {
        let seen = watched(&tree, command);
        assert_eq!(seen.executed, 1, "{command:?} executed something");
        let inside = seen
            .paths
            .iter()
            .filter(|path| path.starts_with(tree.root()))
            .count();
        assert!(inside > 10, "strace has seen {inside} paths in the sysroot");
        let elsewhere: Vec<_> = seen
            .paths
            .iter()
            .filter(|path| !path.starts_with(tree.root()) && !allowed.contains(*path))
            .collect();
        assert!(elsewhere.is_empty(), "{command:?} opened {elsewhere:?}");
    }
    assert!(!tree.beside("ran").exists());
}

#[test]
fn a_directory_swapped_for_a_symlink_while_it_is_read_leads_nowhere() {
    let tree = Scratch::in_memory().populated();
    let outside = tree.beside("outside");
    for number in 0..20 {
        let directory = outside.join(format!("sub-{number}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(
            directory.join("canary"),
            Elf::library("libcanary.so").bytes(),
        )
        .unwrap();
        tree.file(format!("swapped/sub-{number}/file"), "x");
    }
    let before = snapshot::of(&outside);
    tree.link("link", &outside);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (swapped, link) = (tree.path("swapped"), tree.path("link"));
                renameat_with(CWD, &swapped, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let root = tree.root().to_str().unwrap();
        for round in 0..30 {
            let command: &[&str] = match round % 4 {
                0 => &["build", root, "--no-wait"],
                1 => &["seal", root, "--no-wait"],
                2 => &["verify", root],
                _ => &["clean", root],
            };
            let ran = elfuse_index!().run(command);
            assert!([0, 1, 3, 125].contains(&ran.status), "{}", ran.notes);
            let cache = fs::read(tree.path(".elfuse/loader-cache")).unwrap_or_default();
            assert!(
                !cache.windows(6).any(|window| window == b"canary"),
                "{command:?} read what is outside"
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    snapshot::assert_same(&before, &snapshot::of(&outside));
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    no_stale_key_validates(tree.root());
}
