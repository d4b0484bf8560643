//! The one producer: events, marks and the progress record, in Kafka transactions that end between source transactions.
//! Promise: what the slot is told is durable is in a committed Kafka transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_kafka::{ProducerError, TransactionalProducer, partition_for};
use highwater_postgres::Timestamp;
use metrics::{Counter, counter, histogram};
use serde_json::json;
use tracing::error;

use super::error::Error;
use super::marks::Schedule;
use super::progress::Progress;
use crate::events::draft::{Draft, PartitionBy, Topic};
use crate::events::envelope::{CONTENT_TYPE, CONTENT_TYPE_HEADER, MARK_KEY, POSITION_HEADER};
use crate::events::mapping::spec::Family;
use crate::events::mark::{Mark, write_mark};
use crate::position::{Bound, Position};
use crate::topics::Topics;

/// Writes to the topics.
pub(super) struct Publisher {
    producer: TransactionalProducer,
    names: Names,
    sent: PerTopic<Counter>,
    source: Arc<str>,
    partitions: i32,
    timeout: Duration,
    /// What the topics hold once everything sent so far is committed.
    pub(super) progress: Progress,
    /// What they hold for certain.
    committed: Bound,
    opened: Option<Instant>,
    records: usize,
    mark_bytes: Vec<u8>,
    marks: Schedule,
}

struct Names {
    events: PerTopic<String>,
    progress: String,
    dead_letters: String,
}

/// Something for each kind of topic that events go to.
struct PerTopic<T> {
    states: [T; 3],
    history: T,
}

impl<T> PerTopic<T> {
    fn of(&self, topic: Topic) -> &T {
        match topic {
            Topic::State(Family::Stock) => &self.states[0],
            Topic::State(Family::Price) => &self.states[1],
            Topic::State(Family::Content) => &self.states[2],
            Topic::History => &self.history,
        }
    }
}

impl Publisher {
    /// Takes a producer that has fenced its predecessors, and the progress that was committed before.
    pub(super) fn new(
        producer: TransactionalProducer,
        topics: &Topics,
        source_name: &str,
        progress: Progress,
        mark_pause: Duration,
        timeout: Duration,
    ) -> Self {
        let events = PerTopic { states: topics.states(), history: topics.history() };
        let sent = |topic: &String| counter!("highwater_capture_events_total", "topic" => topic.clone());
        Self {
            producer,
            sent: PerTopic { states: events.states.each_ref().map(sent), history: sent(&events.history) },
            names: Names { events, progress: topics.progress(), dead_letters: topics.dead_letters() },
            source: format!("/highwater/{source_name}").into(),
            partitions: topics.partitions,
            timeout,
            committed: progress.bound,
            progress,
            opened: None,
            records: 0,
            mark_bytes: Vec::with_capacity(512),
            marks: Schedule::new(3 * topics.partitions.unsigned_abs(), mark_pause, Instant::now()),
        }
    }

    /// Returns CloudEvents' `source`.
    pub(super) fn source(&self) -> Arc<str> {
        Arc::clone(&self.source)
    }

    /// Returns the partitions of each state topic.
    pub(super) fn partitions(&self) -> u32 {
        self.partitions.unsigned_abs()
    }

    /// Returns what stands in the topics for certain.
    pub(super) fn committed(&self) -> Bound {
        self.committed
    }

    /// Returns when the open Kafka transaction began and how many records it holds.
    pub(super) fn open_transaction(&self) -> Option<(Instant, usize)> {
        self.opened.map(|opened| (opened, self.records))
    }

