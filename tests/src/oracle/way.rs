//! The ways in which a case is run.

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By the real kernel: what all others are compared with.
    Kernel,
    /// By the real kernel once more: a case that differs from itself says nothing about others.
    Again,
    /// By `elfuse run` without a look at the index, which is there.
    Off,
    /// With an index in the tree, believed for the length of a lease.
    Lease,
    /// The same, with the calls of a script made as patched sites make them.
    Entered,
    /// With an index in the tree, declared to hold for ever, and what stat returns in it.
    Frozen,
    /// With an index out of the tree, and every answer of it checked.
    Strict,
    /// With an index in the tree, every answer compared with the walker's, and an abort where they differ.
    Shadow,
    /// With an index of what lay in the tree's directories before: each of its claims is wrong and must not be believed.
    Stale,
    /// With no index there.
    Bare,
    /// With an index beside the tree, from snapshots of the programs: see [`super::resident`], which alone runs cases in this way.
    Resident,
}

/// Where the index lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexAt {
    /// In the tree.
    Inside,
    /// Beside it, by `--index-dir`.
    Beside,
    /// Nowhere.
    Nowhere,
}

impl Way {
    /// All that any case can be run in, the real kernel first.
    pub const ALL: [Self; 10] = [
        Self::Kernel,
        Self::Again,
        Self::Off,
        Self::Lease,
        Self::Entered,
        Self::Frozen,
        Self::Strict,
        Self::Shadow,
        Self::Stale,
        Self::Bare,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Again => "again",
            Self::Off => "off",
            Self::Lease => "lease",
            Self::Entered => "entered",
            Self::Frozen => "frozen",
            Self::Strict => "strict",
            Self::Shadow => "shadow",
            Self::Stale => "stale",
            Self::Bare => "bare",
            Self::Resident => "resident",
        }
    }

    /// Whether it is run by `elfuse`.
    #[must_use]
    pub fn is_elfuse(self) -> bool {
        !matches!(self, Self::Kernel | Self::Again)
    }

    /// Where its index lies.
    #[must_use]
    pub fn index_at(self) -> IndexAt {
        match self {
            Self::Kernel | Self::Again | Self::Bare => IndexAt::Nowhere,
            Self::Strict | Self::Resident => IndexAt::Beside,
            Self::Off | Self::Lease | Self::Entered | Self::Frozen | Self::Shadow | Self::Stale => {
                IndexAt::Inside
            }
        }
    }

    /// The word behind `--coherence`.
    #[must_use]
    pub fn coherence(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Frozen => "frozen",
            Self::Strict => "strict",
            _ => "lease",
        }
    }

    /// Those that are asked for: all, unless `ELFUSE_ORACLE_WAYS` names some.
    ///
    /// # Panics
    /// The variable names none that there is.
    #[must_use]
    pub fn asked_for() -> Vec<Self> {
        let Ok(names) = std::env::var("ELFUSE_ORACLE_WAYS") else {
            return Self::ALL.to_vec();
        };
        let known = |name: &str| Self::ALL.into_iter().find(|way| way.name() == name);
        let mut ways = vec![Self::Kernel];
        for name in names.split(',') {
            let way = known(name);
            ways.push(way.unwrap_or_else(|| panic!("ELFUSE_ORACLE_WAYS: no way {name:?}")));
        }
        ways.sort_unstable();
        ways.dedup();
        eprintln!("ELFUSE_ORACLE_WAYS leaves out all but {ways:?}");
        ways
    }
}
