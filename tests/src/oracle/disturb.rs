//! What happens beside a run and must not show in it: its index is damaged, removed and put back, its directories are touched, another
//! index is published.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::compile::Programs;
use super::room::{Job, Room};
use crate::scratch::{Random, Stop};

/// One kind of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// The files of the index are cut, overwritten in place, removed, and put back.
    BreakIndex,
    /// Directories get new times, as if somebody had made and removed a name in each.
    TouchDirectories,
    /// A few directories get new times and `elfuse-index` builds the index again, part of it or all, over and over.
    PublishIndex,
}

impl Disturbance {
    /// Goes on until told to stop: how many indexes were published before that.
    ///
    /// # Panics
    /// The room has no index, or no directories; or a build ends as none may.
    pub fn disturb(
        self,
        room: &Room,
        job: &Job,
        programs: &Programs,
        random: &mut Random,
        stop: &Stop,
    ) -> usize {
        match self {
            Self::BreakIndex => break_index(&room.index_directory(), random, stop),
            Self::TouchDirectories => touch_directories(room.root(), random, stop),
            Self::PublishIndex => return publish_index(room, job, programs, random, stop),
        }
        0
    }
}

fn break_index(directory: &Path, random: &mut Random, stop: &Stop) {
    // The store alone: a run does not read the sidecars, and a guest that watches a directory would be told of one.
    let entries = fs::read_dir(directory).expect("an index").flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    // A temporary one is renamed by who makes it.
    let is_temporary = |path: &Path| path.extension().is_some_and(|end| end == "tmp");
    files.retain(|path| path.is_file() && !is_temporary(path));
    let whole: Vec<(PathBuf, Vec<u8>)> = files
        .into_iter()
        .filter_map(|path| match fs::read(&path) {
            Ok(content) => Some((path, content)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("a file of the index: {error}"),
        })
        .collect();
    assert!(!whole.is_empty(), "no index in {}", directory.display());
    while !stop.is_set() {
        let (path, content) = &whole[random.below(whole.len())];
        // Others may have it open or mapped; and a case may have removed the directory it lies in.
        let open = OpenOptions::new().write(true).open(path);
        match (random.below(5), open) {
            (0, Ok(file)) => drop(file.set_len(random.below(content.len() + 1) as u64)),
            (part @ (1 | 2), Ok(file)) => {
                let byte = [(random.number() & 0xff) as u8];
                // Anywhere, or among the last bytes, which are checksums of pages.
                let len = content.len().max(1);
                let among = if part == 1 { len } else { len.min(1024) };
                let at = (len - among + random.below(among)) as u64;
                let _ = file.write_at(&byte, at);
            }
            (3, _) => drop(fs::remove_file(path)),
            _ => put_back(path, content),
        }
        thread::sleep(Duration::from_micros(random.below(400) as u64));
    }
    for (path, content) in &whole {
        put_back(path, content);
    }
}

/// As it is published: under another name first.
fn put_back(path: &Path, content: &[u8]) {
    let temporary = path.with_extension("4711.tmp");
    if fs::write(&temporary, content).is_ok() {
        let _ = fs::rename(&temporary, path);
    }
}

fn directories(root: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root).into_iter().flatten();
    let directories: Vec<PathBuf> = walk
        .filter(|entry| entry.file_type().is_dir())
        .map(walkdir::DirEntry::into_path)
        .collect();
    assert!(
        !directories.is_empty(),
        "no directories in {}",
        root.display()
    );
    directories
}

fn touch_one(directories: &[PathBuf], random: &mut Random) {
    let time = |nanos| Timespec {
        tv_sec: 0,
        tv_nsec: nanos,
    };
    let now = Timestamps {
        last_access: time(UTIME_OMIT),
        last_modification: time(UTIME_NOW),
    };
    let path = &directories[random.below(directories.len())];
    let _ = rustix::fs::utimensat(CWD, path, &now, AtFlags::SYMLINK_NOFOLLOW);
}

fn touch_directories(root: &Path, random: &mut Random, stop: &Stop) {
    let directories = directories(root);
    while !stop.is_set() {
        touch_one(&directories, random);
        thread::sleep(Duration::from_micros(random.below(100) as u64));
    }
}

fn publish_index(
    room: &Room,
    job: &Job,
    programs: &Programs,
    random: &mut Random,
    stop: &Stop,
) -> usize {
    let Some(mut build) = room.build(job, programs) else {
        return 0;
    };
    let mut build_all = room.build(job, programs).expect("it was there");
    build_all.arg("--full");
    let directories = directories(room.root());
    let mut published = 0;
    while !stop.is_set() {
        // Most stay as they are, so that what is published has something to say.
        for _ in 0..random.below(3) {
            touch_one(&directories, random);
        }
        let command = match random.below(3) {
            0 => &mut build_all,
            _ => &mut build,
        };
        let output = command.output().expect("starting elfuse-index");
        // 3 and 125: a case closes, moves and removes what is walked.
        assert!(
            matches!(output.status.code(), Some(0 | 3 | 125)),
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let is_published = matches!(output.status.code(), Some(0 | 3));
        published += usize::from(is_published && !stop.is_set());
    }
    published
}
