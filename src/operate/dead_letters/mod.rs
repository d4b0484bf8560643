//! `highwater dead-letters list|retry`: what could not be applied, and its second chance.
//!
//! Promise: a letter stays in its topic for ever. A retry that works is noted behind it (header `settles`); one that
//! fails, or a process that dies in between, leaves the letter as it was, and it can be retried again.
//!
//! What a retry means, by who failed:
//!
//! - `cache`: the event's changes go through the same plan and the same fenced functions as a replay's. A fence or an entry
//!   that is newer refuses them, so that an older event never covers a newer one. The worker's progress stays.
//! - `audit`: the row is appended beside the worker's progress. Rows are unique by Position and ordered by it, so that a
//!   late one stands where it belongs, and one that is there already stays alone.
//! - `storefront`: refused. The gateway keeps no copy, and the pages that were open have long passed the event.
//! - `capture`: its letter refers to a row, and has no event. The row's whole table is read again, beside live changes, by
//!   whichever capture is at work; once for all letters of the table. A letter that names no mapped table is refused.

mod letter;
mod list;
mod retry;
mod topic;

pub use letter::{Letter, Origin};
pub use list::{List, list};
pub use retry::{Chosen, Outcome, retry};
