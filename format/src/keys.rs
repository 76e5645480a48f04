//! `.elfuse/keys`: what binds an index to this host. A directory's names may be believed only while its key holds.
//!
//! Rows run parallel to those of the loader cache that the header's `bound_to` names, so that no path is stored twice.

use rkyv::{Archive, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::attributes::{self, ArchivedAttributeRow, ArchivedTerms};
use crate::error::FormatError;
use crate::header::{CHUNK_ROWS, File, Kind, PartKind};
use crate::names;
use crate::text::{ArchivedTextCopy, ArchivedTextIdentity};

/// Bits of the header's `flags`.
pub mod flags {
    /// The file system is not on the allow-list (ext4, xfs, btrfs, tmpfs, apfs, erofs, squashfs): use the index only in a
    /// tree declared frozen.
    pub const FOREIGN_FILE_SYSTEM: u32 = 1 << 0;
    /// Patched copies were to be made. What is not among the rows of [`crate::text`] then has none for a reason.
    pub const WITH_COPIES: u32 = 1 << 1;
    /// The sysroot lies on an image that nobody can write to (erofs, squashfs, iso9660).
    pub const UNCHANGEABLE_FILE_SYSTEM: u32 = 1 << 2;
}

/// A device that directories and files of the tree lie on. Keys name a row here and not `st_dev` itself, so that a remounted
/// image needs one row changed.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct DeviceRow {
    /// `st_dev` when the keys were made.
    pub dev: u64,
    /// `f_type` of statfs(2); 0 where the host has none.
    pub fs_type: u64,
    /// `f_fsid` of statfs(2): what a remount keeps.
    pub fs_id: u64,
}

/// (seconds, nanoseconds) since the epoch, as stat gives them.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct Time {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// Whether a directory's key may be believed, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Seal {
    /// It may.
    Sealed = 0,
    /// Changed within two seconds of the capture: a later change could leave the same times.
    Racy = 1,
    /// Changed while it was being read.
    Changed = 2,
    /// Could not be read.
    Unreadable = 3,
    /// A mount point: another file system begins here.
    MountPoint = 4,
    /// Holds more than [`crate::names::MAX_ENTRIES`] names.
    TooLarge = 5,
    /// Its sidecar could not be written or was not to be made.
    NotIndexed = 6,
    /// Has a POSIX access control list: its mode bits do not tell who may search it, and a reader goes by these alone.
    AccessList = 7,
}

impl Seal {
    /// The state a byte stands for; a byte unknown here is none that may be believed.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Sealed,
            1 => Self::Racy,
            3 => Self::Unreadable,
            4 => Self::MountPoint,
            5 => Self::TooLarge,
            6 => Self::NotIndexed,
            7 => Self::AccessList,
            _ => Self::Changed,
        }
    }
}

/// Key of a directory.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct DirKey {
    /// `st_ino`.
    pub ino: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
    /// Checksum of the block (of the sidecar's payload) that the key vouches for.
    pub block_checksum: u64,
    /// Row of the device table.
    pub device: u16,
    /// See [`Seal`].
    pub seal: u8,
}

/// Identity of an ELF file with facts, or of a configuration file.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct FileKey {
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
    /// Row of the device table.
    pub device: u16,
    /// See [`Seal`].
    pub seal: u8,
}

/// A state of a directory or file as stat tells it: what a key is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
}

impl ArchivedDirKey {
    /// Whether the key is sealed, was made from the state `found`, and vouches for the block with this checksum. `dev` is what the
    /// device table has for [`ArchivedDirKey::device`]; `None` never holds.
    #[must_use]
    pub fn holds(&self, dev: Option<u64>, found: &State, block_checksum: u64) -> bool {
        let state = dev.map(|dev| State {
            dev,
            ino: self.ino.to_native(),
            mtime: self.mtime.to_native(),
            ctime: self.ctime.to_native(),
        });
        Seal::from_byte(self.seal) == Seal::Sealed
            && self.block_checksum.to_native() == block_checksum
            && state == Some(*found)
    }
}

