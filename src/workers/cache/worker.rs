//! The shell around the plan: applies what it makes of the records, and knows what Redis should hold.

use std::collections::HashMap;
use std::time::SystemTime;

use futures_util::future::join_all;
use highwater_redis::{Applied, Cache, Error, Progress};
use metrics::{counter, histogram};
use tracing::warn;

use super::batch::{Call, Incoming, Poison, divide};
use super::plan::Plan;
use crate::workers::commit_age;

/// The label of this worker in metrics.
const OPERATION: &str = "cache";

/// Applies records to one cache.
#[derive(Debug)]
pub struct Worker {
    cache: Cache,
    plan: Plan,
    partitions: HashMap<String, Held>,
}

/// What the worker knows of one partition.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// What the next batch builds on.
    progress: Option<Progress>,
    /// Below this offset marks are ignored: an emptied cache is filled from the beginning, and until it is where it was,
    /// it would serve the log's past to readers without a token.
    marks_from: u64,
}

impl Held {
    /// A partition without a mark has never been read to its end since the cache was emptied.
    fn hold_marks_back(&mut self, end: u64) {
        if self.progress.is_none_or(|progress| progress.mark.is_none()) {
            self.marks_from = self.marks_from.max(end);
        }
    }

    fn move_to(&mut self, stands: Option<Progress>, partition: &str) {
        let expected = self.progress.map_or(0, |progress| progress.offset);
        let found = stands.map(|progress| progress.offset);
        warn!(partition, expected, ?found, "the cache holds another state than was applied, will read on from there");
        counter!("highwater_cache_rewinds_total").increment(1);
        self.progress = stands;
        self.hold_marks_back(expected);
    }
}

/// Records of one partition, in their order.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// `<topic>/<partition>`.
    pub partition: &'a str,
    /// They may begin before what was applied, which is skipped.
    pub records: Vec<Incoming<'a>>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is applied.
    Applied,
    /// All before this record is applied; it cannot be. Go on behind it.
    Poisoned(Poison),
    /// Redis holds another state than the one that the batch builds on. Read on from this offset, or from the beginning;
    /// what was read ahead of the partition must not come.
    Rewind(Option<u64>),
}

impl Worker {
    /// Takes a connected cache.
    #[must_use]
    pub fn new(cache: Cache, plan: Plan) -> Self {
        Self { cache, plan, partitions: HashMap::new() }
    }

    /// Returns the offset to read a partition from, `None` for its beginning. `end` is where the partition ends now.
    ///
    /// # Errors
    /// Redis could not be asked; what was known of the partition is forgotten.
    pub async fn resume(&mut self, partition: &str, end: u64) -> Result<Option<u64>, Error> {
        self.partitions.remove(partition);
        let progress = self.cache.progress(partition).await.inspect_err(count_failure)?;
        let mut held = Held { progress, marks_from: 0 };
        held.hold_marks_back(end);
        self.partitions.insert(partition.to_owned(), held);
        Ok(progress.map(|progress| progress.offset))
    }

    /// Applies batches of different partitions side by side; each has its own outcome, in the order of the batches.
    ///
    /// After an error a batch can be given again: what of it was applied is skipped or comes to nothing.
    ///
    /// # Panics
    /// If a partition was not resumed: without its progress a gap before the batch could not be seen.
    pub async fn apply(&mut self, batches: &[Batch<'_>]) -> Vec<Result<Verdict, Error>> {
        let (cache, plan) = (&self.cache, &self.plan);
        let held = |batch: &Batch<'_>| {
            let held = self.partitions.get(batch.partition).copied();
            held.unwrap_or_else(|| panic!("{} was not resumed before its batch", batch.partition))
        };
        let all = batches.iter().map(|batch| apply_one(cache, plan, held(batch), batch));
        let outcomes = join_all(all).await;
        let remember = |(batch, (held, verdict)): (&Batch<'_>, (Held, _))| {
            self.partitions.insert(batch.partition.to_owned(), held);
            verdict
        };
        batches.iter().zip(outcomes).map(remember).collect()
    }
}

async fn apply_one(cache: &Cache, plan: &Plan, mut held: Held, batch: &Batch<'_>) -> (Held, Result<Verdict, Error>) {
    let applied = held.progress.map_or(0, |progress| progress.offset);
    let begin = batch.records.partition_point(|record| record.offset < applied);
    let (calls, poison) = divide(plan, held.progress, held.marks_from, &batch.records[begin..]);
    for call in calls {
        match cache.apply(batch.partition, held.progress, call.to, &call.changes).await {
            Ok(Applied::Done { progress, outcome }) => {
                held.progress = Some(progress);
                count(&call, outcome);
            }
            Ok(Applied::Elsewhere(stands)) => {
                held.move_to(stands, batch.partition);
                return (held, Ok(Verdict::Rewind(stands.map(|progress| progress.offset))));
            }
            Err(error) => {
                count_failure(&error);
                return (held, Err(error));
            }
        }
    }
    (held, Ok(poison.map_or(Verdict::Applied, Verdict::Poisoned)))
}

fn count(call: &Call<'_>, outcome: highwater_redis::Outcome) {
    counter!("highwater_cache_events_total").increment(call.events);
    counter!("highwater_cache_values_total", "outcome" => "written").increment(outcome.written);
    counter!("highwater_cache_values_total", "outcome" => "older").increment(outcome.older);
    counter!("highwater_cache_values_total", "outcome" => "dropped").increment(outcome.dropped);
    let now = SystemTime::now();
    let latency = histogram!("database_sync_latency_ms", "operation" => OPERATION);
    for age in call.times.iter().filter_map(|time| commit_age(time, now)) {
        latency.record(age.as_secs_f64() * 1_000.0);
    }
}

fn count_failure(error: &Error) {
    counter!("sync_failures_total", "operation" => OPERATION, "error_type" => error.kind()).increment(1);
}
