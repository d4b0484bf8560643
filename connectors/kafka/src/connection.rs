//! How to reach the brokers, and what every client of them has in common.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

/// The largest record that a producer takes, in bytes: 16 MiB, which topics are to allow, without room for the batch around it.
///
/// The broker measures the batch, the client the record: between the two limits a record would be taken and refused later,
/// and its transaction could never commit.
pub const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024 - 64 * 1024;

/// What a reader sees of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Records at once, also of transactions that are open or will abort: the reader drops doubles itself.
    ReadUncommitted,
    /// Records of committed transactions only, once they are committed.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "read_uncommitted",
            Self::ReadCommitted => "read_committed",
        }
    }
}

/// The brokers' addresses and how to speak to them.
#[derive(Clone)]
pub struct Connection {
    brokers: String,
    client_id: String,
    properties: Vec<(String, String)>,
}

impl Connection {
    /// Describes the cluster behind `brokers`, a comma-separated list of `host:port`.
    pub fn new(brokers: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), client_id: client_id.into(), properties: Vec::new() }
    }

    /// Adds a librdkafka property for every client, such as `security.protocol` or `sasl.username`.
    ///
    /// What a client needs for its own promises (isolation, acknowledgements, offset reset) wins over it.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// The addresses as they were given.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", &self.client_id)
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            // A broker that restarts is found again within a quarter of a second, not ten.
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "250")
            .set("log_level", "4");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}

/// Properties may hold passwords: only their names are shown.
impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.properties.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Connection")
            .field("brokers", &self.brokers)
            .field("client_id", &self.client_id)
            .field("properties", &names)
            .finish()
    }
}

/// librdkafka's log lines and global errors, kept for the error that names them.
#[derive(Clone, Default)]
pub(crate) struct Events {
    last_error: Arc<Mutex<Option<String>>>,
}

impl Events {
    /// What the client last complained about, for an error message.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn record(&self, text: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(facility, line, "kafka client reports");
            }
            // A broker that is away is logged by whoever waits for it, with what that means.
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::info!(facility, line, "kafka client reports"),
            _ => tracing::debug!(facility, line, "kafka client reports"),
        }
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Self::log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.record(reason);
        tracing::debug!(%error, reason, "kafka client error");
    }
}

impl rdkafka::consumer::ConsumerContext for Events {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let connection = Connection::new("127.0.0.1:9092", "test").with("sasl.password", "hunter2");
        let shown = format!("{connection:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }
}
