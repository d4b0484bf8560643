//! Questions to the brokers that do not disturb reading.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use crate::connection::Events;
use crate::error::Error;
use crate::record::Watermarks;

/// Asks under the isolation of the reader that it comes from. Keeps that reader's connection open.
#[derive(Clone)]
pub struct Probe {
    pub(crate) client: Arc<BaseConsumer<Events>>,
}

impl Probe {
    /// Asks the broker for the ends of a partition.
    ///
    /// # Errors
    ///
    /// Transient when no answer comes within `timeout`.
    pub async fn watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<Watermarks, Error> {
        let what = format!("tell the ends of {topic}[{partition}]");
        let name = topic.to_owned();
        let (low, high) = self.blocking(what, move |client| client.fetch_watermarks(&name, partition, timeout)).await?;
        Ok(Watermarks { low, high })
    }

    /// Runs a question that blocks on a thread for that.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: String,
        question: impl FnOnce(&BaseConsumer<Events>) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, Error> {
        let client = Arc::clone(&self.client);
        match tokio::task::spawn_blocking(move || question(&client)).await {
            Ok(answer) => answer.map_err(|error| Error::of(what, error)),
            Err(_) => Err(Error::Transient { what, source: KafkaError::Canceled }),
        }
    }
}
