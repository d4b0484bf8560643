//! Rows into `data_change_logs`, with the progress in the same transaction.

use std::collections::BTreeSet;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement, Transaction};

use super::row::AuditRow;
use crate::position::Bound;

const LOCK_PROGRESS: &str = "
    SELECT next_offset, position FROM highwater.audit_progress WHERE topic = $1 AND partition = $2 FOR UPDATE";
const BEGIN_PROGRESS: &str = "
    INSERT INTO highwater.audit_progress (topic, partition, next_offset, position) VALUES ($1, $2, 0, $3)
    ON CONFLICT (topic, partition) DO NOTHING";
const MOVE_PROGRESS: &str = "
    UPDATE highwater.audit_progress SET next_offset = $3, position = $4, updated_at = now()
    WHERE topic = $1 AND partition = $2";
const APPEND: &str = "
    INSERT INTO public.data_change_logs (position, changed_at, table_name, record_id, operation, old_values, new_values,
        changed_columns, attributed, changed_by, ip_address, user_agent, request_id, reason, xid)
    SELECT position, changed_at::timestamptz, table_name, record_id, operation, old_values::jsonb, new_values::jsonb,
        changed_columns::text[], attributed, changed_by, ip_address, user_agent, request_id, reason, xid
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[])
        AS rows (position, changed_at, table_name, record_id, operation, old_values, new_values, changed_columns,
            attributed, changed_by, ip_address, user_agent, request_id, reason, xid)
    ON CONFLICT (position, changed_at) DO NOTHING";

const MAKE_DAYS: &str = "
    SELECT highwater.make_audit_day(day) FROM (
        SELECT unnest($1::text[])::date AS day
        UNION SELECT (now() AT TIME ZONE 'UTC')::date + ahead FROM generate_series(0, 2) AS ahead
    ) AS days";

/// How far the audit log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The offset to read next.
    pub next_offset: i64,
    /// Every change below this stands in the log.
    pub position: Bound,
}

/// What came of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The rows stand in the log; this many are new.
    Rows(u64),
    /// The log is elsewhere than the batch builds on, since another worker moved it or it was restored: go on from there.
    Elsewhere(Progress),
}

/// One partition of the history on its way into the log.
#[derive(Debug, Clone)]
pub struct Place {
    /// Full name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
}

/// The log over one connection, with its statements prepared.
pub struct Log {
    client: Client,
    place: Place,
    lock: Statement,
    append: Statement,
    move_progress: Statement,
}

impl Log {
    /// Opens the log for one partition of the history.
    ///
    /// # Errors
    /// What PostgreSQL said; among others, that the schema is not there.
    pub async fn open(client: Client, place: Place) -> Result<Self, Error> {
        let zero = Bound::ZERO.to_string();
        client.execute(BEGIN_PROGRESS, &[&place.topic, &place.partition, &zero]).await?;
        let lock = client.prepare(LOCK_PROGRESS).await?;
        let append = client.prepare(APPEND).await?;
        let move_progress = client.prepare(MOVE_PROGRESS).await?;
        Ok(Self { client, place, lock, append, move_progress })
    }

    /// Returns how far the log is; an empty one is at the beginning.
    ///
    /// # Errors
    /// What PostgreSQL said.
    pub async fn progress(&mut self) -> Result<Progress, Error> {
        let transaction = self.client.transaction().await?;
        lock(&transaction, &self.lock, &self.place).await
    }

    /// Appends a batch that builds on `from`, and moves the progress to `to`, in one transaction.
    ///
    /// The progress row is locked first, so that of two workers the second sees that the first has moved it, and appends
    /// nothing. The rows are unique besides, so that a log which stands beside an older progress gets none twice.
    ///
    /// # Errors
    /// What PostgreSQL said; then nothing was appended, or, where the connection was lost, all or nothing.
    ///
    /// # Panics
    /// If the batch goes back behind what it builds on.
    pub async fn append(&mut self, from: Progress, to: Progress, rows: &[AuditRow]) -> Result<Appended, Error> {
        assert!(to.next_offset >= from.next_offset, "the audit log's progress went back from {from:?} to {to:?}");
        let mut transaction = self.client.transaction().await?;
        let stands = lock(&transaction, &self.lock, &self.place).await?;
        if stands.next_offset != from.next_offset {
            return Ok(Appended::Elsewhere(stands));
        }
        let appended = if rows.is_empty() { 0 } else { append_rows(&mut transaction, &self.append, rows).await? };
        let position = to.position.to_string();
        let values: [&(dyn ToSql + Sync); 4] = [&self.place.topic, &self.place.partition, &to.next_offset, &position];
        transaction.execute(&self.move_progress, &values).await?;
        transaction.commit().await?;
        Ok(Appended::Rows(appended))
    }

