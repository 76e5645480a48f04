//! Messages without an allocator.

use core::fmt::{self, Write as _};

use crate::sys::host::{Fd, write};

/// A message of bounded length; what is beyond is cut.
#[derive(Debug)]
pub struct Line {
    text: [u8; 1024],
    len: usize,
}

impl Line {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            text: [0; 1024],
            len: 0,
        }
    }

    /// Adds formatted text.
    pub fn put(&mut self, text: fmt::Arguments<'_>) {
        let _ = self.write_fmt(text);
    }

    /// Adds text as it is.
    pub fn put_bytes(&mut self, text: &[u8]) {
        let room = &mut self.text[self.len..];
        let len = text.len().min(room.len());
        room[..len].copy_from_slice(&text[..len]);
        self.len += len;
    }

    /// What is in it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put_bytes(text.as_bytes());
        Ok(())
    }
}

/// A message on standard error, with the program's name in front and an end of line behind.
pub fn say(text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    line.put(format_args!("elfuse: {text}"));
    // Kept within its bound, whatever was cut.
    line.len = line.len.min(line.text.len() - 1);
    line.put(format_args!("\n"));
    let _ = write(Fd(2), line.bytes());
}

/// Text of any length to a descriptor, collected into few writes.
#[derive(Debug)]
pub struct Stream {
    fd: Fd,
    line: Line,
}

impl Stream {
    /// Text to `fd`.
    #[must_use]
    pub const fn new(fd: Fd) -> Self {
        Self {
            fd,
            line: Line::new(),
        }
    }

    fn flush(&mut self) {
        let mut rest = self.line.bytes();
        while let Ok(written @ 1..) = write(self.fd, rest) {
            rest = rest.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
        self.line.len = 0;
    }
}

impl fmt::Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while !rest.is_empty() {
            let room = self.line.text.len() - self.line.len;
            let mut len = rest.len().min(room);
            while !rest.is_char_boundary(len) {
                len -= 1;
            }
            self.line.write_str(&rest[..len])?;
            rest = &rest[len..];
            if !rest.is_empty() {
                self.flush();
            }
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.flush();
    }
}
