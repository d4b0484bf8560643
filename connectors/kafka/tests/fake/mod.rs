//! A broker that was made up: it leads every partition of one topic, and says of them what a test wants.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, FindCoordinatorResponse, MetadataResponse, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Encodable, StrBytes, decode_request_header_from_buffer};

/// Its number.
pub(crate) const NODE: i32 = 1;
/// Of its leadership.
pub(crate) const EPOCH: i32 = 5;
/// Topics besides.
const OTHERS: u128 = 3_000;
/// In place of a broker's number where there is none.
const NOBODY: i32 = -1;

/// A request that is the test's to answer.
pub(crate) struct Asked {
    /// The running number of the connection that it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    pub(crate) body: Bytes,
}

type Answers = dyn Fn(Asked) -> BytesMut + Send + Sync;

#[derive(Clone)]
pub(crate) struct Broker {
    pub(crate) port: u16,
    topic: &'static str,
    partitions: i32,
    /// So many answers more name no broker and no leader, as in the moment in which the only broker of a cluster is fenced.
    pub(crate) fenced: Arc<AtomicUsize>,
    answers: Arc<Answers>,
}

impl Broker {
    /// Begins to serve on a free port, until the process ends.
    pub(crate) fn start(
        topic: &'static str,
        partitions: i32,
        answers: impl Fn(Asked) -> BytesMut + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let broker = Self { port, topic, partitions, fenced: Arc::default(), answers: Arc::new(answers) };
        let serving = broker.clone();
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let broker = serving.clone();
                // It ends with the client's connection.
                thread::spawn(move || broker.serve(connection, stream.expect("a connection")).unwrap_err());
            }
        });
        broker
    }

    fn serve(&self, connection: usize, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request)?;
            let answer = self.answer(connection, Bytes::from(request));
            stream.write_all(&u32::try_from(answer.len()).expect("it is short").to_be_bytes())?;
            stream.write_all(&answer)?;
        }
    }

    fn answer(&self, connection: usize, mut request: Bytes) -> BytesMut {
        let header = decode_request_header_from_buffer(&mut request).expect("a request");
        let key = ApiKey::try_from(header.request_api_key).expect("a request that is offered");
        let version = header.request_api_version;
        let body = match key {
            ApiKey::ApiVersions => encoded(&offers(), version),
            ApiKey::Metadata => encoded(&self.metadata(), version),
            ApiKey::FindCoordinator => encoded(&self.coordinator(), version),
            _ => (self.answers)(Asked { connection, key, version, body: request }),
        };
        let mut answer = BytesMut::new();
        let correlation = ResponseHeader::default().with_correlation_id(header.correlation_id);
        correlation.encode(&mut answer, key.response_header_version(version)).expect("a header");
        answer.extend_from_slice(&body);
        answer
    }

    /// Itself, though it takes no offsets.
    fn coordinator(&self) -> FindCoordinatorResponse {
        FindCoordinatorResponse::default()
            .with_node_id(NODE.into())
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(self.port.into())
    }

    fn metadata(&self) -> MetadataResponse {
        let is_fenced = self.fenced.fetch_update(SeqCst, SeqCst, |answers| answers.checked_sub(1)).is_ok();
        let leader = if is_fenced { NOBODY } else { NODE };
        let broker = MetadataResponseBroker::default()
            .with_node_id(NODE.into())
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(self.port.into());
        let partition = |index| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(leader.into())
                .with_leader_epoch(EPOCH)
                .with_replica_nodes(vec![NODE.into()])
                .with_isr_nodes(vec![NODE.into()])
        };
        let topic = |number: u128, name| {
            MetadataResponseTopic::default()
                .with_name(Some(TopicName(name)))
                .with_topic_id(uuid::Uuid::from_u128(number))
                .with_partitions((0..self.partitions).map(partition).collect())
        };
        let mut topics = vec![topic(1, StrBytes::from_static_str(self.topic))];
        if is_fenced {
            // The client is lost for good where its connections are down before it has read the answer to its end.
            topics.extend((2..OTHERS).map(|n| topic(n, StrBytes::from_string(format!("other.{n}")))));
        }
        let brokers = if is_fenced { vec![] } else { vec![broker] };
        MetadataResponse::default().with_brokers(brokers).with_controller_id(leader.into()).with_topics(topics)
    }
}

/// Returns an answer as it goes over the wire.
pub(crate) fn encoded(answer: &impl Encodable, version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    answer.encode(&mut bytes, version).expect("an answer");
    bytes
}

/// The requests that are answered, and one without which the client takes the broker for one of old, with another format of records.
fn offers() -> ApiVersionsResponse {
    let offered = [
        (ApiKey::ApiVersions, 0, 3),
        (ApiKey::Metadata, 0, 12),
        (ApiKey::FindCoordinator, 0, 2),
        (ApiKey::Fetch, 4, 16),
        (ApiKey::ListOffsets, 1, 7),
        (ApiKey::Produce, 3, 9),
    ];
    let offer =
        |(key, from, to)| ApiVersion::default().with_api_key(key as i16).with_min_version(from).with_max_version(to);
    ApiVersionsResponse::default().with_api_keys(offered.map(offer).to_vec())
}
