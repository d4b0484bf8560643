//! Compaction when a test wants it, instead of a week later.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::shop::{Shop, eventually};
use crate::stack::SHOPS;

/// What makes a broker compact at once what is not in the segment that it writes. The last two are the product's own.
const AT_ONCE: [(&str, &str); 6] = [
    ("segment.ms", "500"),
    ("min.cleanable.dirty.ratio", "0.01"),
    ("min.compaction.lag.ms", "0"),
    ("delete.retention.ms", "0"),
    ("cleanup.policy", "compact"),
    ("max.message.bytes", "16777216"),
];
const ANSWER: Duration = Duration::from_secs(20);

/// Compacts the state topics of a shop up to their ends. Capture must be at work: its marks begin new segments.
pub(crate) async fn compact(shop: &Shop) {
    let topics = ["stock", "prices", "content"].map(|name| shop.endpoints.topic(name));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &shop.endpoints.brokers);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client");
    let altered: Vec<AlterConfig<'_>> = topics
        .iter()
        .map(|topic| AlterConfig { specifier: ResourceSpecifier::Topic(topic), entries: HashMap::from(AT_ONCE) })
        .collect();
    let answers = admin.alter_configs(&altered, &AdminOptions::new().request_timeout(Some(ANSWER))).await;
    answers.expect("the broker answers").into_iter().for_each(|altered| drop(altered.expect("it is altered")));

    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut ends = HashMap::new();
    for topic in &topics {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER).expect("the topic's partitions");
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), ANSWER).expect("its end");
            ends.insert(format!("{topic} {}", partition.id()), end);
        }
    }
    let cleaned = async || {
        let cleaned = cleaned();
        ends.iter().all(|(partition, end)| cleaned.get(partition).is_some_and(|cleaned| cleaned >= end))
    };
    eventually("every partition is compacted up to its end", cleaned).await;
}

/// How far the broker has compacted each partition, as it notes itself: lines of topic, partition and offset.
fn cleaned() -> HashMap<String, i64> {
    let noted = std::fs::read_to_string(SHOPS.path().join("kafka/cleaner-offset-checkpoint")).unwrap_or_default();
    let line = |line: &str| {
        let (partition, offset) = line.rsplit_once(' ')?;
        Some((partition.to_owned(), offset.parse().ok()?))
    };
    noted.lines().filter_map(line).collect()
}
