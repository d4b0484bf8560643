//! What an operator asks of a pipeline from outside: would it start, how does it stand; and what is done beside it.

pub mod check;
mod database;
pub mod dead_letters;
pub mod replay;
pub mod snapshot;
pub mod status;

pub use database::connect;
