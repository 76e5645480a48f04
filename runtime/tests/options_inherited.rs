//! What a run hands on over exec, as bytes.

mod hostile;

use elfuse_runtime::options::inherited::{
    DecodeError, EncodeError, Inherited, MAX_MOUNTS, Mount, MountList,
};
use elfuse_runtime::options::{Coherence, Stats};
use elfuse_runtime::trace::TraceBits;
use proptest::prelude::*;

fn same(path: &[u8]) -> Mount<'_> {
    Mount {
        guest: path,
        host: path,
    }
}

/// A list that lasts as long as the test.
fn listed<'m>(mounts: impl Iterator<Item = Mount<'m>>) -> Result<MountList<'static>, EncodeError> {
    MountList::write(mounts, vec![0; 1 << 16].leak())
}

/// A run as most are.
fn typical() -> Inherited<'static> {
    let data = Mount {
        guest: b"/data",
        host: b"/srv/data",
    };
    let defaults = [&b"/proc"[..], b"/sys", b"/dev", b"/tmp", b"/home/me"].map(same);
    let mounts = listed(defaults.into_iter().chain([data])).unwrap();
    Inherited {
        sysroot: b"/home/me/.cache/elfuse/sysroots/debian",
        sysroot_dev: 0xfe01,
        sysroot_ino: 1_234_567,
        sysroot_fd: Some(1023),
        index_dir: None,
        coherence: Coherence::Lease,
        shadow: false,
        patched: true,
        mounts,
        host_fallback: false,
        cpuid_table: true,
        resident: true,
        populate: true,
        stats: Stats::Json,
        stats_fd: Some(1021),
        counters_fd: Some(1022),
        trace: TraceBits::NONE,
        filter_armed: true,
        program_fd: 1020,
        interpreter_fd: Some(5),
        exe: b"/usr/bin/perl",
        execfn: b"/usr/bin/tool",
        top_level_pid: 4711,
        signal_mask: 1 << 30,
        boot_id: Some([0x357e_a24f_7c5f_4cfd, 0xbff9_4b60_3eaf_0001]),
    }
}

