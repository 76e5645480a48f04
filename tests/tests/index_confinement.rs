//! Sysroots made to mislead whoever indexes them: out of the tree, into endless reading, or into running something.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::{fs, thread};

use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Scratch, Stop, make_node};
use elfuse_tests::{elfuse_index, need, snapshot};
use rustix::fs::{CWD, FileType, RenameFlags, renameat_with};

#[test]
fn a_store_that_is_no_directory_is_refused_and_left_alone() {
    for make in [
        |tree: &Scratch| drop(tree.file(".elfuse", "mine")),
        |tree: &Scratch| drop(tree.link(".elfuse", tree.beside("outside"))),
        |tree: &Scratch| drop(tree.link(".elfuse", "nowhere")),
        |tree: &Scratch| make_node(&tree.path(".elfuse"), FileType::Fifo, 0).unwrap(),
    ] {
        let tree = Scratch::in_memory().populated();
        let other = Scratch::in_memory().populated();
        elfuse_index!()
            .bounded()
            .build(other.root(), &["--no-wait"])
            .succeeded();
        fs::rename(other.path(".elfuse"), tree.beside("outside")).unwrap();
        make(&tree);
        let (inside, outside) = (
            snapshot::of(tree.root()),
            snapshot::of(&tree.beside("outside")),
        );
        for command in ["build", "seal"] {
            let ran = elfuse_index!()
                .bounded()
                .on(command, tree.root(), &[])
                .ended_with(125);
            assert!(
                ran.notes.contains(".elfuse is not a directory"),
                "{}",
                ran.notes
            );
        }
        // There is no index here, whatever lies where a link leads.
        elfuse_index!()
            .bounded()
            .on("verify", tree.root(), &[])
            .ended_with(125);
        elfuse_index!()
            .bounded()
            .clean(tree.root(), &[])
            .succeeded();
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
                "fifo" => make_node(&path, FileType::Fifo, 0).unwrap(),
                "directory" => fs::create_dir(path).unwrap(),
                _ => fs::File::create(path).unwrap().set_len(1 << 43).unwrap(),
            }
        }
        let verified = elfuse_index!().bounded().on("verify", tree.root(), &[]);
        assert!(
            [1, 125].contains(&verified.status),
            "{trap}: {}",
            verified.notes
        );
        for command in ["build", "seal"] {
            let ran = elfuse_index!()
                .bounded()
                .on(command, tree.root(), &["--no-wait"]);
            assert!([0, 125].contains(&ran.status), "{trap}: {}", ran.notes);
            no_stale_key_validates(tree.root());
        }
        elfuse_index!().bounded().on("clean", tree.root(), &[]);
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
                "fifo" => make_node(&path, FileType::Fifo, 0).unwrap(),
                "directory" => fs::create_dir(path).unwrap(),
                "sparse" => fs::File::create(path).unwrap().set_len(1 << 43).unwrap(),
                _ => {
                    let zero = rustix::fs::makedev(1, 5);
                    if let Err(error) = make_node(&path, FileType::CharacterDevice, zero) {
                        eprintln!("SKIPPED in part: only root makes device nodes ({error})");
                    }
                }
            }
        }
        for command in ["seal", "build"] {
            elfuse_index!()
                .bounded()
                .on(command, tree.root(), &["--no-wait"])
                .succeeded();
            no_stale_key_validates(tree.root());
        }
        let found = elfuse_index!().bounded().verify(tree.root(), &[]);
        assert!(
            found.iter().all(|(kind, _)| kind == "no-sidecar"),
            "{trap}: {found:?}"
        );
        snapshot::assert_same(&before, &snapshot::of(&victim));
    }
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
    let ran = elfuse_index!()
        .bounded()
        .build(tree.root(), &["--no-wait"])
        .ended_with(3);
    assert_eq!(ran.warnings_but_of_age(), ["unreadable-file"]);
    assert!(!tree.has_facts("usr/lib64/libhuge.so"));
    assert_eq!(elfuse_index!().bounded().verify(tree.root(), &[]), []);
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
    let stop = Stop::default();
    thread::scope(|scope| {
        let _stop = stop.at_end();
        scope.spawn(|| {
            while !stop.is_set() {
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
    });
    snapshot::assert_same(&before, &snapshot::of(&outside));
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    no_stale_key_validates(tree.root());
}
