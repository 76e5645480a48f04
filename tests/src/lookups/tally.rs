//! Which of the calls failed, and where.

use std::collections::BTreeMap;
use std::fmt;

use elfuse_runtime::sys::memory;

use super::call::{Call, Named};

/// Whether an address is in elfuse's own code.
#[must_use]
pub fn is_own(address: Option<u64>) -> bool {
    let address = address.and_then(|address| usize::try_from(address).ok());
    address.is_some_and(|address| memory::OWN.contains(&address))
}

/// Directories that a guest sees of the host whatever the sysroot holds.
pub const MOUNTS: [&str; 4] = ["/dev", "/proc", "/sys", "/tmp"];

/// Who made the calls, and thereby what their paths mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Programs below chroot(2): a path from the root is one inside.
    Chroot,
    /// `elfuse run`: a path from the root is one of the host.
    Elfuse,
}

/// A lookup that failed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// The call's name.
    pub call: String,
    /// The error's name.
    pub errno: String,
    /// Inside the sysroot from its root, else from that of the host.
    pub path: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.call, self.errno, self.path)
    }
}

/// What came of counting.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// All calls that reached the kernel.
    pub calls: u64,
    /// The same, by name.
    pub by_name: BTreeMap<String, u64>,
    /// Path calls inside the sysroot that failed with ENOENT, ENOTDIR or ELOOP, or readlink with EINVAL; each with how often.
    pub failing: BTreeMap<Failure, u64>,
    /// Those outside it: in what is mounted over it, and elfuse's own.
    pub elsewhere: BTreeMap<Failure, u64>,
    /// Path calls that reached the kernel from the guest's own code; under chroot all of them.
    pub from_guest: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds calls. `root` is the canonical host path of the sysroot.
    pub fn add(&mut self, calls: &[Call], root: &str, view: View) {
        for call in calls {
            self.calls += 1;
            *self.by_name.entry(call.name.clone()).or_default() += 1;
            if call.paths.is_empty() {
                continue;
            }
            if !is_own(call.address) {
                *self.from_guest.entry(call.name.clone()).or_default() += 1;
            }
            let Some(errno) = call
                .errno
                .as_deref()
                .filter(|errno| is_failure(&call.name, errno))
            else {
                continue;
            };
            let failure = |path: String| Failure {
                call: call.name.clone(),
                errno: errno.to_owned(),
                path,
            };
            let inside = call
                .paths
                .iter()
                .find_map(|named| inside(named, root, view));
            let (map, path) = match inside {
                Some(path) => (&mut self.failing, path),
                None => (&mut self.elsewhere, whole(&call.paths[0])),
            };
            *map.entry(failure(path)).or_default() += 1;
        }
    }

    /// How many failed inside the sysroot.
    #[must_use]
    pub fn failing_calls(&self) -> u64 {
        self.failing.values().sum()
    }

    /// How many failed elsewhere.
    #[must_use]
    pub fn failing_elsewhere(&self) -> u64 {
        self.elsewhere.values().sum()
    }

    /// How many failed inside the sysroot, of each call.
    #[must_use]
    pub fn failing_by_call(&self) -> BTreeMap<&str, u64> {
        let mut by_call = BTreeMap::new();
        for (failure, count) in &self.failing {
            *by_call.entry(failure.call.as_str()).or_default() += count;
        }
        by_call
    }
}

fn is_failure(call: &str, errno: &str) -> bool {
    matches!(errno, "ENOENT" | "ENOTDIR" | "ELOOP")
        || (call.starts_with("readlink") && errno == "EINVAL")
}

/// The path inside the sysroot; `None` if it is not inside. What cannot be told is taken to be inside.
fn inside(named: &Named, root: &str, view: View) -> Option<String> {
    let path = whole(named);
    let in_root = below(&path, root);
    let found = match (view, in_root) {
        (_, Some(rest)) => rest,
        // A name below a descriptor of who knows what.
        (View::Elfuse, None) if path.starts_with("/proc/") => {
            let (_, rest) = path.split_once("/fd/")?;
            let (_, rest) = rest.split_once('/')?;
            return Some(rest.to_owned());
        }
        (View::Elfuse, None) if path.starts_with('/') => return None,
        // A relative path without its directory: all of them start at the root.
        (_, None) => path.as_str(),
    };
    let found = format!("/{}", found.trim_start_matches('/'));
    let is_mounted =
        view == View::Chroot && MOUNTS.iter().any(|mount| below(&found, mount).is_some());
    (!is_mounted).then_some(found)
}

