//! An ordinary connection for a question or two. Promise: none of them waits longer than a deadline, whoever holds a lock on what
//! it looks at, and then it is said who does.

use std::fmt;
use std::time::Duration;

use highwater_postgres::{Error, client};
use tokio_postgres::{Client, Row};

use crate::config::Server;

/// Longest wait for one answer of a server.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for all answers of a server that has stopped to say anything.
const ALL_ANSWERS: Duration = Duration::from_mins(1);

/// Connects with the password that belongs to the server; it ends every statement after `ANSWER`.
///
/// # Errors
/// A URL that the connector does not know, or what the server says.
pub async fn connect(server: &Server, application_name: &str) -> Result<Client, Error> {
    let config = server.postgres(application_name)?.with_connect_timeout(ANSWER).with_statement_timeout(ANSWER);
    client::connect(&config).await
}

/// Waits for a server's answers, but not for ever.
pub(super) async fn within<T>(answers: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Err(Error::Timeout { waiting_for: "the server's answers".to_owned(), after: ALL_ANSWERS });
    tokio::time::timeout(ALL_ANSWERS, answers).await.unwrap_or_else(late)
}

/// Who holds tables so that nobody else can look at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Of its server process; none for a prepared transaction.
    pid: Option<i32>,
    role: String,
    tables: String,
}

/// Who keeps statements waiting: only ACCESS EXCLUSIVE stands in the way of who merely looks (manual, "Table-Level Locks").
const HOLDERS: &str = "
    SELECT l.pid, coalesce(min(a.usename::text), 'unknown'), string_agg(DISTINCT l.relation::regclass::text, ', ')
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock' AND c.relkind IN ('r', 'p', 'v', 'm')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY l.pid ORDER BY l.pid";

/// Returns who holds locks where the server ended a statement that took too long; none where it failed for another reason.
pub(super) async fn holders(client: &Client, error: &Error) -> Option<Vec<Holder>> {
    if !matches!(error.code(), Some("55P03" | "57014")) {
        return None;
    }
    let read = |row: &Row| Holder { pid: row.get(0), role: row.get(1), tables: row.get(2) };
    let rows = client.query(HOLDERS, &[]).await.unwrap_or_default();
    Some(rows.iter().map(read).collect())
}

/// Returns what ends a wait for these.
pub(super) fn end_of(holders: &[Holder]) -> String {
    let pids = holders.iter().filter_map(|holder| holder.pid);
    let ends: Vec<String> = pids.map(|pid| format!("SELECT pg_terminate_backend({pid});")).collect();
    let prepared = holders.iter().any(|holder| holder.pid.is_none());
    let prepared = if prepared { "; COMMIT PREPARED or ROLLBACK PREPARED what pg_prepared_xacts shows" } else { "" };
    match &ends[..] {
        [] if prepared.is_empty() => "see pg_blocking_pids() and pg_locks while it waits; then try again".to_owned(),
        [] => format!("see pg_locks{prepared}"),
        ends => format!("wait for its end, or end it: {}{prepared}", ends.join(" ")),
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "server process {pid} of {} holds {}", self.role, self.tables),
            None => write!(f, "a prepared transaction holds {}", self.tables),
        }
    }
}

/// Returns what a statement that took too long waited for, as a clause.
pub(super) fn waited_for(holders: &[Holder]) -> String {
    let all: Vec<String> = holders.iter().map(Holder::to_string).collect();
    if all.is_empty() { String::new() } else { format!("; {} under ACCESS EXCLUSIVE", all.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_a_lock_is_named_with_what_ends_it() {
        let holder = |pid| Holder { pid, role: "shop".into(), tables: "parts, prices".into() };
        assert_eq!(
            waited_for(&[holder(Some(7))]),
            "; server process 7 of shop holds parts, prices under ACCESS EXCLUSIVE"
        );
        assert_eq!(end_of(&[holder(Some(7))]), "wait for its end, or end it: SELECT pg_terminate_backend(7);");
        assert!(end_of(&[holder(None)]).contains("ROLLBACK PREPARED"));
        assert!(end_of(&[]).contains("pg_blocking_pids()") && waited_for(&[]).is_empty());
    }
}
