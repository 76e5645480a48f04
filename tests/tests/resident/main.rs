//! Programs that are kept resident: they find and say what they do otherwise, and are started normally whenever anything is not as it was.

#[path = "../engine_traps/guest.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod guest;
mod kept;
mod key;
mod programs;
