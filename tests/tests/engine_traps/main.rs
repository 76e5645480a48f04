//! The traps that an engine in the guest's own process falls into, one test each: what the design of the Linux engine lists, and what was
//! found while it was built. The programs are `tests/cases/traps` and `tests/cases/start`; most say the same under the real kernel, which
//! they are run by as well.

mod compared;
mod descriptors;
mod entered;
mod guest;
mod memory;
mod options;
mod patched;
mod populate;
mod proc;
mod processes;
mod programs;
mod publishing;
mod signals;
mod stacks;
