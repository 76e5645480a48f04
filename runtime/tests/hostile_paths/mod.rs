//! What the resolver must take: any bytes as a path, and any as an index. The fuzz target in `fuzz/` calls this too.

#[path = "../../../format/tests/hostile/mod.rs"]
mod files;

use std::cell::Cell;

use elfuse_format::header::Kind;
use elfuse_format::keys::{DeviceRow, DirKey, KeysContent, Seal, Time};
use elfuse_format::loader_cache::LoaderCache;
use elfuse_runtime::errno::Errno;
use elfuse_runtime::vfs::path::PATH_MAX;
use elfuse_runtime::vfs::shadow::Mismatch;
use elfuse_runtime::vfs::{
    Absences, Area, Arena, Base, Catalogue, Coherence, Fault, Found, Generation, Host, HostStat,
    IndexFile, Last, Location, Mode, Moment, Mount, Mounts, Place, Prefixes, Source, Start,
    Verdicts, Vfs, Want,
};

/// The bytes before the path: how to resolve, and the path's length.
const HEAD: usize = 4;

const SOME_TIME: Time = Time { secs: 1, nanos: 2 };

/// A host whose every name is something, decided by its path: half of them do not exist, the rest are files and symlinks.
struct MadeUp {
    calls: Cell<u32>,
}

impl MadeUp {
    fn hash(at: Location<'_>) -> u64 {
        assert_eq!(
            at.path.iter().position(|&byte| byte == 0),
            Some(at.path.len() - 1)
        );
        assert_eq!(at.path.starts_with(b"/"), at.base == Base::Host);
        elfuse_format::checksum::checksum(at.path)
    }
}

impl Host for MadeUp {
    fn readlink(&self, at: Location<'_>, into: &mut [u8]) -> Result<usize, Errno> {
        self.calls.set(self.calls.get() + 1);
        // Each of at most 41 texts and the path have at most 2,048 components.
        assert!(self.calls.get() < 42 * 2048, "it does not end");
        let hash = Self::hash(at);
        let text: &[u8] = match hash % 16 {
            0..4 => return Err(Errno::ENOENT),
            4..9 => return Err(Errno::EINVAL),
            9 => return Err(Errno::ENOTDIR),
            10 => return Err(Errno::EACCES),
            11 => b"/",
            12 => b"../m/a",
            13 => b"a/./b/",
            14 => b"/m/../usr//lib",
            _ => &[b'/'; PATH_MAX],
        };
        let text = &text[..text.len().min(into.len())];
        into[..text.len()].copy_from_slice(text);
        Ok(text.len())
    }

    fn stat(&self, at: Location<'_>) -> Result<HostStat, Errno> {
        Self::hash(at);
        Ok(HostStat {
            dev: 7,
            ino: 8,
            mode: 0o040_755,
            is_open_to_caller: false,
            mtime: SOME_TIME,
            ctime: SOME_TIME,
        })
    }

    fn now(&self) -> Moment {
        Moment {
            ticks: 1,
            thread: 1,
        }
    }

    fn file_time(&self) -> Time {
        Time { secs: 9, nanos: 0 }
    }

    fn mismatch(&self, _: &Mismatch<'_>) {}
}

struct Files {
    loader_cache: Vec<u8>,
    keys: Vec<u8>,
}

impl Source for Files {
    fn copy(&self, file: IndexFile, offset: u64, into: &mut [u8]) -> Result<(), Fault> {
        let bytes = match file {
            IndexFile::LoaderCache => &self.loader_cache,
            IndexFile::Keys => &self.keys,
        };
        let start = usize::try_from(offset).map_err(|_| Fault)?;
        let end = start.checked_add(into.len()).ok_or(Fault)?;
        into.copy_from_slice(bytes.get(start..end).ok_or(Fault)?);
        Ok(())
    }
}

/// Keys that hold, for whatever rows a loader cache has.
fn keys_of(loader_cache: &[u8]) -> Option<Vec<u8>> {
    let parsed = LoaderCache::parse(loader_cache).ok()?;
    let rows = parsed.dirs().unwrap_or_default();
    let keys = KeysContent {
        bound_to: parsed.binding(),
        devices: vec![DeviceRow {
            dev: 7,
            fs_type: 0,
            fs_id: 0,
        }],
        dirs: rows
            .iter()
            .take(4096)
            .map(|row| DirKey {
                ino: 8,
                mtime: SOME_TIME,
                ctime: SOME_TIME,
                block_checksum: row.block_checksum.to_native(),
                device: 0,
                seal: Seal::Sealed as u8,
            })
            .collect(),
        ..KeysContent::default()
    };
    keys.encode().ok()
}

/// Four bytes, a path, a loader cache: resolves the path with nothing, with the file as it is, and with the file made to pass its
/// checksums and believed.
pub(crate) fn resolve(data: &[u8]) {
    let Some((head, rest)) = data.split_at_checked(HEAD) else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([head[0], head[1]])) % PATH_MAX;
    let (path, file) = rest.split_at(len.min(rest.len()));
    let path: Vec<u8> = path.iter().copied().filter(|&byte| byte != 0).collect();
    let want = want(head[2], head[3]);
    let start: &[u8] = [&b"/"[..], b"/usr", b"/m/a", b"/usr/lib"][usize::from(head[3] >> 6)];
    walk(None, start, &path, want);
    let mut files = Files {
        loader_cache: file.to_vec(),
        keys: file.to_vec(),
    };
    walk(Some(&files), start, &path, want);
    files::repair(&mut files.loader_cache, Kind::LoaderCache);
    files::repair_blocks(&mut files.loader_cache);
    if let Some(keys) = keys_of(&files.loader_cache) {
        files.keys = keys;
        walk(Some(&files), start, &path, want);
    }
}

