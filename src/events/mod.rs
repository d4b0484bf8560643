//! Typed events: their wire form, and how rows become them.
//!
//! `row` is what the log gives, `mapping` says what becomes of it, `state` and `history` write it, `envelope` reads it.

pub mod draft;
pub mod envelope;
pub mod history;
pub mod json;
pub mod mapping;
pub mod mark;
pub mod row;
pub mod state;
#[cfg(test)]
mod tests;
