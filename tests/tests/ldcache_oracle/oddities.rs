//! A small sysroot with everything in it that ldconfig treats in a way of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use elfuse_tests::need::tool;
use tempfile::TempDir;

use super::tools::{enterable, run};

/// Libraries: path below the root, SONAME or nothing, ISA level to be marked with or nothing.
const LIBRARIES: [(&str, &str, &str); 33] = [
    ("lib/liba.so.1.0", "liba.so.1", ""),
    ("lib/tls/liba.so.1.0", "liba.so.1", ""),
    ("lib/haswell/liba.so.1.0", "liba.so.1", ""),
    ("lib/haswell/avx512_1/liba.so.1.0", "liba.so.1", ""),
    ("lib/haswell/haswell/liba.so.1.0", "liba.so.1", ""),
    ("lib/xeon_phi/liba.so.1.0", "liba.so.1", ""),
    ("lib/i586/liba.so.1.0", "liba.so.1", ""),
    ("lib/i686/liba.so.1.0", "liba.so.1", ""),
    ("lib/x86_64/liba.so.1.0", "liba.so.1", ""),
    ("lib/sse2/liba.so.1.0", "liba.so.1", ""),
    ("lib/nothing/liba.so.1.0", "liba.so.1", ""),
    ("lib/glibc-hwcaps/x86-64-v2/liba.so.1.0", "liba.so.1", ""),
    (
        "lib/glibc-hwcaps/x86-64-v2/haswell/liba.so.1.0",
        "liba.so.1",
        "",
    ),
    (
        "lib/glibc-hwcaps/x86-64-v3/libb.so.1.0",
        "libb.so.1",
        "x86-64-v3",
    ),
    (
        "lib/glibc-hwcaps/x86-64-v4/libb.so.1.0",
        "libb.so.1",
        "x86-64-baseline",
    ),
    ("lib/glibc-hwcaps/.hidden/libb.so.1.0", "libb.so.1", ""),
    ("lib/glibc-hwcaps/co:lon/libb.so.1.0", "libb.so.1", ""),
    ("lib/libnosoname.so", "", ""),
    ("lib/ld-foo.so.9", "ld-foo.so.9", ""),
    ("lib/ld.so.1", "ld.so.1", ""),
    ("lib/ld64.so.1", "ld64.so.1", ""),
    ("lib/notlib.so", "notlib.so", ""),
    ("lib/libprel.so.#prelink#", "libprel.so", ""),
    ("lib/libprel2.so.#prelink#.ABCDEF", "libprel2.so", ""),
    ("lib/libv.so.1.2", "libv.so.1", ""),
    ("lib/libv.so.1.10", "libv.so.1", ""),
    ("lib/libw.so.1.2", "libw.so.1", ""),
    ("lib/libsub.so.2.0", "odd name.so", ""),
    ("usr/lib/liba.so.1.0", "liba.so.1", ""),
    ("opt/one/libo.so.1", "libo.so.1", ""),
    ("opt/two/libo.so.1", "libo.so.1", ""),
    ("opt/haswell/libh.so.1", "libh.so.1", ""),
    ("opt/deep/libd10.so.2", "libd10.so.2", ""),
];

/// Symlinks: where, and to what.
const LINKS: [(&str, &str); 13] = [
    ("lib/liba.so", "liba.so.1.0"),
    ("lib/liblink.so", "libnosoname.so"),
    ("lib/libother.so.3", "liba.so.1.0"),
    ("lib/libgone.so.1", "nowhere"),
    ("lib/libw.so.1.9", "libw.so.1.2"),
    ("lib/libw.so.1", "libw.so.1.2"),
    ("lib/libdir.so.1", "haswell"),
    ("lib/libloop.so.1", "libloop.so.1"),
    ("lib/avx512_1", "../opt/one"),
    ("lib/glibc-hwcaps/link", "../../opt/deep"),
    ("lib/libabsolute.so.1", "/opt/deep/libd10.so.2"),
    ("lib/libescape.so.1", "../../../../../../opt/one/libo.so.1"),
    ("opt/again", "one"),
];

/// Files that are no libraries.
const FILES: [(&str, &str); 6] = [
    (
        "etc/ld.so.conf",
        "# first\n/opt/two/  # trailing\n\n include conf.d/[a-z]*.conf\n/opt/haswell=libc6\n",
    ),
    ("etc/conf.d/b.conf", "/opt/again\n/opt/nowhere\n"),
    ("etc/conf.d/a.conf", "/opt/one\n/usr/lib/\n"),
    ("etc/conf.d/.c.conf", "/opt/deep\n"),
    ("lib/libscript.so", "GROUP ( liba.so.1 )\n"),
    ("lib/libempty.so", ""),
];

