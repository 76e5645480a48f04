use elfuse_format::ld_so_cache::in_file_order;

use super::*;
use crate::tree::memory::MemoryTree;

/// Of glibc 2.36 or, if not `legacy`, a later one.
fn options(legacy: bool) -> ScanOptions {
    ScanOptions {
        machine: Some(Machine::X86_64),
        system_directories: Some(vec![b"/lib".to_vec()]),
        glibc: Some(Version {
            major: 2,
            minor: if legacy { 36 } else { 37 },
        }),
    }
}

/// `SONAME path [need]` of every row, in file order.
fn rows(tree: &MemoryTree, options: &ScanOptions) -> Vec<String> {
    let found = scan(tree, options, &Warnings::default());
    let show = |row: Row| {
        let need = match &row.need {
            Need::Any => String::new(),
            Need::Legacy(bits) => format!(" {bits:#x}"),
            Need::Named {
                directory,
                isa_level,
            } => format!(" {}/{isa_level}", directory.escape_ascii()),
        };
        format!(
            "{} {}{need}",
            row.key.escape_ascii(),
            row.value.escape_ascii()
        )
    };
    in_file_order(found.rows).into_iter().map(show).collect()
}

#[test]
fn a_library_is_listed_under_its_soname_whatever_its_file_is_called() {
    let tree = MemoryTree::new([
        ("/lib/liba.so.1.2", "elf liba.so.1"),
        ("/lib/liba.so.1", "-> liba.so.1.2"),
        ("/lib/libnone.so", "elf"),
    ]);
    assert_eq!(
        rows(&tree, &options(false)),
        ["libnone.so /lib/libnone.so", "liba.so.1 /lib/liba.so.1"]
    );
}

#[test]
fn a_link_for_the_link_editor_is_listed_too_and_other_links_are_not() {
    let tree = MemoryTree::new([
        ("/lib/liba.so.1.2", "elf liba.so.1"),
        ("/lib/liba.so", "-> liba.so.1.2"),
        ("/lib/liba.so.1", "-> liba.so.1.2"),
        ("/lib/libelse.so.3", "-> liba.so.1.2"),
        ("/lib/libgone.so.1", "-> nowhere"),
    ]);
    assert_eq!(
        rows(&tree, &options(false)),
        ["liba.so.1 /lib/liba.so.1", "liba.so /lib/liba.so"]
    );
}

#[test]
fn without_the_link_the_row_is_there_and_the_link_is_reported_missing() {
    let tree = MemoryTree::new([
        ("/lib/liba.so.1.2", "elf liba.so.1"),
        ("/lib/liba.so.1.10", "elf liba.so.1"),
        ("/lib/libb.so.1.0", "elf libb.so.1"),
        ("/lib/libb.so.1", "-> libb.so.1.0"),
    ]);
    let found = scan(&tree, &options(false), &Warnings::default());
    let missing: Vec<_> = found
        .missing_links
        .iter()
        .map(|link| format!("{} -> {}", link.path, link.target))
        .collect();
    // The newest by number, not by text.
    assert_eq!(missing, ["/lib/liba.so.1 -> liba.so.1.10"]);
    assert_eq!(found.rows.len(), 2);
}

#[test]
fn only_names_of_libraries_and_loaders_count() {
    let tree = MemoryTree::new([
        ("/lib/ld-linux-x86-64.so.2", "elf ld-linux-x86-64.so.2"),
        ("/lib/ld.so.1", "elf"),
        ("/lib/ld64.so.1", "elf"),
        ("/lib/ldx.so.1", "elf"),
        ("/lib/plugin.so", "elf"),
        ("/lib/libx.a", "elf"),
        ("/lib/libp.so.#prelink#", "elf"),
        ("/lib/libp.so.#prelink#.AbCdEf", "elf"),
        ("/lib/libscript.so", "GROUP ( libx.so.1 )"),
        ("/lib/libdir.so/libz.so", "elf"),
    ]);
    assert_eq!(
        rows(&tree, &options(false)),
        [
            "ld64.so.1 /lib/ld64.so.1",
            "ld.so.1 /lib/ld.so.1",
            "ld-linux-x86-64.so.2 /lib/ld-linux-x86-64.so.2"
        ]
    );
}

