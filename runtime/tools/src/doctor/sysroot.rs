//! A sysroot's file system, and its index as a run would find it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use elfuse_format::FormatError;
use elfuse_format::keys::{Keys, State as KeyState, Time, flags};
use elfuse_format::loader_cache::LoaderCache;
use elfuse_format::names;
use elfuse_format::sidecar::Kind;
use elfuse_runtime::text::Shown;
use rustix::fs::Access;

use super::check::{Check, Group, Item, State};
use super::facts::Works;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The sysroot, symlinks resolved; or why it cannot be looked at.
    pub root: Works<PathBuf>,
    /// Its file system; `None` if it cannot be looked at.
    pub file_system: Option<FileSystem>,
    /// Its index.
    pub index: Option<Index>,
}

/// The file system a sysroot lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name, or its number.
    pub name: String,
    /// Whether its time stamps are known to tell every change.
    pub trusted: bool,
    /// Whether it is mounted so that nothing on it may be executed.
    pub noexec: bool,
}

/// An index, or where one would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The directory that holds it.
    pub store: PathBuf,
    /// What is there.
    pub content: Content,
    /// Whether runs can tell each other of changes.
    pub generation: Generation,
}

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// A file that cannot be used, and why.
    Unusable(String),
    /// A loader cache, and no keys that belong to it.
    Unsealed,
    /// Both.
    Sealed(Coverage),
}

/// How much of an index may be believed at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// All directories of the index.
    pub directories: usize,
    /// Those whose key is what the host says now.
    pub holding: usize,
    /// A directory whose key does not hold, from the root.
    pub first_stale: Option<Vec<u8>>,
    /// Made on a file system whose time stamps are not trusted.
    pub foreign: bool,
}

/// The generation file of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Generation {
    /// It is there and can be written to.
    Writable,
    /// It is not there, and can be made.
    CanBeMade,
    /// Neither the store nor the sysroot can be written to, so that there is nothing to tell.
    NotNeeded,
    /// The sysroot can be written to and the file cannot.
    Refused(String),
}

/// Looks at a sysroot; writes nothing.
#[must_use]
pub fn survey(sysroot: &Path, index_dir: Option<&Path>) -> Survey {
    let root = sysroot.canonicalize().and_then(|root| {
        if root.is_dir() {
            Ok(root)
        } else {
            Err(io::Error::from(io::ErrorKind::NotADirectory))
        }
    });
    let root = match root {
        Ok(root) => root,
        Err(error) => {
            return Survey {
                root: Err(error.to_string()),
                file_system: None,
                index: None,
            };
        }
    };
    let store = store(&root, index_dir);
    Survey {
        file_system: file_system(&root),
        index: Some(Index {
            content: content(&root, &store),
            generation: generation(&root, &store),
            store,
        }),
        root: Ok(root),
    }
}

#[cfg(target_os = "linux")]
#[allow(
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "f_type is of another type on other architectures"
)]
fn file_system(root: &Path) -> Option<FileSystem> {
    use rustix::fs::StatVfsMountFlags;
    let dir = File::open(root).ok()?;
    let flags = rustix::fs::fstatvfs(&dir).ok()?.f_flag;
    let magic = rustix::fs::fstatfs(&dir).ok()?.f_type as u64;
    let known = elfuse_format::file_systems::known(magic);
    Some(FileSystem {
        name: known.map_or_else(
            || format!("{:#x}", magic & 0xffff_ffff),
            |known| known.name.to_owned(),
        ),
        trusted: known.is_some_and(|known| known.trusted),
        noexec: flags.contains(StatVfsMountFlags::NOEXEC),
    })
}

#[cfg(not(target_os = "linux"))]
fn file_system(_root: &Path) -> Option<FileSystem> {
    None
}

/// Where a run looks for the index: as `elfuse-index` does, which a test holds this to.
#[must_use]
pub fn store(root: &Path, index_dir: Option<&Path>) -> PathBuf {
    if let Some(dir) = index_dir {
        return dir.to_owned();
    }
    let inside = root.join(OsStr::from_bytes(names::STORE));
    let is_dir = fs::symlink_metadata(&inside).is_ok_and(|found| found.is_dir());
    if is_dir && writable(&inside) {
        return inside;
    }
    default_outside(root)
        .filter(|dir| dir.is_dir())
        .unwrap_or(inside)
}

