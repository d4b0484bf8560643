//! Topics made with exact settings, and existing ones compared with what they should be.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::cluster::{Cluster, describe};
use crate::connection::{Connection, Events};
use crate::error::Error;

/// The pause between two looks at something that is becoming ready.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions; fixed once made.
    pub partitions: i32,
    /// How many copies, when it is made here.
    pub replication: i32,
    /// Its settings that matter, by Kafka's names.
    pub settings: Vec<(String, String)>,
}

/// What an existing topic has otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another partition count: keys would be looked for in other partitions.
    Partitions {
        /// The topic.
        topic: String,
        /// How many it should have.
        wanted: i32,
        /// How many it has.
        found: i32,
    },
    /// Another setting.
    Setting {
        /// The topic.
        topic: String,
        /// Kafka's name of the setting.
        name: String,
        /// The value it should have.
        wanted: String,
        /// The value it has.
        found: String,
    },
}

impl Difference {
    /// Returns the command that mends it against `brokers`; a partition count cannot be mended in place.
    #[must_use]
    pub fn remedy(&self, brokers: &str) -> String {
        match self {
            Self::Partitions { topic, found, .. } => {
                format!(
                    "set partitions = {found} in [topics], or move to another topic prefix and snapshot again; {topic} cannot be changed in place"
                )
            }
            Self::Setting { topic, name, wanted, .. } => {
                // kafka-configs takes a value with commas only in brackets.
                let value = if wanted.contains(',') { format!("[{wanted}]") } else { wanted.clone() };
                format!(
                    "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config '{name}={value}'"
                )
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partitions { topic, wanted, found } => {
                write!(f, "topic {topic} has {found} partitions, not {wanted}")
            }
            Self::Setting { topic, name, wanted, found } => write!(f, "topic {topic} has {name}={found}, not {wanted}"),
        }
    }
}

/// The administrator's side of the cluster.
pub struct Admin {
    client: Arc<AdminClient<Events>>,
    events: Events,
    brokers: String,
}

impl Admin {
    /// Makes the client; nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] or [`Error::Refused`] for settings that librdkafka does not take.
    pub fn new(connection: &Connection) -> Result<Self, Error> {
        let events = Events::default();
        let client = AdminClient::from_config_and_context(&connection.config(), events.clone())
            .map_err(|error| Error::of("make an admin client", error))?;
        Ok(Self { client: Arc::new(client), events, brokers: connection.brokers().to_owned() })
    }

    /// The addresses as they were given.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Asks who is there and which topics exist.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] names the addresses when none answers within `timeout`.
    pub async fn cluster(&self, timeout: Duration) -> Result<Cluster, Error> {
        let client = Arc::clone(&self.client);
        let answer = tokio::task::spawn_blocking(move || {
            // All topics, not one by name: asking for a missing one could create it.
            client.inner().fetch_metadata(None, timeout)
        });
        match answer.await {
            Ok(Ok(metadata)) => Ok(describe(&metadata)),
            _ => Err(Error::Unreachable {
                brokers: self.brokers.clone(),
                waited: timeout,
                cause: self.events.last_error(),
            }),
        }
    }

    /// Makes the topics that are missing, waits until they have leaders, and compares those that were there.
    ///
    /// Changes nothing of an existing topic. Several callers at once do not disturb each other.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the broker's reason for a topic that it will not make, [`Error::Deadline`] after `timeout`.
    pub async fn ensure_topics(&self, wanted: &[TopicSpec], timeout: Duration) -> Result<Vec<Difference>, Error> {
        let deadline = Instant::now() + timeout;
        let there = self.cluster(timeout).await?;
        let missing: Vec<&TopicSpec> = wanted.iter().filter(|spec| !there.topics.contains_key(&spec.name)).collect();
        if !missing.is_empty() {
            self.create(&missing, deadline).await?;
        }
        self.wait_until_ready(wanted, deadline, timeout).await?;
        self.differences(wanted, deadline.saturating_duration_since(Instant::now()).max(LOOK_AGAIN)).await
    }

    /// Compares topics with what they should be, without changing any. A missing one is [`Error::UnknownPartition`].
    ///
    /// # Errors
    ///
    /// As [`Self::cluster`] and [`Self::settings`].
    pub async fn differences(&self, wanted: &[TopicSpec], timeout: Duration) -> Result<Vec<Difference>, Error> {
        let there = self.cluster(timeout).await?;
        let mut differences = Vec::new();
        for spec in wanted {
            let found = *there
                .topics
                .get(&spec.name)
                .ok_or_else(|| Error::UnknownPartition { topic: spec.name.clone(), partition: 0 })?;
            let settings = self.settings(&spec.name, timeout).await?;
            differences.extend(compare(spec, found, &settings));
        }
        Ok(differences)
    }