impl ArchivedFileKey {
    /// Whether the key is sealed and was made from the state `found` of a file of `size` bytes. `dev` is what the device table has
    /// for [`ArchivedFileKey::device`]; `None` never holds.
    #[must_use]
    pub fn holds(&self, dev: Option<u64>, found: &State, size: u64) -> bool {
        let state = dev.map(|dev| State {
            dev,
            ino: self.ino.to_native(),
            mtime: self.mtime.to_native(),
            ctime: self.ctime.to_native(),
        });
        Seal::from_byte(self.seal) == Seal::Sealed
            && self.size.to_native() == size
            && state == Some(*found)
    }
}

impl ArchivedTime {
    /// In native integers.
    #[must_use]
    pub fn to_native(self) -> Time {
        Time {
            secs: self.secs.to_native(),
            nanos: self.nanos.to_native(),
        }
    }
}

/// Keys whose header and part table are checked.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    file: File<'a>,
}

/// Digest of the states of files in one directory that have no facts, in name order: what the next build goes by, and nobody
/// else. While it is the same, none of them has become an ELF file. Never 0, which says that a state is not known or too young.
#[must_use]
pub fn plain_digest(states: impl IntoIterator<Item = PlainState>) -> u64 {
    let mut hasher = Xxh3Default::new();
    for state in states {
        hasher.update(&state.ino.to_le_bytes());
        hasher.update(&state.size.to_le_bytes());
        for time in [state.mtime, state.ctime] {
            hasher.update(&time.secs.to_le_bytes());
            hasher.update(&time.nanos.to_le_bytes());
        }
    }
    hasher.digest().max(1)
}

/// A state of a file without facts, on the device of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainState {
    /// `st_ino`.
    pub ino: u64,
    /// `st_size`.
    pub size: u64,
    /// `st_mtim`.
    pub mtime: Time,
    /// `st_ctim`.
    pub ctime: Time,
}

/// Slots per chunk of [`PartKind::Identities`]. Chosen by the hash's high bits; probing stays within its chunk.
pub const IDENTITY_CHUNK: usize = 4096;

/// Hash of an identity, for [`PartKind::Identities`].
#[must_use]
pub fn identity_hash(device: u16, ino: u64) -> u64 {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&ino.to_le_bytes());
    bytes[8..].copy_from_slice(&device.to_le_bytes());
    names::hash(&bytes)
}

