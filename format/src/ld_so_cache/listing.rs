//! Rows as text.

use core::fmt;

use super::Entry;

/// A row, as `ldconfig -p` prints it.
pub(super) struct Listing<'a> {
    pub(super) entry: Entry<'a>,
    /// The subdirectory of `glibc-hwcaps`, if the row has one and its name is there.
    pub(super) directory: Option<&'a [u8]>,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_bytes(f, self.entry.key.unwrap_or(b"?"))?;
        write!(f, " ({}", self.entry.flags)?;
        match (self.directory, self.entry.hwcap.bits()) {
            (Some(name), _) => {
                f.write_str(", hwcap: \"")?;
                write_bytes(f, name)?;
                f.write_str("\"")?;
            }
            (None, 0) => {}
            (None, bits) => write!(f, ", hwcap: {bits:#018x}")?,
        }
        if self.entry.os_version != 0 {
            let [system, major, minor, patch] = self.entry.os_version.to_be_bytes();
            let system = match system {
                0 => "Linux",
                1 => "Hurd",
                2 => "Solaris",
                3 => "FreeBSD",
                4 => "kNetBSD",
                5 => "Syllable",
                _ => "Unknown OS",
            };
            write!(f, ", OS ABI: {system} {major}.{minor}.{patch}")?;
        }
        f.write_str(") => ")?;
        write_bytes(f, self.entry.value.unwrap_or(b"?"))
    }
}

/// Text where it is text; the replacement character elsewhere.
fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.utf8_chunks().try_for_each(|chunk| {
        f.write_str(chunk.valid())?;
        if chunk.invalid().is_empty() {
            Ok(())
        } else {
            f.write_str("\u{fffd}")
        }
    })
}
