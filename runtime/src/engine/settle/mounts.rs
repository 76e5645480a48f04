//! What the host shows the guest in its sysroot: the default mounts, home and working directory, and what the options bind.

use elfuse_format::names;

use crate::engine::process::Process;
use crate::engine::start::{self, fail, no_memory};
use crate::errno::Errno;
use crate::options::inherited::{Mount as Row, MountList};
use crate::options::{Bind, DEFAULT_MOUNTS, binds};
use crate::sys::abi::{O_DIRECTORY, S_IFDIR, S_IFLNK, S_IFMT, Stat};
use crate::sys::host::{Fd, close, lstatat, readlinkat};
use crate::text::Shown;
use crate::vfs::mounts::is_canonical;
use crate::vfs::{Mount, Mounts};

use super::{Setting, is_directory, plain, refuse};

/// Whether this looks like the root of a procfs (`PROC_ROOT_INO`, and its mode): else that it is one has to be asked for.
fn is_procfs_root(found: &Stat) -> bool {
    found.ino == 1 && found.mode == S_IFDIR | 0o555
}

impl Setting<'_> {
    /// The directories of the host that a guest expects, each a mount.
    fn add_defaults(&mut self, mounts: &mut Mounts<'static>) {
        for path in DEFAULT_MOUNTS {
            let procfs = path == b"/proc";
            if let Some(host) = self.top_directory(path, procfs) {
                add(
                    mounts,
                    Mount {
                        guest: path,
                        host,
                        procfs,
                    },
                );
            }
        }
    }

    /// Canonical path of a directory of the host's root, which nearly always is a directory and no symlink.
    fn top_directory(&mut self, path: &'static [u8], procfs: bool) -> Option<&'static [u8]> {
        let name = self.string(path).ok()?;
        let found = lstatat(Fd::CWD, name);
        if procfs && !found.is_ok_and(|found| is_procfs_root(&found)) {
            require_procfs();
        }
        match found {
            Ok(found) if is_directory(&found) => Some(path),
            _ => self.real(path).ok().map(|(host, _)| host),
        }
    }

    /// Mounts the caller's home or working directory at its own path, unless the sysroot has that path, or a mount shows it already. `host`: its
    /// canonical host path, if that is known.
    fn offer(
        &mut self,
        process: &'static Process,
        mounts: &mut Mounts<'static>,
        path: &[u8],
        host: Option<&'static [u8]>,
    ) {
        if !path.starts_with(b"/") || path == b"/" {
            return;
        }
        let defaults = process.vfs.mounts();
        let over = defaults.over(path).map(|id| defaults.row(id));
        let known = match over {
            None if is_canonical(path) => self.known(process, path),
            _ => None,
        };
        if known == Some(true) {
            return;
        }
        let real = host.map_or_else(|| self.real(path), |host| Ok((host, true)));
        let Ok((host, true)) = real else {
            return;
        };
        if host == path && over.is_some_and(|row| row.host == row.guest) {
            return;
        }
        let guest = match known {
            Some(_) => self.string(path).map(|path| (path.to_bytes(), false)),
            None => self.guest(process, path),
        };
        let Ok((guest, false)) = guest else {
            return;
        };
        let is_shown = mounts.over(guest).is_some();
        if !is_shown && guest != b"/" {
            add(
                mounts,
                Mount {
                    guest,
                    host,
                    procfs: false,
                },
            );
        }
    }

    /// Whether the sysroot has this canonical path, which is below no mount; `None`: it takes a walk to tell. Of one that is not there what is
    /// above it is.
    fn known(&mut self, process: &'static Process, path: &[u8]) -> Option<bool> {
        let below = self.string(path.get(1..)?).ok()?;
        // Opened by this process a moment ago.
        let sysroot = process.cached_fd();
        let mut names = below.to_bytes().split(|byte| *byte == b'/');
        let is_shown = |name| !names::is_reserved(name, true);
        if !names.all(is_shown) {
            return None;
        }
        let Some(slash) = below.to_bytes().iter().rposition(|byte| *byte == b'/') else {
            return match lstatat(sysroot, below) {
                Ok(found) => (found.mode & S_IFMT != S_IFLNK).then_some(true),
                Err(errno) => (errno == Errno::ENOENT).then_some(false),
            };
        };
        match plain(sysroot, below, 0) {
            Ok(there) => {
                close(there);
                Some(true)
            }
            Err(Errno::ENOENT) => {
                let above = self.string(&below.to_bytes()[..slash]).ok()?;
                close(plain(sysroot, above, O_DIRECTORY).ok()?);
                Some(false)
            }
            Err(_) => None,
        }
    }

    fn bind(
        &mut self,
        process: &'static Process,
        mounts: &mut Mounts<'static>,
        bind: &Bind<'static>,
    ) {
        let (host, _) = self
            .real(bind.host)
            .unwrap_or_else(|errno| refuse("--bind", bind.host, errno));
        let wanted = bind.guest.unwrap_or(host);
        let (guest, _) = self.guest(process, wanted).unwrap_or_else(|errno| {
            fail(format_args!(
                "--bind {}: the guest's path {}: {}",
                Shown(bind.host),
                Shown(wanted),
                errno.text()
            ))
        });
        add(
            mounts,
            Mount {
                guest,
                host,
                procfs: false,
            },
        );
    }
}

