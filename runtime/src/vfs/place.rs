//! Where a walk ended, and what of it the caller is told.

use super::host::{Base, Location};
use super::mounts::{Mount, MountId, Mounts};
use super::path::{AT_ROOM, Area, HOST_ROOM, PathBuf, below};
use super::{Found, Kind, LastComponent, Place, Quick};
use crate::errno::Errno;

/// Stands in for a directory that exists only because a mount lies below it, and that the host has not: it is always empty
/// (`proc_tty_init` of the kernel makes it, and nothing in it).
const EMPTY_DIRECTORY: &[u8] = b"/proc/tty/ldisc";

/// What stands behind [`Area::at`] in a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suffix {
    None,
    Slash,
    Dot,
    DotDot,
}

impl Suffix {
    pub(super) const fn bytes(self) -> &'static [u8] {
        match self {
            Suffix::None => b"",
            Suffix::Slash => b"/",
            Suffix::Dot => b"/.",
            Suffix::DotDot => b"/..",
        }
    }
}

/// Where the walk ended, in terms of the area.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) what: What,
    pub(super) mount: Option<MountId>,
    pub(super) suffix: Suffix,
    pub(super) kind: Option<Kind>,
    pub(super) last: LastComponent,
    pub(super) is_mount_point: bool,
    pub(super) is_magic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Host,
    /// The root as [`Last::Parent`] sees it: every such call on it fails, and the host's own root fails alike.
    Root,
    Synthetic,
    Reserved,
    Magic,
    /// The index has the text, and the call wants no more.
    Text,
}

/// Where the walk of `path` would have ended, in terms of the area. `None`: that does not fit.
pub(super) fn of_quick(
    area: &mut Area,
    path: &[u8],
    quick: Quick<'_>,
) -> Option<Result<End, Errno>> {
    let (what, kind) = match quick {
        Quick::Fails(errno) => return Some(Err(errno)),
        Quick::Text(text) => {
            area.text.set(text).ok()?;
            (What::Text, None)
        }
        Quick::AsGiven { kind } => {
            area.at.set(path).ok()?;
            (What::Host, Some(kind))
        }
        Quick::Leads { guest, kind } => {
            area.at.set(guest.strip_suffix(b"\0")?).ok()?;
            (What::Host, Some(kind))
        }
    };
    Some(Ok(End {
        what,
        mount: None,
        suffix: Suffix::None,
        kind,
        last: LastComponent::Normal,
        is_mount_point: false,
        is_magic: false,
    }))
}

/// What the caller is told.
pub(super) fn show<'w>(
    area: &'w mut Area,
    mounts: &Mounts<'_>,
    end: End,
    path: &[u8],
) -> Result<Found<'w>, Errno> {
    let at = match end.what {
        What::Synthetic => stand_in(area, mounts)?,
        What::Root => {
            area.host.set(b"/")?;
            At::Host
        }
        What::Text => return Ok(Found::Text(area.text.as_bytes())),
        What::Host | What::Reserved | What::Magic => {
            locate(area, mounts, end.mount, end.suffix.bytes())?
        }
    };
    if end.what == What::Magic {
        area.shadow.set(area.rest.as_bytes())?;
        area.shadow.extend(path)?;
    }
    if let At::Host = at {
        area.host.terminate();
    }
    let area = &*area;
    let place = Place {
        location: at.location(&area.at, &area.host),
        guest: area.at.as_bytes(),
        kind: end.kind,
        must_be_directory: end.suffix == Suffix::Slash,
        last: end.last,
        is_mount_point: end.is_mount_point,
        is_magic: end.is_magic,
    };
    Ok(match end.what {
        What::Host | What::Root | What::Text => Found::Host(place),
        What::Synthetic => Found::Synthetic(place),
        What::Reserved => Found::Reserved { guest: place.guest },
        What::Magic => Found::Magic {
            place,
            text: area.text.as_bytes(),
            rest: area.shadow.as_bytes(),
        },
    })
}

/// In which buffer of the area a location's path stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// In [`Area::at`] from its second byte to this one, relative to the sysroot.
    Sysroot(usize),
    /// The sysroot itself, in [`Area::host`].
    SysrootItself,
    /// In [`Area::host`], absolute.
    Host,
}

impl At {
    pub(super) fn location<'w>(
        self,
        guest: &'w PathBuf<AT_ROOM>,
        host: &'w PathBuf<HOST_ROOM>,
    ) -> Location<'w> {
        let (base, path) = match self {
            At::Sysroot(end) => (Base::Sysroot, guest.terminated(1, end)),
            At::SysrootItself => (Base::Sysroot, host.terminated(0, host.len())),
            At::Host => (Base::Host, host.terminated(0, host.len())),
        };
        Location { base, path }
    }
}

/// Writes where [`Area::at`] is on the host, and `suffix` behind it.
pub(super) fn locate(
    area: &mut Area,
    mounts: &Mounts<'_>,
    mount: Option<MountId>,
    suffix: &[u8],
) -> Result<At, Errno> {
    let len = area.at.len();
    let at = match mount {
        None if len > 1 => {
            area.at.extend(suffix)?;
            area.at.terminate();
            let end = area.at.len();
            area.at.truncate(len);
            return Ok(At::Sysroot(end));
        }
        None => {
            area.host.set(b".")?;
            At::SysrootItself
        }
        Some(id) => {
            let row = mounts.row(id);
            let rest = below(area.at.as_bytes(), row.guest).unwrap_or(b"");
            if row.host == b"/" && !rest.is_empty() {
                area.host.clear();
            } else {
                area.host.set(row.host)?;
            }
            area.host.extend(rest)?;
            At::Host
        }
    };
    if area.host.as_bytes() == b"/" {
        area.host.extend(suffix.strip_prefix(b"/").unwrap_or(b""))?;
    } else {
        area.host.extend(suffix)?;
    }
    area.host.terminate();
    Ok(at)
}

/// Writes where the stand-in for a directory that exists only for a mount's sake is.
fn stand_in(area: &mut Area, mounts: &Mounts<'_>) -> Result<At, Errno> {
    let guest = area.at.as_bytes();
    let shows_same = |row: &Mount<'_>| {
        row.guest == row.host && row.guest != guest && below(row.guest, guest).is_some()
    };
    if mounts.rows().iter().any(shows_same) {
        area.host.set(guest)?;
    } else {
        area.host.set(EMPTY_DIRECTORY)?;
    }
    Ok(At::Host)
}
