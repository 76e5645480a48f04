//! The table of options.

/// The options of `run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opt {
    Sysroot,
    IndexDir,
    Coherence,
    Bind,
    NoDefaultBinds,
    HostFallback,
    NoCpuidTable,
    NoResident,
    NoPopulate,
    Workdir,
    Env,
    ClearEnv,
    Stats,
    Help,
}

/// Whether an option takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// It takes none.
    Nothing,
    /// It takes one, behind `=` or as the next argument; the name of it in the help.
    Value(&'static str),
    /// It may be given one, behind `=` only.
    ValueBehindEquals,
}

/// One line of the table of options.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// With its dashes.
    pub name: &'static str,
    /// Whether it takes a value.
    pub takes: Takes,
    pub(super) opt: Opt,
}

/// Every option of `run`.
pub const OPTIONS: &[OptionSpec] = &[
    spec("--sysroot", Takes::Value("DIR"), Opt::Sysroot),
    spec("--index-dir", Takes::Value("DIR"), Opt::IndexDir),
    spec("--coherence", Takes::Value("MODE"), Opt::Coherence),
    spec("--bind", Takes::Value("HOST[:GUEST]"), Opt::Bind),
    spec("--no-default-binds", Takes::Nothing, Opt::NoDefaultBinds),
    spec("--host-fallback", Takes::Nothing, Opt::HostFallback),
    spec("--no-cpuid-table", Takes::Nothing, Opt::NoCpuidTable),
    spec("--no-resident", Takes::Nothing, Opt::NoResident),
    spec("--no-populate", Takes::Nothing, Opt::NoPopulate),
    spec("--workdir", Takes::Value("DIR"), Opt::Workdir),
    spec("--env", Takes::Value("NAME=VALUE"), Opt::Env),
    spec("--clear-env", Takes::Nothing, Opt::ClearEnv),
    spec("--stats", Takes::ValueBehindEquals, Opt::Stats),
    spec("--help", Takes::Nothing, Opt::Help),
    spec("-h", Takes::Nothing, Opt::Help),
];

const fn spec(name: &'static str, takes: Takes, opt: Opt) -> OptionSpec {
    OptionSpec { name, takes, opt }
}
