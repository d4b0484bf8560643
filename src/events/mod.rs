//! Typed events: their wire form, and how rows become them.

pub mod envelope;
