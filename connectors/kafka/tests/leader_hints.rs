//! A broker that has just started knows the leaders of some partitions only.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use highwater_kafka::{Connection, Consumer, ConsumerSettings, Isolation, Start};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, FetchRequest, FetchResponse, FindCoordinatorResponse, MetadataResponse,
    ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, decode_request_header_from_buffer};

const TOPIC: &str = "hints";
const PARTITIONS: i32 = 4;
const NODE: i32 = 1;
const EPOCH: i32 = 5;
/// `NOT_LEADER_OR_FOLLOWER` and `COORDINATOR_NOT_AVAILABLE` (protocol guide: error codes).
const NOT_LEADER: i16 = 6;
const NO_COORDINATOR: i16 = 15;
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

/// A broker that leads every partition by its metadata, and none by its answers.
struct Broker {
    port: u16,
    answers: Arc<AtomicUsize>,
}

impl Broker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let answers = Arc::new(AtomicUsize::new(0));
        let broker = Self { port, answers: Arc::clone(&answers) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let broker = Self { port, answers: Arc::clone(&answers) };
                // It ends with the client's connection.
                thread::spawn(move || broker.serve(stream.expect("a connection")).unwrap_err());
            }
        });
        broker
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request)?;
            let answer = self.answer(&mut Bytes::from(request));
            stream.write_all(&u32::try_from(answer.len()).expect("it is short").to_be_bytes())?;
            stream.write_all(&answer)?;
        }
    }

    fn answer(&self, request: &mut Bytes) -> BytesMut {
        let header = decode_request_header_from_buffer(request).expect("a request");
        let key = ApiKey::try_from(header.request_api_key).expect("a request that is offered");
        let version = header.request_api_version;
        let mut answer = BytesMut::new();
        let correlation = ResponseHeader::default().with_correlation_id(header.correlation_id);
        correlation.encode(&mut answer, key.response_header_version(version)).expect("a header");
        let encoded = match key {
            ApiKey::ApiVersions => offers().encode(&mut answer, version),
            ApiKey::Metadata => self.metadata().encode(&mut answer, version),
            ApiKey::Fetch => {
                let fetch = FetchRequest::decode(request, version).expect("a fetch");
                self.not_the_leader(&fetch).encode(&mut answer, version)
            }
            ApiKey::FindCoordinator => {
                FindCoordinatorResponse::default().with_error_code(NO_COORDINATOR).encode(&mut answer, version)
            }
            other => panic!("{other:?} is not asked for"),
        };
        encoded.expect("an answer");
        answer
    }

    fn metadata(&self) -> MetadataResponse {
        let broker = MetadataResponseBroker::default()
            .with_node_id(NODE.into())
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(self.port.into());
        let partition = |index| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(NODE.into())
                .with_leader_epoch(EPOCH)
                .with_replica_nodes(vec![NODE.into()])
                .with_isr_nodes(vec![NODE.into()])
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str(TOPIC))))
            .with_topic_id(uuid())
            .with_partitions((0..PARTITIONS).map(partition).collect());
        MetadataResponse::default().with_brokers(vec![broker]).with_controller_id(NODE.into()).with_topics(vec![topic])
    }

    /// Says of each partition that another broker leads it, and of all but the last, which.
    fn not_the_leader(&self, fetch: &FetchRequest) -> FetchResponse {
        let partition = |index| {
            let leader = if index + 1 < PARTITIONS { NODE } else { -1 };
            PartitionData::default()
                .with_partition_index(index)
                .with_error_code(NOT_LEADER)
                .with_high_watermark(-1)
                .with_current_leader(
                    LeaderIdAndEpoch::default().with_leader_id(leader.into()).with_leader_epoch(EPOCH + 1),
                )
        };
        let topics = fetch.topics.iter().map(|topic| {
            FetchableTopicResponse::default()
                .with_topic_id(topic.topic_id)
                .with_partitions(topic.partitions.iter().map(|asked| partition(asked.partition)).collect())
        });
        let asked = fetch.topics.iter().flat_map(|topic| &topic.partitions).map(|asked| asked.partition);
        if asked.clone().count() > 1 && asked.clone().any(|index| index + 1 == PARTITIONS) {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        let node = NodeEndpoint::default()
            .with_node_id(NODE.into())
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(self.port.into());
        FetchResponse::default().with_responses(topics.collect()).with_node_endpoints(vec![node])
    }
}

fn uuid() -> uuid::Uuid {
    uuid::Uuid::from_u128(1)
}

/// The requests that are answered, and one without which the client takes the broker for one of old, with another format of records.
fn offers() -> ApiVersionsResponse {
    let offered = [
        (ApiKey::ApiVersions, 0, 3),
        (ApiKey::Metadata, 0, 12),
        (ApiKey::FindCoordinator, 0, 2),
        (ApiKey::Fetch, 4, 16),
        (ApiKey::Produce, 3, 9),
    ];
    let offer =
        |(key, from, to)| ApiVersion::default().with_api_key(key as i16).with_min_version(from).with_max_version(to);
    ApiVersionsResponse::default().with_api_keys(offered.map(offer).to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_names_the_leaders_of_some_partitions_only_damages_nothing() {
    tracing_subscriber::fmt().with_writer(|| Log).init();
    let broker = Broker::start();
    let connection = Connection::new(format!("127.0.0.1:{}", broker.port), "test");
    let settings = ConsumerSettings::new("hints", Isolation::ReadUncommitted);
    let mut consumer = Consumer::new(&connection, settings).expect("a reader");
    let start = |partition| Start { topic: TOPIC.to_owned(), partition, offset: 0 };
    consumer.assign(&(0..PARTITIONS).map(start).collect::<Vec<_>>()).expect("an assignment");
    let deadline = Instant::now() + Duration::from_mins(1);
    while broker.answers.load(Ordering::Relaxed) < ANSWERS {
        let read = consumer.next_batch(1, Duration::from_millis(20)).await;
        assert_eq!(read.expect("it goes on asking").len(), 0);
        assert!(Instant::now() < deadline, "{} answers", broker.answers.load(Ordering::Relaxed));
    }
    // The client says so where it takes the hints, among which it counts one that it never wrote.
    let log = String::from_utf8_lossy(&LOG.lock().expect("nobody panics in here")).into_owned();
    assert!(!log.contains("METADATAUPDATE"), "{log}");
}
