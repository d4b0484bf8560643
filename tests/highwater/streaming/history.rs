//! The history as an outsider reads it: committed records only, from the beginning to the end.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::shop::Shop;

/// One change of a row.
#[derive(Debug, Deserialize)]
pub(crate) struct Change {
    pub(super) position: String,
    /// Of its transaction.
    pub(super) xid: String,
    #[serde(default)]
    pub(super) last: bool,
    pub(super) data: Data,
}

#[derive(Debug, Deserialize)]
pub(super) struct Data {
    pub(super) table: String,
    #[serde(default)]
    pub(super) new: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) context: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) total: Option<u64>,
}

/// Reads every committed change.
pub(super) async fn read(shop: &Shop) -> Vec<Change> {
    let (brokers, topic) = (shop.endpoints.brokers.clone(), shop.endpoints.topic("history"));
    tokio::task::spawn_blocking(move || read_topic(&brokers, &topic)).await.expect("the reader ends")
}

/// Returns the changes of one transaction.
pub(crate) async fn of(shop: &Shop, xid: &str) -> Vec<Change> {
    let mut changes = read(shop).await;
    changes.retain(|change| change.xid == xid);
    changes
}

fn read_topic(brokers: &str, topic: &str) -> Vec<Change> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "streaming-tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
    consumer.assign(&list).expect("it is assigned");
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut changes = Vec::new();
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => return changes,
            Some(Err(error)) => panic!("cannot read {topic}: {error}"),
            Some(Ok(message)) => {
                let event = serde_json::from_slice(message.payload().unwrap_or_default());
                changes.push(event.expect("an event of the history"));
            }
        }
    }
    panic!("the end of {topic} was not reached within a minute");
}
