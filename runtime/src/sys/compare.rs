//! Which of two pieces of memory comes first, eight bytes at a time: what a launcher without libc gives the compiler as `memcmp` and `bcmp`.
//!
//! No slices are compared here, nor bytes one by one in a row: either would be compiled into a call of those two.

use core::cmp::Ordering;

/// Compares two pieces of one length by their bytes. Of a longer one what both have is compared.
///
/// It is not to be inlined where the compiler does not optimize: frames are large there, and it runs on stacks of the guest's.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let both = left.len().min(right.len());
    let (left, right) = (&left[..both], &right[..both]);
    let (lefts, rights) = (left.as_chunks().0, right.as_chunks().0);
    for (left, right) in lefts.iter().zip(rights) {
        // As a number the first byte counts most.
        let order = u64::from_be_bytes(*left).cmp(&u64::from_be_bytes(*right));
        if order.is_ne() {
            return order;
        }
    }
    match (left.last_chunk(), right.last_chunk()) {
        // What was compared before is the same.
        (Some(left), Some(right)) => u64::from_be_bytes(*left).cmp(&u64::from_be_bytes(*right)),
        _ => short_word(left).cmp(&short_word(right)),
    }
}

/// Up to seven bytes as a number, by which they compare as bytes do with as many others. They are read in pieces that overlap.
#[inline(always)]
fn short_word(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u64::from(u32::from_be_bytes(*first)) << 32 | u64::from(u32::from_be_bytes(*last));
    }
    let byte = |at: usize| bytes.get(at).map_or(0, |&byte| u64::from(byte));
    byte(0) << 16 | byte(bytes.len() / 2) << 8 | byte(bytes.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::{Ordering, compare};

    #[test]
    fn pieces_compare_by_the_first_byte_that_differs_wherever_that_is() {
        let plain = |left: &[u8], right: &[u8]| {
            let mut differing = left.iter().zip(right).filter(|(left, right)| left != right);
            differing
                .next()
                .map_or(Ordering::Equal, |(left, right)| left.cmp(right))
        };
        let same = [0x7f; 40];
        for len in 0..=same.len() {
            assert_eq!(compare(&same[..len], &same[..len]), Ordering::Equal);
            for first in 0..len {
                for second in first..len {
                    for (one, other) in [(0x00, 0xff), (0xff, 0x00), (0x80, 0x7e), (0x7e, 0x80)] {
                        let mut changed = same;
                        changed[second] = other;
                        changed[first] = one;
                        let (changed, same) = (&changed[..len], &same[..len]);
                        assert_eq!(compare(changed, same), plain(changed, same));
                        assert_eq!(compare(same, changed), plain(same, changed));
                    }
                }
            }
        }
    }
}
