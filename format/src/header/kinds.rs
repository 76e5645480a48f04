//! What files and their parts are: the numbers that stand for them, and their names.

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// `.elfuse-sidecar-index`.
    Sidecar = 1,
    /// `.elfuse/keys`.
    Keys = 2,
    /// `.elfuse/loader-cache`.
    LoaderCache = 3,
    /// `.elfuse/generation`. Reserved: written by the runtime.
    Generation = 4,
    /// `.elfuse/resident/*.snap`: [`crate::snapshot`], written by `elfuse resident`.
    Snapshot = 5,
    /// `.elfuse/cpuid`: [`crate::cpuid`], written by the runtime.
    Cpuid = 6,
    /// `.elfuse/resident/*.count`: [`crate::snapshot::counts`], written by the runtime.
    Counts = 7,
    /// `/dev/shm/elfuse-…-compared`: [`crate::compared`], written by the runtime.
    Compared = 8,
}

impl Kind {
    /// The kind that a number stands for.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Sidecar,
            2 => Self::Keys,
            3 => Self::LoaderCache,
            4 => Self::Generation,
            5 => Self::Snapshot,
            6 => Self::Cpuid,
            7 => Self::Counts,
            8 => Self::Compared,
            _ => return None,
        })
    }

    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Keys => "keys",
            Self::LoaderCache => "loader cache",
            Self::Generation => "generation",
            Self::Snapshot => "snapshot",
            Self::Cpuid => "CPUID table",
            Self::Counts => "resident program's counters",
            Self::Compared => "compared directories",
        }
    }
}

/// What a part of a file holds. The numbers are of all files together, so that a part is never taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PartKind {
    /// Keys: [`crate::keys::DeviceRow`].
    Devices = 1,
    /// Keys: [`crate::keys::DirKey`], a row a directory of the loader cache.
    DirKeys = 2,
    /// Keys: [`crate::keys::FileKey`], a row an ELF file with facts.
    FileKeys = 3,
    /// Keys: [`crate::keys::FileKey`], a row a configuration file that the closures depend on.
    InputKeys = 4,
    /// Keys: [`crate::attributes::AttributeRow`], a row an entry of the loader cache.
    Attributes = 6,
    /// Keys: a 64-bit digest a directory of the loader cache; see [`crate::keys::plain_digest`].
    PlainFiles = 7,
    /// Keys: [`crate::text::TextIdentity`], sorted by the identity's hash.
    TextIdentities = 8,
    /// Keys: [`crate::text::TextCopy`].
    TextCopies = 9,
    /// Keys: the number of a directory's first row of [`PartKind::Attributes`].
    AttributeStarts = 10,
    /// Keys: one row of [`crate::attributes::Terms`].
    AttributeTerms = 11,
    /// Keys: [`crate::text::RelocatedRun`], a row a text identity.
    RelocatedRuns = 12,
    /// Loader cache: [`crate::loader_cache::DirRow`].
    Dirs = 16,
    /// Loader cache: the sidecars' payloads. Not checksummed as a part: each row of [`PartKind::Dirs`] has its block's.
    Blocks = 17,
    /// Loader cache: [`crate::loader_cache::Inputs`].
    Inputs = 18,
    /// Loader cache: [`crate::loader_cache::Sonames`].
    Sonames = 19,
    /// Loader cache: [`crate::loader_cache::Closures`].
    Closures = 20,
    /// Loader cache, reserved: syscall sites of interpreters and libraries.
    Sites = 21,
    /// Snapshot: one row of [`crate::snapshot::Head`].
    SnapshotHead = 32,
    /// Snapshot: [`crate::snapshot::File`].
    SnapshotFiles = 33,
    /// Snapshot: [`crate::snapshot::Lookup`].
    SnapshotLookups = 34,
    /// Snapshot: [`crate::snapshot::Region`].
    SnapshotRegions = 35,
    /// Snapshot: [`crate::snapshot::Run`].
    SnapshotRuns = 36,
    /// Snapshot: [`crate::snapshot::FixUp`].
    SnapshotFixUps = 37,
    /// Snapshot: [`crate::snapshot::Word`].
    SnapshotAuxiliary = 38,
    /// Snapshot: a bitmap of 64 bytes a page.
    SnapshotSlides = 39,
    /// Snapshot: the bytes of its paths.
    SnapshotPaths = 40,
    /// Snapshot: its pages. The last part, so that what is in front of it can be read at once.
    SnapshotPages = 41,
}

impl PartKind {
    /// The kind that a number stands for.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Devices,
            2 => Self::DirKeys,
            3 => Self::FileKeys,
            4 => Self::InputKeys,
            6 => Self::Attributes,
            7 => Self::PlainFiles,
            8 => Self::TextIdentities,
            9 => Self::TextCopies,
            10 => Self::AttributeStarts,
            11 => Self::AttributeTerms,
            12 => Self::RelocatedRuns,
            16 => Self::Dirs,
            17 => Self::Blocks,
            18 => Self::Inputs,
            19 => Self::Sonames,
            20 => Self::Closures,
            21 => Self::Sites,
            32 => Self::SnapshotHead,
            33 => Self::SnapshotFiles,
            34 => Self::SnapshotLookups,
            35 => Self::SnapshotRegions,
            36 => Self::SnapshotRuns,
            37 => Self::SnapshotFixUps,
            38 => Self::SnapshotAuxiliary,
            39 => Self::SnapshotSlides,
            40 => Self::SnapshotPaths,
            41 => Self::SnapshotPages,
            _ => return None,
        })
    }

    /// For messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Devices => "device table",
            Self::DirKeys => "directory keys",
            Self::FileKeys => "file keys",
            Self::InputKeys => "input keys",
            Self::Attributes => "attributes",
            Self::PlainFiles => "states of plain files",
            Self::TextIdentities => "text identities",
            Self::TextCopies => "text copies",
            Self::AttributeStarts => "starts of attributes",
            Self::AttributeTerms => "terms of attributes",
            Self::RelocatedRuns => "relocated runs",
            Self::Dirs => "directory rows",
            Self::Blocks => "blocks",
            Self::Inputs => "inputs",
            Self::Sonames => "SONAME table",
            Self::Closures => "closures",
            Self::Sites => "syscall sites",
            Self::SnapshotHead => "snapshot head",
            Self::SnapshotFiles => "snapshot files",
            Self::SnapshotLookups => "snapshot lookups",
            Self::SnapshotRegions => "snapshot regions",
            Self::SnapshotRuns => "snapshot runs",
            Self::SnapshotFixUps => "snapshot fix-ups",
            Self::SnapshotAuxiliary => "snapshot auxiliary words",
            Self::SnapshotSlides => "snapshot slides",
            Self::SnapshotPaths => "snapshot paths",
            Self::SnapshotPages => "snapshot pages",
        }
    }
}
