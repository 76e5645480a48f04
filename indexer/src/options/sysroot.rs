//! Which sysroot is meant, and which of its files: paths of the host and paths of the guest are two types.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::error::UsageError;
use crate::options::programs::{GUEST_PATH, find_program};
use crate::report::escaped;

/// Name of the store at the root of an indexed sysroot.
const STORE: &str = ".elfuse";

/// Root directory of a sysroot, as a path of the host: absolute, without symlinks. It was a directory when looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysroot {
    root: PathBuf,
    typed: PathBuf,
}

impl fmt::Display for Sysroot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(self.typed.as_os_str().as_bytes()))
    }
}

/// A path as the programs of a sysroot see it: absolute, starting with `/`. Symlinks in it are not resolved and `..` is
/// left to the walker, which stops at the root.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// `path` with one leading slash; repeated and trailing slashes and `.` dropped.
    #[must_use]
    pub fn new(path: &[u8]) -> GuestPath {
        let mut guest = Vec::with_capacity(path.len() + 1);
        for component in path
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
        {
            guest.push(b'/');
            guest.extend_from_slice(component);
        }
        if guest.is_empty() {
            guest.push(b'/');
        }
        GuestPath(guest)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.0))
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Sysroot {
    /// The directory that was typed.
    ///
    /// # Errors
    /// [`UsageError::Sysroot`] if it is none.
    pub fn open(typed: &Path) -> Result<Sysroot, UsageError> {
        let refuse = |why: String| UsageError::Sysroot {
            path: typed.to_owned(),
            why,
        };
        let root = typed
            .canonicalize()
            .map_err(|error| refuse(error.to_string()))?;
        if !root.is_dir() {
            return Err(refuse("not a directory".into()));
        }
        Ok(Sysroot {
            root,
            typed: typed.to_owned(),
        })
    }

    /// The root as a path of the host.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a path of the guest is on the host if no symlink is on the way: for looking at it, not for following it.
    #[must_use]
    pub fn host_path(&self, guest: &GuestPath) -> PathBuf {
        self.root.join(OsStr::from_bytes(&guest.0[1..]))
    }

    /// A directory in this sysroot, given as a path of the guest or of the host.
    ///
    /// # Errors
    /// [`UsageError`] if there is none, or if it lies outside.
    pub fn directory(&self, typed: &Path) -> Result<GuestPath, UsageError> {
        let guest = self.existing(typed)?;
        let metadata = self.host_path(&guest).symlink_metadata();
        match metadata {
            Ok(metadata) if metadata.is_dir() => Ok(guest),
            Ok(metadata) if metadata.is_symlink() => Err(UsageError::NoSuchFile {
                path: typed.to_owned(),
                why: "a symlink; name the directory itself".into(),
            }),
            Ok(_) => Err(UsageError::NoSuchFile {
                path: typed.to_owned(),
                why: "not a directory".into(),
            }),
            Err(error) => Err(UsageError::NoSuchFile {
                path: typed.to_owned(),
                why: error.to_string(),
            }),
        }
    }

    /// A file in this sysroot, given as a path of the guest, absolute or from its root, or of the host.
    ///
    /// # Errors
    /// [`UsageError`] if there is nothing, or if it lies outside.
    pub fn existing(&self, typed: &Path) -> Result<GuestPath, UsageError> {
        let guest = GuestPath::new(typed.as_os_str().as_bytes());
        let leaves = typed
            .components()
            .any(|component| component == Component::ParentDir);
        if !leaves && typed.is_absolute() && self.holds(&guest) {
            return Ok(guest);
        }
        if let Some(inside) = self.strip(typed) {
            return Ok(inside);
        }
        if !leaves && !typed.is_absolute() && self.holds(&guest) {
            return Ok(guest);
        }
        match typed.symlink_metadata() {
            Ok(_) => Err(UsageError::OutsideSysroot {
                path: typed.to_owned(),
                sysroot: self.typed.clone(),
            }),
            Err(error) => Err(UsageError::NoSuchFile {
                path: typed.to_owned(),
                why: format!("{error}, neither in the sysroot {self} nor from here"),
            }),
        }
    }

    /// As [`Sysroot::existing`]; a name without a slash is looked for where programs are.
    ///
    /// # Errors
    /// [`UsageError`] if there is nothing, or if it lies outside.
    pub fn program(&self, typed: &Path) -> Result<GuestPath, UsageError> {
        let bytes = typed.as_os_str().as_bytes();
        if bytes.contains(&b'/') {
            return self.existing(typed);
        }
        // The running system has a $PATH; a sysroot has only custom.
        let path = match std::env::var_os("PATH") {
            Some(path) if self.root == Path::new("/") => path.into_vec(),
            _ => GUEST_PATH.as_bytes().to_vec(),
        };
        find_program(bytes, &path, |candidate| self.holds(candidate)).ok_or_else(|| {
            UsageError::NoSuchProgram {
                name: typed.to_owned(),
                searched: escaped(&path),
            }
        })
    }

    /// Whether there may be something at `guest`. An absolute symlink on the way means another file than the host would
    /// find, so this is only good for choosing between readings of what was typed.
    fn holds(&self, guest: &GuestPath) -> bool {
        crate::options::programs::exists_in(&self.root, guest.as_bytes())
    }

    /// The path of the guest, if `typed` is a path of the host that leads into this sysroot.
    fn strip(&self, typed: &Path) -> Option<GuestPath> {
        let absolute = std::path::absolute(typed).ok()?;
        let root_as_typed = std::path::absolute(&self.typed).ok()?;
        // As spelled first: /bin/sh in a sysroot stays /bin/sh, although its /bin is a symlink.
        if !absolute
            .components()
            .any(|component| component == Component::ParentDir)
        {
            for root in [&root_as_typed, &self.root] {
                if let Ok(inside) = absolute.strip_prefix(root) {
                    let guest = GuestPath::new(inside.as_os_str().as_bytes());
                    return self.holds(&guest).then_some(guest);
                }
            }
        }
        // The last name may be a symlink that means something else on the host: only what is above is resolved.
        let parent = absolute.parent()?.canonicalize().ok()?;
        let path = parent.join(absolute.file_name()?);
        let inside = path.strip_prefix(&self.root).ok()?;
        let guest = GuestPath::new(inside.as_os_str().as_bytes());
        self.holds(&guest).then_some(guest)
    }
}

