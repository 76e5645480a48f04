//! What `/proc` says of a stopped process: mappings, files, pages.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File as HostFile, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use elfuse_format::file_systems;
use elfuse_format::keys::Time;
use elfuse_format::snapshot::{File, NO_FILE, PAGE};
use elfuse_runtime::sys::memory::OWN;

use super::image::{Mapping, Page};
use super::trace::Tracee;

/// The identity of a file, by what stat(2) says of it.
#[must_use]
pub fn identity(found: &Metadata) -> File {
    let time = |secs, nanos: i64| Time {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(u32::MAX),
    };
    File {
        dev: found.dev(),
        ino: found.ino(),
        size: found.size(),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
    }
}

/// The files of a process, each once.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Their identities.
    pub identities: Vec<File>,
    /// Where they are on the host.
    pub paths: Vec<PathBuf>,
}

impl Files {
    /// The number of the file at a host path.
    ///
    /// # Errors
    /// It cannot be looked at, is none, or lies where a change of it would not show.
    pub fn number(&mut self, path: &Path) -> anyhow::Result<u32> {
        let found = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        ensure!(found.is_file(), "{} is no regular file", path.display());
        let identity = identity(&found);
        if let Some(known) = self.identities.iter().position(|known| *known == identity) {
            return Ok(u32::try_from(known)?);
        }
        let magic = rustix::fs::statfs(path)?.f_type;
        let known = file_systems::known(magic.cast_unsigned() as u64);
        // On tmpfs a write through a shared mapping moves no time.
        let is_trusted = known.is_some_and(|known| known.trusted && known.name != "tmpfs");
        ensure!(
            is_trusted,
            "{} lies on {}, where a file may change without its times",
            path.display(),
            known.map_or("a file system that is not known", |known| known.name)
        );
        self.identities.push(identity);
        self.paths.push(path.to_owned());
        Ok(u32::try_from(self.identities.len() - 1)?)
    }
}

/// A line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'t> {
    start: u64,
    end: u64,
    protection: u16,
    is_shared: bool,
    offset: u64,
    path: &'t [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let hex = |text: &[u8]| u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    let mut range = fields.next()?.splitn(2, |byte| *byte == b'-');
    let (start, end) = (hex(range.next()?)?, hex(range.next()?)?);
    let &[read, write, execute, share] = fields.next()? else {
        return None;
    };
    let offset = hex(fields.next()?)?;
    let path = fields.nth(2).unwrap_or_default().trim_ascii_start();
    Some(Line {
        start,
        end,
        protection: u16::from(read == b'r')
            | u16::from(write == b'w') << 1
            | u16::from(execute == b'x') << 2,
        is_shared: share == b's',
        offset,
        path,
    })
}

/// The mappings of a process that are the guest's.
#[derive(Debug, Clone, Default)]
pub struct Mappings {
    /// Ascending, merged where one goes on where the other ends.
    pub all: Vec<Mapping>,
    /// The vDSO: start, end.
    pub vdso: (u64, u64),
}

/// What was mapped at once, and keeps its shape wherever it lies: start, end.
pub type Object = (u64, u64);

/// Reads the mappings of a process; its files become numbers. They are cut where an object begins or ends, since what the kernel puts next to
/// each other is chance, and come in the order of `objects`, of which a later one may have taken the place of an earlier one.
///
/// # Errors
/// It cannot be read, or there is something that is not kept.
pub fn mappings(
    tracee: &Tracee,
    files: &mut Files,
    objects: &[Object],
) -> anyhow::Result<Mappings> {
    let text = fs::read(format!("/proc/{}/maps", tracee.pid())).context("reading its mappings")?;
    let mut found = Mappings::default();
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let shown = String::from_utf8_lossy(line);
        let line =
            parse(line).with_context(|| format!("a mapping that is not understood: {shown}"))?;
        if OWN.contains(&(line.start as usize)) {
            continue;
        }
        match line.path {
            b"[vdso]" => found.vdso = (line.start, line.end),
            b"[stack]" | b"[vvar]" | b"[vvar_vclock]" | b"[vsyscall]" => {}
            _ => {
                ensure!(!line.is_shared, "a mapping shared with others: {shown}");
                ensure!(line.path != b"[heap]", "the heap is in use: {shown}");
                let is_file = line.path.starts_with(b"/");
                let file = if is_file {
                    files.number(Path::new(OsStr::from_bytes(line.path)))?
                } else {
                    NO_FILE
                };
                cut(&mut found.all, line, file, objects);
            }
        }
    }
    found
        .all
        .sort_by_key(|mapping| (mapping.object, mapping.start));
    Ok(found)
}

/// The number of the object that an address lies in, of several the last one; of what lies in none, their count. And how far that goes.
fn object_of(objects: &[Object], address: u64) -> (u32, u64) {
    let holding = objects
        .iter()
        .rposition(|(start, end)| (*start..*end).contains(&address));
    let end = holding.map_or(u64::MAX, |number| objects[number].1);
    let starts = objects.iter().map(|(start, _)| *start);
    let next = starts.filter(|start| *start > address).min();
    let number = holding.unwrap_or(objects.len());
    (number as u32, next.unwrap_or(u64::MAX).min(end))
}

fn cut(all: &mut Vec<Mapping>, mut line: Line<'_>, file: u32, objects: &[Object]) {
    let end = line.end;
    while line.start < end {
        let (object, object_end) = object_of(objects, line.start);
        line.end = end.min(object_end);
        push(all, &line, (file, object));
        line.offset += line.end - line.start;
        line.start = line.end;
    }
}

