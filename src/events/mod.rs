//! Typed events: their wire form, and how rows become them.

pub mod envelope;
pub mod json;
pub mod mapping;
pub mod row;
