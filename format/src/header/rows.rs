//! Tables of fixed-width rows: an rkyv archive of one vector.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::vec::ArchivedVec;

use crate::error::FormatError;

/// A row in its archived form.
pub trait Row: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>> + 'static {}
impl<T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>> + 'static> Row for T {}

/// The rows in `bytes`; `what` names the table in the error.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn decode<'a, T: Row>(bytes: &'a [u8], what: &'static str) -> Result<&'a [T], FormatError> {
    rkyv::api::low::access::<ArchivedVec<T>, Failure>(bytes)
        .map(ArchivedVec::as_slice)
        .map_err(|_| FormatError::Malformed { what })
}

/// Length in bytes of what stands behind the rows of a table: the archive's reference to them.
pub const REFERENCE_LEN: usize = 8;

/// How many rows the table in a part of `len` bytes has; `None`: no table has this length.
#[must_use]
pub fn count<T: Row>(len: u64) -> Option<u32> {
    let rows_len = len.checked_sub(REFERENCE_LEN as u64)?;
    let row_len = size_of::<T>() as u64;
    let is_whole = rows_len.is_multiple_of(row_len);
    is_whole
        .then(|| u32::try_from(rows_len / row_len).ok())
        .flatten()
}

/// The row that `bytes` are, for who has no more of the table than that: rows follow each other from the start of their part.
///
/// # Errors
/// [`FormatError::Malformed`].
pub fn one<'a, T: Row>(bytes: &'a [u8], what: &'static str) -> Result<&'a T, FormatError> {
    let is_one = bytes.len() == size_of::<T>();
    let row = is_one.then(|| rkyv::api::low::access_pos::<T, Failure>(bytes, 0).ok());
    row.flatten().ok_or(FormatError::Malformed { what })
}

/// What a row must be to be written.
#[cfg(feature = "alloc")]
pub trait NewRow:
    Clone
    + for<'a> rkyv::Serialize<
        rkyv::api::high::HighSerializer<
            rkyv::util::AlignedVec,
            rkyv::ser::allocator::ArenaHandle<'a>,
            Failure,
        >,
    >
{
}
#[cfg(feature = "alloc")]
impl<T> NewRow for T where
    T: Clone
        + for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                Failure,
            >,
        >
{
}

/// The archive of `rows`.
#[cfg(feature = "alloc")]
#[must_use]
pub fn encode<T: NewRow>(rows: &[T]) -> Vec<u8> {
    // Serialising into memory fails only when a relative pointer overflows, and tables are far below 2 GiB.
    let bytes = rkyv::to_bytes::<Failure>(&rows.to_vec()).expect("a table below 2 GiB");
    bytes.into_vec()
}