    /// Appends rows that the worker passed by, wherever it is now; returns how many are new. Its progress stays.
    ///
    /// # Errors
    /// What PostgreSQL said; then nothing was appended, or, where the connection was lost, all or nothing.
    pub async fn append_late(&mut self, rows: &[AuditRow]) -> Result<u64, Error> {
        let mut transaction = self.client.transaction().await?;
        let appended = append_rows(&mut transaction, &self.append, rows).await?;
        transaction.commit().await?;
        Ok(appended)
    }

    /// Makes the partitions of the given days (`2026-11-21`), of today, and of the two days after.
    ///
    /// # Errors
    /// What PostgreSQL said.
    pub async fn make_days(&self, days: &BTreeSet<String>) -> Result<(), Error> {
        let days: Vec<&str> = days.iter().map(String::as_str).collect();
        self.client.query(MAKE_DAYS, &[&days]).await?;
        Ok(())
    }
}

async fn lock(transaction: &Transaction<'_>, statement: &Statement, place: &Place) -> Result<Progress, Error> {
    let row = transaction.query_one(statement, &[&place.topic, &place.partition]).await?;
    let position: String = row.try_get(1)?;
    // The column's check holds its length; a text that somebody wrote by hand counts as nothing known.
    Ok(Progress { next_offset: row.try_get(0)?, position: position.parse().unwrap_or(Bound::ZERO) })
}

/// Appends all rows at once. Where PostgreSQL refuses a value, each on its own, the refused one with its rows as text:
/// a `json` column may hold what `jsonb` cannot, such as the character NUL or a number beyond numeric.
async fn append_rows(
    transaction: &mut Transaction<'_>,
    statement: &Statement,
    rows: &[AuditRow],
) -> Result<u64, Error> {
    let attempt = transaction.savepoint("batch").await?;
    match insert(&attempt, statement, rows).await {
        Ok(count) => {
            attempt.commit().await?;
            return Ok(count);
        }
        Err(error) if is_refused_value(&error) => attempt.rollback().await?,
        Err(error) => return Err(error),
    }
    let mut appended = 0;
    for row in rows {
        let attempt = transaction.savepoint("row").await?;
        match insert(&attempt, statement, std::slice::from_ref(row)).await {
            Ok(count) => {
                attempt.commit().await?;
                appended += count;
            }
            Err(error) if is_refused_value(&error) => {
                attempt.rollback().await?;
                appended += insert(transaction, statement, &[as_text(row)]).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(appended)
}

/// Class 22 of PostgreSQL's error codes (manual, appendix A): data exception.
fn is_refused_value(error: &Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}

fn as_text(row: &AuditRow) -> AuditRow {
    let text = |values: &Option<String>| values.as_ref().map(|json| serde_json::Value::from(json.as_str()).to_string());
    AuditRow { old_values: text(&row.old_values), new_values: text(&row.new_values), ..row.clone() }
}

async fn insert(transaction: &Transaction<'_>, statement: &Statement, rows: &[AuditRow]) -> Result<u64, Error> {
    fn column<'a, T>(rows: &'a [AuditRow], of: impl Fn(&'a AuditRow) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let values: [&(dyn ToSql + Sync); 15] = [
        &column(rows, |row| row.position.as_str()),
        &column(rows, |row| row.changed_at.as_str()),
        &column(rows, |row| row.table_name.as_str()),
        &column(rows, |row| row.record_id.as_str()),
        &column(rows, |row| row.operation),
        &column(rows, |row| row.old_values.as_deref()),
        &column(rows, |row| row.new_values.as_deref()),
        &column(rows, |row| row.changed_columns.as_deref().map(array_text)),
        &column(rows, |row| row.attributed),
        &column(rows, |row| row.who.user_id.as_deref()),
        &column(rows, |row| row.who.ip_address.as_deref()),
        &column(rows, |row| row.who.user_agent.as_deref()),
        &column(rows, |row| row.who.request_id.as_deref()),
        &column(rows, |row| row.who.reason.as_deref()),
        &column(rows, |row| row.xid),
    ];
    transaction.execute(statement, &values).await
}

/// Writes an array as PostgreSQL reads it (manual, "Array Input and Output Syntax"): each element in quotes.
fn array_text(elements: &[String]) -> String {
    let quoted: Vec<String> =
        elements.iter().map(|element| format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    format!("{{{}}}", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_keeps_commas_quotes_and_backslashes_apart() {
        let elements = ["a,b".to_owned(), "q\"".to_owned(), "\\".to_owned()];
        assert_eq!(array_text(&elements), r#"{"a,b","q\"","\\"}"#);
    }
}
