//! What a name is in the directory that the walk is in: from the index, from memory, or from the host.

use elfuse_format::keys::State;

use super::{Area, At, Component, Errno, Host, Kind, PathBuf, Verdict, Walk, locate};
use crate::index::{self, DirId};
use crate::vfs::host::HostStat;
use crate::vfs::path::NAME_MAX;

/// What a name in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A symlink; its text is in [`Area::text`].
    Symlink,
    /// Something else.
    Exists(Option<Kind>),
    Absent,
}

/// A step, and who said so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) step: Step,
    /// The index, so that it may have to be counted.
    pub(super) by_index: bool,
    /// The directory of the index that the step leads to, or that it led to when the index was made.
    pub(super) child: Option<DirId>,
}

impl<H: Host> Walk<'_, '_, H> {
    /// Whether the names of the directory that the walk is in may be taken from the index.
    pub(super) fn consult(&mut self) -> bool {
        if self.mount.is_some() || self.is_synthetic {
            return false;
        }
        if let Some(known) = self.guide.is_believed(self.host) {
            return known;
        }
        let Some(ticket) = self.guide.ticket(self.host) else {
            return false;
        };
        let found = self.stat_here();
        self.guide.judge(ticket, found)
    }

    /// What the host says of where the walk is.
    pub(super) fn stat_here(&mut self) -> Result<HostStat, Errno> {
        let at = locate(self.area, self.mounts, self.mount, b"")?;
        self.host.stat(at.location(&self.area.at, &self.area.host))
    }

    /// Whether the component is remembered to be absent in the directory that the walk is in.
    pub(super) fn recall(&mut self, component: Component) -> bool {
        if self.mount.is_some() || self.is_synthetic {
            return false;
        }
        let (path, name) = (self.area.at.as_bytes(), self.name(component));
        let Some((state, is_held)) = self.guide.absent_in(self.host, path, name) else {
            return false;
        };
        let is_absent = is_held || self.is_in_state(state);
        if is_absent {
            self.guide.count(Verdict::AbsenceHit);
        }
        is_absent
    }

    /// Whether the directory that the walk is in is in this state, and everybody may search it.
    fn is_in_state(&mut self, state: State) -> bool {
        let ticket = self.guide.ticket(self.host);
        let (Some(ticket), Ok(found)) = (ticket, self.stat_here()) else {
            return false;
        };
        self.guide.learn(self.area.at.as_bytes(), &found, ticket);
        found.state() == state && found.is_searchable()
    }

    /// Remembers that the name that was added last is absent.
    fn remember(&mut self, component: Component) -> Result<(), Errno> {
        let whole = self.area.at.as_bytes();
        let (path, name) = whole.split_at(whole.len() - component.len);
        let path = path.strip_suffix(b"/").filter(|path| !path.is_empty());
        let path = path.unwrap_or(b"/");
        if self.mount.is_some() || !self.guide.remember(self.host, path, name) {
            return Ok(());
        }
        let Area { at, text, .. } = &mut *self.area;
        text.set(last_name(at, component))?;
        at.pop();
        if let Some(ticket) = self.guide.ticket(self.host)
            && let Ok(found) = self.stat_here()
        {
            self.guide.learn(self.area.at.as_bytes(), &found, ticket);
        }
        let Area { at, text, .. } = &mut *self.area;
        at.push(text.as_bytes())
    }

    /// Finds out what the walk, having added a name, stands on.
    pub(super) fn take(&mut self, component: Component, is_believed: bool) -> Result<Taken, Errno> {
        if is_believed && component.len > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let said = if is_believed {
            self.ask_index(component)
        } else {
            None
        };
        if let Some(taken) = said {
            let is_directory = taken.step == Step::Exists(Some(Kind::Directory));
            if is_directory || !self.guide.is_strict() {
                return Ok(taken);
            }
        }
        let step = self.look_at_host()?;
        if step == Step::Absent {
            self.remember(component)?;
        }
        let name = last_name(&self.area.at, component);
        // Whether it is still the directory that the index has is for its key to say.
        let child = match step {
            Step::Exists(_) if !component.is_last => self.guide.guess(name),
            _ => None,
        };
        if let Some(said) = said
            && core::mem::discriminant(&said.step) != core::mem::discriminant(&step)
        {
            self.guide.count(Verdict::Overruled);
        }
        Ok(Taken {
            step,
            by_index: false,
            child,
        })
    }

    #[inline(always)]
    fn ask_index(&mut self, component: Component) -> Option<Taken> {
        let Area { at, text, .. } = &mut *self.area;
        let name = last_name(at, component);
        let exists = |kind| Step::Exists(Some(kind));
        let (step, child) = match self.guide.step(name)? {
            index::Step::Directory(child) => (exists(Kind::Directory), Some(child)),
            index::Step::Symlink(target) => {
                // No symlink is empty, longer than the room for it, or has a NUL.
                let is_one = !target.is_empty() && !target.contains(&0);
                text.set(target).ok().filter(|()| is_one)?;
                (Step::Symlink, None)
            }
            index::Step::File => (exists(Kind::File), None),
            index::Step::Other => (exists(Kind::Other), None),
            index::Step::Absent => (Step::Absent, None),
            index::Step::NotCovered => return None,
        };
        Some(Taken {
            step,
            by_index: true,
            child,
        })
    }

    /// Asks the host what the walk stands on.
    pub(super) fn look_at_host(&mut self) -> Result<Step, Errno> {
        let at = locate(self.area, self.mounts, self.mount, b"")?;
        self.guide.count(Verdict::AskedHost);
        match self.read_link(at) {
            Ok(()) => Ok(Step::Symlink),
            Err(Errno::EINVAL) => Ok(Step::Exists(None)),
            Err(Errno::ENOENT) => Ok(Step::Absent),
            // It leads somewhere all the same.
            Err(Errno::ENAMETOOLONG) if self.is_magic() => {
                self.area.text.clear();
                Ok(Step::Symlink)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Reads the symlink at a location into [`Area::text`].
    pub(super) fn read_link(&mut self, at: At) -> Result<(), Errno> {
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

/// The name that was added last.
fn last_name<const N: usize>(at: &PathBuf<N>, component: Component) -> &[u8] {
    let at = at.as_bytes();
    &at[at.len().saturating_sub(component.len)..]
}
