//! A mount namespace of this program's own: what is mounted for a measurement is seen by nobody else, and gone however it ends.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// Set for what runs inside.
const MARK: &str = "ELFUSE_BENCH_NAMESPACE";

/// Executes this program again in a mount namespace, unless it is in one: as root by that alone, else in a user namespace in
/// which the caller is root.
///
/// # Errors
/// If there can be none.
pub fn enter() -> anyhow::Result<()> {
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let own = std::env::current_exe().context("finding this program")?;
    command.arg("--").arg(own).args(std::env::args_os().skip(1));
    let error = command.env(MARK, "1").exec();
    Err(error).context("executing unshare(1): chroot is measured in a mount namespace")
}

/// Shows a directory in another place, read only: no program that is measured shall write to a sysroot.
///
/// # Errors
/// Those of mount(8).
pub fn show(directory: &Path, at: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
    mount(["--bind".as_ref(), directory.as_os_str(), at.as_os_str()])?;
    mount(["-o".as_ref(), "remount,bind,ro".as_ref(), at.as_os_str()])
}

/// Mounts over a sysroot what `elfuse run` shows its guests by itself, where the sysroot has a directory for it.
///
/// # Errors
/// Those of mount(8).
pub fn furnish(root: &Path) -> anyhow::Result<()> {
    for (directory, how) in MOUNTS {
        let at = root.join(directory.trim_start_matches('/'));
        if at.is_dir() {
            mount([OsStr::new(how), directory.as_ref(), at.as_os_str()])?;
        }
    }
    Ok(())
}

/// What guests see of the host. Not all below `/tmp`: the sysroots may be mounted there.
pub const MOUNTS: [(&str, &str); 4] = [
    ("/dev", "--rbind"),
    ("/proc", "--rbind"),
    ("/sys", "--rbind"),
    ("/tmp", "--bind"),
];

fn mount<const N: usize>(arguments: [&OsStr; N]) -> anyhow::Result<()> {
    succeed(Command::new("mount").args(arguments))
}

/// Runs a command to its end.
///
/// # Errors
/// If it cannot be started or fails, with what it said.
pub fn succeed(command: &mut Command) -> anyhow::Result<()> {
    said(command).map(drop)
}

/// The same, for what it says on standard output.
///
/// # Errors
/// As [`succeed`].
pub fn said(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}: {errors}",
        output.status
    );
    Ok(output.stdout)
}
