//! The first half of the pipeline: WAL to topics. Promise: every commit of a captured table stands in the topics exactly
//! once, in order, after it is visible on the primary; nothing is acknowledged before it is durable.
//!
//! `session` opens one in the order that the promise rests on (`start` decides where to go on, `standby` who hands out the
//! log), `stream` is its loop, `work` and `rows` turn the log into events, `branch` names their places, `spill` keeps transactions in
//! progress until `replay` sends them the same way, `publisher` writes them with the `progress`, `snapshot` adds what stood in
//! the tables before.

mod branch;
mod check;
mod chunks;
mod error;
mod feeds;
pub mod foreign;
mod gathered;
mod held;
mod lost;
mod marks;
mod measures;
mod names;
pub mod progress;
mod publisher;
mod replay;
mod request;
mod rows;
mod session;
mod settings;
mod settling;
#[cfg(test)]
mod simulation;
mod slot;
mod snapshot;
mod spill;
mod standby;
pub mod start;
mod stream;
mod tables;
mod through;
mod transaction;
mod visible;
mod watch;
mod work;

use std::time::{Duration, Instant};

use metrics::counter;
use tokio::runtime::Handle;
use tracing::{info, warn};

pub use check::{Beginning, MappingCheck, check_mapping, look_at_beginning, spill_room};
pub use error::Error;
pub use held::Held;
pub use request::Request;
pub(crate) use session::TRANSACTION_TIMEOUT;
pub use settings::{OnLostSlot, Settings};
pub use slot::{SlotServers, SlotStanding};
pub use spill::SpillError;
pub use standby::{OLDEST_STANDBY, Primary};
pub use watch::watch_slot;

use crate::config::Source;
use crate::running::{Attempts, Patience, Shutdown, Standing, told};
use crate::topics::Topics;
use session::Plan;
use stream::Loop;

/// How a session that ended is followed by the next: quickly at first, since a takeover should take seconds.
const AGAIN: Patience = Patience {
    first: Duration::from_millis(100),
    longest: Duration::from_secs(2),
    // A source or broker that is away for long is waited for: capture has nothing better to do, and says so.
    deadline: Duration::MAX,
};

/// Captures until the shutdown. Blocks: it belongs on a thread of its own.
///
/// A session that ends by a fault that may pass is followed by another; before the first has worked, for at most
/// `start_deadline`.
///
/// # Errors
/// A fault that only an operator can mend.
pub fn run(
    source: &Source,
    settings: &Settings,
    topics: &Topics,
    start_deadline: Duration,
    runtime: &Handle,
    shutdown: &Shutdown,
    standing: &Standing,
) -> Result<(), Error> {
    let mut plan = Plan { source, settings, topics, runtime, streaming: settings.streaming };
    let began = Instant::now();
    let mut worked = false;
    let mut attempts = Attempts::new(AGAIN);
    while !shutdown.is_cancelled() {
        let outcome = plan.open().and_then(|session| {
            standing.ready();
            counter!("highwater_capture_sessions_started_total").increment(1);
            worked = true;
            attempts = Attempts::new(AGAIN);
            Loop::new(session, source.slot.clone(), settings, shutdown).run()
        });
        let Err(error) = outcome else { return Ok(()) };
        // Another capture at work is no fault: this one stands by, however long that takes.
        let stands_by = error.is_slot_busy();
        counter!("highwater_capture_sessions_ended_total", "reason" => reason(&error)).increment(1);
        // It will be needed just when servers fail: from here on it is as patient as one that has worked.
        worked |= stands_by;
        if !error.is_transient() || (!worked && began.elapsed() > start_deadline) {
            return Err(error);
        }
        if let Error::Spill(reason) = &error {
            // What cannot be kept here the server keeps on its own disk; trying again would end the same way.
            plan.streaming = false;
            counter!("highwater_capture_streaming_given_up_total", "reason" => reason.kind()).increment(1);
            warn!(%reason, "capture goes on without streaming until it is started again: the server keeps large transactions");
        }
        standing.waits_for(told(&error));
        let pause = attempts.failed(Duration::ZERO).unwrap_or(AGAIN.longest);
        warn!(error = told(&error), server = %source.log(), brokers = topics.brokers, retry_in = ?pause, "capture will start a new session");
        runtime.block_on(async { tokio::time::timeout(pause, shutdown.cancelled()).await.ok() });
    }
    info!("capture stopped");
    Ok(())
}

/// Returns why a session ended, as a label.
fn reason(error: &Error) -> &'static str {
    match error {
        error if error.is_slot_busy() => "slot_busy",
        Error::Source(_) => "source",
        Error::Snapshot(_) => "snapshot",
        Error::Producer(_) | Error::Topics(_) => "kafka",
        Error::Spill(_) => "spill",
        Error::NotOneLog(_) => "standby",
        _ => "refused",
    }
}
