//! The mount table: which parts of the guest's tree are the host's, and what a host path is to the guest.

use super::path::{PathBuf, below, is_under};
use crate::errno::Errno;

/// The most mounts there can be.
pub const MAX_MOUNTS: usize = 64;

/// A directory or file of the host, shown at a place in the guest's tree. As mount(2) does it, both paths are resolved when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount<'m> {
    /// Canonical absolute guest path: no symlink of the sysroot leads over it.
    pub guest: &'m [u8],
    /// Canonical absolute host path.
    pub host: &'m [u8],
    /// Whether the root of a procfs lies there (`f_type` of statfs(2)). For `/proc` itself it need not be said.
    pub procfs: bool,
}

/// Number of a mount in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountId(u8);

/// Why a mount was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountError {
    /// A path is not absolute, or has empty, `.` or `..` components, or a slash at its end.
    NotCanonical,
    /// There are [`MAX_MOUNTS`] already.
    Full,
}

/// All mounts over one sysroot. Made once, before the guest runs.
#[derive(Debug, Clone, Copy)]
pub struct Mounts<'m> {
    sysroot: &'m [u8],
    rows: [Mount<'m>; MAX_MOUNTS],
    count: usize,
    /// A bit for each mount's guest path, and one for each directory above a mount: see [`bit_of`]. Nearly all paths are told from
    /// them by it.
    here: u64,
    above: u64,
    /// Length of the longest guest path: what is longer is neither.
    longest: usize,
    /// See [`Mounts::hides_all`].
    hides_all: bool,
}

/// One of 64 bits, by a path's length and last byte.
fn bit_of(path: &[u8]) -> u64 {
    bit_of_end(path.len(), path)
}

/// The same of a path of this length that ends like this.
fn bit_of_end(len: usize, end: &[u8]) -> u64 {
    let last = end.last().copied().unwrap_or(0);
    1 << ((len * 5 + usize::from(last)) % 64)
}

/// Whether a path is absolute and written without empty, `.` and `..` components and without a slash at its end.
#[must_use]
pub fn is_canonical(path: &[u8]) -> bool {
    let Some(names) = path.strip_prefix(b"/") else {
        return false;
    };
    let legal = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    names.is_empty() || names.split(|&byte| byte == b'/').all(legal)
}

impl<'m> Mounts<'m> {
    /// A table without mounts over the sysroot at this canonical absolute host path.
    ///
    /// # Errors
    /// [`MountError::NotCanonical`].
    pub fn new(sysroot: &'m [u8]) -> Result<Self, MountError> {
        let mut table = Self::OVER_ROOT;
        table.put_over(sysroot)?;
        Ok(table)
    }

    /// A table without mounts over the host's own root.
    pub const OVER_ROOT: Self = {
        let nothing = Mount {
            guest: b"",
            host: b"",
            procfs: false,
        };
        Self {
            sysroot: b"/",
            rows: [nothing; MAX_MOUNTS],
            count: 0,
            here: 0,
            above: 0,
            longest: 0,
            hides_all: false,
        }
    };

    /// Puts the table over the sysroot at this canonical absolute host path.
    ///
    /// # Errors
    /// [`MountError::NotCanonical`].
    pub fn put_over(&mut self, sysroot: &'m [u8]) -> Result<(), MountError> {
        if !is_canonical(sysroot) {
            return Err(MountError::NotCanonical);
        }
        self.sysroot = sysroot;
        Ok(())
    }

