//! The resolver against the kernel's own: `openat2` with `RESOLVE_IN_ROOT` in a tree that is one, where the resolver has a sysroot and
//! mounts to put together.
#![cfg(target_os = "linux")]

mod vfs_support;

use elfuse_runtime::vfs::{Last, Vfs, Want};
use proptest::prelude::*;
use rustix::fs::ResolveFlags;
use vfs_support::{
    RealHost, Strings, Tree, by_kernel, by_vfs, directories, follow, kernel_at, paths, plan,
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn every_path_leads_where_the_kernel_says(plan in plan(), paths in paths()) {
        let tree = Tree::new(plan);
        let strings = Strings::of(&tree);
        let mounts = strings.mounts();
        let vfs = Vfs::new(&mounts);
        let host = RealHost::new(&tree.sysroot());
        for start in directories(&tree) {
            for (path, follows) in &paths {
                let whole = if path.starts_with('/') { path.clone() } else { format!("{start}/{path}") };
                let expected = by_kernel(&tree.whole(), &whole, *follows, ResolveFlags::empty());
                let found = by_vfs(&vfs, &host, &start, path, follow(*follows));
                prop_assert_eq!(found, expected, "{} from {}, following: {}", path, start, follows);
            }
        }
    }

    #[test]
    fn the_flags_of_openat2_mean_what_they_mean_to_the_kernel(mut plan in plan(), paths in paths()) {
        plan.mounts.clear();
        let tree = Tree::new(plan);
        let strings = Strings::of(&tree);
        let mounts = strings.mounts();
        let vfs = Vfs::new(&mounts);
        let host = RealHost::new(&tree.sysroot());
        let want = |last| Want::new(last);
        for start in directories(&tree) {
            for (path, follows) in &paths {
                let last = if *follows { Last::Follow } else { Last::NoFollow };
                let from = tree.whole().join(&start[1..]);
                let none = ResolveFlags::empty();
                for (flags, want) in [
                    (ResolveFlags::BENEATH, Want { beneath: true, ..want(last) }),
                    (ResolveFlags::IN_ROOT, Want { in_root: true, ..want(last) }),
                    (ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS, Want { in_root: true, no_symlinks: true, ..want(last) }),
                    (ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS, Want { beneath: true, no_symlinks: true, ..want(last) }),
                ] {
                    let expected = kernel_at(&tree.whole(), &from, path, *follows, none | flags);
                    let found = by_vfs(&vfs, &host, &start, path, want);
                    prop_assert_eq!(found, expected, "{} from {}, following: {}, {:?}", path, start, follows, flags);
                }
            }
        }
    }
}
