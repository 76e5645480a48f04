//! File systems, by `f_type` of statfs(2): linux/magic.h, and EROFS_SUPER_MAGIC_V1 of the kernel's fs/erofs/erofs_fs.h.

/// What is known of a kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// `f_type`, the low 32 bits.
    pub magic: u64,
    /// Its usual name.
    pub name: &'static str,
    /// Whether its time stamps are known to tell every change of a directory, so that a key taken there may be believed.
    pub trusted: bool,
    /// Whether nobody can write to it, however it is mounted: an image, made once.
    pub unchangeable: bool,
}

/// All that are known.
pub const KNOWN: &[FileSystem] = &[
    trusted(0xef53, "ext4"),
    trusted(0x5846_5342, "xfs"),
    trusted(0x9123_683e, "btrfs"),
    trusted(0x0102_1994, "tmpfs"),
    image(0xe0f5_e1e2, "erofs"),
    image(0x7371_7368, "squashfs"),
    image(0x9660, "iso9660"),
    untrusted(0x794c_7630, "overlayfs"),
    untrusted(0x6969, "nfs"),
    untrusted(0x6573_5546, "fuse"),
    untrusted(0xff53_4d42, "cifs"),
    untrusted(0x4d44, "vfat"),
    untrusted(0x2011_bab0, "exfat"),
];

const fn trusted(magic: u64, name: &'static str) -> FileSystem {
    FileSystem {
        magic,
        name,
        trusted: true,
        unchangeable: false,
    }
}

const fn image(magic: u64, name: &'static str) -> FileSystem {
    FileSystem {
        magic,
        name,
        trusted: true,
        unchangeable: true,
    }
}

const fn untrusted(magic: u64, name: &'static str) -> FileSystem {
    FileSystem {
        magic,
        name,
        trusted: false,
        unchangeable: false,
    }
}

/// What is known of the file system with this `f_type`; bits above the low 32, which sign extension may have set, do not count.
///
/// ```
/// use elfuse_format::file_systems::known;
/// assert!(known(0xef53).is_some_and(|found| found.name == "ext4" && found.trusted));
/// assert!(known(0xffff_ffff_9123_683e).is_some_and(|found| found.name == "btrfs"));
/// assert!(known(0x7371_7368).is_some_and(|found| found.unchangeable));
/// assert_eq!(known(1), None);
/// ```
#[must_use]
pub fn known(magic: u64) -> Option<&'static FileSystem> {
    KNOWN
        .iter()
        .find(|known| known.magic == magic & 0xffff_ffff)
}
