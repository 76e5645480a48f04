//! Programs that are kept resident: they find and say what they do otherwise, and are started normally whenever anything is not as it was.

mod features;
#[path = "../engine_traps/guest.rs"]
#[allow(dead_code, reason = "shared with the traps")]
mod guest;
mod inspected;
mod kept;
mod key;
mod parts;
mod programs;
