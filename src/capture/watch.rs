//! How far the slot is behind its server, asked beside capture, so that it is told while no session works, too: a slot that
//! nobody reads keeps WAL until the disk is full, or is lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_postgres::Error;
use metrics::gauge;
use tracing::debug;

use super::measures::as_f64;
use super::slot::{SlotServers, SlotStanding};
use crate::config::Source;
use crate::running::{Shutdown, told};

const EVERY: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Measures the slot until the shutdown. A server that does not answer is asked again; the time of the newest answer tells.
pub async fn watch_slot(source: &Source, shutdown: &Shutdown) {
    let mut servers = None;
    loop {
        match tokio::time::timeout(ANSWER, ask(source, servers.take())).await {
            Ok(Ok((standing, connected))) => {
                standing.iter().for_each(show);
                servers = Some(connected);
            }
            Ok(Err(error)) => debug!(error = told(&error), "the slot is not measured"),
            Err(_) => debug!(after = ?ANSWER, "the slot is not measured: no answer"),
        }
        if tokio::time::timeout(EVERY, shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn ask(source: &Source, servers: Option<SlotServers>) -> Result<(Option<SlotStanding>, SlotServers), Error> {
    let servers = match servers {
        Some(servers) => servers,
        None => SlotServers::connect(source, "highwater slot", ANSWER).await?,
    };
    Ok((servers.ask(&source.slot).await?, servers))
}

fn show(standing: &SlotStanding) {
    if let Some(bytes) = standing.behind_bytes {
        gauge!("highwater_slot_behind_bytes").set(as_f64(bytes.unsigned_abs()));
    }
    if let Some(bytes) = standing.retained_bytes {
        gauge!("highwater_slot_retained_bytes").set(as_f64(bytes.unsigned_abs()));
    }
    if let Some(bytes) = standing.safe_bytes {
        gauge!("highwater_slot_safe_bytes").set(as_f64(bytes.unsigned_abs()));
    }
    gauge!("highwater_slot_active").set(f64::from(u8::from(standing.active)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    gauge!("highwater_slot_measured_timestamp_seconds").set(now.as_secs_f64());
}
