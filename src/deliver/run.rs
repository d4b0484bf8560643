//! The one loop: read, filter, apply, and what follows from how that went.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_kafka::{Connection, Consumer, ConsumerSettings, Error, Isolation, Record, Start, Writer};
use metrics::{counter, gauge};
use tracing::{debug, error, info, warn};

use super::backoff::Backoff;
use super::dead_letter;
use super::lag::{Lag, MEASURE};
use super::lane::{Lane, STALL, Taken};
use super::start::{Ended, begin, partitions, pause};
use super::worker::{Batch, Fault, Item, Partition, Worker};
use crate::running::{Shutdown, Standing};

/// How long the loop waits for records before it looks after other things.
const LOOK_UP: Duration = Duration::from_secs(1);

/// What a worker is fed from.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The brokers.
    pub connection: Connection,
    /// Full names of the topics.
    pub topics: Vec<String>,
    /// Full name of the topic for poison.
    pub dead_letters: String,
    /// The most records of one read.
    pub batch_records: usize,
    /// `min.compaction.lag.ms` of the topics: counts are compared only within it, and a reader that is older is named.
    pub compaction_lag: Duration,
}

impl Feed {
    /// Describes a feed with the usual limits.
    #[must_use]
    pub fn new(connection: Connection, topics: Vec<String>, dead_letters: String) -> Self {
        Self { connection, topics, dead_letters, batch_records: 2_000, compaction_lag: Duration::from_hours(7 * 24) }
    }
}

/// A worker that cannot go on without an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Its name.
    pub worker: &'static str,
    /// What is wrong and what can be done.
    pub reason: String,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} has stopped: {}", self.worker, self.reason)
    }
}

impl std::error::Error for Stopped {}

/// Feeds the worker until `shutdown`, then returns with nothing half applied. `standing` says whether all partitions move.
///
/// # Errors
///
/// [`Stopped`] on a fatal fault, and when Kafka no longer holds what comes next: nothing is skipped silently.
pub async fn deliver<W: Worker>(
    worker: &mut W,
    feed: &Feed,
    shutdown: &Shutdown,
    standing: &Standing,
) -> Result<(), Stopped> {
    let name = worker.name();
    let stopped = |reason: String| Stopped { worker: name, reason };
    let outcome: Result<Infallible, Ended> = async {
        let settings = ConsumerSettings::new(format!("highwater.{name}"), Isolation::ReadUncommitted);
        let mut consumer = Consumer::new(&feed.connection, settings)?;
        let writer = Writer::new(&feed.connection)?;
        standing.waits_for("topics");
        let lanes = partitions(&mut consumer, feed, name, shutdown).await?.into_iter().map(Lane::new).collect();
        let (index, lag_unknown, renewed) = (HashMap::new(), false, Instant::now());
        let mut run = Run { name, feed, shutdown, standing, consumer, writer, lanes, index, lag_unknown, renewed };
        run.assign(worker).await?;
        run.go(worker).await
    }
    .await;
    match outcome {
        Err(Ended::Drained) => {
            info!(worker = name, "drained");
            Ok(())
        }
        Err(Ended::Stopped(reason)) => Err(stopped(reason)),
    }
}

struct Run<'a> {
    name: &'static str,
    feed: &'a Feed,
    shutdown: &'a Shutdown,
    standing: &'a Standing,
    consumer: Consumer,
    writer: Writer,
    lanes: Vec<Lane>,
    /// Where each partition's lane is.
    index: HashMap<Partition, usize>,
    /// How far behind the worker is was not known when it last said how it stands.
    lag_unknown: bool,
    /// Since when the reader has its client.
    renewed: Instant,
}

