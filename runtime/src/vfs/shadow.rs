//! What the index and the live walker said of one path, for shadow mode.

use crate::errno::Errno;

/// One side's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The call fails like this.
    Fails(Errno),
    /// It leads to this canonical guest path.
    Leads(&'a [u8]),
    /// It is a symlink with this text.
    Text(&'a [u8]),
}

/// The two disagree although nothing was changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch<'a> {
    /// Canonical guest path of the directory that the path starts at.
    pub start: &'a [u8],
    /// The path that was resolved.
    pub path: &'a [u8],
    /// What the index said.
    pub index: Answer<'a>,
    /// What the walker said.
    pub walker: Answer<'a>,
}
