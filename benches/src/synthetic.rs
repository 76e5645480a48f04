//! A tree of any size with the proportions of a real one, the same on every machine: shape, names, targets and contents come
//! from a generator of pseudo-random numbers with a fixed seed.
//!
//! The tables are means of equal shares of a configured Debian 12 of 51,699 entries (4,567 directories, 1,840 symlinks), so
//! that each mean is kept. One directory besides is far larger than any of its.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Raised with every change that makes another tree of the same number of entries.
const VERSION: u32 = 1;

/// Entries that are not directories, per directory.
const FILES_PER_DIRECTORY: [usize; 64] = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3,
    3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8, 9, 10, 11, 12, 13, 15, 16, 18, 21, 24, 29,
    36, 47, 66, 209,
];
/// Bytes of the name of a file or symlink.
const FILE_NAME_LEN: [usize; 32] = [
    4, 6, 7, 7, 8, 8, 9, 9, 10, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 17, 18, 19, 20,
    21, 22, 24, 26, 28, 35,
];
/// Bytes of the name of a directory.
const DIRECTORY_NAME_LEN: [usize; 32] = [
    2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 11, 12,
    13, 15, 20,
];
/// Bytes of a symlink's text.
const TARGET_LEN: [usize; 32] = [
    3, 3, 3, 5, 6, 7, 9, 10, 11, 11, 13, 14, 15, 16, 17, 18, 19, 20, 20, 21, 22, 23, 24, 26, 28,
    31, 36, 42, 49, 56, 63, 77,
];
/// Bytes of a file, of those below a page: larger ones would tell nothing more.
const FILE_LEN: [usize; 32] = [
    37, 101, 188, 257, 325, 405, 480, 544, 595, 655, 732, 809, 885, 971, 1060, 1151, 1241, 1351,
    1473, 1602, 1745, 1891, 2035, 2183, 2344, 2532, 2725, 2915, 3121, 3355, 3612, 3918,
];
/// One in so many of what is not a directory is a symlink.
const PER_SYMLINK: u64 = 26;
/// One in so many files has content. In a real tree nearly all have, but a page of cache for each of a million is more than
/// some machines keep warm, and an empty file is opened, read and closed like any other.
const PER_FILE_WITH_CONTENT: u64 = 8;

/// How large a tree is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Names in all directories.
    pub entries: usize,
    /// How many of them stand in one directory, besides what the tables say.
    pub in_one_directory: usize,
}

/// The tree below `cache`, made if it is not there whole.
///
/// # Errors
/// If it cannot be written.
pub fn tree(cache: &Path, size: Size) -> anyhow::Result<PathBuf> {
    let name = format!(
        "synthetic-v{VERSION}-{}-{}",
        size.entries, size.in_one_directory
    );
    let home = cache.join(name);
    let (tree, complete) = (home.join("tree"), home.join("complete"));
    if !complete.exists() {
        if home.exists() {
            fs::remove_dir_all(&home).with_context(|| format!("removing {}", home.display()))?;
        }
        eprintln!("making {} entries in {}", size.entries, tree.display());
        fs::create_dir_all(&tree).with_context(|| format!("making {}", tree.display()))?;
        let plan = Plan::new(size);
        plan.write(&tree)
            .with_context(|| format!("writing {}", tree.display()))?;
        File::create(&complete).with_context(|| format!("writing {}", complete.display()))?;
    }
    Ok(tree)
}

/// splitmix64 (Steele, Lea, Flood 2014): 64 bits of state, and every seed is a good one.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn pick(&mut self, table: &[usize]) -> usize {
        table[self.below(table.len())]
    }

    /// A name of about `len` bytes that no other of its directory has.
    fn name(&mut self, len: usize, taken: &mut HashSet<String>) -> String {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_.";
        let mut name = String::with_capacity(len + 2);
        loop {
            // No leading dot: nothing here is a name of ours, or `.` or `..`.
            let from = if name.is_empty() { 26 } else { LETTERS.len() };
            name.push(char::from(LETTERS[self.below(from)]));
            if name.len() >= len && !taken.contains(&name) {
                taken.insert(name.clone());
                return name;
            }
        }
    }
}

/// Which directory lies in which, and how much else each holds.
struct Plan {
    /// Number of the parent; the first is the root and its own.
    parents: Vec<usize>,
    /// Files and symlinks in each.
    files: Vec<usize>,
}

impl Plan {
    fn new(size: Size) -> Self {
        let mut random = Random(1);
        let (mut parents, mut files) = (vec![0], vec![random.pick(&FILES_PER_DIRECTORY)]);
        let mut left = size
            .entries
            .saturating_sub(size.in_one_directory)
            .saturating_sub(files[0]);
        while left > 0 {
            // The least of four numbers: old directories are likelier parents, as in a real tree, where some have hundreds of
            // children and most have none, and the mean depth is five to six.
            let count = parents.len();
            let parent = (0..4).map(|_| random.below(count)).min().unwrap_or(0);
            let wanted = random.pick(&FILES_PER_DIRECTORY);
            left -= 1;
            let own = wanted.min(left);
            left -= own;
            parents.push(parent);
            files.push(own);
        }
        let last = files.len() - 1;
        files[last] += size.in_one_directory;
        Self { parents, files }
    }

    fn write(&self, root: &Path) -> io::Result<()> {
        let mut children = vec![Vec::new(); self.parents.len()];
        for (number, &parent) in self.parents.iter().enumerate().skip(1) {
            children[parent].push(number);
        }
        let mut paths = vec![PathBuf::new(); self.parents.len()];
        paths[0] = root.to_owned();
        // A parent's number is below its children's: its path is known when its turn comes.
        for (number, children) in children.into_iter().enumerate() {
            let path = std::mem::take(&mut paths[number]);
            let mut random = Random(number as u64);
            let mut taken = HashSet::new();
            for child in children {
                let len = random.pick(&DIRECTORY_NAME_LEN);
                let below = path.join(random.name(len, &mut taken));
                fs::create_dir(&below)?;
                paths[child] = below;
            }
            write_files(&path, self.files[number], &mut random, &mut taken)?;
        }
        Ok(())
    }
}

fn write_files(
    directory: &Path,
    count: usize,
    random: &mut Random,
    taken: &mut HashSet<String>,
) -> io::Result<()> {
    for _ in 0..count {
        let len = random.pick(&FILE_NAME_LEN);
        let path = directory.join(random.name(len, taken));
        if random.one_in(PER_SYMLINK) {
            let len = random.pick(&TARGET_LEN);
            symlink(random.name(len, &mut HashSet::new()), path)?;
            continue;
        }
        let mut file = File::create_new(path)?;
        if random.one_in(PER_FILE_WITH_CONTENT) {
            let len = random.pick(&FILE_LEN);
            file.write_all(&[b'.'; 4096][..len])?;
        }
    }
    Ok(())
}
