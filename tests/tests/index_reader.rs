//! An index as a run reads it: every path of the tree is found, and nothing else.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use elfuse_format::sidecar::Block;
use elfuse_runtime::index::{DirId, Index, Step};
use elfuse_tests::elfuse_index;
use elfuse_tests::scratch::{Random, Scratch, is_sidecar_or_temporary, seed};
use elfuse_tests::sysroot;

/// The directories of an index by path, each with its names checked once.
struct Directories<'a> {
    index: Index<'a>,
    known: HashMap<PathBuf, (DirId, Block<'a>)>,
}

impl<'a> Directories<'a> {
    /// What a name is in a directory that was found before; a directory that is found is found again by what is below it.
    fn step(&mut self, path: &Path) -> Step<'a> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Step::Absent;
        };
        let Some(&(dir, block)) = self.known.get(parent) else {
            return Step::NotCovered;
        };
        let step = self
            .index
            .step_in(dir, block, name.as_bytes())
            .expect("an index that does not lie");
        if let Step::Directory(dir) = step
            && let Some(block) = self.index.block(dir).expect("an index that does not lie")
        {
            self.known.insert(path.to_owned(), (dir, block));
        }
        step
    }
}

#[test]
fn every_path_of_a_debian_system_is_found_and_a_hundred_thousand_others_are_not() {
    let root = sysroot::debian();
    let beside = Scratch::new();
    let store = beside.beside("index");
    let arguments = ["--no-wait", "--index-dir", store.to_str().unwrap()];
    let ran = elfuse_index!().build(root, &arguments);
    assert!([0, 3].contains(&ran.status), "{}", ran.notes);
    let cache = fs::read(store.join("loader-cache")).unwrap();
    let keys = fs::read(store.join("keys")).unwrap();
    let index = Index::parse(&cache, &keys).unwrap();
    let names = index
        .block(DirId::ROOT)
        .unwrap()
        .expect("the root is covered");
    let known = HashMap::from([(PathBuf::new(), (DirId::ROOT, names))]);
    let mut directories = Directories { index, known };

    let mut paths: Vec<PathBuf> = Vec::new();
    let ours = |entry: &walkdir::DirEntry| {
        let name = entry.file_name();
        is_sidecar_or_temporary(name.as_bytes())
            || entry.depth() == 1 && name == OsStr::new(".elfuse")
    };
    let walk = walkdir::WalkDir::new(root)
        .min_depth(1)
        .into_iter()
        .filter_entry(|entry| !ours(entry));
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if ran.status == 3 && error.io_error().is_some() => continue,
            Err(error) => panic!("{error}"),
        };
        let path = entry.path().strip_prefix(root).unwrap().to_owned();
        let kind = entry.file_type();
        let found = directories.step(&path);
        let right = match found {
            Step::Directory(_) => kind.is_dir(),
            Step::Symlink(target) => {
                kind.is_symlink()
                    && fs::read_link(entry.path()).unwrap().as_os_str().as_bytes() == target
            }
            Step::File => kind.is_file(),
            Step::Other => !kind.is_dir() && !kind.is_file() && !kind.is_symlink(),
            Step::Absent | Step::NotCovered => false,
        };
        assert!(right, "{} is {found:?}", path.display());
        paths.push(path);
    }
    assert_eq!(paths.len() as u64, ran.number("entries"));
    assert!(
        paths.len() > 10_000,
        "{} is no Debian system",
        root.display()
    );

    // Names that almost are there: of other directories, and with one byte more, less or another.
    let covered: Vec<PathBuf> = directories.known.keys().cloned().collect();
    let known: HashSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let mut random = Random(seed());
    let mut asked = 0;
    while asked < 100_000 {
        let directory = &covered[random.below(covered.len())];
        let other = &paths[random.below(paths.len())];
        let mut name = other.file_name().unwrap().as_bytes().to_vec();
        let at = random.below(name.len());
        match random.below(4) {
            0 => {}
            1 => name.push(b'0' + random.below(10) as u8),
            2 => name.truncate(at.max(1)),
            _ => name[at] = name[at].wrapping_add(1 + random.below(200) as u8),
        }
        let path = directory.join(OsStr::from_bytes(&name));
        let legal = !name.contains(&b'/') && !name.contains(&0) && name != b"." && name != b"..";
        if !legal || known.contains(path.as_path()) {
            continue;
        }
        assert_eq!(directories.step(&path), Step::Absent, "{}", path.display());
        asked += 1;
    }
}
