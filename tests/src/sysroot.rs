//! The example sysroots, made when a test first asks for them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The Debian sysroot. Read it, never write it.
///
/// # Panics
/// It cannot be made; the message says what to do.
#[must_use]
pub fn debian() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| make("debian"))
}

/// The sysroot with one directory per package. Read it, never write it.
///
/// # Panics
/// As [`debian`].
#[must_use]
pub fn store() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| make("store"))
}

/// Runs `example-sysroots/NAME/make.sh`, which does nothing when the sysroot is there already. Its last line of output
/// is the path. `ELFUSE_SYSROOT_NAME` names a sysroot that is used instead.
fn make(name: &str) -> PathBuf {
    let variable = format!("ELFUSE_SYSROOT_{}", name.to_uppercase());
    if let Some(given) = std::env::var_os(&variable) {
        return PathBuf::from(given);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../example-sysroots")
        .join(name)
        .join("make.sh");
    // What it does goes to the test's own standard error, so that a long first run is not silent.
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output,
        Ok(output) => panic!(
            "the sysroot `{name}` cannot be made: {} ended with {}. Its messages are above; run it by hand to try \
             again, or set {variable} to a sysroot that is there",
            script.display(),
            output.status
        ),
        Err(error) => panic!(
            "the sysroot `{name}` cannot be made: running {}: {error}",
            script.display()
        ),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let path = PathBuf::from(text.lines().last().unwrap_or_default());
    assert!(
        path.is_dir(),
        "{} says the sysroot is {path:?}, which is no directory",
        script.display()
    );
    path
}
