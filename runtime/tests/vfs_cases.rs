//! One rule of path resolution at a time.
#![cfg(target_os = "linux")]

mod vfs_support;

use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::{Area, Base, Found, Last, LastComponent, Start, Want};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::path::Path;
use vfs_support::{by_kernel, by_vfs, errno_of, find, follow, place_of, text, tree, with_walker};

#[test]
fn an_empty_path_leads_nowhere_and_one_of_4096_bytes_is_too_long() {
    let tree = tree(&[], &[]);
    assert_eq!(errno_of(&tree, "", Last::Follow), Errno::ENOENT);
    let long = "/".repeat(4095);
    place_of(&tree, &long, Last::Follow, |place| {
        assert_eq!(place.guest, b"/");
        assert_eq!(place.location.path, b".\0");
    });
    let longer = "/".repeat(4096);
    assert_eq!(errno_of(&tree, &longer, Last::Follow), Errno::ENAMETOOLONG);
}

#[test]
fn forty_symlinks_are_followed_and_the_next_one_is_not() {
    let mut nodes = vec!["link0 -> file".to_owned(), "file".to_owned()];
    for number in 1..=41 {
        nodes.push(format!("link{number} -> link{}", number - 1));
    }
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let tree = tree(&nodes, &[]);
    for number in 38..=41 {
        let path = format!("link{number}");
        let expected = by_kernel(&tree.whole(), &path, true, ResolveFlags::empty());
        let found = with_walker(&tree, |vfs, host| {
            by_vfs(vfs, host, "/", &path, follow(true))
        });
        assert_eq!(found, expected, "{path}");
        assert_eq!(found.is_ok(), number < 40, "{path}");
    }
}

#[test]
fn symlinks_that_lead_round_in_circles_are_a_loop_even_with_something_behind_them() {
    let tree = tree(&["a -> b", "b -> a", "deep -> deep/deep"], &[]);
    for path in ["a", "a/", "a/x", "b/..", "deep", "deep/x"] {
        assert_eq!(errno_of(&tree, path, Last::Follow), Errno::ELOOP, "{path}");
    }
}

#[test]
fn long_texts_of_symlinks_may_pile_up_three_deep_and_no_deeper() {
    let rest = "/.".repeat(2000);
    let mut nodes = vec!["link0 -> dir".to_owned(), "dir/".to_owned()];
    for number in 1..=4 {
        nodes.push(format!("link{number} -> link{}{rest}", number - 1));
    }
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    let tree = tree(&nodes, &[]);
    let find = |path| {
        with_walker(&tree, |vfs, host| {
            by_vfs(vfs, host, "/", path, follow(true))
        })
    };
    assert_eq!(find("link3"), Ok("/dir".to_owned()));
    assert_eq!(find("link4"), Err(Errno::ENAMETOOLONG));
}

#[test]
fn a_call_that_makes_or_removes_gets_its_last_component_as_it_was_written() {
    let tree = tree(&["a/", "a/b/", "link -> a/b"], &[]);
    for (path, location, guest, last) in [
        ("a/new", "a/new", "/a/new", LastComponent::Normal),
        ("a/new/", "a/new/", "/a/new", LastComponent::Normal),
        ("link", "link", "/link", LastComponent::Normal),
        ("link/", "link/", "/link", LastComponent::Normal),
        ("link/new", "a/b/new", "/a/b/new", LastComponent::Normal),
        ("a/.", "a/.", "/a", LastComponent::Dot),
        ("link/..", "a/b/..", "/a/b", LastComponent::DotDot),
        (".", "./.", "/", LastComponent::Dot),
        ("..", "./..", "/", LastComponent::DotDot),
    ] {
        place_of(&tree, path, Last::Parent, |place| {
            assert_eq!(text(place.location.without_nul()), location, "{path}");
            assert_eq!(place.location.base, Base::Sysroot);
            assert_eq!(text(place.guest), guest, "{path}");
            assert_eq!(place.last, last, "{path}");
            assert_eq!(
                place.must_be_directory,
                path.ends_with("new/") || path == "link/"
            );
        });
    }
    place_of(&tree, "//", Last::Parent, |place| {
        assert_eq!(
            (place.location.base, place.location.path),
            (Base::Host, &b"/\0"[..])
        );
        assert_eq!(place.last, LastComponent::Root);
    });
    for path in ["missing/new", "missing/.", "link/missing/new"] {
        assert_eq!(errno_of(&tree, path, Last::Parent), Errno::ENOENT, "{path}");
    }
}

