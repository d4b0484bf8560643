//! Keeps admin-like writes going, at a rate, on several connections.
//!
//! The schedule is open: a write has its time whether or not those before it are done, so that a slow answer makes the
//! writes behind it late instead of making them disappear, and the latency is measured from the time a write was due.
//!
//! Each transaction notes in `demo.writes` what it changed, in the same transaction. So the checker knows the truth even of
//! those whose commit was never answered.

mod apply;
mod context;
mod plan;
mod session;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::Endpoints;
use crate::ledger::Ledger;
use plan::{Planner, Stock};
use session::Session;

/// What the writers note of themselves; not captured.
const NOTES: &str = "
    CREATE SCHEMA IF NOT EXISTS demo;
    CREATE TABLE IF NOT EXISTS demo.writes (
        xid        bigint  NOT NULL, -- the low 32 bits, as the log shows them
        request_id text,             -- null: the write claimed no context
        changes    integer NOT NULL, -- rows of captured tables
        PRIMARY KEY (xid)
    );
    GRANT USAGE ON SCHEMA demo TO shop_app;
    GRANT INSERT ON demo.writes TO shop_app";

/// Reason that the writers give where they roll back: no copy may ever show it.
pub const NEVER: &str = "rolled back, never to be seen";

/// A write that is later than this is dropped from the schedule and counted: the server was away.
const LATEST: Duration = Duration::from_secs(2);

/// How long a transaction may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to reach a server that is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Transactions per second, over all connections.
    pub rate: u32,
    /// Connections that write at the same time.
    pub connections: u32,
    /// The same seed plans the same writes for each connection.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { rate: 200, connections: 4, seed: 1 }
    }
}

/// What came of the writes.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Transactions whose commit was acknowledged.
    pub committed: u64,
    /// Rows of captured tables that they changed.
    pub changes: u64,
    /// Transactions rolled back on purpose.
    pub rolled_back: u64,
    /// Transactions that met another's: a version that had moved on, a deadlock, a row that was gone.
    pub conflicts: u64,
    /// Transactions that failed otherwise, mostly for want of a server; their outcome may be unknown.
    pub failed: u64,
    /// Writes dropped from the schedule, because the server was away when they were due.
    pub skipped: u64,
    /// The last failure's text.
    pub last_failure: Option<String>,
    /// Microseconds from when a write was due to the acknowledgement of its commit.
    pub latency_us: Histogram<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, changes, rolled_back, conflicts, failed, skipped, .. } = self;
        writeln!(f, "{committed} transactions with {changes} changes committed, {rolled_back} rolled back,")?;
        writeln!(f, "{conflicts} met another, {failed} failed, {skipped} skipped because the server was away")?;
        let at = |quantile| Duration::from_micros(self.latency_us.value_at_quantile(quantile));
        writeln!(f, "due → committed: p50 {:?}, p99 {:?}, max {:?}", at(0.5), at(0.99), at(1.0))?;
        match &self.last_failure {
            Some(failure) => writeln!(f, "last failure: {failure}"),
            None => Ok(()),
        }
    }
}

/// Running writers.
pub struct Writers {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    database: String,
    started: Instant,
    next: AtomicU64,
    stock: Stock,
    ledger: Option<Arc<Ledger>>,
    counts: Counts,
    latency_us: Mutex<Histogram<u64>>,
    last_failure: Mutex<Option<String>>,
}

#[derive(Default)]
struct Counts {
    committed: AtomicU64,
    changes: AtomicU64,
    rolled_back: AtomicU64,
    conflicts: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
}

/// How one transaction ended.
enum Outcome {
    /// Acknowledged, with its number of changed rows and the stock versions that it set.
    Committed {
        changes: u64,
        stock: Vec<(i64, i32)>,
    },
    RolledBack,
    Conflict,
}