#[test]
fn programs_foreign_machines_and_damaged_files_are_left_out() {
    let mut tree = MemoryTree::new([
        ("/lib/libexec.so", "elf"),
        ("/lib/libarm.so", "elf"),
        ("/lib/libstatic.so", "elf"),
        ("/lib/libdamaged.so", "elf"),
        ("/lib/libi386.so", "elf"),
        ("/lib/libx32.so", "elf"),
    ]);
    tree.adjust("/lib/libexec.so", |facts| facts.elf_type = 2);
    tree.adjust("/lib/libarm.so", |facts| facts.machine = 183);
    tree.adjust("/lib/libstatic.so", |facts| facts.flags = 0);
    tree.adjust("/lib/libdamaged.so", |facts| facts.flags |= flags::DAMAGED);
    tree.adjust("/lib/libi386.so", |facts| {
        (facts.class, facts.machine) = (1, 3)
    });
    tree.adjust("/lib/libx32.so", |facts| facts.class = 1);
    let found = scan(&tree, &options(false), &Warnings::default());
    let flags: Vec<_> = found
        .rows
        .iter()
        .map(|row| (row.key.escape_ascii().to_string(), row.flags))
        .collect();
    assert_eq!(
        flags,
        [
            ("libx32.so".to_owned(), Flags::X32),
            ("libi386.so".to_owned(), Flags::LIBC6)
        ]
    );
}

#[test]
fn glibc_hwcaps_libraries_are_listed_by_file_with_the_level_they_need() {
    let mut tree = MemoryTree::new([
        ("/lib/liba.so.1", "elf liba.so.1"),
        ("/lib/glibc-hwcaps/x86-64-v3/liba.so.1.2", "elf liba.so.1"),
        ("/lib/glibc-hwcaps/x86-64-v2/liba.so.1", "elf liba.so.1"),
        ("/lib/glibc-hwcaps/.hidden/liba.so.1", "elf liba.so.1"),
        ("/lib/glibc-hwcaps/a:b/liba.so.1", "elf liba.so.1"),
        ("/lib/glibc-hwcaps/file", "x"),
        (
            "/lib/glibc-hwcaps/x86-64-v3/haswell/liba.so.1",
            "elf liba.so.1",
        ),
    ]);
    tree.adjust("/lib/glibc-hwcaps/x86-64-v3/liba.so.1.2", |facts| {
        facts.x86_isa_needed = 0b111
    });
    assert_eq!(
        rows(&tree, &options(true)),
        [
            "liba.so.1 /lib/glibc-hwcaps/x86-64-v2/liba.so.1 x86-64-v2/0",
            "liba.so.1 /lib/glibc-hwcaps/x86-64-v3/liba.so.1.2 x86-64-v3/2",
            "liba.so.1 /lib/liba.so.1",
        ]
    );
}

#[test]
fn legacy_directories_are_searched_for_an_old_glibc_only() {
    let tree = MemoryTree::new([
        ("/lib/liba.so", "elf"),
        ("/lib/haswell/liba.so", "elf"),
        ("/lib/haswell/avx512_1/liba.so", "elf"),
        ("/lib/tls/liba.so", "elf"),
        ("/lib/other/liba.so", "elf"),
        ("/lib/haswell/i686", "-> .."),
    ]);
    assert_eq!(
        rows(&tree, &options(true)),
        [
            "liba.so /lib/haswell/avx512_1/liba.so 0x4000000000004",
            "liba.so /lib/tls/liba.so 0x8000000000000000",
            "liba.so /lib/haswell/liba.so 0x4000000000000",
            "liba.so /lib/liba.so",
        ]
    );
    assert_eq!(rows(&tree, &options(false)), ["liba.so /lib/liba.so"]);
}

#[test]
fn a_directory_under_two_names_is_searched_once_under_the_first() {
    let tree = MemoryTree::new([
        ("/etc/ld.so.conf", "/usr/lib\n/lib\n/nowhere\n"),
        ("/usr/lib/liba.so", "elf"),
        ("/lib", "-> usr/lib"),
    ]);
    let found = scan(&tree, &options(false), &Warnings::default());
    assert_eq!(found.directories, [b"/usr/lib"]);
    assert_eq!(found.rows.len(), 1);
}

