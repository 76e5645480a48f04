//! Mounts, directories that exist only for a mount's sake, and the magic links of procfs.
#![cfg(target_os = "linux")]

mod vfs_support;

use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::{Area, Base, Found, Last, Mount, Mounts, Start, Vfs, Want};
use vfs_support::{RealHost, by_vfs, errno_of, find, place_of, text, tree, with_walker};

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
