//! Counting the pages that were populated: made the process's own before they were touched.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why pages were populated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// The dynamic linker relocates words in them.
    Relocated,
    /// The heap has grown.
    Heap,
    /// They are a snapshot's, and words are filled in.
    Resident,
    /// They were mapped before they could be written to, and now can be.
    Opened,
}

impl Reason {
    const NAMES: [&'static str; 4] = ["relocated", "heap", "resident", "opened"];
}

/// Pages that were populated, by reason.
#[derive(Debug)]
#[repr(C)]
pub struct Populated {
    pages: [AtomicU64; Reason::NAMES.len()],
}

impl Populated {
    /// None were.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pages: [const { AtomicU64::new(0) }; Reason::NAMES.len()],
        }
    }

    /// Counts pages.
    pub fn record(&self, reason: Reason, pages: u64) {
        self.pages[reason as usize].fetch_add(pages, Relaxed);
    }

    fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let names = Reason::NAMES.into_iter();
        names.zip(self.pages.iter().map(|pages| pages.load(Relaxed)))
    }

    /// A line, if there is anything to say.
    pub(super) fn text(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let total: u64 = self.rows().map(|(_, pages)| pages).sum();
        if total == 0 {
            return Ok(());
        }
        write!(out, "  {total} pages populated")?;
        let given = self.rows().filter(|(_, pages)| *pages != 0);
        for (at, (name, pages)) in given.enumerate() {
            let before = if at == 0 { ":" } else { "," };
            write!(out, "{before} {name} {pages}")?;
        }
        out.write_str("\n\n")
    }

    pub(super) fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for (at, (name, pages)) in self.rows().enumerate() {
            let before = if at == 0 { "{" } else { "," };
            write!(out, "{before}\"{name}\":{pages}")?;
        }
        out.write_char('}')
    }
}

impl Default for Populated {
    fn default() -> Self {
        Self::new()
    }
}
