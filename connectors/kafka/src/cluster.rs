//! Who answers and which topics are there, read from the brokers' metadata.

use std::collections::BTreeMap;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::{Metadata, MetadataTopic};

use crate::error::{Error, is_refusal};

/// What answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `host:port` of each broker.
    pub brokers: Vec<String>,
    /// Partition count by topic, for those that are whole.
    pub topics: BTreeMap<String, i32>,
    /// Topics that exist and are not whole, each with the reason. None of them is missing.
    pub unavailable: BTreeMap<String, Unavailable>,
    /// Copies by whole topic, of the partition that has the fewest.
    pub copies: BTreeMap<String, Copies>,
}

/// Why a topic that exists can be neither written nor read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No broker that is up has all records of these partitions.
    #[error("has no leader for {}", partitions(.0))]
    Leaderless(Vec<i32>),
    /// The brokers say something else of it.
    #[error("is not told: {0}")]
    Refused(RDKafkaErrorCode),
}

/// Copies of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies {
    /// On so many brokers.
    pub assigned: usize,
    /// So many of them have all records.
    pub in_sync: usize,
}

fn partitions(list: &[i32]) -> String {
    match list {
        // The broker names none of them.
        [] => "any partition".to_owned(),
        [one] => format!("partition {one}"),
        several => format!("partitions {}", several.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Sorts what the brokers say of their topics.
pub(crate) fn describe(metadata: &Metadata) -> Cluster {
    let brokers = metadata.brokers().iter().map(|b| format!("{}:{}", b.host(), b.port())).collect();
    let mut cluster =
        Cluster { brokers, topics: BTreeMap::new(), unavailable: BTreeMap::new(), copies: BTreeMap::new() };
    for topic in metadata.topics() {
        let name = topic.name().to_owned();
        let leaders: Vec<(i32, i32)> = topic.partitions().iter().map(|p| (p.id(), p.leader())).collect();
        match state(topic.error().map(RDKafkaErrorCode::from), &leaders) {
            State::Whole => {
                cluster.topics.insert(name.clone(), i32::try_from(leaders.len()).unwrap_or(i32::MAX));
                cluster.copies.extend(copies(topic).map(|copies| (name, copies)));
            }
            State::Missing => {}
            State::Away(why) => drop(cluster.unavailable.insert(name, why)),
        }
    }
    cluster
}

/// Returns how many partitions a topic has; none where it does not exist, or is only being made.
pub(crate) fn partitions_of(metadata: &Metadata, topic: &str) -> Result<Option<i32>, Error> {
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        Some(code) if is_refusal(code) => {
            Err(Error::Refused { what: format!("describe topic {topic}"), reason: code.to_string() })
        }
        Some(_) => Ok(None),
        None => Ok(i32::try_from(found.partitions().len()).ok().filter(|&count| count > 0)),
    }
}

fn copies(topic: &MetadataTopic) -> Option<Copies> {
    let partitions = topic.partitions();
    Some(Copies {
        assigned: partitions.iter().map(|p| p.replicas().len()).min()?,
        in_sync: partitions.iter().map(|p| p.isr().len()).min()?,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Whole,
    /// It is being deleted, or was asked for by a name that no topic has.
    Missing,
    Away(Unavailable),
}

/// Tells what a topic is by its error and its partitions' leaders, each with the partition's number; -1 is none.
fn state(error: Option<RDKafkaErrorCode>, leaders: &[(i32, i32)]) -> State {
    use RDKafkaErrorCode as C;
    let leaderless: Vec<i32> = leaders.iter().filter(|(_, leader)| *leader < 0).map(|(id, _)| *id).collect();
    match error {
        Some(C::UnknownTopicOrPartition | C::UnknownTopic) => State::Missing,
        Some(C::LeaderNotAvailable) => State::Away(Unavailable::Leaderless(leaderless)),
        Some(other) => State::Away(Unavailable::Refused(other)),
        // Made a moment ago.
        None if leaders.is_empty() || !leaderless.is_empty() => State::Away(Unavailable::Leaderless(leaderless)),
        None => State::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_whose_broker_is_away_is_not_taken_for_a_missing_one() {
        use RDKafkaErrorCode as C;
        assert_eq!(state(None, &[(0, 1), (1, 2)]), State::Whole);
        let away = Unavailable::Leaderless(vec![1, 3]);
        assert_eq!(away.to_string(), "has no leader for partitions 1, 3");
        assert_eq!(state(None, &[(0, 1), (1, -1), (2, 1), (3, -1)]), State::Away(away));
        let unknown = Unavailable::Leaderless(Vec::new());
        assert_eq!(state(Some(C::LeaderNotAvailable), &[]), State::Away(unknown.clone()));
        assert_eq!(state(None, &[]), State::Away(unknown));
        assert_eq!(state(Some(C::UnknownTopicOrPartition), &[]), State::Missing);
        let refused = Unavailable::Refused(C::TopicAuthorizationFailed);
        assert_eq!(state(Some(C::TopicAuthorizationFailed), &[]), State::Away(refused));
    }
}
