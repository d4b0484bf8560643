//! The one producer: events, marks and the progress record, in Kafka transactions that end between source transactions.
//! Promise: what the slot is told is durable is in a committed Kafka transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_kafka::{AlternatingProducer, ProducerError, partition_of_hash};
use highwater_postgres::Timestamp;
use metrics::{Counter, counter, histogram};
use tracing::error;

use super::error::Error;
use super::gathered::Gathered;
use super::marks::Schedule;
use super::measures::as_f64;
use super::names::{Names, PerTopic};
use super::progress::Progress;
use super::settings::Settings;
use crate::events::draft::{Draft, Drafts, PartitionBy, Topic};
use crate::events::envelope::{CONTENT_TYPE, CONTENT_TYPE_HEADER, ENLIST_KEY, MARK_KEY, POSITION_HEADER};
use crate::events::mapping::spec::Family;
use crate::events::mark::{Mark, write_mark};
use crate::position::{Bound, Position};
use crate::topics::Topics;

/// Most records that wait for the brokers. More would only be memory: it is some 70 ms of a backlog's worth.
pub(super) const QUEUE_RECORDS: usize = 10_000;
/// Most bytes of them: as many as the largest record has, which would never find room in less.
pub(super) const QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// How long state events wait for others at most, while the log has more at hand.
const EVENTS_GATHER: Duration = Duration::from_millis(20);
/// How often it is looked whether a commit is done.
const COMMIT_LOOK: Duration = Duration::from_millis(5);
/// How long the end of a Kafka transaction waits for a moment at which no record is on its way.
const QUIET_PATIENCE: Duration = Duration::from_millis(50);
/// How often it is looked for that moment.
pub(super) const QUIET_LOOK: Duration = Duration::from_millis(1);

/// Writes to the topics.
pub(super) struct Publisher {
    producer: AlternatingProducer,
    names: Names,
    sent: PerTopic<Counter>,
    source: Arc<str>,
    partitions: i32,
    timeout: Duration,
    /// What the topics hold once everything sent so far is committed.
    pub(super) progress: Progress,
    /// What they hold for certain.
    committed: Bound,
    /// The Kafka transaction that is being committed: what the topics hold then, and since when.
    committing: Option<(Bound, Instant)>,
    opened: Option<Instant>,
    /// Since when the next one is open beside it, to have its partitions enlisted.
    next_opened: Option<Instant>,
    /// Since when the open Kafka transaction is to end.
    ending: Option<Instant>,
    records: usize,
    /// Records by partition that the progress does not count yet.
    uncounted: PerTopic<Vec<u64>>,
    mark_bytes: Vec<u8>,
    events: Gathered,
    history: Gathered,
    drafts: Drafts,
    marks: Schedule,
}

impl Publisher {
    /// Takes a producer that has fenced its predecessors, and the progress that was committed before.
    pub(super) fn new(
        producer: AlternatingProducer,
        topics: &Topics,
        source_name: &str,
        progress: Progress,
        settings: &Settings,
    ) -> Self {
        let names = Names::of(topics);
        let sent = |topic: &String| counter!("highwater_capture_events_total", "topic" => topic.clone());
        Self {
            producer,
            sent: names.events.map(sent),
            uncounted: names.events.map(|_| vec![0; topics.partitions.unsigned_abs() as usize]),
            names,
            source: format!("/highwater/{source_name}").into(),
            partitions: topics.partitions,
            timeout: settings.answer_timeout,
            committed: progress.bound,
            committing: None,
            progress,
            opened: None,
            next_opened: None,
            ending: None,
            records: 0,
            mark_bytes: Vec::with_capacity(512),
            events: Gathered::new(EVENTS_GATHER),
            history: Gathered::new(settings.history_gather),
            drafts: Drafts::default(),
            marks: Schedule::new(3 * topics.partitions.unsigned_abs(), settings.mark, Instant::now()),
        }
    }

