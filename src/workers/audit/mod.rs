//! The history into `data_change_logs`: who changed what, when, from what to what.
//!
//! Promise: every change of the history stands in the log once, in commit order, and the log's progress moves in the same
//! transaction as its rows.

mod late;
mod row;
mod settings;
mod sink;
mod worker;

pub use late::append_late;
pub use row::{AuditRow, NoRow, Who, audit_row};
pub use settings::Settings;
pub use sink::{Appended, Log, Place, Progress};
pub use worker::Worker;
