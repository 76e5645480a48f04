//! The generation file, which is the runtime's, as the indexer treats it.

mod support;

use std::fs;

use elfuse_format::header::{HEADER_LEN, Kind, wrap};
use elfuse_indexer::exit::Exit;
use support::{Sysroot, elfuse_index};

/// A generation file as a run leaves it that died while it changed something.
fn left_behind() -> Vec<u8> {
    let mut file = wrap(Kind::Generation, 0, &[0; 16]);
    file[HEADER_LEN..HEADER_LEN + 8].copy_from_slice(&1_u64.to_le_bytes());
    file[HEADER_LEN + 8..].copy_from_slice(&77_u64.to_le_bytes());
    file
}

#[test]
fn build_and_seal_say_that_no_change_is_in_flight_and_keep_the_generation() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let path = sysroot.path().join(".elfuse/generation");
    for command in ["build", "seal"] {
        fs::write(&path, left_behind()).unwrap();
        let (exit, _, notes) = elfuse_index([
            command.as_ref(),
            "--no-wait".as_ref(),
            sysroot.path().as_os_str(),
        ]);
        assert!(matches!(exit, Exit::Success | Exit::Gaps), "{notes}");
        let file = fs::read(&path).unwrap();
        let mut expected = left_behind();
        expected[HEADER_LEN] = 0;
        assert_eq!(file, expected, "{command}");
    }
}

#[test]
fn what_is_no_generation_file_is_left_alone() {
    let sysroot = Sysroot::new();
    sysroot.build();
    let path = sysroot.path().join(".elfuse/generation");
    let beside = sysroot.path().join("beside");
    let mut keys = left_behind();
    keys[10] = 2;
    for bytes in [&b"text"[..], &left_behind()[..79], &keys] {
        fs::write(&path, bytes).unwrap();
        sysroot.build();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::remove_file(&path).unwrap();
    fs::write(&beside, left_behind()).unwrap();
    std::os::unix::fs::symlink("../beside", &path).unwrap();
    sysroot.build();
    assert_eq!(fs::read(&beside).unwrap(), left_behind());
}
