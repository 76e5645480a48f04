//! A path's components, from the texts of symlinks that are being walked and then from the path itself.

use super::{Area, Errno, Host, Suffix, Walk};

/// The next component.
#[derive(Debug, Clone, Copy)]
pub(super) struct Component {
    pub(super) len: usize,
    pub(super) is_last: bool,
    /// It is the last, and a slash is behind it.
    pub(super) slash: bool,
}

impl Component {
    pub(super) fn suffix(self) -> Suffix {
        if self.slash {
            Suffix::Slash
        } else {
            Suffix::None
        }
    }
}

impl<H: Host> Walk<'_, '_, H> {
    /// Skips slashes and looks at the component behind them; `None`: there is none.
    pub(super) fn next(&mut self) -> Option<Component> {
        let slashes = |bytes: &[u8]| bytes.iter().take_while(|&&byte| byte == b'/').count();
        let count = slashes(self.area.rest.as_bytes());
        self.area.rest.advance(count);
        let rest = self.area.rest.as_bytes();
        let source = if rest.is_empty() {
            self.path = &self.path[slashes(self.path)..];
            self.path
        } else {
            rest
        };
        let len = before_slash(source);
        if len == 0 {
            return None;
        }
        let behind = &source[len..];
        let behind_that: &[u8] = if rest.is_empty() { b"" } else { self.path };
        let mut left = behind.iter().chain(behind_that);
        let slash = left.next().is_some();
        let is_last = left.all(|&byte| byte == b'/');
        Some(Component {
            len,
            is_last,
            slash: slash && is_last,
        })
    }

    /// The component's name.
    pub(super) fn name(&self, component: Component) -> &[u8] {
        let rest = self.area.rest.as_bytes();
        let source = if rest.is_empty() { self.path } else { rest };
        &source[..component.len]
    }

    /// Leaves the component behind.
    pub(super) fn pass(&mut self, component: Component) {
        if self.area.rest.as_bytes().is_empty() {
            self.path = &self.path[component.len..];
        } else {
            self.area.rest.advance(component.len);
        }
    }

    /// Adds the component to the guest path and leaves it behind.
    pub(super) fn enter_name(&mut self, component: Component) -> Result<(), Errno> {
        let Area { at, rest, .. } = &mut *self.area;
        let rest = rest.as_bytes();
        let source = if rest.is_empty() { self.path } else { rest };
        at.push(&source[..component.len])?;
        self.pass(component);
        Ok(())
    }
}

/// How many bytes stand before the first slash.
fn before_slash(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let mut before = 0;
    for eight in bytes.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(eight);
        // A byte that is a slash becomes zero, and borrows from its top bit; a byte above one may do so too.
        let found = u64::from_le_bytes(word) ^ (ONES * u64::from(b'/'));
        let found = found.wrapping_sub(ONES) & !found & TOPS;
        if found != 0 {
            return before + found.trailing_zeros() as usize / 8;
        }
        before += 8;
    }
    let rest = &bytes[before..];
    before
        + rest
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::before_slash;

    #[test]
    fn the_first_slash_is_found_wherever_it_is_and_nothing_like_it() {
        let mut bytes = [b'.'; 40];
        for at in 0..40 {
            for other in [b'.', b'0', 0, 0x80, 0xaf, 0xff] {
                bytes.fill(other);
                assert_eq!(before_slash(&bytes[..at]), at);
                bytes[at] = b'/';
                bytes[(at + 1).min(39)] = b'/';
                assert_eq!(before_slash(&bytes), at, "{other:#x}");
            }
        }
    }
}
