//! `.elfuse/generation`: the words that all runs on a sysroot share. The runtime changes them by atomic operations on a shared
//! mapping; here is where they lie, and what a new file holds.

use crate::header::{HEADER_LEN, Header, Kind};

/// Length of the file in bytes: a plain header and four words.
pub const LEN: usize = HEADER_LEN + 32;
/// Offset of the count of changes that are being made.
pub const IN_FLIGHT: usize = HEADER_LEN;
/// Offset of the count of changes that were made.
pub const GENERATION: usize = HEADER_LEN + 8;
/// Offset of the stamp of attributes, which is another after each change that may have concerned attributes of the sysroot; 0: none
/// may be believed.
pub const STAMP: usize = HEADER_LEN + 16;
/// Offset of the word that is 0 as long as there never was a snapshot in the store, so that no start has to look for one. Who makes the
/// directory for snapshots raises it afterwards, and who puts a new file into the store looks for that directory afterwards: so one of both sees
/// the other.
pub const SNAPSHOTS: usize = HEADER_LEN + 24;

/// The bytes of a new file. Stamp and generation are to be like no other file's, or what was found out under an earlier one would be
/// taken for good under this: the time in nanoseconds is far ahead of any that has counted up from an earlier time.
#[must_use]
pub fn new_file(generation: u64, stamp: u64) -> [u8; LEN] {
    let header = Header {
        kind: Kind::Generation as u16,
        header_len: HEADER_LEN as u32,
        payload_len: (LEN - HEADER_LEN) as u64,
        payload_checksum: 0,
        flags: 0,
        part_count: 0,
        bound_to: 0,
        top_checksum: 0,
    };
    let mut file = [0; LEN];
    file[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    file[GENERATION..STAMP].copy_from_slice(&generation.to_le_bytes());
    file[STAMP..SNAPSHOTS].copy_from_slice(&stamp.to_le_bytes());
    file
}

/// The stamp of a file; `None` where it is not one.
#[must_use]
pub fn stamp(file: &[u8]) -> Option<u64> {
    let file: &[u8; LEN] = file.try_into().ok()?;
    let header = Header::parse(file).ok()?;
    if header.kind != Kind::Generation as u16 || header.file_len() != LEN as u64 {
        return None;
    }
    let stamp = file[STAMP..].first_chunk()?;
    Some(u64::from_le_bytes(*stamp))
}
