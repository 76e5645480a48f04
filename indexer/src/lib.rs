//! `elfuse-index` as a library: walk a sysroot, inspect its ELF files, resolve their libraries, write and question the
//! index. `ARCHITECTURE.md` at the top of the repository shows the pipeline.

pub mod assemble;
#[cfg_attr(not(target_os = "linux"), path = "attributes_elsewhere.rs")]
pub mod attributes;
pub mod bundle;
pub mod cli;
pub mod commands;
pub mod copies;
pub mod elf_names;
pub mod error;
pub mod exit;
pub mod index;
pub mod inspect;
pub mod ldcache;
pub mod live;
pub mod options;
pub mod patch;
pub mod plain;
pub mod publish;
pub mod query;
pub mod relocated;
pub mod report;
pub mod resolve;
pub mod run;
pub mod scan;
pub mod scan_tree;
pub mod store;
pub mod sys;
pub mod tree;
pub mod warning;
