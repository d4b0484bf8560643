//! State topics of a catalogue, written as capture writes them.

use highwater::config::Document;
use highwater::events::envelope::{CONTENT_TYPE, CONTENT_TYPE_HEADER, MARK_KEY};
use highwater::events::mark::{Mark, write_mark};
use highwater::position::{Bound, Position};
use highwater::topics::Topics;
use highwater_kafka::{Admin, ProducerSettings, TransactionalProducer, partition_for};

use super::TIMEOUT;
use crate::stack::fresh;

const PARTITIONS: i32 = 2;

pub(super) struct Catalogue {
    pub(super) topics: Topics,
    producer: TransactionalProducer,
    marks: u64,
    counts: std::collections::BTreeMap<(String, i32), u64>,
}

impl Catalogue {
    pub(super) async fn open(brokers: &str) -> Self {
        let name = fresh("storefront");
        let document = Document::parse("test", "", std::collections::BTreeMap::new());
        let mut section = document.section("topics");
        let mut topics = Topics::read(&mut section, &name);
        section.finish();
        brokers.clone_into(&mut topics.brokers);
        topics.partitions = PARTITIONS;
        let connection = topics.connection("storefront-tests");
        let admin = Admin::new(&connection).expect("an admin client");
        assert_eq!(admin.ensure_topics(&topics.specs(), TIMEOUT).await.expect("topics"), []);
        let producer = TransactionalProducer::new(&connection, ProducerSettings::new(name)).expect("a producer");
        producer.init(TIMEOUT).expect("init");
        Self { topics, producer, marks: 0, counts: std::collections::BTreeMap::new() }
    }

    /// Publishes one change of a part and returns its event.
    pub(super) fn publish(&mut self, topic: &str, part: u64, lsn: u64) -> String {
        self.publish_many([(topic, part, lsn, 0)]).remove(0)
    }

    /// Publishes changes in one transaction: topic, part, LSN, bytes to pad with.
    pub(super) fn publish_many<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a str, u64, u64, usize)>,
    ) -> Vec<String> {
        self.producer.begin().expect("begin");
        let mut events = Vec::new();
        for (topic, part, lsn, padding) in changes {
            let event = event(topic, part, lsn, padding);
            let key = part.to_string();
            let (topic, partition) =
                (format!("{}.{topic}", self.topics.prefix), partition_for(key.as_bytes(), PARTITIONS));
            self.send(&topic, partition, key.as_bytes(), event.as_bytes());
            *self.counts.entry((topic, partition)).or_default() += 1;
            events.push(event);
        }
        self.producer.commit(TIMEOUT).expect("commit");
        events
    }

    /// Marks every partition: all below this LSN stands before.
    pub(super) fn marks(&mut self, lsn: u64) {
        self.producer.begin().expect("begin");
        for topic in self.topics.states() {
            for partition in 0..PARTITIONS {
                self.marks += 1;
                let mark = Mark {
                    ahead: false,
                    source: "/highwater/test",
                    topic: &topic,
                    partition: partition.unsigned_abs(),
                    bound: Bound::at_lsn(1, lsn),
                    count: self.counts.get(&(topic.clone(), partition)).copied().unwrap_or(0),
                    complete: true,
                    number: self.marks,
                    time_us: 0,
                };
                let mut bytes = Vec::new();
                write_mark(&mut bytes, &mark);
                self.send(&topic, partition, MARK_KEY.as_bytes(), &bytes);
            }
        }
        self.producer.commit(TIMEOUT).expect("commit");
    }

    fn send(&self, topic: &str, partition: i32, key: &[u8], value: &[u8]) {
        let headers = [(CONTENT_TYPE_HEADER, CONTENT_TYPE.as_bytes())];
        self.producer.send(topic, partition, key, Some(value), &headers).expect("send");
    }
}

fn event(topic: &str, part: u64, lsn: u64, padding: usize) -> String {
    let position = Position { timeline: 1, lsn, seq: 0 };
    let family = topic.trim_end_matches('s');
    format!(
        r#"{{"specversion":"1.0","id":"{position}/{family}","source":"/highwater/test","type":"{family}.updated","subject":"part/{part}","time":"2026-11-21T10:00:00.000000Z","position":"{position}","entity":"{part}","data":{{"part_id":{part},"padding":"{}"}}}}"#,
        "x".repeat(padding)
    )
}
