//! What the keys say of ELF files: which may be mapped as they are, and which have a patched copy to be mapped in their place.
//!
//! Rows are looked up by the identity of the very file that is to be mapped, so no name is believed here. They are copied and checked when
//! they are touched, like everything of an index; what does not hold counts as a file that nothing is known of.

use elfuse_format::header::PartKind;
use elfuse_format::keys::State;
use elfuse_format::text::{
    ArchivedRelocatedRun, ArchivedTextCopy, ArchivedTextIdentity, RelocatedRun, TextVerdict,
    find_identity,
};

use super::catalogue::Catalogue;
use super::mirror::Table;

/// The two parts of an index's keys.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    catalogue: &'a Catalogue<'a>,
    identities: Table<ArchivedTextIdentity>,
    copies: Table<ArchivedTextCopy>,
    /// `None`: nobody looked when the index was made.
    runs: Option<Table<ArchivedRelocatedRun>>,
}

/// Number of a file's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNumber(pub u32);

/// What is known of a file, and where more is.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What may be mapped for it.
    pub text: Text<'a>,
    /// Its row; `None`: it has none that holds.
    pub file: Option<FileNumber>,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    /// It may be mapped as it is.
    Clean,
    /// It has a copy.
    Copy {
        /// Whether all sites that have to be are patched in it.
        is_complete: bool,
        /// The copy.
        row: &'a ArchivedTextCopy,
    },
    /// Nothing that helps.
    Unknown,
}

impl<'a> Texts<'a> {
    /// The parts of this index; `None`: it has none.
    #[must_use]
    pub fn new(catalogue: &'a Catalogue<'a>) -> Option<Self> {
        Some(Self {
            catalogue,
            identities: catalogue.keys_table(PartKind::TextIdentities)?,
            copies: catalogue.keys_table(PartKind::TextCopies)?,
            runs: catalogue.keys_table(PartKind::RelocatedRuns),
        })
    }

    /// What is known of a file of `size` bytes that is in this state now.
    #[must_use]
    pub fn of(&self, state: &State, size: u64) -> Known<'a> {
        match self.find(state, size) {
            None => Known {
                text: Text::Unknown,
                file: None,
            },
            Some((number, row)) => Known {
                text: self.text(row).unwrap_or(Text::Unknown),
                file: Some(FileNumber(number)),
            },
        }
    }

    fn find(&self, state: &State, size: u64) -> Option<(u32, &'a ArchivedTextIdentity)> {
        let devices = self.catalogue.devices();
        let device = devices
            .iter()
            .position(|row| row.dev.to_native() == state.dev)?;
        let device = u16::try_from(device).ok()?;
        let rows = |number| self.catalogue.keys_row(&self.identities, number);
        let found = find_identity(self.identities.count(), (device, state.ino), rows).ok()??;
        found.1.holds(Some(state.dev), state, size).then_some(found)
    }

    fn text(&self, row: &ArchivedTextIdentity) -> Option<Text<'a>> {
        match row.verdict() {
            TextVerdict::Clean => Some(Text::Clean),
            verdict => {
                let number = row.copy()?;
                Some(Text::Copy {
                    is_complete: verdict == TextVerdict::Complete,
                    row: self.catalogue.keys_row(&self.copies, number).ok()?,
                })
            }
        }
    }

    /// Pages of a file's data that its dynamic linker is certain to write to.
    #[must_use]
    pub fn relocated(&self, FileNumber(number): FileNumber) -> Option<RelocatedRun> {
        let run = self.catalogue.keys_row(self.runs.as_ref()?, number).ok()?;
        Some(run.to_native()).filter(|run| run.pages != 0)
    }

    /// Whether a file of `size` bytes in this state is the copy that `row` means.
    #[must_use]
    pub fn is_copy(&self, row: &ArchivedTextCopy, state: &State, size: u64) -> bool {
        let device = self
            .catalogue
            .devices()
            .get(usize::from(row.device.to_native()));
        row.holds(device.map(|row| row.dev.to_native()), state, size)
    }
}
