//! The walk from component to component, as `fs/namei.c` of Linux does it.
//!
//! [`Area::at`] is the canonical guest path of where the walk stands. Along with it goes what is known of that place: the mount it is
//! in, whether it exists only for a mount's sake. What is still to be walked is, in this order, [`Area::rest`] and what is left of
//! the path; each ends where a component does.
//!
//! A place is known to be a directory only once something in it was looked up: the host says `ENOTDIR` then. `.` and `..` look nothing
//! up, so before `..` it is asked for.

use elfuse_format::names::is_reserved;

use super::host::{Base, Host, Location};
use super::mounts::{MountId, Mounts};
use super::path::{AT_ROOM, Area, HOST_ROOM, PATH_MAX, PathBuf, below};
use super::{Found, Kind, Last, LastComponent, MAX_SYMLINKS, Place, Start, Vfs, Want, procfs};
use crate::errno::Errno;

/// Stands in for a directory that exists only because a mount lies below it, and that the host has not: it is always empty
/// (`proc_tty_init` of the kernel makes it, and nothing in it).
const EMPTY_DIRECTORY: &[u8] = b"/proc/tty/ldisc";

/// What stands behind [`Area::at`] in a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suffix {
    None,
    Slash,
    Dot,
    DotDot,
}

impl Suffix {
    const fn bytes(self) -> &'static [u8] {
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
struct End {
    what: What,
    mount: Option<MountId>,
    suffix: Suffix,
    kind: Option<Kind>,
    last: LastComponent,
    is_mount_point: bool,
    is_magic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Host,
    /// The root as [`Last::Parent`] sees it: every such call on it fails, and the host's own root fails alike.
    Root,
    Synthetic,
    Reserved,
    Magic,
}

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A symlink; its text is in [`Area::text`].
    Symlink,
    /// Something else.
    Exists(Option<Kind>),
    Absent,
}

/// The next component.
#[derive(Debug, Clone, Copy)]
struct Component {
    len: usize,
    is_last: bool,
    /// It is the last, and a slash is behind it.
    slash: bool,
}

struct Walk<'a, 'm, H> {
    mounts: &'m Mounts<'m>,
    host: &'m H,
    area: &'m mut Area,
    want: Want,
    /// What is left of the path.
    path: &'a [u8],
    /// Length of the guest path that `..` does not lead out of.
    floor: usize,
    /// The mount that the walk is in.
    mount: Option<MountId>,
    /// The walk is in a directory that exists only for a mount's sake.
    is_synthetic: bool,
    symlinks: u32,
}

pub(super) fn resolve<'w, H: Host>(
    vfs: &Vfs<'_>,
    host: &H,
    area: &'w mut Area,
    start: Start<'_>,
    path: &[u8],
    want: Want,
) -> Found<'w> {
    let mut walk = Walk {
        mounts: vfs.mounts,
        host,
        area: &mut *area,
        want,
        path,
        floor: 1,
        mount: None,
        is_synthetic: false,
        symlinks: 0,
    };
    let end = walk.begin(start).and_then(|()| walk.run());
    let rest = walk.path;
    match end {
        Ok(end) => show(area, vfs.mounts, end, rest).unwrap_or_else(Found::Definite),
        Err(errno) => Found::Definite(errno),
    }
}

/// What the caller is told.
fn show<'w>(
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
        What::Host | What::Reserved | What::Magic => {
            locate(area, mounts, end.mount, end.suffix.bytes())?
        }
    };
    if end.what == What::Magic {
        area.shadow.set(area.rest.as_bytes())?;
        area.shadow.extend(path)?;
    }
    area.host.terminate();
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
        What::Host | What::Root => Found::Host(place),
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
enum At {
    /// In [`Area::at`] from its second byte to this one, relative to the sysroot.
    Sysroot(usize),
    /// The sysroot itself, in [`Area::host`].
    SysrootItself,
    /// In [`Area::host`], absolute.
    Host,
}

