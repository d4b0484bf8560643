//! Reads topics as an outsider would: committed records only, every partition from its beginning to its end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Endpoints;

/// How long one answer of the broker may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A record as it stands in its partition.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: String,
    pub(super) body: Body,
}

/// What a record holds.
#[derive(Debug)]
pub(super) enum Body {
    Event(Box<Event>),
    /// No value: the entity is gone. Holds the header `position`.
    Tombstone(Option<String>),
    /// A value that is no event, and why.
    Unreadable(String),
}

/// The attributes of an event that the checker looks at, and its data as published.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) time: String,
    pub(super) position: String,
    #[serde(default)]
    pub(super) xid: Option<String>,
    #[serde(default)]
    pub(super) subject: Option<String>,
    #[serde(default)]
    pub(super) entity: Option<String>,
    #[serde(default)]
    pub(super) last: bool,
    #[serde(default)]
    pub(super) complete: bool,
    #[serde(default)]
    pub(super) count: Option<String>,
    #[serde(default)]
    pub(super) unavailable: Option<String>,
    #[serde(default)]
    pub(super) data: Option<Box<RawValue>>,
}

impl Event {
    pub(super) fn is_mark(&self) -> bool {
        self.kind == "mark"
    }

    pub(super) fn is_snapshot(&self) -> bool {
        self.kind.ends_with(".snapshot")
    }
}

/// How much to read.
#[derive(Debug, Clone)]
pub(super) enum Until {
    /// From the end on, until every partition has a mark at this bound or above which says that the snapshot is complete.
    Complete(String),
    /// From the beginning, until every partition has a mark at this bound or above, and ends.
    Marked(String),
    /// From the beginning, until every partition ends.
    End,
}

/// Whose records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isolation {
    /// Those of committed Kafka transactions.
    Committed,
    /// Those of aborted ones, too.
    Any,
}

/// What was read, in the order of each partition, and the partitions that did not come as far as they should.
pub(super) struct Reading {
    pub(super) records: Vec<Record>,
    pub(super) behind: Vec<String>,
}

/// One partition on its way to its end.
#[derive(Default)]
struct Partition {
    mark: String,
    complete: bool,
    ended: bool,
}

/// Reads a topic; blocks its thread.
pub(super) fn read(
    endpoints: &Endpoints,
    topic: &str,
    until: &Until,
    isolation: Isolation,
    deadline: Instant,
) -> Result<Reading> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &endpoints.brokers)
        .set("group.id", "highwater-demo-check")
        .set("enable.auto.commit", "false")
        .set("isolation.level", if isolation == Isolation::Committed { "read_committed" } else { "read_uncommitted" })
        .set("enable.partition.eof", "true")
        // The end is told by a fetch that finds nothing: it must not wait for the next commit, which brings something everywhere.
        .set("fetch.wait.max.ms", "20")
        .set("auto.offset.reset", "earliest")
        .create()?;
    let mut partitions = assign(&consumer, topic, until)?;
    let mut records = Vec::new();
    while !partitions.values().all(|partition| arrived(partition, until)) {
        if Instant::now() > deadline {
            break;
        }
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(number))) => {
                if let Some(partition) = partitions.get_mut(&number) {
                    partition.ended = true;
                }
            }
            Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {}
            Some(Err(error)) => return Err(error).with_context(|| format!("cannot read {topic}")),
            Some(Ok(message)) => {
                let record = record(&message);
                let partition = partitions.entry(record.partition).or_default();
                partition.ended = false;
                if let Body::Event(event) = &record.body
                    && event.is_mark()
                {
                    partition.complete = event.complete;
                    partition.mark = event.position.clone().max(std::mem::take(&mut partition.mark));
                }
                records.push(record);
            }
        }
    }
    let mut behind: Vec<String> = partitions
        .iter()
        .filter(|(_, partition)| !arrived(partition, until))
        .map(|(number, partition)| {
            format!("{topic}/{number} is at {:?}, its end seen: {}", partition.mark, partition.ended)
        })
        .collect();
    behind.sort_unstable();
    Ok(Reading { records, behind })
}

fn arrived(partition: &Partition, until: &Until) -> bool {
    match until {
        Until::Complete(token) => partition.complete && partition.mark >= *token,
        Until::Marked(token) => partition.ended && partition.mark >= *token,
        Until::End => partition.ended,
    }
}

/// A broker that was just killed comes back; the client goes on by itself.
fn is_passing(code: rdkafka::types::RDKafkaErrorCode) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::NotLeaderForPartition
    )
}

fn assign(consumer: &BaseConsumer, topic: &str, until: &Until) -> Result<HashMap<i32, Partition>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER).with_context(|| format!("no answer about {topic}"))?;
    let found = || metadata.topics().iter().filter(|found| found.name() == topic);
    let numbers: Vec<i32> = found()
        .filter(|found| found.error().is_none())
        .flat_map(|found| found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id))
        .collect();
    if numbers.is_empty() {
        let told = found().find_map(rdkafka::metadata::MetadataTopic::error);
        bail!("there is no topic {topic}: has the pipeline ever run? The broker says {told:?}");
    }
    let from = if matches!(until, Until::Complete(_)) { Offset::End } else { Offset::Beginning };
    let mut list = TopicPartitionList::new();
    for number in &numbers {
        list.add_partition_offset(topic, *number, from)?;
    }
    consumer.assign(&list)?;
    Ok(numbers.into_iter().map(|number| (number, Partition::default())).collect())
}

fn record(message: &impl Message) -> Record {
    let body = match message.payload() {
        None => Body::Tombstone(header(message, "position")),
        Some(bytes) => match serde_json::from_slice(bytes) {
            Ok(event) => Body::Event(event),
            Err(error) => Body::Unreadable(error.to_string()),
        },
    };
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
        body,
    }
}

fn header(message: &impl Message, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}
