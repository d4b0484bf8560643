//! The shell around the plan: applies what it makes of the records, and knows what Redis should hold.

use std::collections::HashMap;
use std::time::SystemTime;

use futures_util::future::join_all;
use highwater_redis::{Applied, Cache, Error, Outcome, Progress};
use metrics::{counter, histogram};
use tracing::warn;

use super::batch::{Call, Incoming, divide};
use super::plan::Plan;
use crate::deliver::{Batch, Fault, Partition, Resume, Whence, Worker};
use crate::workers::commit_age;

/// Names this worker in logs, metrics and dead letters.
const NAME: &str = "cache";

/// Brings one cache up to date.
#[derive(Debug)]
pub struct CacheWorker {
    cache: Cache,
    plan: Plan,
    partitions: HashMap<Partition, Held>,
}

/// What the worker knows of one partition.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// What the next batch builds on.
    progress: Option<Progress>,
    /// Below this offset marks are ignored. An emptied cache is filled from the beginning; until it is where the log was
    /// then, it would serve the log's past to readers without a token. Without marks it serves nothing.
    marks_from: u64,
}

impl CacheWorker {
    /// Takes a connected cache.
    #[must_use]
    pub fn new(cache: Cache, plan: Plan) -> Self {
        Self { cache, plan, partitions: HashMap::new() }
    }
}

impl Worker for CacheWorker {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn resume(&mut self, partition: &Partition, end: i64) -> Result<Resume, Fault> {
        let progress = self.cache.progress(&partition.to_string()).await.map_err(|error| fault(&error))?;
        // Without a mark the partition was never read to its end since the cache was emptied.
        let marked = progress.is_some_and(|progress| progress.mark.is_some());
        let marks_from = if marked { 0 } else { end.unsigned_abs() };
        self.partitions.insert(partition.clone(), Held { progress, marks_from });
        let Some(Progress { offset, newest, .. }) = progress else {
            return Ok(Resume { whence: Whence::Beginning, newest: None });
        };
        let offset = i64::try_from(offset).map_err(|_| Fault::Fatal(format!("no offset of {partition}: {offset}")))?;
        let newest = newest.map(|newest| newest.as_str().parse()).transpose();
        let newest = newest.map_err(|error| Fault::Fatal(format!("progress of {partition}: {error}")))?;
        Ok(Resume { whence: Whence::Offset(offset), newest })
    }

    /// Without its delete an entry would be served for ever, and without an older change its groups' fences stay behind. A
    /// cache that is still filled from the beginning stands at an old offset by right, and may be started again there.
    fn after_compaction(&self, partition: &Partition) -> Option<&'static str> {
        let filled = self.partitions.get(partition).is_some_and(|held| held.marks_from == 0);
        filled.then_some(
            "empty the cache (FLUSHDB, or delete its entries and all keys that begin with its prefix) and start again",
        )
    }

    /// # Panics
    /// If a partition was not resumed: without its progress a gap before the batch could not be seen.
    async fn apply(&mut self, batches: &[Batch<'_>]) -> Vec<Result<(), Fault>> {
        let (cache, plan) = (&self.cache, &self.plan);
        let held = |partition: &Partition| {
            let held = self.partitions.get(partition).copied();
            held.unwrap_or_else(|| panic!("{partition} was not resumed before its batch"))
        };
        let all = batches.iter().map(|batch| apply_one(cache, plan, held(batch.partition), batch));
        let outcomes = join_all(all).await;
        let remember = |(batch, (held, outcome)): (&Batch<'_>, (Held, _))| {
            self.partitions.insert(batch.partition.clone(), held);
            outcome
        };
        batches.iter().zip(outcomes).map(remember).collect()
    }
}

async fn apply_one(cache: &Cache, plan: &Plan, mut held: Held, batch: &Batch<'_>) -> (Held, Result<(), Fault>) {
    let partition = batch.partition.to_string();
    let incoming = batch
        .items
        .iter()
        .map(|item| Incoming { offset: item.record.offset.unsigned_abs(), event: item.event.as_ref() });
    // A batch that failed half way comes again as a whole.
    let applied = held.progress.map_or(0, |progress| progress.offset);
    let incoming: Vec<_> = incoming.skip_while(|record| record.offset < applied).collect();
    let (calls, poison) = divide(plan, held.progress, held.marks_from, &incoming, batch.next_offset.unsigned_abs());
    for call in calls {
        match cache.apply(&partition, held.progress, call.to, &call.changes).await {
            Ok(Applied::Done { progress, outcome }) => {
                held.progress = Some(progress);
                count(&call, outcome);
            }
            Ok(Applied::Elsewhere(stands)) => {
                let expected = held.progress.map(|progress| progress.offset);
                let found = stands.map(|progress| progress.offset);
                warn!(partition, ?expected, ?found, "the cache holds another state than was applied");
                return (held, Err(Fault::Rewind));
            }
            Err(error) => return (held, Err(fault(&error))),
        }
    }
    let outcome = match poison {
        Some(poison) => Err(Fault::Poison { offset: poison.offset.cast_signed(), reason: poison.reason }),
        None => Ok(()),
    };
    (held, outcome)
}

fn count(call: &Call<'_>, outcome: Outcome) {
    counter!("highwater_cache_events_total").increment(call.events);
    counter!("highwater_cache_values_total", "outcome" => "written").increment(outcome.written);
    counter!("highwater_cache_values_total", "outcome" => "older").increment(outcome.older);
    counter!("highwater_cache_values_total", "outcome" => "dropped").increment(outcome.dropped);
    let now = SystemTime::now();
    let latency = histogram!("database_sync_latency_ms", "operation" => NAME);
    for age in call.times.iter().filter_map(|time| commit_age(time, now)) {
        latency.record(age.as_secs_f64() * 1_000.0);
    }
}

fn fault(error: &Error) -> Fault {
    counter!("sync_failures_total", "operation" => NAME, "error_type" => error.kind()).increment(1);
    if error.is_transient() { Fault::Transient(error.to_string()) } else { Fault::Fatal(error.to_string()) }
}
