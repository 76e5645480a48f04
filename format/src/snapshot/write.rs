//! Snapshots put together.

use alloc::vec::Vec;

use super::{
    File, FixUp, Head, Lookup, Outcome, PAGE, Region, Run, SLIDE_LEN, Snapshot, Word, tables_len,
};
use crate::error::FormatError;
use crate::header::{HEADER_LEN, Kind, PART_ALIGN, PART_ROW_LEN, PartKind, Writer, rows};
use crate::span::Span;

/// What a snapshot is made from. The same content gives the same bytes.
#[derive(Debug, Clone)]
pub struct Content<'a> {
    /// Its `exe` is set when it is written.
    pub head: Head,
    /// The program's path in the guest.
    pub exe: &'a [u8],
    /// The program first.
    pub files: Vec<File>,
    /// Path and outcome, in the order in which they were made.
    pub lookups: Vec<(Vec<u8>, Outcome)>,
    /// Ascending.
    pub regions: Vec<Region>,
    /// Ascending.
    pub runs: Vec<Run>,
    /// One for each page.
    pub slides: Vec<[u8; SLIDE_LEN]>,
    /// Ascending.
    pub fix_ups: Vec<FixUp>,
    /// In the vector's order.
    pub auxiliary: Vec<Word>,
    /// The pages, one behind the other.
    pub pages: Vec<u8>,
}

fn append(paths: &mut Vec<u8>, path: &[u8]) -> Result<Span, FormatError> {
    let number = |len| {
        u32::try_from(len).map_err(|_| FormatError::TooLarge {
            what: "the paths of a snapshot",
        })
    };
    let span = Span {
        start: number(paths.len())?,
        len: number(path.len())?,
    };
    paths.extend_from_slice(path);
    Ok(span)
}

impl Content<'_> {
    /// The bytes of the file.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`]; [`FormatError::Malformed`] where what was given would not be read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let mut paths = Vec::new();
        let exe = append(&mut paths, self.exe)?;
        let head = Head { exe, ..self.head };
        let mut lookups = Vec::new();
        for (path, outcome) in &self.lookups {
            let (outcome, value) = outcome.to_words();
            lookups.push(Lookup {
                path: append(&mut paths, path)?,
                outcome,
                value,
            });
        }
        let parts = [
            (PartKind::SnapshotHead, rows::encode(&[head])),
            (PartKind::SnapshotFiles, rows::encode(&self.files)),
            (PartKind::SnapshotLookups, rows::encode(&lookups)),
            (PartKind::SnapshotRegions, rows::encode(&self.regions)),
            (PartKind::SnapshotRuns, rows::encode(&self.runs)),
            (PartKind::SnapshotFixUps, rows::encode(&self.fix_ups)),
            (PartKind::SnapshotAuxiliary, rows::encode(&self.auxiliary)),
            (PartKind::SnapshotSlides, self.slides.concat()),
            (PartKind::SnapshotPaths, paths),
        ];
        // The pages begin at a multiple of a page of the file: their part has what comes before.
        let start = HEADER_LEN + PART_ROW_LEN * (parts.len() + 1);
        let end = parts.iter().fold(start, |end, (_, bytes)| {
            end.next_multiple_of(PART_ALIGN) + bytes.len()
        });
        let end = end.next_multiple_of(PART_ALIGN);
        let padding = end.next_multiple_of(PAGE as usize) - end;
        let mut pages = Vec::with_capacity(padding + self.pages.len());
        pages.resize(padding, 0);
        pages.extend_from_slice(&self.pages);
        let mut writer = Writer::new();
        for (kind, bytes) in parts {
            writer.part(kind, bytes);
        }
        writer.part(PartKind::SnapshotPages, pages);
        let bytes = writer.finish(Kind::Snapshot, 0, 0)?;
        let len = bytes.len() as u64;
        let tables = tables_len(&bytes, len)?;
        Snapshot::parse(&bytes[..tables as usize], len)?;
        Ok(bytes)
    }
}
