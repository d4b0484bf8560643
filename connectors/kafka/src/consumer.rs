//! Partitions read from offsets the caller chose: no group, no automatic commit, no jump.
//!
//! Each partition has its own queue, so that an error and an end of partition say whose they are. A reader of
//! compacted topics and transactions sees gaps in the offsets: they are not dense.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use tokio::sync::Notify;

use crate::cluster::partitions_of;
use crate::connection::{Connection, Events};
use crate::error::{Error, is_refusal};
use crate::probe::Probe;
use crate::queue::{Queue, find};
use crate::record::{ConsumerSettings, Record, Start, Watermarks};

/// The queues are looked at this often even if no wake-up came: main-queue events carry none.
const SWEEP: Duration = Duration::from_millis(100);

/// A reader of assigned partitions.
pub struct Consumer {
    // Before `client`: a queue must not outlive its consumer.
    queues: Vec<Queue>,
    client: Arc<BaseConsumer<Events>>,
    /// The same, for whoever asks beside the reading.
    probe: Probe,
    events: Events,
    settings: ConsumerSettings,
    connection: Connection,
    wake: Arc<Notify>,
    /// The queue to look at first, so that a busy one does not starve the others.
    first: usize,
}

impl Consumer {
    /// Makes the client, without assignment.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] or [`Error::Refused`] for settings that librdkafka does not take.
    pub fn new(connection: &Connection, settings: ConsumerSettings) -> Result<Self, Error> {
        let mut config = connection.config();
        config
            .set("group.id", &settings.group)
            .set("isolation.level", settings.isolation.setting())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", settings.fetch_wait.as_millis().to_string())
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "50")
            .set("fetch.message.max.bytes", "1048576")
            .set("queued.min.messages", settings.ahead_records.to_string())
            .set("queued.max.messages.kbytes", (settings.ahead_bytes / 1024).max(1).to_string());
        let events = Events::default();
        let client = BaseConsumer::from_config_and_context(&config, events.clone())
            .map_err(|error| Error::of("make a consumer", error))?;
        let client = Arc::new(client);
        Ok(Self {
            queues: Vec::new(),
            probe: Probe::of(Arc::clone(&client)),
            client,
            events,
            settings,
            connection: connection.clone(),
            wake: Arc::new(Notify::new()),
            first: 0,
        })
    }

    /// Lets go of the client in the background: the crate blocks for up to 100 ms before it is gone.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn leave(self) {
        tokio::task::spawn_blocking(move || drop(self));
    }

    /// Goes on with another client, each partition from where it stands. Its probes follow.
    ///
    /// A client can lose its brokers for good while others reach them. One that asks in the moment in which the only broker is
    /// fenced is told of none, lets go of all, and the same answer calls off what would bring them back (librdkafka's issue 5301, open);
    /// one can also be left with a broker that leads no more (its pull request 5593, open). Neither says so.
    ///
    /// # Errors
    ///
    /// As [`Self::new`] and [`Self::assign`]; then nothing has changed.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn renew(&mut self) -> Result<(), Error> {
        let mut fresh = Self::new(&self.connection, self.settings.clone())?;
        let start = |q: &Queue| Start { topic: q.topic.to_string(), partition: q.partition, offset: q.position };
        fresh.assign(&self.queues.iter().map(start).collect::<Vec<_>>())?;
        for (fresh, queue) in fresh.queues.iter_mut().zip(&self.queues) {
            fresh.held = queue.held;
        }
        self.probe.follow(&fresh.client);
        fresh.probe = self.probe.clone();
        std::mem::replace(self, fresh).leave();
        Ok(())
    }

    /// Reads these partitions from these offsets, and no others from now on.
    ///
    /// # Errors
    ///
    /// As the client says; offsets are checked by the broker on the first fetch, see [`Self::next_batch`].
    pub fn assign(&mut self, starts: &[Start]) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        let mut names: BTreeMap<&str, Arc<str>> = BTreeMap::new();
        let mut queues = Vec::with_capacity(starts.len());
        for start in starts {
            list.add_partition_offset(&start.topic, start.partition, Offset::Offset(start.offset))
                .map_err(|error| Error::of("assign partitions", error))?;
            let topic = Arc::clone(names.entry(&start.topic).or_insert_with(|| Arc::from(start.topic.as_str())));
            queues.push(self.split(topic, start)?);
        }
        // The queues are split off before the fetchers start, so that nothing reaches the common queue.
        self.queues = queues;
        self.client.assign(&list).map_err(|error| Error::of("assign partitions", error))
    }

    fn split(&self, topic: Arc<str>, start: &Start) -> Result<Queue, Error> {
        let mut inner = self
            .client
            .split_partition_queue(&start.topic, start.partition)
            .ok_or_else(|| Error::UnknownPartition { topic: start.topic.clone(), partition: start.partition })?;
        let wake = Arc::clone(&self.wake);
        inner.set_nonempty_callback(move || wake.notify_one());
        Ok(Queue { topic, partition: start.partition, inner, position: start.offset, at_end: false, held: false })
    }

    /// Goes on reading one assigned partition at `offset`; the others are not disturbed.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPartition`] for one that is not assigned.
    pub fn seek(&mut self, topic: &str, partition: i32, offset: i64) -> Result<(), Error> {
        let queue = find(&mut self.queues, topic, partition)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .and_then(|()| self.client.incremental_unassign(&list))
            .and_then(|()| self.client.incremental_assign(&list))
            .map_err(|error| Error::of(format!("go to offset {offset} of {topic}[{partition}]"), error))?;
        queue.position = offset;
        queue.at_end = false;
        Ok(())
    }

    /// Waits up to `max_wait` for a first record and returns it with all others that are there, up to `max_records`.
    ///
    /// Records of one partition come in offset order. Empty when nothing came in time. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`Error::OffsetOutOfRange`] where the log no longer holds what comes next: nothing is skipped; `seek` or give up.
    /// Records read before an error in another partition are not lost: the error comes with the next call.
    pub async fn next_batch(&mut self, max_records: usize, max_wait: Duration) -> Result<Vec<Record>, Error> {
        let deadline = Instant::now() + max_wait;
        loop {
            let batch = self.sweep(max_records)?;
            let now = Instant::now();
            if !batch.is_empty() || now >= deadline {
                return Ok(batch);
            }
            let wait = (deadline - now).min(SWEEP);
            // Either way the next sweep tells; a wake-up between the sweep and here is kept by the Notify.
            let _ = tokio::time::timeout(wait, self.wake.notified()).await;
        }
    }

    /// Takes what is there, one queue after the other.
    fn sweep(&mut self, max_records: usize) -> Result<Vec<Record>, Error> {
        self.serve_main_queue()?;
        let mut batch = Vec::new();
        let mut room = self.settings.batch_bytes;
        let count = self.queues.len();
        self.first = if count == 0 { 0 } else { (self.first + 1) % count };
        for i in 0..count {
            let queue = &mut self.queues[(self.first + i) % count];
            if queue.held {
                continue;
            }
            while batch.len() < max_records && room > 0 {
                match queue.take() {
                    Ok(Some(record)) => {
                        room = room.saturating_sub(record.bytes().max(1));
                        batch.push(record);
                    }
                    Ok(None) => break,
                    // What stands before the error is delivered first; the client repeats the error only for some
                    // kinds, so the partition is asked again by a seek to where it stood.
                    Err(error) if batch.is_empty() => return Err(error),
                    Err(_) => {
                        let (topic, partition, position) = (Arc::clone(&queue.topic), queue.partition, queue.position);
                        self.seek(&topic, partition, position)?;
                        return Ok(batch);
                    }
                }
            }
        }
        Ok(batch)
    }

    /// Leaves the records of one assigned partition where they are, or takes them again; what is fetched ahead is bounded.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPartition`] for one that is not assigned.
    pub fn hold(&mut self, topic: &str, partition: i32, held: bool) -> Result<(), Error> {
        find(&mut self.queues, topic, partition)?.held = held;
        Ok(())
    }

    fn serve_main_queue(&self) -> Result<(), Error> {
        while let Some(event) = self.client.poll(Duration::ZERO) {
            match event {
                Err(KafkaError::MessageConsumptionFatal(code)) => {
                    return Err(Error::Refused { what: "read".to_owned(), reason: code.to_string() });
                }
                Err(error) if error.rdkafka_error_code().is_some_and(is_refusal) => {
                    return Err(Error::of("read", error));
                }
                // A broker that is away comes back, and fetching goes on by itself; whoever watches the lag sees it.
                Err(error) => {
                    self.events.record(&error.to_string());
                    tracing::debug!(%error, "kafka consumer error");
                }
                Ok(_) => unreachable!("every assigned partition has a queue of its own"),
            }
        }
        Ok(())
    }

    /// The offset expected next in an assigned partition.
    #[must_use]
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.queues.iter().find(|q| q.partition == partition && *q.topic == *topic).map(|q| q.position)
    }

    /// Reports whether the last word about an assigned partition was "nothing more yet" (under `ReadCommitted`: nothing stable).
    #[must_use]
    pub fn at_end(&self, topic: &str, partition: i32) -> bool {
        self.queues.iter().any(|q| q.at_end && q.partition == partition && *q.topic == *topic)
    }

    /// Reports whether that holds for every assigned partition.
    #[must_use]
    pub fn all_at_end(&self) -> bool {
        self.queues.iter().all(|q| q.at_end)
    }

    /// What the client last complained about, for whoever waits in vain.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.events.last_error()
    }

    /// Asks the broker for the ends of a partition, under this reader's isolation.
    ///
    /// # Errors
    ///
    /// Transient when no answer comes within `timeout`.
    pub async fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<Watermarks, Error> {
        self.probe.watermarks(topic, partition, timeout).await
    }

    /// Asks the brokers for the offset behind the last record of each of these partitions, under this reader's isolation, in one
    /// request to each broker. In their order.
    ///
    /// # Errors
    ///
    /// Transient when no answer comes within `timeout`, or while a new leader does not know.
    pub async fn ends(&self, partitions: &[(String, i32)], timeout: Duration) -> Result<Vec<u64>, Error> {
        let what = format!("tell the ends of {} partitions", partitions.len());
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in partitions {
            // The time -1 asks for the end (protocol guide: ListOffsets).
            let added = asked.add_partition_offset(topic, *partition, Offset::End);
            added.map_err(|error| Error::of(what.clone(), error))?;
        }
        let ends = self
            .probe()
            .blocking(what, move |client| {
                let ends = client.offsets_for_times(asked, timeout)?;
                ends.elements().iter().try_for_each(TopicPartitionListElem::error)?;
                Ok(ends)
            })
            .await?;
        let end = |(topic, partition): &(String, i32)| match ends.find_partition(topic, *partition)?.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        let unknown = |(topic, partition): &(String, i32)| Error::UnknownPartition {
            topic: topic.clone(),
            partition: *partition,
        };
        partitions.iter().map(|asked| end(asked).ok_or_else(|| unknown(asked))).collect()
    }

    /// Asks for the first offset at or after a time (milliseconds since 1970); `None` where all records are older.
    ///
    /// # Errors
    ///
    /// Transient when no answer comes within `timeout`.
    pub async fn offset_at(
        &self,
        topic: &str,
        partition: i32,
        time_ms: i64,
        timeout: Duration,
    ) -> Result<Option<i64>, Error> {
        let what = format!("tell the offset of a time in {topic}[{partition}]");
        let name = topic.to_owned();
        let found = self
            .probe()
            .blocking(what, move |client| {
                let mut times = TopicPartitionList::new();
                times.add_partition_offset(&name, partition, Offset::Offset(time_ms))?;
                client.offsets_for_times(times, timeout)
            })
            .await?;
        Ok(found.elements().first().and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Asks how many partitions a topic has; `None` where it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] when no broker answers within `timeout`, [`Error::Refused`] where the client's user may not know.
    pub async fn partitions(&self, topic: &str, timeout: Duration) -> Result<Option<i32>, Error> {
        let name = topic.to_owned();
        let metadata = self
            .probe()
            .blocking(format!("describe {topic}"), move |client| client.fetch_metadata(Some(&name), timeout))
            .await
            .map_err(|error| match error {
                Error::Transient { .. } => Error::Unreachable {
                    brokers: self.connection.brokers().to_owned(),
                    waited: timeout,
                    cause: self.last_error(),
                },
                other => other,
            })?;
        partitions_of(&metadata, topic)
    }

    /// Returns what asks for watermarks from another task, while this reader goes on.
    #[must_use]
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Commits the positions for display in tools; nothing reads them back. Does not wait.
    ///
    /// # Errors
    ///
    /// As the client says; harmless for delivery.
    pub fn show_positions(&self) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        for queue in &self.queues {
            list.add_partition_offset(&queue.topic, queue.partition, Offset::Offset(queue.position))
                .map_err(|error| Error::of("commit offsets for display", error))?;
        }
        self.client.commit(&list, CommitMode::Async).map_err(|error| Error::of("commit offsets for display", error))
    }
}
