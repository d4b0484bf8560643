//! The demo: a shop that lives. It fills a database, keeps admin-like writes going, watches from outside how long each
//! change takes to every copy, and checks the copies against the database by itself. It shares no code with the pipeline
//! that it watches, so that the two cannot be wrong in the same way.

pub mod check;
pub mod endpoints;
pub mod generate;
pub mod ledger;
pub mod observe;
pub mod run;
pub mod schema;
pub mod write;

pub use endpoints::Endpoints;