fn push(all: &mut Vec<Mapping>, line: &Line<'_>, (file, object): (u32, u32)) {
    let goes_on = |last: &&mut Mapping| {
        let offset = last.offset + (last.end - last.start);
        (last.end, last.protection, last.file, last.object)
            == (line.start, line.protection, file, object)
            && (file == NO_FILE || offset == line.offset)
    };
    match all.last_mut().filter(goes_on) {
        Some(last) => last.end = line.end,
        None => all.push(Mapping {
            start: line.start,
            end: line.end,
            protection: line.protection,
            offset: line.offset,
            file,
            object,
        }),
    }
}

/// Which pages of the mappings are the process's own, by the number of the mapping and of the page in it.
///
/// # Errors
/// `/proc/PID/pagemap` cannot be read.
pub fn own_pages(tracee: &Tracee, mappings: &[Mapping]) -> io::Result<Vec<(u32, u32)>> {
    /// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst).
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let pagemap = HostFile::open(format!("/proc/{}/pagemap", tracee.pid()))?;
    let mut found = Vec::new();
    for (number, mapping) in (0..).zip(mappings) {
        let count = (mapping.end - mapping.start) / PAGE;
        let mut entries = vec![0; count as usize * 8];
        pagemap.read_exact_at(&mut entries, mapping.start / PAGE * 8)?;
        for (page, entry) in (0..).zip(entries.as_chunks().0) {
            let entry = u64::from_le_bytes(*entry);
            if entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0 {
                found.push((number, page));
            }
        }
    }
    Ok(found)
}

/// The content of pages.
///
/// # Errors
/// Those of pread(2).
pub fn read_pages(
    tracee: &Tracee,
    mappings: &[Mapping],
    wanted: &[(u32, u32)],
) -> io::Result<BTreeMap<(u32, u32), Box<Page>>> {
    let read = |&(number, page): &(u32, u32)| {
        let mut content = Box::new([0; PAGE as usize]);
        let start = mappings[number as usize].start;
        tracee.read(start + u64::from(page) * PAGE, &mut content[..])?;
        Ok(((number, page), content))
    };
    wanted.iter().map(read).collect()
}

/// The auxiliary vector as the kernel tells it.
///
/// # Errors
/// `/proc/PID/auxv` cannot be read.
pub fn auxiliary(tracee: &Tracee) -> io::Result<Vec<(u64, u64)>> {
    let bytes = fs::read(format!("/proc/{}/auxv", tracee.pid()))?;
    let (words, _) = bytes.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    Ok(words
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

/// The running kernel's boot id.
///
/// # Errors
/// It cannot be read.
pub fn boot_id() -> anyhow::Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let mut text = String::new();
    HostFile::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .with_context(|| format!("reading {path}"))?;
    let digits: Vec<u8> = text
        .trim()
        .bytes()
        .filter(|byte| *byte != b'-')
        .map_while(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    let (pairs, rest) = digits.as_chunks::<2>();
    let Ok(id) = <[[u8; 2]; 16]>::try_from(pairs) else {
        bail!("{path} holds no boot id: {text:?}");
    };
    ensure!(rest.is_empty(), "{path} holds no boot id: {text:?}");
    Ok(id.map(|[high, low]| high << 4 | low))
}

#[cfg(test)]
mod tests {
    use super::{Line, cut, parse, push};

    #[test]
    fn a_line_of_maps_is_read_with_blanks_in_its_path() {
        let line = b"7f0000001000-7f0000002000 rw-p 00001000 fe:00 123                        /a b";
        let expected = Line {
            start: 0x7f00_0000_1000,
            end: 0x7f00_0000_2000,
            protection: 3,
            is_shared: false,
            offset: 0x1000,
            path: b"/a b",
        };
        assert_eq!(parse(line), Some(expected));
        let anonymous = parse(b"1000-2000 r-xs 00000000 00:00 0 ").unwrap();
        assert_eq!((anonymous.path, anonymous.is_shared), (&b""[..], true));
        assert_eq!(parse(b"1000 rw-p"), None);
    }

    #[test]
    fn what_the_kernel_put_next_to_each_other_is_cut_apart() {
        let objects = [(0x1000, 0x3000), (0x3000, 0x4000), (0x2000, 0x3000)];
        let line = parse(b"1000-6000 rw-p 00000000 00:00 0 ").unwrap();
        let mut all = Vec::new();
        cut(&mut all, line, u32::MAX, &objects);
        let pieces: Vec<_> = all
            .iter()
            .map(|piece| (piece.start, piece.object))
            .collect();
        assert_eq!(pieces, [(0x1000, 0), (0x2000, 2), (0x3000, 1), (0x4000, 3)]);
    }

    #[test]
    fn mappings_that_go_on_are_one() {
        let text: [&[u8]; 5] = [
            b"1000-2000 r--p 00000000 fe:00 1 /a",
            b"2000-3000 r--p 00001000 fe:00 1 /a",
            b"3000-4000 r--p 00003000 fe:00 1 /a",
            b"4000-5000 rw-p 00000000 00:00 0 ",
            b"6000-7000 rw-p 00000000 00:00 0 ",
        ];
        let mut all = Vec::new();
        for line in text {
            let line = parse(line).unwrap();
            let file = if line.path.is_empty() { u32::MAX } else { 0 };
            push(&mut all, &line, (file, 0));
        }
        let ranges: Vec<_> = all
            .iter()
            .map(|mapping| (mapping.start, mapping.end))
            .collect();
        let expected = [
            (0x1000, 0x3000),
            (0x3000, 0x4000),
            (0x4000, 0x5000),
            (0x6000, 0x7000),
        ];
        assert_eq!(ranges, expected);
    }
}
