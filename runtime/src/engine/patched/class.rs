//! What the entry does with a call, by its number.

use elfuse_format::text;

use crate::engine::dispatch::NUMBERS;
use crate::sys::nr;
use crate::sys::raw::Nr;

/// What the entry does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// It is made where it stands.
    Plain,
    /// The runtime serves it.
    Served,
    /// newfstatat(2): made where it stands if its path is empty and that may be, else served.
    Status,
    /// rt_sigprocmask(2): made where it stands if it cannot block a signal of the runtime's, else served.
    Mask,
    /// It is made where it stands, and by it the guest may learn of what others changed: leases end. Calls of that kind that the runtime
    /// serves end leases when they return ([`dispatch`]).
    Ending,
    /// fcntl(2): the same where its command waits or tells of others.
    Control,
    /// The same, but not where its descriptor is known.
    Reading,
    /// close(2): made where it stands when what is known of the descriptor is forgotten, but that of the sysroot's own is served.
    Closing,
    /// mprotect(2) and its kin: served where it is to make memory executable, or what could not be written to something else.
    Protection,
    /// mmap(2): the same; and where it maps a file, of which it may be known what will be written to, or reserves memory.
    Mapping,
    /// brk(2): served where the heap grows by much.
    Heap,
    /// shmat(2): the same.
    SharedMemory,
    /// personality(2): served where it makes all memory executable that can be read.
    Personality,
}

/// What the entry goes by. The lists are the indexer's: what it has patched is patched for them.
pub(super) static CLASSES: [u8; NUMBERS] = {
    let mut classes = [0; NUMBERS];
    let mut number = 0;
    while number < NUMBERS {
        classes[number] = of(Nr(number as u32)) as u8;
        number += 1;
    }
    classes
};

const fn of(nr: Nr) -> Class {
    match text::class(nr.0) {
        text::Class::Plain => Class::Plain,
        text::Class::Served if nr.0 == nr::NEWFSTATAT.0 => Class::Status,
        text::Class::Served if nr.0 == nr::RT_SIGPROCMASK.0 => Class::Mask,
        text::Class::Served => Class::Served,
        text::Class::Ending => Class::Ending,
        text::Class::Reading => Class::Reading,
        text::Class::Control => Class::Control,
        text::Class::Descriptors if nr.0 == nr::CLOSE.0 => Class::Closing,
        text::Class::Descriptors => Class::Served,
        text::Class::Growing => Class::Heap,
        text::Class::Guarded => match nr {
            nr::MMAP => Class::Mapping,
            nr::SHMAT => Class::SharedMemory,
            nr::PERSONALITY => Class::Personality,
            // What a guest's own filter says of arming ours is settled before there is one.
            nr::PRCTL | nr::SECCOMP => Class::Served,
            _ => Class::Protection,
        },
    }
}

#[cfg(test)]
mod tests {
    use elfuse_format::text;

    use super::{CLASSES, Class, NUMBERS, of};
    use crate::engine::dispatch::{TABLE, serve};
    use crate::sys::nr;
    use crate::sys::raw::Nr;

    #[test]
    fn the_indexer_patches_just_the_calls_of_the_table_but_the_return_from_a_handler() {
        let is_served = |nr: &u32| TABLE.iter().any(|row| row.nr.0 == *nr);
        let of_table = (0..NUMBERS as u32)
            .filter(is_served)
            .filter(|nr| *nr != nr::RT_SIGRETURN.0);
        assert!(of_table.eq(text::SERVED.iter().copied()));
    }

    #[test]
    fn all_numbers_of_the_lists_are_in_the_entrys_table() {
        let lists = [
            text::SERVED,
            text::GUARDED,
            text::ENDING,
            text::READING,
            text::DESCRIPTORS,
            &[text::CONTROL],
            text::GROWING,
        ];
        let listed = lists.iter().map(|list| list.len()).sum::<usize>();
        assert_eq!(CLASSES.iter().filter(|class| **class != 0).count(), listed);
        assert!(listed < NUMBERS && serve(Nr(NUMBERS as u32)).is_none());
        let guarded = [nr::MPROTECT, nr::PKEY_MPROTECT].map(of);
        assert_eq!(guarded, [Class::Protection; 2]);
        assert_eq!([nr::MMAP, nr::BRK].map(of), [Class::Mapping, Class::Heap]);
        assert_eq!(
            [of(nr::SHMAT), of(nr::READ), of(nr::POLL)],
            [Class::SharedMemory, Class::Reading, Class::Ending]
        );
        assert_eq!(of(nr::FCNTL), Class::Control);
        let [status, mask] = [nr::NEWFSTATAT, nr::RT_SIGPROCMASK].map(of);
        assert_eq!([status, mask], [Class::Status, Class::Mask]);
        assert_eq!(
            [of(nr::PERSONALITY), of(nr::GETPID)],
            [Class::Personality, Class::Plain]
        );
    }
}
