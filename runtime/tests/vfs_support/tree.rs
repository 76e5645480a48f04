//! Plans carried out: a tree as the host has it, split into a sysroot and mounts, and the same tree whole.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use elfuse_runtime::vfs::{Mount, Mounts};
use tempfile::TempDir;

use super::plan::{Node, Plan};

/// A plan carried out.
pub(crate) struct Tree {
    dir: TempDir,
    pub(crate) plan: Plan,
}

impl Tree {
    pub(crate) fn new(plan: Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Self { dir, plan };
        fs::create_dir(tree.whole()).unwrap();
        fs::create_dir(tree.sysroot()).unwrap();
        for (path, node) in &tree.plan.nodes {
            make(&tree.whole().join(path), node);
            let host = tree.host_path(path);
            // Where only mounts lie below, the sysroot has nothing.
            let is_above = tree.plan.mounts.iter().any(|mount| under(mount, path));
            let is_needed = tree.plan.nodes.iter().any(|(other, _)| {
                under(other, path) && tree.mount_of(other) == tree.mount_of(path)
            });
            if !is_above || is_needed && !tree.plan.mounts.contains(path) {
                fs::create_dir_all(host.parent().unwrap()).unwrap();
                make(&host, node);
            } else if tree.plan.mounts.contains(path) {
                make(&host, node);
            }
        }
        tree
    }

    /// The tree as the guest is to see it, for the kernel to resolve in.
    pub(crate) fn whole(&self) -> PathBuf {
        self.dir.path().join("whole")
    }

    pub(crate) fn sysroot(&self) -> PathBuf {
        self.dir.path().join("sysroot")
    }

    fn mount_of(&self, path: &str) -> Option<usize> {
        let mounts = self.plan.mounts.iter().enumerate();
        let over = mounts.filter(|(_, mount)| *mount == path || under(path, mount));
        over.max_by_key(|(_, mount)| mount.len()).map(|(i, _)| i)
    }

    /// Makes, replaces or (`None`) removes what is at a path, both in the whole tree and in its part; not mount points and what is above
    /// them, and nothing where there is no directory for it.
    pub(crate) fn change(&self, path: &str, node: Option<&Node>) {
        let is_kept = |mount: &String| mount == path || under(mount, path);
        if self.plan.mounts.iter().any(is_kept) {
            return;
        }
        let places = [self.whole().join(path), self.host_path(path)];
        let has_parent = |place: &PathBuf| {
            let parent = fs::symlink_metadata(place.parent().unwrap());
            parent.is_ok_and(|parent| parent.is_dir())
        };
        // A directory above a mount need not be in the sysroot.
        if !places.iter().all(has_parent) {
            return;
        }
        for place in places {
            match fs::symlink_metadata(&place) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&place).unwrap(),
                Ok(_) => fs::remove_file(&place).unwrap(),
                Err(_) => {}
            }
            if let Some(node) = node {
                make(&place, node);
            }
        }
    }

    pub(crate) fn mount_path(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("mount{number}"))
    }

    /// Where a guest path's node is made.
    pub(crate) fn host_path(&self, path: &str) -> PathBuf {
        match self.mount_of(path) {
            None => self.sysroot().join(path),
            Some(number) => {
                let rest = &path[self.plan.mounts[number].len()..];
                let mut host = self.mount_path(number).into_os_string();
                host.push(rest);
                host.into()
            }
        }
    }
}

/// Whether `path` lies below `above`.
fn under(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn make(path: &Path, node: &Node) {
    match node {
        Node::Directory => fs::create_dir_all(path).unwrap(),
        Node::File => fs::write(path, b"").unwrap(),
        Node::Symlink(text) => symlink(text, path).unwrap(),
    }
}

/// Canonical guest paths of the directories that a tree has now.
pub(crate) fn directories(tree: &Tree) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut at = 0;
    while at < all.len() {
        for entry in fs::read_dir(tree.whole().join(&all[at])).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                let slash = if at == 0 { "" } else { "/" };
                all.push(format!("{}{slash}{name}", all[at]));
            }
        }
        at += 1;
    }
    all.iter().map(|path| format!("/{path}")).collect()
}

/// A tree of these nodes: `a` is a file, `a/` a directory, `a -> b` a symlink; and these mounts.
pub(crate) fn tree(nodes: &[&str], mounts: &[&str]) -> Tree {
    let node = |text: &&str| match (text.split_once(" -> "), text.strip_suffix('/')) {
        (Some((path, target)), _) => (path.to_owned(), Node::Symlink(target.to_owned())),
        (None, Some(path)) => (path.to_owned(), Node::Directory),
        (None, None) => ((*text).to_owned(), Node::File),
    };
    Tree::new(Plan {
        nodes: nodes.iter().map(node).collect(),
        mounts: mounts.iter().map(|&path| path.to_owned()).collect(),
    })
}

/// Strings of the mounts of a tree, which the table borrows.
pub(crate) struct Strings {
    sysroot: String,
    rows: Vec<(String, String)>,
}

impl Strings {
    pub(crate) fn of(tree: &Tree) -> Self {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let rows = tree.plan.mounts.iter().enumerate();
        Self {
            sysroot: text(tree.sysroot()),
            rows: rows
                .map(|(i, guest)| (format!("/{guest}"), text(tree.mount_path(i))))
                .collect(),
        }
    }

    pub(crate) fn mounts(&self) -> Mounts<'_> {
        let mut mounts = Mounts::new(self.sysroot.as_bytes()).unwrap();
        for (guest, host) in &self.rows {
            let mount = Mount {
                guest: guest.as_bytes(),
                host: host.as_bytes(),
                procfs: false,
            };
            mounts.add(mount).unwrap();
        }
        mounts
    }
}
