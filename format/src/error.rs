//! Why a file of ours was refused.

use core::fmt;

/// Why bytes are not a usable file of this format. Readers turn each into "no index here"; the tools print it after the
/// path of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than a header, a table or a declared length needs.
    TooShort {
        /// Bytes needed.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The first eight bytes are not the magic number.
    NotOurs {
        /// What stands in their place.
        found: [u8; 8],
    },
    /// The format version is not the one this build reads.
    Version {
        /// The version this build reads.
        expected: u16,
        /// The version the file states.
        found: u16,
    },
    /// A file of another kind (a sidecar where keys were expected).
    Kind {
        /// The kind asked for, see [`crate::header::Kind`].
        expected: u16,
        /// The kind the file states.
        found: u16,
    },
    /// A length in the header does not agree with the file.
    Length {
        /// What was expected.
        expected: u64,
        /// What was found.
        found: u64,
    },
    /// A checksum does not agree.
    Checksum {
        /// Which bytes: `"header"`, `"payload"` or the name of a part.
        of: &'static str,
        /// The checksum stated.
        expected: u64,
        /// The checksum computed.
        found: u64,
    },
    /// The checksum of a page does not agree, see [`crate::pages`].
    Page {
        /// Its number.
        page: u64,
        /// The checksum stated.
        expected: u64,
        /// The checksum computed.
        found: u64,
    },
    /// The archive inside is malformed, or a row points outside it.
    Malformed {
        /// What was being read.
        what: &'static str,
    },
    /// A part that must be there is not.
    MissingPart {
        /// Its number, see [`crate::header::PartKind`].
        part: u16,
    },
    /// What should be written does not fit the format (more than [`crate::names::MAX_ENTRIES`] names, a blob over 4 GiB).
    TooLarge {
        /// What does not fit.
        what: &'static str,
    },
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { expected, found } => {
                write!(f, "too short: expected {expected} bytes, found {found}")
            }
            Self::NotOurs { found } => {
                f.write_str("not an elfuse file: it starts with")?;
                found.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
            }
            Self::Version { expected, found } => {
                write!(
                    f,
                    "format version {found}, this build reads {expected}; build the index again"
                )
            }
            Self::Kind { expected, found } => {
                write!(
                    f,
                    "a file of kind {found} where kind {expected} was expected"
                )
            }
            Self::Length { expected, found } => {
                write!(f, "wrong length: expected {expected}, found {found}")
            }
            Self::Checksum {
                of,
                expected,
                found,
            } => {
                write!(
                    f,
                    "wrong checksum of the {of}: expected {expected:016x}, found {found:016x}"
                )
            }
            Self::Page {
                page,
                expected,
                found,
            } => {
                write!(
                    f,
                    "wrong checksum of page {page}: expected {expected:016x}, found {found:016x}"
                )
            }
            Self::Malformed { what } => write!(f, "malformed {what}"),
            Self::MissingPart { part } => write!(f, "part {part} is missing"),
            Self::TooLarge { what } => write!(f, "{what} does not fit the format"),
        }
    }
}

impl core::error::Error for FormatError {}
