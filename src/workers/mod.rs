//! The workers: each keeps one copy at the high-water mark.

pub mod audit;
pub mod cache;
mod commit_age;
pub mod storefront;

pub use commit_age::commit_age;
