//! Rows that are gone from a table which was read again, though the topics still hold them.
//!
//! Every row that is there was published again, by the reading or by the stream beside it: at or above the Position from
//! which the table is read again. So whoever's newest record is older, and no deletion, has vanished. The topics are read
//! twice for that, in as many rounds as it takes to keep a million keys in memory at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_kafka::{Consumer, ConsumerSettings, Error, Isolation, Record, Start};
use tokio::runtime::Handle;

use super::pass::Pass;
use crate::events::envelope::{ENLIST_KEY, Envelope, MARK_KEY, POSITION_HEADER, TRUNCATE_KEY_PREFIX};
use crate::events::mapping::entry::Entry;
use crate::events::mapping::spec::Family;
use crate::position::{Bound, Position};
use crate::topics::Topics;

/// Most vanished rows that one search finds; another follows.
const MOST_FOUND: usize = 5000;
/// Most bytes of their events.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Records of a topic that one round looks at: a key in memory takes eight bytes or more.
const RECORDS_OF_A_ROUND: i64 = 1_000_000;
const BATCH: usize = 2000;

/// A row that vanished.
#[derive(Debug)]
pub(in crate::capture) struct Vanished {
    pub(in crate::capture) family: Family,
    pub(in crate::capture) partition: u32,
    /// The record's key.
    pub(in crate::capture) entity: Bytes,
    /// Its newest event.
    pub(in crate::capture) event: Bytes,
}

/// What a search found.
#[derive(Debug, Default)]
pub(in crate::capture) struct Found {
    pub(in crate::capture) vanished: Vec<Vanished>,
    bytes: usize,
    /// There are more than one search returns.
    pub(super) more: bool,
}

/// Searches the topics that a table feeds.
pub(super) struct Search {
    pub(super) topics: Arc<Topics>,
    pub(super) runtime: Handle,
    pub(super) pass: Arc<Pass>,
    /// From where on the table is read again.
    pub(super) since: Bound,
    /// Longest time in which nothing comes.
    pub(super) timeout: Duration,
}

impl Search {
    /// Runs on a thread of its own, and sends what it found.
    pub(super) fn start(self) -> std::io::Result<Receiver<Result<Found, Error>>> {
        let (outbox, answer) = sync_channel(1);
        // Nobody may wait for it any more: then the table is searched by a later session.
        let run = move || drop(outbox.send(self.run()));
        std::thread::Builder::new().name("vanished".to_owned()).spawn(run)?;
        Ok(answer)
    }

    /// Finds what vanished. All that was published before must have reached the topics.
    ///
    /// # Errors
    /// Kafka's; nothing is found halfway.
    fn run(&self) -> Result<Found, Error> {
        let settings = ConsumerSettings {
            // The end of a partition is told by a fetch that finds nothing.
            fetch_wait: Duration::from_millis(20),
            ahead_bytes: 1024 * 1024,
            batch_bytes: 1024 * 1024,
            // What an aborted transaction left behind was sent again by whoever came after it.
            ..ConsumerSettings::new("highwater.vanished", Isolation::ReadUncommitted)
        };
        let mut consumer = Consumer::new(&self.topics.connection("highwater-vanished"), settings)?;
        let mut found = Found::default();
        let fed = |family: &Family| self.pass.feed.entries.iter().any(|entry| entry.family == *family);
        for family in Family::ALL.into_iter().filter(fed) {
            self.topic(&mut consumer, family, &mut found)?;
        }
        Ok(found)
    }

    fn topic(&self, consumer: &mut Consumer, family: Family, found: &mut Found) -> Result<(), Error> {
        let topic = self.topics.state(family);
        let mut parts = Vec::new();
        let mut records = 0;
        for partition in 0..self.topics.partitions {
            let ends = self.runtime.block_on(consumer.watermarks(&topic, partition, self.timeout))?;
            records += ends.high - ends.low;
            parts.push((Start { topic: topic.clone(), partition, offset: ends.low }, ends.high));
        }
        let rounds = (records / RECORDS_OF_A_ROUND + 1).unsigned_abs();
        // One for all rounds: an entity must belong to the same one each time.
        let by = RandomState::new();
        for round in 0..rounds {
            if found.more {
                return Ok(());
            }
            let mut newest = Newest::of_round(self, &by, round, rounds);
            self.read(consumer, &parts, |record| newest.note(record))?;
            newest.sort();
            let mut old: HashMap<(i32, Bytes), Bytes> = HashMap::new();
            let mut bytes = 0;
            self.read(consumer, &parts, |record| {
                let Some(event) = newest.is_vanished(self, family, record) else { return };
                if found.vanished.len() + old.len() >= MOST_FOUND || found.bytes + bytes >= MOST_BYTES {
                    found.more = true;
                    return;
                }
                bytes += record.key.len() + event.len();
                old.insert((record.partition, record.key.clone()), event.clone());
            })?;
            let vanished = old.into_iter().map(|((partition, entity), event)| Vanished {
                family,
                partition: partition.unsigned_abs(),
                entity,
                event,
            });
            found.vanished.extend(vanished);
            found.bytes += bytes;
        }
        Ok(())
    }

