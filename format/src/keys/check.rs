//! The whole of the keys at once, for tools: a run checks what it touches.

use alloc::vec::Vec;

use super::{ArchivedDirKey, ArchivedFileKey, ArchivedTime, DirKey, Keys, Seal, write};
use crate::attributes::{ArchivedTerms, PIECE_LEN, PIECE_ROWS, piece};
use crate::error::FormatError;
use crate::header::{CHUNK_ROWS, PartKind, rows};
use crate::text::{
    ArchivedTextCopy, ArchivedTextIdentity, COPIES_PER_CHUNK, IDENTITIES_PER_CHUNK, NO_COPY,
    TextVerdict, identity_chunk,
};

const MALFORMED_SLOTS: FormatError = malformed(PartKind::Identities);

const fn malformed(part: PartKind) -> FormatError {
    FormatError::Malformed { what: part.name() }
}

fn is_time(time: &ArchivedTime) -> bool {
    time.nanos.to_native() < 1_000_000_000
}

fn is_seal(byte: u8) -> bool {
    Seal::from_byte(byte) as u8 == byte
}

impl<'a> Keys<'a> {
    /// The rows of a chunked table, which are full up to the last.
    fn table<T: rows::Row>(&self, kind: PartKind) -> Result<Vec<&'a T>, FormatError> {
        let mut all = Vec::new();
        for chunk in (0..).take_while(|&index| self.file.has(kind, index)) {
            let rows: &[T] = self.file.rows(kind, chunk)?;
            let full = all.len() == chunk as usize * CHUNK_ROWS;
            if !full || rows.len() > CHUNK_ROWS || (rows.is_empty() && chunk > 0) {
                return Err(malformed(kind));
            }
            all.extend(rows);
        }
        Ok(all)
    }

    /// Checks everything that a reader may rely on: every part, seals, device numbers, times, a digest a directory, and that the
    /// slots are those of the directories.
    ///
    /// # Errors
    /// Those of [`File::check`](crate::header::File::check); [`FormatError::Malformed`].
    pub fn check(&self) -> Result<(), FormatError> {
        self.file.check()?;
        let devices = self.devices()?.len();
        let dirs: Vec<&ArchivedDirKey> = self.table(PartKind::DirKeys)?;
        let legal = |key: &&ArchivedDirKey| {
            is_seal(key.seal)
                && usize::from(key.device.to_native()) < devices
                && is_time(&key.mtime)
                && is_time(&key.ctime)
        };
        if !dirs.iter().all(legal) {
            return Err(malformed(PartKind::DirKeys));
        }
        let legal = |key: &ArchivedFileKey| {
            is_seal(key.seal)
                && usize::from(key.device.to_native()) < devices
                && is_time(&key.mtime)
                && is_time(&key.ctime)
        };
        let files: Vec<&ArchivedFileKey> = self.table(PartKind::FileKeys)?;
        if !files.into_iter().all(legal) {
            return Err(malformed(PartKind::FileKeys));
        }
        if !self.inputs()?.iter().all(legal) {
            return Err(malformed(PartKind::InputKeys));
        }
        let plain: Vec<&rkyv::rend::unaligned::u64_ule> = self.table(PartKind::PlainFiles)?;
        if plain.len() != dirs.len() {
            return Err(malformed(PartKind::PlainFiles));
        }
        let copies = self.check_copies(devices)?;
        self.check_text_identities(devices, copies)?;
        self.check_attributes(dirs.len())?;
        self.check_identities(&dirs)
    }

    /// How many copies there are, each of which makes sense by itself.
    fn check_copies(&self, devices: usize) -> Result<usize, FormatError> {
        let chunks = self.chunk_count(PartKind::TextCopies);
        let mut count = 0;
        for chunk in 0..chunks {
            let rows = self.text_copies(chunk)?;
            let full = count == chunk as usize * COPIES_PER_CHUNK;
            let legal = |row: &ArchivedTextCopy| {
                usize::from(row.device.to_native()) < devices
                    && is_time(&row.mtime)
                    && is_time(&row.ctime)
                    && row.layout().is_some()
                    && row.segment().is_some()
            };
            let is_odd = rows.len() > COPIES_PER_CHUNK || (rows.is_empty() && chunk > 0);
            if !full || is_odd || !rows.iter().all(legal) {
                return Err(malformed(PartKind::TextCopies));
            }
            count += rows.len();
        }
        Ok(count)
    }

    fn check_text_identities(&self, devices: usize, copies: usize) -> Result<(), FormatError> {
        let chunks = self.chunk_count(PartKind::TextIdentities);
        let mut count = 0;
        for chunk in 0..chunks {
            let rows = self.text_identities(chunk)?;
            let identity =
                |row: &ArchivedTextIdentity| (row.ino.to_native(), row.device.to_native());
            let legal = |row: &ArchivedTextIdentity| {
                let copy = row.copy.to_native();
                let has_copy = row.copy().is_some_and(|copy| (copy as usize) < copies);
                let wants_one =
                    matches!(row.verdict(), TextVerdict::Complete | TextVerdict::Partial);
                let (ino, device) = identity(row);
                TextVerdict::from_byte(row.verdict) as u8 == row.verdict
                    && (if wants_one { has_copy } else { copy == NO_COPY })
                    && usize::from(device) < devices
                    && is_time(&row.mtime)
                    && is_time(&row.ctime)
                    && identity_chunk(device, ino, chunks) == chunk
            };
            let ascending = rows.is_sorted_by(|a, b| identity(a) < identity(b));
            if !ascending || !rows.iter().all(legal) {
                return Err(malformed(PartKind::TextIdentities));
            }
            count += rows.len();
        }
        // The very number that the writer makes, so that the same rows are the same bytes.
        if chunks as usize == count.div_ceil(IDENTITIES_PER_CHUNK).max(1) {
            Ok(())
        } else {
            Err(malformed(PartKind::TextIdentities))
        }
    }

    /// All three parts or none; starts that ascend, and whole pieces of rows that make sense, as many as there should be.
    fn check_attributes(&self, dirs: usize) -> Result<(), FormatError> {
        let kinds = [
            PartKind::Attributes,
            PartKind::AttributeStarts,
            PartKind::AttributeTerms,
        ];
        let there = kinds.map(|kind| self.file.has(kind, 0));
        if there == [false; 3] {
            return Ok(());
        }
        let terms: &[ArchivedTerms] = self.file.rows(PartKind::AttributeTerms, 0)?;
        let starts: Vec<&rkyv::rend::unaligned::u32_ule> = self.table(PartKind::AttributeStarts)?;
        let ascending = starts.is_sorted_by(|a, b| a.to_native() <= b.to_native());
        let begins = starts.first().is_none_or(|first| first.to_native() == 1);
        if there != [true; 3] || terms.len() != 1 || starts.len() != dirs || !ascending || !begins {
            return Err(malformed(PartKind::AttributeStarts));
        }
        let part = self.file.part_unchecked(PartKind::Attributes)?;
        let mut count = 0;
        let mut pieces = part.chunks(PIECE_LEN).peekable();
        while let Some(bytes) = pieces.next() {
            let rows = piece(bytes)?.len();
            let is_full = rows == PIECE_ROWS || rows > 0 && pieces.peek().is_none();
            if !is_full {
                return Err(malformed(PartKind::Attributes));
            }
            count += rows;
        }
        let last = starts.last().map_or(1, |last| last.to_native() as usize);
        if count >= last {
            Ok(())
        } else {
            Err(malformed(PartKind::Attributes))
        }
    }

    fn check_identities(&self, dirs: &[&ArchivedDirKey]) -> Result<(), FormatError> {
        let dirs: Vec<_> = dirs.iter().map(|key| key.to_native()).collect();
        let parts = self.file.parts();
        let found = parts.filter(|part| part.kind == PartKind::Identities as u16);
        let (found, least) = (found.count(), write::chunk_count(&dirs));
        // Unevenly hashed identities double the number of chunks, and nothing else changes it.
        if !found.is_multiple_of(least) || !(found / least).is_power_of_two() {
            return Err(MALFORMED_SLOTS);
        }
        let expected = write::identities(&dirs, found);
        for (index, expected) in (0..).zip(expected.ok_or(MALFORMED_SLOTS)?) {
            let slots = self.identity_chunk(index)?.iter();
            if !slots.map(|slot| slot.to_native()).eq(expected) {
                return Err(MALFORMED_SLOTS);
            }
        }
        Ok(())
    }
}

impl ArchivedDirKey {
    /// In native integers.
    #[must_use]
    pub fn to_native(&self) -> DirKey {
        DirKey {
            ino: self.ino.to_native(),
            mtime: self.mtime.to_native(),
            ctime: self.ctime.to_native(),
            block_checksum: self.block_checksum.to_native(),
            device: self.device.to_native(),
            seal: self.seal,
        }
    }
}
