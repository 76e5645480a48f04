//! Numbers and strings of an inherited argument.

use super::DecodeError;

/// Writes to a buffer, and counts on when that is full, so that the error can say what was needed.
pub(super) struct Writer<'b> {
    into: &'b mut [u8],
    len: usize,
}

impl<'b> Writer<'b> {
    pub(super) fn new(into: &'b mut [u8]) -> Self {
        Self { into, len: 0 }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.len.saturating_add(bytes.len());
        if let Some(place) = self.into.get_mut(self.len..end) {
            place.copy_from_slice(bytes);
        }
        self.len = end;
        self
    }

    /// The beginning of a field.
    pub(super) fn letter(&mut self, letter: u8) -> &mut Self {
        self.bytes(&[b' ', letter])
    }

    pub(super) fn hex(&mut self, number: u64) -> &mut Self {
        self.digits::<16>(number)
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.hex(flag.into())
    }

    pub(super) fn string(&mut self, string: &[u8]) -> &mut Self {
        self.digits::<10>(string.len() as u64);
        self.bytes(b":").bytes(string)
    }

    fn digits<const BASE: u64>(&mut self, mut number: u64) -> &mut Self {
        // 2^64 has 20 decimal digits.
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b"0123456789abcdef"[(number % BASE) as usize];
            number /= BASE;
            if number == 0 {
                break;
            }
        }
        self.bytes(&digits[first..])
    }

    /// How much was written, or `Err` of how much would have been.
    pub(super) fn finish(self) -> Result<usize, usize> {
        if self.len <= self.into.len() {
            Ok(self.len)
        } else {
            Err(self.len)
        }
    }
}

/// Reads what [`Writer`] writes, and no other spelling of it.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The field that begins with `letter`, read by `value`.
    pub(super) fn field<T>(
        &mut self,
        letter: u8,
        name: &'static str,
        value: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, DecodeError> {
        self.exactly(&[b' ', letter])
            .and_then(|()| value(self))
            .ok_or(DecodeError::Field(name))
    }

    pub(super) fn exactly(&mut self, bytes: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(bytes)?;
        Some(())
    }

    pub(super) fn unless_dash<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.exactly(b"-").is_some() {
            Some(None)
        } else {
            value(self).map(Some)
        }
    }

    pub(super) fn hex(&mut self) -> Option<u64> {
        self.digits::<16>()
    }

    /// A descriptor or a process, which are not negative.
    pub(super) fn positive(&mut self) -> Option<i32> {
        self.hex()?.try_into().ok()
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.hex()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.digits::<10>()?).ok()?;
        self.exactly(b":")?;
        let (string, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(string)
    }

    fn digits<const BASE: u64>(&mut self) -> Option<u64> {
        let digit = |byte: &u8| {
            let value = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            Some(u64::from(value)).filter(|value| *value < BASE)
        };
        let mut number: u64 = 0;
        let mut len = 0;
        while let Some(value) = self.rest.get(len).and_then(digit) {
            // A zero in front would be a second spelling.
            if len > 0 && number == 0 {
                return None;
            }
            number = number.checked_mul(BASE)?.checked_add(value)?;
            len += 1;
        }
        self.rest = self.rest.get(len..)?;
        (len > 0).then_some(number)
    }
}
