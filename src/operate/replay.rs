//! `highwater replay --into cache`: every entry again from the topics, beside live traffic.
//!
//! Promise: it ends by itself, at the ends that the topics had when it began, and harms nothing that is newer. It leaves the
//! partitions' progress to the live worker: that one alone knows that it has every change up to its mark.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use highwater_kafka::{Consumer, ConsumerSettings, Isolation, Record, Start};
use highwater_redis::{Cache, Change};
use tracing::warn;

use crate::events::envelope::Envelope;
use crate::topics::Topics;
use crate::workers::cache::{Incoming, Plan, Settings, changes_of};

/// How long one question to Kafka may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long nothing may come before the replay gives up.
const SILENCE: Duration = Duration::from_mins(1);
/// Pause before a failed call is made again.
const PAUSE: Duration = Duration::from_millis(250);
const SHOW_EVERY: Duration = Duration::from_secs(1);
const MOST_RECORDS: usize = 10_000;

/// Why a replay ended early. What it did until then stands, and it can be started again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to replay.
    #[error("topic {0} does not exist; start the capture role first")]
    NoTopic(String),
    /// Nothing came, and nobody said why.
    #[error("no record came for {} s with {left} left to read; is Kafka up?", SILENCE.as_secs())]
    Silence {
        /// Offsets that were still to be read.
        left: u64,
    },
    /// Kafka failed.
    #[error(transparent)]
    Topics(#[from] highwater_kafka::Error),
    /// Redis failed for longer than a minute, or for good.
    #[error(transparent)]
    Cache(#[from] highwater_redis::Error),
}

/// How far a replay is. Its text is one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advance {
    /// Events applied.
    pub events: u64,
    /// Offsets passed; compacted ones among them.
    pub passed: u64,
    /// Offsets to pass.
    pub total: u64,
    /// Time since the start.
    pub elapsed: Duration,
}

/// What a replay did. Its text is one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Events applied.
    pub events: u64,
    /// Different entries and groups that they touched.
    pub names: usize,
    /// Values written.
    pub written: u64,
    /// Values that the cache knew already, or newer.
    pub older: u64,
    /// Records that could not be applied; each was named in the log.
    pub refused: u64,
    /// From start to end.
    pub elapsed: Duration,
}

