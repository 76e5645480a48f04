//! Builds that are killed, that meet another build, or a tree that changes under them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Random, Scratch, Stop, is_sidecar_or_temporary, seed};
use elfuse_tests::tool::Ran;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// So many directories, each with a library, a text and a symlink.
fn forest(directories: usize) -> Scratch {
    let tree = Scratch::in_memory().populated();
    for number in 0..directories {
        let directory = format!("opt/{}/{}", number % 40, number);
        tree.elf(format!("{directory}/lib.so"), &Elf::library("lib.so"));
        tree.file(format!("{directory}/text"), "text");
        tree.link(format!("{directory}/link"), "text");
    }
    tree
}

fn start(command: &str, root: &Path, arguments: &[&str]) -> Child {
    let mut child = elfuse_index!().command([command.as_ref(), root.as_os_str()]);
    child
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    child.spawn().expect("starting elfuse-index")
}

fn kill(mut child: Child) {
    // An error means that it has ended already.
    let _ = child.kill();
    child.wait().expect("waiting for a child");
}

/// One small change somewhere in a forest.
fn change(tree: &Scratch, random: &mut Random, directories: usize) {
    let number = random.below(directories);
    let directory = tree.path(format!("opt/{}/{}", number % 40, number));
    fs::create_dir_all(&directory).unwrap();
    match random.below(5) {
        0 => fs::write(directory.join("new"), "").unwrap(),
        1 => drop(fs::remove_file(directory.join("text"))),
        2 => fs::write(
            directory.join("lib.so"),
            Elf::library("lib.so").with_filler(random.number()).bytes(),
        )
        .unwrap(),
        3 => fs::write(directory.join("text"), Elf::library("text.so").bytes()).unwrap(),
        _ => drop(fs::rename(&directory, directory.with_extension("old"))),
    }
}

/// Names of temporaries that are left in the tree and its store.
fn temporaries(root: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    let paths = walk.map(walkdir::DirEntry::into_path);
    let ends = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
    paths.filter(ends).collect()
}

#[track_caller]
fn mended(tree: &Scratch) {
    elfuse_index!().build(tree.root(), &[]).succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    let left = temporaries(tree.root());
    assert!(left.is_empty(), "{left:?}");
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed, "{believed:?}");
}

#[test]
fn a_build_killed_at_any_moment_leaves_nothing_wrong_that_is_believed() {
    const DIRECTORIES: usize = 800;
    const ROUNDS: usize = 32;
    let seed = seed();
    let mut random = Random(seed);
    let tree = forest(DIRECTORIES);
    // How long one takes here.
    let began = Instant::now();
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    let mut whole = began.elapsed();
    let (mut died, mut believed) = (0, 0);
    for round in 0..ROUNDS {
        let (command, arguments): (_, &[&str]) = match random.below(4) {
            0 => ("seal", &["--no-wait"]),
            1 => ("build", &["--no-wait", "--full"]),
            2 => ("build", &["--no-wait", "--jobs", "1"]),
            _ => ("build", &["--no-wait"]),
        };
        for _ in 0..random.below(8) {
            change(&tree, &mut random, DIRECTORIES);
        }
        if round % 10 == 0 {
            // So that there are keys which could be believed.
            elfuse_index!().build(tree.root(), &[]).succeeded();
            for _ in 0..4 {
                change(&tree, &mut random, DIRECTORIES);
            }
        }
        let mut child = start(command, tree.root(), arguments);
        let moment = whole.mul_f64(random.below(1000) as f64 / 1000.0);
        thread::sleep(moment);
        // How long a build takes follows from what else the machine does.
        let is_at_work = child.try_wait().unwrap().is_none();
        whole = if is_at_work {
            whole.mul_f64(1.2)
        } else {
            moment
        };
        died += usize::from(is_at_work);
        kill(child);
        believed += no_stale_key_validates(tree.root()).directories;
    }
    assert!(
        believed > DIRECTORIES,
        "an index of which nothing is believed proves nothing"
    );
    assert!(
        died > ROUNDS / 8,
        "only {died} of {ROUNDS} were killed at work, seed {seed}"
    );
    mended(&tree);
}

#[test]
fn a_build_killed_between_loader_cache_and_keys_leaves_no_keys_to_believe() {
    let tree = forest(100);
    elfuse_index!().build(tree.root(), &[]).succeeded();
    let before = no_stale_key_validates(tree.root());
    assert_eq!(before.directories, before.indexed);
    let cache = tree.path(".elfuse/loader-cache");
    let published = fs::read(&cache).unwrap();
    tree.file("etc/new", "");
    // The loader cache is published, then time stamps are waited for, then the keys are.
    let child = start("build", tree.root(), &[]);
    while fs::read(&cache).unwrap() == published {
        thread::sleep(Duration::from_millis(2));
    }
    kill(child);
    assert_eq!(no_stale_key_validates(tree.root()).directories, 0);
    let found = elfuse_index!().verify(tree.root(), &[]);
    assert!(
        found.contains(&("no-keys".to_owned(), "/".to_owned())),
        "{found:?}"
    );
    mended(&tree);
}

