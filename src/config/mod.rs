//! Configuration: config.toml with the environment over it.
//!
//! Reading has two stages. A [`Document`] is what was written, with its places; a [`Section`] gives it meaning, key by key,
//! with defaults and ranges. Promise: all that is wrong is said at once, each with file, line and the nearest right name,
//! and no secret is ever shown.
//!
//! Each role's settings live in the role's own module, with `fn read(section: &mut Section) -> Self`.

mod client;
mod document;
mod map;
mod place;
mod problems;
mod secret;
mod section;
mod server;
mod source;

pub use document::{Document, ENVIRONMENT_PREFIX};
pub use map::read_map;
pub use place::{Place, Placed};
pub use problems::{ConfigErrors, Problem, instead, nearest};
pub use secret::Secret;
pub use section::Section;
pub use server::Server;
pub use source::Source;

#[cfg(test)]
mod tests;