impl<'a> Keys<'a> {
    /// Checks header and part table.
    ///
    /// # Errors
    /// Those of [`File::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        Ok(Self {
            file: File::parse(bytes, Kind::Keys)?,
        })
    }

    /// The file underneath.
    #[must_use]
    pub fn file(&self) -> &File<'a> {
        &self.file
    }

    /// `payload_checksum` of the loader cache that these keys were made for.
    #[must_use]
    pub fn bound_to(&self) -> u64 {
        self.file.header().bound_to
    }

    /// See [`flags`].
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.file.header().flags
    }

    /// The device table.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn devices(&self) -> Result<&'a [ArchivedDeviceRow], FormatError> {
        self.file.rows(PartKind::Devices, 0)
    }

    /// Chunk `index` of the directories' keys: rows `index * CHUNK_ROWS` onwards.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn dir_chunk(&self, index: u32) -> Result<&'a [ArchivedDirKey], FormatError> {
        self.file.rows(PartKind::DirKeys, index)
    }

    /// Chunk `index` of the files' identities.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn file_chunk(&self, index: u32) -> Result<&'a [ArchivedFileKey], FormatError> {
        self.file.rows(PartKind::FileKeys, index)
    }

    /// Chunk `index` of the digests of directories' plain files.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn plain_chunk(
        &self,
        index: u32,
    ) -> Result<&'a [rkyv::rend::unaligned::u64_ule], FormatError> {
        self.file.rows(PartKind::PlainFiles, index)
    }

    /// How many chunks part `kind` has.
    #[must_use]
    pub fn chunk_count(&self, kind: PartKind) -> u32 {
        let rows = self.file.parts().filter(|row| row.kind == kind as u16);
        u32::try_from(rows.count()).unwrap_or(0)
    }

    /// Chunk `index` of the files with executable code.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn text_identities(&self, index: u32) -> Result<&'a [ArchivedTextIdentity], FormatError> {
        self.file.rows(PartKind::TextIdentities, index)
    }

    /// Chunk `index` of the patched copies.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn text_copies(&self, index: u32) -> Result<&'a [ArchivedTextCopy], FormatError> {
        self.file.rows(PartKind::TextCopies, index)
    }

    /// Row `row` of the attributes; `None`: there are none. Checks a piece.
    ///
    /// # Errors
    /// Those of [`attributes::piece`]; [`FormatError::Malformed`] if there is no such row.
    pub fn attributes(&self, row: u32) -> Result<Option<&'a ArchivedAttributeRow>, FormatError> {
        if !self.file.has(PartKind::Attributes, 0) {
            return Ok(None);
        }
        let part = self.file.part_unchecked(PartKind::Attributes)?;
        let malformed = FormatError::Malformed {
            what: PartKind::Attributes.name(),
        };
        let (offset, len) = attributes::piece_of(row, part.len() as u64).ok_or(malformed)?;
        let piece = attributes::piece(&part[offset as usize..][..len])?;
        let row = piece.get(row as usize % attributes::PIECE_ROWS);
        row.map(Some).ok_or(malformed)
    }

    /// When the attributes may be used; `None`: there are none.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn attribute_terms(&self) -> Result<Option<&'a ArchivedTerms>, FormatError> {
        if !self.file.has(PartKind::AttributeTerms, 0) {
            return Ok(None);
        }
        Ok(self.file.rows(PartKind::AttributeTerms, 0)?.first())
    }

    /// Chunk `index` of the numbers of directories' first rows.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn attribute_starts(
        &self,
        index: u32,
    ) -> Result<&'a [rkyv::rend::unaligned::u32_ule], FormatError> {
        self.file.rows(PartKind::AttributeStarts, index)
    }

    /// Identities of the configuration files named by the loader cache's inputs.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn inputs(&self) -> Result<&'a [ArchivedFileKey], FormatError> {
        self.file.rows(PartKind::InputKeys, 0)
    }

    /// Key of directory `dir`. Checks a whole chunk: hold on to [`Keys::dir_chunk`] to read many.
    ///
    /// # Errors
    /// Those of [`File::rows`]; [`FormatError::Malformed`] if there is no such row.
    pub fn dir(&self, dir: u32) -> Result<&'a ArchivedDirKey, FormatError> {
        let chunk = self.dir_chunk(dir / CHUNK_ROWS as u32)?;
        chunk
            .get(dir as usize % CHUNK_ROWS)
            .ok_or(FormatError::Malformed {
                what: "directory keys",
            })
    }

    /// Chunk `index` of the slots from identities to directories.
    fn identity_chunk(
        &self,
        index: u32,
    ) -> Result<&'a [rkyv::rend::unaligned::u32_ule], FormatError> {
        let slots: &[_] = self.file.rows(PartKind::Identities, index)?;
        // Of another size it is not ours, and probing it could cost anything.
        if slots.len() == IDENTITY_CHUNK {
            Ok(slots)
        } else {
            Err(FormatError::Malformed {
                what: "identity slots",
            })
        }
    }

    /// The first directory that had this identity when the keys were made; the caller compares the whole key.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn dirs_by_identity(&self, device: u16, ino: u64) -> Result<Option<u32>, FormatError> {
        let chunks = self
            .file
            .parts()
            .filter(|row| row.kind == PartKind::Identities as u16);
        let chunks = chunks.count() as u64;
        if chunks == 0 {
            return Ok(None);
        }
        let hash = identity_hash(device, ino);
        let chunk = u32::try_from((hash >> 32) % chunks).unwrap_or(0);
        let slots = self.identity_chunk(chunk)?;
        // The chunk that was checked last: neighbours in the table are often neighbours in the tree.
        let mut held: Option<(u32, &[ArchivedDirKey])> = None;
        for i in 0..slots.len() {
            let slot = slots[(hash as usize).wrapping_add(i) % slots.len()].to_native();
            let Some(dir) = slot.checked_sub(1) else {
                return Ok(None);
            };
            let index = dir / CHUNK_ROWS as u32;
            let rows = match held {
                Some((known, rows)) if known == index => rows,
                _ => self.dir_chunk(index)?,
            };
            held = Some((index, rows));
            let key = rows
                .get(dir as usize % CHUNK_ROWS)
                .ok_or(FormatError::Malformed {
                    what: "identity slots",
                })?;
            if key.ino.to_native() == ino && key.device.to_native() == device {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }
}

#[cfg(feature = "alloc")]
mod check;

#[cfg(feature = "alloc")]
pub use write::KeysContent;

