//! Calls that would change what paths mean behind the runtime's back, or pass paths where nobody sees them.

use crate::engine::call::Call;
use crate::errno::Errno;
use crate::sys::raw::Raw;

/// Mounts, roots, swap and accounting: what an unprivileged process is told.
pub fn not_permitted(_: &mut Call<'_>) -> Raw {
    Errno::EPERM.into()
}

/// Calls that programs expect some kernels not to have: io_uring_setup(2), whose rings carry paths past every filter.
pub fn not_there(_: &mut Call<'_>) -> Raw {
    Errno::ENOSYS.into()
}
