//! On-disk format of elfuse: what an index of a sysroot looks like in bytes.
//!
//! `FORMAT.md` beside this crate documents every file byte by byte; the modules follow it:
//!
//! | module | file or part |
//! |---|---|
//! | [`header`] | the 64-byte plain header that every file starts with, and the table of parts |
//! | [`sidecar`] | `.elfuse-sidecar-index`: the names of one directory |
//! | [`elf_facts`] | what a sidecar says of an ELF file |
//! | [`keys`] | `.elfuse/keys`: what binds an index to this host |
//! | [`loader_cache`] | `.elfuse/loader-cache`: roll-up of all sidecars, SONAME table, closures |
//! | [`ld_so_cache`] | `ld.so.cache` in glibc's own format |
//! | [`generation`] | `.elfuse/generation`: what runs on one sysroot tell each other |
//! | [`compared`] | `/dev/shm/elfuse-…-compared`: directories of a frozen tree that were compared with their keys |
//! | [`cpuid`] | `.elfuse/cpuid`: what CPUID says on this machine |
//! | [`snapshot`] | `.elfuse/resident/*.snap`: programs as their dynamic linker leaves them |
//! | [`attributes`] | what the keys of a frozen tree say of each name |
//! | [`text`] | `.elfuse/text/*`: patched copies, and what the keys say of them |
//! | [`pages`] | the checksums of a file's pages |
//! | [`names`] | the reserved names, and the hash of a name |
//!
//! The crate is `no_std`. Everything read is hostile until checked. Reading never panics, never allocates, and costs time in
//! proportion to what is touched. Owned types, writers and the checks of whole files need the feature `alloc`, which is on by
//! default. It asks for an allocator and still not for std: cargo unifies features over a workspace, so a program without std
//! is linked with whatever the programs beside it turned on.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod attributes;
pub mod checksum;
pub mod compared;
pub mod cpuid;
pub mod elf_facts;
pub mod error;
pub mod file_systems;
pub mod generation;
pub mod header;
pub mod keys;
pub mod ld_so_cache;
pub mod loader_cache;
pub mod names;
pub mod pages;
pub mod sidecar;
pub mod snapshot;
pub mod span;
pub mod text;

pub use error::FormatError;