    /// Reads partitions from their starts to these ends.
    fn read(
        &self,
        consumer: &mut Consumer,
        parts: &[(Start, i64)],
        mut each: impl FnMut(&Record),
    ) -> Result<(), Error> {
        let starts: Vec<Start> = parts.iter().map(|(start, _)| start.clone()).collect();
        consumer.assign(&starts)?;
        let mut heard = Instant::now();
        let is_read = |consumer: &Consumer, (start, end): &(Start, i64)| {
            let (topic, partition) = (&start.topic, start.partition);
            consumer.at_end(topic, partition) || consumer.position(topic, partition).is_none_or(|at| at >= *end)
        };
        while !parts.iter().all(|part| is_read(consumer, part)) {
            let records = self.runtime.block_on(consumer.next_batch(BATCH, Duration::from_millis(100)))?;
            if !records.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > self.timeout {
                let what = format!("give the records of {}", parts[0].0.topic);
                return Err(Error::Deadline { what, waited: self.timeout });
            }
            let end = |record: &Record| parts.iter().find(|(start, _)| start.partition == record.partition);
            records
                .iter()
                .filter(|record| end(record).is_some_and(|(_, end)| record.offset < *end))
                .for_each(&mut each);
        }
        Ok(())
    }
}

/// What the newest record of each entity of each partition is, as far as it matters. Pure.
struct Newest {
    since: Bound,
    truncation: String,
    round: u64,
    rounds: u64,
    by: RandomState,
    /// Entities that were published since, by hash; sorted.
    published: Vec<u64>,
    /// Offsets of the newest deletion of others.
    deleted: HashMap<u64, i64>,
    /// Offsets of the newest truncation, by partition.
    truncated: HashMap<i32, i64>,
}

impl Newest {
    fn of_round(search: &Search, by: &RandomState, round: u64, rounds: u64) -> Self {
        Self {
            since: search.since,
            truncation: format!("{TRUNCATE_KEY_PREFIX}{}", search.pass.table()),
            round,
            rounds,
            by: by.clone(),
            published: Vec::new(),
            deleted: HashMap::new(),
            truncated: HashMap::new(),
        }
    }

    /// Returns the hash of a record's entity in its partition, if this round is about it.
    fn hash(&self, record: &Record) -> Option<u64> {
        if record.key == MARK_KEY || record.key == ENLIST_KEY || record.key.starts_with(TRUNCATE_KEY_PREFIX.as_bytes())
        {
            return None;
        }
        let hash = self.by.hash_one((record.partition, &record.key));
        (hash % self.rounds == self.round).then_some(hash)
    }

    fn note(&mut self, record: &Record) {
        if record.key == self.truncation.as_bytes() {
            self.truncated.insert(record.partition, record.offset);
        }
        let Some(hash) = self.hash(record) else { return };
        match position(record) {
            Some(position) if !self.since.contains(position) => self.published.push(hash),
            _ if record.value.is_none() => {
                self.deleted.insert(hash, record.offset);
            }
            _ => {}
        }
    }

    fn sort(&mut self) {
        self.published.sort_unstable();
        self.published.dedup();
    }

    /// Returns the event if its row is of the table and has vanished.
    fn is_vanished<'a>(&self, search: &Search, family: Family, record: &'a Record) -> Option<&'a Bytes> {
        let hash = self.hash(record)?;
        let value = record.value.as_ref()?;
        let is_before = |end: Option<&i64>| end.is_some_and(|end| record.offset < *end);
        let passed = self.published.binary_search(&hash).is_ok()
            || is_before(self.truncated.get(&record.partition))
            || is_before(self.deleted.get(&hash));
        if passed {
            return None;
        }
        let event = Envelope::parse(value).ok()?;
        let of = |entries: &[Entry]| {
            let mut fits = entries.iter().filter(|entry| entry.family == family && entry.name == event.entry());
            fits.any(|entry| entry.may_be_entity(&record.key))
        };
        let gone = event.family_and_verb().1 == "deleted" || !of(&search.pass.feed.entries) || of(&search.pass.others);
        (!gone).then_some(value)
    }
}

/// Returns the Position of an event or a tombstone.
fn position(record: &Record) -> Option<Position> {
    match &record.value {
        Some(value) => Envelope::parse(value).ok().map(|event| event.position),
        None => std::str::from_utf8(record.header(POSITION_HEADER)?).ok()?.parse().ok(),
    }
}
