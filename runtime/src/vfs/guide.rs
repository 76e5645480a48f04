//! The index along a walk: which of its directories the walk stands in, and whether that one's names may be believed.
//!
//! A directory of the index that is not as its key says can still tell where the index goes on: what it had under a name is a guess,
//! and the guess is compared with its own key before it is believed. So one directory that changed does not cost the index what
//! lies below it, as long as the walk has found the way there by asking the host.

use core::cell::Cell;

use elfuse_format::keys::State;

use super::Vfs;
use super::absence::{Absences, Place};
use super::catalogue::{Catalogue, Directory};
use super::coherence::{Coherence, Mode, Ticket};
use super::compared::Compared;
use super::host::{Host, HostStat, Moment};
use super::verdict::{Verdict, Verdicts};
use crate::errno::Errno;
use crate::index::{DirId, Step};

pub(super) struct Guide<'m> {
    index: Option<(&'m Catalogue<'m>, &'m Coherence<'m>)>,
    absences: Option<(&'m Absences<'m>, &'m Coherence<'m>)>,
    coherence: Option<&'m Coherence<'m>>,
    compared: Option<&'m Compared<'m>>,
    verdicts: Option<&'m Verdicts>,
    /// The moment, asked once a walk.
    now: Cell<Option<Moment>>,
    /// Where the walk stands, if the index has it.
    here: Option<Here<'m>>,
}

#[derive(Clone, Copy)]
struct Here<'m> {
    dir: DirId,
    /// The directory once it was looked into.
    directory: Option<Directory<'m>>,
    /// Whether its names may be believed, once that was found out.
    is_believed: Option<bool>,
}

impl<'m> Guide<'m> {
    /// Without an index where `vfs` has none that may be used; without anything known where `is_told` is false.
    pub(super) fn new(vfs: &Vfs<'m>, is_told: bool) -> Self {
        let index = vfs.index.zip(vfs.coherence).filter(|(index, coherence)| {
            let is_fit = !index.is_for_frozen_trees() || coherence.mode == Mode::Frozen;
            is_told && is_fit && coherence.mode != Mode::Off
        });
        let absences = vfs.absences.zip(vfs.coherence).filter(|(_, coherence)| {
            is_told && matches!(coherence.mode, Mode::Lease | Mode::Frozen)
        });
        Self {
            index,
            absences,
            coherence: vfs.coherence,
            compared: vfs.compared,
            verdicts: vfs.verdicts,
            now: Cell::new(None),
            here: None,
        }
    }

    pub(super) fn count(&self, verdict: Verdict) {
        if let Some(verdicts) = self.verdicts {
            verdicts.count(verdict);
        }
    }

    pub(super) fn is_strict(&self) -> bool {
        matches!(self.index, Some((_, coherence)) if coherence.mode == Mode::Strict)
    }

    pub(super) fn now<H: Host>(&self, host: &H) -> Moment {
        let now = self.now.get().unwrap_or_else(|| host.now());
        self.now.set(Some(now));
        now
    }

    /// The walk goes to a directory that the index has, or to a place that it has not.
    pub(super) fn enter(&mut self, dir: Option<DirId>) {
        let dir = dir.filter(|_| self.index.is_some());
        self.here = dir.map(|dir| Here {
            dir,
            directory: None,
            is_believed: None,
        });
    }

    /// The walk goes to a canonical guest path in the sysroot, which is known to lead there: the kernel has said so, or the walk came
    /// from below. So nothing of the way is compared with its keys.
    pub(super) fn descend(&mut self, guest: &[u8]) {
        self.enter(Some(DirId::ROOT));
        let names = guest.split(|&byte| byte == b'/');
        for name in names.filter(|name| !name.is_empty()) {
            let child = self.guess(name);
            self.enter(child);
        }
    }

    /// The walk goes to the parent; false: it is not known where that is.
    pub(super) fn leave(&mut self) -> bool {
        let parent = self.look().map(|directory| directory.parent());
        self.enter(parent);
        parent.is_some()
    }

    /// The directory that `name` was in the one here.
    pub(super) fn guess(&mut self, name: &[u8]) -> Option<DirId> {
        match self.look()?.step(name) {
            Ok(Step::Directory(child)) => Some(child),
            _ => None,
        }
    }

