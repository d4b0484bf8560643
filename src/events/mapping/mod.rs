//! Mapping: which table feeds which event, and how its columns become fields. Configuration, not code.

pub mod compile;
mod declared;
pub mod entry;
pub mod readable;
pub mod spec;
mod template;
