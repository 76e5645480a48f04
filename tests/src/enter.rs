//! Running the programs of a sysroot inside it: chroot, in a mount namespace of its own with `/proc`.

use std::path::Path;
use std::process::Command;

/// A command that runs `program` (a path inside) with the sysroot as its root and nothing in its environment.
///
/// As root by a mount namespace alone, else by a user namespace in which the caller is root: no installation needed.
/// Nothing the command mounts is seen outside.
#[must_use]
pub fn command(sysroot: &Path, program: &str) -> Command {
    let unshare = crate::need::tool("unshare", "util-linux");
    let chroot = crate::need::tool("chroot", "coreutils");
    let mut command = Command::new(unshare);
    command.arg("--mount").arg("--propagation").arg("private");
    if !rustix::process::geteuid().is_root() {
        command.arg("--user").arg("--map-root-user");
    }
    command
        .args(["sh", "-c"])
        .arg(r#"chroot=$1 root=$2; shift 2; mount --rbind /proc "$root/proc" && exec env -i "$chroot" "$root" "$@""#)
        .arg("enter")
        .arg(chroot)
        .arg(sysroot)
        .arg(program);
    command
}
