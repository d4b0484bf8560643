//! Rows that are gone from a table which was read again, though the topics still hold them.
//!
//! Every row that is there was published again, by the reading or by the stream beside it: at or above the Position from
//! which the table is read again. So whoever's newest record is older, and no deletion, has vanished. The topics are read
//! twice for that, in as many rounds as it takes to keep a million keys in memory at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_kafka::{Consumer, ConsumerSettings, Error, Isolation, Record, Start};
use tokio::runtime::Handle;

use super::pass::Pass;
use crate::events::envelope::{Envelope, MARK_KEY, POSITION_HEADER, TRUNCATE_KEY_PREFIX};
use crate::events::mapping::entry::Entry;
use crate::events::mapping::spec::Family;
use crate::position::{Bound, Position};
use crate::topics::Topics;

/// Most vanished rows that one search finds; another follows.
const MOST_FOUND: usize = 5000;
/// Most bytes of their events.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// Records of a partition that one round looks at: a key in memory takes eight bytes or more.
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
    /// Finds what vanished. All that was published before must have reached the topics.
    ///
    /// # Errors
    /// Kafka's; nothing is found halfway.
    pub(super) fn run(&self) -> Result<Found, Error> {
        let settings = ConsumerSettings {
            ahead_bytes: 4 * 1024 * 1024,
            batch_bytes: 1024 * 1024,
            // What an aborted transaction left behind was sent again by whoever came after it.
            ..ConsumerSettings::new("highwater.vanished", Isolation::ReadUncommitted)
        };
        let mut consumer = Consumer::new(&self.topics.connection("highwater-vanished"), settings)?;
        let mut found = Found::default();
        for family in Family::ALL {
            if self.pass.feed.entries.iter().all(|entry| entry.family != family) {
                continue;
            }
            for partition in 0..self.topics.partitions {
                self.partition(&mut consumer, family, partition, &mut found)?;
            }
        }
        Ok(found)
    }

    fn partition(
        &self,
        consumer: &mut Consumer,
        family: Family,
        partition: i32,
        found: &mut Found,
    ) -> Result<(), Error> {
        let topic = self.topics.state(family);
        let ends = self.runtime.block_on(consumer.watermarks(&topic, partition, self.timeout))?;
        // One for all rounds: an entity must belong to the same one each time.
        let by = RandomState::new();
        let rounds = ((ends.high - ends.low) / RECORDS_OF_A_ROUND + 1).unsigned_abs();
        for round in 0..rounds {
            if found.more {
                return Ok(());
            }
            let mut newest = Newest::of_round(self, &by, round, rounds);
            let start = Start { topic: topic.clone(), partition, offset: ends.low };
            self.read(consumer, &start, ends.high, |record| newest.note(record))?;
            newest.sort();
            let mut old: HashMap<Bytes, Bytes> = HashMap::new();
            let mut bytes = 0;
            self.read(consumer, &start, ends.high, |record| {
                let Some(event) = newest.is_vanished(self, family, record) else { return };
                if found.vanished.len() + old.len() >= MOST_FOUND || found.bytes + bytes >= MOST_BYTES {
                    found.more = true;
                    return;
                }
                bytes += record.key.len() + event.len();
                old.insert(record.key.clone(), event.clone());
            })?;
            let partition = partition.unsigned_abs();
            let vanished = old.into_iter().map(|(entity, event)| Vanished { family, partition, entity, event });
            found.vanished.extend(vanished);
            found.bytes += bytes;
        }
        Ok(())
    }

    fn read(
        &self,
        consumer: &mut Consumer,
        start: &Start,
        end: i64,
        mut each: impl FnMut(&Record),
    ) -> Result<(), Error> {
        let (topic, partition) = (&start.topic, start.partition);
        consumer.assign(std::slice::from_ref(start))?;
        let mut heard = Instant::now();
        while !consumer.at_end(topic, partition) && consumer.position(topic, partition).is_some_and(|at| at < end) {
            let records = self.runtime.block_on(consumer.next_batch(BATCH, Duration::from_millis(100)))?;
            if !records.is_empty() {
                heard = Instant::now();
            } else if heard.elapsed() > self.timeout {
                let what = format!("give the records of {topic}[{partition}]");
                return Err(Error::Deadline { what, waited: self.timeout });
            }
            records.iter().filter(|record| record.offset < end).for_each(&mut each);
        }
        Ok(())
    }
}

/// What the newest record of each entity of one partition is, as far as it matters. Pure.
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
    truncated: i64,
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
            truncated: -1,
        }
    }

    /// Returns the hash of a record's entity, if this round is about it.
    fn hash(&self, record: &Record) -> Option<u64> {
        if record.key == MARK_KEY || record.key.starts_with(TRUNCATE_KEY_PREFIX.as_bytes()) {
            return None;
        }
        let hash = self.by.hash_one(&record.key);
        (hash % self.rounds == self.round).then_some(hash)
    }

    fn note(&mut self, record: &Record) {
        if record.key == self.truncation.as_bytes() {
            self.truncated = record.offset;
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
        let passed = self.published.binary_search(&hash).is_ok()
            || record.offset <= self.truncated
            || self.deleted.get(&hash).is_some_and(|deleted| record.offset < *deleted);
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
