//! The first half of the pipeline: WAL to topics. Promise: every commit of a captured table stands in the topics exactly
//! once, in order, after it is visible on the primary; nothing is acknowledged before it is durable.
//!
//! `session` opens one in the order that the promise rests on (`start` decides where to go on, `standby` who hands out the
//! log), `stream` is its loop, `work` and `rows` turn the log into events, `branch` names their places, `spill` keeps transactions in
//! progress until `replay` sends them the same way, `publisher` writes them with the `progress`, `snapshot` adds what stood in
//! the tables before. `measures` and `watch` tell how far all that is, the one from within, the other beside it.

mod branch;
mod catalogue;
mod check;
mod chunks;
mod error;
mod feeds;
pub mod foreign;
mod gathered;
mod held;
mod lag;
mod letters;
mod lost;
mod marks;
mod measures;
mod names;
mod positions;
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

use std::sync::Arc;
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

use crate::config::Source;
use crate::running::{Attempts, Patience, Shutdown, Standing, told};
use crate::topics::Topics;
use positions::Positions;
use session::Plan;
use stream::Loop;
use watch::watch;

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
    let plan =
        Plan { source, settings, topics, runtime, streaming: settings.streaming, worked: false, replaced: false };
    let positions = Arc::new(Positions::default());
    let watch = runtime.spawn(watch(source.clone(), Arc::clone(&positions), shutdown.clone()));
    let outcome = sessions(plan, &positions, start_deadline, shutdown, standing);
    watch.abort();
    outcome
}

/// Opens one session after the other.
fn sessions(
    mut plan: Plan<'_>,
    positions: &Arc<Positions>,
    start_deadline: Duration,
    shutdown: &Shutdown,
    standing: &Standing,
) -> Result<(), Error> {
    let Plan { source, settings, topics, runtime, .. } = plan;
    let began = Instant::now();
    let mut attempts = Attempts::new(AGAIN);
    while !shutdown.is_cancelled() {
        let opened = plan.open();
        plan.worked |= opened.is_ok();
        let outcome = opened.and_then(|session| {
            standing.ready();
            counter!("highwater_capture_sessions_started_total").increment(1);
            attempts = Attempts::new(AGAIN);
            Loop::new(session, source.slot.clone(), settings, shutdown, Arc::clone(positions)).run()
        });
        let Err(error) = outcome else { return Ok(()) };
        counter!("highwater_capture_sessions_ended_total", "reason" => reason(&error)).increment(1);
        // Another capture that is at work is as good as a session that was: this one is needed just when servers fail.
        plan.worked |= error.is_slot_busy();
        // Who was let in before, or reads a standby's log, is not refused for good.
        let let_in_again = error.is_refused_login() && (plan.worked || source.standby.is_some());
        let without_streaming = error.forbids_streaming().filter(|_| plan.streaming);
        let replaced = without_streaming.is_none() && plan.replaces_slot(&error);
        let may_pass = error.is_transient() || let_in_again || without_streaming.is_some() || replaced;
        if !may_pass || (!plan.worked && began.elapsed() > start_deadline) {
            return Err(error);
        }
        if let Some(kind) = without_streaming {
            // What cannot be kept here, or streamed, the server keeps on its own disk; trying again would end the same way.
            plan.streaming = false;
            counter!("highwater_capture_streaming_given_up_total", "reason" => kind).increment(1);
            let reason = told(&error);
            warn!(
                reason,
                "capture goes on without streaming until it is started again: the server keeps large transactions"
            );
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
        Error::Decoding { .. } => "decoding",
        Error::AlteredMeanwhile { .. } => "altered",
        _ => "refused",
    }
}
