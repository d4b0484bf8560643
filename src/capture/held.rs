//! What the topics hold, against what the progress says of them: somebody may have deleted a topic, and Kafka may have lost records.

use std::time::Duration;

use highwater_kafka::{Connection, Consumer, ConsumerSettings, Error as Kafka, Isolation, Start};
use tokio::time::Instant;

use super::error::Error;
use super::progress::{Ends, Progress, Shorter};
use super::session::Plan;
use super::start::Lost;
use crate::events::draft::Topic;
use crate::topics::Topics;

/// How long a partition must look too short: a new leader may not know its end at once (KIP-207).
const BELIEVED_AFTER: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The partitions that events go to, as they are now.
pub struct Held<'a> {
    topics: &'a Topics,
    connection: Connection,
    partitions: Vec<(Topic, i32)>,
    timeout: Duration,
}

impl<'a> Held<'a> {
    /// Names the partitions; `count` says how many a topic of this name has, 0 where it is missing.
    #[must_use]
    pub fn new(topics: &'a Topics, connection: Connection, timeout: Duration, count: impl Fn(&str) -> i32) -> Self {
        let of_topic = |topic: Topic| (0..count(&topics.name(topic.suffix()))).map(move |at| (topic, at));
        let partitions = Topic::ALL.into_iter().flat_map(of_topic).collect();
        Self { topics, connection, partitions, timeout }
    }

    /// Compares with the progress, which was read before. Returns where each partition ends, and one that ends before what was
    /// committed to it.
    ///
    /// # Errors
    /// What Kafka says.
    pub async fn compare(&self, progress: &Progress) -> Result<(Ends, Option<Lost>), Kafka> {
        let deadline = Instant::now() + BELIEVED_AFTER;
        loop {
            let ends = self.ends().await?;
            let shorter = progress.shorter(&ends);
            if shorter.is_none() || Instant::now() >= deadline {
                return Ok((ends, shorter.map(|shorter| self.lost_records(shorter))));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn lost_records(&self, Shorter { suffix, partition, end, expected }: Shorter) -> Lost {
        Lost::Records { topic: self.topics.name(&suffix), partition, end, expected, progress: self.topics.progress() }
    }

    /// Returns a topic that holds events. Bare ends do not tell: what a first session sent and never committed stands there too.
    ///
    /// # Errors
    /// What Kafka says.
    pub async fn topic_with_events(&self) -> Result<Option<String>, Kafka> {
        let settings = ConsumerSettings {
            // The end of a partition is told by a fetch that finds nothing.
            fetch_wait: Duration::from_millis(20),
            ..ConsumerSettings::new("highwater.events", Isolation::ReadCommitted)
        };
        let mut consumer = Consumer::new(&self.connection, settings)?;
        let mut starts = Vec::new();
        let ends = self.ends().await?;
        let is_written = |(topic, partition): &&(Topic, i32)| {
            let ends = ends.get(topic.suffix()).and_then(|ends| ends.get(usize::try_from(*partition).ok()?));
            ends.is_some_and(|&end| end > 0)
        };
        for (topic, partition) in self.partitions.iter().filter(is_written) {
            let topic = self.topics.name(topic.suffix());
            let ends = consumer.watermarks(&topic, *partition, self.timeout).await?;
            starts.extend((ends.low < ends.high).then_some(Start { topic, partition: *partition, offset: ends.low }));
        }
        if starts.is_empty() {
            return Ok(None);
        }
        consumer.assign(&starts)?;
        let deadline = Instant::now() + self.timeout;
        loop {
            let records = consumer.next_batch(1, LOOK_EVERY).await?;
            if let Some(record) = records.first() {
                return Ok(Some(record.topic.to_string()));
            }
            if consumer.all_at_end() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                let what = format!("tell whether the topics {}.* hold events", self.topics.prefix);
                return Err(Kafka::Deadline { what, waited: self.timeout });
            }
        }
    }

    /// Asks where each partition ends.
    async fn ends(&self) -> Result<Ends, Kafka> {
        let mut ends = Ends::new();
        if self.partitions.is_empty() {
            return Ok(ends);
        }
        let name = |&(topic, partition): &(Topic, i32)| (self.topics.name(topic.suffix()), partition);
        let named: Vec<(String, i32)> = self.partitions.iter().map(name).collect();
        let settings = ConsumerSettings::new("highwater.ends", Isolation::ReadUncommitted);
        let consumer = Consumer::new(&self.connection, settings)?;
        for ((topic, _), end) in self.partitions.iter().zip(consumer.ends(&named, self.timeout).await?) {
            ends.entry(topic.suffix().to_owned()).or_default().push(end);
        }
        consumer.leave();
        Ok(ends)
    }
}

impl Plan<'_> {
    /// Notes in the progress where each partition ends. Returns one that ends before what was committed to it.
    pub(super) fn compare_with_topics(&self, progress: &mut Progress) -> Result<Option<Lost>, Error> {
        let (ends, lost) = self.runtime.block_on(self.held().compare(progress))?;
        progress.ends = ends;
        Ok(lost)
    }

    /// Returns a topic that holds events.
    pub(super) fn topic_with_events(&self) -> Result<Option<String>, Error> {
        Ok(self.runtime.block_on(self.held().topic_with_events())?)
    }

    fn held(&self) -> Held<'_> {
        let history = self.topics.history();
        let count = |name: &str| if name == history { 1 } else { self.topics.partitions };
        Held::new(self.topics, self.topics.connection("highwater-capture"), self.settings.answer_timeout, count)
    }
}