/// With the directory in front.
fn whole(named: &Named) -> String {
    match &named.at {
        Some(at) if !named.path.starts_with('/') => {
            format!("{}/{}", at.trim_end_matches('/'), named.path)
        }
        _ => named.path.clone(),
    }
}

/// What is left of `path` below a directory.
fn below<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookups::call::parse;

    fn tally(view: View, log: &str) -> Tally {
        let mut tally = Tally::default();
        tally.add(&parse(log).expect("a log"), "/s/root", view);
        tally
    }

    fn failing(view: View, line: &str) -> Option<String> {
        let tally = tally(view, &format!("[00006f0000000001] {line}\n"));
        let count = tally.failing_calls() + tally.failing_elsewhere();
        assert!(count <= 1);
        tally
            .failing
            .keys()
            .next()
            .map(|failure| failure.path.clone())
    }

    #[test]
    fn a_failure_counts_where_it_was_looked_up() {
        let at = |directory: &str, path: &str| {
            format!("openat({directory}, \"{path}\", O_RDONLY) = -1 ENOENT (x)")
        };
        let elfuse = |line: String| failing(View::Elfuse, &line);
        assert_eq!(elfuse(at("9</s/root>", "usr/a")).as_deref(), Some("/usr/a"));
        assert_eq!(
            elfuse(at("AT_FDCWD</>", "/s/root/a")).as_deref(),
            Some("/a")
        );
        assert_eq!(elfuse(at("AT_FDCWD</>", "/s/rootless/a")), None);
        assert_eq!(elfuse(at("AT_FDCWD</>", "/proc/1/x")), None);
        assert_eq!(
            elfuse(at("AT_FDCWD</>", "/proc/self/fd/4/x")).as_deref(),
            Some("x")
        );
        let chroot = |line: String| failing(View::Chroot, &line);
        assert_eq!(
            chroot(at("AT_FDCWD</s/root>", "/etc/a")).as_deref(),
            Some("/etc/a")
        );
        assert_eq!(chroot(at("4</s/root/usr>", "a")).as_deref(), Some("/usr/a"));
        assert_eq!(chroot(at("AT_FDCWD</s/root>", "/proc/1/x")), None);
        assert_eq!(chroot(at("4</s/root/proc>", "x")), None);
        assert_eq!(
            chroot(at("AT_FDCWD</s/root>", "/process")).as_deref(),
            Some("/process")
        );
    }

    #[test]
    fn only_failures_of_the_name_count_and_einval_only_of_readlink() {
        let of = |call: &str, errno: &str| {
            let line = format!("{call}(AT_FDCWD</>, \"/a\", 0x1, 2) = -1 {errno} (x)");
            failing(View::Chroot, &line).is_some()
        };
        for errno in ["ENOENT", "ENOTDIR", "ELOOP"] {
            assert!(of("newfstatat", errno), "{errno}");
        }
        assert!(of("readlinkat", "EINVAL") && of("readlink", "EINVAL"));
        assert!(!of("openat", "EINVAL") && !of("openat", "EACCES"));
    }

    #[test]
    fn a_path_call_of_the_guests_own_code_is_seen() {
        let log = "[00007f0000000001] openat(AT_FDCWD</>, \"/a\", O_RDONLY) = 3</a>\n\
                   [00006f0000000001] openat(AT_FDCWD</>, \"/b\", O_RDONLY) = 4</b>\n[00007f0000000001] close(3</a>) = 0\n";
        let tally = tally(View::Elfuse, log);
        assert_eq!(tally.calls, 3);
        assert_eq!(tally.from_guest, BTreeMap::from([("openat".to_owned(), 1)]));
    }
}