#[cfg(feature = "alloc")]
mod write {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::{DeviceRow, DirKey, FileKey, IDENTITY_CHUNK, Seal, identity_hash};
    use crate::attributes::Attributes;
    use crate::error::FormatError;
    use crate::header::rows::encode;
    use crate::header::{Kind, PartKind, Writer};
    use crate::text::{TextCopy, TextIdentity, copy_chunks, identity_chunks};

    /// Everything that goes into the file.
    #[derive(Debug, Default, Clone)]
    pub struct KeysContent {
        /// `payload_checksum` of the loader cache.
        pub bound_to: u64,
        /// See [`super::flags`].
        pub flags: u32,
        /// The device table.
        pub devices: Vec<DeviceRow>,
        /// A row a directory of the loader cache.
        pub dirs: Vec<DirKey>,
        /// A row an ELF file with facts, by directory, then entry.
        pub files: Vec<FileKey>,
        /// A row an input of the loader cache.
        pub inputs: Vec<FileKey>,
        /// A digest a directory of the loader cache, by [`super::plain_digest`].
        pub plain: Vec<u64>,
        /// Rows of files with executable code, in any order.
        pub text_identities: Vec<TextIdentity>,
        /// Rows of the patched copies that those name.
        pub text_copies: Vec<TextCopy>,
        /// What stat returns, for trees declared frozen.
        pub attributes: Option<Attributes>,
    }

    /// How many chunks the slots of so many directories take, unless their hashes are very uneven.
    pub(super) fn chunk_count(dirs: &[DirKey]) -> usize {
        let sealed = dirs.iter().filter(|key| key.seal == Seal::Sealed as u8);
        (2 * sealed.count()).div_ceil(IDENTITY_CHUNK).max(1)
    }

    /// The slots in that many chunks; `None` if they do not fit.
    pub(super) fn identities(dirs: &[DirKey], chunks: usize) -> Option<Vec<Vec<u32>>> {
        let mut table = vec![vec![0_u32; IDENTITY_CHUNK]; chunks];
        let mut room = vec![IDENTITY_CHUNK - 1; chunks];
        for (number, key) in (0_u32..).zip(dirs) {
            if key.seal != Seal::Sealed as u8 {
                continue;
            }
            let hash = identity_hash(key.device, key.ino);
            let chunk = usize::try_from((hash >> 32) % chunks as u64).expect("below chunks");
            let slots = &mut table[chunk];
            let mut at = hash as usize % IDENTITY_CHUNK;
            // One directory in several places (bind mounts) has one slot: else no table would be large enough for all.
            let is_twin = |slot: u32| {
                let other = &dirs[slot as usize - 1];
                (other.device, other.ino) == (key.device, key.ino)
            };
            while slots[at] != 0 && !is_twin(slots[at]) {
                at = (at + 1) % IDENTITY_CHUNK;
            }
            if slots[at] == 0 {
                room[chunk] = room[chunk].checked_sub(1)?;
                slots[at] = number + 1;
            }
        }
        Some(table)
    }

    impl KeysContent {
        /// The bytes of the file.
        ///
        /// # Errors
        /// [`FormatError::TooLarge`].
        pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
            let mut file = Writer::new();
            file.part(PartKind::Devices, 0, encode(&self.devices));
            file.chunked(PartKind::DirKeys, &self.dirs);
            file.chunked(PartKind::FileKeys, &self.files);
            file.part(PartKind::InputKeys, 0, encode(&self.inputs));
            file.chunked(PartKind::PlainFiles, &self.plain);
            let mut chunks = chunk_count(&self.dirs);
            let slots = loop {
                match identities(&self.dirs, chunks) {
                    Some(slots) => break slots,
                    None => chunks *= 2,
                }
            };
            for (index, slots) in (0..).zip(slots) {
                file.part(PartKind::Identities, index, encode(&slots));
            }
            for (index, rows) in (0..).zip(identity_chunks(&self.text_identities)) {
                file.part(PartKind::TextIdentities, index, encode(&rows));
            }
            for (index, rows) in (0..).zip(copy_chunks(&self.text_copies)) {
                file.part(PartKind::TextCopies, index, encode(&rows));
            }
            if let Some(attributes) = &self.attributes {
                attributes.put(&mut file);
            }
            file.finish(Kind::Keys, self.flags, self.bound_to)
        }
    }
}
