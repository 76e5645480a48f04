//! Loading a program the way `execve` does: plans are made by pure code and carried out by [`map`].

pub mod elf;
pub mod map;
pub mod plan;
pub mod script;
pub mod stack;
