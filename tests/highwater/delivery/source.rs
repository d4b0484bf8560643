//! A topic written as capture writes it: events in Position order, in transactions.

use std::time::Duration;

use highwater::deliver::Feed;
use highwater::events::envelope::{CONTENT_TYPE, CONTENT_TYPE_HEADER};
use highwater::position::Position;
use highwater_kafka::{Admin, Connection, ProducerSettings, TopicSpec, TransactionalProducer};

use super::TIMEOUT;
use crate::stack;

/// The Position of the n-th event.
pub(super) fn at(n: u64) -> Position {
    Position { timeline: 1, lsn: 0x100 + n, seq: 0 }
}

/// The n-th event.
pub(super) fn event(n: u64) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{0}/stock","source":"/highwater/test","type":"stock.updated","time":"2026-11-21T10:00:00.000000Z","position":"{0}","entity":"{n}","data":{{"part_id":{n}}}}}"#,
        at(n)
    )
}

pub(super) struct Source {
    connection: Connection,
    topic: String,
    dead_letters: String,
    id: String,
    pub(super) compaction_lag: Duration,
}

/// An open transaction.
pub(super) struct Sending<'a> {
    source: &'a Source,
    producer: &'a TransactionalProducer,
    partition: i32,
}

impl Source {
    pub(super) async fn new(connection: &Connection, partitions: i32) -> Self {
        let name = stack::fresh("delivery");
        let source = Self {
            connection: connection.clone(),
            topic: format!("{name}.stock"),
            dead_letters: format!("{name}.dead-letters"),
            id: name,
            compaction_lag: Duration::from_hours(1),
        };
        let spec = |name: &str, partitions| TopicSpec {
            name: name.to_owned(),
            partitions,
            replication: 1,
            settings: Vec::new(),
        };
        let topics = [spec(&source.topic, partitions), spec(&source.dead_letters, 1)];
        Admin::new(connection).expect("an admin client").ensure_topics(&topics, TIMEOUT).await.expect("topics");
        source
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    pub(super) fn feed(&self) -> Feed {
        let feed = Feed::new(self.connection.clone(), vec![self.topic.clone()], self.dead_letters.clone());
        Feed { compaction_lag: self.compaction_lag, ..feed }
    }

    pub(super) fn producer(&self) -> TransactionalProducer {
        let settings = ProducerSettings::new(self.id.clone());
        let producer = TransactionalProducer::new(&self.connection, settings).expect("a producer");
        producer.init(TIMEOUT).expect("init");
        producer
    }

    pub(super) fn commit(&self, producer: &mut TransactionalProducer, send: impl FnOnce(&Sending<'_>)) {
        producer.begin().expect("begin");
        send(&Sending { source: self, producer, partition: 0 });
        producer.commit(TIMEOUT).expect("commit");
    }

    /// Sends, waits until the broker has all of it, and aborts: what is left is what uncommitted readers have seen.
    pub(super) fn abort(&self, producer: &mut TransactionalProducer, send: impl FnOnce(&Sending<'_>)) {
        producer.begin().expect("begin");
        send(&Sending { source: self, producer, partition: 0 });
        let deadline = std::time::Instant::now() + TIMEOUT;
        while producer.in_flight() > 0 {
            assert!(std::time::Instant::now() < deadline, "records stay undelivered");
            producer.poll();
            std::thread::yield_now();
        }
        producer.abort(TIMEOUT).expect("abort");
    }
}

impl Sending<'_> {
    pub(super) fn in_partition(&self, partition: i32) -> Self {
        Sending { partition, ..*self }
    }

    pub(super) fn events(&self, range: std::ops::Range<u64>) {
        range.for_each(|n| self.send(&n.to_string(), &event(n)));
    }

    pub(super) fn raw(&self, value: &str) {
        self.send("raw", value);
    }

    fn send(&self, key: &str, value: &str) {
        let headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE.as_bytes())];
        let sent =
            self.producer.send(&self.source.topic, self.partition, key.as_bytes(), Some(value.as_bytes()), &headers);
        sent.expect("send");
    }
}