/// The sysroot and the file in it that `typed` means. Without `sysroot`: the nearest directory above the file that holds
/// an index, else `/`.
pub(super) fn locate(
    sysroot: Option<&Path>,
    typed: &Path,
) -> Result<(Sysroot, GuestPath), UsageError> {
    let sysroot = match sysroot {
        Some(given) => Sysroot::open(given)?,
        None => match above(typed) {
            Some(found) => Sysroot::open(&found)?,
            None => Sysroot::open(Path::new("/"))?,
        },
    };
    let guest = sysroot.program(typed)?;
    Ok((sysroot, guest))
}

/// The sysroot that was named, or the nearest directory from here upwards that holds an index.
pub(super) fn given_or_above(
    sysroot: Option<&Path>,
    out_of_tree: bool,
) -> Result<Sysroot, UsageError> {
    if let Some(given) = sysroot {
        return Sysroot::open(given);
    }
    if out_of_tree {
        let what = "with --index-dir, name the sysroot too: its index is not in it";
        return Err(UsageError::Contradiction(what.into()));
    }
    let here = std::path::absolute(".").unwrap_or_else(|_| PathBuf::from("."));
    match here.ancestors().find(|dir| dir.join(STORE).is_dir()) {
        Some(found) => Sysroot::open(found),
        None => Err(UsageError::NoIndexAbove { start: here }),
    }
}

/// The nearest directory above `typed` that holds an index; of a bare name nothing is known.
fn above(typed: &Path) -> Option<PathBuf> {
    if !typed.as_os_str().as_bytes().contains(&b'/') {
        return None;
    }
    let absolute = std::path::absolute(typed).ok()?;
    let found = absolute
        .ancestors()
        .skip(1)
        .find(|dir| dir.join(STORE).is_dir());
    found.map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn sysroot() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("sysroot");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/prog"), "").unwrap();
        symlink("/usr/bin", root.join("bin")).unwrap();
        symlink("/usr/bin/prog", root.join("usr/bin/alias")).unwrap();
        (dir, root)
    }

    fn guest(text: &str) -> GuestPath {
        GuestPath::new(text.as_bytes())
    }

    #[test]
    fn a_path_of_the_guest_a_path_of_the_host_and_a_bare_name_mean_the_same_program() {
        let (_dir, root) = sysroot();
        let sysroot = Sysroot::open(&root).unwrap();
        for typed in [
            PathBuf::from("/usr/bin/prog"),
            root.join("usr/bin/prog"),
            "prog".into(),
            "usr/bin/prog".into(),
        ] {
            assert_eq!(
                sysroot.program(&typed).unwrap(),
                guest("/usr/bin/prog"),
                "{typed:?}"
            );
        }
    }

    #[test]
    fn an_absolute_symlink_in_the_sysroot_starts_at_its_root_and_its_spelling_is_kept() {
        let (_dir, root) = sysroot();
        let sysroot = Sysroot::open(&root).unwrap();
        assert_eq!(
            sysroot.program(&root.join("bin/prog")).unwrap(),
            guest("/bin/prog")
        );
        assert_eq!(
            sysroot.program(Path::new("/bin/alias")).unwrap(),
            guest("/bin/alias")
        );
    }

    #[test]
    fn the_nearest_directory_with_an_index_is_the_sysroot_of_a_file_below_it() {
        let (_dir, root) = sysroot();
        fs::create_dir(root.join(".elfuse")).unwrap();
        let (found, program) = locate(None, &root.join("usr/bin/prog")).unwrap();
        assert_eq!(found.root(), root.canonicalize().unwrap());
        assert_eq!(program, guest("/usr/bin/prog"));
    }

    #[test]
    fn a_file_outside_the_sysroot_is_refused() {
        let (dir, root) = sysroot();
        fs::write(dir.path().join("outside"), "").unwrap();
        let sysroot = Sysroot::open(&root).unwrap();
        let refused = sysroot.existing(&root.join("../outside"));
        assert!(
            matches!(refused, Err(UsageError::OutsideSysroot { .. })),
            "{refused:?}"
        );
        assert!(matches!(
            sysroot.existing(Path::new("/nowhere")),
            Err(UsageError::NoSuchFile { .. })
        ));
        assert!(matches!(
            sysroot.program(Path::new("nowhere")),
            Err(UsageError::NoSuchProgram { .. })
        ));
    }

    #[test]
    fn guest_paths_have_one_spelling() {
        assert_eq!(guest("usr//bin/./ls/"), guest("/usr/bin/ls"));
        assert_eq!(guest("").as_bytes(), b"/");
    }
}
