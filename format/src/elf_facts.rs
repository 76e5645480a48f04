//! What a sidecar says of an ELF file, so that nobody has to open it to know how it links.

#[cfg(feature = "alloc")]
use alloc::vec::Vec;

use rkyv::{Archive, Serialize};

use crate::span::Span;

/// BLAKE3-256 of the whole file.
pub type ContentHash = [u8; 32];

/// The most that the strings of one file may be counted as, each as its length in bytes plus one. Inspection keeps half of it.
pub const MAX_STRINGS: usize = 8 << 20;

/// Bits of [`ElfRow::flags`].
pub mod flags {
    /// There is a dynamic section.
    pub const DYNAMIC: u32 = 1 << 0;
    /// `DF_1_PIE` or an `ET_DYN` with an interpreter: a position-independent executable.
    pub const PIE: u32 = 1 << 1;
    /// `DT_TEXTREL` or `DF_TEXTREL`.
    pub const TEXTREL: u32 = 1 << 2;
    /// A string of the dynamic section lies outside the file, or is not terminated: the facts are incomplete.
    pub const DAMAGED: u32 = 1 << 3;
    /// The `PT_GNU_STACK` asks for an executable stack.
    pub const EXEC_STACK: u32 = 1 << 4;
}

/// Facts of one ELF file as they are written. Strings are spans of [`crate::sidecar::Sidecar::strings`].
#[derive(Archive, Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[rkyv(derive(Debug, Clone, Copy))]
pub struct ElfRow {
    /// Number of the directory entry these facts belong to.
    pub entry: u32,
    /// Size of the file in bytes.
    pub size: u64,
    /// BLAKE3-256 of the whole file.
    pub content_hash: ContentHash,
    /// `e_ident[EI_CLASS]`: 1 is 32 bit, 2 is 64 bit.
    pub class: u8,
    /// `e_ident[EI_DATA]`: 1 is little-endian, 2 is big-endian.
    pub data: u8,
    /// `e_ident[EI_OSABI]`.
    pub os_abi: u8,
    /// `e_ident[EI_ABIVERSION]`.
    pub abi_version: u8,
    /// `e_type`.
    pub elf_type: u16,
    /// `e_machine`.
    pub machine: u16,
    /// `e_flags`.
    pub e_flags: u32,
    /// See [`flags`].
    pub flags: u32,
    /// `DT_FLAGS_1`, 0 if absent.
    pub dt_flags_1: u32,
    /// `GNU_PROPERTY_X86_ISA_1_NEEDED`, 0 if absent.
    pub x86_isa_needed: u32,
    /// `PT_INTERP`.
    pub interpreter: Span,
    /// `DT_SONAME`.
    pub soname: Span,
    /// `DT_RPATH`, as it stands, not expanded.
    pub rpath: Span,
    /// `DT_RUNPATH`, as it stands, not expanded.
    pub runpath: Span,
    /// `NT_GNU_BUILD_ID`.
    pub build_id: Span,
    /// `DT_NEEDED` in order: rows of [`crate::sidecar::Sidecar::lists`].
    pub needed: Span,
    /// `DT_AUXILIARY` and `DT_FILTER` in order: rows of [`crate::sidecar::Sidecar::lists`].
    pub filters: Span,
    /// Reserved for the syscall-site table; [`Span::ABSENT`]: not scanned.
    pub sites: Span,
}

/// Facts of one ELF file in memory.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ElfFacts {
    /// Size of the file in bytes.
    pub size: u64,
    /// BLAKE3-256 of the whole file.
    pub content_hash: ContentHash,
    /// `e_ident[EI_CLASS]`: 1 is 32 bit, 2 is 64 bit.
    pub class: u8,
    /// `e_ident[EI_DATA]`: 1 is little-endian, 2 is big-endian.
    pub data: u8,
    /// `e_ident[EI_OSABI]`.
    pub os_abi: u8,
    /// `e_ident[EI_ABIVERSION]`.
    pub abi_version: u8,
    /// `e_type`.
    pub elf_type: u16,
    /// `e_machine`.
    pub machine: u16,
    /// `e_flags`.
    pub e_flags: u32,
    /// See [`flags`].
    pub flags: u32,
    /// `DT_FLAGS_1`, 0 if absent.
    pub dt_flags_1: u32,
    /// `GNU_PROPERTY_X86_ISA_1_NEEDED`, 0 if absent.
    pub x86_isa_needed: u32,
    /// `PT_INTERP` without its NUL.
    pub interpreter: Option<Vec<u8>>,
    /// `DT_SONAME`.
    pub soname: Option<Vec<u8>>,
    /// `DT_RPATH`, as it stands, not expanded.
    pub rpath: Option<Vec<u8>>,
    /// `DT_RUNPATH`, as it stands, not expanded.
    pub runpath: Option<Vec<u8>>,
    /// `NT_GNU_BUILD_ID`.
    pub build_id: Option<Vec<u8>>,
    /// `DT_NEEDED` in order.
    pub needed: Vec<Vec<u8>>,
    /// `DT_AUXILIARY` and `DT_FILTER` in order; the first byte of each says which (`a` or `f`).
    pub filters: Vec<Vec<u8>>,
}
