use super::super::coherence::{Generation, LEASE, Mode};
use super::super::host::{HostStat, Moment};
use super::{Absences, Arena, Coherence, Place, State, Time};

const NOW: Time = Time {
    secs: 100,
    nanos: 5,
};

fn moment(ticks: u64) -> Moment {
    Moment { ticks, thread: 1 }
}

fn state(ino: u64) -> State {
    State {
        dev: 1,
        ino,
        mtime: Time { secs: 98, nanos: 5 },
        ctime: Time { secs: -3, nanos: 9 },
    }
}

fn stat(state: State, mode: u32) -> HostStat {
    HostStat {
        dev: state.dev,
        ino: state.ino,
        mode,
        is_open_to_caller: false,
        mtime: state.mtime,
        ctime: state.ctime,
    }
}

fn with_absences(test: impl FnOnce(&Absences<'_>, &Coherence<'_>)) {
    #[repr(align(8))]
    struct Aligned([u8; 400 << 10]);
    let mut memory = Aligned([0; 400 << 10]);
    let arena = Arena::cleared(&mut memory.0);
    let generation = Generation::new();
    let coherence = Coherence::new(Mode::Lease, false, &generation);
    test(&Absences::new(&arena).unwrap(), &coherence);
}

#[test]
fn a_name_is_absent_only_in_the_very_state_it_was_absent_in() {
    with_absences(|absences, _| {
        absences.remember(&state(1), b"libfoo.so", NOW);
        assert!(absences.is_absent(&state(1), b"libfoo.so"));
        assert!(!absences.is_absent(&state(1), b"libfoo.s"));
        assert!(!absences.is_absent(&state(1), b"libfoo.so\0"));
        assert!(!absences.is_absent(&state(2), b"libfoo.so"));
        let others = [
            State { dev: 2, ..state(1) },
            State {
                mtime: Time { secs: 98, nanos: 4 },
                ..state(1)
            },
            State {
                ctime: Time { secs: -4, nanos: 9 },
                ..state(1)
            },
        ];
        for other in others {
            assert!(!absences.is_absent(&other, b"libfoo.so"));
        }
    });
}

#[test]
fn nothing_is_remembered_of_a_directory_that_changed_within_two_seconds() {
    with_absences(|absences, _| {
        let young = Time { secs: 98, nanos: 6 };
        for young in [
            State {
                mtime: young,
                ..state(1)
            },
            State {
                ctime: young,
                ..state(1)
            },
            State {
                ctime: Time {
                    secs: 1000,
                    nanos: 0,
                },
                ..state(1)
            },
        ] {
            absences.remember(&young, b"x", NOW);
            assert!(!absences.is_absent(&young, b"x"));
        }
    });
}

#[test]
fn a_name_of_eighty_bytes_is_remembered_and_a_longer_one_is_not() {
    with_absences(|absences, _| {
        absences.remember(&state(1), &[b'n'; 80], NOW);
        absences.remember(&state(1), &[b'n'; 81], NOW);
        assert!(absences.is_absent(&state(1), &[b'n'; 80]));
        assert!(!absences.is_absent(&state(1), &[b'n'; 81]));
    });
}

#[test]
fn more_names_than_there_is_room_for_push_others_out_and_are_never_confused() {
    with_absences(|absences, _| {
        let name = |number: u32| number.to_le_bytes();
        for number in 0..10_000 {
            absences.remember(&state(7), &name(number), NOW);
        }
        let known = (0..10_000).filter(|&number| absences.is_absent(&state(7), &name(number)));
        let known = known.count();
        assert!((1000..=super::NAMES).contains(&known), "{known}");
        assert!((10_000..20_000).all(|number| !absences.is_absent(&state(7), &name(number))));
    });
}

#[test]
fn the_state_of_a_directory_is_known_for_a_lease_and_then_has_to_be_seen_again() {
    with_absences(|absences, coherence| {
        let place = |at| absences.place(b"/usr/lib", coherence, || moment(at));
        assert_eq!(place(1), None);
        absences.see(b"/usr/lib");
        assert_eq!(place(1), Some(Place::Seen));
        let ticket = coherence.ticket(|| moment(1000));
        absences.learn(b"/usr/lib", &stat(state(3), 0o040_755), ticket);
        assert_eq!(place(1001), Some(Place::Known(state(3), true)));
        assert_eq!(place(1000 + LEASE), Some(Place::Known(state(3), false)));
        coherence.mutate_begin();
        coherence.mutate_end();
        assert_eq!(place(1001), Some(Place::Known(state(3), false)));
        assert_eq!(absences.place(b"/usr/li", coherence, || moment(1001)), None);
    });
}

#[test]
fn of_a_directory_that_not_everybody_may_search_only_that_is_known() {
    with_absences(|absences, coherence| {
        let ticket = coherence.ticket(|| moment(1000));
        absences.learn(b"/root", &stat(state(3), 0o040_700), ticket);
        let place = absences.place(b"/root", coherence, || moment(1001));
        assert_eq!(place, Some(Place::Private));
    });
}

#[test]
fn a_slot_that_is_being_written_is_neither_read_nor_written() {
    use core::sync::atomic::Ordering;
    with_absences(|absences, _| {
        absences.remember(&state(1), b"x", NOW);
        for slot in absences.names {
            slot[0].fetch_add(1, Ordering::Relaxed);
        }
        assert!(!absences.is_absent(&state(1), b"x"));
        absences.remember(&state(1), b"y", NOW);
        for slot in absences.names {
            slot[0].fetch_add(1, Ordering::Relaxed);
        }
        assert!(absences.is_absent(&state(1), b"x"));
        assert!(!absences.is_absent(&state(1), b"y"));
    });
}
