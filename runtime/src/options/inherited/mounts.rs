//! The mounts of an inherited argument. They are kept as they are written and read when they are asked for: room for as many as there may be
//! would be a page that every start touches, and most have five.

use core::fmt;

use super::wire::{Reader, Writer};
use super::{EncodeError, MAX_MOUNTS, absolute};

/// A path of the guest that is another one on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Where the guest sees it, absolute.
    pub guest: &'a [u8],
    /// Where it is on the host, absolute.
    pub host: &'a [u8],
}

/// Mounts, in the order in which they were made.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct MountList<'a> {
    count: usize,
    /// For each a blank, the guest's path, and the host's or a `=`.
    text: &'a [u8],
}

impl<'a> MountList<'a> {
    /// Writes mounts to the beginning of `into`, which is to be kept.
    ///
    /// # Errors
    /// [`EncodeError`]: no room, more than [`MAX_MOUNTS`], a path that is not absolute.
    pub fn write<'m>(
        mounts: impl Iterator<Item = Mount<'m>>,
        into: &'a mut [u8],
    ) -> Result<Self, EncodeError> {
        let mut out = Writer::new(&mut *into);
        let mut count = 0;
        for Mount { guest, host } in mounts {
            count += 1;
            if count > MAX_MOUNTS || !absolute(guest) || !absolute(host) {
                return Err(EncodeError::Field("mounts"));
            }
            out.bytes(b" ").string(guest);
            if host == guest {
                out.bytes(b"=");
            } else {
                out.string(host);
            }
        }
        let no_room = |needed| EncodeError::NoRoom { needed };
        let len = out.finish().map_err(no_room)?;
        let text = into.get(..len).unwrap_or_default();
        Ok(Self { count, text })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Mount<'a>> + use<'a> {
        let mut from = Reader::new(self.text);
        core::iter::from_fn(move || mount(&mut from))
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) {
        out.hex(self.count as u64).bytes(self.text);
    }

    pub(super) fn decode(from: &mut Reader<'a>) -> Option<Self> {
        let count = usize::try_from(from.hex()?).ok()?;
        if count > MAX_MOUNTS {
            return None;
        }
        let before = from.rest();
        for _ in 0..count {
            let Mount { guest, host } = mount(from)?;
            if !absolute(guest) || !absolute(host) {
                return None;
            }
        }
        let len = before.len() - from.rest().len();
        let text = before.get(..len)?;
        Some(Self { count, text })
    }
}

impl fmt::Debug for MountList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn mount<'a>(from: &mut Reader<'a>) -> Option<Mount<'a>> {
    from.exactly(b" ")?;
    let guest = from.string()?;
    let host = if from.exactly(b"=").is_some() {
        guest
    } else {
        // The same path written out would be a second spelling.
        from.string().filter(|host| *host != guest)?
    };
    Some(Mount { guest, host })
}