    /// Adds a mount; one at the same guest path before is replaced.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn add(&mut self, mount: Mount<'m>) -> Result<(), MountError> {
        if !is_canonical(mount.guest) || !is_canonical(mount.host) {
            return Err(MountError::NotCanonical);
        }
        let row = match self.at(mount.guest) {
            Some(MountId(row)) => usize::from(row),
            None if self.count < MAX_MOUNTS => self.count,
            None => return Err(MountError::Full),
        };
        self.rows[row] = mount;
        self.count = self.count.max(row + 1);
        self.longest = self.longest.max(mount.guest.len());
        self.hides_all |= mount.guest == b"/";
        self.here |= bit_of(mount.guest);
        self.above |= bit_of(b"/");
        for (end, _) in (1..)
            .zip(&mount.guest[1..])
            .filter(|&(_, &byte)| byte == b'/')
        {
            self.above |= bit_of(&mount.guest[..end]);
        }
        Ok(())
    }

    /// Canonical absolute host path of the sysroot.
    #[must_use]
    pub fn sysroot(&self) -> &'m [u8] {
        self.sysroot
    }

    /// All mounts in the order they were added.
    #[must_use]
    pub fn rows(&self) -> &[Mount<'m>] {
        &self.rows[..self.count]
    }

    /// A row by its number.
    #[must_use]
    pub fn row(&self, id: MountId) -> &Mount<'m> {
        &self.rows[usize::from(id.0)]
    }

    fn ids(&self) -> impl Iterator<Item = (MountId, &Mount<'m>)> {
        (0..).map(MountId).zip(self.rows())
    }

    /// The mount whose guest path is exactly this one.
    #[must_use]
    pub fn at(&self, guest: &[u8]) -> Option<MountId> {
        if self.here & bit_of(guest) == 0 {
            return None;
        }
        let mut ids = self.ids();
        ids.find(|(_, row)| row.guest == guest).map(|(id, _)| id)
    }

    /// The mount that this canonical guest path lies in: the one with the longest guest path. `None`: the sysroot.
    #[must_use]
    pub fn over(&self, guest: &[u8]) -> Option<MountId> {
        if guest == b"/" {
            return self.at(guest);
        }
        let over = self.ids().filter(|(_, row)| is_under(guest, row.guest));
        over.max_by_key(|(_, row)| row.guest.len())
            .map(|(id, _)| id)
    }

    /// Whether a mount lies at the root, and the sysroot is seen nowhere.
    #[inline(always)]
    pub(super) fn hides_all(&self) -> bool {
        self.hides_all
    }

    /// Whether a mount may lie at a path of this length whose last name is this, or below it. If not, then none does. Where it may, one
    /// does at a path of that length with that name.
    #[inline(always)]
    pub(super) fn may_be_near(&self, len: usize, name: &[u8]) -> bool {
        len <= self.longest
            && (self.here | self.above) & bit_of_end(len, name) != 0
            && self.has_name_at(len, name)
    }

    /// The bits are shared by many paths: the usual mounts' by one path of thirteen.
    #[cold]
    #[inline(never)]
    fn has_name_at(&self, len: usize, name: &[u8]) -> bool {
        let has_it = |front: &[u8]| {
            front
                .strip_suffix(name)
                .is_some_and(|parent| parent.ends_with(b"/"))
        };
        let is_whole = |row: &Mount<'_>| row.guest.get(len).is_none_or(|&byte| byte == b'/');
        let mut rows = self.rows().iter();
        rows.any(|row| row.guest.get(..len).is_some_and(has_it) && is_whole(row))
    }

    /// Whether a mount lies somewhere below this canonical guest path, so that it is a directory whatever the tree holds.
    #[must_use]
    pub fn is_above_a_mount(&self, guest: &[u8]) -> bool {
        let is_above =
            |row: &Mount<'_>| row.guest.len() > guest.len() && is_under(row.guest, guest);
        self.above & bit_of(guest) != 0 && self.rows().iter().any(is_above)
    }

    /// The absolute host path of a canonical guest path, in two parts to be put together.
    #[must_use]
    pub fn to_host<'p>(&'p self, guest: &'p [u8]) -> (&'p [u8], &'p [u8]) {
        match self.over(guest) {
            Some(id) => join(
                self.row(id).host,
                below(guest, self.row(id).guest).unwrap_or(b""),
            ),
            None => join(self.sysroot, below(guest, b"/").unwrap_or(b"")),
        }
    }

    /// The guest path of an absolute host path where it is the end of that: in the sysroot's own tree, and no mount hides it. Empty: the root.
    /// `None`: [`Mounts::to_guest`] tells.
    #[must_use]
    pub fn in_sysroot<'p>(&self, host: &'p [u8]) -> Option<&'p [u8]> {
        let guest = below(host, self.sysroot)?;
        let whole = if guest.is_empty() { b"/" } else { guest };
        let is_hidden = self.rows().iter().any(|row| is_under(whole, row.guest));
        (!is_hidden).then_some(guest)
    }

    /// The guest path of an absolute host path that the kernel made: of getcwd(2), of a link in `/proc/self/fd`. `into` is emptied
    /// first and holds it afterwards.
    ///
    /// A path in the sysroot's own tree becomes the sysroot's, even if a mount also holds it; unless another mount hides that place
    /// from the guest, which cannot name it then.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] if the guest has no name for it; [`Errno::ENAMETOOLONG`].
    pub fn to_guest<const N: usize>(
        &self,
        host: &[u8],
        into: &mut PathBuf<N>,
    ) -> Result<(), Errno> {
        if self.put_guest(self.sysroot, b"/", host, into)? {
            return Ok(());
        }
        // The longest host path first; among equal ones the first.
        let mut before = usize::MAX;
        while let Some(len) = (self.rows().iter())
            .filter(|row| row.host.len() < before && is_under(host, row.host))
            .map(|row| row.host.len())
            .max()
        {
            for row in self.rows().iter().filter(|row| row.host.len() == len) {
                if self.put_guest(row.host, row.guest, host, into)? {
                    return Ok(());
                }
            }
            before = len;
        }
        // What stands in for a directory above a mount is the host's directory of that name: see `resolve`.
        let same = |row: &&Mount<'_>| row.guest == row.host && row.guest.len() > host.len();
        if (self.rows().iter().filter(same)).any(|row| is_under(row.guest, host)) {
            return into.set(host);
        }
        into.clear();
        Err(Errno::ENOENT)
    }

    /// Puts the guest path of `host`, which may lie below `from`, into `into`; whether it did, and the guest path leads there.
    fn put_guest<const N: usize>(
        &self,
        from: &[u8],
        to: &[u8],
        host: &[u8],
        into: &mut PathBuf<N>,
    ) -> Result<bool, Errno> {
        let Some(rest) = below(host, from) else {
            return Ok(false);
        };
        let (first, second) = join(to, rest);
        into.set(first)?;
        into.extend(second)?;
        let (first, second) = self.to_host(into.as_bytes());
        Ok(host.strip_prefix(first) == Some(second))
    }
}

