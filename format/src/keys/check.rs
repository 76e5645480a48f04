//! The whole of the keys at once, for tools: a run checks what it touches.

use super::{ArchivedDirKey, ArchivedFileKey, ArchivedTime, DirKey, Keys, Seal};
use crate::attributes::{ArchivedAttributeRow, ArchivedTerms};
use crate::error::FormatError;
use crate::header::PartKind;
use crate::text::{
    ArchivedRelocatedRun, ArchivedTextCopy, ArchivedTextIdentity, NO_COPY, PAGE, RelocatedRun,
    TextVerdict, order,
};

const fn malformed(part: PartKind) -> FormatError {
    FormatError::Malformed { what: part.name() }
}

fn is_time(time: &ArchivedTime) -> bool {
    time.nanos.to_native() < 1_000_000_000
}

fn is_seal(byte: u8) -> bool {
    Seal::from_byte(byte) as u8 == byte
}

impl Keys<'_> {
    /// Checks everything that a reader may rely on: every part, seals, device numbers, times, a digest a directory, and the
    /// order of every table that is searched.
    ///
    /// # Errors
    /// Those of [`File::check`](crate::header::File::check); [`FormatError::Malformed`].
    pub fn check(&self) -> Result<(), FormatError> {
        self.file.check()?;
        let devices = self.devices()?.len();
        let dirs = self.dirs()?;
        let legal = |key: &ArchivedDirKey| {
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
        if !self.files()?.iter().all(legal) {
            return Err(malformed(PartKind::FileKeys));
        }
        if !self.inputs()?.iter().all(legal) {
            return Err(malformed(PartKind::InputKeys));
        }
        if self.plain()?.len() != dirs.len() {
            return Err(malformed(PartKind::PlainFiles));
        }
        let copies = self.check_copies(devices)?;
        self.check_text_identities(devices, copies)?;
        self.check_relocated_runs()?;
        self.check_attributes(dirs.len())
    }

    /// How many copies there are, each of which makes sense by itself.
    fn check_copies(&self, devices: usize) -> Result<usize, FormatError> {
        let legal = |row: &ArchivedTextCopy| {
            usize::from(row.device.to_native()) < devices
                && is_time(&row.mtime)
                && is_time(&row.ctime)
                && row.layout().is_some()
                && row.segment().is_some()
        };
        let rows = self.text_copies()?;
        match rows.iter().all(legal) {
            true => Ok(rows.len()),
            false => Err(malformed(PartKind::TextCopies)),
        }
    }

    fn check_text_identities(&self, devices: usize, copies: usize) -> Result<(), FormatError> {
        let place = |row: &ArchivedTextIdentity| order(row.device.to_native(), row.ino.to_native());
        let legal = |row: &ArchivedTextIdentity| {
            let copy = row.copy.to_native();
            let has_copy = row.copy().is_some_and(|copy| (copy as usize) < copies);
            let wants_one = matches!(row.verdict(), TextVerdict::Complete | TextVerdict::Partial);
            TextVerdict::from_byte(row.verdict) as u8 == row.verdict
                && (if wants_one { has_copy } else { copy == NO_COPY })
                && usize::from(row.device.to_native()) < devices
                && is_time(&row.mtime)
                && is_time(&row.ctime)
        };
        let rows = self.text_identities()?;
        let ascending = rows.is_sorted_by(|a, b| place(a) < place(b));
        if ascending && rows.iter().all(legal) {
            Ok(())
        } else {
            Err(malformed(PartKind::TextIdentities))
        }
    }

    /// A row for each identity, of pages that its file has.
    fn check_relocated_runs(&self) -> Result<(), FormatError> {
        let Some(runs) = self.relocated_runs()? else {
            return Ok(());
        };
        let files = self.text_identities()?;
        let legal = |(run, file): (&ArchivedRelocatedRun, &ArchivedTextIdentity)| {
            let RelocatedRun { first, pages } = run.to_native();
            let end = u64::from(first) + u64::from(pages);
            let is_none = (first, pages) == (0, 0);
            let is_inside = end <= file.size.to_native().div_ceil(PAGE);
            is_none || pages != 0 && is_inside
        };
        if runs.len() == files.len() && runs.iter().zip(files).all(legal) {
            Ok(())
        } else {
            Err(malformed(PartKind::RelocatedRuns))
        }
    }

    /// All three parts or none; starts that ascend, and rows that make sense, as many as there should be.
    fn check_attributes(&self, dirs: usize) -> Result<(), FormatError> {
        let kinds = [
            PartKind::Attributes,
            PartKind::AttributeStarts,
            PartKind::AttributeTerms,
        ];
        let there = kinds.map(|kind| self.file.has(kind));
        if there == [false; 3] {
            return Ok(());
        }
        let starts = self.attribute_starts()?;
        let ascending = starts.is_sorted_by(|a, b| a.to_native() <= b.to_native());
        let begins = starts.first().is_none_or(|first| first.to_native() == 1);
        let terms: &[ArchivedTerms] = self.file.rows(PartKind::AttributeTerms)?;
        if there != [true; 3] || terms.len() != 1 || starts.len() != dirs || !ascending || !begins {
            return Err(malformed(PartKind::AttributeStarts));
        }
        let rows = self.attributes()?.unwrap_or_default();
        let last = starts.last().map_or(1, |last| last.to_native() as usize);
        if rows.len() >= last && rows.iter().all(ArchivedAttributeRow::is_legal) {
            Ok(())
        } else {
            Err(malformed(PartKind::Attributes))
        }
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
