//! What the guest points at: addresses, and copies that turn a bad one into EFAULT.

mod copy;

pub use copy::fix_up;

use core::ffi::CStr;
use core::mem::MaybeUninit;

use crate::errno::Errno;
use crate::sys::abi::{SIGBUS, SIGSEGV, SignalSet};

/// An address that the guest gave, of which nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub usize);

impl Address {
    /// Whether it is a null pointer.
    #[must_use]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `bytes` further on.
    #[must_use]
    pub const fn plus(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// How guest memory may be reached just now.
///
/// A direct copy that faults raises SIGSEGV or SIGBUS, which the runtime's handler turns into an error ([`fix_up`]). Where the
/// guest blocks one of these the kernel would kill it instead: then the kernel is asked to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Directly, with the handlers as a net.
    Direct,
    /// By process_vm_readv(2) and process_vm_writev(2), which say EFAULT.
    ByKernel,
}

impl Memory {
    /// The way that is safe while `mask` is blocked.
    #[must_use]
    pub const fn under(mask: SignalSet) -> Self {
        if mask.has(SIGSEGV) || mask.has(SIGBUS) {
            Self::ByKernel
        } else {
            Self::Direct
        }
    }

    /// Fills `into` from the guest.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read(self, from: Address, into: &mut [u8]) -> Result<(), Errno> {
        match self {
            Self::Direct => copy::in_direct(from, into),
            Self::ByKernel => copy::in_by_kernel(from, into),
        }
    }

    /// Writes `bytes` to the guest.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write(self, to: Address, bytes: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Direct => copy::out_direct(to, bytes),
            Self::ByKernel => copy::out_by_kernel(to, bytes),
        }
    }

    /// A C string, without its NUL, into `into`.
    ///
    /// # Errors
    /// EFAULT; ENAMETOOLONG: no NUL within the buffer's length.
    pub fn read_string(self, from: Address, into: &mut [u8]) -> Result<&mut [u8], Errno> {
        match self {
            Self::Direct => copy::string_direct(from, into),
            Self::ByKernel => copy::string_by_kernel(from, into),
        }
    }

    /// A C string that is shorter than `N` by 8 bytes at least, quickly; else `None`, also where it cannot be read: then
    /// [`Memory::read_string`] is to be asked.
    #[inline]
    pub fn read_short<const N: usize>(
        self,
        from: Address,
        into: &mut MaybeUninit<[u8; N]>,
    ) -> Option<&CStr> {
        match self {
            Self::Direct => copy::short_direct(from, into),
            Self::ByKernel => None,
        }
    }

    /// One machine word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_word(self, from: Address) -> Result<usize, Errno> {
        let mut word = [0; size_of::<usize>()];
        self.read(from, &mut word)?;
        Ok(usize::from_ne_bytes(word))
    }

    /// A structure of which every bit pattern is a value.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_bytes<const N: usize>(self, from: Address) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.read(from, &mut bytes)?;
        Ok(bytes)
    }
}