#[test]
fn leftovers_of_a_killed_build_are_removed_by_the_next() {
    let tree = forest(400);
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    elfuse_index!().clean(tree.root(), &[]).succeeded();
    let temporary = |name: &std::ffi::OsStr| {
        let name = name.as_encoded_bytes();
        is_sidecar_or_temporary(name) && name.ends_with(b".tmp")
    };
    // Killed while it writes sidecars: some have been renamed, some may not.
    let child = start("build", tree.root(), &["--no-wait"]);
    let first = tree.path(".elfuse-sidecar-index");
    while !first.exists() {
        thread::sleep(Duration::from_micros(200));
    }
    kill(child);
    // Whether a temporary is left is chance; this one is.
    tree.file("usr/.elfuse-sidecar-index.1.tmp", "half of a sidecar");
    let mut entries = fs::read_dir(tree.path("usr")).unwrap();
    assert!(entries.any(|entry| temporary(&entry.unwrap().file_name())));
    no_stale_key_validates(tree.root());
    mended(&tree);
}

#[test]
fn builds_at_the_same_time_wait_for_each_other_and_leave_one_good_index() {
    let tree = forest(300);
    let all = ["build", "seal", "build", "build"];
    let children: Vec<_> = all
        .into_iter()
        .map(|command| start(command, tree.root(), &["--no-wait"]))
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    no_stale_key_validates(tree.root());
    mended(&tree);
}

#[test]
fn a_clean_while_builds_wait_leaves_a_whole_index_or_none() {
    let tree = forest(300);
    for _ in 0..6 {
        let all = ["build", "clean", "build", "clean", "seal"];
        let arguments = |command| {
            if command == "clean" {
                &[][..]
            } else {
                &["--no-wait"]
            }
        };
        let children: Vec<_> = all
            .into_iter()
            .map(|command| start(command, tree.root(), arguments(command)))
            .collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            let notes = String::from_utf8_lossy(&output.stderr);
            // A clean that finds no store has no lock either: to a build, what it removes is a change like any other.
            let status = output.status.code();
            assert!(matches!(status, Some(0 | 3)), "{}: {notes}", output.status);
        }
        no_stale_key_validates(tree.root());
    }
    mended(&tree);
}

#[test]
fn a_tree_that_changes_all_the_time_is_never_believed_to_be_what_it_was() {
    const DIRECTORIES: usize = 120;
    let seed = seed();
    let tree = forest(DIRECTORIES);
    let stop = Stop::default();
    // Held for each change, and while the checker looks.
    let turn = Mutex::new(());
    thread::scope(|scope| {
        let _stop = stop.at_end();
        scope.spawn(|| {
            let mut random = Random(seed);
            let (a, b) = (tree.path("opt/1"), tree.path("opt/2"));
            while !stop.is_set() {
                let own = turn.lock().unwrap();
                change(&tree, &mut random, DIRECTORIES);
                if random.below(4) == 0 {
                    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
                }
                drop(own);
                // A lock is not handed over: without a pause the other side might never get it.
                thread::sleep(Duration::from_micros(50));
            }
        });
        for round in 0..24 {
            // Waiting ones too: what they seal has changed while they waited, in part.
            let arguments: &[&str] = if round % 12 == 0 { &[] } else { &["--no-wait"] };
            let command = if round % 3 == 2 { "seal" } else { "build" };
            let ran = elfuse_index!().on(command, tree.root(), arguments);
            assert!([0, 3].contains(&ran.status), "{}", ran.notes);
            let own = turn.lock().unwrap();
            no_stale_key_validates(tree.root());
            drop(own);
        }
    });
    no_stale_key_validates(tree.root());
    mended(&tree);
}

#[test]
fn a_directory_removed_and_made_again_while_it_is_built_is_not_lost() {
    let tree = forest(20);
    let stop = Stop::default();
    thread::scope(|scope| {
        let _stop = stop.at_end();
        scope.spawn(|| {
            while !stop.is_set() {
                let directory = tree.path("opt/flicker");
                fs::create_dir(&directory).unwrap();
                fs::write(directory.join("lib.so"), Elf::library("lib.so").bytes()).unwrap();
                // A build may put its sidecar (or the temporary name of one) between the
                // removal of the last name and the rmdir, any number of times.
                while let Err(error) = fs::remove_dir_all(&directory) {
                    assert_eq!(error.kind(), ErrorKind::DirectoryNotEmpty, "{error}");
                }
            }
        });
        for _ in 0..30 {
            let ran: Ran = elfuse_index!().on("build", tree.root(), &["--no-wait"]);
            assert!([0, 3].contains(&ran.status), "{}", ran.notes);
        }
    });
    mended(&tree);
}