impl At {
    fn location<'w>(
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
fn locate(
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
    let shows_same = |row: &super::Mount<'_>| {
        row.guest == row.host && row.guest != guest && below(row.guest, guest).is_some()
    };
    if mounts.rows().iter().any(shows_same) {
        area.host.set(guest)?;
    } else {
        area.host.set(EMPTY_DIRECTORY)?;
    }
    Ok(At::Host)
}

impl<H: Host> Walk<'_, '_, H> {
    /// Goes to where the path starts.
    fn begin(&mut self, start: Start<'_>) -> Result<(), Errno> {
        let Start::Guest(start) = start;
        if self.path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if self.path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.area.rest.clear();
        let is_absolute = self.path.starts_with(b"/");
        if is_absolute && self.want.beneath {
            return Err(Errno::EXDEV);
        }
        let is_scoped = self.want.beneath || self.want.in_root;
        if is_absolute && !is_scoped {
            self.area.at.set(b"/")?;
        } else {
            self.area.at.set(start)?;
        }
        if is_scoped {
            self.floor = self.area.at.len();
        }
        self.arrive()
    }

    /// Finds out about a place that was not reached by a name.
    fn arrive(&mut self) -> Result<(), Errno> {
        let guest = self.area.at.as_bytes();
        self.mount = self.mounts.over(guest);
        self.is_synthetic = false;
        if guest.len() > 1 && self.mounts.is_above_a_mount(guest) && self.mounts.at(guest).is_none()
        {
            self.is_synthetic = self.look_at_host()? == Step::Absent;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<End, Errno> {
        loop {
            let Some(next) = self.next() else {
                // Nothing but slashes, in the path or in the text of its last symlink.
                let is_parent = self.want.last == Last::Parent;
                let what = if is_parent { What::Root } else { What::Host };
                return Ok(self.end(what, Suffix::None, LastComponent::Root));
            };
            let end = match self.name(next) {
                b"." => self.dot(next),
                b".." => self.dot_dot(next)?,
                _ => self.named(next)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Skips slashes and looks at the component behind them; `None`: there is none.
    fn next(&mut self) -> Option<Component> {
        let slashes = |bytes: &[u8]| bytes.iter().take_while(|&&byte| byte == b'/').count();
        let count = slashes(self.area.rest.as_bytes());
        self.area.rest.advance(count);
        let rest = self.area.rest.as_bytes();
        let source = if rest.is_empty() {
            self.path = &self.path[slashes(self.path)..];
            self.path
        } else {
            rest
        };
        let len = source.iter().take_while(|&&byte| byte != b'/').count();
        if len == 0 {
            return None;
        }
        let behind = &source[len..];
        let behind_that: &[u8] = if rest.is_empty() { b"" } else { self.path };
        let mut left = behind.iter().chain(behind_that);
        let slash = left.next().is_some();
        let is_last = left.all(|&byte| byte == b'/');
        Some(Component {
            len,
            is_last,
            slash: slash && is_last,
        })
    }

    /// The component's name.
    fn name(&self, component: Component) -> &[u8] {
        let rest = self.area.rest.as_bytes();
        let source = if rest.is_empty() { self.path } else { rest };
        &source[..component.len]
    }

    /// Leaves the component behind.
    fn pass(&mut self, component: Component) {
        if self.area.rest.as_bytes().is_empty() {
            self.path = &self.path[component.len..];
        } else {
            self.area.rest.advance(component.len);
        }
    }

    fn end(&self, what: What, suffix: Suffix, last: LastComponent) -> End {
        let what = match what {
            What::Host if self.is_synthetic => What::Synthetic,
            what => what,
        };
        End {
            what,
            mount: self.mount,
            suffix,
            kind: None,
            last,
            is_mount_point: self.mounts.at(self.area.at.as_bytes()).is_some(),
            is_magic: false,
        }
    }

    fn dot(&mut self, component: Component) -> Option<End> {
        self.pass(component);
        // In the middle it can be left out: what follows is looked up in the same directory.
        (component.is_last).then(|| self.end(What::Host, Suffix::Dot, LastComponent::Dot))
    }

    fn dot_dot(&mut self, component: Component) -> Result<Option<End>, Errno> {
        self.pass(component);
        if component.is_last && self.want.last == Last::Parent {
            let end = self.end(What::Host, Suffix::DotDot, LastComponent::DotDot);
            return Ok(Some(end));
        }
        self.must_be_directory()?;
        if self.area.at.len() > self.floor {
            self.leave()?;
        } else if self.want.beneath {
            return Err(Errno::EXDEV);
        }
        if !component.is_last {
            return Ok(None);
        }
        let mut end = self.end(What::Host, Suffix::None, LastComponent::DotDot);
        end.kind = Some(Kind::Directory);
        Ok(Some(end))
    }

    /// Goes to the parent.
    fn leave(&mut self) -> Result<(), Errno> {
        let was_mount_point = self.mounts.at(self.area.at.as_bytes()).is_some();
        if was_mount_point && self.want.no_crossing {
            return Err(Errno::EXDEV);
        }
        self.area.at.pop();
        if was_mount_point || self.is_synthetic {
            self.arrive()?;
        }
        Ok(())
    }

    /// Refuses to go on from what is no directory, or one that may not be searched.
    fn must_be_directory(&mut self) -> Result<(), Errno> {
        if self.is_synthetic || self.area.at.len() == 1 {
            return Ok(());
        }
        let at = locate(self.area, self.mounts, self.mount, Suffix::Dot.bytes())?;
        match self.read_link(at) {
            Err(Errno::EINVAL) | Ok(_) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn named(&mut self, component: Component) -> Result<Option<End>, Errno> {
        let Component { is_last, slash, .. } = component;
        let is_changed = is_last && matches!(self.want.last, Last::Parent | Last::Create);
        let at_root = self.area.at.len() == 1;
        let is_reserved = self.mount.is_none() && is_reserved(self.name(component), at_root);
        if is_reserved {
            // In a file there is no name at all.
            self.must_be_directory()?;
        }
        self.enter_name(component)?;
        let suffix = if slash { Suffix::Slash } else { Suffix::None };
        if let Some(mount) = self.mounts.at(self.area.at.as_bytes()) {
            if self.want.no_crossing {
                return Err(Errno::EXDEV);
            }
            self.mount = Some(mount);
            self.is_synthetic = false;
            let end = || self.end(What::Host, suffix, LastComponent::Normal);
            return Ok(is_last.then(end));
        }
        if is_reserved && !is_changed {
            return Err(Errno::ENOENT);
        }
        if is_reserved {
            let end = self.end(What::Reserved, suffix, LastComponent::Normal);
            return Ok(Some(end));
        }
        let is_above_a_mount = self.mounts.is_above_a_mount(self.area.at.as_bytes());
        if self.is_synthetic {
            return match (is_above_a_mount, is_changed) {
                (true, _) if !is_last => Ok(None),
                (true, _) => Ok(Some(self.end(
                    What::Synthetic,
                    suffix,
                    LastComponent::Normal,
                ))),
                (false, true) => Err(Errno::EROFS),
                (false, false) => Err(Errno::ENOENT),
            };
        }
        // A call that makes a file refuses a slash before it looks: `O_CREAT` with EISDIR.
        let is_for_host = is_last
            && match self.want.last {
                Last::Follow => false,
                Last::NoFollow | Last::Text => !slash,
                Last::Create => slash,
                Last::Parent => true,
            };
        if is_for_host && !is_above_a_mount {
            let mut end = self.end(What::Host, suffix, LastComponent::Normal);
            end.is_magic = self.is_magic();
            return Ok(Some(end));
        }
        let step = self.look_at_host()?;
        match step {
            Step::Symlink if is_for_host => {
                Ok(Some(self.end(What::Host, suffix, LastComponent::Normal)))
            }
            Step::Symlink => self.follow(component),
            Step::Absent if is_above_a_mount => {
                self.is_synthetic = true;
                let end = || self.end(What::Synthetic, suffix, LastComponent::Normal);
                Ok(is_last.then(end))
            }
            Step::Absent if is_last && (is_for_host || self.want.last == Last::Create) => {
                Ok(Some(self.end(What::Host, suffix, LastComponent::Normal)))
            }
            Step::Absent => Err(Errno::ENOENT),
            Step::Exists(kind) => {
                let end = || End {
                    kind,
                    ..self.end(What::Host, suffix, LastComponent::Normal)
                };
                Ok(is_last.then(end))
            }
        }
    }

    /// Adds the component to the guest path and leaves it behind.
    fn enter_name(&mut self, component: Component) -> Result<(), Errno> {
        let Area { at, rest, .. } = &mut *self.area;
        let rest = rest.as_bytes();
        let source = if rest.is_empty() { self.path } else { rest };
        at.push(&source[..component.len])?;
        self.pass(component);
        Ok(())
    }

    /// Goes where the symlink leads that the walk stands on, or ends at it if it is magic.
    fn follow(&mut self, component: Component) -> Result<Option<End>, Errno> {
        self.symlinks += 1;
        if self.want.no_symlinks || self.symlinks > MAX_SYMLINKS {
            return Err(Errno::ELOOP);
        }
        if self.is_magic() {
            return self.magic(component).map(Some);
        }
        self.area.at.pop();
        let text = self.area.text.as_bytes();
        if text.is_empty() {
            return Err(Errno::ENOENT);
        }
        let is_absolute = text.starts_with(b"/");
        self.area.rest.put_in_front(text)?;
        if is_absolute {
            self.return_to_root()?;
        }
        Ok(None)
    }

    fn magic(&mut self, component: Component) -> Result<End, Errno> {
        if self.want.no_magic_links {
            return Err(Errno::ELOOP);
        }
        if self.want.beneath || self.want.in_root {
            return Err(Errno::EXDEV);
        }
        let suffix = if component.slash {
            Suffix::Slash
        } else {
            Suffix::None
        };
        let mut end = self.end(What::Magic, suffix, LastComponent::Normal);
        end.is_magic = true;
        Ok(end)
    }

    fn return_to_root(&mut self) -> Result<(), Errno> {
        if self.want.beneath {
            return Err(Errno::EXDEV);
        }
        let from = self.mount;
        if self.want.in_root {
            self.area.at.truncate(self.floor);
        } else {
            self.area.at.set(b"/")?;
        }
        self.arrive()?;
        if self.want.no_crossing && self.mount != from {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }

    fn is_magic(&self) -> bool {
        let Some(id) = self.mount else { return false };
        let row = self.mounts.row(id);
        below(self.area.at.as_bytes(), row.guest).is_some_and(|rest| procfs::is_magic(row, rest))
    }

    /// Asks the host what the walk stands on.
    fn look_at_host(&mut self) -> Result<Step, Errno> {
        let at = locate(self.area, self.mounts, self.mount, b"")?;
        match self.read_link(at) {
            Ok(()) => Ok(Step::Symlink),
            Err(Errno::EINVAL) => Ok(Step::Exists(None)),
            Err(Errno::ENOENT) => Ok(Step::Absent),
            Err(errno) => Err(errno),
        }
    }

    /// Reads the symlink at a location into [`Area::text`].
    fn read_link(&mut self, at: At) -> Result<(), Errno> {
        let Area {
            at: guest,
            host,
            text,
            ..
        } = &mut *self.area;
        let location = at.location(guest, host);
        let len = self.host.readlink(location, text.room())?;
        text.truncate_written(len)
    }
}