    /// Looks into the directory here.
    #[inline]
    fn look(&mut self) -> Option<Directory<'m>> {
        let (index, _) = self.index?;
        let here = self.here.as_mut()?;
        if here.directory.is_none() {
            match index.directory(here.dir) {
                Ok(directory) => here.directory = Some(directory),
                Err(why) => {
                    self.here = None;
                    self.count(why);
                    return None;
                }
            }
        }
        here.directory
    }

    /// Whether the names of the directory here may be believed; `None`: the host has to be asked first, see [`Guide::judge`].
    pub(super) fn is_believed<H: Host>(&mut self, host: &H) -> Option<bool> {
        let Some(directory) = self.look() else {
            return Some(false);
        };
        if let Some(Here {
            is_believed: Some(known),
            ..
        }) = self.here
        {
            return Some(known);
        }
        let (_, coherence) = self.index?;
        let held = directory.held(coherence, || self.now(host));
        let held = held.or_else(|| self.found_earlier(host, directory))?;
        Some(self.note(held))
    }

    /// Whether an earlier run has compared the directory here.
    fn found_earlier<H: Host>(
        &self,
        host: &H,
        directory: Directory<'m>,
    ) -> Option<Result<(), Verdict>> {
        let ((_, coherence), compared) = (self.index?, self.compared?);
        let ticket = coherence.ticket(|| self.now(host));
        let is_good = compared.has(coherence, ticket, self.here?.dir);
        is_good.then(|| directory.grant(ticket))
    }

    /// To be taken before the host is asked for what [`Guide::judge`] or [`Guide::learn`] is told.
    pub(super) fn ticket<H: Host>(&self, host: &H) -> Option<Ticket> {
        Some(self.coherence?.ticket(|| self.now(host)))
    }

    /// Whether the names here may be believed, if this is what the host says the directory is.
    pub(super) fn judge(&mut self, ticket: Ticket, found: Result<HostStat, Errno>) -> bool {
        self.count(Verdict::Validated);
        let (Some(directory), Some(here), Some(coherence)) =
            (self.look(), self.here, self.coherence)
        else {
            return false;
        };
        let judged = directory.judge(coherence, ticket, found);
        if let Some(compared) = self.compared.filter(|_| judged.is_ok()) {
            compared.note(coherence, ticket, here.dir, &found);
        }
        self.note(judged)
    }

    fn note(&mut self, judged: Result<(), Verdict>) -> bool {
        if let Err(why) = judged {
            self.count(why);
        }
        if let Some(here) = &mut self.here {
            here.is_believed = Some(judged.is_ok());
        }
        judged.is_ok()
    }

    /// What `name` is in the directory here, whose names may be believed; `None`: the index lies.
    #[inline(always)]
    pub(super) fn step(&mut self, name: &[u8]) -> Option<Step<'m>> {
        match self.look()?.step(name) {
            Ok(Step::NotCovered) => None,
            Ok(step) => Some(step),
            Err(why) => {
                self.count(why);
                None
            }
        }
    }
}

/// Names that are known to be absent in a directory, by its canonical guest path, whose names the index cannot tell.
impl Guide<'_> {
    /// The state of the directory at `path` in which `name` was absent; and whether it is known to be in that state now.
    pub(super) fn absent_in<H: Host>(
        &self,
        host: &H,
        path: &[u8],
        name: &[u8],
    ) -> Option<(State, bool)> {
        let (absences, coherence) = self.absences?;
        match absences.place(path, coherence, || self.now(host))? {
            Place::Known(state, is_held) if absences.is_absent(&state, name) => {
                Some((state, is_held))
            }
            _ => None,
        }
    }

    /// The host has just said that `name` is absent. True: it should also be asked for the state of the directory, and
    /// [`Guide::learn`] be told.
    pub(super) fn remember<H: Host>(&self, host: &H, path: &[u8], name: &[u8]) -> bool {
        let Some((absences, coherence)) = self.absences else {
            return false;
        };
        match absences.place(path, coherence, || self.now(host)) {
            Some(Place::Private) => false,
            // The state was seen before the name was found absent.
            Some(Place::Known(state, true)) => {
                absences.remember(&state, name, host.file_time());
                false
            }
            Some(Place::Seen | Place::Known(_, false)) => true,
            // A first name may be the last one too: not worth a look at the directory.
            None => {
                absences.see(path);
                false
            }
        }
    }

    /// The host has said what the directory at `path` is. The ticket was taken before.
    pub(super) fn learn(&self, path: &[u8], found: &HostStat, ticket: Ticket) {
        self.count(Verdict::Validated);
        if let Some((absences, _)) = self.absences {
            absences.learn(path, found, ticket);
        }
    }
}
