//! A broker that has just started knows the leaders of some partitions only.

mod fake;

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use highwater_kafka::{Connection, Consumer, ConsumerSettings, Isolation, Start};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData};
use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse};
use kafka_protocol::protocol::{Decodable, StrBytes};

use fake::{Broker, EPOCH, NODE, encoded};

const TOPIC: &str = "hints";
const PARTITIONS: i32 = 4;
/// `NOT_LEADER_OR_FOLLOWER` (protocol guide: error codes).
const NOT_LEADER: i16 = 6;
/// Answers that name the leaders of some partitions, and none of the last.
const ANSWERS: usize = 20;

/// What the client logs.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LOG.lock().expect("nobody panics in here").write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says of each partition that another broker leads it, and of all but the last, which.
fn not_the_leader(fetch: &FetchRequest, answers: &AtomicUsize) -> FetchResponse {
    let partition = |index| {
        let leader = if index + 1 < PARTITIONS { NODE } else { -1 };
        PartitionData::default()
            .with_partition_index(index)
            .with_error_code(NOT_LEADER)
            .with_high_watermark(-1)
            .with_current_leader(LeaderIdAndEpoch::default().with_leader_id(leader.into()).with_leader_epoch(EPOCH + 1))
    };
    let topics = fetch.topics.iter().map(|topic| {
        FetchableTopicResponse::default()
            .with_topic_id(topic.topic_id)
            .with_partitions(topic.partitions.iter().map(|asked| partition(asked.partition)).collect())
    });
    let asked = fetch.topics.iter().flat_map(|topic| &topic.partitions).map(|asked| asked.partition);
    if asked.clone().count() > 1 && asked.clone().any(|index| index + 1 == PARTITIONS) {
        answers.fetch_add(1, Ordering::Relaxed);
    }
    // An address that nobody is to go to.
    let node = NodeEndpoint::default()
        .with_node_id(NODE.into())
        .with_host(StrBytes::from_static_str("127.0.0.1"))
        .with_port(1);
    FetchResponse::default().with_responses(topics.collect()).with_node_endpoints(vec![node])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_names_the_leaders_of_some_partitions_only_damages_nothing() {
    tracing_subscriber::fmt().with_writer(|| Log).init();
    let answers = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answers);
    let broker = Broker::start(TOPIC, PARTITIONS, move |mut asked| {
        assert_eq!(asked.key, ApiKey::Fetch, "on connection {}", asked.connection);
        let fetch = FetchRequest::decode(&mut asked.body, asked.version).expect("a fetch");
        encoded(&not_the_leader(&fetch, &counted), asked.version)
    });
    let connection = Connection::new(format!("127.0.0.1:{}", broker.port), "test");
    let settings = ConsumerSettings::new("hints", Isolation::ReadUncommitted);
    let mut consumer = Consumer::new(&connection, settings).expect("a reader");
    let start = |partition| Start { topic: TOPIC.to_owned(), partition, offset: 0 };
    consumer.assign(&(0..PARTITIONS).map(start).collect::<Vec<_>>()).expect("an assignment");
    let deadline = Instant::now() + Duration::from_mins(1);
    while answers.load(Ordering::Relaxed) < ANSWERS {
        let read = consumer.next_batch(1, Duration::from_millis(20)).await;
        assert_eq!(read.expect("it goes on asking").len(), 0);
        assert!(Instant::now() < deadline, "{} answers", answers.load(Ordering::Relaxed));
    }
    // The client says so where it takes the hints, among which it counts one that it never wrote.
    let log = String::from_utf8_lossy(&LOG.lock().expect("nobody panics in here")).into_owned();
    assert!(!log.contains("METADATAUPDATE"), "{log}");
}
