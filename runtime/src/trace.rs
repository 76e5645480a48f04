//! What a run can tell of itself: how long the steps of a start took, which system calls were made, how lookups were answered.
//!
//! Everything counts in atomics, without a lock, so that a signal handler, a thread and a vfork child may count at any
//! instruction; everything prints through [`core::fmt::Write`]. A counter of zero bytes is an empty one, so that the
//! engine may also lay them into a zeroed mapping that several processes share.
//!
//! | asked for by | printed |
//! |---|---|
//! | `ELFUSE_STARTUP_TRACE=steps` | [`Steps`], when the guest is about to start |
//! | `ELFUSE_STARTUP_TRACE=syscalls` | [`Histogram`], at the first execve that succeeds or at exit, whichever is first |
//! | `--stats`, `--stats=json` | [`Report`], at the end |

mod bits;
mod calls;
mod histogram;
mod populated;
mod report;
mod steps;
mod table;

pub use bits::TraceBits;
pub use calls::{CallName, HostCalls, is_failing_lookup};
pub use histogram::{Histogram, Outcome};
pub use populated::{Populated, Reason};
pub use report::{Report, SCHEMA};
pub use steps::{MAX_STEPS, Steps};

/// How many system call numbers are told apart. The kernel's end below; x32 begins here.
pub const NUMBERS: usize = 512;

/// Where a number is counted: what there is no row for goes to the last one, which no system call has.
const fn row(number: usize) -> usize {
    if number < NUMBERS {
        number
    } else {
        NUMBERS - 1
    }
}
