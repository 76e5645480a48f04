//! Calls that change how many descriptors a process may have: the runtime counts on what its own lies above.

use crate::engine::call::Call;
use crate::sys::abi::RLIMIT_NOFILE;
use crate::sys::raw::Raw;

/// The resource is an `unsigned int`.
fn is_of_descriptors(call: &Call<'_>, argument: usize) -> bool {
    call.flags(argument) == RLIMIT_NOFILE
}

/// setrlimit(2).
pub fn setrlimit(call: &mut Call<'_>) -> Raw {
    if is_of_descriptors(call, 0) {
        call.process.changing_limits(|| call.as_given())
    } else {
        call.as_given()
    }
}

/// prlimit64(2), of this or another process; without new limits it only asks.
pub fn prlimit64(call: &mut Call<'_>) -> Raw {
    if is_of_descriptors(call, 1) && !call.address(2).is_null() {
        call.process.changing_limits(|| call.as_given())
    } else {
        call.as_given()
    }
}
