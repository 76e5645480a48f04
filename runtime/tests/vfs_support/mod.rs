//! Trees to resolve paths in: as the host has them, split into a sysroot and mounts, and as the kernel sees them, whole.
#![allow(dead_code)] // each test program uses its part

pub(crate) mod index;

use std::cell::Cell;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use elfuse_format::keys::Time;
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::shadow::Mismatch;
use elfuse_runtime::vfs::{
    Area, Base, Found, Host, HostStat, Last, Location, Moment, Mount, Mounts,
};
use elfuse_runtime::vfs::{Place, Start, Vfs, Want};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use tempfile::TempDir;

/// What stands at a path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory,
    File,
    Symlink(String),
}

/// A tree, by guest path (`a/b`), parents before children; and the places where mounts begin.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: Vec<(String, Node)>,
    pub(crate) mounts: Vec<String>,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned),
        3 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just(String::new()),
    ]
}

/// A path of a few components, absolute or not, possibly with slashes at its end.
pub(crate) fn path() -> impl Strategy<Value = String> {
    let parts = prop::collection::vec(component(), 1..7);
    let ends = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("//")];
    (any::<bool>(), parts, ends).prop_map(|(absolute, parts, end)| {
        let start = if absolute { "/" } else { "" };
        let path = format!("{start}{}{end}", parts.join("/"));
        if path.is_empty() {
            ".".to_owned()
        } else {
            path
        }
    })
}

pub(crate) fn node() -> impl Strategy<Value = Node> {
    prop_oneof![
        3 => Just(Node::Directory),
        2 => Just(Node::File),
        3 => path().prop_map(Node::Symlink),
    ]
}

/// A place in a tree.
pub(crate) fn place() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&NAMES[..]), 1..5).prop_map(|names| names.join("/"))
}

pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let place = prop::collection::vec(prop::sample::select(&NAMES[..]), 1..5);
    let places = prop::collection::vec((place, node()), 0..24);
    let mounts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    (places, mounts).prop_map(|(places, mounts)| {
        let mut nodes: Vec<(String, Node)> = Vec::new();
        for (place, node) in places {
            // A directory is made of each parent that is not there, and nothing below what is none.
            for depth in 1..=place.len() {
                let path = place[..depth].join("/");
                let known = nodes.iter().find(|(known, _)| *known == path);
                match known {
                    Some((_, Node::Directory)) => {}
                    Some(_) => break,
                    None if depth == place.len() => nodes.push((path, node.clone())),
                    None => nodes.push((path, Node::Directory)),
                }
            }
        }
        let can_be_mounted = |(_, node): &&(String, Node)| !matches!(node, Node::Symlink(_));
        let places: Vec<&String> = (nodes.iter().filter(can_be_mounted))
            .map(|(path, _)| path)
            .collect();
        let mut chosen: Vec<String> = Vec::new();
        for index in mounts.iter().filter(|_| !places.is_empty()) {
            chosen.push((*index.get(&places)).clone());
        }
        chosen.sort();
        chosen.dedup();
        Plan {
            nodes,
            mounts: chosen,
        }
    })
}

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

fn errno(error: rustix::io::Errno) -> Errno {
    Errno(u16::try_from(error.raw_os_error()).unwrap())
}

static HOSTS: AtomicU64 = AtomicU64::new(1);

/// The system's own calls.
pub(crate) struct RealHost {
    root: OwnedFd,
    /// How often a symlink was read.
    pub(crate) readlinks: Cell<u64>,
    /// How often a directory was looked at.
    pub(crate) stats: Cell<u64>,
    /// How far the clock is ahead, in nanoseconds.
    pub(crate) ahead: Cell<u64>,
    /// Whether index and walker may disagree, and how often they did.
    pub(crate) expects_mismatch: Cell<bool>,
    pub(crate) mismatches: Cell<u64>,
    /// The thread that asks: each host is one's.
    pub(crate) thread: Cell<u64>,
    /// What the clock says instead, in nanoseconds.
    pub(crate) frozen_at: Cell<Option<u64>>,
    /// How far the file system's clock is, in seconds.
    pub(crate) file_time_ahead: Cell<i64>,
}

impl RealHost {
    pub(crate) fn new(root: &Path) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self {
            root: rustix::fs::open(root, flags, Mode::empty()).unwrap(),
            readlinks: Cell::new(0),
            stats: Cell::new(0),
            ahead: Cell::new(0),
            expects_mismatch: Cell::new(false),
            mismatches: Cell::new(0),
            thread: Cell::new(HOSTS.fetch_add(1, Ordering::Relaxed)),
            frozen_at: Cell::new(None),
            file_time_ahead: Cell::new(0),
        }
    }

    fn call<T>(
        &self,
        at: Location<'_>,
        call: impl FnOnce(std::os::fd::BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, Errno> {
        use std::os::fd::AsFd;
        assert_eq!(at.path.last(), Some(&0), "a location ends in a NUL");
        let path = at.without_nul();
        assert_eq!(path.starts_with(b"/"), at.base == Base::Host);
        let base = match at.base {
            Base::Sysroot => self.root.as_fd(),
            Base::Host => CWD,
        };
        call(base, path).map_err(errno)
    }

    /// Opens a place to find out whether something is there.
    pub(crate) fn open(&self, at: Location<'_>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.call(at, |base, path| {
            rustix::fs::openat(base, path, flags, Mode::empty())
        })
    }
}

