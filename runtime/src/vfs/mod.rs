//! Where a guest path leads: one resolver, which asks the mount table, then the index, then the host, component by component.
//!
//! Nothing here makes a system call, allocates or locks; the host is behind [`Host`] and memory comes from the caller. So it may
//! run in a signal handler that interrupted itself, in a vfork child, and in a test over a host that is made up.
//!
//! | module | |
//! |---|---|
//! | [`path`] | buffers for paths, and the [`Area`] of one resolution |
//! | [`mounts`] | which parts of the guest's tree are the host's |
//! | [`host`] | what is asked of the host |
//! | `resolve`, `place` | the walk, and where it ended |
//! | [`catalogue`] | the index: private copies of what was touched |
//! | [`attributes`] | what stat returns in a frozen tree |
//! | [`texts`] | which files may be mapped as what |
//! | [`absence`] | names that the host said are absent |
//! | [`compared`] | which directories earlier runs have compared with their keys |
//! | `guide` | all of them along a walk |
//! | `quick`, `prefixes`, `room` | the same walk where the index covers all of it |
//! | [`coherence`] | how long an answer may be given without asking again |
//! | [`verdict`] | counters |
//! | [`arena`] | memory that is handed out once |
//! | `procfs` | which links of procfs are magic |
//! | [`shadow`] | comparing what index and walker say |

pub mod absence;
pub mod arena;
pub mod attributes;
pub mod catalogue;
pub mod coherence;
pub mod compared;
mod guide;
pub mod host;
pub mod mirror;
pub mod mounts;
mod paged;
pub mod path;
mod place;
mod prefixes;
mod procfs;
mod quick;
mod resolve;
mod room;
pub mod shadow;
pub mod texts;
pub mod verdict;

pub use absence::Absences;
pub use arena::Arena;
pub use attributes::{Attributes, Status};
pub use catalogue::Catalogue;
pub use coherence::{Coherence, Generation, Mode};
pub use compared::Compared;
pub use elfuse_format::sidecar::Kind;
pub use host::{Base, Host, HostStat, Location, Moment};
pub use mirror::{Fault, IndexFile, Source};
pub use mounts::{Mount, Mounts};
pub use path::{Area, PathBuf};
pub use prefixes::Prefixes;
pub use quick::{Quick, Said};
pub use room::{Room, SHORT};
pub use texts::{FileNumber, Known, Text, Texts};
pub use verdict::{Verdict, Verdicts};

use crate::errno::Errno;
use resolve::{Ask, walk};

/// How many symlinks one path may lead through (`MAXSYMLINKS`, `include/linux/namei.h`).
pub const MAX_SYMLINKS: u32 = 40;

/// Resolves the paths of one guest. Shared by all its threads.
#[derive(Debug, Clone, Copy)]
pub struct Vfs<'a> {
    mounts: &'a Mounts<'a>,
    coherence: Option<&'a Coherence<'a>>,
    index: Option<&'a Catalogue<'a>>,
    absences: Option<&'a Absences<'a>>,
    prefixes: Option<Prefixes<'a>>,
    attributes: Option<&'a Attributes<'a>>,
    compared: Option<&'a Compared<'a>>,
    verdicts: Option<&'a Verdicts>,
}

/// Where a relative path starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'p> {
    /// At a canonical absolute guest path: of the working directory, or of what a descriptor stands for. It need not be a directory.
    Guest(&'p [u8]),
}

/// What happens to the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// A symlink there is followed: stat, open, chdir, access.
    Follow,
    /// A symlink there is not followed, unless a slash is behind it: lstat, and `O_NOFOLLOW` without `O_CREAT`.
    NoFollow,
    /// As [`Last::NoFollow`], and what the call wants is the symlink's text: readlink.
    Text,
    /// A symlink there is followed, and where it leads nothing need be: open with `O_CREAT` and neither `O_EXCL` nor `O_NOFOLLOW`.
    Create,
    /// It is not looked at at all: mkdir, mknod, symlink, unlink, rmdir, both paths of rename, the new path of link, bind, and open
    /// with `O_CREAT` and `O_EXCL` or `O_NOFOLLOW`. The location has it as it was written, `.`, `..` and a slash at its end included,
    /// so that the host refuses what it refuses.
    Parent,
}

/// How to resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// What happens to the last component.
    pub last: Last,
    /// `RESOLVE_NO_SYMLINKS` of openat2(2).
    pub no_symlinks: bool,
    /// `RESOLVE_NO_MAGICLINKS`.
    pub no_magic_links: bool,
    /// `RESOLVE_NO_XDEV`, as far as the mounts of [`Mounts`] go: those of the host are not known here.
    pub no_crossing: bool,
    /// `RESOLVE_BENEATH`.
    pub beneath: bool,
    /// `RESOLVE_IN_ROOT`.
    pub in_root: bool,
}

impl Want {
    /// With no `RESOLVE_` flags.
    #[must_use]
    pub const fn new(last: Last) -> Self {
        Self {
            last,
            no_symlinks: false,
            no_magic_links: false,
            no_crossing: false,
            beneath: false,
            in_root: false,
        }
    }
}

/// What the last component of a path was, once all symlinks were followed that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastComponent {
    /// A name.
    Normal,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// There was none: the path has slashes only.
    Root,
}

