//! Putting a file together.

use alloc::vec::Vec;

use super::{HEADER_LEN, Header, Kind, PART_ALIGN, PART_ROW_LEN, PartKind, rows};
use crate::checksum::checksum;
use crate::error::FormatError;

/// Puts a file together.
#[derive(Debug, Default)]
pub struct Writer {
    parts: Vec<(PartKind, Vec<u8>)>,
}

impl Writer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part.
    pub fn part(&mut self, kind: PartKind, bytes: Vec<u8>) -> &mut Self {
        self.parts.push((kind, bytes));
        self
    }

    /// Adds a table.
    pub fn table<T: rows::NewRow>(&mut self, kind: PartKind, rows: &[T]) -> &mut Self {
        self.part(kind, rows::encode(rows))
    }

    /// The bytes of the file, parts sorted by kind, the checksums of its pages behind them.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] with over 65,535 parts.
    pub fn finish(mut self, kind: Kind, flags: u32, bound_to: u64) -> Result<Vec<u8>, FormatError> {
        let part_count = u16::try_from(self.parts.len()).map_err(|_| FormatError::TooLarge {
            what: "the part table",
        })?;
        self.parts.sort_by_key(|(kind, _)| *kind as u16);
        let header_len = HEADER_LEN + PART_ROW_LEN * self.parts.len();
        let size = self.parts.iter().map(|(_, b)| b.len() + PART_ALIGN);
        let mut out = Vec::with_capacity(header_len + size.sum::<usize>());
        out.resize(header_len, 0);
        for (i, (kind, bytes)) in self.parts.into_iter().enumerate() {
            out.resize(out.len().next_multiple_of(PART_ALIGN), 0);
            let sum = match kind {
                PartKind::Blocks => 0,
                _ => checksum(&bytes),
            };
            let (offset, len) = (out.len() as u64, bytes.len() as u64);
            let row = &mut out[HEADER_LEN + i * PART_ROW_LEN..][..PART_ROW_LEN];
            row[..2].copy_from_slice(&(kind as u16).to_le_bytes());
            row[8..16].copy_from_slice(&offset.to_le_bytes());
            row[16..24].copy_from_slice(&len.to_le_bytes());
            row[24..].copy_from_slice(&sum.to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        let (body_len, payload_checksum) = (out.len(), checksum(&out[HEADER_LEN..header_len]));
        // A file without parts is made by `wrap`.
        let top_checksum = match part_count {
            0 => 0,
            _ => crate::pages::finish(&mut out),
        };
        let header = Header {
            kind: kind as u16,
            header_len: u32::try_from(header_len).expect("65,535 rows of 32 bytes fit"),
            payload_len: (body_len - header_len) as u64,
            payload_checksum,
            flags,
            part_count,
            bound_to,
            top_checksum,
        };
        out[..HEADER_LEN].copy_from_slice(&header.to_bytes());
        Ok(out)
    }
}

/// A file without parts: header and one payload.
#[must_use]
pub fn wrap(kind: Kind, flags: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: kind as u16,
        header_len: HEADER_LEN as u32,
        payload_len: payload.len() as u64,
        payload_checksum: checksum(payload),
        flags,
        part_count: 0,
        bound_to: 0,
        top_checksum: 0,
    };
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&header.to_bytes());
    out.extend_from_slice(payload);
    out
}