type Call = (
    &'static str,
    fn(std::os::fd::BorrowedFd<'_>, &Path) -> rustix::io::Result<()>,
);

const CALLS: [Call; 7] = [
    ("mkdir", |at, path| {
        rustix::fs::mkdirat(at, path, Mode::RWXU)
    }),
    ("rmdir", |at, path| {
        rustix::fs::unlinkat(at, path, AtFlags::REMOVEDIR)
    }),
    ("unlink", |at, path| {
        rustix::fs::unlinkat(at, path, AtFlags::empty())
    }),
    ("symlink", |at, path| {
        rustix::fs::symlinkat("text", at, path)
    }),
    ("rename to", |at, path| {
        rustix::fs::renameat(at, "file", at, path)
    }),
    ("rename from", |at, path| {
        rustix::fs::renameat(at, path, at, "other")
    }),
    ("create", |at, path| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        rustix::fs::openat(at, path, flags, Mode::RWXU).map(drop)
    }),
];

#[test]
fn calls_that_make_or_remove_fail_at_the_place_found_as_they_fail_by_the_path() {
    use std::os::fd::AsFd;
    let nodes = [
        "file",
        "empty/",
        "full/",
        "full/file",
        "link -> empty",
        "dangling -> nowhere",
        "full/up -> ..",
        "to_file -> full/file",
    ];
    for (name, call) in CALLS {
        for path in [
            "new",
            "new/",
            "file",
            "file/",
            "empty",
            "empty/",
            "full",
            "full/",
            "link",
            "link/",
            "link/new",
            "dangling",
            "dangling/",
            "dangling/new",
            "empty/.",
            "empty/..",
            "file/.",
            "file/..",
            "full/up/empty",
            "full/up",
            "full/up/",
            "to_file",
            "to_file/",
            "file/new",
            "missing/new",
            "empty/./new",
            "full/../new",
            ".",
            "empty//",
        ] {
            let tree = tree(&nodes, &[]);
            let whole = rustix::fs::open(
                tree.whole(),
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            )
            .unwrap();
            let sysroot = rustix::fs::open(
                tree.sysroot(),
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            )
            .unwrap();
            let to = |result: rustix::io::Result<()>| {
                result.map_err(|error| Errno(error.raw_os_error() as u16))
            };
            let expected = to(call(whole.as_fd(), Path::new(path)));
            let found = find(&tree, path, Last::Parent, |found| match found {
                Found::Definite(errno) => Err(errno),
                Found::Host(place) => {
                    let location = text(place.location.without_nul()).to_owned();
                    to(call(sysroot.as_fd(), Path::new(&location)))
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(found, expected, "{name} {path}");
        }
    }
}

#[test]
fn a_file_is_created_where_a_dangling_symlink_leads() {
    let nodes = [
        "dir/",
        "dir/file",
        "dangling -> dir/new",
        "far -> missing/new",
        "slash -> dir/new/",
        "to_file -> dir/file",
        "loop -> loop",
        "to_dir -> dir",
    ];
    let flags = OFlags::CREATE | OFlags::WRONLY;
    for path in [
        "dangling",
        "far",
        "slash",
        "to_file",
        "loop",
        "to_dir",
        "to_dir/",
        "dir/",
        "dir/new/",
        "dir/file/",
        "dangling/",
        ".",
        "dir/..",
        "/",
        "dir/file/x",
        "new",
    ] {
        let tree = tree(&nodes, &[]);
        let root = |at: &Path| rustix::fs::open(at, OFlags::PATH, Mode::empty()).unwrap();
        let to = |error: rustix::io::Errno| Errno(error.raw_os_error() as u16);
        let expected = rustix::fs::openat2(
            root(&tree.whole()),
            path,
            flags,
            Mode::RWXU,
            ResolveFlags::IN_ROOT,
        );
        let expected = expected.map(drop).map_err(to);
        let found = find(&tree, path, Last::Create, |found| match found {
            Found::Definite(errno) => Err(errno),
            Found::Host(place) => {
                let flags = flags | OFlags::NOFOLLOW;
                let path = text(place.location.without_nul());
                rustix::fs::openat(root(&tree.sysroot()), path, flags, Mode::RWXU)
                    .map(drop)
                    .map_err(to)
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected, "{path}");
        let exists = |root: std::path::PathBuf| root.join("dir/new").exists();
        assert_eq!(exists(tree.sysroot()), exists(tree.whole()), "{path}");
    }
}

#[test]
fn the_names_of_the_index_are_absent_and_cannot_be_made() {
    let tree = tree(
        &[
            ".elfuse/",
            ".elfuse/keys",
            ".elfuse-sidecar-index",
            "dir/",
            "dir/.elfuse-sidecar-index",
            "dir/.elfuse/",
            "file",
            "dir/.elfuse-sidecar-index.77.tmp",
            "link -> dir/.elfuse-sidecar-index",
        ],
        &[],
    );
    for path in [
        ".elfuse",
        "/.elfuse/",
        "/.elfuse/keys",
        ".elfuse-sidecar-index",
        "dir/.elfuse-sidecar-index",
        "dir/../.elfuse",
        "dir/.elfuse-sidecar-index.77.tmp",
        "link",
        "/.elfuse/..",
    ] {
        assert_eq!(errno_of(&tree, path, Last::Follow), Errno::ENOENT, "{path}");
    }
    for path in [".elfuse", "dir/.elfuse-sidecar-index", "dir/../.elfuse"] {
        assert_eq!(
            errno_of(&tree, path, Last::NoFollow),
            Errno::ENOENT,
            "{path}"
        );
        for last in [Last::Parent, Last::Create] {
            find(&tree, path, last, |found| match found {
                Found::Reserved { guest } => assert!(text(guest).contains(".elfuse")),
                other => panic!("{path} is {other:?}"),
            });
        }
    }
    assert_eq!(errno_of(&tree, ".elfuse/new", Last::Parent), Errno::ENOENT);
    assert_eq!(
        errno_of(&tree, "file/.elfuse-sidecar-index", Last::Follow),
        Errno::ENOTDIR
    );
    place_of(&tree, "dir/.elfuse", Last::Follow, |place| {
        assert_eq!(
            place.guest, b"/dir/.elfuse",
            "a store is one at the root only"
        );
    });
}

#[test]
fn a_walk_may_lead_deeper_than_a_path_is_long() {
    let name = "d".repeat(250);
    let tree = tree(&[], &[]);
    let start = format!("/{}", vec![name.as_str(); 16].join("/"));
    let path = [name.as_str(); 2].join("/");
    with_walker(&tree, |vfs, host| {
        let mut area = Area::new();
        let start = Start::Guest(start.as_bytes());
        // The host would refuse it, as it does, but the resolver does not.
        let found = vfs.resolve(
            host,
            &mut area,
            start,
            name.as_bytes(),
            Want::new(Last::Parent),
        );
        match found {
            Found::Host(place) => assert_eq!(place.location.path.len(), 17 * 251),
            other => panic!("{other:?}"),
        }
        let found = vfs.resolve(
            host,
            &mut area,
            start,
            path.as_bytes(),
            Want::new(Last::Parent),
        );
        assert_eq!(found, Found::Definite(Errno::ENAMETOOLONG));
    });
}