fn want(last: u8, flags: u8) -> Want {
    let all = [
        Last::Follow,
        Last::NoFollow,
        Last::Text,
        Last::Create,
        Last::Parent,
    ];
    Want {
        no_symlinks: flags & 1 != 0,
        no_magic_links: flags & 2 != 0,
        no_crossing: flags & 4 != 0,
        beneath: flags & 8 != 0,
        in_root: flags & 16 != 0,
        ..Want::new(all[usize::from(last) % all.len()])
    }
}

fn walk(files: Option<&Files>, start: &[u8], path: &[u8], want: Want) {
    let mut mounts = Mounts::new(b"/sysroot").unwrap();
    for (guest, host) in [
        (&b"/m/a"[..], &b"/data"[..]),
        (b"/proc", b"/proc"),
        (b"/usr/lib/x", b"/"),
    ] {
        let mount = Mount {
            guest,
            host,
            procfs: false,
        };
        mounts.add(mount).unwrap();
    }
    let mut memory = vec![0; 512 << 10];
    let arena = Arena::cleared(&mut memory);
    let generation = Generation::new();
    let verdicts = Verdicts::new();
    let absences = Absences::new(&arena);
    let mut area = Area::new();
    for (mode, shadow) in [
        (Mode::Lease, false),
        (Mode::Strict, false),
        (Mode::Lease, true),
    ] {
        let coherence = Coherence::new(mode, shadow, &generation);
        let catalogue = files.map(|files| Catalogue::open(files, &arena));
        let mut vfs = Vfs::new(&mounts).with_verdicts(&verdicts);
        if let Some(Ok(catalogue)) = &catalogue {
            vfs = vfs.with_index(catalogue, &coherence);
            if let Some(prefixes) = Prefixes::new(&arena) {
                vfs = vfs.with_prefixes(prefixes);
            }
        }
        if let Some(absences) = &absences {
            vfs = vfs.with_absences(absences, &coherence);
        }
        let mut before = None;
        for _ in 0..3 {
            let host = MadeUp {
                calls: Cell::new(0),
            };
            let found = vfs.resolve(&host, &mut area, Start::Guest(start), path, want);
            check(&found);
            // Asked again, it says the same.
            let said = format!("{found:?}");
            assert_eq!(*before.get_or_insert_with(|| said.clone()), said);
        }
    }
}

/// What holds of every answer.
fn check(found: &Found<'_>) {
    let canonical = |guest: &[u8]| {
        let names = guest.strip_prefix(b"/").unwrap();
        names.is_empty()
            || (names.split(|&byte| byte == b'/'))
                .all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0))
    };
    let place = |place: &Place<'_>| {
        assert!(canonical(place.guest), "{:?}", place.guest.escape_ascii());
        MadeUp::hash(place.location);
    };
    match found {
        Found::Host(at) | Found::Synthetic(at) => place(at),
        Found::Definite(errno) => assert_ne!(errno.0, 0),
        Found::Text(text) => assert!(!text.is_empty() && text.len() <= PATH_MAX),
        Found::Reserved { guest } => assert!(canonical(guest)),
        Found::Magic {
            place: at, rest, ..
        } => {
            place(at);
            assert!(at.is_magic && (rest.is_empty() || rest.starts_with(b"/")));
        }
    }
}