/// `$XDG_CACHE_HOME/elfuse/NAME-HASH`, by the sysroot's path; `None` without a home.
#[must_use]
pub fn default_outside(root: &Path) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let mut name = root.file_name().unwrap_or("root".as_ref()).to_os_string();
    name.push(format!(
        "-{:016x}",
        names::hash(root.as_os_str().as_bytes())
    ));
    Some(cache.join("elfuse").join(name))
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

fn content(root: &Path, store: &Path) -> Content {
    let read = |name: &str| match fs::read(store.join(name)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Content::Unusable(format!("{name}: {error}"))),
    };
    let of = |name: &'static str| move |error| Content::Unusable(format!("{name}: {error}"));
    let found = || -> Result<Content, Content> {
        let Some(cache) = read(names::LOADER_CACHE)? else {
            return Ok(Content::Nothing);
        };
        let cache = LoaderCache::parse(&cache).map_err(of(names::LOADER_CACHE))?;
        let Some(keys) = read(names::KEYS)? else {
            return Ok(Content::Unsealed);
        };
        let keys = Keys::parse(&keys).map_err(of(names::KEYS))?;
        if keys.bound_to() != cache.binding() {
            return Ok(Content::Unsealed);
        }
        let coverage = coverage(root, &cache, &keys).map_err(of("index"))?;
        Ok(Content::Sealed(coverage))
    };
    found().unwrap_or_else(|unusable| unusable)
}

/// Compares each directory's key with the host. Directories are numbered breadth-first, so that a parent comes before its
/// children and their paths can be put together on the way.
fn coverage(
    root: &Path,
    cache: &LoaderCache<'_>,
    keys: &Keys<'_>,
) -> Result<Coverage, FormatError> {
    const MALFORMED: FormatError = FormatError::Malformed {
        what: "directory rows",
    };
    let devices: Vec<u64> = keys
        .devices()?
        .iter()
        .map(|row| row.dev.to_native())
        .collect();
    let mut coverage = Coverage {
        foreign: keys.flags() & flags::FOREIGN_FILE_SYSTEM != 0,
        ..Coverage::default()
    };
    let (rows, dir_keys) = (cache.dirs()?, keys.dirs()?);
    let mut paths: Vec<Option<Vec<u8>>> = vec![Some(Vec::new())];
    for (dir, (row, key)) in rows.iter().zip(dir_keys).enumerate() {
        coverage.directories += 1;
        let Some(path) = paths.get_mut(dir).and_then(Option::take) else {
            continue;
        };
        let device = devices.get(usize::from(key.device.to_native())).copied();
        let host = root.join(OsStr::from_bytes(&path));
        let holds = key_state(&host)
            .is_ok_and(|found| key.holds(device, &found, row.block_checksum.to_native()));
        if holds {
            coverage.holding += 1;
        } else if coverage.first_stale.is_none() {
            coverage.first_stale = Some(path.clone());
        }
        let Some(block) = cache.block(row)? else {
            continue;
        };
        for entry in block
            .entries()
            .filter(|entry| entry.kind() == Some(Kind::Directory))
        {
            let (rank, name) = entry.rank().zip(entry.name()).ok_or(MALFORMED)?;
            let child = row.first_child.to_native() as usize + rank as usize;
            // A directory comes after its parent, and has a row: what is claimed here is allocated for.
            if rank >= row.child_count.to_native() || child <= dir || child >= rows.len() {
                return Err(MALFORMED);
            }
            if paths.len() <= child {
                paths.resize(child + 1, None);
            }
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            paths[child] = Some([&path, slash, name].concat());
        }
    }
    Ok(coverage)
}

fn key_state(path: &Path) -> io::Result<KeyState> {
    let found = fs::symlink_metadata(path)?;
    let time = |secs, nanos: i64| Time {
        secs,
        nanos: nanos.try_into().unwrap_or_default(),
    };
    Ok(KeyState {
        dev: found.dev(),
        ino: found.ino(),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
    })
}

fn generation(root: &Path, store: &Path) -> Generation {
    let opened = File::options()
        .read(true)
        .write(true)
        .open(store.join(names::GENERATION));
    match opened {
        Ok(_) => Generation::Writable,
        Err(error) if error.kind() == io::ErrorKind::NotFound && writable(store) => {
            Generation::CanBeMade
        }
        Err(_) if !writable(root) => Generation::NotNeeded,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Generation::Refused("it is not there, and cannot be made by you".into())
        }
        Err(error) => Generation::Refused(error.to_string()),
    }
}

