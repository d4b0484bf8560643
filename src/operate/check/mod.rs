//! `highwater check`: what would go wrong, said before the start, each with the command that mends it.
//!
//! It changes nothing, but that connecting to Redis loads the function library. Every server is asked for facts, and plain
//! functions judge them.

mod audit;
mod brokers;
mod cache;
mod clock;
mod connections;
mod held;
mod ports;
mod publication;
mod report;
mod server;
mod slot;
mod source;
mod spill;
mod standby;
mod table_facts;
mod tables;
mod topics;
mod transactions;
mod unreachable;

pub use report::{Finding, Grade, Report};

use crate::roles::{Config, Role};

/// Checks what the roles need.
pub async fn check(config: &Config, roles: &[Role]) -> Report {
    let mut report = Report::default();
    let published = topics::check(config, roles.contains(&Role::Capture), &mut report).await;
    if roles.contains(&Role::Capture) {
        source::check(config, &published, &mut report).await;
        spill::check(config, &mut report);
    }
    if roles.contains(&Role::Cache) {
        cache::check(config, &mut report).await;
    }
    if roles.contains(&Role::Audit) {
        audit::check(config, &mut report).await;
    }
    ports::check(config, roles, &mut report).await;
    report
}
