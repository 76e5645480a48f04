//! What the keys say of ELF files: which may be mapped as they are, and which have a patched copy to be mapped in their place.
//!
//! Rows are looked up by the identity of the very file that is to be mapped, so no name is believed here. They are copied and checked when
//! they are touched, like everything of an index; what does not hold counts as a file that nothing is known of.

use elfuse_format::header::PartKind;
use elfuse_format::keys::State;
use elfuse_format::text::{ArchivedTextCopy, ArchivedTextIdentity, TextVerdict, find_identity};

use super::catalogue::Catalogue;
use super::mirror::Table;

/// The two parts of an index's keys.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    catalogue: &'a Catalogue<'a>,
    identities: Table<ArchivedTextIdentity>,
    copies: Table<ArchivedTextCopy>,
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
        })
    }

    /// What is known of a file of `size` bytes that is in this state now.
    #[must_use]
    pub fn of(&self, state: &State, size: u64) -> Text<'a> {
        self.find(state, size).unwrap_or(Text::Unknown)
    }

    fn find(&self, state: &State, size: u64) -> Option<Text<'a>> {
        let devices = self.catalogue.devices();
        let device = devices
            .iter()
            .position(|row| row.dev.to_native() == state.dev)?;
        let device = u16::try_from(device).ok()?;
        let rows = |number| self.catalogue.keys_row(&self.identities, number);
        let row = find_identity(self.identities.count(), (device, state.ino), rows).ok()??;
        if !row.holds(Some(state.dev), state, size) {
            return None;
        }
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
