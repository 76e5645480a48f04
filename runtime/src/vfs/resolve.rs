//! The walk from component to component, as `fs/namei.c` of Linux does it.
//!
//! [`Area::at`] is the canonical guest path of where the walk stands. Along with it goes what is known of that place: the mount it is
//! in, whether it exists only for a mount's sake, and where it is in the index. What is still to be walked is, in this order,
//! [`Area::rest`] and what is left of the path; each ends where a component does.
//!
//! A place that the host was asked for is known to be a directory only once something in it was looked up: the host says `ENOTDIR`
//! then. `.` and `..` look nothing up, so before `..` it is asked for.

use elfuse_format::names::is_reserved;

use super::guide::Guide;
use super::host::Host;
use super::mounts::{MountId, Mounts};
use super::path::{Area, PATH_MAX, PathBuf, below};
use super::place::{At, End, Suffix, What, locate};
use super::verdict::Verdict;
use super::{Kind, Last, LastComponent, MAX_SYMLINKS, Start, Vfs, Want, procfs};
use crate::errno::Errno;

mod components;
mod look;
use components::Component;
use look::{Step, Taken};

struct Walk<'a, 'v, H> {
    mounts: &'v Mounts<'v>,
    host: &'a H,
    area: &'a mut Area,
    want: Want,
    guide: Guide<'v>,
    /// What is left of the path.
    path: &'a [u8],
    /// Length of the guest path that `..` does not lead out of.
    floor: usize,
    /// The mount that the walk is in.
    mount: Option<MountId>,
    /// The walk is in a directory that exists only for a mount's sake.
    is_synthetic: bool,
    symlinks: u32,
    /// Look up the last component even where the call will do so.
    asks_all: bool,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The index where it may be believed, else the host.
    Both,
    /// The host alone, and for every component.
    HostOnly,
}