impl Writers {
    /// Starts writing. Acknowledged stock levels are told to the ledger.
    ///
    /// # Errors
    /// A database that cannot be reached, or that has no parts.
    pub async fn start(endpoints: &Endpoints, options: Options, ledger: Option<Arc<Ledger>>) -> Result<Self> {
        let admin = Endpoints::connect(&endpoints.admin_database).await?;
        admin.batch_execute(NOTES).await.context("cannot make the table of the writers' notes")?;
        let row = admin.query_one("SELECT max(id), (SELECT max(id) FROM categories) FROM parts", &[]).await?;
        let (last, categories): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
        let stock =
            Stock::new(last.context("the shop has no parts: generate some")?, categories.context("no categories")?);
        let shared = Arc::new(Shared {
            options,
            database: endpoints.shop_database.clone(),
            started: Instant::now(),
            next: AtomicU64::new(0),
            stock,
            ledger,
            counts: Counts::default(),
            latency_us: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3)?),
            last_failure: Mutex::new(None),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for number in 0..options.connections {
            let planner = Planner::new(options.seed.wrapping_mul(1009).wrapping_add(u64::from(number)));
            tasks.spawn(write(Arc::clone(&shared), planner, stopped.clone()));
        }
        Ok(Self { stop, tasks, shared })
    }

    /// Returns what came of the writes so far.
    pub async fn so_far(&self) -> Summary {
        let counts = &self.shared.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            committed: read(&counts.committed),
            changes: read(&counts.changes),
            rolled_back: read(&counts.rolled_back),
            conflicts: read(&counts.conflicts),
            failed: read(&counts.failed),
            skipped: read(&counts.skipped),
            last_failure: self.shared.last_failure.lock().await.clone(),
            latency_us: self.shared.latency_us.lock().await.clone(),
        }
    }

    /// Lets the transactions under way end, and returns what came of all.
    ///
    /// # Errors
    /// A writer that gave up, or panicked.
    pub async fn stop(mut self) -> Result<Summary> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a writer panicked")??;
        }
        Ok(self.so_far().await)
    }
}

/// One connection's loop: take the next time of the schedule, wait for it, write.
async fn write(shared: Arc<Shared>, mut planner: Planner, mut stopped: watch::Receiver<bool>) -> Result<()> {
    let mut session = None;
    while !*stopped.borrow() {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let since_start = Duration::from_nanos(number * 1_000_000_000 / u64::from(shared.options.rate.max(1)));
        let due = shared.started + since_start;
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            _ = stopped.wait_for(|stop| *stop) => break,
        }
        if due.elapsed() > LATEST {
            shared.counts.skipped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let work = planner.next(&shared.stock);
        let attempt = tokio::time::timeout(DEADLINE, attempt(&shared, &mut session, &mut planner, &work));
        match attempt.await.unwrap_or_else(|_| Err(anyhow!("no answer within {DEADLINE:?}"))) {
            Ok(outcome) => shared.note(outcome, due).await,
            Err(error) => {
                // The connection may be in the middle of something; a new one starts clean.
                session = None;
                shared.counts.failed.fetch_add(1, Ordering::Relaxed);
                *shared.last_failure.lock().await = Some(format!("{error:#}"));
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
    Ok(())
}

async fn attempt(
    shared: &Shared,
    session: &mut Option<Session>,
    planner: &mut Planner,
    work: &plan::Work,
) -> Result<Outcome> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::open(&shared.database).await?),
    };
    apply::transaction(session, &shared.stock, planner, work).await
}

impl Shared {
    async fn note(&self, outcome: Outcome, due: Instant) {
        match outcome {
            Outcome::Committed { changes, stock } => {
                self.counts.committed.fetch_add(1, Ordering::Relaxed);
                self.counts.changes.fetch_add(changes, Ordering::Relaxed);
                let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.latency_us.lock().await.saturating_record(took.max(1));
                if let Some(ledger) = &self.ledger {
                    ledger.acknowledged(&stock);
                }
            }
            Outcome::RolledBack => {
                self.counts.rolled_back.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Conflict => {
                self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
