//! A tree of any size with the proportions of a real one, the same on every machine: shape, names and targets come from a
//! generator of pseudo-random numbers with a fixed seed.
//!
//! Its files are empty. A page of cache for each of a million is more than some machines keep warm; an empty file is opened,
//! read and closed like any other, and what reading costs is measured on a real tree.
//!
//! The tables are means of equal shares of a configured Debian 12 of 51,699 entries (4,567 directories, 1,840 symlinks), so
//! that each mean is kept. One directory besides is far larger than any of its.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
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
/// One in so many of what is not a directory is a symlink.
const PER_SYMLINK: u64 = 26;
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
        } else {
            File::create_new(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                all.extend(names_below(&entry.path())?);
            }
            all.push(entry.path());
        }
        Ok(all)
    }

    #[test]
    fn the_tree_has_as_many_entries_as_asked_for_and_is_the_same_each_time() -> anyhow::Result<()> {
        let size = Size {
            entries: 2000,
            in_one_directory: 500,
        };
        let made = || -> anyhow::Result<_> {
            let cache = tempfile::tempdir()?;
            let tree = tree(cache.path(), size)?;
            let mut names = names_below(&tree)?
                .iter()
                .map(|path| Ok(path.strip_prefix(&tree)?.to_owned()))
                .collect::<anyhow::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        };
        let (one, other) = (made()?, made()?);
        assert_eq!(one.len(), size.entries);
        assert!(one == other);
        Ok(())
    }

    #[test]
    fn a_tree_that_was_not_finished_is_made_anew() -> anyhow::Result<()> {
        let cache = tempfile::tempdir()?;
        let size = Size {
            entries: 100,
            in_one_directory: 10,
        };
        let first = tree(cache.path(), size)?;
        fs::remove_file(first.with_file_name("complete"))?;
        fs::write(first.join("left behind"), "")?;
        let second = tree(cache.path(), size)?;
        assert_eq!(names_below(&second)?.len(), size.entries);
        Ok(())
    }
}
