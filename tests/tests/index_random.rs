//! Random changes of a tree, with builds in between: the checker after each step.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use elfuse_tests::elfuse_index;
use elfuse_tests::invariant::no_stale_key_validates;
use elfuse_tests::scratch::{Elf, Scratch, mtime, set_mtime};
use proptest::prelude::*;
use proptest::test_runner::Config;
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// One thing that happens to a tree.
#[derive(Debug, Clone)]
enum Happening {
    /// Overwrite in place, or make: text, an ELF file of one size and one of several contents, a broken one.
    Write(u8, Kind),
    /// The same by a new file that is renamed over the old one.
    Replace(u8, Kind),
    Remove(u8),
    MakeDirectory(u8),
    Link(u8, u8),
    HardLink(u8, u8),
    Rename(u8, u8),
    Exchange(u8, u8),
    Touch(u8),
    Chmod(u8),
    Sleep(u8),
    Build(&'static [&'static str]),
    Seal(&'static [&'static str]),
    Clean,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Library(u8),
    Broken,
}

impl Kind {
    fn bytes(self) -> Vec<u8> {
        match self {
            Kind::Text => b"text".to_vec(),
            Kind::Library(content) => Elf::library("lib.so").with_filler(content.into()).bytes(),
            Kind::Broken => Elf::library("lib.so").bytes()[..90].to_vec(),
        }
    }
}

/// A small set of paths, some of which lie below others.
fn path(tree: &Scratch, number: u8) -> PathBuf {
    let top = ["a", "b", "etc", "usr/lib64"][usize::from(number % 4)];
    let below = ["", "x", "y", "x/z", "x/z/w", "y/x"][usize::from(number / 4 % 6)];
    tree.path(top).join(below)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Text),
        (0..3_u8).prop_map(Kind::Library),
        Just(Kind::Broken),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let at = || 0..24_u8;
    prop_oneof![
        4 => (at(), kind()).prop_map(|(at, kind)| Write(at, kind)),
        4 => (at(), kind()).prop_map(|(at, kind)| Replace(at, kind)),
        2 => at().prop_map(Remove),
        2 => at().prop_map(MakeDirectory),
        1 => (at(), at()).prop_map(|(at, to)| Link(at, to)),
        1 => (at(), at()).prop_map(|(at, to)| HardLink(at, to)),
        3 => (at(), at()).prop_map(|(at, to)| Rename(at, to)),
        3 => (at(), at()).prop_map(|(at, to)| Exchange(at, to)),
        1 => at().prop_map(Touch),
        1 => at().prop_map(Chmod),
        1 => (0..8_u8).prop_map(Sleep),
        4 => Just(Build(&["--no-wait"])),
        1 => Just(Build(&[])),
        1 => Just(Build(&["--no-wait", "--full"])),
        1 => Just(Build(&["--no-wait", "--preserve-mtime"])),
        2 => Just(Seal(&["--no-wait"])),
        1 => Just(Clean),
    ]
}

/// Carries it out, if the tree is so that it can be. With `liar`, the mtimes of what changed and of its directory are put back.
fn happen(tree: &Scratch, happening: &Happening, liar: bool) {
    let places = match *happening {
        Happening::Write(at, _) | Happening::Replace(at, _) | Happening::Remove(at) => {
            vec![path(tree, at)]
        }
        Happening::MakeDirectory(at) | Happening::Touch(at) | Happening::Chmod(at) => {
            vec![path(tree, at)]
        }
        Happening::Link(at, to) | Happening::HardLink(at, to) => {
            vec![path(tree, at), path(tree, to)]
        }
        Happening::Rename(at, to) | Happening::Exchange(at, to) => {
            vec![path(tree, at), path(tree, to)]
        }
        _ => Vec::new(),
    };
    let with_parents = places
        .iter()
        .flat_map(|path| [path.clone(), path.parent().unwrap().to_owned()]);
    let times: Vec<_> = with_parents
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| (mtime(&path), path))
        .collect();
    match happening {
        Happening::Write(_, kind) => drop(fs::write(&places[0], kind.bytes())),
        Happening::Replace(_, kind) => {
            fs::write(tree.beside("new"), kind.bytes()).unwrap();
            drop(fs::rename(tree.beside("new"), &places[0]));
        }
        Happening::Remove(_) => {
            let is_dir = places[0]
                .symlink_metadata()
                .is_ok_and(|found| found.is_dir());
            drop(if is_dir {
                fs::remove_dir_all(&places[0])
            } else {
                fs::remove_file(&places[0])
            });
        }
        Happening::MakeDirectory(_) => drop(fs::create_dir_all(&places[0])),
        Happening::Link(..) => drop(symlink(&places[1], &places[0])),
        Happening::HardLink(..) => drop(fs::hard_link(&places[1], &places[0])),
        Happening::Rename(..) => drop(fs::rename(&places[0], &places[1])),
        Happening::Exchange(..) => {
            let _ = renameat_with(CWD, &places[0], CWD, &places[1], RenameFlags::EXCHANGE);
        }
        Happening::Touch(_) if places[0].exists() => set_mtime(&places[0], (1_000_000_000, 0)),
        Happening::Chmod(_) => drop(fs::set_permissions(
            &places[0],
            PermissionsExt::from_mode(0o700),
        )),
        Happening::Sleep(tenths) => thread::sleep(Duration::from_millis(300 * u64::from(*tenths))),
        Happening::Build(arguments) => {
            drop(elfuse_index!().build(tree.root(), arguments).succeeded())
        }
        Happening::Seal(arguments) => {
            drop(elfuse_index!().seal(tree.root(), arguments).succeeded())
        }
        Happening::Clean => drop(elfuse_index!().clean(tree.root(), &[]).succeeded()),
        Happening::Touch(_) => {}
    }
    if liar {
        for (time, path) in times {
            if path.symlink_metadata().is_ok() {
                set_mtime(&path, time);
            }
        }
    }
}

/// What happens to one tree, and whether mtimes are put back.
fn history() -> impl Strategy<Value = Vec<(Happening, bool)>> {
    prop::collection::vec((happening(), any::<bool>()), 8..40)
}

fn holds(history: &[(Happening, bool)]) {
    let tree = Scratch::in_memory().populated();
    for directory in ["a/x/z", "b/y"] {
        tree.directory(directory);
    }
    elfuse_index!().build(tree.root(), &[]).succeeded();
    let believed = no_stale_key_validates(tree.root());
    assert_eq!(believed.directories, believed.indexed);
    for (happening, liar) in history {
        happen(&tree, happening, *liar);
        no_stale_key_validates(tree.root());
    }
    elfuse_index!()
        .build(tree.root(), &["--no-wait"])
        .succeeded();
    assert_eq!(elfuse_index!().verify(tree.root(), &[]), []);
    no_stale_key_validates(tree.root());
}

proptest! {
    // Most of the time goes by waiting for time stamps to age: one case is many trees side by side.
    #![proptest_config(Config {
        cases: 4,
        max_shrink_time: 60_000,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn whatever_happens_to_a_tree_nothing_stale_is_believed_and_a_build_repairs_it(
        histories in prop::collection::vec(history(), 16)
    ) {
        let failed: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = histories.iter().map(|history| scope.spawn(|| holds(history))).collect();
            running.into_iter().filter_map(|history| history.join().err()).collect()
        });
        let text = |panic: &Box<dyn std::any::Any + Send>| {
            panic.downcast_ref::<String>().cloned().unwrap_or_default()
        };
        prop_assert!(failed.is_empty(), "{}", failed.iter().map(text).collect::<Vec<_>>().join("\n"));
    }
}