/// What was found, as checks.
#[must_use]
pub fn judge(survey: &Survey) -> Vec<Check> {
    let item = Item {
        id: "sysroot",
        group: Group::Sysroot,
        what: "directory",
        without: "no program can be run from it",
    };
    let root = match &survey.root {
        Ok(root) => root,
        Err(error) => {
            let advice = "give a directory: example-sysroots/ has scripts that make some";
            return vec![item.not(State::Needed, error.clone(), advice)];
        }
    };
    let mut checks = vec![item.fine(shown(root))];
    if let Some(file_system) = &survey.file_system {
        checks.extend(judge_file_system(file_system));
    }
    if let Some(index) = &survey.index {
        checks.push(judge_index(index, root));
        if !matches!(index.content, Content::Nothing) {
            checks.push(judge_generation(index));
        }
    }
    checks
}

fn judge_file_system(found: &FileSystem) -> [Check; 2] {
    let exec = Item {
        id: "executable",
        group: Group::Sysroot,
        what: "may be executed",
        without: "no program can be loaded from it",
    };
    let exec = if found.noexec {
        let advice = "mount -o remount,exec, or a copy elsewhere";
        exec.not(State::Needed, "mounted noexec", advice)
    } else {
        exec.fine("not mounted noexec")
    };
    let kind = Item {
        id: "file-system",
        group: Group::Sysroot,
        what: "file system",
        without: "its time stamps may miss a change, so the index is not believed and lookups go to the host",
    };
    let kind = match (found.trusted, found.name.as_str()) {
        (true, name) => kind.fine(name),
        (false, name) => kind.not(
            State::Slower,
            format!("{name}, whose time stamps are not known to tell every change"),
            "--coherence frozen if nobody changes the tree; else a copy on ext4, xfs, btrfs or tmpfs",
        ),
    };
    [exec, kind]
}

fn judge_index(index: &Index, root: &Path) -> Check {
    let item = Item {
        id: "index",
        group: Group::Sysroot,
        what: "index",
        without: "what it does not cover is looked up on the host",
    };
    let place = shown(&index.store);
    let build = format!("elfuse-index build {}", shown(root));
    let seal = format!("elfuse-index seal {}", shown(root));
    match &index.content {
        Content::Nothing => item.not(State::Slower, format!("none in {place}"), build),
        Content::Unusable(error) => item.not(
            State::Slower,
            format!("unusable, in {place}: {error}"),
            build,
        ),
        Content::Unsealed => item.not(
            State::Slower,
            format!("not sealed on this host, in {place}"),
            seal,
        ),
        Content::Sealed(coverage) => {
            let Coverage {
                directories,
                holding,
                first_stale,
                foreign,
            } = coverage;
            let found = format!("{holding} of {directories} directories hold, in {place}");
            match first_stale {
                None if *foreign => item.not(
                    State::Slower,
                    format!("{found}; marked as of a file system that is not trusted"),
                    "--coherence frozen if nobody changes the tree",
                ),
                None => item.fine(found),
                Some(path) => {
                    let found = format!("{found}; not /{}", Shown(path));
                    // A copy has none that hold, and needs no build.
                    let advice = if *holding == 0 { seal } else { build };
                    item.not(State::Slower, found, advice)
                }
            }
        }
    }
}

fn judge_generation(index: &Index) -> Check {
    let item = Item {
        id: "generation",
        group: Group::Sysroot,
        what: "generation file",
        without: "what one run changes in the sysroot, others may see only 2 ms later",
    };
    match &index.generation {
        Generation::Writable => item.fine("can be written"),
        Generation::CanBeMade => item.fine("can be made"),
        Generation::NotNeeded => item.fine("not needed: you cannot write to the sysroot"),
        Generation::Refused(error) => item.not(
            State::Missing,
            format!("{}: {error}", shown(&index.store.join(names::GENERATION))),
            "make the store writable, or build an index of your own with --index-dir",
        ),
    }
}

fn shown(path: &Path) -> String {
    Shown(path.as_os_str().as_bytes()).to_string()
}
