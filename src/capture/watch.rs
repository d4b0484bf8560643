//! How far the slot is behind its server, asked beside capture, so that it is told while no session works, too: a slot that
//! nobody reads keeps WAL until the disk is full, or is lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_postgres::{Error, client};
use metrics::gauge;
use tokio_postgres::{Client, Row};
use tracing::debug;

use crate::config::Source;
use crate::running::{Shutdown, told};

const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

const SLOT: &str = "
    SELECT pg_wal_lsn_diff(now.lsn, confirmed_flush_lsn)::float8, pg_wal_lsn_diff(now.lsn, restart_lsn)::float8,
           safe_wal_size::float8, active
    FROM pg_replication_slots,
         (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn) AS now
    WHERE slot_name = $1";

/// Measures the slot until the shutdown. A server that does not answer is asked again; the time of the newest answer tells.
pub async fn watch_slot(source: &Source, shutdown: &Shutdown) {
    let mut client = None;
    loop {
        match tokio::time::timeout(ANSWER, ask(source, client.take())).await {
            Ok(Ok((row, connected))) => {
                row.iter().for_each(show);
                client = Some(connected);
            }
            Ok(Err(error)) => debug!(error = told(&error), "the slot is not measured"),
            Err(_) => debug!(after = ?ANSWER, "the slot is not measured: no answer"),
        }
        if tokio::time::timeout(EVERY, shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn ask(source: &Source, client: Option<Client>) -> Result<(Option<Row>, Client), Error> {
    let client = match client {
        Some(client) => client,
        None => client::connect(&source.log().postgres("highwater slot")?).await?,
    };
    let row = client.query_opt(SLOT, &[&source.slot]).await?;
    Ok((row, client))
}

fn show(row: &Row) {
    let number = |at| row.get::<_, Option<f64>>(at);
    if let Some(bytes) = number(0) {
        gauge!("highwater_slot_behind_bytes").set(bytes);
    }
    if let Some(bytes) = number(1) {
        gauge!("highwater_slot_retained_bytes").set(bytes);
    }
    if let Some(bytes) = number(2) {
        gauge!("highwater_slot_safe_bytes").set(bytes);
    }
    gauge!("highwater_slot_active").set(f64::from(u8::from(row.get::<_, bool>(3))));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!("highwater_slot_measured_timestamp_seconds").set(now.as_secs_f64());
}
