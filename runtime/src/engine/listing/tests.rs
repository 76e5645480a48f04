extern crate std;

use std::string::String;

use super::{Lines, Listing, Mapping};
use crate::vfs::path::PathBuf;
use crate::vfs::{Mount, Mounts};

fn translated(listing: Listing, text: &str) -> String {
    let mut mounts = Mounts::new(b"/srv/root").unwrap();
    let mount = Mount {
        guest: b"/data",
        host: b"/mnt/data",
        procfs: false,
    };
    mounts.add(mount).unwrap();
    let mut kept = [0; 200];
    let mut lines = Lines::new(listing, &mounts, &mut kept);
    let mut seen = String::new();
    for line in text.split_inclusive('\n') {
        let out = |part: &[u8]| {
            seen.push_str(core::str::from_utf8(part).unwrap());
            Ok(())
        };
        lines
            .translate(line.as_bytes(), &mut PathBuf::new(), out)
            .unwrap();
    }
    seen
}

#[test]
fn listings_are_known_by_their_place_below_a_procfs() {
    for path in ["/1/maps", "/23/smaps", "/23/task/24/maps"] {
        assert_eq!(Listing::at(path.as_bytes()), Some(Listing::Maps), "{path}");
    }
    assert_eq!(Listing::at(b"/23/numa_maps"), Some(Listing::Numa));
    for path in [
        "/maps",
        "/self/maps",
        "/1/fd/maps",
        "/1/smaps_rollup",
        "/1/task/maps",
        "/1/task/2/3/maps",
        "/sys/maps",
        "//maps",
        "maps",
        "",
    ] {
        assert_eq!(Listing::at(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn host_paths_become_guest_paths_and_the_runtimes_lines_are_left_out() {
    let host = "\
555555554000-555555555000 r--p 00000000 08:01 12                         /srv/root/usr/bin/a b
555555555000-555555556000 rw-p 00000000 00:00 0                          [heap]
6f0000000000-6f0000010000 r-xp 00000000 08:01 13                         /srv/elfuse
6f0080000000-6f0080001000 rw-p 00000000 00:00 0 
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000001000-7f0000002000 r--s 00001000 00:1f 7                          /mnt/data/x (deleted)
7f0000002000-7f0000003000 rw-s 00000000 00:01 8                          /memfd:/srv/root/y (deleted)
7f0000003000-7f0000004000 r--p 00000000 08:01 9                          /etc/passwd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
    let guest = "\
555555554000-555555555000 r--p 00000000 08:01 12                         /usr/bin/a b
555555555000-555555556000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000001000-7f0000002000 r--s 00001000 00:1f 7                          /data/x (deleted)
7f0000002000-7f0000003000 rw-s 00000000 00:01 8                          /memfd:/srv/root/y (deleted)
7f0000003000-7f0000004000 r--p 00000000 08:01 9                          /etc/passwd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
    assert_eq!(translated(Listing::Maps, host), guest);
}

#[test]
fn copies_are_shown_as_the_files_they_stand_in_for_and_their_blocks_not_at_all() {
    let copy =
        "/srv/root/.elfuse/text/0100000000000000abababababababababababababababababababababababab";
    let host = std::format!(
        "\
10010000-10011000 rw-p 00005000 08:01 77                         {copy}
10011000-10012000 r-xp 00006000 08:01 77                         {copy}
Size:                  4 kB
7f0000000000-7f0000001000 r--p 00000000 08:01 12                         /srv/root/lib/libc.so.6
Size:                  4 kB
7f0000001000-7f0000002000 r-xp 00001000 08:01 77                         {copy}
Size:                  4 kB
7f0000002000-7f0000003000 rw-p 00002000 08:01 12                         /srv/root/lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
7f0000004000-7f0000005000 r-xp 00001000 08:01 77                         {copy} (deleted)
"
    );
    let guest = "\
7f0000000000-7f0000001000 r--p 00000000 08:01 12                         /lib/libc.so.6
Size:                  4 kB
7f0000001000-7f0000002000 r-xp 00001000 08:01 12                         /lib/libc.so.6
Size:                  4 kB
7f0000002000-7f0000003000 rw-p 00002000 08:01 12                         /lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
7f0000004000-7f0000005000 r-xp 00001000 08:01 77                         /.elfuse/text/0100000000000000abababababababababababababababababababababababab (deleted)
";
    assert_eq!(translated(Listing::Maps, &host), guest);
    let host = std::format!(
        "\
10010000 default file={copy} mapped=1
7f0000000000 default file=/srv/root/lib/libc.so.6 mapped=4
7f0000001000 default file={copy} mapped=9
"
    );
    let guest = "\
7f0000000000 default file=/lib/libc.so.6 mapped=4
7f0000001000 default file=/lib/libc.so.6 mapped=9
";
    assert_eq!(translated(Listing::Numa, &host), guest);
}

#[test]
fn pages_of_a_snapshot_are_shown_as_memory_without_a_file() {
    let snapshot = "/srv/root/.elfuse/resident/0123456789abcdef.snap";
    let host = std::format!(
        "\
7f0000002000-7f0000003000 r--p 00002000 08:01 12                         /srv/root/lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00009000 08:01 77                         {snapshot}
Size:                  4 kB
7f0000004000-7f0000005000 rw-p 10000000000 08:01 77                      /elsewhere/resident/0123456789abcdef.snap (deleted)
7f0000005000-7f0000006000 rw-p 00009000 08:01 77                         /elsewhere/0123456789abcdef.snap
"
    );
    let guest = "\
7f0000002000-7f0000003000 r--p 00002000 08:01 12                         /lib/libc.so.6
7f0000003000-7f0000004000 rw-p 00000000 00:00 0 
Size:                  4 kB
7f0000004000-7f0000005000 rw-p 00000000 00:00 0 
7f0000005000-7f0000006000 rw-p 00009000 08:01 77                         /elsewhere/0123456789abcdef.snap
";
    assert_eq!(translated(Listing::Maps, &host), guest);
    let host = std::format!("7f0000003000 default file={snapshot} anon=1 dirty=1\n");
    let guest = "7f0000003000 default anon=1 dirty=1\n";
    assert_eq!(translated(Listing::Numa, &host), guest);
    for path in [
        "/resident/0123456789abcde.snap",
        "/resident/0123456789ABCDEF.snap",
        "/x/aresident/0123456789abcdef.snap",
        "resident/0123456789abcdef.snap",
        "/resident/0123456789abcdef.count",
        ".snap",
    ] {
        assert!(!super::is_snapshot(path.as_bytes()), "{path}");
    }
}

#[test]
fn a_copy_is_known_by_its_directory_and_its_digits() {
    let digits = "0100000000000000abababababababababababababababababababababababab";
    let block = |path: &str| super::copys_block(path.as_bytes());
    assert_eq!(block(&std::format!("/x/text/{digits}")), Some(0x1001_0000));
    for path in [
        std::format!("/x/texts/{digits}"),
        std::format!("/x/text{digits}"),
        std::format!("/x/text/0{digits}"),
        std::format!("/x/text/{}", &digits[1..]),
        std::format!("/x/text/{}", digits.to_uppercase()),
        digits.into(),
        String::new(),
    ] {
        assert_eq!(block(&path), None, "{path}");
    }
}

#[test]
fn details_go_where_their_mapping_goes() {
    let host = "\
6f0000000000-6f0000010000 r-xp 00000000 08:01 13                         /srv/elfuse
Size:                 64 kB
VmFlags: rd ex 
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
Size:                  4 kB
Anonymous:             4 kB
";
    let guest = "\
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
Size:                  4 kB
Anonymous:             4 kB
";
    assert_eq!(translated(Listing::Maps, host), guest);
}

#[test]
fn policies_are_shown_with_the_guests_paths() {
    let host = "\
555555554000 default file=/srv/root/usr/bin/env mapped=4 N0=4 kernelpagesize_kB=4
6f0000000000 default file=/srv/elfuse anon=1 N0=1 kernelpagesize_kB=4
7f0000000000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7f0000001000 default file=/mnt/data/x\\040(deleted)
7ffffffde000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
";
    let guest = "\
555555554000 default file=/usr/bin/env mapped=4 N0=4 kernelpagesize_kB=4
7f0000000000 default anon=1 dirty=1 N0=1 kernelpagesize_kB=4
7f0000001000 default file=/data/x\\040(deleted)
7ffffffde000 default stack anon=3 dirty=3 N0=3 kernelpagesize_kB=4
";
    assert_eq!(translated(Listing::Numa, host), guest);
}

#[test]
fn lines_of_another_form_are_passed_on_as_they_are() {
    for text in ["", "\n", "abc", "12-", "12-34", "Rss: 3 kB\n", "g-h r--p\n"] {
        assert_eq!(translated(Listing::Maps, text), text);
        assert_eq!(translated(Listing::Numa, text), text);
    }
    let cut = b"12-34 r--p 0 0 0";
    assert_eq!(Mapping::of(Listing::Maps, cut).unwrap().file(cut), None);
}
