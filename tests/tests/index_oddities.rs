//! Trees as nobody makes them on purpose, or only on purpose.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::{fs, io};

use elfuse_format::sidecar::Kind;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Random, Scratch, make_node};
use elfuse_tests::tool::Ran;
use elfuse_tests::{elfuse_index, snapshot};
use rustix::fs::{FileType, Mode, OFlags, mkdirat, openat};

/// Builds, and asserts that everything in the index is sealed and so.
#[track_caller]
fn build(tree: &Scratch) -> Ran {
    let ran = elfuse_index!().build(tree.root(), &[]);
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed, "{believed:?}");
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
    make_node(&tree.path("fifo"), FileType::Fifo, 0).unwrap();
    // The one device node that needs no privilege: overlayfs's mark of a removed file.
    make_node(&tree.path("whiteout"), FileType::CharacterDevice, 0).unwrap();
    let mut names = vec!["socket", "fifo", "whiteout"];
    match make_node(
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
        assert_eq!(tree.kind_of(name), Some(Kind::Other), "{name}");
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
        assert_eq!(tree.kind_of(Path::new("d").join(name)), Some(Kind::File));
        assert_eq!(
            tree.kind_of(Path::new("e").join(name).join("f")),
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
        assert!(tree.kind_of(name).is_some(), "{name}");
    }
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    let paths = |snapshot: &snapshot::Snapshot| snapshot.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&before), paths(&snapshot::of(tree.root())));
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
fn a_tree_deeper_than_any_path_leads_is_indexed_as_far_and_said_to_be_so() {
    const LEVELS: usize = 2500;
    let tree = Scratch::in_memory();
    descend(tree.root(), "d", LEVELS, |_| ());
    let beside = tree.beside("index");
    let elsewhere = ["--no-wait", "--index-dir", beside.to_str().unwrap()];
    let ran = elfuse_index!().build(tree.root(), &elsewhere).ended_with(3);
    assert_eq!(ran.warnings_but_of_age(), ["too-deep"]);
    assert_eq!(ran.number("directories"), 2050, "one more than is covered");
    // Too deep for std's own functions: a shell goes down by itself.
    let removed = std::process::Command::new("rm")
        .arg("-rf")
        .arg(tree.path("d"))
        .status();
    assert!(removed.unwrap().success());
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
            garbled[at] = random.number() as u8;
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

#[test]
fn mount_points_are_names_and_what_is_mounted_there_is_not_indexed() {
    let tree = Scratch::new().populated();
    tree.file("mnt/hidden", "by the mount");
    let ran = elfuse_index!().with_mounts(&tree,
        r#"mount -t tmpfs none "$1/mnt"; echo x > "$1/mnt/mounted"; exec "$elfuse" build --json "$1""#,
    )
    .succeeded();
    assert_eq!(
        ran.json()["unsealed_directories"],
        serde_json::json!({ "mount point": 1 })
    );
    assert_eq!(ran.warnings(), [""; 0]);
    assert_eq!(tree.kind_of("mnt"), Some(Kind::Directory));
    assert_eq!(tree.kind_of("mnt/mounted"), None);
    assert_eq!(tree.kind_of("mnt/hidden"), None);
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed - 1);

    // Not mounted any more: found, and covered by the next build.
    let found = elfuse_index!().verify(tree.root(), &[]);
    assert_eq!(found, [("not-covered".to_owned(), "/mnt".to_owned())]);
    build(&tree).succeeded();
    assert_eq!(tree.kind_of("mnt/hidden"), Some(Kind::File));

    // Mounted over what was indexed: stale, not wrong, and left out by the next build.
    let script = r#"mount -t tmpfs none "$1/usr"; "$elfuse" verify --json "$1" && exit 9; "$elfuse" build --json "$1" >&2; exit 1"#;
    let ran = elfuse_index!().with_mounts(&tree, script).ended_with(1);
    let differences = ran.json()["differences"].clone();
    let stale =
        |found: &serde_json::Value| found["difference"] == "stale-key" && found["path"] == "/usr";
    assert!(
        differences.as_array().unwrap().iter().any(stale),
        "{differences}"
    );
    assert!(ran.notes.contains(r#""mount point": 1"#), "{}", ran.notes);
    no_stale_key_validates(tree.root());
    assert_eq!(tree.kind_of("usr/bin"), None);
}
