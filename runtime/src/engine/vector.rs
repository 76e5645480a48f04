//! The vector on the initial stack (System V ABI, x86-64, 3.4.1).
//!
//! # Safety
//! The kernel makes it before the first instruction. It is the process's own, and lasts as long as the process does.
#![allow(unsafe_code)]

use core::ffi::CStr;

use crate::loader::stack::auxiliary;
use crate::sys::abi::at;

/// The vector that the kernel made: argc, arguments, environment, auxiliary vector, word by word.
#[derive(Debug)]
pub struct Vector {
    pub(super) words: &'static mut [usize],
    pub(super) arguments: usize,
    environment: usize,
}

impl Vector {
    /// The vector of this process.
    ///
    /// # Safety
    /// `stack` is the stack pointer at the process's entry, and nothing of the vector is referred to by anything else.
    #[must_use]
    pub unsafe fn at(stack: *mut usize) -> Self {
        // SAFETY: argc, and behind it three lists each ended by a null word, the last one of pairs (System V ABI, 3.4.1).
        unsafe {
            let arguments = *stack;
            let mut environment = 0;
            while *stack.add(2 + arguments + environment) != 0 {
                environment += 1;
            }
            let auxiliary = 3 + arguments + environment;
            let mut pairs = 0;
            while *stack.add(auxiliary + 2 * pairs) != 0 {
                pairs += 1;
            }
            let len = auxiliary + 2 * pairs + 2;
            Self {
                words: core::slice::from_raw_parts_mut(stack, len),
                arguments,
                environment,
            }
        }
    }

    /// Where the auxiliary vector begins, in words.
    pub(super) fn auxiliary_at(&self) -> usize {
        3 + self.arguments + self.environment
    }

    /// A value of the auxiliary vector; 0 if it is not there.
    #[must_use]
    pub fn auxiliary(&self, key: usize) -> usize {
        auxiliary(&self.words[self.auxiliary_at()..], key).unwrap_or(0)
    }

    /// The sixteen bytes that AT_RANDOM leads to; zeros if it is not there.
    #[must_use]
    pub fn random_words(&self) -> [u64; 2] {
        match self.auxiliary(at::RANDOM) {
            0 => [0; 2],
            // SAFETY: they are on the initial stack, at any alignment.
            at => unsafe { core::ptr::read_unaligned(core::ptr::with_exposed_provenance(at)) },
        }
    }

    /// Addresses of the arguments.
    #[must_use]
    pub fn argument_words(&self) -> &[usize] {
        &self.words[1..=self.arguments]
    }

    /// Addresses of the environment's strings.
    #[must_use]
    pub fn environment_words(&self) -> &[usize] {
        &self.words[2 + self.arguments..][..self.environment]
    }

    /// The arguments.
    pub fn arguments(&self) -> impl Iterator<Item = &'static [u8]> + Clone + '_ {
        self.argument_words().iter().map(|word| string(*word))
    }

    /// The environment.
    pub fn environment(&self) -> impl Iterator<Item = &'static [u8]> + Clone + '_ {
        self.environment_words().iter().map(|word| string(*word))
    }

    /// The environment's strings that begin with `start`. The others are not looked at further, as an environment may be long.
    pub fn environment_from(
        &self,
        start: &'static [u8],
    ) -> impl Iterator<Item = &'static [u8]> + Clone + '_ {
        let words = self.environment_words().iter();
        words
            .filter(move |word| begins(**word, start))
            .map(|word| string(*word))
    }

    /// The value of a variable, of which `name` ends with `=`.
    #[must_use]
    pub fn variable(&self, name: &'static [u8]) -> Option<&'static [u8]> {
        let mut found = self.environment_from(name);
        found
            .next()
            .and_then(|variable| variable.strip_prefix(name))
    }

    /// Address of the first argument that `skip` others come before: an `argv`.
    #[must_use]
    pub fn arguments_from(&self, skip: usize) -> usize {
        (&raw const self.words[1 + skip]).addr()
    }

    /// Address of the environment: an `envp`.
    #[must_use]
    pub fn environment_address(&self) -> usize {
        (&raw const self.words[2 + self.arguments]).addr()
    }
}

/// Whether a string of the initial stack begins with `start`, in which there is no NUL.
fn begins(at: usize, start: &[u8]) -> bool {
    let text = core::ptr::with_exposed_provenance::<u8>(at);
    let is_like = |(offset, byte): (usize, &u8)| {
        // SAFETY: a word of the kernel's vector: a C string, of which all bytes before this one were none of NUL.
        *byte == unsafe { text.add(offset).read() }
    };
    start.iter().enumerate().all(is_like)
}

/// A string of the initial stack.
pub(super) fn string(at: usize) -> &'static [u8] {
    // SAFETY: a word of the kernel's vector: a C string that lasts as long as the process's stack does.
    unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(at)) }.to_bytes()
}
