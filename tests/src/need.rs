//! Tools that tests run.

use std::path::PathBuf;

/// Where `tool` is in `PATH`.
///
/// # Panics
/// It is not there. A test that was silently skipped would look like one that passed.
#[must_use]
pub fn tool(tool: &str, debian_package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Ordinary users often have no sbin in their PATH.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(tool))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!(
                "this test needs `{tool}`, which is not in PATH; on Debian: apt-get install {debian_package}"
            )
        })
}
