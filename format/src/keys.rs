//! `.elfuse/keys`: what binds an index to this host. A directory's names may be believed only while its key holds.
//!
//! Rows run parallel to those of the loader cache that the header's `bound_to` names, so that no path is stored twice.

use rkyv::{Archive, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::attributes::{ArchivedAttributeRow, ArchivedTerms};
use crate::error::FormatError;
use crate::header::{File, Kind, PartKind};
use crate::names;
use crate::text::{ArchivedRelocatedRun, ArchivedTextCopy, ArchivedTextIdentity};

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

/// Hash of an identity, for [`PartKind::TextIdentities`].
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
        self.file.rows(PartKind::Devices)
    }

    /// The directories' keys. Their checksum is compared at each call, as in all that follow: keep the slice.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn dirs(&self) -> Result<&'a [ArchivedDirKey], FormatError> {
        self.file.rows(PartKind::DirKeys)
    }

    /// The files' identities.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn files(&self) -> Result<&'a [ArchivedFileKey], FormatError> {
        self.file.rows(PartKind::FileKeys)
    }

    /// The digests of directories' plain files.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn plain(&self) -> Result<&'a [rkyv::rend::unaligned::u64_ule], FormatError> {
        self.file.rows(PartKind::PlainFiles)
    }

    /// The files with executable code.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn text_identities(&self) -> Result<&'a [ArchivedTextIdentity], FormatError> {
        self.file.rows(PartKind::TextIdentities)
    }

    /// The patched copies.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn text_copies(&self) -> Result<&'a [ArchivedTextCopy], FormatError> {
        self.file.rows(PartKind::TextCopies)
    }

    /// What of the files' data is certain to be written to, a row for each of [`Keys::text_identities`]; `None`: nobody looked.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn relocated_runs(&self) -> Result<Option<&'a [ArchivedRelocatedRun]>, FormatError> {
        if !self.file.has(PartKind::RelocatedRuns) {
            return Ok(None);
        }
        self.file.rows(PartKind::RelocatedRuns).map(Some)
    }

    /// The attributes; `None`: there are none.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn attributes(&self) -> Result<Option<&'a [ArchivedAttributeRow]>, FormatError> {
        if !self.file.has(PartKind::Attributes) {
            return Ok(None);
        }
        self.file.rows(PartKind::Attributes).map(Some)
    }

    /// When the attributes may be used; `None`: there are none.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn attribute_terms(&self) -> Result<Option<&'a ArchivedTerms>, FormatError> {
        if !self.file.has(PartKind::AttributeTerms) {
            return Ok(None);
        }
        Ok(self.file.rows(PartKind::AttributeTerms)?.first())
    }

    /// The numbers of directories' first rows among the attributes.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn attribute_starts(&self) -> Result<&'a [rkyv::rend::unaligned::u32_ule], FormatError> {
        self.file.rows(PartKind::AttributeStarts)
    }

    /// Identities of the configuration files named by the loader cache's inputs.
    ///
    /// # Errors
    /// Those of [`File::rows`].
    pub fn inputs(&self) -> Result<&'a [ArchivedFileKey], FormatError> {
        self.file.rows(PartKind::InputKeys)
    }

    /// Key of directory `dir`, as [`Keys::dirs`] has it.
    ///
    /// # Errors
    /// Those of [`File::rows`]; [`FormatError::Malformed`] if there is no such row.
    pub fn dir(&self, dir: u32) -> Result<&'a ArchivedDirKey, FormatError> {
        self.dirs()?
            .get(dir as usize)
            .ok_or(FormatError::Malformed {
                what: "directory keys",
            })
    }
}

#[cfg(feature = "alloc")]
mod check;

#[cfg(feature = "alloc")]
pub use write::KeysContent;

#[cfg(feature = "alloc")]
mod write {
    use alloc::vec::Vec;

    use super::{DeviceRow, DirKey, FileKey};
    use crate::attributes::Attributes;
    use crate::error::FormatError;
    use crate::header::{Kind, PartKind, Writer};
    use crate::text::{RelocatedRun, TextCopy, TextIdentity, sorted_identities};

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
        /// Rows of files with executable code, in any order, and what of their data is certain to be written to.
        pub text_identities: Vec<(TextIdentity, RelocatedRun)>,
        /// Rows of the patched copies that those name.
        pub text_copies: Vec<TextCopy>,
        /// What stat returns, for trees declared frozen.
        pub attributes: Option<Attributes>,
    }

    impl KeysContent {
        /// The bytes of the file.
        ///
        /// # Errors
        /// [`FormatError::TooLarge`].
        pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
            let mut file = Writer::new();
            file.table(PartKind::Devices, &self.devices);
            file.table(PartKind::DirKeys, &self.dirs);
            file.table(PartKind::FileKeys, &self.files);
            file.table(PartKind::InputKeys, &self.inputs);
            file.table(PartKind::PlainFiles, &self.plain);
            let (identities, runs) = sorted_identities(&self.text_identities);
            file.table(PartKind::TextIdentities, &identities);
            file.table(PartKind::TextCopies, &self.text_copies);
            if let Some(attributes) = &self.attributes {
                attributes.put(&mut file);
            }
            file.table(PartKind::RelocatedRuns, &runs);
            file.finish(Kind::Keys, self.flags, self.bound_to)
        }
    }
}
