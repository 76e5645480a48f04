//! One rule of path resolution at a time.
#![cfg(target_os = "linux")]

mod vfs_support;

use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::{
    Area, Base, Found, Last, LastComponent, Mount, Mounts, Place, Start, Vfs, Want,
};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::path::Path;
use vfs_support::{RealHost, Strings, Tree, by_kernel, by_vfs, follow, tree};

fn with_walker<T>(tree: &Tree, test: impl FnOnce(&Vfs<'_>, &RealHost) -> T) -> T {
    let strings = Strings::of(tree);
    let mounts = strings.mounts();
    test(&Vfs::new(&mounts), &RealHost::new(&tree.sysroot()))
}

/// What the resolver finds, from the root.
fn find<T>(tree: &Tree, path: &str, last: Last, test: impl FnOnce(Found<'_>) -> T) -> T {
    with_walker(tree, |vfs, host| {
        let mut area = Area::new();
        let start = Start::Guest(b"/");
        test(vfs.resolve(host, &mut area, start, path.as_bytes(), Want::new(last)))
    })
}

fn errno_of(tree: &Tree, path: &str, last: Last) -> Errno {
    find(tree, path, last, |found| match found {
        Found::Definite(errno) => errno,
        other => panic!("{path} is {other:?}"),
    })
}

fn place_of<T>(tree: &Tree, path: &str, last: Last, test: impl FnOnce(&Place<'_>) -> T) -> T {
    find(tree, path, last, |found| match found {
        Found::Host(place) => test(&place),
        other => panic!("{path} is {other:?}"),
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

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
fn the_names_of_the_index_are_ordinary_in_a_mount() {
    let tree = tree(&["m/", "m/.elfuse-sidecar-index"], &["m"]);
    place_of(&tree, "m/.elfuse-sidecar-index", Last::Follow, |place| {
        assert_eq!(place.location.base, Base::Host);
    });
}

#[test]
fn a_mount_is_entered_and_left_by_its_name_and_by_symlinks() {
    let tree = tree(
        &[
            "etc/",
            "etc/passwd",
            "m/",
            "m/inner/",
            "m/inner/file",
            "m/out -> /etc/passwd",
            "m/up -> ../etc",
            "into -> m/inner",
            "m/abs -> /m/inner",
        ],
        &["m"],
    );
    let mount = tree.mount_path(0);
    for (path, base, guest) in [
        ("m", Base::Host, "/m"),
        ("m/inner/file", Base::Host, "/m/inner/file"),
        ("into/file", Base::Host, "/m/inner/file"),
        ("m/abs/file", Base::Host, "/m/inner/file"),
        ("m/out", Base::Sysroot, "/etc/passwd"),
        ("m/up/passwd", Base::Sysroot, "/etc/passwd"),
        ("m/../etc", Base::Sysroot, "/etc"),
        ("m/inner/../..", Base::Sysroot, "/"),
    ] {
        place_of(&tree, path, Last::Follow, |place| {
            assert_eq!(place.location.base, base, "{path}");
            assert_eq!(text(place.guest), guest, "{path}");
            assert_eq!(place.is_mount_point, path == "m", "{path}");
            if base == Base::Host {
                let host = format!("{}{}", mount.to_str().unwrap(), &guest[2..]);
                assert_eq!(text(place.location.without_nul()), host, "{path}");
            }
        });
    }
}

#[test]
fn mounts_are_not_crossed_where_that_is_forbidden() {
    let tree = tree(
        &[
            "a/",
            "m/",
            "m/b/",
            "m/out -> /a",
            "m/stay -> b",
            "m/root -> /m/b",
        ],
        &["m"],
    );
    with_walker(&tree, |vfs, host| {
        let want = Want {
            no_crossing: true,
            ..Want::new(Last::Follow)
        };
        for (start, path, expected) in [
            ("/", "m", Err(Errno::EXDEV)),
            ("/m", "..", Err(Errno::EXDEV)),
            ("/m", "out", Err(Errno::EXDEV)),
            ("/m", "root", Err(Errno::EXDEV)),
            ("/m", "stay", Ok("/m/b".to_owned())),
            ("/m", "/a", Ok("/a".to_owned())),
            ("/", "a/../a", Ok("/a".to_owned())),
        ] {
            let found = by_vfs(vfs, host, start, path, want);
            assert_eq!(found, expected, "{path} from {start}");
        }
    });
}

#[test]
fn a_directory_that_exists_only_for_a_mounts_sake_holds_nothing_else() {
    let tree = tree(&["home/", "home/me/", "home/me/file"], &["home/me"]);
    assert!(!tree.sysroot().join("home").exists());
    for path in [
        "home",
        "/home/",
        "/home/.",
        "home/me/..",
        "home/me/../../home",
    ] {
        find(&tree, path, Last::Follow, |found| match found {
            Found::Synthetic(place) => {
                assert_eq!(place.guest, b"/home");
                // The host shows the mount elsewhere, so an empty directory stands in.
                assert_eq!(place.location.path, b"/proc/tty/ldisc\0");
                assert_eq!(place.location.base, Base::Host);
            }
            other => panic!("{path} is {other:?}"),
        });
    }
    place_of(&tree, "home/me/file", Last::Follow, |place| {
        assert_eq!(place.location.base, Base::Host);
    });
    assert_eq!(errno_of(&tree, "home/you", Last::Follow), Errno::ENOENT);
    assert_eq!(errno_of(&tree, "home/you/x", Last::Parent), Errno::ENOENT);
    for last in [Last::Parent, Last::Create] {
        assert_eq!(errno_of(&tree, "home/you", last), Errno::EROFS);
        find(&tree, "home", last, |found| {
            assert!(matches!(found, Found::Synthetic(_)), "{found:?}");
        });
    }
    place_of(&tree, "home/me", Last::Parent, |place| {
        assert!(place.is_mount_point)
    });
}

#[test]
fn the_hosts_own_directory_stands_in_above_a_mount_of_the_same_path() {
    let tree = tree(&[], &[]);
    let root = tree.sysroot();
    let host_path = tree.whole();
    let mut mounts = Mounts::new(root.to_str().unwrap().as_bytes()).unwrap();
    let same = host_path.to_str().unwrap().as_bytes();
    mounts
        .add(Mount {
            guest: same,
            host: same,
            procfs: false,
        })
        .unwrap();
    let vfs = Vfs::new(&mounts);
    let mut area = Area::new();
    let above = host_path.parent().unwrap().to_str().unwrap();
    let (host, want) = (RealHost::new(&root), Want::new(Last::Follow));
    match vfs.resolve(&host, &mut area, Start::Guest(b"/"), above.as_bytes(), want) {
        Found::Synthetic(place) => {
            assert_eq!(text(place.guest), above);
            assert_eq!(text(place.location.without_nul()), above);
        }
        other => panic!("{other:?}"),
    }
}

/// The host's `/proc` and `/dev` over an empty sysroot.
fn with_proc(test: impl FnOnce(&dyn Fn(&str, Want, &dyn Fn(Found<'_>)))) {
    let tree = tree(&["file"], &[]);
    let root = tree.sysroot();
    let mut mounts = Mounts::new(root.to_str().unwrap().as_bytes()).unwrap();
    for path in [&b"/proc"[..], b"/dev"] {
        let mount = Mount {
            guest: path,
            host: path,
            procfs: false,
        };
        mounts.add(mount).unwrap();
    }
    let vfs = Vfs::new(&mounts);
    let host = RealHost::new(&root);
    test(&|path, want, check| {
        let mut area = Area::new();
        check(vfs.resolve(&host, &mut area, Start::Guest(b"/"), path.as_bytes(), want));
    });
}

#[test]
fn a_magic_link_is_handed_over_with_its_text_and_what_comes_behind_it() {
    let me = std::process::id();
    with_proc(|find| {
        for (path, guest, rest) in [
            ("/proc/self/exe", format!("/proc/{me}/exe"), ""),
            (
                "/proc/self/cwd/a/../b",
                format!("/proc/{me}/cwd"),
                "/a/../b",
            ),
            ("/proc/self/root/", format!("/proc/{me}/root"), "/"),
            ("/dev/fd/0", format!("/proc/{me}/fd/0"), ""),
            ("/dev/stdin", format!("/proc/{me}/fd/0"), ""),
        ] {
            find(path, Want::new(Last::Follow), &|found| match found {
                Found::Magic {
                    place,
                    text: target,
                    rest: left,
                } => {
                    assert_eq!(text(place.guest), guest, "{path}");
                    assert_eq!(text(left), rest, "{path}");
                    assert!(!target.is_empty(), "{path}");
                    if path == "/proc/self/exe" {
                        let exe = std::env::current_exe().unwrap();
                        assert_eq!(text(target), exe.to_str().unwrap());
                    }
                }
                other => panic!("{path} is {other:?}"),
            });
        }
    });
}

#[test]
fn a_magic_link_that_is_not_followed_is_a_place_and_marked() {
    with_proc(|find| {
        for (path, is_magic) in [
            ("/proc/self/exe", true),
            ("/proc/self/fd/0", true),
            ("/proc/self", false),
            ("/proc/mounts", false),
        ] {
            for last in [Last::NoFollow, Last::Text] {
                find(path, Want::new(last), &|found| match found {
                    Found::Host(place) => assert_eq!(place.is_magic, is_magic, "{path}"),
                    other => panic!("{path} is {other:?}"),
                });
            }
        }
    });
}

#[test]
fn magic_links_are_refused_where_that_is_asked_for() {
    with_proc(|find| {
        let want = Want::new(Last::Follow);
        for (want, expected) in [
            (
                Want {
                    no_magic_links: true,
                    ..want
                },
                Errno::ELOOP,
            ),
            (
                Want {
                    no_symlinks: true,
                    ..want
                },
                Errno::ELOOP,
            ),
            (
                Want {
                    in_root: true,
                    ..want
                },
                Errno::EXDEV,
            ),
        ] {
            find(
                &format!("/proc/{}/cwd/x", std::process::id()),
                want,
                &|found| match found {
                    Found::Definite(errno) => assert_eq!(errno, expected),
                    other => panic!("{other:?}"),
                },
            );
        }
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
