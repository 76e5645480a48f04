//! Bytes as people and JSON readers want to see them, without an allocator.

use core::fmt::{self, Write as _};

/// Shows bytes on a terminal: UTF-8 as it is; control characters and what is not UTF-8 as `\xNN`.
///
/// Names come from command lines and trees of others, and must not be able to move the cursor or rewrite a line.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    f.write_char(character)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Shows text as a JSON string, quotes included.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(pub &'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\0'..='\x1f' => write!(f, "\\u{:04x}", u32::from(character))?,
                _ => f.write_char(character)?,
            }
        }
        f.write_char('"')
    }
}

/// Collects text in a buffer of the caller's and passes it on when that is full, so that a report of many pieces becomes few
/// writes, which other processes' output cannot come between.
#[derive(Debug)]
pub struct Buffered<'b, F: FnMut(&[u8])> {
    buffer: &'b mut [u8],
    used: usize,
    pass_on: F,
}

impl<'b, F: FnMut(&[u8])> Buffered<'b, F> {
    /// Passes on to `pass_on`, whose failures are its own to ignore: there is nobody to tell of a failing standard error.
    pub fn new(buffer: &'b mut [u8], pass_on: F) -> Self {
        Self {
            buffer,
            used: 0,
            pass_on,
        }
    }

    /// Passes on what is collected. Also done when this is dropped.
    pub fn flush(&mut self) {
        if self.used > 0 {
            (self.pass_on)(self.buffer.get(..self.used).unwrap_or_default());
            self.used = 0;
        }
    }
}

impl<F: FnMut(&[u8])> fmt::Write for Buffered<'_, F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let text = text.as_bytes();
        if text.len() > self.buffer.len() - self.used {
            self.flush();
        }
        match self.buffer.get_mut(self.used..self.used + text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                self.used += text.len();
            }
            // The whole buffer would not hold it.
            None => (self.pass_on)(text),
        }
        Ok(())
    }
}

impl<F: FnMut(&[u8])> Drop for Buffered<'_, F> {
    fn drop(&mut self) {
        self.flush();
    }
}
