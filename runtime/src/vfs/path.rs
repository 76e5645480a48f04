//! Path buffers that live in memory of the caller's, and are never cleared.

use crate::errno::Errno;

/// The longest name of one directory entry in bytes (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// The longest path a system call takes in bytes, its NUL included (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

/// Room for an `Area::at` and what is put behind it. Longer than [`PATH_MAX`], because a working directory and a path relative to
/// it may each be nearly as long as that.
pub const AT_ROOM: usize = 2 * PATH_MAX;
/// Room for the texts of symlinks that are still to be walked.
pub const REST_ROOM: usize = 3 * PATH_MAX;
/// Room for a path on the host: a mount's host path in front of an `Area::at`.
pub const HOST_ROOM: usize = 3 * PATH_MAX;

/// A path and its NUL in `N` bytes. Every pattern of bytes is a valid one, so it may lie in any memory that is initialised; call
/// [`PathBuf::clear`] before use.
///
/// A push that does not fit leaves the buffer as it was.
#[derive(Clone)]
#[repr(C)]
pub struct PathBuf<const N: usize> {
    /// Bytes in use, without the NUL; a value from arbitrary memory is cut to what `bytes` can hold.
    len: usize,
    bytes: [u8; N],
}

impl<const N: usize> PathBuf<N> {
    /// An empty buffer. In a `static` it costs nothing; elsewhere it clears `N` bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            len: 0,
            bytes: [0; N],
        }
    }

    /// Length in bytes, without the NUL.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.min(N - 1)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path, without a NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    /// The path and a NUL. What is behind the path was not one before.
    pub fn with_nul(&mut self) -> &[u8] {
        self.terminate();
        self.terminated(0, self.len())
    }

    /// Puts a NUL behind the path, for [`PathBuf::terminated`].
    pub(super) fn terminate(&mut self) {
        let len = self.len();
        self.bytes[len] = 0;
    }

    /// The bytes from `start` to `end` and the one behind, which [`PathBuf::terminate`] made a NUL.
    pub(super) fn terminated(&self, start: usize, end: usize) -> &[u8] {
        self.bytes.get(start..=end).unwrap_or(b"\0")
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Cuts it to `len` bytes; does nothing if it is no longer than that.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len().min(len);
    }

    /// Adds bytes as they are.
    ///
    /// # Errors
    /// [`Errno::ENAMETOOLONG`] if they and a NUL do not fit.
    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let start = self.len();
        let end = start.checked_add(bytes.len()).filter(|&end| end < N);
        let end = end.ok_or(Errno::ENAMETOOLONG)?;
        self.bytes[start..end].copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Makes it these bytes.
    ///
    /// # Errors
    /// [`Errno::ENAMETOOLONG`] if they and a NUL do not fit: then it is empty.
    pub fn set(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.clear();
        self.extend(bytes)
    }

    /// Adds a component behind a slash; to `/` without one.
    ///
    /// # Errors
    /// [`Errno::ENAMETOOLONG`] if it does not fit.
    pub fn push(&mut self, name: &[u8]) -> Result<(), Errno> {
        let len = self.len();
        if self.as_bytes().last() != Some(&b'/') {
            self.extend(b"/")?;
        }
        self.extend(name).inspect_err(|_| self.truncate(len))
    }

    /// Takes the last component away; `/` stays.
    pub fn pop(&mut self) {
        let slash = self.as_bytes().iter().rposition(|&byte| byte == b'/');
        self.truncate(slash.unwrap_or(0).max(1));
    }

    /// All of the buffer, to be written into from its start; then call [`PathBuf::truncate_written`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Says how many bytes were written into [`PathBuf::room`].
    ///
    /// # Errors
    /// [`Errno::ENAMETOOLONG`] if they fill it: there may have been more.
    pub(super) fn truncate_written(&mut self, len: usize) -> Result<(), Errno> {
        self.len = if len < N { len } else { 0 };
        if len < N {
            Ok(())
        } else {
            Err(Errno::ENAMETOOLONG)
        }
    }
}

impl<const N: usize> Default for PathBuf<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> core::fmt::Debug for PathBuf<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Symlink texts that are still to be walked. They stand at the end of the buffer, so that putting one in front of the others
/// moves nothing.
#[derive(Clone)]
#[repr(C)]
pub(super) struct Rest {
    bytes: [u8; REST_ROOM],
    /// Where what is left starts; a value from arbitrary memory is cut to the buffer's length. It stands where the texts do, so that both
    /// touch one page.
    start: usize,
}

impl Rest {
    const fn new() -> Self {
        Self {
            bytes: [0; REST_ROOM],
            start: REST_ROOM,
        }
    }

    fn start(&self) -> usize {
        self.start.min(REST_ROOM)
    }