impl Run<'_> {
    /// Asks where each partition goes on, and assigns all.
    async fn assign<W: Worker>(&mut self, worker: &mut W) -> Result<(), Ended> {
        let mut starts = Vec::with_capacity(self.lanes.len());
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            let (offset, resume) = begin(worker, &mut self.consumer, self.feed, &lane.partition, self.shutdown).await?;
            lane.restart(offset, resume.newest);
            starts.push(Start { topic: lane.partition.topic.to_string(), partition: lane.partition.index, offset });
            self.index.insert(lane.partition.clone(), i);
        }
        self.consumer.assign(&starts)?;
        info!(worker = self.name, partitions = starts.len(), "reads");
        Ok(())
    }

    async fn go<W: Worker>(&mut self, worker: &mut W) -> Result<Infallible, Ended> {
        let records = counter!("highwater_delivery_records_total", "worker" => self.name);
        let lag = self.measure_lag();
        let mut shown = Instant::now();
        let mut caught_up = false;
        loop {
            let wait =
                self.next_due().map_or(LOOK_UP, |due| due.saturating_duration_since(Instant::now()).min(LOOK_UP));
            let read = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Ended::Drained),
                read = self.consumer.next_batch(self.feed.batch_records, wait) => read,
            };
            match read {
                Ok(read) => {
                    records.increment(read.len() as u64);
                    self.take(read).await?;
                }
                Err(error) => self.unreadable(error).await?,
            }
            self.pass_tails(&lag)?;
            self.replace_a_stalled_client(&lag)?;
            self.apply(worker).await?;
            if !caught_up && self.reached_all_ends(&lag) {
                caught_up = true;
                worker.caught_up();
            }
            self.stand(caught_up, lag.is_unknown());
            for (i, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| !lane.dirty) {
                lag.applied(i, lane.next_offset);
            }
            if shown.elapsed() >= MEASURE {
                shown = Instant::now();
                self.show();
            }
        }
    }

    /// Sorts what was read into the lanes.
    async fn take(&mut self, read: Vec<Record>) -> Result<(), Ended> {
        for record in read {
            let partition = Partition { topic: Arc::clone(&record.topic), index: record.partition };
            let Some(&lane) = self.index.get(&partition) else { continue };
            let lane = &mut self.lanes[lane];
            if let Taken::NoEvent(record, reason) = lane.take(record, self.name, self.feed.compaction_lag) {
                lane.dirty = true;
                self.bury(&record, &reason).await?;
            }
        }
        Ok(())
    }

    /// Lets the workers' offsets pass what stands behind the last record and is none: the markers of transactions. Once
    /// the broker had deleted all records, an offset before them would look like one whose records were never applied.
    ///
    /// The reader says only that it is at the end, not at which. So it reads the tail once more, from the last record to
    /// an end that was asked before; a partition that is in use is left alone.
    fn pass_tails(&mut self, lag: &Lag) -> Result<(), Ended> {
        let now = Instant::now();
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            let (topic, index) = (&lane.partition.topic, lane.partition.index);
            if !self.consumer.at_end(topic, index) {
                continue;
            }
            if lag.end(i).is_some_and(|end| lane.begins_tail(end, now)) {
                self.consumer.seek(&lane.partition.topic, index, lane.next_offset)?;
            } else {
                lane.ends_tail();
            }
        }
        Ok(())
    }

    /// Gives the reader another client where it brings nothing of what stands in a partition, or where nothing comes and
    /// nobody answers either: some clients never find their brokers again ([`Consumer::renew`]).
    fn replace_a_stalled_client(&mut self, lag: &Lag) -> Result<(), Ended> {
        let now = Instant::now();
        let (consumer, mut stalled) = (&self.consumer, None);
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            let at_end = consumer.at_end(&lane.partition.topic, lane.partition.index);
            if lane.is_stalled(lag.end(i), at_end, now) {
                stalled = Some(lane.partition.to_string());
            }
        }
        let silent = || lag.is_unknown() && self.lanes.iter().all(|lane| now - lane.read_at >= STALL);
        if now - self.renewed < STALL || (stalled.is_none() && !silent()) {
            return Ok(());
        }
        let cause = self.consumer.last_error();
        warn!(worker = self.name, stalled, cause, "kafka's client brings nothing, another one takes its place");
        counter!("highwater_delivery_new_clients_total", "worker" => self.name).increment(1);
        self.consumer.renew()?;
        self.renewed = now;
        Ok(())
    }

    /// Gives the worker what is ready, and acts on each outcome.
    async fn apply<W: Worker>(&mut self, worker: &mut W) -> Result<(), Ended> {
        let now = Instant::now();
        let ready: Vec<usize> = (0..self.lanes.len()).filter(|&i| self.lanes[i].is_ready(now)).collect();
        if ready.is_empty() {
            return Ok(());
        }
        let outcomes = {
            let items: Vec<Vec<Item<'_>>> = ready.iter().map(|&i| self.lanes[i].items()).collect();
            let batch = |(&i, items)| {
                let lane: &Lane = &self.lanes[i];
                Batch { partition: &lane.partition, items, next_offset: lane.next_offset }
            };
            let batches: Vec<Batch<'_>> = ready.iter().zip(items.iter().map(Vec::as_slice)).map(batch).collect();
            worker.apply(&batches).await
        };
        assert_eq!(outcomes.len(), ready.len(), "worker {} answered for other batches", self.name);
        for (i, outcome) in ready.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => self.lanes[i].applied(),
                Err(fault) => self.faulted(i, fault, worker).await?,
            }
            // A lane that waits leaves records on the broker once it has a batch of them.
            let lane = &self.lanes[i];
            let full = lane.due.is_some() && lane.pending.len() >= self.feed.batch_records;
            self.consumer.hold(&lane.partition.topic, lane.partition.index, full)?;
        }
        Ok(())
    }

    async fn faulted<W: Worker>(&mut self, i: usize, fault: Fault, worker: &mut W) -> Result<(), Ended> {
        let name = self.name;
        let lane = &mut self.lanes[i];
        let partition = &lane.partition;
        match fault {
            Fault::Transient(reason) => {
                counter!("highwater_delivery_retries_total", "worker" => name).increment(1);
                let partition = partition.to_string();
                let (attempts, delay) = lane.wait(&Backoff::default());
                warn!(worker = name, partition, attempts, ?delay, reason, "the partition waits, will retry the batch");
            }
            Fault::Poison { offset, reason } => {
                let not_given = format!("offset {offset} of {partition} is called poison but was not given: {reason}");
                let record = lane.remove(offset).ok_or(Ended::Stopped(not_given))?;
                self.bury(&record, &reason).await?;
            }
            Fault::Rewind => {
                counter!("highwater_delivery_rewinds_total", "worker" => name).increment(1);
                let (offset, resume) = begin(worker, &mut self.consumer, self.feed, partition, self.shutdown).await?;
                warn!(worker = name, %partition, offset, "its copy stands elsewhere, reads on from there");
                self.consumer.seek(&partition.topic, partition.index, offset)?;
                lane.restart(offset, resume.newest);
                // Two workers on one copy must not rewind each other in a spin.
                lane.wait(&Backoff { first: Duration::from_millis(10), ..Backoff::default() });
            }
            Fault::Fatal(reason) => return Err(Ended::Stopped(format!("{reason} ({partition})"))),
        }
        Ok(())
    }

    /// When the next batch is to be applied whether or not more is read.
    fn next_due(&self) -> Option<Instant> {
        self.lanes.iter().filter(|lane| lane.dirty).map(|lane| lane.due.unwrap_or_else(Instant::now)).min()
    }

    /// Whether every partition was once read to its end and applied. Each for itself: under load they never all are at once.
    ///
    /// The reader alone would not do: where every answer of the broker holds a record, none says that nothing stands behind
    /// it. Nor would the end that was asked: behind the last record may stand markers of transactions, which nobody reads.
    fn reached_all_ends(&mut self, lag: &Lag) -> bool {
        for (i, lane) in self.lanes.iter_mut().enumerate().filter(|(_, lane)| !lane.dirty) {
            let at_end = self.consumer.at_end(&lane.partition.topic, lane.partition.index);
            lane.reached_end |= at_end || lag.end(i).is_some_and(|end| lane.next_offset >= end);
        }
        self.lanes.iter().all(|lane| lane.reached_end)
    }

    /// Says how the worker stands: it is ready once it has caught up, while Kafka says how far that is.
    fn stand(&mut self, caught_up: bool, lag_unknown: bool) {
        if lag_unknown && !self.lag_unknown {
            warn!(worker = self.name, "kafka does not answer: the lag that is shown is an old one");
        }
        self.lag_unknown = lag_unknown;
        let waiting: Vec<&Partition> =
            self.lanes.iter().filter(|lane| lane.due.is_some() && lane.dirty).map(|lane| &lane.partition).collect();
        match waits_for(caught_up, lag_unknown, waiting.first().copied()) {
            None => self.standing.ready(),
            Some(reason) => self.standing.waits_for(reason),
        }
        let count = u32::try_from(waiting.len()).map_or(0.0, f64::from);
        gauge!("highwater_delivery_waiting", "worker" => self.name).set(count);
    }

    /// Acts on an error of reading.
    async fn unreadable(&mut self, error: Error) -> Result<(), Ended> {
        let worker = self.name;
        match error {
            Error::UnknownPartition { ref topic, partition } => {
                warn!(worker, %error, "will look for it again");
                pause(&mut 3, self.shutdown).await?;
                let offset = self.consumer.position(topic, partition).unwrap_or(0);
                self.consumer.seek(topic, partition, offset)?;
            }
            error if error.is_transient() => {
                warn!(worker, %error, "cannot read, will go on");
                pause(&mut 0, self.shutdown).await?;
            }
            error => return Err(Ended::Stopped(format!("{error}; records may be lost to this copy: replay it"))),
        }
        Ok(())
    }

    /// Writes a dead letter, however long it takes.
    async fn bury(&mut self, record: &Record, reason: &str) -> Result<(), Ended> {
        let (worker, dead_letters) = (self.name, &self.feed.dead_letters);
        let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
        error!(worker, %topic, partition, offset, reason, "a record goes to the dead letters");
        let mut attempts = 0;
        while let Err(error) = dead_letter::write(&self.writer, dead_letters, worker, record, reason).await {
            if !error.is_transient() {
                return Err(Ended::Stopped(format!(
                    "cannot write the dead letter of {topic}/{partition} at {offset}: {error}"
                )));
            }
            warn!(worker, dead_letters, %error, attempts, "cannot write the dead letter, will retry");
            pause(&mut attempts, self.shutdown).await?;
            // As with the reader: some clients never find their brokers again.
            std::mem::replace(&mut self.writer, Writer::new(&self.feed.connection)?).leave();
        }
        counter!("highwater_dead_letters_total", "worker" => worker).increment(1);
        Ok(())
    }

    /// Shows offsets to Kafka's tools when all that was read is applied.
    fn show(&self) {
        if self.lanes.iter().all(|lane| !lane.dirty)
            && let Err(error) = self.consumer.show_positions()
        {
            debug!(worker = self.name, %error, "offsets are not shown");
        }
    }

    fn measure_lag(&self) -> Lag {
        let partitions = self.lanes.iter().map(|lane| (lane.partition.clone(), lane.next_offset)).collect();
        Lag::measure(self.consumer.probe(), partitions, self.name)
    }
}

/// Returns why a worker is not ready, or `None` if it is.
fn waits_for(caught_up: bool, lag_unknown: bool, waiting: Option<&Partition>) -> Option<String> {
    match waiting {
        Some(partition) => Some(format!("{partition} waits for its next attempt")),
        None if lag_unknown => Some("Kafka does not answer: nobody knows how far behind this is".to_owned()),
        None if !caught_up => Some("the end of its topics, which it reads up to".to_owned()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_caught_up_is_not_ready_while_kafka_does_not_answer() {
        assert_eq!(waits_for(true, false, None), None);
        let reason = |caught_up, lag_unknown| waits_for(caught_up, lag_unknown, None).unwrap_or_default();
        assert!(reason(true, true).contains("Kafka does not answer"));
        assert!(reason(false, true).contains("Kafka does not answer"));
        assert!(reason(false, false).contains("reads up to"));
        let partition = Partition { topic: Arc::from("stock"), index: 3 };
        assert!(waits_for(true, true, Some(&partition)).is_some_and(|reason| reason.contains("stock/3")));
    }
}
