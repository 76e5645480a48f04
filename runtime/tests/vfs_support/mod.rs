//! Trees to resolve paths in: as the host has them, split into a sysroot and mounts, and as the kernel sees them, whole.
#![allow(dead_code, unused_imports)] // each test program uses its part

mod host;
pub(crate) mod index;
mod plan;
mod tree;

use std::fs;
use std::path::Path;

use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::{Area, Found, Last, Place, Start, Vfs, Want};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use host::errno;

pub(crate) use host::RealHost;
pub(crate) use plan::{Node, Plan, node, path, paths, place, plan};
pub(crate) use tree::{Strings, Tree, directories, tree};

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
