//! What a bundle will hold and why: decided here, carried out in [`super::copy`].

use std::cmp::Ordering;
use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::report::Bytes;
use crate::tree::Node;

/// Why something is in a bundle. The report is grouped by it, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Named on the command line.
    Program,
    /// The interpreter of a script.
    Interpreter,
    /// The dynamic linker of a program.
    Loader,
    /// What a program or module loads.
    Library,
    /// Configuration of the dynamic linker.
    LoaderConfiguration,
    /// Name service: modules and configuration.
    Nss,
    /// Character set converters.
    Gconv,
    /// Locale data and the time zone.
    Locale,
    /// Standard library of an interpreter, and what other programs open by themselves.
    Runtime,
    /// `--add`.
    Added,
    /// Directories that are expected to be there.
    Skeleton,
}

impl Group {
    /// Heading in the report.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Group::Program => "programs",
            Group::Interpreter => "interpreters",
            Group::Loader => "loaders",
            Group::Library => "libraries",
            Group::LoaderConfiguration => "loader config",
            Group::Nss => "nss",
            Group::Gconv => "gconv",
            Group::Locale => "locale",
            Group::Runtime => "runtimes",
            Group::Added => "added",
            Group::Skeleton => "skeleton",
        }
    }
}

/// Why one thing is in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Because {
    /// Which part of the bundle it belongs to.
    pub group: Group,
    /// Who asked for it: a path, or a name such as `perl`.
    pub of: Bytes,
}

impl Because {
    /// `group`, asked for by `of`.
    #[must_use]
    pub fn new(group: Group, of: impl AsRef<[u8]>) -> Because {
        Because {
            group,
            of: Bytes(of.as_ref().to_vec()),
        }
    }
}

/// What is at one path of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory with the mode and time of the source's.
    Directory,
    /// A directory that is made whether the source has it or not; its mode.
    EmptyDirectory(u32),
    /// A copy of the source's file.
    File(Node),
    /// A symlink with this text.
    Symlink(Vec<u8>),
    /// A file that is written rather than copied. Its mode is 0644.
    Written(Vec<u8>),
}

/// One thing in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub what: What,
    /// Why: the first reason found.
    pub because: Because,
}

/// A path that sorts with what is below it: as if `/` came before every other byte. Plain byte order has `/usr-x` between
/// `/usr` and `/usr/lib`, and the copy would have to come back to a directory it had left.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TreeOrder(Vec<u8>);

impl Ord for TreeOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        fn weigh(path: &[u8]) -> impl Iterator<Item = u8> {
            // NUL is in no path.
            path.iter().map(|&byte| if byte == b'/' { 0 } else { byte })
        }
        weigh(&self.0).cmp(weigh(&other.0))
    }
}

impl PartialOrd for TreeOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Everything that a bundle will hold, by path. Paths are without symlinks: every directory above an entry is an entry
/// and a real directory, which is what keeps the copy inside its destination.
#[derive(Debug, Default)]
pub struct Plan {
    entries: BTreeMap<TreeOrder, Entry>,
    /// Last names of all entries.
    names: BTreeSet<Vec<u8>>,
}

impl Plan {
    /// Whether something of this name is in it, whatever the directory.
    #[must_use]
    pub fn holds_name(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    /// Adds `what` at `real` and the directories above it. What is there already stays, so that what was asked for goes
    /// before what is added by default. Says whether the entry is new.
    pub fn add(&mut self, real: &[u8], what: What, because: &Because) -> bool {
        if real == b"/" {
            return false;
        }
        for (slash, _) in real
            .iter()
            .enumerate()
            .skip(1)
            .filter(|&(_, &byte)| byte == b'/')
        {
            let above = self.entries.entry(TreeOrder(real[..slash].to_vec()));
            above.or_insert_with(|| Entry {
                what: What::Directory,
                because: because.clone(),
            });
        }
        let MapEntry::Vacant(vacant) = self.entries.entry(TreeOrder(real.to_vec())) else {
            return false;
        };
        self.names
            .extend(real.rsplit(|&byte| byte == b'/').next().map(<[u8]>::to_vec));
        vacant.insert(Entry {
            what,
            because: because.clone(),
        });
        true
    }

    /// Every entry, a directory before what is in it, and all of that before anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.0.as_slice(), entry))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_above_an_entry_come_with_it_and_before_it() {
        let mut plan = Plan::default();
        let because = Because::new(Group::Added, "test");
        assert!(plan.add(b"/usr/lib/x", What::Symlink(b"y".to_vec()), &because));
        assert!(!plan.add(b"/usr/lib/x", What::Directory, &because));
        let paths: Vec<&[u8]> = plan.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, [&b"/usr"[..], b"/usr/lib", b"/usr/lib/x"]);
        assert!(plan.holds_name(b"x") && !plan.holds_name(b"y"));
    }

    #[test]
    fn a_directory_is_left_only_when_everything_in_it_was_seen() {
        let mut plan = Plan::default();
        let because = Because::new(Group::Added, "test");
        for path in [&b"/usr/lib"[..], b"/usr-x", b"/usr", b"/usr/lib/x"] {
            plan.add(path, What::Directory, &because);
        }
        let paths: Vec<&[u8]> = plan.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, [&b"/usr"[..], b"/usr/lib", b"/usr/lib/x", b"/usr-x"]);
    }

    #[test]
    fn a_file_that_was_added_by_name_is_not_replaced_by_one_that_is_written() {
        let mut plan = Plan::default();
        plan.add(
            b"/passwd",
            What::Symlink(b"mine".to_vec()),
            &Because::new(Group::Added, "test"),
        );
        plan.add(
            b"/passwd",
            What::Written(b"some".to_vec()),
            &Because::new(Group::Nss, "test"),
        );
        let (_, entry) = plan.entries().next().unwrap();
        assert_eq!(entry.what, What::Symlink(b"mine".to_vec()));
    }
}