    pub(super) fn clear(&mut self) {
        self.start = REST_ROOM;
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start()..]
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.start = self.start().saturating_add(count);
    }

    pub(super) fn put_in_front(&mut self, text: &[u8]) -> Result<(), Errno> {
        let start = self.start().checked_sub(text.len());
        let start = start.ok_or(Errno::ENAMETOOLONG)?;
        self.bytes[start..start + text.len()].copy_from_slice(text);
        self.start = start;
        Ok(())
    }
}

/// Memory for one resolution, about 48 KiB: too much for a guest's stack.
///
/// Every pattern of bytes is a valid area, and nothing is cleared before use: a reference to one may be made from any memory that is
/// initialised (an anonymous mapping, `.bss`), aligned, and nobody else's. A part that no path reaches is never touched.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Area {
    /// The canonical guest path so far.
    pub(super) at: PathBuf<AT_ROOM>,
    /// What is left to be walked before the rest of the path that was asked for.
    pub(super) rest: Rest,
    /// Text of the symlink met last.
    pub(super) text: PathBuf<{ PATH_MAX + 1 }>,
    /// `at` on the host, where a mount lies over it.
    pub(super) host: PathBuf<HOST_ROOM>,
    /// In shadow mode, what the index had said.
    pub(super) shadow: PathBuf<AT_ROOM>,
}

impl Area {
    /// An empty area. In a `static` it costs nothing; elsewhere it clears all of it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            at: PathBuf::new(),
            rest: Rest::new(),
            text: PathBuf::new(),
            host: PathBuf::new(),
            shadow: PathBuf::new(),
        }
    }
}

impl Area {
    /// Room for a guest path, between resolutions: where each puts the one that it finds, so that no other memory is touched.
    pub fn room(&mut self) -> &mut PathBuf<AT_ROOM> {
        &mut self.at
    }

    /// Keeps a path of the caller's, made of these parts, where a location's would stand: its bytes and a NUL.
    ///
    /// # Errors
    /// [`Errno::ENAMETOOLONG`].
    pub fn keep(&mut self, parts: &[&[u8]]) -> Result<&[u8], Errno> {
        self.host.clear();
        for part in parts {
            self.host.extend(part)?;
        }
        Ok(self.host.with_nul())
    }
}

impl Default for Area {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Rest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// Whether `path` is `prefix` or lies below it, component by component. Both canonical and absolute.
pub(super) fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    below(path, prefix).is_some()
}

/// What is left of `path` below `prefix`: empty, or a slash and more; `None` if it does not lie there.
pub fn below<'p>(path: &'p [u8], prefix: &[u8]) -> Option<&'p [u8]> {
    if prefix == b"/" {
        return match path {
            b"/" => Some(b""),
            [b'/', ..] => Some(path),
            _ => None,
        };
    }
    let rest = path.strip_prefix(prefix)?;
    matches!(rest, [] | [b'/', ..]).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::{Errno, PathBuf, Rest, below};

    #[test]
    fn what_does_not_fit_leaves_the_buffer_as_it_was() {
        let mut path = PathBuf::<8>::new();
        path.set(b"/usr").unwrap();
        assert_eq!(path.push(b"lib"), Err(Errno::ENAMETOOLONG));
        assert_eq!(path.as_bytes(), b"/usr");
        path.push(b"li").unwrap();
        assert_eq!(path.with_nul(), b"/usr/li\0");
        assert_eq!(path.set(b"/usr/lib"), Err(Errno::ENAMETOOLONG));
        assert!(path.is_empty());
    }

    #[test]
    fn the_root_has_one_slash_whatever_is_pushed_and_popped() {
        let mut path = PathBuf::<32>::new();
        path.set(b"/").unwrap();
        path.pop();
        assert_eq!(path.as_bytes(), b"/");
        path.push(b"a").unwrap();
        path.push(b"b").unwrap();
        assert_eq!(path.as_bytes(), b"/a/b");
        path.pop();
        path.pop();
        path.pop();
        assert_eq!(path.as_bytes(), b"/");
    }

    #[test]
    fn a_text_is_walked_before_what_follows_its_symlink() {
        let mut rest = Rest::new();
        rest.put_in_front(b"/c").unwrap();
        rest.put_in_front(b"a/b").unwrap();
        assert_eq!(rest.as_bytes(), b"a/b/c");
        rest.advance(2);
        assert_eq!(rest.as_bytes(), b"b/c");
        assert_eq!(
            rest.put_in_front(&[b'x'; super::REST_ROOM]),
            Err(Errno::ENAMETOOLONG)
        );
        assert_eq!(rest.as_bytes(), b"b/c");
    }

    #[test]
    fn a_prefix_ends_where_a_component_does() {
        assert_eq!(below(b"/usr/lib", b"/usr"), Some(&b"/lib"[..]));
        assert_eq!(below(b"/usr", b"/usr"), Some(&b""[..]));
        assert_eq!(below(b"/usrx", b"/usr"), None);
        assert_eq!(below(b"/", b"/"), Some(&b""[..]));
        assert_eq!(below(b"/usr", b"/"), Some(&b"/usr"[..]));
        assert_eq!(below(b"socket:[1]", b"/"), None);
    }
}
