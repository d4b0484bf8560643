//! What can go wrong, by what the caller does about it.

use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::connection::MAX_RECORD_BYTES;

/// An error of a reader or of the administration; the producer has its own ([`ProducerError`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker answered in time.
    #[error("no Kafka broker answers at {brokers} after {waited:?}{}", detail(.cause.as_deref()))]
    Unreachable {
        /// The addresses tried.
        brokers: String,
        /// How long was waited.
        waited: Duration,
        /// What the client said last.
        cause: Option<String>,
    },
    /// The answer to one question did not come in time.
    #[error("Kafka did not {what} within {waited:?}")]
    Deadline {
        /// What was asked, as a verb phrase.
        what: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The log does not hold the offset to read from: retention or a lost broker has taken it.
    #[error("{topic}[{partition}] does not hold offset {offset} any more (or not yet)")]
    OffsetOutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where reading should have gone on.
        offset: i64,
    },
    /// The topic or partition does not exist.
    #[error("topic {topic} or its partition {partition} does not exist")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A setting that librdkafka refuses.
    #[error("Kafka setting {name}={value} is refused: {reason}")]
    Setting {
        /// The property.
        name: String,
        /// Its value; `…` unless it surely is no secret.
        value: String,
        /// librdkafka's reason.
        reason: String,
    },
    /// The broker refused, and asking again will not help.
    #[error("Kafka refuses to {what}: {reason}")]
    Refused {
        /// What was asked, as a verb phrase.
        what: String,
        /// The broker's reason.
        reason: String,
    },
    /// A failure that passes: asking again can help.
    #[error("Kafka failed to {what}: {source}")]
    Transient {
        /// What was asked, as a verb phrase.
        what: String,
        /// The client's error.
        source: KafkaError,
    },
}

/// Why the producer failed, by what its owner does next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProducerError {
    /// Another producer has taken the transactional id, or the broker has timed the transaction out: this one is done.
    #[error("the producer {transactional_id} is fenced: another one has taken over, or its transaction timed out")]
    Fenced {
        /// The transactional id.
        transactional_id: String,
    },
    /// The transaction cannot commit: abort it and start over from the last committed progress, best with a new producer.
    ///
    /// After a batch that the broker refused, librdkafka 2.12 goes on with sequence numbers that the broker does not
    /// know, so that the next transaction of the same producer fails as well.
    #[error("the transaction must be aborted: {reason}")]
    Abortable {
        /// What made it so.
        reason: String,
    },
    /// The same call can succeed later.
    #[error("Kafka did not answer in time: {reason}")]
    Transient {
        /// The client's words.
        reason: String,
    },
    /// This producer cannot go on; a new one may.
    #[error("the producer failed: {reason}")]
    Fatal {
        /// The client's words.
        reason: String,
    },
    /// One record is larger than records may be. The transaction is still good.
    #[error("a record of {bytes} bytes for {topic} is larger than the limit of {MAX_RECORD_BYTES}")]
    TooLarge {
        /// The topic it was for.
        topic: String,
        /// Key, value and headers.
        bytes: usize,
    },
}

fn detail(cause: Option<&str>) -> String {
    cause.map_or_else(String::new, |cause| format!(" ({cause})"))
}

impl Error {
    /// Reports whether the same call can succeed later without anybody mending anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Deadline { .. } | Self::Transient { .. })
    }

    pub(crate) fn of(what: impl Into<String>, source: KafkaError) -> Self {
        let what = what.into();
        match &source {
            KafkaError::ClientConfig(_, reason, name, value) => Self::Setting {
                name: name.clone(),
                value: shown(name, value, value),
                reason: shown(name, value, reason),
            },
            KafkaError::ClientCreation(reason) => Self::Refused { what, reason: reason.clone() },
            KafkaError::AdminOp(code) if is_refusal(*code) => Self::Refused { what, reason: code.to_string() },
            _ => match source.rdkafka_error_code() {
                Some(code) if is_refusal(code) => Self::Refused { what, reason: code.to_string() },
                _ => Self::Transient { what, source },
            },
        }
    }
}

/// Returns a text about a setting, with the value in it only where that surely is no secret: a name that nobody knows may be a
/// misspelt one.
fn shown(name: &str, value: &str, text: &str) -> String {
    const HARMLESS: [&str; 5] =
        ["security.protocol", "sasl.mechanism", "sasl.mechanisms", "ssl.endpoint.identification.algorithm", "debug"];
    let is_harmless = HARMLESS.contains(&name) || [".ms", ".bytes", ".kbytes"].iter().any(|unit| name.ends_with(unit));
    if is_harmless || value.is_empty() { text.to_owned() } else { text.replace(value, "…") }
}

pub(crate) fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::ClusterAuthorizationFailed
            | C::TransactionalIdAuthorizationFailed
            | C::SaslAuthenticationFailed
            | C::UnsupportedSASLMechanism
            | C::UnsupportedVersion
            | C::UnsupportedFeature
            | C::PolicyViolation
            | C::InvalidConfig
            | C::InvalidPartitions
            | C::InvalidReplicationFactor
            | C::InvalidTopic
            | C::InvalidArgument
            | C::MessageSizeTooLarge
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Admin;
    use crate::connection::Connection;

    #[test]
    fn a_refused_setting_repeats_no_value_that_may_be_a_secret() {
        for (name, value) in [("sasl.jaas.config", "x password=\"hunter2\";"), ("sasl.pasword", "hunter2")] {
            let connection = Connection::new("127.0.0.1:9092", "test").with(name, value);
            let error = Admin::new(&connection).err().expect("librdkafka does not know it").to_string();
            assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
        }
        let connection = Connection::new("127.0.0.1:9092", "test").with("security.protocol", "tls");
        let error = Admin::new(&connection).err().expect("there is no such protocol").to_string();
        assert!(error.contains("security.protocol=tls"), "{error}");
        assert_eq!(shown("ssl.key.pem", "PEM", "PEM is no key"), "… is no key");
    }
}