/// The loader in it, of no particular place.
pub(crate) const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// Makes it. The C library and ldconfig are `debian`'s: they tell that legacy directories count.
pub(crate) fn make(debian: &Path) -> TempDir {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    let place = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, content) in FILES {
        fs::write(place(path), content).unwrap();
    }
    for (path, soname, level) in LIBRARIES {
        library(&place(path), soname, level);
    }
    for (path, target) in LINKS {
        symlink(target, place(path)).unwrap();
    }
    for path in [
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libm.so.6",
    ] {
        fs::copy(debian.join("usr").join(path), place(path)).unwrap();
    }
    fs::copy(debian.join("usr/sbin/ldconfig"), place("sbin/ldconfig")).unwrap();
    fs::copy(debian.join("usr").join(&LOADER[1..]), place(&LOADER[1..])).unwrap();
    enterable(root);

    // Copies with other header fields: (path, offset, bytes).
    let original = fs::read(root.join("lib/libnosoname.so")).unwrap();
    let variants: [(&str, usize, &[u8]); 5] = [
        ("lib/libaarch64.so.1", 18, &[183, 0]),
        ("lib/libriscv.so.1", 18, &[243, 0]),
        ("lib/libexec.so.1", 16, &[2, 0]),
        ("lib/librelocatable.so.1", 16, &[1, 0]),
        ("lib/libnomagic.so.1", 0, b"nope"),
    ];
    for (path, offset, bytes) in variants {
        let mut copy = original.clone();
        copy[offset..offset + bytes.len()].copy_from_slice(bytes);
        fs::write(place(path), copy).unwrap();
    }
    fs::write(place("lib/libshort.so.1"), &original[..100]).unwrap();
    // Untyped, and in a directory with a type.
    fs::write(place("usr/lib/libi386.so.1"), library_of_i386()).unwrap();
    fs::write(place("opt/haswell/libi386.so.1"), library_of_i386()).unwrap();
    tree
}

/// Adds a library that needs each SONAME of the tree that can be loaded, and returns its path there.
pub(crate) fn library_that_needs_all(root: &Path) -> String {
    let mut sonames: Vec<&str> = LIBRARIES.iter().map(|(_, soname, _)| *soname).collect();
    sonames.sort_unstable();
    sonames.dedup();
    // Not found anywhere: not listed by ldconfig.
    sonames.retain(|soname| !matches!(*soname, "" | "notlib.so" | "libprel.so" | "libprel2.so"));
    let stubs = root.join(".oracle/stubs");
    fs::create_dir_all(&stubs).unwrap();
    let path = "/.oracle/all.so";
    let mut compiler = Command::new(tool("cc", "gcc"));
    compiler.args([
        "-shared",
        "-nostdlib",
        "-x",
        "c",
        "/dev/null",
        "-x",
        "none",
        "-Wl,--no-as-needed",
        "-o",
    ]);
    compiler.arg(root.join(&path[1..]));
    for (number, soname) in sonames.iter().enumerate() {
        let stub = stubs.join(format!("{number}.so"));
        library(&stub, soname, "");
        compiler.arg(stub);
    }
    run(&mut compiler);
    path.to_owned()
}

fn library(path: &Path, soname: &str, level: &str) {
    let mut compiler = Command::new(tool("cc", "gcc"));
    compiler
        .args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o"])
        .arg(path);
    if !soname.is_empty() {
        compiler.arg(format!("-Wl,-soname,{soname}"));
    }
    if !level.is_empty() {
        compiler.arg(format!("-Wl,-z,{level}"));
    }
    run(&mut compiler);
}

/// The least that is a library: an ELF header, one segment to load, the dynamic section, a string table.
fn library_of_i386() -> Vec<u8> {
    const HEADER: u32 = 52;
    const SEGMENT: u32 = 32;
    let strings = b"\0libi386.so.1\0";
    let dynamic_start = HEADER + 2 * SEGMENT;
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let dynamic = |strings_start: u32| {
        // DT_SONAME, DT_STRTAB, DT_STRSZ, DT_NULL.
        words(&[14, 1, 5, strings_start, 10, strings.len() as u32, 0, 0])
    };
    let strings_start = dynamic_start + dynamic(0).len() as u32;
    let size = strings_start + strings.len() as u32;

    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([3, 0, 3, 0]);
    file.extend(words(&[1, 0, HEADER, 0, 0]));
    for half in [HEADER as u16, SEGMENT as u16, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(words(&[1, 0, 0, 0, size, size, 4, 0x1000]));
    let dynamic = dynamic(strings_start);
    let dynamic_size = dynamic.len() as u32;
    file.extend(words(&[
        2,
        dynamic_start,
        dynamic_start,
        dynamic_start,
        dynamic_size,
        dynamic_size,
        4,
        4,
    ]));
    file.extend(dynamic);
    file.extend(strings);
    file
}
