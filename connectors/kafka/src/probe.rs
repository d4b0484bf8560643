//! Questions to the brokers that do not disturb reading.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use crate::connection::Events;
use crate::error::Error;
use crate::record::Watermarks;

/// Asks under the isolation of the reader that it comes from, through that reader's client, which it keeps open.
#[derive(Clone)]
pub struct Probe {
    client: Arc<Mutex<Arc<BaseConsumer<Events>>>>,
}

impl Probe {
    pub(crate) fn of(client: Arc<BaseConsumer<Events>>) -> Self {
        Self { client: Arc::new(Mutex::new(client)) }
    }

    /// Asks through this client from now on.
    pub(crate) fn follow(&self, client: &Arc<BaseConsumer<Events>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(client);
    }

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
        let client = Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(move || question(&client)).await {
            Ok(answer) => answer.map_err(|error| Error::of(what, error)),
            Err(_) => Err(Error::Transient { what, source: KafkaError::Canceled }),
        }
    }
}
