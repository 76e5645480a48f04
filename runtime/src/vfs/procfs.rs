//! Which symlinks of procfs are magic: following one leads to what the kernel has open, whatever its text says (proc(5)).

use super::mounts::Mount;
use super::path::below;

/// Whether the path `below` (empty or starting with a slash) in `mount` names a magic link of a procfs.
pub(super) fn is_magic(mount: &Mount<'_>, rest: &[u8]) -> bool {
    if mount.procfs || mount.host == b"/proc" {
        return is_magic_in_procfs(rest);
    }
    // A mount of something above `/proc`: of the host's root, or of `/proc/self`.
    match (mount.host, below(mount.host, b"/proc")) {
        (b"/", _) => below(rest, b"/proc").is_some_and(is_magic_in_procfs),
        (_, Some(first)) => {
            let mut names = first.split(|&byte| byte == b'/').skip(1);
            let process = names.next().is_some_and(is_process);
            // Only mounts of a process's own directory are looked into: nobody mounts deeper.
            process && names.next().is_none() && is_magic_of_process(&mut components(rest))
        }
        _ => false,
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
}

fn is_process(name: &[u8]) -> bool {
    matches!(name, b"self" | b"thread-self") || is_number(name)
}

fn is_number(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(u8::is_ascii_digit)
}

fn is_magic_in_procfs(path: &[u8]) -> bool {
    let mut names = components(path);
    names.next().is_some_and(is_process) && is_magic_of_process(&mut names)
}

fn is_magic_of_process(names: &mut dyn Iterator<Item = &[u8]>) -> bool {
    let is_magic = match names.next() {
        Some(b"exe" | b"cwd" | b"root") => true,
        Some(b"fd" | b"map_files" | b"ns") => names.next().is_some(),
        Some(b"task") => {
            return names.next().is_some_and(is_number) && is_magic_of_process(names);
        }
        _ => false,
    };
    is_magic && names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{Mount, is_magic};

    fn at(host: &[u8], rest: &[u8]) -> bool {
        let mount = Mount {
            guest: b"/somewhere",
            host,
            procfs: false,
        };
        is_magic(&mount, rest)
    }

    #[test]
    fn the_links_that_lead_where_the_kernel_says_are_magic() {
        for path in [
            &b"/self/exe"[..],
            b"/1/cwd",
            b"/thread-self/root",
            b"/self/fd/0",
            b"/self/ns/mnt",
            b"/self/map_files/1-2",
            b"/7/task/8/exe",
            b"/7/task/8/fd/3",
        ] {
            assert!(at(b"/proc", path), "{}", path.escape_ascii());
        }
    }

    #[test]
    fn ordinary_links_and_directories_of_procfs_are_not() {
        for path in [
            &b""[..],
            b"/self",
            b"/mounts",
            b"/self/fd",
            b"/self/task",
            b"/self/task/8",
            b"/self/fdinfo/0",
            b"/sys/exe",
            b"/self/exe/x",
            b"/x1/exe",
        ] {
            assert!(!at(b"/proc", path), "{}", path.escape_ascii());
        }
        assert!(!at(b"/", b"/self/exe"));
        assert!(!at(b"/procs", b"/self/exe"));
    }

    #[test]
    fn a_procfs_is_known_wherever_it_is_mounted() {
        assert!(at(b"/", b"/proc/self/exe"));
        assert!(at(b"/proc/self", b"/exe"));
        let elsewhere = Mount {
            guest: b"/p",
            host: b"/srv/jail/proc",
            procfs: true,
        };
        assert!(is_magic(&elsewhere, b"/self/exe"));
    }
}
