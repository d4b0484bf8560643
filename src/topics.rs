//! The topics of one source: their names, and how each is made.

use std::time::Duration;

use highwater_kafka::{Connection, TopicSpec};

use crate::config::{Secret, Section};
use crate::events::draft::Topic;
use crate::events::mapping::spec::Family;

/// Largest record, in bytes: topics and producer allow it.
pub const LARGEST_RECORD_BYTES: usize = 16 * 1024 * 1024;

/// Seven days in milliseconds: how long state topics keep every record, and history all of them.
const WEEK_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// `[topics]`, with the source's prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct Topics {
    /// `host:port`, comma-separated.
    pub brokers: String,
    /// What all names begin with; a setting of the source.
    pub prefix: String,
    /// Partitions of each state topic; fixed once the topics are made.
    pub partitions: i32,
    /// Copies of each partition.
    pub replication_factor: i32,
    /// How long state topics keep superseded records and tombstones, and a reader may lag behind.
    pub compaction_lag: Duration,
    /// How long history keeps changes.
    pub history_retention: Duration,
    /// More properties of the Kafka client, TLS and SASL for example; some may be secrets.
    pub client: Vec<(String, Secret)>,
    /// `sasl.password`.
    pub password: Option<Secret>,
}

impl Topics {
    /// Reads `[topics]`; `prefix` is the source's `topic_prefix`.
    pub fn read(section: &mut Section<'_>, prefix: &str) -> Self {
        Self {
            brokers: brokers(section),
            prefix: prefix.to_owned(),
            partitions: section.number("partitions", 4, 1..=1000),
            replication_factor: section.number("replication_factor", 1, 1..=100),
            compaction_lag: section.millis("compaction_lag_ms", WEEK_MS, 60_000..=WEEK_MS * 520),
            history_retention: section.millis("history_retention_ms", WEEK_MS, 60_000..=WEEK_MS * 520),
            client: section.client_properties("client"),
            password: section.password(),
        }
    }

    /// Returns how to reach the brokers.
    #[must_use]
    pub fn connection(&self, client_id: &str) -> Connection {
        let connection = Connection::new(&self.brokers, client_id);
        let with = |connection: Connection, (name, value): &(String, Secret)| connection.with(name, value.expose());
        let connection = self.client.iter().fold(connection, with);
        match &self.password {
            Some(password) => connection.with("sasl.password", password.expose()),
            None => connection,
        }
    }

    /// Returns the name of a topic with this suffix.
    #[must_use]
    pub fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    /// Returns the name of a state topic.
    #[must_use]
    pub fn state(&self, family: Family) -> String {
        self.name(family.topic_suffix())
    }

    /// Returns the names of the state topics.
    #[must_use]
    pub fn states(&self) -> [String; 3] {
        Family::ALL.map(|family| self.state(family))
    }

    /// Returns the name of the topic with every change in commit order.
    #[must_use]
    pub fn history(&self) -> String {
        self.name(Topic::History.suffix())
    }

    /// Returns the name of the internal topic with capture's progress.
    #[must_use]
    pub fn progress(&self) -> String {
        self.name("progress")
    }

    /// Returns the name of the topic with what could not be handled.
    #[must_use]
    pub fn dead_letters(&self) -> String {
        self.name("dead-letters")
    }

    /// Returns every topic as it has to be.
    #[must_use]
    pub fn specs(&self) -> Vec<TopicSpec> {
        let lag = self.compaction_lag.as_millis().to_string();
        let retention = self.history_retention.as_millis().to_string();
        let compacted = || {
            vec![
                ("cleanup.policy".to_owned(), "compact".to_owned()),
                ("min.compaction.lag.ms".to_owned(), lag.clone()),
                ("delete.retention.ms".to_owned(), lag.clone()),
            ]
        };
        let kept = |retention: &str| {
            // By time alone: a broker's own limit in bytes would take records earlier.
            let settings = [("cleanup.policy", "delete"), ("retention.ms", retention), ("retention.bytes", "-1")];
            settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
        };
        let states = self.states().into_iter().map(|name| self.spec(name, self.partitions, compacted()));
        let singles = [
            self.spec(self.history(), 1, kept(&retention)),
            // Only its newest record is ever read.
            self.spec(self.progress(), 1, vec![("cleanup.policy".to_owned(), "compact".to_owned())]),
            // Kept until somebody has dealt with them.
            self.spec(self.dead_letters(), 1, kept("-1")),
        ];
        states.chain(singles).collect()
    }

    fn spec(&self, name: String, partitions: i32, mut settings: Vec<(String, String)>) -> TopicSpec {
        settings.push(("max.message.bytes".to_owned(), LARGEST_RECORD_BYTES.to_string()));
        // Order is by append time for every reader, whatever the producer's clock says.
        settings.push(("message.timestamp.type".to_owned(), "LogAppendTime".to_owned()));
        TopicSpec { name, partitions, replication: self.replication_factor, settings }
    }
}

/// Reads the brokers as the client wants them.
fn brokers(section: &mut Section<'_>) -> String {
    let brokers = section.list("brokers", &["127.0.0.1:9092"]);
    if brokers.is_empty() {
        section.error("brokers", "is empty; expected at least one \"host:port\"");
    }
    for broker in &brokers {
        let port = broker.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none() {
            section.error("brokers", format!("found {broker:?}; expected \"host:port\""));
        }
    }
    brokers.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    #[test]
    fn what_is_kept_for_a_time_or_for_ever_is_not_taken_by_its_size() {
        let document = Document::parse("test.toml", "", std::collections::BTreeMap::new());
        let topics = Topics::read(&mut document.section("topics"), "catalog");
        let week = WEEK_MS.to_string();
        for (name, retention) in [(topics.history(), week.as_str()), (topics.dead_letters(), "-1")] {
            let spec = topics.specs().into_iter().find(|spec| spec.name == name).expect("a topic");
            for expected in [("retention.ms", retention), ("retention.bytes", "-1")] {
                let found = spec.settings.iter().any(|(name, value)| (name.as_str(), value.as_str()) == expected);
                assert!(found, "{name} without {expected:?}: {:?}", spec.settings);
            }
        }
    }
}
