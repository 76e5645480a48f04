//! Aligned columns without an allocator: the rows are produced twice, once to measure and once to print.

use core::fmt::{self, Display, Write};

/// Heading and alignment of a column.
#[derive(Clone, Copy)]
pub(super) struct Column {
    heading: &'static str,
    right: bool,
    width_chars: usize,
}

impl Column {
    pub(super) const fn left(heading: &'static str) -> Self {
        Self {
            heading,
            right: false,
            width_chars: 0,
        }
    }

    pub(super) const fn right(heading: &'static str) -> Self {
        Self {
            heading,
            right: true,
            width_chars: 0,
        }
    }
}

/// A table of `N` columns.
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [Column; N]) -> Self {
        Self { columns }
    }

    /// Prints the headings, then what `rows` hands to its argument, row by row. Counters that move between the two passes
    /// can only make a column a little crooked.
    pub(super) fn print(
        &mut self,
        out: &mut dyn Write,
        rows: impl Fn(&mut dyn FnMut(&[&dyn Display; N]) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        for column in &mut self.columns {
            column.width_chars = column.heading.chars().count();
        }
        rows(&mut |cells| {
            for (column, cell) in self.columns.iter_mut().zip(cells) {
                column.width_chars = column.width_chars.max(width_chars(cell));
            }
            Ok(())
        })?;
        let headings: [&dyn Display; N] =
            core::array::from_fn(|at| &self.columns[at].heading as &dyn Display);
        self.row(out, &headings)?;
        rows(&mut |cells| self.row(out, cells))
    }

    fn row(&self, out: &mut dyn Write, cells: &[&dyn Display; N]) -> fmt::Result {
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            out.write_str("  ")?;
            let blanks = column.width_chars.saturating_sub(width_chars(cell));
            if column.right {
                write!(out, "{:blanks$}{cell}", "")?;
            } else if at + 1 < N {
                write!(out, "{cell}{:blanks$}", "")?;
            } else {
                write!(out, "{cell}")?;
            }
        }
        out.write_char('\n')
    }
}

fn width_chars(shown: &dyn Display) -> usize {
    struct Width(usize);
    impl Write for Width {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.chars().count();
            Ok(())
        }
    }
    let mut width = Width(0);
    // Counting cannot fail, and a value that cannot show itself has no width.
    let _ = write!(width, "{shown}");
    width.0
}

/// Nanoseconds, shown as microseconds with one decimal.
#[derive(Clone, Copy)]
pub(super) struct Micros(pub(super) u64);

impl Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.saturating_add(50) / 100;
        write!(f, "{}.{}", tenths / 10, tenths % 10)
    }
}
