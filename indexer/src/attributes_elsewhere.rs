//! Attributes of every name, on hosts where a run does not ask for them.

use std::io;

use elfuse_format::attributes::Attributes;

use crate::scan::Scan;
use crate::sys::Root;

/// Whether users are seen here as the kernel has them.
///
/// # Errors
/// Always: only Linux is asked.
pub fn sees_all_users() -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Captures nothing.
///
/// # Errors
/// Always.
pub fn capture(_root: &Root, _scan: &Scan, _stamp: u64) -> io::Result<Attributes> {
    Err(io::ErrorKind::Unsupported.into())
}
