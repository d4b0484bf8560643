//! Watches the copies from outside: how long does a change take from its commit to each of them?
//!
//! Every copy is measured against the commit's own time, which stands in the event and in the audit row: what PostgreSQL
//! noted before it wrote the commit to disk. So the disk is part of each latency.

mod audit;
mod browser;
pub mod clock;
mod kafka;
mod latency;
mod redis;
mod sightings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::Endpoints;
use crate::ledger::{Copy, Ledger};
use latency::Latency;
pub use latency::Quantiles;
use sightings::Sightings;

/// Running observers.
pub struct Observers {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<()>>,
    reader: Option<tokio::task::JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    latencies: [Latency; Copy::ALL.len()],
    repeated: AtomicU64,
    ledger: Arc<Ledger>,
    sightings: Sightings,
}

impl Shared {
    fn latency(&self, copy: Copy) -> &Latency {
        &self.latencies[copy as usize]
    }
}

/// What an event, an entry or an audit row says of a part's stock.
#[derive(Deserialize)]
struct StockLevel {
    part_id: i64,
    version: i32,
}

impl StockLevel {
    fn shown(&self, ledger: &Ledger, copy: Copy) {
        ledger.shown(copy, self.part_id, self.version);
    }
}

impl Observers {
    /// Starts watching what comes from now on.
    ///
    /// # Errors
    /// A copy that cannot be reached.
    pub async fn start(endpoints: &Endpoints, ledger: Arc<Ledger>) -> Result<Self> {
        let latencies = [Latency::new()?, Latency::new()?, Latency::new()?, Latency::new()?];
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            latencies,
            repeated: AtomicU64::new(0),
            ledger,
            sightings: Sightings::default(),
        });
        // From here on a failure drops the observers, which stops those that run already.
        let mut observers = Self { shared: Arc::clone(&shared), tasks: JoinSet::new(), reader: None };

        let of_kafka = endpoints.clone();
        let consumer = tokio::task::spawn_blocking(move || kafka::open(&of_kafka)).await??;
        let reading = Arc::clone(&shared);
        observers.reader = Some(tokio::task::spawn_blocking(move || kafka::observe(&consumer, &reading)));

        let (notifications, connection) = redis::open(endpoints).await?;
        observers.tasks.spawn(redis::observe(notifications, connection, Arc::clone(&shared)));

        let database = Endpoints::connect(&endpoints.admin_database).await?;
        let newest = audit::open(&database).await?;
        observers.tasks.spawn(audit::observe(database, newest, Arc::clone(&shared)));

        let socket = browser::open(endpoints).await?;
        observers.tasks.spawn(browser::observe(socket, shared));
        Ok(observers)
    }

    /// Returns the latencies of a copy so far.
    #[must_use]
    pub fn so_far(&self, copy: Copy) -> Quantiles {
        self.shared.latency(copy).so_far()
    }

    /// Returns how many records were seen again, because the transaction that they stood in was aborted.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.shared.repeated.load(Ordering::Relaxed)
    }

    /// Forgets what was measured so far.
    pub fn forget(&self) {
        self.shared.latencies.iter().for_each(Latency::forget);
    }

    /// Returns the failure of an observer that has ended, if one has.
    pub fn failure(&mut self) -> Option<anyhow::Error> {
        match self.tasks.try_join_next()? {
            Ok(Ok(())) => Some(anyhow::anyhow!("a connection of the observers was closed")),
            Ok(Err(error)) => Some(error),
            Err(panic) => Some(panic.into()),
        }
    }

    /// Stops watching.
    ///
    /// # Errors
    /// An observer that panicked.
    pub async fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        if let Some(reader) = self.reader.take() {
            reader.await.context("the reader of Kafka panicked")?;
        }
        Ok(())
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        // A blocking thread cannot be aborted.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
