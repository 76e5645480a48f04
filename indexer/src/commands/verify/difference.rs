//! In what ways an index can differ from the tree, and what to tell of each.

use serde::Serialize;

/// What kind of difference it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// A key holds, and the names it vouches for are not the directory's.
    WrongKey,
    /// A key holds, and the facts it vouches for are not the file's.
    WrongFileKey,
    /// A key holds, and the directory has an access control list.
    SealedAccessList,
    /// Keys hold, and the patched copy they lead to is not what the file's content makes; or the file has another verdict.
    WrongCopy,
    /// The index has a name that the directory has not.
    NoSuchName,
    /// The directory has a name that the index has not: it would be called absent.
    MissingName,
    /// Another kind of file.
    WrongKind,
    /// A symlink with another text.
    WrongTarget,
    /// Other ELF facts, or none where there should be some.
    WrongFacts,
    /// The directory is in the tree and not in the index.
    NotCovered,
    /// The sidecar is missing or malformed. Where none could be written, none is missing.
    NoSidecar,
    /// The sidecar does not say what the loader cache says.
    SidecarDiffers,
    /// SONAMEs or closures are not what follows from the tree.
    RollUpDiffers,
    /// A directory's key does not hold.
    StaleKey,
    /// An ELF file's key does not hold.
    StaleFileKey,
    /// A patched copy is missing, or is not the file that was sealed.
    StaleCopy,
    /// There are no keys for this loader cache.
    NoKeys,
    /// The index cannot be read.
    Unusable,
}

impl Difference {
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::WrongKey => "WRONG: the key holds but its names are not the directory's",
            Self::WrongFileKey => "WRONG: the key holds but its facts are not the file's",
            Self::SealedAccessList => "WRONG: the key holds but an access control list is there",
            Self::WrongCopy => "WRONG: the keys hold but the patched copy is not the file's",
            Self::NoSuchName => "in the index but not in the tree",
            Self::MissingName => "in the tree but not in the index",
            Self::WrongKind => "another kind of file",
            Self::WrongTarget => "a symlink with another text",
            Self::WrongFacts => "other ELF facts",
            Self::NotCovered => "not covered by the index",
            Self::NoSidecar => "no usable sidecar",
            Self::SidecarDiffers => "sidecar and loader cache differ",
            Self::RollUpDiffers => "SONAMEs or closures do not follow from the tree",
            Self::StaleKey => "directory changed since it was sealed",
            Self::StaleFileKey => "file changed since it was sealed",
            Self::StaleCopy => "patched copies that are missing or changed since they were sealed",
            Self::NoKeys => "no keys that belong to the loader cache",
            Self::Unusable => "the index cannot be used",
        }
    }

    /// What mends it.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::WrongKey | Self::WrongFileKey | Self::SealedAccessList | Self::WrongCopy => {
                "run `elfuse-index build --full`, and please report how it came about"
            }
            Self::StaleKey | Self::StaleFileKey | Self::StaleCopy | Self::NoKeys => {
                "run `elfuse-index seal` after copying or unpacking, else `elfuse-index build`"
            }
            Self::NoSidecar | Self::SidecarDiffers | Self::RollUpDiffers | Self::Unusable => {
                "run `elfuse-index build --full`"
            }
            _ => "run `elfuse-index build`",
        }
    }
}
