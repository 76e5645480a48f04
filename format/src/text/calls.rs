//! Which system calls matter to the runtime, by their numbers.

/// Of the lists below, of how sites are judged, and of what stubs expect of the runtime. A copy made for another number is not used.
pub const SET_VERSION: u32 = 6;

/// What a call's number means to a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Nothing: the call goes straight to the kernel.
    Plain = 0,
    /// The runtime serves it.
    Served = 1,
    /// It may make memory executable: the runtime looks at it first.
    Guarded = 2,
    /// Its caller may learn from it of a change from outside: it ends leases.
    Ending = 3,
    /// It reads from the descriptor that is its first argument: it ends leases unless that is known to be a file of the sysroot.
    Reading = 4,
    /// It may close a descriptor or make it another one, or two processes share memory and not descriptors: the runtime looks at it first.
    Descriptors = 5,
    /// fcntl(2): it ends leases where its command is above [`LAST_SILENT_COMMAND`].
    Control = 6,
    /// The runtime may spare it faults: it does no harm where it is not seen.
    Growing = 7,
}

/// Numbers that the runtime serves, ascending: those of its table but rt_sigreturn (15), by whose very code bytes unwinders know
/// a signal frame.
pub const SERVED: &[u32] = &[
    2, 4, 6, 13, 14, 21, 42, 43, 44, 45, 46, 47, 49, 51, 52, 59, 76, 78, 79, 80, 82, 83, 84, 85,
    86, 87, 88, 89, 90, 91, 92, 93, 94, 101, 105, 106, 113, 114, 116, 117, 119, 122, 123, 126, 130,
    131, 132, 133, 134, 137, 155, 160, 161, 163, 165, 166, 167, 168, 179, 188, 189, 190, 191, 192,
    194, 195, 197, 198, 199, 217, 231, 235, 254, 257, 258, 259, 260, 261, 262, 263, 264, 265, 266,
    267, 268, 269, 270, 271, 272, 280, 281, 288, 299, 301, 302, 303, 307, 308, 316, 322, 332, 333,
    425, 428, 429, 430, 433, 437, 439, 441, 442, 452, 457, 458, 463, 464, 465, 466, 467, 468, 469,
];

/// Numbers of calls that may make memory executable, ascending: mmap, mprotect, shmat, personality, pkey_mprotect; and of those by which
/// a program restricts its own calls, prctl and seccomp: afterwards the runtime might not be able to install its filter.
pub const GUARDED: &[u32] = &[9, 10, 30, 135, 157, 317, 329];

/// Numbers of calls that read from a descriptor, ascending.
pub const READING: &[u32] = &[
    0,   // read
    17,  // pread64
    19,  // readv
    295, // preadv
    327, // preadv2
];

/// Number of fcntl.
pub const CONTROL: u32 = 72;

/// The last of fcntl(2)'s commands that neither wait nor tell of others: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL. Behind it are locks, leases
/// and signals; where a lock is free, or was waited for, the guest has been told by who gave it up.
pub const LAST_SILENT_COMMAND: u32 = 4;

/// Numbers of calls that change what descriptors stand for, ascending. What only makes new ones is not among them: it takes numbers that
/// stand for nothing.
pub const DESCRIPTORS: &[u32] = &[
    3,   // close
    33,  // dup2
    56,  // clone: with CLONE_VM and without CLONE_FILES
    58,  // vfork
    292, // dup3
    435, // clone3: as clone
    436, // close_range
];

/// Numbers of calls by which memory grows that is going to be used, ascending.
pub const GROWING: &[u32] = &[
    12, // brk
];

/// Numbers of descriptors from which on nothing is known of them: a [`super::word::KNOWN`] has so many bytes.
pub const KNOWN_LEN: u32 = 2048;

/// Numbers of calls by which a program may learn of what happened outside, ascending; those that the runtime serves are not
/// among them, as it ends leases itself. sched_yield is not, either: it tells nothing, and who spins on shared memory makes it all the time.
pub const ENDING: &[u32] = &[
    7,   // poll
    23,  // select
    34,  // pause
    35,  // nanosleep
    40,  // sendfile
    61,  // wait4
    65,  // semop
    70,  // msgrcv
    73,  // flock
    128, // rt_sigtimedwait
    202, // futex
    208, // io_getevents
    215, // epoll_wait_old
    220, // semtimedop
    230, // clock_nanosleep
    232, // epoll_wait
    243, // mq_timedreceive
    247, // waitid
    275, // splice
    276, // tee
    326, // copy_file_range
    449, // futex_waitv
    455, // futex_wait
];

const fn contains(list: &[u32], number: u32) -> bool {
    let mut at = 0;
    while at < list.len() {
        if list[at] == number {
            return true;
        }
        at += 1;
    }
    false
}

/// The class of a number.
#[must_use]
pub const fn class(number: u32) -> Class {
    if contains(SERVED, number) {
        Class::Served
    } else if contains(GUARDED, number) {
        Class::Guarded
    } else if contains(ENDING, number) {
        Class::Ending
    } else if contains(READING, number) {
        Class::Reading
    } else if number == CONTROL {
        Class::Control
    } else if contains(DESCRIPTORS, number) {
        Class::Descriptors
    } else if contains(GROWING, number) {
        Class::Growing
    } else {
        Class::Plain
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::{CONTROL, Class, DESCRIPTORS, ENDING, GROWING, GUARDED, READING, SERVED, class};

    #[test]
    fn the_lists_are_ascending_and_have_no_number_in_common() {
        let lists = [
            SERVED,
            GUARDED,
            ENDING,
            READING,
            DESCRIPTORS,
            &[CONTROL],
            GROWING,
        ];
        let mut all: std::vec::Vec<u32> = lists.concat();
        for list in lists {
            assert!(list.is_sorted_by(|a, b| a < b));
        }
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(!all.contains(&15), "rt_sigreturn is never patched");
        assert_eq!(
            [257, 9, 7, 0, 3, 72, 12, 39].map(class),
            [
                Class::Served,
                Class::Guarded,
                Class::Ending,
                Class::Reading,
                Class::Descriptors,
                Class::Control,
                Class::Growing,
                Class::Plain
            ]
        );
    }
}
