//! The audit log against the history, and against what the writers noted in their own transactions.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, Value};
use tokio_postgres::Client;

use super::history::Change;
use super::report::Section;
use crate::write::NEVER;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(50);

/// A row of `data_change_logs`.
struct Logged {
    position: String,
    time: String,
    table: String,
    record: String,
    operation: String,
    rows: [Option<Map<String, Value>>; 2],
    by: [Option<String>; 4],
    attributed: bool,
    xid: Option<i64>,
}

/// Waits until the log has taken in the history up to this offset.
pub(super) async fn wait(
    client: &Client,
    topic: &str,
    offset: Option<i64>,
    deadline: Instant,
    section: &mut Section,
) -> Result<()> {
    section.compared();
    let Some(offset) = offset else { return Ok(()) };
    let statement = "SELECT max(next_offset) FROM highwater.audit_progress WHERE topic = $1";
    loop {
        let next: Option<i64> = client.query_one(statement, &[&topic]).await?.get(0);
        if next.is_some_and(|next| next > offset) {
            return Ok(());
        }
        if Instant::now() > deadline {
            section.differs(|| {
                format!("the audit log is at offset {next:?} of {topic}, whose last change is at {offset}")
            });
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Compares the log with the history, one by one in the order of the Positions.
pub(super) async fn compare(client: &Client, changes: &[Change], section: &mut Section) -> Result<()> {
    let logged = read(client).await?;
    let mut logged = logged.iter().peekable();
    for change in changes {
        section.compared();
        while let Some(stray) = logged.next_if(|row| row.position < change.position) {
            section.differs(|| format!("audit row {} {}: no such change in the history", stray.position, stray.table));
        }
        let Some(row) = logged.next_if(|row| row.position == change.position) else {
            section.differs(|| format!("{} {}: no audit row", change.position, change.data.table));
            continue;
        };
        let differences = differences(row, change);
        if !differences.is_empty() {
            section.differs(|| format!("audit row {}: {}", row.position, differences.join(", ")));
        }
        if let Some(double) = logged.next_if(|row| row.position == change.position) {
            section.differs(|| format!("audit row {} stands there twice", double.position));
        }
    }
    for stray in logged {
        section.differs(|| format!("audit row {} {}: no such change in the history", stray.position, stray.table));
    }
    Ok(())
}

async fn read(client: &Client) -> Result<Vec<Logged>> {
    let statement = "SELECT position, to_char(changed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                            table_name, record_id, operation, old_values::text, new_values::text, changed_by, ip_address,
                            request_id, reason, attributed, xid
                     FROM data_change_logs ORDER BY position";
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    let rows = client.query(statement, &[]).await?;
    let logged = rows.iter().map(|row| Logged {
        position: row.get(0),
        time: row.get(1),
        table: row.get(2),
        record: row.get(3),
        operation: row.get(4),
        rows: [json(row.get(5)), json(row.get(6))],
        by: [row.get(7), row.get(8), row.get(9), row.get(10)],
        attributed: row.get(11),
        xid: row.get(12),
    });
    Ok(logged.collect())
}

fn differences(row: &Logged, change: &Change) -> Vec<&'static str> {
    let data = &change.data;
    let record = match &data.key {
        None => "*".to_owned(),
        Some(key) => key.get("id").map(|id| id.to_string().trim_matches('"').to_owned()).unwrap_or_default(),
    };
    let by = ["user_id", "ip_address", "request_id", "reason"].map(|name| data.claimed(name));
    let checks = [
        ("time", row.time == change.time),
        ("table", row.table == data.table),
        ("record", row.record == record),
        ("operation", row.operation == change.operation),
        ("old values", row.rows[0] == data.old),
        ("new values", row.rows[1] == data.new),
        ("who", row.by == by),
        ("attributed", row.attributed == data.context.as_ref().is_some_and(Value::is_object)),
        ("xid", row.xid == change.xid),
    ];
    checks.into_iter().filter(|(_, right)| !right).map(|(name, _)| name).collect()
}

/// Compares the history with the notes that each write left in its own transaction: none lost, none of a rolled-back one.
pub(super) async fn compare_with_notes(client: &Client, changes: &[Change], section: &mut Section) -> Result<()> {
    let present: bool = client.query_one("SELECT to_regclass('demo.writes') IS NOT NULL", &[]).await?.get(0);
    if !present {
        return Ok(());
    }
    let mut shown: HashMap<i64, Vec<&Change>> = HashMap::new();
    for change in changes {
        if let Some(xid) = change.xid {
            shown.entry(xid).or_default().push(change);
        }
        if change.data.claimed("reason").as_deref() == Some(NEVER) {
            section.differs(|| format!("{} shows a context that was rolled back", change.position));
        }
    }
    for row in client.query("SELECT xid, request_id, changes FROM demo.writes ORDER BY xid", &[]).await? {
        section.compared();
        let (xid, request, count): (i64, Option<String>, i32) = (row.get(0), row.get(1), row.get(2));
        let found = shown.get(&xid).map_or(&[][..], Vec::as_slice);
        if i64::try_from(found.len()).ok() != Some(i64::from(count)) {
            section.differs(|| format!("transaction {xid} made {count} changes, the history has {}", found.len()));
        }
        if let Some(change) = found.iter().find(|change| change.data.claimed("request_id") != request) {
            section.differs(|| format!("{}: the request was {request:?}", change.position));
        }
    }
    Ok(())
}
