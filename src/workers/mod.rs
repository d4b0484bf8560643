//! The workers: each keeps one copy at the high-water mark.

pub mod audit;