impl Host for RealHost {
    fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        self.readlinks.set(self.readlinks.get() + 1);
        self.call(at, |base, path| {
            rustix::fs::readlinkat_raw(base, path, &mut *into)
        })
    }

    fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno> {
        self.stats.set(self.stats.get() + 1);
        let stat = self.call(at, |base, path| {
            rustix::fs::statat(base, path, AtFlags::SYMLINK_NOFOLLOW)
        })?;
        let time = |secs, nanos| Time {
            secs,
            nanos: u32::try_from(nanos).unwrap(),
        };
        Ok(HostStat {
            dev: stat.st_dev,
            ino: stat.st_ino,
            mode: stat.st_mode,
            is_open_to_caller: false,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn now(&self) -> Moment {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap();
        Moment {
            ticks: self.frozen_at.get().unwrap_or(now + self.ahead.get()),
            thread: self.thread.get(),
        }
    }

    fn file_time(&self) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Time {
            secs: now.tv_sec + self.file_time_ahead.get(),
            nanos: u32::try_from(now.tv_nsec).unwrap(),
        }
    }

    fn mismatch(&self, mismatch: &Mismatch<'_>) {
        assert!(self.expects_mismatch.get(), "{mismatch:?}");
        self.mismatches.set(self.mismatches.get() + 1);
    }
}

/// Where a path leads: its canonical guest path, or why nowhere.
pub(crate) type Outcome = Result<String, Errno>;

/// Where the kernel says that `path`, resolved in `root` as if that were `/`, leads.
pub(crate) fn by_kernel(root: &Path, path: &str, follow: bool, resolve: ResolveFlags) -> Outcome {
    kernel_at(root, root, path, follow, resolve | ResolveFlags::IN_ROOT)
}

/// The same from the directory `start`, without a root of its own.
pub(crate) fn kernel_at(
    root: &Path,
    start: &Path,
    path: &str,
    follow: bool,
    resolve: ResolveFlags,
) -> Outcome {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let start = rustix::fs::open(start, flags | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let flags = if follow {
        flags
    } else {
        flags | OFlags::NOFOLLOW
    };
    let open = || rustix::fs::openat2(&start, path, flags, Mode::empty(), resolve);
    // Whatever is renamed anywhere meanwhile makes the kernel give up on `..`.
    let found = std::iter::repeat_with(open)
        .find(|found| !matches!(found, Err(rustix::io::Errno::AGAIN)))
        .unwrap()
        .map_err(errno)?;
    use std::os::fd::AsRawFd;
    let real = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap();
    let root = fs::canonicalize(root).unwrap();
    let below = real.strip_prefix(root).unwrap();
    Ok(format!("/{}", below.to_str().unwrap()))
}

/// Where the resolver says that it leads, the last call made where it points to.
pub(crate) fn by_vfs(
    vfs: &Vfs<'_>,
    host: &RealHost,
    start: &str,
    path: &str,
    want: Want,
) -> Outcome {
    let mut area = Area::new();
    let found = vfs.resolve(
        host,
        &mut area,
        Start::Guest(start.as_bytes()),
        path.as_bytes(),
        want,
    );
    let text = |guest: &[u8]| String::from_utf8(guest.to_vec()).unwrap();
    match found {
        Found::Definite(errno) => Err(errno),
        Found::Host(place) => {
            host.open(place.location)?;
            Ok(text(place.guest))
        }
        Found::Synthetic(place) => Ok(text(place.guest)),
        other => panic!("{other:?} of {path}"),
    }
}

pub(crate) fn follow(follow: bool) -> Want {
    Want::new(if follow { Last::Follow } else { Last::NoFollow })
}

/// Paths to resolve, and whether to follow a symlink at their end.
pub(crate) fn paths() -> impl Strategy<Value = Vec<(String, bool)>> {
    prop::collection::vec((path(), any::<bool>()), 1..40)
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

/// Time stamps are those of the clock's tick: until it has ticked, a change may leave no trace.
pub(crate) fn let_the_clock_tick() {
    std::thread::sleep(std::time::Duration::from_millis(15));
}

pub(crate) fn with_walker<T>(tree: &Tree, test: impl FnOnce(&Vfs<'_>, &RealHost) -> T) -> T {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    test(&Vfs::new(&mounts), &RealHost::new(&tree.sysroot()))
}

/// What the resolver finds, from the root.
pub(crate) fn find<T>(tree: &Tree, path: &str, last: Last, test: impl FnOnce(Found<'_>) -> T) -> T {
    with_walker(tree, |vfs, host| {
        let mut area = Area::new();
        let start = Start::Guest(b"/");
        test(vfs.resolve(host, &mut area, start, path.as_bytes(), Want::new(last)))
    })
}

pub(crate) fn errno_of(tree: &Tree, path: &str, last: Last) -> Errno {
    find(tree, path, last, |found| match found {
        Found::Definite(errno) => errno,
        other => panic!("{path} is {other:?}"),
    })
}

pub(crate) fn place_of<T>(
    tree: &Tree,
    path: &str,
    last: Last,
    test: impl FnOnce(&Place<'_>) -> T,
) -> T {
    find(tree, path, last, |found| match found {
        Found::Host(place) => test(&place),
        other => panic!("{path} is {other:?}"),
    })
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
