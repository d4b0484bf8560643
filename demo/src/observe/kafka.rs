//! Commit → Kafka: an own consumer that sees records as soon as they stand in the topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::clock::{event_time_us, now_us};
use super::{Shared, StockLevel};
use crate::Endpoints;
use crate::ledger::Copy;

/// How long one answer of the broker may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What the observer reads of an event.
#[derive(Deserialize)]
pub(super) struct Seen<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    pub(super) time: &'a str,
    pub(super) position: &'a str,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Seen<'_> {
    /// Whether the event is a change of the log, whose `time` is that of its commit.
    pub(super) fn is_change(&self) -> bool {
        self.kind != "mark" && !self.kind.ends_with(".snapshot")
    }

    /// Returns the stock level that the event leaves; a delete leaves none.
    pub(super) fn stock(&self) -> Option<StockLevel> {
        let leaves_one = matches!(self.kind, "stock.created" | "stock.updated");
        self.data.filter(|_| leaves_one).and_then(|data| serde_json::from_str(data.get()).ok())
    }

    /// Returns the stock level that a delete removes.
    fn removed_stock(&self) -> Option<StockLevel> {
        self.data.filter(|_| self.kind == "stock.deleted").and_then(|data| serde_json::from_str(data.get()).ok())
    }
}

/// Opens a consumer at the end of the state topics.
pub(super) fn open(endpoints: &Endpoints) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &endpoints.brokers)
        .set("group.id", "highwater-demo-observe")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_uncommitted")
        .create()?;
    let mut list = TopicPartitionList::new();
    for name in ["stock", "prices", "content"] {
        let topic = endpoints.topic(name);
        let metadata =
            consumer.fetch_metadata(Some(&topic), ANSWER).with_context(|| format!("no answer about {topic}"))?;
        for partition in metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions) {
            // Where the end is must be known before the first write, not at the first fetch.
            let (_, end) = consumer.fetch_watermarks(&topic, partition.id(), ANSWER)?;
            list.add_partition_offset(&topic, partition.id(), Offset::Offset(end))?;
        }
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// Reads until it is told to stop; blocks its thread.
pub(super) fn observe(consumer: &BaseConsumer, shared: &Arc<Shared>) {
    // Newest Position of each partition: an aborted transaction's records are seen here, and again when published anew.
    let mut newest: HashMap<(String, i32), String> = HashMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        // Errors are the broker being away: the client goes on by itself, and what is late shows in the latencies.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let arrived = now_us();
        let Some(event) = message.payload().and_then(|bytes| serde_json::from_slice::<Seen<'_>>(bytes).ok()) else {
            continue;
        };
        let Some(committed) = event_time_us(event.time).filter(|_| event.is_change()) else { continue };
        let before = newest.entry((message.topic().to_owned(), message.partition())).or_default();
        if event.position < before.as_str() {
            shared.repeated.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        event.position.clone_into(before);
        shared.latency(Copy::Kafka).record(committed, arrived);
        if let Some(level) = event.removed_stock() {
            shared.ledger.removed(level.part_id);
        }
        if let Some(level) = event.stock() {
            level.shown(&shared.ledger, Copy::Kafka);
            if let Some(in_redis) = shared.sightings.committed(level.part_id, event.position, committed) {
                shared.latency(Copy::Redis).record(committed, in_redis);
            }
        }
    }
}
