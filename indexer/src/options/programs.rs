//! Where programs are looked for by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::GuestPath;

/// Directories of programs in a sysroot, where there is no `$PATH` to ask.
pub const GUEST_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin";

/// The most symlinks followed, as the kernel has it.
const MAX_SYMLINKS: usize = 40;

/// The first of the colon-separated directories that holds `name`. Empty and relative ones, which mean "from here", are
/// skipped: a bundle would not have them. Directories called `shims` come last: pyenv, rbenv and asdf keep scripts there
/// that choose among several programs of one name, while a question is about a program.
#[must_use]
pub fn find_program(
    name: &[u8],
    path: &[u8],
    exists: impl Fn(&GuestPath) -> bool,
) -> Option<GuestPath> {
    let dirs = path
        .split(|&byte| byte == b':')
        .filter(|dir| dir.first() == Some(&b'/'));
    let (shims, programs): (Vec<&[u8]>, Vec<&[u8]>) =
        dirs.partition(|dir| dir.ends_with(b"/shims"));
    let candidates = programs.into_iter().chain(shims);
    candidates
        .map(|dir| GuestPath::new(&[dir, b"/", name].concat()))
        .find(|candidate| exists(candidate))
}

/// Whether `guest` leads to anything under `root`, absolute symlinks starting at `root`.
pub(super) fn exists_in(root: &Path, guest: &[u8]) -> bool {
    let mut pending: Vec<Vec<u8>> = components(guest);
    let mut at = root.to_owned();
    let mut depth = 0_usize;
    let mut symlinks = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            if depth > 0 {
                at.pop();
                depth -= 1;
            }
            continue;
        }
        at.push(OsStr::from_bytes(&name));
        depth += 1;
        match at.symlink_metadata() {
            Err(_) => return false,
            Ok(metadata) if metadata.is_symlink() => {
                symlinks += 1;
                let Ok(target) = at.read_link() else {
                    return false;
                };
                if symlinks > MAX_SYMLINKS {
                    return false;
                }
                at.pop();
                depth -= 1;
                if target.is_absolute() {
                    at = root.to_owned();
                    depth = 0;
                }
                pending.extend(components(target.as_os_str().as_bytes()));
            }
            Ok(_) => {}
        }
    }
    true
}

/// The names in a path, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_of_a_version_manager_is_only_taken_where_there_is_no_program() {
        let everywhere = |_: &GuestPath| true;
        let found = find_program(
            b"python3",
            b"/home/me/.pyenv/shims:relative:/usr/bin",
            everywhere,
        );
        assert_eq!(found, Some(GuestPath::new(b"/usr/bin/python3")));
        let only_shim = |path: &GuestPath| path.as_bytes().starts_with(b"/home");
        let found = find_program(b"python3", b"/home/me/.pyenv/shims:/usr/bin", only_shim);
        assert_eq!(
            found,
            Some(GuestPath::new(b"/home/me/.pyenv/shims/python3"))
        );
    }
}
