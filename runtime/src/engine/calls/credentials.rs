//! Calls that change who the guest is, and with it which directories it may search.

use crate::engine::call::Call;
use crate::sys::raw::Raw;

/// setuid(2) and its kin, setgroups(2), capset(2).
pub fn change(call: &mut Call<'_>) -> Raw {
    let result = call.as_given();
    if let Some(coherence) = call.process.coherence {
        coherence.end_leases();
    }
    result
}