    /// Asks for the settings of a topic, by Kafka's names.
    ///
    /// # Errors
    ///
    /// As classified; [`Error::UnknownPartition`] for a topic that does not exist.
    pub async fn settings(&self, topic: &str, timeout: Duration) -> Result<BTreeMap<String, String>, Error> {
        let what = || format!("describe the settings of {topic}");
        let answer = self
            .client
            .describe_configs([&ResourceSpecifier::Topic(topic)], &options(timeout))
            .await
            .map_err(|error| Error::of(what(), error))?;
        match answer.into_iter().next() {
            Some(Ok(resource)) => {
                Ok(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
            }
            Some(Err(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                Err(Error::UnknownPartition { topic: topic.to_owned(), partition: 0 })
            }
            Some(Err(code)) => Err(Error::of(what(), KafkaError::AdminOp(code))),
            None => Err(Error::Transient { what: what(), source: KafkaError::Canceled }),
        }
    }

    /// Asks every broker for its settings, by Kafka's names. Returns them with the broker's `host:port`.
    ///
    /// # Errors
    ///
    /// As classified, for the first broker that does not tell.
    pub async fn broker_settings(&self, timeout: Duration) -> Result<Vec<(String, BTreeMap<String, String>)>, Error> {
        let client = Arc::clone(&self.client);
        let metadata = tokio::task::spawn_blocking(move || client.inner().fetch_metadata(None, timeout)).await;
        let what = || "describe the settings of the brokers".to_owned();
        let metadata = match metadata {
            Ok(answer) => answer.map_err(|error| Error::of(what(), error))?,
            Err(_) => return Err(Error::Transient { what: what(), source: KafkaError::Canceled }),
        };
        let mut all = Vec::new();
        for broker in metadata.brokers() {
            // A question about one broker is answered by that broker alone.
            let asked = [ResourceSpecifier::Broker(broker.id())];
            let answer = self.client.describe_configs(&asked, &options(timeout)).await;
            let answer = answer.map_err(|error| Error::of(what(), error))?.into_iter().next();
            let resource = match answer {
                Some(Ok(resource)) => resource,
                Some(Err(code)) => return Err(refused(what(), code)),
                None => return Err(Error::Transient { what: what(), source: KafkaError::Canceled }),
            };
            let settings = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
            all.push((format!("{}:{}", broker.host(), broker.port()), settings.collect()));
        }
        Ok(all)
    }

    /// Deletes topics; one that is not there is no error.
    ///
    /// # Errors
    ///
    /// As classified, for the first topic that could not be deleted.
    pub async fn delete_topics(&self, topics: &[&str], timeout: Duration) -> Result<(), Error> {
        let what = || format!("delete the topics {}", topics.join(", "));
        let answers =
            self.client.delete_topics(topics, &options(timeout)).await.map_err(|error| Error::of(what(), error))?;
        for answer in answers {
            match answer {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, code)) => return Err(refused(format!("delete topic {topic}"), code)),
            }
        }
        Ok(())
    }

    async fn create(&self, missing: &[&TopicSpec], deadline: Instant) -> Result<(), Error> {
        let topics: Vec<NewTopic<'_>> = missing
            .iter()
            .map(|spec| {
                let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
                spec.settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        let left = deadline.saturating_duration_since(Instant::now()).max(LOOK_AGAIN);
        let answers = self
            .client
            .create_topics(&topics, &options(left))
            .await
            .map_err(|error| Error::of("create topics", error))?;
        for answer in answers {
            match answer {
                Ok(topic) => tracing::info!(topic, "created topic"),
                // Somebody else was quicker: it is compared like any existing one.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(refused(format!("create topic {topic}"), code)),
            }
        }
        Ok(())
    }

    async fn wait_until_ready(&self, wanted: &[TopicSpec], deadline: Instant, timeout: Duration) -> Result<(), Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let there = self.cluster(left.max(LOOK_AGAIN)).await?;
            let Some(waiting) = wanted.iter().find(|spec| !there.topics.contains_key(&spec.name)) else {
                return Ok(());
            };
            if left.is_zero() {
                return Err(Error::Deadline { what: format!("give topic {} a leader", waiting.name), waited: timeout });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

fn refused(what: String, code: RDKafkaErrorCode) -> Error {
    Error::of(what, KafkaError::AdminOp(code))
}

fn compare(spec: &TopicSpec, partitions: i32, settings: &BTreeMap<String, String>) -> Vec<Difference> {
    let mut differences = Vec::new();
    if partitions != spec.partitions {
        differences.push(Difference::Partitions {
            topic: spec.name.clone(),
            wanted: spec.partitions,
            found: partitions,
        });
    }
    for (name, wanted) in &spec.settings {
        let found = settings.get(name).map_or("", String::as_str);
        if found != wanted {
            differences.push(Difference::Setting {
                topic: spec.name.clone(),
                name: name.clone(),
                wanted: wanted.clone(),
                found: found.to_owned(),
            });
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TopicSpec {
        TopicSpec {
            name: "catalog.stock".to_owned(),
            partitions: 8,
            replication: 1,
            settings: vec![("cleanup.policy".to_owned(), "compact,delete".to_owned())],
        }
    }

    #[test]
    fn a_topic_as_wanted_has_no_difference() {
        let settings = BTreeMap::from([("cleanup.policy".to_owned(), "compact,delete".to_owned())]);
        assert_eq!(compare(&spec(), 8, &settings), []);
    }

    #[test]
    fn every_difference_is_named_with_its_remedy() {
        let settings = BTreeMap::from([("cleanup.policy".to_owned(), "delete".to_owned())]);
        let found = compare(&spec(), 6, &settings);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].to_string(), "topic catalog.stock has 6 partitions, not 8");
        assert!(
            found[1]
                .remedy("h:1")
                .ends_with("--entity-name catalog.stock --add-config 'cleanup.policy=[compact,delete]'")
        );
    }
}