/// Walks `path`. Where it ends, and what of the path was not walked then.
pub(super) fn walk<'p, H: Host>(
    vfs: &Vfs<'_>,
    host: &H,
    area: &mut Area,
    (start, path): (Start<'_>, &'p [u8]),
    want: Want,
    ask: Ask,
) -> (Result<End, Errno>, &'p [u8]) {
    let mut walk = Walk {
        mounts: vfs.mounts,
        host,
        area,
        want,
        guide: Guide::new(vfs, ask == Ask::Both),
        path,
        floor: 1,
        mount: None,
        is_synthetic: false,
        symlinks: 0,
        asks_all: ask == Ask::HostOnly,
    };
    let end = walk.begin(start).and_then(|()| walk.run());
    let left = walk.path.len();
    (end, &path[path.len() - left..])
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
        match self.mount {
            None => self.guide.descend(guest),
            Some(_) => self.guide.enter(None),
        }
        if guest.len() > 1 && self.mounts.is_above_a_mount(guest) && self.mounts.at(guest).is_none()
        {
            self.is_synthetic = self.look_at_host()? == Step::Absent;
        }
        if self.is_synthetic {
            self.guide.enter(None);
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
        } else if self.mount.is_none() && !self.guide.leave() {
            self.guide.descend(self.area.at.as_bytes());
        }
        Ok(())
    }

    /// Refuses to go on from what is no directory, or one that may not be searched.
    fn must_be_directory(&mut self) -> Result<(), Errno> {
        if self.is_synthetic || self.area.at.len() == 1 || self.consult() {
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
        // A call that makes a file refuses a slash before it looks: `O_CREAT` with EISDIR.
        let is_unseen = is_changed && (self.want.last == Last::Parent || slash) && !self.asks_all;
        let is_reserved =
            self.mount.is_none() && is_reserved(self.name(component), self.area.at.len() == 1);
        if is_reserved {
            // In a file there is no name at all.
            self.must_be_directory()?;
        }
        let is_believed = !is_unseen && self.consult();
        let is_asked = !is_unseen && !is_believed && self.follows(component);
        let is_recalled = is_asked && !self.asks_all && self.recall(component);
        self.enter_name(component)?;
        let end = |walk: &Self, what| {
            Ok(Some(walk.end(
                what,
                component.suffix(),
                LastComponent::Normal,
            )))
        };
        if let Some(mount) = self.mounts.at(self.area.at.as_bytes()) {
            if self.want.no_crossing {
                return Err(Errno::EXDEV);
            }
            self.mount = Some(mount);
            self.is_synthetic = false;
            self.guide.enter(None);
            return if is_last {
                end(self, What::Host)
            } else {
                Ok(None)
            };
        }
        if is_reserved {
            return if is_changed {
                end(self, What::Reserved)
            } else {
                Err(Errno::ENOENT)
            };
        }
        let is_above_a_mount = self.mounts.is_above_a_mount(self.area.at.as_bytes());
        if self.is_synthetic && !is_above_a_mount {
            return Err(if is_changed {
                Errno::EROFS
            } else {
                Errno::ENOENT
            });
        }
        if self.is_synthetic {
            return if is_last {
                end(self, What::Synthetic)
            } else {
                Ok(None)
            };
        }
        let is_for_host = is_unseen || !self.follows(component) && !is_believed && !self.asks_all;
        if is_for_host && !is_above_a_mount {
            let is_magic = self.is_magic();
            let end = self.end(What::Host, component.suffix(), LastComponent::Normal);
            return Ok(Some(End { is_magic, ..end }));
        }
        let taken = if is_recalled {
            Taken {
                step: Step::Absent,
                by_index: false,
                child: None,
            }
        } else {
            self.take(component, is_believed)?
        };
        let answer = self.go_on(component, taken, is_above_a_mount);
        if taken.by_index
            && !matches!(
                answer,
                Ok(None
                    | Some(End {
                        what: What::Host,
                        ..
                    }))
            )
        {
            self.guide.count(Verdict::Hit);
        }
        answer
    }

    /// Whether a symlink is followed here.
    fn follows(&self, component: Component) -> bool {
        !component.is_last
            || match self.want.last {
                Last::Follow => true,
                Last::NoFollow | Last::Text => component.slash,
                Last::Create => !component.slash,
                Last::Parent => false,
            }
    }

    /// What becomes of the walk after a step.
    fn go_on(
        &mut self,
        component: Component,
        taken: Taken,
        is_above_a_mount: bool,
    ) -> Result<Option<End>, Errno> {
        let Component { is_last, slash, .. } = component;
        let end = |walk: &Self, what, kind: Option<Kind>| {
            let end = walk.end(what, component.suffix(), LastComponent::Normal);
            let is_magic = kind == Some(Kind::Symlink) && walk.is_magic();
            let kind = kind.filter(|_| taken.by_index);
            Ok(Some(End {
                kind,
                is_magic,
                ..end
            }))
        };
        match taken.step {
            Step::Symlink if self.follows(component) => self.follow(component),
            Step::Symlink
                if self.want.last == Last::Text
                    && (taken.by_index || self.asks_all)
                    && !self.is_magic() =>
            {
                end(self, What::Text, None)
            }
            Step::Symlink => end(self, What::Host, Some(Kind::Symlink)),
            Step::Absent if is_above_a_mount => {
                self.is_synthetic = true;
                self.guide.enter(None);
                if is_last {
                    end(self, What::Synthetic, None)
                } else {
                    Ok(None)
                }
            }
            Step::Absent if is_last && matches!(self.want.last, Last::Create | Last::Parent) => {
                end(self, What::Host, None)
            }
            Step::Absent => Err(Errno::ENOENT),
            Step::Exists(kind) => {
                let is_no_directory = matches!(kind, Some(Kind::File | Kind::Other));
                let is_left_alone = matches!(self.want.last, Last::Create | Last::Parent);
                let needs_directory = !is_last || slash && !is_left_alone;
                if is_no_directory && needs_directory {
                    return Err(Errno::ENOTDIR);
                }
                if self.asks_all && needs_directory && !self.stat_here()?.is_directory() {
                    return Err(Errno::ENOTDIR);
                }
                self.guide.enter(taken.child);
                if !is_last {
                    return Ok(None);
                }
                let is_known = kind.is_some() || self.asks_all;
                if self.want.last == Last::Text && is_known {
                    return Err(Errno::EINVAL);
                }
                end(self, What::Host, kind)
            }
        }
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
        let end = self.end(What::Magic, component.suffix(), LastComponent::Normal);
        Ok(End {
            is_magic: true,
            ..end
        })
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
}
