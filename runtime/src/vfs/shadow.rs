//! Shadow mode: every path is resolved with the index and without, and the two are compared.
//!
//! What the walker says is what the guest is told. No lease is given in this mode, so that the index is compared with the host each
//! time; where the two still disagree because something is changing just now, they are asked again.

use super::host::Host;
use super::path::Area;
use super::place::{self, End, What};
use super::resolve::{Ask, walk};
use super::{Found, Start, Vfs, Want};
use crate::errno::Errno;

/// How often both are asked before they are said to disagree.
const ATTEMPTS: u32 = 5;

/// One side's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The call fails like this.
    Fails(Errno),
    /// It leads to this canonical guest path.
    Leads(&'a [u8]),
    /// It is a symlink with this text.
    Text(&'a [u8]),
}

/// The two disagree although nothing was changing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch<'a> {
    /// Canonical guest path of the directory that the path starts at.
    pub start: &'a [u8],
    /// The path that was resolved.
    pub path: &'a [u8],
    /// What the index said.
    pub index: Answer<'a>,
    /// What the walker said.
    pub walker: Answer<'a>,
}

/// An answer, without what stands in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Fails(Errno),
    /// The second: the index has said that something is there.
    Leads(What, bool),
    Text,
}

impl Said {
    fn of(end: &Result<End, Errno>) -> Self {
        match end {
            Err(errno) => Said::Fails(*errno),
            Ok(End {
                what: What::Text, ..
            }) => Said::Text,
            Ok(end) => Said::Leads(end.what, end.kind.is_some()),
        }
    }

    fn answer(self, text: &[u8]) -> Answer<'_> {
        match self {
            Said::Fails(errno) => Answer::Fails(errno),
            Said::Leads(..) => Answer::Leads(text),
            Said::Text => Answer::Text(text),
        }
    }

    /// What stands in the area of this answer.
    fn bytes(self, area: &Area) -> &[u8] {
        match self {
            Said::Fails(_) => b"",
            Said::Leads(..) => area.at.as_bytes(),
            Said::Text => area.text.as_bytes(),
        }
    }
}

/// Whether the walker's answer, which looks at every component, bears out that of the index, whose bytes are in [`Area::shadow`].
fn agree(index: Said, walker: Said, area: &Area) -> bool {
    match (index, walker) {
        // Left to the host, which says so now.
        (Said::Leads(What::Host, false), Said::Fails(_) | Said::Text) => true,
        (Said::Leads(one, _), Said::Leads(other, _)) => {
            one == other && area.shadow.as_bytes() == area.at.as_bytes()
        }
        (Said::Text, Said::Text) => area.shadow.as_bytes() == area.text.as_bytes(),
        (one, other) => one == other,
    }
}

pub(super) fn resolve<'w, H: Host>(
    vfs: &Vfs<'_>,
    host: &H,
    area: &'w mut Area,
    start: Start<'_>,
    path: &[u8],
    want: Want,
) -> Found<'w> {
    let mut attempts = 0;
    let (end, rest) = loop {
        let (end, _) = walk(vfs, host, area, (start, path), want, Ask::Both);
        let index = Said::of(&end);
        // Both are as long as the buffer at most, so this does not fail.
        let Area {
            at, text, shadow, ..
        } = &mut *area;
        let kept = match index {
            Said::Fails(_) => shadow.set(b""),
            Said::Leads(..) => shadow.set(at.as_bytes()),
            Said::Text => shadow.set(text.as_bytes()),
        };
        let (end, rest) = walk(vfs, host, area, (start, path), want, Ask::HostOnly);
        let walker = Said::of(&end);
        attempts += 1;
        if kept.is_err() || agree(index, walker, area) {
            break (end, rest);
        }
        if attempts == ATTEMPTS {
            let Start::Guest(guest) = start;
            host.mismatch(&Mismatch {
                start: guest,
                path,
                index: index.answer(area.shadow.as_bytes()),
                walker: walker.answer(walker.bytes(area)),
            });
            break (end, rest);
        }
    };
    let shown = end.and_then(|end| place::show(area, vfs.mounts, end, rest));
    shown.unwrap_or_else(Found::Definite)
}
