//! The vector a program finds on its stack: argc, argv, environment, auxiliary vector (System V ABI, x86-64, 3.4.1).
//!
//! The kernel made one for the runtime. The guest's is the tail of it: its arguments are the last ones, its environment is the
//! same, and some words of the auxiliary vector differ. So it is changed where it stands, and moved only for alignment.

use crate::sys::abi::at;

/// What the auxiliary vector says of a loaded program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Auxiliary {
    /// AT_PHDR: address of its program headers.
    pub phdr: usize,
    /// AT_PHNUM.
    pub phnum: usize,
    /// AT_BASE: where the interpreter lies; 0 without one.
    pub base: usize,
    /// AT_ENTRY.
    pub entry: usize,
    /// AT_EXECFN: address of the path that was executed.
    pub execfn: usize,
    /// Bytes of stack that the runtime's own handler uses. A path call within a handler of the guest's needs that, and a second frame of
    /// the kernel's: AT_MINSIGSTKSZ says so.
    pub handler_stack: usize,
}

impl Auxiliary {
    /// Replaces the words that differ for the guest in the auxiliary vector `pairs`: (key, value) one after the other.
    pub fn apply(&self, pairs: &mut [usize]) {
        for pair in pairs.chunks_exact_mut(2) {
            match pair[0] {
                at::PHDR => pair[1] = self.phdr,
                at::PHNUM => pair[1] = self.phnum,
                at::BASE => pair[1] = self.base,
                at::ENTRY => pair[1] = self.entry,
                at::EXECFN => pair[1] = self.execfn,
                at::MINSIGSTKSZ => pair[1] = raised(pair[1], self.handler_stack),
                _ => {}
            }
        }
    }
}

/// AT_MINSIGSTKSZ for the guest, where the kernel says `minimum`: see [`Auxiliary::handler_stack`].
#[must_use]
pub const fn raised(minimum: usize, handler_stack: usize) -> usize {
    2 * minimum + handler_stack
}

/// Value of `key` in the auxiliary vector `pairs`.
#[must_use]
pub fn auxiliary(pairs: &[usize], key: usize) -> Option<usize> {
    let mut pairs = pairs.chunks_exact(2);
    pairs.find(|pair| pair[0] == key).map(|pair| pair[1])
}

/// How many words the vector has to move down so that its first word, now at `first`, lies on a multiple of 16 bytes.
#[must_use]
pub const fn words_down(first: usize) -> usize {
    (first % 16) / size_of::<usize>()
}

#[cfg(test)]
mod tests {
    use super::{Auxiliary, auxiliary, words_down};
    use crate::sys::abi::at;

    #[test]
    fn only_the_words_of_the_program_change() {
        let mut pairs = [
            at::PHDR,
            1,
            at::PAGESZ,
            4096,
            at::MINSIGSTKSZ,
            100,
            at::ENTRY,
            2,
            0,
            0,
        ];
        let program = Auxiliary {
            phdr: 7,
            entry: 9,
            handler_stack: 50,
            ..Default::default()
        };
        program.apply(&mut pairs);
        assert_eq!(
            pairs,
            [
                at::PHDR,
                7,
                at::PAGESZ,
                4096,
                at::MINSIGSTKSZ,
                250,
                at::ENTRY,
                9,
                0,
                0
            ]
        );
        assert_eq!(auxiliary(&pairs, at::PAGESZ), Some(4096));
    }

    #[test]
    fn the_vector_moves_by_one_word_or_not_at_all() {
        assert_eq!(words_down(0x1000), 0);
        assert_eq!(words_down(0x1008), 1);
    }
}
