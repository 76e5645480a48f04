//! A range of bytes or rows inside the archive that holds it.

use rkyv::{Archive, Serialize};

/// `start..start + len` in a byte blob or row table of the same archive. Never trusted: [`ArchivedSpan::of`] checks it.
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
pub struct Span {
    /// First element.
    pub start: u32,
    /// Number of elements.
    pub len: u32,
}

impl Span {
    /// Stands for "no such string" where an empty one would mean something else (an empty RUNPATH is not no RUNPATH).
    pub const ABSENT: Span = Span {
        start: u32::MAX,
        len: 0,
    };
}

impl ArchivedSpan {
    /// The elements of `all` that this span names; `None` when it reaches outside (a lying file) or is absent.
    #[must_use]
    pub fn of<'a, T>(&self, all: &'a [T]) -> Option<&'a [T]> {
        let start = usize::try_from(self.start.to_native()).ok()?;
        let len = usize::try_from(self.len.to_native()).ok()?;
        all.get(start..start.checked_add(len)?)
    }

    /// Whether this is [`Span::ABSENT`].
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.start.to_native() == u32::MAX && self.len.to_native() == 0
    }
}
