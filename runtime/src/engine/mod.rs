//! The engine on Linux x86-64: interception of the guest's system calls, and how a program is started under it.

pub mod arena;
pub mod call;
pub mod calls;
pub mod command;
pub mod cpuid;
pub mod dispatch;
pub mod exec;
pub mod faults;
pub mod filter;
pub mod handlers;
pub mod hidden;
pub mod host;
pub mod listing;
pub mod magic;
pub mod patched;
pub mod pool;
pub mod proc;
pub mod process;
mod quick;
pub mod say;
pub mod signals;
pub mod stacks;
pub mod start;
pub mod store;
pub mod tell;
pub mod way;
