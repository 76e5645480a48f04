//! The oracle: a case is run by the real kernel and by `elfuse run` in every way that it can be run, and nothing may differ.
//!
//! What is compared is what a program can tell others: standard output and error, exit status or signal, and the tree that it
//! leaves behind. Whatever may differ is in `tests/cases/exceptions`, with its reason; what is listed there and does not differ
//! is a failure too.
//!
//! `ELFUSE_ORACLE_CASE=TEXT` runs only the cases with that text in their name, `ELFUSE_ORACLE_WAYS=NAME,…` only some ways,
//! `ELFUSE_ORACLE_SHOW=1` prints what each run said: for finding out why a case fails. `ELFUSE_ORACLE_ENTERED=1` has every way make the calls of scripts as
//! patched sites make them, where otherwise one does.

pub mod calls;
pub mod compile;
pub mod disturb;
pub mod entered;
pub mod exceptions;
pub mod outcome;
pub mod programs;
pub mod resident;
pub mod room;
pub mod suite;
pub mod sweep;
pub mod tree;
pub mod way;
