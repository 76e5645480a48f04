//! resolve

pub mod conf;
pub mod glob;