/// The two halves of `base` and what is below it, empty or starting with a slash.
fn join<'p>(base: &'p [u8], below: &'p [u8]) -> (&'p [u8], &'p [u8]) {
    match (base, below) {
        (b"/", [_, ..]) => (b"", below),
        _ => (base, below),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mount, MountError, Mounts, PathBuf};
    use crate::errno::Errno;

    fn table<'m>(sysroot: &'m [u8], rows: &[(&'m [u8], &'m [u8])]) -> Mounts<'m> {
        let mut mounts = Mounts::new(sysroot).unwrap();
        for &(guest, host) in rows {
            let mount = Mount {
                guest,
                host,
                procfs: false,
            };
            mounts.add(mount).unwrap();
        }
        mounts
    }

    fn to_host(mounts: &Mounts<'_>, guest: &[u8]) -> PathBuf<256> {
        let (first, second) = mounts.to_host(guest);
        let mut whole = PathBuf::new();
        whole.set(first).unwrap();
        whole.extend(second).unwrap();
        whole
    }

    /// Both ways say the same where the shorter one says anything.
    fn to_guest(mounts: &Mounts<'_>, host: &[u8]) -> Result<PathBuf<256>, Errno> {
        let mut guest = PathBuf::new();
        let found = mounts.to_guest(host, &mut guest).map(|()| guest);
        if let Some(end) = mounts.in_sysroot(host) {
            let short = if end.is_empty() { b"/" } else { end };
            assert_eq!(found.as_ref().map(PathBuf::as_bytes), Ok(short));
        }
        found
    }

    #[test]
    fn the_longest_guest_path_wins() {
        let mounts = table(b"/s", &[(b"/a", b"/x"), (b"/a/b", b"/y"), (b"/ab", b"/z")]);
        for (guest, host) in [
            (&b"/a"[..], &b"/x"[..]),
            (b"/a/c", b"/x/c"),
            (b"/a/b", b"/y"),
            (b"/a/b/c", b"/y/c"),
            (b"/ab/c", b"/z/c"),
            (b"/abc", b"/s/abc"),
            (b"/", b"/s"),
        ] {
            assert_eq!(to_host(&mounts, guest).as_bytes(), host);
            assert_eq!(to_guest(&mounts, host).unwrap().as_bytes(), guest);
        }
    }

    #[test]
    fn a_path_in_the_sysroots_own_tree_is_the_sysroots_even_if_a_mount_holds_it() {
        let mounts = table(b"/home/me/s", &[(b"/home/me", b"/home/me")]);
        let guest = to_guest(&mounts, b"/home/me/s/usr").unwrap();
        assert_eq!(guest.as_bytes(), b"/usr");
        let guest = to_guest(&mounts, b"/home/me/t").unwrap();
        assert_eq!(guest.as_bytes(), b"/home/me/t");
    }

    #[test]
    fn the_whole_host_can_be_mounted() {
        let mounts = table(b"/s", &[(b"/host", b"/")]);
        for (guest, host) in [
            (&b"/host"[..], &b"/"[..]),
            (b"/host/etc", b"/etc"),
            (b"/etc", b"/s/etc"),
        ] {
            assert_eq!(to_host(&mounts, guest).as_bytes(), host);
            assert_eq!(to_guest(&mounts, host).unwrap().as_bytes(), guest);
        }
    }

    #[test]
    fn the_sysroot_can_be_the_hosts_root_and_a_mount_the_guests() {
        let mounts = table(b"/", &[(b"/proc", b"/proc"), (b"/tmp", b"/var/tmp")]);
        assert_eq!(
            to_guest(&mounts, b"/proc/1").unwrap().as_bytes(),
            b"/proc/1"
        );
        assert_eq!(
            to_guest(&mounts, b"/var/tmp/x").unwrap().as_bytes(),
            b"/var/tmp/x"
        );
        // The mount hides it.
        assert_eq!(to_guest(&mounts, b"/tmp/x").unwrap_err(), Errno::ENOENT);
        let mounts = table(b"/s", &[(b"/", b"/other")]);
        assert_eq!(to_host(&mounts, b"/etc").as_bytes(), b"/other/etc");
        assert_eq!(
            to_guest(&mounts, b"/other/etc").unwrap().as_bytes(),
            b"/etc"
        );
        assert_eq!(to_guest(&mounts, b"/s/etc").unwrap_err(), Errno::ENOENT);
    }

    #[test]
    fn what_no_mount_hides_has_the_end_of_its_host_path() {
        let mounts = table(b"/s", &[(b"/proc", b"/proc"), (b"/mnt/x", b"/s/data")]);
        for (host, guest) in [
            (&b"/s"[..], Some(&b""[..])),
            (b"/s/usr/lib", Some(b"/usr/lib")),
            (b"/s/mnt", Some(b"/mnt")),
            (b"/s/proc1", Some(b"/proc1")),
            (b"/s/proc/1", None),
            (b"/s/mnt/x", None),
            (b"/s/data", Some(b"/data")),
            (b"/sys", None),
            (b"(unreachable)/s", None),
        ] {
            assert_eq!(mounts.in_sysroot(host), guest);
            assert_eq!(to_guest(&mounts, host).is_ok(), guest.is_some());
        }
        assert_eq!(table(b"/", &[]).in_sysroot(b"/"), Some(&b""[..]));
        assert_eq!(table(b"/", &[]).in_sysroot(b"/usr"), Some(&b"/usr"[..]));
        assert_eq!(table(b"/s", &[(b"/", b"/o")]).in_sysroot(b"/s"), None);
    }

    #[test]
    fn a_directory_above_a_mount_is_known_as_such_and_leads_back() {
        let mounts = table(
            b"/s",
            &[(b"/home/me", b"/home/me"), (b"/mnt/x/y", b"/data")],
        );
        assert!(mounts.is_above_a_mount(b"/"));
        assert!(mounts.is_above_a_mount(b"/home"));
        assert!(mounts.is_above_a_mount(b"/mnt/x"));
        assert!(!mounts.is_above_a_mount(b"/home/me"));
        assert!(!mounts.is_above_a_mount(b"/hom"));
        assert_eq!(to_guest(&mounts, b"/home").unwrap().as_bytes(), b"/home");
        assert_eq!(to_guest(&mounts, b"/mnt/x").unwrap_err(), Errno::ENOENT);
        assert_eq!(to_guest(&mounts, b"socket:[7]").unwrap_err(), Errno::ENOENT);
    }

    #[test]
    fn no_path_is_near_a_mount_for_its_length_and_last_byte_alone() {
        let mounts = table(b"/s", &[(b"/proc", b"/proc"), (b"/mnt/x/data", b"/data")]);
        let near = |path: &[u8]| {
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap();
            mounts.may_be_near(path.len(), name)
        };
        for path in [&b"/proc"[..], b"/mnt", b"/mnt/x", b"/mnt/x/data", b"/usr/x"] {
            assert!(near(path), "{}", path.escape_ascii());
        }
        // Their lengths and last bytes share the bits of the mounts' in all ways.
        for byte in b'!'..=b'~' {
            for depth in 1..=40 {
                let path = [[b'/', byte]; 40];
                let path = path[..depth].as_flattened();
                let is_near = (depth, byte) == (3, b'x');
                assert_eq!(near(path), is_near, "{}", path.escape_ascii());
            }
            assert_eq!(near(&[b'/', b'p', b'r', b'o', byte]), byte == b'c');
            assert!(!near(&[b'/', b'm', b'n', byte, b'x', b'/', b'd']));
        }
    }

    #[test]
    fn a_mount_is_refused_unless_both_its_paths_are_canonical() {
        let mut mounts = table(b"/s", &[]);
        for path in [
            &b"a"[..],
            b"",
            b"/a/",
            b"//a",
            b"/a/./b",
            b"/a/..",
            b"/a\0b",
        ] {
            let mount = |guest, host| Mount {
                guest,
                host,
                procfs: false,
            };
            let refused = Err(MountError::NotCanonical);
            assert_eq!(mounts.add(mount(path, b"/x")), refused);
            assert_eq!(mounts.add(mount(b"/x", path)), refused);
            assert!(Mounts::new(path).is_err());
        }
    }

    #[test]
    fn a_second_mount_at_one_place_replaces_the_first_and_the_sixty_fifth_is_refused() {
        let names: [[u8; 3]; 65] =
            core::array::from_fn(|i| [b'/', b'a' + i as u8 / 26, b'a' + i as u8 % 26]);
        let mut mounts = table(b"/s", &[]);
        let mount = |guest, host| Mount {
            guest,
            host,
            procfs: false,
        };
        for name in &names[..64] {
            mounts.add(mount(name, b"/x")).unwrap();
        }
        assert_eq!(mounts.add(mount(&names[64], b"/x")), Err(MountError::Full));
        mounts.add(mount(&names[5], b"/y")).unwrap();
        assert_eq!(to_host(&mounts, &names[5]).as_bytes(), b"/y");
        assert_eq!(mounts.rows().len(), 64);
    }
}
