//! What each trapped call does, by kind. [`super::dispatch`] has the table.

pub mod attributes;
pub mod credentials;
pub mod descriptors;
pub mod directories;
pub mod files;
pub mod limits;
pub mod memory;
pub mod names;
pub mod refused;
pub mod signals;
pub mod sockets;
pub mod tracing;