/// Replays the state topics into the cache. `show` is called about once a second.
///
/// It can be dropped at any time.
///
/// # Errors
/// See [`Error`].
pub async fn replay(topics: &Topics, settings: &Settings, mut show: impl FnMut(Advance)) -> Result<Summary, Error> {
    let started = Instant::now();
    let cache = Cache::connect(&settings.options()).await?;
    let plan = Plan::new(settings.rules.clone());
    let mut source = Source::open(topics).await?;
    let mut sink = Sink { cache, plan, names: HashSet::new(), hasher: RandomState::new(), summary: Summary::EMPTY };
    let mut shown = started;
    let mut heard = started;
    while source.left() > 0 {
        match source.next().await {
            Ok(records) if records.is_empty() && heard.elapsed() > SILENCE && source.left() > 0 => {
                return Err(Error::Silence { left: source.left() });
            }
            Ok(records) if records.is_empty() => {}
            Ok(records) => {
                sink.apply(&records).await?;
                heard = Instant::now();
            }
            Err(error) if error.is_transient() && heard.elapsed() < SILENCE => {
                warn!(error = %error, "will read on");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            let (events, elapsed) = (sink.summary.events, started.elapsed());
            show(Advance { events, passed: source.total - source.left(), total: source.total, elapsed });
        }
    }
    Ok(Summary { names: sink.names.len(), elapsed: started.elapsed(), ..sink.summary })
}

/// The state topics from their beginnings to where they ended when they were opened.
struct Source {
    consumer: Consumer,
    ends: BTreeMap<(String, i32), i64>,
    total: u64,
}

impl Source {
    async fn open(topics: &Topics) -> Result<Self, Error> {
        // Uncommitted, as the live worker reads: what is there twice is applied once.
        let settings = ConsumerSettings::new("highwater-replay", Isolation::ReadUncommitted);
        let mut consumer = Consumer::new(&topics.connection("highwater-replay"), settings)?;
        let mut starts = Vec::new();
        let mut ends = BTreeMap::new();
        let mut total = 0;
        for topic in topics.states() {
            let Some(partitions) = consumer.partitions(&topic, ANSWER).await? else {
                return Err(Error::NoTopic(topic));
            };
            for partition in 0..partitions {
                let marks = consumer.watermarks(&topic, partition, ANSWER).await?;
                if marks.low < marks.high {
                    total += marks.low.abs_diff(marks.high);
                    starts.push(Start { topic: topic.clone(), partition, offset: marks.low });
                    ends.insert((topic.clone(), partition), marks.high);
                }
            }
        }
        consumer.assign(&starts)?;
        Ok(Self { consumer, ends, total })
    }

    /// Offsets still to be passed. The last ones can be gaps, which only the end of the partition tells.
    fn left(&self) -> u64 {
        let left = self.ends.iter().map(|((topic, partition), end)| {
            let position = self.consumer.position(topic, *partition).unwrap_or(*end);
            let passed = position >= *end || self.consumer.at_end(topic, *partition);
            if passed { 0 } else { position.abs_diff(*end) }
        });
        left.sum()
    }

    /// Returns records below the ends; those behind are the live worker's.
    async fn next(&mut self) -> Result<Vec<Record>, highwater_kafka::Error> {
        let mut records = self.consumer.next_batch(MOST_RECORDS, SHOW_EVERY).await?;
        let ends = &self.ends;
        records.retain(|record| {
            let end = ends.get(&(record.topic.to_string(), record.partition));
            end.is_some_and(|end| record.offset < *end)
        });
        Ok(records)
    }
}

struct Sink {
    cache: Cache,
    plan: Plan,
    /// Digests of the names: millions of names themselves would be too much.
    names: HashSet<u64>,
    hasher: RandomState,
    summary: Summary,
}

impl Sink {
    async fn apply(&mut self, records: &[Record]) -> Result<(), Error> {
        let mut parsed = Vec::with_capacity(records.len());
        for record in records {
            match record.value.as_deref().map(Envelope::parse).transpose() {
                Ok(event) => parsed.push((record.offset.unsigned_abs(), event)),
                Err(error) => self.refuse(record.offset.unsigned_abs(), &error),
            }
        }
        let incoming = parsed.iter().map(|(offset, event)| Incoming { offset: *offset, event: event.as_ref() });
        let incoming: Vec<_> = incoming.collect();
        let mut rest = &incoming[..];
        while !rest.is_empty() {
            let changes = changes_of(&self.plan, rest);
            self.summary.events += changes.events;
            for call in &changes.calls {
                self.call(call).await?;
            }
            if let Some(poison) = changes.poison {
                self.refuse(poison.offset, &poison.reason);
            }
            rest = &rest[changes.passed..];
        }
        Ok(())
    }

    fn refuse(&mut self, offset: u64, reason: &dyn fmt::Display) {
        warn!(offset, %reason, "cannot apply a record, will go on behind it");
        self.summary.refused += 1;
    }

    async fn call(&mut self, changes: &[Change<'_>]) -> Result<(), Error> {
        let began = Instant::now();
        let outcome = loop {
            match self.cache.replay(changes).await {
                Ok(outcome) => break outcome,
                Err(error) if error.is_transient() && began.elapsed() < SILENCE => {
                    warn!(error = %error, "will apply again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        self.summary.written += outcome.written;
        self.summary.older += outcome.older;
        self.names.extend(changes.iter().map(|change| match change {
            Change::Write { key, .. } | Change::Invalidate { key, .. } => self.hasher.hash_one(key),
            Change::Fence { group, .. } => self.hasher.hash_one(group),
        }));
        Ok(())
    }
}

impl Summary {
    const EMPTY: Self = Self { events: 0, names: 0, written: 0, older: 0, refused: 0, elapsed: Duration::ZERO };
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let micros = elapsed.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

impl fmt::Display for Advance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.passed * 100 / self.total.max(1);
        let rate = per_second(self.events, self.elapsed);
        write!(f, "replaying: {percent} %, {} events, {rate} events/s", self.events)?;
        let pace = per_second(self.passed, self.elapsed);
        match (self.total - self.passed).checked_div(pace) {
            Some(left) => write!(f, ", {left} s left"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = per_second(self.events, self.elapsed);
        let Self { events, names, written, older, refused, elapsed } = self;
        write!(
            f,
            "replayed {events} events of {names} keys and groups in {:.1} s ({rate} events/s): {written} values written, \
             {older} not older in the cache, {refused} refused",
            elapsed.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_rate_and_time_left() {
        let advance = Advance { events: 4_000, passed: 5_000, total: 20_000, elapsed: Duration::from_secs(2) };
        assert_eq!(advance.to_string(), "replaying: 25 %, 4000 events, 2000 events/s, 6 s left");
        let nothing = Advance { events: 0, passed: 0, total: 0, elapsed: Duration::ZERO };
        assert_eq!(nothing.to_string(), "replaying: 0 %, 0 events, 0 events/s");
    }

    #[test]
    fn the_summary_tells_events_keys_seconds_and_rate() {
        let elapsed = Duration::from_millis(1_500);
        let summary = Summary { events: 3_000, names: 40, written: 30, older: 5, refused: 1, elapsed };
        let text = "replayed 3000 events of 40 keys and groups in 1.5 s (2000 events/s): 30 values written, 5 not older in \
                    the cache, 1 refused";
        assert_eq!(summary.to_string(), text);
    }
}
