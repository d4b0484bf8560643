//! Single records outside of transactions, such as dead letters. Promise: what was sent is on the brokers.

use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::connection::{Connection, Events, MAX_RECORD_BYTES};
use crate::error::Error;
use crate::record::owned;

/// Writes one record at a time and waits for all replicas to have it.
pub struct Writer {
    client: FutureProducer<Events>,
}

impl Writer {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] or [`Error::Refused`] for settings that librdkafka does not take.
    pub fn new(connection: &Connection) -> Result<Self, Error> {
        let mut config = connection.config();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            // A dead letter is a record of any size and what is said of it.
            .set("message.max.bytes", (MAX_RECORD_BYTES + 48 * 1024).to_string())
            .set("message.timeout.ms", "10000");
        let client = FutureProducer::from_config_and_context(&config, Events::default())
            .map_err(|error| Error::of("make a producer", error))?;
        Ok(Self { client })
    }

    /// Lets go of the client in the background: that blocks.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn leave(self) {
        tokio::task::spawn_blocking(move || drop(self));
    }

    /// Sends one record and waits until the brokers have it.
    ///
    /// # Errors
    ///
    /// Transient after ten seconds without an answer: the record may be there or not, so sending again can double it.
    pub async fn send(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<(), Error> {
        let record = FutureRecord {
            topic,
            partition: Some(partition),
            payload: value,
            key: Some(key),
            timestamp: None,
            headers: Some(owned(headers)),
        };
        match self.client.send(record, Duration::from_secs(1)).await {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(Error::of(format!("write to {topic}[{partition}]"), error)),
        }
    }
}