    /// Returns what events are written into before they are sent.
    pub(super) fn drafts(&mut self) -> &mut Drafts {
        &mut self.drafts
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

    /// Returns what stands in the topics once the commit under way is done.
    pub(super) fn ended(&self) -> Bound {
        self.committing.map_or(self.committed, |(bound, _)| bound)
    }

    /// Returns how many records wait for the brokers' word: state events that are gathered still, too.
    pub(super) fn in_flight(&mut self) -> usize {
        self.events.len() + self.producer.active().in_flight()
    }

    /// Returns how many records wait for the brokers' word, the history that is gathered still, too. At most
    /// [`QUEUE_RECORDS`] and twice what [`Gathered`] takes.
    pub(super) fn queued(&mut self) -> usize {
        self.history.len() + self.in_flight()
    }

    /// Returns when the open Kafka transaction began and how many records it holds.
    pub(super) fn open_transaction(&self) -> Option<(Instant, usize)> {
        self.opened.map(|opened| (opened, self.records))
    }

    /// Takes an event on its way; the tombstone behind a delete goes with it.
    pub(super) fn send(&mut self, draft: Draft) -> Result<(), Error> {
        self.begin_if_needed()?;
        if draft.topic == Topic::History {
            if self.history.push(draft, Instant::now) {
                self.send_history()?;
            }
            return Ok(());
        }
        if self.events.push(draft, Instant::now) {
            self.send_events()?;
        }
        Ok(())
    }

    /// Hands the state events that were gathered to the producer: at once where the log has no more at hand.
    pub(super) fn send_events(&mut self) -> Result<(), Error> {
        let drafts = self.events.take();
        self.send_all(drafts)
    }

    /// Hands the history that was gathered to the producer, behind that of the turn before.
    fn send_history(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        while !self.producer.is_delivered() {
            if Instant::now() >= deadline {
                let reason = format!("history is undelivered since {:?}", self.timeout);
                return Err(ProducerError::Transient { reason }.into());
            }
            self.note_commit(QUIET_LOOK)?;
        }
        let drafts = self.history.take();
        self.send_all(drafts)
    }

    fn send_all(&mut self, drafts: Vec<Draft>) -> Result<(), Error> {
        drafts.into_iter().try_for_each(|draft| self.send_now(draft))
    }

    fn partition_of(&self, draft: &Draft) -> i32 {
        match draft.partition_by {
            PartitionBy::Hash(hash) => partition_of_hash(hash, self.partitions),
            PartitionBy::Exactly(partition) => i32::try_from(partition).unwrap_or(i32::MAX),
        }
    }

    fn send_now(&mut self, draft: Draft) -> Result<(), Error> {
        let partition = self.partition_of(&draft);
        let topic = self.names.events.of(draft.topic);
        let headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE.as_bytes())];
        match self.producer.active().send(topic, partition, &draft.key, Some(&draft.value), &headers) {
            Ok(()) => {}
            Err(refused @ ProducerError::TooLarge { .. }) => {
                let key = String::from_utf8_lossy(&draft.key).into_owned();
                return self.dead_letter(draft.position, &key, &refused.to_string());
            }
            Err(other) => return Err(other.into()),
        }
        self.records += 1;
        self.uncounted.of_mut(draft.topic)[partition.unsigned_abs() as usize] += 1;
        if draft.deletes {
            let headers = [(POSITION_HEADER, &draft.position.text()[..])];
            self.producer.active().send(topic, partition, &draft.key, None, &headers)?;
            self.records += 1;
            self.uncounted.of_mut(draft.topic)[partition.unsigned_abs() as usize] += 1;
        }
        if let (Topic::State(family), true) = (draft.topic, draft.live) {
            self.progress.count(family, partition.unsigned_abs());
        }
        self.sent.of(draft.topic).increment(1);
        self.drafts.recycle(draft);
        Ok(())
    }

    /// Sends a dead letter, with `reason` among what it says.
    pub(super) fn letter(&mut self, key: &[u8], letter: &serde_json::Value) -> Result<(), Error> {
        let reason = letter["reason"].as_str().unwrap_or_default();
        error!(position = letter["position"].as_str(), reason, "a change goes to the dead letters");
        counter!("highwater_dead_letters_total", "worker" => "capture").increment(1);
        let headers = [("worker", &b"capture"[..]), ("reason", reason.as_bytes())];
        self.begin_if_needed()?;
        let (topic, letter) = (&self.names.dead_letters, letter.to_string());
        self.producer.active().send(topic, 0, key, Some(letter.as_bytes()), &headers)?;
        self.records += 1;
        Ok(())
    }

    /// Sends the marks that are due. `complete` tells, per topic, whether the snapshot of its tables is done.
    pub(super) fn mark(&mut self, complete: [bool; 3], now: Instant) -> Result<(), Error> {
        let bound = self.progress.bound;
        while let Some(place) = self.marks.next(bound, now) {
            self.begin_if_needed()?;
            // A mark stands behind what it contains.
            self.send_events()?;
            let partitions = self.partitions.unsigned_abs() as usize;
            let (family, partition) = (place / partitions, u32::try_from(place % partitions).unwrap_or(0));
            let kind = Topic::State(Family::ALL[family]);
            let topic = self.names.events.of(kind);
            self.progress.marks += 1;
            self.uncounted.of_mut(kind)[partition as usize] += 1;
            let mark = Mark {
                source: &self.source,
                topic,
                partition,
                bound,
                count: self.progress.live_events(Family::ALL[family], partition),
                complete: complete[family],
                ahead: self.progress.ahead,
                number: self.progress.marks,
                time_us: Timestamp::now().0,
            };
            self.mark_bytes.clear();
            write_mark(&mut self.mark_bytes, &mark);
            let headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE.as_bytes())];
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            self.producer.active().send(topic, partition, MARK_KEY.as_bytes(), Some(&self.mark_bytes), &headers)?;
            self.records += 1;
        }
        Ok(())
    }

    /// Returns when the next mark is due.
    pub(super) fn next_mark(&self) -> Instant {
        self.marks.next_at(self.progress.bound)
    }

    /// Serves delivery reports, and fails as soon as one of them does. Sends what was gathered and whose time has come.
    pub(super) fn poll(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.events.is_due(now) {
            self.send_events()?;
        }
        if self.history.is_due(now) && self.producer.is_delivered() {
            self.send_history()?;
        }
        self.producer.active().poll();
        self.producer.active().check()?;
        self.note_commit(Duration::ZERO)
    }

    /// Whether the producer's queue has room, so that sending does not wait for the brokers.
    pub(super) fn has_room(&mut self) -> bool {
        self.producer.active().in_flight() < QUEUE_RECORDS / 4 * 3
    }

    /// Tells whether the Kafka transaction, which is to end, should end now: when the next one has its partitions, so that
    /// nobody waits for its first records, and when no record is on its way, so that nobody waits for the last ones of this,
    /// or such a moment does not come.
    pub(super) fn is_time_to_end(&mut self, now: Instant) -> Result<bool, Error> {
        if !self.enlist_next(now)? {
            return Ok(false);
        }
        let since = *self.ending.get_or_insert(now);
        Ok(self.in_flight() == 0 || now >= since + QUIET_PATIENCE)
    }

    /// Begins the next Kafka transaction beside the open one, if it has not begun; returns whether the state partitions are
    /// enlisted in it. Readers of committed records see what still comes to a partition behind that only once the next one
    /// is committed, too.
    fn enlist_next(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(next) = self.producer.resting() else { return Ok(false) };
        if self.next_opened.is_none() {
            next.begin()?;
            let headers = [(POSITION_HEADER, &Position::default().text()[..])];
            for topic in &self.names.events.states {
                for partition in 0..self.partitions {
                    next.send(topic, partition, ENLIST_KEY.as_bytes(), None, &headers)?;
                }
            }
            self.next_opened = Some(now);
        }
        next.poll();
        next.check()?;
        Ok(next.in_flight() == 0)
    }

    /// Ends the Kafka transaction: what was sent is committed together with the progress that it makes, in the background.
    ///
    /// State events of the next one may follow at once, so that those of this one must be on the brokers now. History and
    /// progress need not: the next history waits for [`AlternatingProducer::is_delivered`], the next progress for the commit.
    pub(super) fn end_transaction(&mut self) -> Result<(), Error> {
        if self.opened.is_none() {
            return Ok(());
        }
        self.settle()?;
        self.send_events()?;
        self.producer.active().drain(self.timeout)?;
        self.send_history()?;
        for topic in Topic::ALL {
            let records = self.uncounted.of_mut(topic);
            self.progress.sent(topic, records);
            records.fill(0);
        }
        let record = serde_json::to_vec(&self.progress).map_err(|error| Error::Unexpected(error.to_string()))?;
        self.producer.active().send(&self.names.progress, 0, self.source.as_bytes(), Some(&record), &[])?;
        self.producer.end(self.timeout)?;
        self.committing = Some((self.progress.bound, Instant::now()));
        histogram!("highwater_capture_transaction_records").record(as_f64(self.records as u64));
        self.opened = self.next_opened.take();
        self.ending = None;
        self.records = 0;
        Ok(())
    }

    /// Ends for good: commits what was sent, and leaves no Kafka transaction open for which readers would wait.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        // The next one may have begun.
        while self.opened.is_some() {
            self.end_transaction()?;
        }
        self.settle()
    }

    /// Commits the progress as it is now, before anything rests on it.
    pub(super) fn commit_progress(&mut self) -> Result<(), Error> {
        self.begin_if_needed()?;
        self.end_transaction()?;
        self.settle()
    }

    /// Waits until what was ended is committed.
    fn settle(&mut self) -> Result<(), Error> {
        self.note_commit(self.timeout)?;
        if self.committing.is_some() {
            let reason = format!("no outcome of a commit within {:?}", self.timeout);
            return Err(ProducerError::Transient { reason }.into());
        }
        Ok(())
    }

    /// Takes note of a commit that is done, waiting for it up to `wait`.
    fn note_commit(&mut self, wait: Duration) -> Result<(), Error> {
        let Some((bound, ended)) = self.committing else { return Ok(()) };
        if self.producer.committed(wait)? {
            self.committed = bound;
            self.committing = None;
            histogram!("highwater_capture_commit_seconds").record(ended.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Returns by when [`Self::poll`] has something to do, but for delivery reports.
    pub(super) fn next_poll(&self, now: Instant) -> Option<Instant> {
        let committing = self.committing.map(|_| now + COMMIT_LOOK);
        let ending = self.next_opened.map(|_| now + QUIET_LOOK);
        let history = self.history.due().filter(|_| self.producer.is_delivered());
        [self.events.due(), history, committing, ending].into_iter().flatten().min()
    }

    fn begin_if_needed(&mut self) -> Result<(), Error> {
        if self.opened.is_none() {
            self.producer.active().begin()?;
            self.opened = Some(Instant::now());
        }
        Ok(())
    }
}
