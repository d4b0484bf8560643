//! How far capture and its slot are behind the server, asked beside capture, so that it is told while no session works, or
//! one that works is stuck: a slot that nobody reads keeps WAL until the disk is full, or is lost.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater_postgres::{Error, Lsn};
use metrics::gauge;
use tracing::debug;

use super::lag::Ends;
use super::measures::as_f64;
use super::positions::{Positions, Stage};
use super::slot::{SlotServers, SlotStanding};
use crate::config::Source;
use crate::running::{Shutdown, told};

/// How often it is asked: two short questions.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What the servers said.
struct Answer {
    /// Where the primary's log ends.
    end: Option<Lsn>,
    slot: Option<SlotStanding>,
}

/// Measures the slot and the stages until the shutdown. A server that does not answer is asked again; the time of the newest
/// answer tells.
pub(super) async fn watch(source: Source, positions: Arc<Positions>, shutdown: Shutdown) {
    let mut servers = None;
    let mut ends = Ends::default();
    let mut acknowledged = Lsn::ZERO;
    loop {
        match tokio::time::timeout(ANSWER, ask(&source, servers.take())).await {
            Ok(Ok((answer, connected))) => {
                if let Some(end) = answer.end {
                    ends.see(end, Instant::now());
                    gauge!("highwater_capture_server_lsn").set(as_f64(end.0));
                }
                if let Some(slot) = &answer.slot {
                    acknowledged = slot.confirmed.as_deref().and_then(|lsn| lsn.parse().ok()).unwrap_or(acknowledged);
                    show_slot(slot);
                }
                servers = Some(connected);
            }
            Ok(Err(error)) => debug!(error = told(&error), "the slot is not measured"),
            Err(_) => debug!(after = ?ANSWER, "the slot is not measured: no answer"),
        }
        // Without an answer, too: what was behind is so for longer now.
        show_stages(&mut ends, &positions, acknowledged, Instant::now());
        if tokio::time::timeout(EVERY, shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn ask(source: &Source, servers: Option<SlotServers>) -> Result<(Answer, SlotServers), Error> {
    let servers = match servers {
        Some(servers) => servers,
        None => SlotServers::connect(source, "highwater slot", ANSWER).await?,
    };
    let end = servers.end().await?;
    let slot = servers.standing(&source.slot, end).await?;
    Ok((Answer { end, slot }, servers))
}

fn show_stages(ends: &mut Ends, positions: &Positions, acknowledged: Lsn, now: Instant) {
    // Whatever is acknowledged has passed every stage: of this process, or of the one at work while this one stands by.
    let passed = Stage::ALL.map(|stage| positions.of(stage).max(acknowledged));
    ends.forget(passed.into_iter().min().unwrap_or_default());
    for (stage, position) in Stage::ALL.into_iter().zip(passed) {
        // Before the first slot there is nothing to be behind with.
        if position == Lsn::ZERO {
            continue;
        }
        if let (Some(bytes), Some(time)) = (ends.bytes_behind(position), ends.time_behind(position, now)) {
            gauge!("highwater_capture_lag_bytes", "stage" => stage.name()).set(as_f64(bytes));
            gauge!("highwater_capture_lag_seconds", "stage" => stage.name()).set(time.as_secs_f64());
        }
    }
}

fn show_slot(standing: &SlotStanding) {
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