fn add(mounts: &mut Mounts<'static>, mount: Mount<'static>) {
    if mounts.add(mount).is_err() {
        fail(format_args!(
            "cannot mount {} at {}: not canonical paths, or more than 64 mounts",
            Shown(mount.host),
            Shown(mount.guest)
        ));
    }
}

/// Ends the process if the host has no procfs: executing a program needs it.
#[cold]
fn require_procfs() {
    if let Err(errno) = readlinkat(Fd::CWD, c"/proc/self/exe", &mut [0; 1]) {
        fail(format_args!(
            "cannot read /proc/self/exe: {}; is /proc mounted?",
            errno.text()
        ));
    }
}

/// The directories of the host that a guest expects, or nothing.
pub(super) fn default_mounts(
    setting: &mut Setting<'_>,
    sysroot: &'static [u8],
) -> &'static Mounts<'static> {
    let Some(mounts) = start::mounts_over(&mut setting.arena, sysroot) else {
        fail(format_args!("{}: not a canonical path", Shown(sysroot)));
    };
    if setting.options.default_binds {
        setting.add_defaults(mounts);
    } else {
        require_procfs();
    }
    mounts
}

/// The default mounts, home and working directory, and what the options bind. Its table of mounts is large, and would stay in the frame of a
/// caller that it is inlined in.
#[inline(never)]
pub(super) fn all_mounts(
    setting: &mut Setting<'_>,
    probe: &'static Process,
    cwd: Option<&'static [u8]>,
) -> &'static Mounts<'static> {
    let defaults = probe.vfs.mounts();
    let mut mounts = *defaults;
    if setting.options.default_binds {
        let home = setting.vector.variable(b"HOME=");
        let cwd = cwd.filter(|cwd| cwd.starts_with(b"/"));
        let cwd = cwd.filter(|cwd| crate::vfs::path::below(cwd, defaults.sysroot()).is_none());
        if let Some(home) = home {
            setting.offer(probe, &mut mounts, home, None);
        }
        if let Some(cwd) = cwd {
            setting.offer(probe, &mut mounts, cwd, Some(cwd));
        }
    }
    let arguments = setting.vector.arguments().skip(1);
    for bind in binds(arguments).take(setting.options.bind_count) {
        setting.bind(probe, &mut mounts, &bind);
    }
    if mounts.rows() == defaults.rows() {
        return defaults;
    }
    let placed = setting.arena.copy_mut(&mounts);
    placed.unwrap_or_else(|errno| no_memory(errno))
}

/// The mounts as they are handed on.
pub(super) fn listed(setting: &mut Setting<'_>, mounts: &Mounts<'_>) -> MountList<'static> {
    let rows = mounts.rows().iter().map(|row| Row {
        guest: row.guest,
        host: row.host,
    });
    // The numbers of two lengths, and what stands around them.
    const AROUND: usize = 48;
    let len = rows
        .clone()
        .map(|row| AROUND + row.guest.len() + row.host.len())
        .sum();
    let room = (setting.arena.bytes(len)).unwrap_or_else(|errno| no_memory(errno));
    match MountList::write(rows, room) {
        Ok(list) => list,
        Err(_) => fail(format_args!("more mounts than there can be")),
    }
}
