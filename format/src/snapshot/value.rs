//! What each process has for itself.

/// What a fix-up is filled in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Value {
    /// The initial stack pointer, which is where argc lies.
    StackPointer = 1,
    /// argv.
    Arguments = 2,
    /// envp.
    Environment = 3,
    /// The auxiliary vector.
    Auxiliary = 4,
    /// AT_RANDOM: an address.
    Random = 5,
    /// AT_PLATFORM: an address.
    Platform = 6,
    /// AT_EXECFN: an address.
    ExecFn = 7,
    /// Address of the first argument.
    FirstArgument = 8,
    /// Address of the vDSO.
    Vdso = 9,
    /// The first eight random bytes, the lowest one zero: glibc's canary.
    Canary = 10,
    /// The second eight random bytes: glibc's pointer guard, musl's secret of malloc.
    Guard = 11,
    /// Where the heap starts.
    Break = 12,
    /// argc, four bytes.
    ArgumentCount = 13,
    /// The thread's number, four bytes.
    ThreadId = 14,
    /// The time stamp counter: when the dynamic linker began.
    Ticks = 15,
}

impl Value {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::StackPointer,
        Self::Arguments,
        Self::Environment,
        Self::Auxiliary,
        Self::Random,
        Self::Platform,
        Self::ExecFn,
        Self::FirstArgument,
        Self::Vdso,
        Self::Canary,
        Self::Guard,
        Self::Break,
        Self::ArgumentCount,
        Self::ThreadId,
        Self::Ticks,
    ];

    /// The value that a number stands for.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        let index = usize::from(number).checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Bytes that it takes.
    #[must_use]
    pub const fn width(self) -> usize {
        match self {
            Self::ArgumentCount | Self::ThreadId => 4,
            _ => 8,
        }
    }

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StackPointer => "stack pointer",
            Self::Arguments => "argv",
            Self::Environment => "envp",
            Self::Auxiliary => "auxiliary vector",
            Self::Random => "AT_RANDOM",
            Self::Platform => "AT_PLATFORM",
            Self::ExecFn => "AT_EXECFN",
            Self::FirstArgument => "argv[0]",
            Self::Vdso => "vDSO",
            Self::Canary => "canary",
            Self::Guard => "pointer guard",
            Self::Break => "start of the heap",
            Self::ArgumentCount => "argc",
            Self::ThreadId => "thread id",
            Self::Ticks => "time stamp counter",
        }
    }
}
