//! The second half of the pipeline: topics to workers. Promise: a worker is given each partition's events in order, none
//! twice but where it starts, none left out without a word.
//!
//! One loop ([`deliver`]) serves every [`Worker`]. It reads uncommitted, so events come at once, and drops what a restarted
//! capture sends again ([`NewerOnly`]). A worker keeps the offset beside its data and says what went wrong by a [`Fault`]:
//! transient ones are tried again for ever while other partitions go on, poison goes to the dead letters, fatal ones stop
//! the worker. The counts in marks are compared with what was read ([`Counted`]).

mod backoff;
mod counted;
pub mod dead_letter;
mod lag;
mod lane;
mod newer;
mod run;
mod start;
mod worker;

pub use backoff::Backoff;
pub use counted::{Counted, Gap};
pub use newer::NewerOnly;
pub use run::{Feed, Stopped, deliver};
pub use worker::{Batch, Fault, Item, Partition, Resume, Whence, Worker};
