//! Running the programs of a sysroot inside it: chroot, in a mount namespace of its own with `/proc`. And running what calls
//! chroot(2) itself.

use std::ffi::OsStr;
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

/// A command that runs `program` where chroot(2) is allowed: as it is for root, else in a user namespace in which the caller is root.
///
/// For programs that do something else instead when they may not: `ldconfig -r` then puts the root's path before names, where neither
/// absolute symlinks nor a root without `etc/ld.so.conf` are right any more.
#[must_use]
pub fn allowing_chroot(program: impl AsRef<OsStr>) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new(crate::need::tool("unshare", "util-linux"));
    command
        .args(["--user", "--map-root-user", "--"])
        .arg(program);
    command
}
