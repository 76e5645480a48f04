//! The order in which glibc keeps the names of a cache.

use core::cmp::Ordering;

/// Compares two SONAMEs the way `ldconfig` sorts a cache and ld.so searches it: runs of digits by value, everything else
/// byte by byte (as `signed char`, which is what x86 has). A cache is sorted *descending* by this.
///
/// Two different names can be equal (`libm.so.6` and `libm.so.06`): ld.so takes the one for the other, so the readers
/// here do too. Values wrap at 32 bits, as the C `int` does in practice.
///
/// ```
/// use core::cmp::Ordering;
/// use elfuse_format::ld_so_cache::compare_names;
/// assert_eq!(compare_names(b"libx.so.10", b"libx.so.9"), Ordering::Greater);
/// assert_eq!(compare_names(b"libx.so.6", b"libx.so.06"), Ordering::Equal);
/// assert_eq!(compare_names(b"lib6.so", b"libx.so"), Ordering::Greater);
/// ```
#[must_use]
pub fn compare_names(left: &[u8], right: &[u8]) -> Ordering {
    let mut left = Cursor(left);
    let mut right = Cursor(right);
    loop {
        let (l, r) = (left.peek(), right.peek());
        if l == 0 {
            return signed(l).cmp(&signed(r));
        }
        match (l.is_ascii_digit(), r.is_ascii_digit()) {
            (true, true) => {
                let (l, r) = (left.number(), right.number());
                if l != r {
                    // glibc subtracts, and the sign of a wrapped difference is not the order of the operands.
                    return l.wrapping_sub(r).cmp(&0);
                }
            }
            // A digit is larger than anything else, the end of the string included.
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if l != r => return signed(l).cmp(&signed(r)),
            (false, false) => {
                left.advance();
                right.advance();
            }
        }
    }
}

/// A byte as x86's `char`.
fn signed(byte: u8) -> i8 {
    i8::from_ne_bytes([byte])
}

/// A string that ends in NULs for ever.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn peek(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    fn advance(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }

    fn number(&mut self) -> i32 {
        let mut value = 0i32;
        while self.peek().is_ascii_digit() {
            value = value
                .wrapping_mul(10)
                .wrapping_add(i32::from(self.peek() - b'0'));
            self.advance();
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_is_greater_than_a_letter_and_than_the_end() {
        assert_eq!(compare_names(b"liba.so.1", b"liba.so."), Ordering::Greater);
        assert_eq!(compare_names(b"liba.so", b"liba.so.1"), Ordering::Less);
        assert_eq!(compare_names(b"liba1", b"libaz"), Ordering::Greater);
        assert_eq!(compare_names(b"libaz", b"liba1"), Ordering::Less);
    }

    #[test]
    fn numbers_are_compared_by_value_not_by_digits() {
        assert_eq!(
            compare_names(b"libicu.so.9", b"libicu.so.72"),
            Ordering::Less
        );
        assert_eq!(
            compare_names(b"libx-1.10.so", b"libx-1.9.so"),
            Ordering::Greater
        );
    }

    #[test]
    fn bytes_above_ascii_sort_below_it_as_signed_char_does() {
        assert_eq!(compare_names(b"lib\xc3\xa4.so", b"liba.so"), Ordering::Less);
    }

    #[test]
    fn numbers_too_large_for_an_int_wrap_and_do_not_panic() {
        let _ = compare_names(b"lib99999999999999999999.so", b"lib2147483648.so");
        assert_eq!(
            compare_names(b"lib4294967297.so", b"lib1.so"),
            Ordering::Equal
        );
        assert_eq!(compare_names(b"", b""), Ordering::Equal);
    }
}
