//! A list of bounded length, since there is no allocator.

use core::fmt;
use core::ops::Deref;

/// At most `N` items, in the order in which they were pushed. Read it as a slice.
#[derive(Clone, Copy)]
pub struct List<T, const N: usize> {
    items: [T; N],
    len: usize,
}

/// The list has no room for one more item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl<T: Copy, const N: usize> List<T, N> {
    /// An empty list; `blank` is what its unused places hold.
    #[must_use]
    pub const fn new(blank: T) -> Self {
        Self {
            items: [blank; N],
            len: 0,
        }
    }

    /// Appends an item.
    ///
    /// # Errors
    /// [`Full`] if there are `N` already; the list is as it was.
    pub fn push(&mut self, item: T) -> Result<(), Full> {
        let place = self.items.get_mut(self.len).ok_or(Full)?;
        *place = item;
        self.len += 1;
        Ok(())
    }
}

impl<T, const N: usize> Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }
}

impl<T: PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq, const N: usize> Eq for List<T, N> {}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
