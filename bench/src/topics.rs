//! The Kafka side: topics made, filled with what a run needs, and read to count what a run wrote.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

/// How long one answer of the broker may take.
const ANSWER: Duration = Duration::from_secs(20);
/// How long the reading of a topic may take.
const READ_WITHIN: Duration = Duration::from_mins(5);

pub(crate) struct Kafka {
    pub(crate) brokers: String,
}

/// What a reader sees of transactions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    Uncommitted,
    Committed,
}

/// What stands in a topic.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// Records of row changes: no marks, no tombstones.
    pub(crate) rows: u64,
    /// When the broker appended the last of them, in milliseconds since 1970.
    pub(crate) last_ms: i64,
    /// Keys and values, in bytes.
    pub(crate) bytes: u64,
    /// Positions that do not come after the one before them in their partition; 0 where records have no Position.
    pub(crate) out_of_order: u64,
}

/// What a snapshot wrote.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Entities that have a record.
    pub(crate) entities: u64,
    /// When the broker appended the last row that was read, in milliseconds since 1970.
    pub(crate) last_ms: i64,
}

impl Kafka {
    pub(crate) fn new(brokers: &str) -> Self {
        Self { brokers: brokers.to_owned() }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn consumer(&self, isolation: Isolation) -> Result<BaseConsumer> {
        let mut config = self.config();
        config
            .set("group.id", "highwater-bench")
            .set("enable.auto.commit", "false")
            .set(
                "isolation.level",
                if isolation == Isolation::Committed { "read_committed" } else { "read_uncommitted" },
            )
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error");
        Ok(config.create()?)
    }

    /// Makes a topic on which the broker notes when it appends.
    pub(crate) async fn make(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let topic =
            NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("message.timestamp.type", "LogAppendTime");
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let made = admin.create_topics([&topic], &AdminOptions::new().operation_timeout(Some(ANSWER))).await?;
        for outcome in made {
            outcome.map_err(|(name, code)| anyhow::anyhow!("topic {name} could not be made: {code}"))?;
        }
        Ok(())
    }

    /// Deletes the topics whose names start with `prefix` and a dot, and waits until they are gone.
    pub(crate) async fn delete_prefix(&self, prefix: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let start = format!("{prefix}.");
        let deadline = Instant::now() + ANSWER;
        loop {
            let metadata = admin.inner().fetch_metadata(None, ANSWER)?;
            let names: Vec<&str> = metadata
                .topics()
                .iter()
                .map(rdkafka::metadata::MetadataTopic::name)
                .filter(|name| name.starts_with(&start))
                .collect();
            if names.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "topics {prefix}.* could not be deleted within {ANSWER:?}");
            // The outcome shows in the next look; a topic may be on its way out already.
            admin.delete_topics(&names, &AdminOptions::new().operation_timeout(Some(ANSWER))).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Appends one record to partition 0.
    pub(crate) async fn append(&self, topic: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let producer: FutureProducer = self.config().set("acks", "all").create()?;
        let record = FutureRecord::to(topic).partition(0).key(key).payload(value);
        let sent = producer.send(record, ANSWER).await;
        sent.map_err(|(error, _)| error).with_context(|| format!("cannot write to {topic}"))?;
        Ok(())
    }

    /// Sum of the partitions' ends: every record appended so far, committed or not, and the broker's own markers.
    pub(crate) fn appended(consumer: &BaseConsumer, topic: &str, partitions: i32) -> Result<u64> {
        let mut sum = 0;
        for partition in 0..partitions {
            let (_, high) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
            sum += u64::try_from(high).unwrap_or(0);
        }
        Ok(sum)
    }

    /// Returns a consumer to ask with.
    pub(crate) fn asking(&self) -> Result<BaseConsumer> {
        self.consumer(Isolation::Committed)
    }

    /// Returns a consumer of what comes into a topic from now on; waits until the topic exists.
    pub(crate) fn following(&self, topic: &str, isolation: Isolation) -> Result<BaseConsumer> {
        let consumer = self.consumer(isolation)?;
        let deadline = Instant::now() + ANSWER;
        let mut list = TopicPartitionList::new();
        while list.count() == 0 {
            ensure!(Instant::now() < deadline, "there is no topic {topic} after {ANSWER:?}");
            for partition in partitions(&consumer, topic)? {
                // Where the end is must be known before the first write, not at the first fetch.
                let (_, end) = consumer.fetch_watermarks(topic, partition, ANSWER)?;
                list.add_partition_offset(topic, partition, Offset::Offset(end))?;
            }
        }
        consumer.assign(&list)?;
        Ok(consumer)
    }

    /// Returns key and value of the last committed record of partition 0, if the topic exists and holds one.
    pub(crate) fn last_record(&self, topic: &str) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut last = None;
        self.read(topic, |message: &OwnedMessage| {
            last = Some((message.key().unwrap_or_default().to_vec(), message.payload().unwrap_or_default().to_vec()));
        })?;
        Ok(last)
    }

    /// Counts the rows of a topic, as a reader of committed records sees them.
    pub(crate) fn count(&self, topic: &str) -> Result<Counted> {
        let mut counted = Counted::default();
        let mut positions: HashMap<i32, Vec<u8>> = HashMap::new();
        self.read(topic, |message| {
            let (key, Some(value)) = (message.key().unwrap_or_default(), message.payload()) else { return };
            if key == b"mark" {
                return;
            }
            counted.rows += 1;
            counted.bytes += (key.len() + value.len()) as u64;
            counted.last_ms = counted.last_ms.max(message.timestamp().to_millis().unwrap_or(0));
            if let Some(position) = position(value) {
                let before = positions.entry(message.partition()).or_default();
                counted.out_of_order += u64::from(before.as_slice() >= position);
                position.clone_into(before);
            }
        })?;
        Ok(counted)
    }

    /// Counts the records of a topic in which `text` stands, and the entities of all its records.
    pub(crate) fn count_of(&self, topic: &str, text: &str) -> Result<Read> {
        let mut read = Read::default();
        let (mut entities, by) = (HashSet::new(), RandomState::new());
        self.read(topic, |message| {
            let (key, Some(value)) = (message.key().unwrap_or_default(), message.payload()) else { return };
            if key == b"mark" {
                return;
            }
            // Eight bytes each: five million keys would be most of this process's memory.
            entities.insert(by.hash_one(key));
            // It stands at the beginning or at the end.
            let near = [&value[..value.len().min(512)], &value[value.len().saturating_sub(256)..]];
            if near.iter().any(|part| part.windows(text.len()).any(|window| window == text.as_bytes())) {
                read.last_ms = read.last_ms.max(message.timestamp().to_millis().unwrap_or(0));
            }
        })?;
        read.entities = entities.len() as u64;
        Ok(read)
    }

    /// Reads every committed record from the beginning of each partition to its end; none where there is no such topic.
    fn read(&self, topic: &str, mut each: impl FnMut(&OwnedMessage)) -> Result<()> {
        let consumer = self.consumer(Isolation::Committed)?;
        let mut open = partitions(&consumer, topic)?;
        let mut list = TopicPartitionList::new();
        for partition in &open {
            list.add_partition_offset(topic, *partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let deadline = Instant::now() + READ_WITHIN;
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => each(&message.detach()),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) => return Err(error).with_context(|| format!("cannot read {topic}")),
                None if Instant::now() > deadline => bail!("{topic} could not be read within {READ_WITHIN:?}"),
                None => {}
            }
        }
        Ok(())
    }
}

/// Numbers of a topic's partitions; none where there is no such topic.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<HashSet<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
    Ok(found.flat_map(|topic| topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id)).collect())
}

/// The Position in an event's bytes.
fn position(event: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"\"position\":\"";
    let at = event.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    event.get(at..at + 34)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_of_an_event_is_found_and_other_records_have_none() {
        let text = "00000001-000000000001A2B3-00000002";
        let event = format!("{{\"id\":\"{text}/stock\",\"position\":\"{text}\",\"data\":{{}}}}");
        assert_eq!(position(event.as_bytes()), Some(text.as_bytes()));
        assert_eq!(position(b"{\"before\":null}"), None);
    }
}
