//! A client of Kafka that gets nothing any more, while others do. The broker is made up: a real one loses a client in one of some twenty
//! times that it is fenced beneath it.

#[path = "../../../connectors/kafka/tests/fake/mod.rs"]
mod fake;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicUsize};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use highwater::deliver::Feed;
use highwater_kafka::Connection;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ApiKey, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use kafka_protocol::protocol::Decodable;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use tokio::runtime::Runtime;

use fake::{Asked, Broker, EPOCH, encoded};

use super::source::event;
use super::witness::{Seen, Witness};
use super::{events, stack};

const TOPIC: &str = "lost.stock";
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a fetch that finds nothing is held.
const HELD: Duration = Duration::from_millis(100);
/// The time that asks for a partition's end (protocol guide: `ListOffsets`).
const LATEST: i64 = -1;
/// `NOT_LEADER_OR_FOLLOWER` (protocol guide: error codes).
const NOT_LEADER: i16 = 6;
const NOBODY: usize = usize::MAX;

/// How a client is lost.
#[derive(Clone, Copy, PartialEq)]
enum Lost {
    /// It asks one that does not lead, and goes on asking that one.
    NotTheLeader,
    /// It was told, once, that there is no broker.
    NoBrokers,
}

struct Log {
    /// Events that stand in the one partition, from offset 0.
    end: AtomicI64,
    /// The newest connection that fetched.
    newest: AtomicUsize,
    /// The last connection of the lost client.
    lost: AtomicUsize,
}

impl Log {
    /// Loses the client that reads, and appends.
    fn lose_the_reader(&self, events: i64) {
        self.lost.store(self.newest.load(SeqCst), SeqCst);
        self.end.store(events, SeqCst);
    }

    fn answer(&self, mut asked: Asked) -> BytesMut {
        let lost = self.lost.load(SeqCst);
        let is_lost = lost != NOBODY && asked.connection <= lost;
        match asked.key {
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(&mut asked.body, asked.version).expect("a question");
                encoded(&self.ends(&request), asked.version)
            }
            ApiKey::Fetch => {
                let request = FetchRequest::decode(&mut asked.body, asked.version).expect("a fetch");
                self.newest.fetch_max(asked.connection, SeqCst);
                encoded(&self.fetched(&request, is_lost), asked.version)
            }
            other => panic!("{other:?} is not asked for"),
        }
    }

    fn ends(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let topics = request.topics.iter().map(|topic| {
            let partition = |timestamp| {
                let offset = if timestamp == LATEST { self.end.load(SeqCst) } else { 0 };
                ListOffsetsPartitionResponse::default().with_offset(offset).with_leader_epoch(EPOCH)
            };
            ListOffsetsTopicResponse::default()
                .with_name(topic.name.clone())
                .with_partitions(topic.partitions.iter().map(|asked| partition(asked.timestamp)).collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn fetched(&self, request: &FetchRequest, is_lost: bool) -> FetchResponse {
        let from = request.topics.iter().flat_map(|topic| &topic.partitions).map(|asked| asked.fetch_offset).next();
        let end = self.end.load(SeqCst);
        if from.is_none_or(|from| from >= end) {
            thread::sleep(HELD);
        }
        let partition = |from| {
            if is_lost {
                return PartitionData::default().with_error_code(NOT_LEADER).with_high_watermark(-1);
            }
            PartitionData::default()
                .with_high_watermark(end)
                .with_last_stable_offset(end)
                .with_log_start_offset(0)
                .with_records(Some(records(from, end).freeze()))
        };
        let topics = request.topics.iter().map(|topic| {
            FetchableTopicResponse::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(topic.partitions.iter().map(|asked| partition(asked.fetch_offset)).collect())
        });
        FetchResponse::default().with_responses(topics.collect())
    }
}

/// The events at these offsets, as they stand in a log.
fn records(from: i64, end: i64) -> BytesMut {
    let record = |offset: i64| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: NO_SEQUENCE,
        timestamp: 0,
        key: None,
        value: Some(event(offset.cast_unsigned()).into()),
        headers: std::iter::empty().collect(),
    };
    let records: Vec<Record> = (from..end).map(record).collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("records");
    bytes
}

async fn read_on(how: Lost) -> Vec<Seen> {
    let log = Arc::new(Log { end: 2.into(), newest: 0.into(), lost: NOBODY.into() });
    let served = Arc::clone(&log);
    let broker = Broker::start(TOPIC, 1, move |asked| served.answer(asked));
    let fenced = Arc::clone(&broker.fenced);
    let connection = Connection::new(format!("127.0.0.1:{}", broker.port), stack::fresh("lost"));
    let feed = Feed::new(connection, vec![TOPIC.to_owned()], "lost.dead-letters".to_owned());
    let mut witness = Witness::default();
    let enough = move |seen: &[Seen]| {
        if seen.len() == 2 {
            fenced.store(usize::from(how == Lost::NoBrokers), SeqCst);
            log.lose_the_reader(4);
        }
        seen.len() >= 4
    };
    witness.run_on(&feed, PATIENCE, enough).await
}

fn loses_nothing_with_its_client(how: Lost) {
    let runtime = Runtime::new().expect("a runtime");
    assert_eq!(runtime.block_on(read_on(how)), events(0..4));
    // A client without brokers takes a minute to go.
    runtime.shutdown_background();
}

#[test]
fn a_worker_whose_client_asks_where_nothing_is_takes_another() {
    loses_nothing_with_its_client(Lost::NotTheLeader);
}

#[test]
fn a_worker_whose_client_was_told_of_no_broker_takes_another() {
    loses_nothing_with_its_client(Lost::NoBrokers);
}
