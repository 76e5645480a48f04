//! How a program is started.

use std::path::Path;
use std::process::Command;

use super::programs::{OnHost, Program};
use crate::chart::Role;
use crate::ground::{Ground, Root, inside};
use crate::namespace::MOUNTS;
use crate::turns::{Expected, Side};

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// chroot(2) and execve(2): what others are compared with.
    ChrootExec,
    /// execve(2) on the host.
    Host,
    /// chroot(8).
    Chroot,
    /// bubblewrap.
    Bwrap,
    /// `PRoot` of Debian 12.
    Proot,
    /// A newer one.
    NewerProot,
    /// fakechroot, by its wrapper script.
    Fakechroot,
    /// qemu's user mode.
    Qemu,
    /// `elfuse run --coherence` with this mode.
    Elfuse(&'static str),
}

impl Way {
    /// All, in the order of the columns. The peer is first.
    pub const ALL: [Self; 12] = [
        Self::ChrootExec,
        Self::Host,
        Self::Chroot,
        Self::Bwrap,
        Self::Proot,
        Self::NewerProot,
        Self::Fakechroot,
        Self::Qemu,
        Self::Elfuse("off"),
        Self::Elfuse("strict"),
        Self::Elfuse("lease"),
        Self::Elfuse("frozen"),
    ];

    /// Those that are started with cold caches too.
    pub const COLD: [Self; 6] = [
        Self::ChrootExec,
        Self::Bwrap,
        Self::Proot,
        Self::Elfuse("off"),
        Self::Elfuse("lease"),
        Self::Elfuse("frozen"),
    ];

    /// The mode that goals are about, as it is what one gets without asking.
    pub const OURS: Self = Self::Elfuse("lease");

    /// Those that elfuse is to be faster than.
    pub const RIVALS: [Self; 5] = [
        Self::Bwrap,
        Self::Proot,
        Self::NewerProot,
        Self::Fakechroot,
        Self::Qemu,
    ];

    /// Head of its column.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::ChrootExec => "chroot()+exec".to_owned(),
            Self::Host => "host".to_owned(),
            Self::Chroot => "chroot(8)".to_owned(),
            Self::Bwrap => "bwrap".to_owned(),
            Self::Proot => "proot 5.1".to_owned(),
            Self::NewerProot => "proot 5.4".to_owned(),
            Self::Fakechroot => "fakechroot".to_owned(),
            Self::Qemu => "qemu -L".to_owned(),
            Self::Elfuse(mode) => format!("elfuse {mode}"),
        }
    }

    /// In pictures.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::ChrootExec => Role::Peer,
            Self::Elfuse(_) => Role::Ours,
            _ => Role::Context,
        }
    }

    /// Whether what a program starts is started from the host.
    #[must_use]
    pub fn leaks(self) -> bool {
        matches!(self, Self::Fakechroot | Self::Qemu)
    }

    /// What `peers.sh` calls it, and why its absence is none of elfuse's.
    fn peer(self) -> Option<&'static str> {
        match self {
            Self::Bwrap => Some("bwrap"),
            Self::Proot => Some("proot"),
            Self::NewerProot => Some("proot-5.4"),
            Self::Fakechroot => Some("fakechroot"),
            Self::Qemu => Some("qemu-x86_64-static"),
            _ => None,
        }
    }

    /// The command as one would type it.
    #[must_use]
    pub fn typed(self) -> String {
        match self {
            Self::ChrootExec => "chroot(2), chdir(2), execve(2) by a program of some thirty instructions without a libc".to_owned(),
            Self::Host => "the program itself, on the host and of the host; of what is made for the purpose, the same file".to_owned(),
            Self::Chroot => "chroot ROOT PROGRAM".to_owned(),
            Self::Bwrap => "bwrap --ro-bind SYSROOT / --dev-bind /dev /dev --bind /proc /proc --bind /sys /sys --bind /tmp /tmp PROGRAM".to_owned(),
            Self::Proot | Self::NewerProot => "proot -r SYSROOT -b /dev -b /proc -b /sys -b /tmp -w / PROGRAM".to_owned(),
            Self::Fakechroot => "fakechroot -e chroot chroot ROOT PROGRAM".to_owned(),
            Self::Qemu => "qemu-x86_64-static -L ROOT ROOT/PROGRAM".to_owned(),
            Self::Elfuse("off") => "elfuse run --sysroot SYSROOT --coherence off -- PROGRAM".to_owned(),
            Self::Elfuse(mode) => format!("elfuse run --sysroot SYSROOT --coherence {mode} --index-dir INDEX -- PROGRAM"),
        }
    }

    /// One side of the comparison for a program, or why there is none.
    ///
    /// # Errors
    /// In words for people.
    pub fn side(self, ground: &Ground, root: &Root, program: &Program) -> Result<Side, String> {
        let mut expected = Expected::SameOutput;
        let peer = match self.peer() {
            Some(name) => {
                let found = ground.peers.get(name);
                ground.command(found.ok_or("not installed")?)
            }
            None => Command::new(""),
        };
        let command = match self {
            Self::ChrootExec => ground.chroot_exec(root, program.line),
            Self::Host => {
                expected = Expected::Success;
                self.on_host(ground, root, program)?
            }
            Self::Chroot => {
                let mut command = ground.command("chroot".as_ref());
                command.arg(&root.native).args(program.line);
                command
            }
            Self::Bwrap => {
                let mut command = peer;
                command.arg("--ro-bind").arg(&root.tree).arg("/");
                for (directory, _) in MOUNTS {
                    // Of what is not there it would make a directory in the sysroot.
                    if root.tree.join(&directory[1..]).is_dir() {
                        let how = if directory == "/dev" {
                            "--dev-bind"
                        } else {
                            "--bind"
                        };
                        command.args([how, directory, directory]);
                    }
                }
                command.arg("--").args(program.line);
                command
            }
            Self::Proot | Self::NewerProot => {
                let mut command = peer;
                command.arg("-r").arg(&root.tree);
                for (directory, _) in MOUNTS {
                    command.args(["-b", directory]);
                }
                command.args(["-w", "/"]).args(program.line);
                command
            }
            Self::Fakechroot => {
                // An absolute symlink leads it to the host.
                let path =
                    inside(&root.native, program.line[0]).map_err(|error| format!("{error:#}"))?;
                let path = path
                    .strip_prefix(&root.native)
                    .map_err(|error| error.to_string())?;
                let mut command = peer;
                command.args(["-e", "chroot", "chroot"]).arg(&root.native);
                command
                    .arg(Path::new("/").join(path))
                    .args(&program.line[1..]);
                command
            }
            Self::Qemu => {
                let mut command = peer;
                let path =
                    inside(&root.native, program.line[0]).map_err(|error| format!("{error:#}"))?;
                command
                    .arg("-L")
                    .arg(&root.native)
                    .args(["-0", program.line[0]]);
                command.arg(path).args(&program.line[1..]);
                command
            }
            Self::Elfuse(mode) => ground.elfuse_run(root, mode, program.line),
        };
        Ok(Side {
            name: self.name(),
            command,
            expected,
        })
    }

    fn on_host(self, ground: &Ground, root: &Root, program: &Program) -> Result<Command, String> {
        let path = program.line[0];
        let path = match program.on_host {
            OnHost::No => return Err("needs its sysroot".to_owned()),
            OnHost::Namesake => path.into(),
            OnHost::Itself => root.native.join(&path[1..]),
        };
        if !path.exists() {
            return Err("not on this host".to_owned());
        }
        let mut command = ground.command(&path);
        command.args(&program.line[1..]);
        Ok(command)
    }
}