    /// Sends an event, and the tombstone behind a delete; `live` events are counted for the marks.
    pub(super) fn send(&mut self, draft: &Draft, live: bool) -> Result<(), Error> {
        let partition = match &draft.partition_by {
            PartitionBy::Key(key) => partition_for(key, self.partitions),
            PartitionBy::Exactly(partition) => i32::try_from(*partition).unwrap_or(i32::MAX),
        };
        self.begin_if_needed()?;
        let topic = self.names.events.of(draft.topic);
        let headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE.as_bytes())];
        match self.producer.send(topic, partition, &draft.key, Some(&draft.value), &headers) {
            Ok(()) => {}
            Err(refused @ ProducerError::TooLarge { .. }) => {
                let key = String::from_utf8_lossy(&draft.key).into_owned();
                return self.dead_letter(draft.position, &key, &refused.to_string());
            }
            Err(other) => return Err(other.into()),
        }
        self.records += 1;
        if draft.deletes {
            let headers = [(POSITION_HEADER, &draft.position.text()[..])];
            self.producer.send(topic, partition, &draft.key, None, &headers)?;
            self.records += 1;
        }
        if let (Topic::State(family), true) = (draft.topic, live) {
            self.progress.count(family, u32::try_from(partition).unwrap_or(0));
        }
        self.sent.of(draft.topic).increment(1);
        Ok(())
    }

    /// Puts what no event can carry where an operator finds it.
    pub(super) fn dead_letter(&mut self, position: Position, row: &str, reason: &str) -> Result<(), Error> {
        error!(%position, reason, "a change goes to the dead letters");
        counter!("highwater_dead_letters_total", "worker" => "capture").increment(1);
        let letter = json!({ "worker": "capture", "position": position, "row": row, "reason": reason });
        let headers = [("worker", &b"capture"[..]), ("reason", reason.as_bytes())];
        self.begin_if_needed()?;
        self.producer.send(
            &self.names.dead_letters,
            0,
            &position.text(),
            Some(letter.to_string().as_bytes()),
            &headers,
        )?;
        self.records += 1;
        Ok(())
    }

    /// Sends the marks that are due. `complete` tells, per topic, whether the snapshot of its tables is done.
    pub(super) fn mark(&mut self, complete: [bool; 3], now: Instant) -> Result<(), Error> {
        let bound = self.progress.bound;
        while let Some(place) = self.marks.next(bound, now) {
            self.begin_if_needed()?;
            let partitions = self.partitions.unsigned_abs() as usize;
            let (family, partition) = (place / partitions, u32::try_from(place % partitions).unwrap_or(0));
            let topic = self.names.events.of(Topic::State(Family::ALL[family]));
            self.progress.marks += 1;
            let mark = Mark {
                source: &self.source,
                topic,
                partition,
                bound,
                count: self.progress.live_events(Family::ALL[family], partition),
                complete: complete[family],
                number: self.progress.marks,
                time_us: Timestamp::now().0,
            };
            self.mark_bytes.clear();
            write_mark(&mut self.mark_bytes, &mark);
            let headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE.as_bytes())];
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            self.producer.send(topic, partition, MARK_KEY.as_bytes(), Some(&self.mark_bytes), &headers)?;
            self.records += 1;
        }
        Ok(())
    }

    /// Returns when the next mark is due.
    pub(super) fn next_mark(&self) -> Instant {
        self.marks.next_at(self.progress.bound)
    }

    /// Serves delivery reports, and fails as soon as one of them does.
    pub(super) fn poll(&mut self) -> Result<(), Error> {
        self.producer.poll();
        Ok(self.producer.check()?)
    }

    /// Commits what was sent together with the progress that it makes.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        if self.opened.is_none() {
            return Ok(());
        }
        let started = Instant::now();
        let record = serde_json::to_vec(&self.progress).map_err(|error| Error::Unexpected(error.to_string()))?;
        self.producer.send(&self.names.progress, 0, self.source.as_bytes(), Some(&record), &[])?;
        let deadline = started + self.timeout;
        loop {
            match self.producer.commit(self.timeout) {
                Ok(()) => break,
                // The outcome is open: only asking again tells.
                Err(ProducerError::Transient { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.committed = self.progress.bound;
        histogram!("highwater_capture_commit_seconds").record(started.elapsed().as_secs_f64());
        histogram!("highwater_capture_transaction_records").record(count_as_f64(self.records));
        self.opened = None;
        self.records = 0;
        Ok(())
    }

    fn begin_if_needed(&mut self) -> Result<(), Error> {
        if self.opened.is_none() {
            self.producer.begin()?;
            self.opened = Some(Instant::now());
        }
        Ok(())
    }
}

/// A count of records as a measurement.
fn count_as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
