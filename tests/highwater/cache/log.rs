//! A log of events as capture writes it: topics of their own for each test, on a shared broker.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater::config::Document;
use highwater::deliver::Feed;
use highwater::topics::Topics;
use highwater_kafka::{Admin, ProducerSettings, TransactionalProducer};

use crate::stack;

const TIMEOUT: Duration = Duration::from_secs(30);
/// The commit time of all events: now, as far as order is concerned.
const TIME: &str = "2026-11-21T10:00:00.000000Z";

/// The topics of one test, each with one partition, and who writes to them.
pub(crate) struct Log {
    pub(crate) topics: Topics,
    producer: TransactionalProducer,
    /// Where the next commit stands.
    lsn: u64,
}

pub(crate) fn position(lsn: u64) -> String {
    format!("00000001-{lsn:016X}-00000000")
}

impl Log {
    pub(crate) async fn new(test: &str) -> Self {
        let prefix = stack::fresh(&format!("cache-{test}"));
        let brokers = &stack::SHARED.with(&["kafka"])["HIGHWATER_TOPICS_BROKERS"];
        let settings = format!("[topics]\nbrokers = [\"{brokers}\"]\npartitions = 1");
        let document = Document::parse("test", &settings, BTreeMap::new());
        let topics = Topics::read(&mut document.section("topics"), &prefix);
        document.finish().expect("right settings");
        let admin = Admin::new(&topics.connection("test")).expect("an admin client");
        admin.ensure_topics(&topics.specs(), TIMEOUT).await.expect("topics");
        let producer = TransactionalProducer::new(&topics.connection("test"), ProducerSettings::new(&prefix));
        let producer = producer.expect("a producer");
        producer.init(TIMEOUT).expect("the producer begins");
        Self { topics, producer, lsn: 16 }
    }

    pub(crate) fn feed(&self) -> Feed {
        Feed::new(self.topics.connection("test"), self.topics.states().to_vec(), self.topics.dead_letters())
    }

    /// Where the last commit stands.
    pub(crate) fn last(&self) -> u64 {
        self.lsn
    }

    /// Writes one event to the topic of its family, in a transaction of its own.
    pub(crate) fn commit(&mut self, kind: &str, entry: &str, groups: &str, data: &str) {
        self.lsn += 8;
        let at = position(self.lsn);
        let value = format!(
            r#"{{"specversion":"1.0","id":"{at}/{entry}","source":"/highwater/shop","type":"{kind}","time":"{TIME}","position":"{at}","entity":"{entry}","groups":"{groups}","data":{data}}}"#
        );
        let topic = match entry {
            "stock" => "stock",
            "price" => "prices",
            _ => "content",
        };
        self.write(&[(topic, &value)]);
    }

    pub(crate) fn stock(&mut self, part: u64, stock: u64) {
        let data = format!(r#"{{"part_id":{part},"current_stock":{stock}}}"#);
        self.commit("stock.updated", "stock", "parts:list", &data);
    }

    /// Writes marks to all topics: all that was committed stands before them.
    pub(crate) fn mark(&mut self, complete: bool) {
        let at = position(self.lsn + 8);
        let marks = ["stock", "prices", "content"].map(|topic| {
            let id = format!("{at}/mark/{topic}/0/1");
            let value = format!(
                r#"{{"specversion":"1.0","id":"{id}","source":"/highwater/shop","type":"mark","time":"{TIME}","position":"{at}","count":"0","complete":{complete}}}"#
            );
            (topic, value)
        });
        self.write(&marks.each_ref().map(|(topic, value)| (*topic, value.as_str())));
    }

    pub(crate) fn write(&mut self, records: &[(&str, &str)]) {
        self.producer.begin().expect("a transaction begins");
        for (topic, value) in records {
            let topic = format!("{}.{topic}", self.topics.prefix);
            self.producer.send(&topic, 0, b"key", Some(value.as_bytes()), &[]).expect("a record is taken");
        }
        self.producer.commit(TIMEOUT).expect("the transaction commits");
    }
}