/// A place that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'w> {
    /// Where it is on the host. A path that ended in a slash or `.` still does.
    pub location: Location<'w>,
    /// Its canonical guest path. With [`Last::Parent`] and a last component `.` or `..`, of the directory that is in.
    pub guest: &'w [u8],
    /// What it is, if the index says so.
    pub kind: Option<Kind>,
    /// The path ended in a slash, so it must be a directory.
    pub must_be_directory: bool,
    /// What the last component was.
    pub last: LastComponent,
    /// A mount is exactly here: to remove or rename it is `EBUSY`.
    pub is_mount_point: bool,
    /// It is a magic link of procfs, which was not to be followed; its text is the host's.
    pub is_magic: bool,
}

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'w> {
    /// To a place on the host: make the call there. Whether something is there is not said.
    Host(Place<'w>),
    /// Nowhere: the call fails like this.
    Definite(Errno),
    /// To a symlink with this text, says the index. Only for [`Last::Text`].
    Text(&'w [u8]),
    /// To a directory that exists only because a mount lies below it. The location stands in for it: the host's directory of the same
    /// path if the mount shows the host's at the same path too, else one that is always empty. Everything in it but the way to the
    /// mounts is absent, and nothing can be made or removed in it (`EROFS`).
    Synthetic(Place<'w>),
    /// To a reserved name of the index, and the call would make, remove or rename it. It is not there, and may not be.
    Reserved {
        /// Its canonical guest path.
        guest: &'w [u8],
    },
    /// To a magic link of procfs that is to be followed. Where it leads is the engine's to say; from there `rest` is to be resolved.
    Magic {
        /// The link itself.
        place: Place<'w>,
        /// Its text; empty if that is longer than the host can say.
        text: &'w [u8],
        /// What comes behind it: empty, or starting with a slash.
        rest: &'w [u8],
    },
}

impl<'a> Vfs<'a> {
    /// Without an index: everything is asked of the host.
    #[must_use]
    pub const fn new(mounts: &'a Mounts<'a>) -> Self {
        Self {
            mounts,
            coherence: None,
            index: None,
            absences: None,
            prefixes: None,
            attributes: None,
            compared: None,
            verdicts: None,
        }
    }

    /// With an index. It is used under the rule of `coherence`; not at all if that is [`Mode::Off`], or if the index is good for frozen
    /// trees only ([`Catalogue::is_for_frozen_trees`]) and this one is not.
    #[must_use]
    pub const fn with_index(self, index: &'a Catalogue<'a>, coherence: &'a Coherence<'a>) -> Self {
        Self {
            coherence: Some(coherence),
            index: Some(index),
            ..self
        }
    }

    /// What the index says of ELF files, if it may be used here.
    #[must_use]
    pub fn texts(&self) -> Option<Texts<'a>> {
        let (index, mode) = (self.index?, self.coherence?.mode);
        let is_fit = !index.is_for_frozen_trees() || mode == Mode::Frozen;
        (is_fit && mode != Mode::Off)
            .then(|| Texts::new(index))
            .flatten()
    }

    /// With a memory for absent names of directories that no index covers, or that are not as it says. It is used under the same rule,
    /// with [`Mode::Lease`] and [`Mode::Frozen`].
    #[must_use]
    pub const fn with_absences(
        self,
        absences: &'a Absences<'a>,
        coherence: &'a Coherence<'a>,
    ) -> Self {
        Self {
            coherence: Some(coherence),
            absences: Some(absences),
            ..self
        }
    }

    /// With a memory for what the beginnings of paths lead to: then paths that the index covers wholly are resolved by themselves.
    #[must_use]
    pub const fn with_prefixes(self, prefixes: Prefixes<'a>) -> Self {
        Self {
            prefixes: Some(prefixes),
            ..self
        }
    }

    /// With what stat returns, where the rule of [`attributes`] allows it.
    #[must_use]
    pub const fn with_attributes(self, attributes: &'a Attributes<'a>) -> Self {
        Self {
            attributes: Some(attributes),
            ..self
        }
    }

    /// With what earlier runs have compared, where the tree is frozen; nothing of it is used under other rules.
    #[must_use]
    pub const fn with_compared(self, compared: &'a Compared<'a>) -> Self {
        Self {
            compared: Some(compared),
            ..self
        }
    }

    /// Whether there are any attributes.
    #[inline]
    #[must_use]
    pub fn says_attributes(&self) -> bool {
        self.attributes.is_some()
    }

    /// What was captured of the root, which lies on this device, whatever has changed since.
    #[must_use]
    pub fn said_root(&self, dev: u64) -> Option<Status<'_>> {
        self.attributes?.root(dev)
    }

    /// With counters.
    #[must_use]
    pub const fn with_verdicts(self, verdicts: &'a Verdicts) -> Self {
        Self {
            verdicts: Some(verdicts),
            ..self
        }
    }

    /// The mount table.
    #[must_use]
    pub fn mounts(&self) -> &'a Mounts<'a> {
        self.mounts
    }

    /// Resolves `path`, which has no NUL, as path_resolution(7) has it. What it finds stands in `area`.
    ///
    /// Limits: a path whose symlinks have together more than 12 KiB of text that is still to be walked, or which leads more than
    /// 8 KiB deep, is [`Errno::ENAMETOOLONG`]. The rule of `fs.protected_symlinks` is not applied.
    pub fn resolve<'w, H: Host>(
        &self,
        host: &H,
        area: &'w mut Area,
        start: Start<'_>,
        path: &[u8],
        want: Want,
    ) -> Found<'w> {
        if self.coherence.is_some_and(|coherence| coherence.shadow) {
            return shadow::resolve(self, host, area, start, path, want);
        }
        let mut room = Room::new();
        if let Some(quick) = self.quick(host, path, want, &mut room)
            && let Some(end) = place::of_quick(area, path, quick)
        {
            let shown = end.and_then(|end| place::show(area, self.mounts, end, b""));
            return shown.unwrap_or_else(Found::Definite);
        }
        let (end, rest) = walk(self, host, area, (start, path), want, Ask::Both);
        let shown = end.and_then(|end| place::show(area, self.mounts, end, rest));
        shown.unwrap_or_else(Found::Definite)
    }
}