fn encoded(inherited: &Inherited) -> Vec<u8> {
    let mut buffer = vec![0xAA; 1 << 16];
    let len = inherited.encode(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

#[test]
fn a_typical_run_takes_less_than_300_bytes() {
    let bytes = encoded(&typical());
    assert!(bytes.len() < 300, "{}", bytes.len());
    insta::assert_snapshot!(String::from_utf8(bytes).unwrap());
}

#[test]
fn it_is_known_by_its_beginning_whatever_its_version() {
    assert!(Inherited::is_claimed_by(&encoded(&typical())));
    assert!(Inherited::is_claimed_by(b"elfuse-inherited/999 later"));
    assert!(!Inherited::is_claimed_by(b"run"));
    assert_eq!(
        Inherited::decode(b"elfuse-inherited/999 later"),
        Err(DecodeError::Magic)
    );
}

#[test]
fn too_small_a_buffer_is_told_how_much_is_needed() {
    let needed = encoded(&typical()).len();
    for len in [0, 1, 17, needed - 1] {
        assert_eq!(
            typical().encode(&mut vec![0; len]),
            Err(EncodeError::NoRoom { needed })
        );
    }
    assert_eq!(typical().encode(&mut vec![0; needed]), Ok(needed));
}

#[test]
fn every_beginning_of_an_argument_is_refused() {
    let bytes = encoded(&typical());
    for len in 0..bytes.len() {
        // A number that ends early is another number, so the last field needs a look of its own.
        if let Ok(read) = Inherited::decode(&bytes[..len]) {
            assert_ne!(read, typical());
            assert_eq!(encoded(&read), &bytes[..len]);
            assert!(len > bytes.len() - 8, "{len}");
        }
    }
}

#[test]
fn whatever_follows_the_last_field_is_refused() {
    let mut bytes = encoded(&typical());
    bytes.push(b' ');
    assert_eq!(Inherited::decode(&bytes), Err(DecodeError::TrailingBytes));
}

#[test]
fn a_second_spelling_of_a_value_is_refused() {
    let text = String::from_utf8(encoded(&typical())).unwrap();
    for (one, other, field) in [
        (" dfe01 ", " d0fe01 ", "sysroot device"),
        (" dfe01 ", " dFE01 ", "sysroot device"),
        (" dfe01 ", " d ", "sysroot device"),
        (" s38:", " s038:", "sysroot"),
        ("5:/proc=", "5:/proc5:/proc", "mounts"),
        (" f1 ", " f2 ", "filter flag"),
        (" c0 ", " c4 ", "coherence"),
        (" t2 ", " t3 ", "stats"),
        (" b0 ", " b4 ", "trace bits"),
        (" l1267 ", " l0 ", "top-level process"),
        (" l1267 ", " l80000000 ", "top-level process"),
        (" p3fc ", " p80000000 ", "program descriptor"),
        (" k40000000", " k10000000000000000", "signal mask"),
        (
            "13:/usr/bin/perl",
            "13:_usr/bin/perl",
            "path of the executable",
        ),
        (
            "13:/usr/bin/perl",
            "13:/usr/bin/per\0",
            "path of the executable",
        ),
        (
            "13:/usr/bin/perl",
            "99999999999999999999:/",
            "path of the executable",
        ),
    ] {
        assert_eq!(text.matches(one).count(), 1, "{one:?} in {text:?}");
        let changed = text.replace(one, other);
        assert_eq!(
            Inherited::decode(changed.as_bytes()),
            Err(DecodeError::Field(field)),
            "{changed}"
        );
    }
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let mut buffer = [0; 1024];
    let mut refused = |inherited: Inherited, field| {
        assert_eq!(
            inherited.encode(&mut buffer),
            Err(EncodeError::Field(field))
        );
    };
    let typical = typical();
    refused(
        Inherited {
            sysroot: b"relative",
            ..typical
        },
        "sysroot",
    );
    refused(
        Inherited {
            execfn: b"nul\0",
            ..typical
        },
        "execfn",
    );
    refused(
        Inherited {
            program_fd: -1,
            ..typical
        },
        "program descriptor",
    );
    refused(
        Inherited {
            top_level_pid: 0,
            ..typical
        },
        "top-level process",
    );
    let off_and_shadow = Inherited {
        coherence: Coherence::Off,
        shadow: true,
        ..typical
    };
    refused(off_and_shadow, "shadow flag");
}

#[test]
fn more_mounts_than_there_is_room_for_are_refused() {
    let many = |count| listed(std::iter::repeat_n(same(b"/m"), count));
    let full = Inherited {
        mounts: many(MAX_MOUNTS).unwrap(),
        ..typical()
    };
    assert_eq!(full.mounts.len(), MAX_MOUNTS);
    assert_eq!(many(MAX_MOUNTS + 1), Err(EncodeError::Field("mounts")));
    let text = String::from_utf8(encoded(&full)).unwrap();
    assert_eq!(Inherited::decode(text.as_bytes()), Ok(full));
    let one_more = text.replace(
        &format!(" m{MAX_MOUNTS:x} "),
        &format!(" m{:x} 2:/m= ", MAX_MOUNTS + 1),
    );
    assert_ne!(one_more, text);
    assert_eq!(
        Inherited::decode(one_more.as_bytes()),
        Err(DecodeError::Field("mounts"))
    );
    // A count that no memory could hold is not believed either.
    let huge = text.replace(&format!(" m{MAX_MOUNTS:x} "), " mffffffffffffffff ");
    assert_eq!(
        Inherited::decode(huge.as_bytes()),
        Err(DecodeError::Field("mounts"))
    );
}

fn string(prefix: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1_u8.., 0..24).prop_map(move |tail| [prefix, &tail].concat())
}

/// The owner of what an [`Inherited`] borrows.
#[derive(Debug, Clone)]
struct Strings {
    paths: [Vec<u8>; 2],
    execfn: Vec<u8>,
    index_dir: Option<Vec<u8>>,
    mounts: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn strings() -> impl Strategy<Value = Strings> {
    let mount = (string(b"/"), prop::option::of(string(b"/")));
    (
        [string(b"/"), string(b"/")],
        string(b""),
        prop::option::of(string(b"/")),
        prop::collection::vec(mount, 0..=MAX_MOUNTS),
    )
        .prop_map(|(paths, execfn, index_dir, mounts)| Strings {
            paths,
            execfn,
            index_dir,
            mounts,
        })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(
        strings in strings(),
        numbers in any::<[u64; 3]>(),
        descriptors in (0..=i32::MAX, prop::option::of(0..=i32::MAX), 1..=i32::MAX),
        choices in (0_u64..4, 0_u64..3, 0_u64..4),
        flags in any::<[bool; 4]>(),
    ) {
        let rows = strings.mounts.iter().map(|(guest, host)| Mount {
            guest,
            host: host.as_ref().unwrap_or(guest),
        });
        let mut room = vec![0; 1 << 16];
        let mounts = MountList::write(rows.clone(), &mut room).unwrap();
        prop_assert!(mounts.iter().eq(rows));
        let coherence = Coherence::from_number(choices.0).unwrap();
        let inherited = Inherited {
            sysroot: &strings.paths[0],
            sysroot_dev: numbers[0],
            sysroot_ino: numbers[1],
            sysroot_fd: descriptors.1,
            index_dir: strings.index_dir.as_deref(),
            coherence,
            shadow: flags[0] && coherence != Coherence::Off,
            patched: flags[3],
            mounts,
            host_fallback: flags[1],
            cpuid_table: flags[3],
            resident: flags[2],
            populate: flags[1],
            stats: Stats::from_number(choices.1).unwrap(),
            stats_fd: descriptors.1,
            counters_fd: descriptors.1,
            trace: TraceBits::from_number(choices.2).unwrap(),
            filter_armed: flags[2],
            program_fd: descriptors.0,
            interpreter_fd: descriptors.1,
            exe: &strings.paths[1],
            execfn: &strings.execfn,
            top_level_pid: descriptors.2,
            signal_mask: numbers[2],
            boot_id: flags[0].then_some([numbers[2], numbers[0]]),
        };
        let bytes = encoded(&inherited);
        prop_assert!(!bytes.contains(&0));
        prop_assert_eq!(Inherited::decode(&bytes), Ok(inherited));
    }

    #[test]
    fn whatever_is_read_would_be_written_the_same(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&typical());
        for (at, byte) in flips {
            *at.get_mut(&mut bytes) = byte;
        }
        hostile::inherited(&bytes);
    }

    #[test]
    fn arbitrary_bytes_are_no_trouble(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        hostile::inherited(&tail);
        hostile::inherited(&[b"elfuse-inherited/6 s".as_slice(), &tail].concat());
    }
}