#[test]
fn configured_directories_come_before_the_built_in_ones() {
    let tree = MemoryTree::new([
        ("/etc/ld.so.conf", "/opt/lib"),
        ("/opt/lib/liba.so", "elf"),
        ("/lib/liba.so", "elf"),
    ]);
    assert_eq!(
        rows(&tree, &options(false)),
        ["liba.so /opt/lib/liba.so", "liba.so /lib/liba.so"]
    );
}

#[test]
fn debians_directories_and_the_age_of_its_glibc_are_found_out() {
    let banner = "\0GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n";
    let tree = MemoryTree::new([
        ("/lib/x86_64-linux-gnu/libc.so.6", banner),
        ("/lib/x86_64-linux-gnu/libz.so.1", "elf libz.so.1"),
        ("/lib/x86_64-linux-gnu/haswell/libz.so.1", "elf libz.so.1"),
        ("/usr/lib/libq.so", "elf"),
    ]);
    assert_eq!(
        rows(&tree, &ScanOptions::default()),
        [
            "libz.so.1 /lib/x86_64-linux-gnu/haswell/libz.so.1 0x4000000000000",
            "libz.so.1 /lib/x86_64-linux-gnu/libz.so.1",
            "libq.so /usr/lib/libq.so",
        ]
    );
    assert_eq!(
        glibc_version(&tree, &[b"/lib/x86_64-linux-gnu".to_vec()]),
        Some(Version {
            major: 2,
            minor: 36
        })
    );
}

#[test]
fn upstreams_directories_are_used_where_there_is_no_multiarch() {
    let tree = MemoryTree::new([("/lib64/liba.so", "elf"), ("/usr/lib32/libb.so", "elf")]);
    let options = ScanOptions {
        machine: Some(Machine::X86_64),
        ..ScanOptions::default()
    };
    assert_eq!(
        rows(&tree, &options),
        ["libb.so /usr/lib32/libb.so", "liba.so /lib64/liba.so"]
    );
}

#[test]
fn an_old_ldconfig_tells_i386_libraries_apart_by_the_c_library_they_need() {
    let mut tree = MemoryTree::new([
        ("/etc/ld.so.conf", "/glibc=libc6\n/old=libc5\n/plain"),
        ("/plain/libnone.so", "elf"),
        ("/plain/libsix.so", "elf"),
        ("/plain/libfive.so", "elf"),
        ("/plain/libinterp.so", "elf"),
        ("/glibc/libtyped6.so", "elf"),
        ("/old/libtyped5.so", "elf"),
    ]);
    for path in [
        "/plain/libnone.so",
        "/plain/libsix.so",
        "/plain/libfive.so",
        "/plain/libinterp.so",
        "/glibc/libtyped6.so",
        "/old/libtyped5.so",
    ] {
        tree.adjust(path, |facts| (facts.class, facts.machine) = (1, 3));
    }
    tree.adjust("/plain/libsix.so", |facts| {
        facts.needed = vec![b"liba.so".to_vec(), b"libm.so.6".to_vec()]
    });
    tree.adjust("/plain/libfive.so", |facts| {
        facts.needed = vec![b"libc.so.5".to_vec(), b"libm.so.6".to_vec()]
    });
    tree.adjust("/plain/libinterp.so", |facts| {
        facts.interpreter = Some(b"/lib/ld-linux.so.2".to_vec())
    });
    let flags = |legacy| {
        let found = scan(&tree, &options(legacy), &Warnings::default());
        let rows = in_file_order(found.rows).into_iter();
        rows.map(|row| format!("{} {}", row.key.escape_ascii(), row.flags))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        flags(true),
        [
            "libtyped6.so libc6",
            "libtyped5.so libc5",
            "libsix.so libc6",
            "libnone.so ELF",
            "libinterp.so libc6",
            "libfive.so libc5"
        ]
    );
    assert!(flags(false).iter().all(|row| row.ends_with("libc6")));
}
