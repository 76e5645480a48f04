//! Reserved names, and how names are ordered and hashed.

/// Name of the sidecar in every directory.
pub const SIDECAR: &[u8] = b".elfuse-sidecar-index";
/// Name of the store, at the root of a sysroot only.
pub const STORE: &[u8] = b".elfuse";
/// File in the store: [`crate::keys`].
pub const KEYS: &str = "keys";
/// File in the store: [`crate::loader_cache`].
pub const LOADER_CACHE: &str = "loader-cache";
/// File in the store: [`crate::ld_so_cache`].
pub const LD_SO_CACHE: &str = "ld.so.cache";
/// File in the store: in-flight count and generation, shared by every run on a sysroot.
pub const GENERATION: &str = "generation";
/// File in the store: [`crate::cpuid`].
pub const CPUID: &str = "cpuid";
/// Directory in the store: [`crate::snapshot`].
pub const RESIDENT: &str = "resident";
/// List in the store of programs to be kept, one a line.
pub const RESIDENT_LIST: &str = "resident.list";
/// What the name of a snapshot ends with.
pub const SNAPSHOT_SUFFIX: &str = ".snap";
/// What the name of a snapshot's counters ends with.
pub const COUNTS_SUFFIX: &str = ".count";
/// Suffix of a file that is being written.
pub const TEMPORARY_SUFFIX: &[u8] = b".tmp";

/// The most names one directory may hold to be indexed: a slot keeps the entry's number in 24 bits.
pub const MAX_ENTRIES: usize = (1 << 24) - 2;

/// Whether `name` in a directory belongs to the index and not to the tree: the sidecar, its temporaries
/// (`.elfuse-sidecar-index.*.tmp`) and, at the root, the store.
///
/// ```
/// use elfuse_format::names::is_reserved;
/// assert!(is_reserved(b".elfuse-sidecar-index", false));
/// assert!(is_reserved(b".elfuse-sidecar-index.4711.tmp", false));
/// assert!(is_reserved(b".elfuse", true));
/// assert!(!is_reserved(b".elfuse", false));
/// assert!(!is_reserved(b".elfuse-sidecar-index.txt", false));
/// ```
#[must_use]
pub fn is_reserved(name: &[u8], at_root: bool) -> bool {
    match name.strip_prefix(SIDECAR) {
        Some([]) => true,
        Some([b'.', rest @ ..]) => rest.ends_with(TEMPORARY_SUFFIX),
        Some(_) => false,
        None => at_root && name == STORE,
    }
}

/// Hash of a name: XXH3-64, seed 0. The low bits choose the slot of a directory's table, the top eight are its tag.
#[must_use]
pub fn hash(name: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name)
}
