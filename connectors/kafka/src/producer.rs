//! One writer at a time under one `transactional.id`, one transaction after another.
//!
//! Promise: a [`TransactionalProducer::commit`] that succeeded holds every record sent since
//! [`TransactionalProducer::begin`]; one that failed shows none of them to `read_committed` readers,
//! once [`TransactionalProducer::abort`] or a successor's [`TransactionalProducer::init`] has run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::connection::{Connection, Events, MAX_RECORD_BYTES};
use crate::error::{Error, ProducerError};
use crate::record::owned;

/// What a question to the brokers has at least.
const LEAST: Duration = Duration::from_millis(1);
/// How long a producer that waits for the brokers sleeps before it looks again.
const MOMENT: Duration = Duration::from_micros(300);
/// After so many answers of a broker without a number, no other is waited for.
const CONNECT_TRIES: usize = 5;
/// The topic whose leaders are the coordinators of transactions (KIP-98).
const COORDINATORS: &str = "__transaction_state";

/// How the producer batches and how long it tries.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// The name that only one producer holds at a time.
    pub transactional_id: String,
    /// How long a record may wait for others to share its request.
    pub linger: Duration,
    /// How long the broker keeps a transaction open without a word from its producer.
    pub transaction_timeout: Duration,
    /// How long a record may stay undelivered before its transaction must be aborted; at most `transaction_timeout`.
    pub message_timeout: Duration,
    /// How long `send` waits for room when the queue is full.
    pub queue_full_timeout: Duration,
    /// Limit of the records that wait for delivery.
    pub queue_records: usize,
    /// Limit of their bytes.
    pub queue_bytes: usize,
}

impl ProducerSettings {
    /// Returns settings that fit a capture: small linger, a minute for a transaction, 64 MiB of queue.
    pub fn new(transactional_id: impl Into<String>) -> Self {
        Self {
            transactional_id: transactional_id.into(),
            linger: Duration::from_millis(1),
            transaction_timeout: Duration::from_mins(1),
            message_timeout: Duration::from_secs(30),
            queue_full_timeout: Duration::from_secs(30),
            queue_records: 100_000,
            queue_bytes: 64 * 1024 * 1024,
        }
    }
}

/// The first delivery failure of the transaction.
#[derive(Default)]
struct Deliveries {
    events: Events,
    first_failure: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// The running number of the transaction: reports of an aborted one still come in during the next.
    transaction: AtomicUsize,
}

#[derive(Clone)]
struct Reports(Arc<Deliveries>);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Events::log_line(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.events.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, transaction: usize) {
        match result {
            Ok(_) => {}
            Err(_) if transaction != self.0.transaction.load(Ordering::Relaxed) => {}
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let mut first = self.0.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| (code, format!("{}[{}]: {error}", message.topic(), message.partition())));
            }
        }
    }
}

/// The one writer; see the module's promise.
///
/// Not for sharing: capture owns it on its own thread and calls block that thread.
pub struct TransactionalProducer {
    client: BaseProducer<Reports>,
    deliveries: Arc<Deliveries>,
    settings: ProducerSettings,
    brokers: String,
    /// Whether the transactional id is taken.
    taken: AtomicBool,
    open: bool,
}

impl TransactionalProducer {
    /// Makes the client. Nothing is sent before [`Self::init`].
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] or [`Error::Refused`] for settings that librdkafka does not take.
    pub fn new(connection: &Connection, settings: ProducerSettings) -> Result<Self, Error> {
        let mut config = connection.config();
        config
            .set("transactional.id", &settings.transactional_id)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.codec", "lz4")
            .set("linger.ms", settings.linger.as_millis().to_string())
            .set("message.max.bytes", MAX_RECORD_BYTES.to_string())
            .set("transaction.timeout.ms", settings.transaction_timeout.as_millis().to_string())
            .set("message.timeout.ms", settings.message_timeout.as_millis().to_string())
            .set("queue.buffering.max.messages", settings.queue_records.to_string())
            // A report for each delivered record would only be counted, which the client does anyway.
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.kbytes", (settings.queue_bytes / 1024).max(1).to_string())
            // The broker answers CONCURRENT_TRANSACTIONS while it still writes the last transaction's markers.
            .set("retry.backoff.ms", "5")
            .set("retry.backoff.max.ms", "250");
        let deliveries = Arc::new(Deliveries::default());
        let client = BaseProducer::from_config_and_context(&config, Reports(Arc::clone(&deliveries)))
            .map_err(|error| Error::of("make a producer", error))?;
        Ok(Self {
            client,
            deliveries,
            settings,
            brokers: connection.brokers().to_owned(),
            taken: AtomicBool::new(false),
            open: false,
        })
    }

    /// Takes the transactional id: fences every predecessor and aborts what it left open.
    ///
    /// After [`ProducerError::Transient`] the same call goes on where it stopped; once it has succeeded, it does nothing.
    ///
    /// # Errors
    ///
    /// Transient while the brokers do not answer within `timeout`, otherwise as classified.
    pub fn init(&self, timeout: Duration) -> Result<(), ProducerError> {
        if self.taken.load(Ordering::Acquire) {
            return Ok(());
        }
        let deadline = Instant::now() + timeout;
        self.connect(deadline);
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST);
        let taken = self.client.init_transactions(left);
        self.taken.store(taken.is_ok(), Ordering::Release);
        taken.map_err(|error| match self.classify(&error) {
            ProducerError::Transient { reason } => ProducerError::Transient {
                reason: match self.deliveries.events.last_error() {
                    Some(cause) => format!("{reason} at {} ({cause})", self.brokers),
                    None => format!("{reason} at {}", self.brokers),
                },
            },
            other => other,
        })
    }

    /// Waits for a connection that stays: without one, the client asks for the coordinator half a second later, and the first
    /// that it has is closed once it knows the brokers by their numbers. What stands in the way, the next call tells.
    fn connect(&self, deadline: Instant) {
        for _ in 0..CONNECT_TRIES {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.client().fetch_metadata(Some(COORDINATORS), left) {
                Ok(metadata) if metadata.orig_broker_id() < 0 => {}
                _ => return,
            }
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// As classified; nothing was begun then.
    ///
    /// # Panics
    ///
    /// If one is open already.
    pub fn begin(&mut self) -> Result<(), ProducerError> {
        assert!(!self.open, "a transaction is open already");
        self.client.begin_transaction().map_err(|error| self.classify(&error))?;
        self.deliveries.transaction.fetch_add(1, Ordering::Relaxed);
        *self.first_failure() = None;
        self.open = true;
        Ok(())
    }

    /// Hands one record to the client; a `None` value is a tombstone. Waits while the queue is full.
    ///
    /// # Errors
    ///
    /// [`ProducerError::TooLarge`] leaves the transaction good; the others as classified.
    ///
    /// # Panics
    ///
    /// Outside of a transaction.
    pub fn send(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<(), ProducerError> {
        assert!(self.open, "a record for {topic} outside of a transaction");
        let mut record =
            BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, self.deliveries.transaction.load(Ordering::Relaxed))
                .partition(partition)
                .key(key);
        record.payload = value;
        if !headers.is_empty() {
            record.headers = Some(owned(headers));
        }
        let mut deadline = None;
        loop {
            let (error, refused) = match self.client.send(record) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    let until = *deadline.get_or_insert_with(|| Instant::now() + self.settings.queue_full_timeout);
                    if Instant::now() >= until {
                        let reason =
                            format!("the producer's queue stayed full for {:?}", self.settings.queue_full_timeout);
                        return Err(ProducerError::Abortable { reason });
                    }
                    self.wait_a_moment();
                    record = refused;
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    let bytes = key.len()
                        + value.map_or(0, <[u8]>::len)
                        + headers.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
                    return Err(ProducerError::TooLarge { topic: topic.to_owned(), bytes });
                }
                _ => return Err(self.classify(&error)),
            }
        }
    }

    /// Serves the reports of what was not delivered, without waiting.
    pub fn poll(&self) {
        self.client.poll(Duration::ZERO);
    }

    /// Waits a moment for the brokers. The crate's own `poll` asks the client in whole milliseconds: it spins through the last one of its
    /// time, on a core that brokers on the same machine need.
    fn wait_a_moment(&self) {
        self.poll();
        std::thread::sleep(MOMENT);
    }

    /// How many records wait for the brokers' acknowledgement.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.client.in_flight_count()).unwrap_or(0)
    }

    /// Reports whether a transaction is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The first delivery failure of the open transaction: it can only be aborted then.
    ///
    /// # Errors
    ///
    /// [`ProducerError::Abortable`], or Fenced where that is what the broker said.
    pub fn check(&self) -> Result<(), ProducerError> {
        match &*self.first_failure() {
            None => Ok(()),
            Some((code, _)) if is_fencing(*code) => Err(self.fenced()),
            Some((_, reason)) => {
                Err(self.fatal_state().unwrap_or_else(|| ProducerError::Abortable { reason: reason.clone() }))
            }
        }
    }

    /// Waits until every record of the transaction is on the brokers.
    ///
    /// # Errors
    ///
    /// Transient while some are still on their way after `timeout`, otherwise as [`Self::check`].
    ///
    /// # Panics
    ///
    /// Outside of a transaction.
    pub fn drain(&self, timeout: Duration) -> Result<(), ProducerError> {
        assert!(self.open, "no transaction to drain");
        let deadline = Instant::now() + timeout;
        // The crate's own flush, inside commit_transaction, moves in steps of 100 ms: leave it nothing to do.
        while self.client.in_flight_count() > 0 {
            if Instant::now() >= deadline {
                return Err(ProducerError::Transient {
                    reason: format!("{} records still undelivered", self.in_flight()),
                });
            }
            self.wait_a_moment();
        }
        self.check()
    }

    /// Commits: every record of the transaction is on the brokers, or this fails.
    ///
    /// After [`ProducerError::Transient`] the outcome is open: call again to learn it.
    ///
    /// # Errors
    ///
    /// A record that was not delivered makes it Abortable (a later record may stand behind the gap).
    ///
    /// # Panics
    ///
    /// Outside of a transaction.
    pub fn commit(&mut self, timeout: Duration) -> Result<(), ProducerError> {
        let deadline = Instant::now() + timeout;
        self.drain(timeout)?;
        let left = deadline.saturating_duration_since(Instant::now()).max(LEAST);
        self.client.commit_transaction(left).map_err(|error| self.classify(&error))?;
        self.open = false;
        Ok(())
    }

    /// Aborts: no record of the transaction will be seen by `read_committed` readers.
    ///
    /// # Errors
    ///
    /// Transient can be tried again; Fenced and Fatal end this producer.
    ///
    /// # Panics
    ///
    /// Outside of a transaction.
    pub fn abort(&mut self, timeout: Duration) -> Result<(), ProducerError> {
        assert!(self.open, "no transaction to abort");
        self.client.abort_transaction(timeout).map_err(|error| self.classify(&error))?;
        *self.first_failure() = None;
        self.open = false;
        Ok(())
    }

    fn first_failure(&self) -> std::sync::MutexGuard<'_, Option<(RDKafkaErrorCode, String)>> {
        self.deliveries.first_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fenced(&self) -> ProducerError {
        ProducerError::Fenced { transactional_id: self.settings.transactional_id.clone() }
    }

    /// What the client's fatal state says, if it is in one.
    fn fatal_state(&self) -> Option<ProducerError> {
        let (code, reason) = self.client.client().fatal_error()?;
        Some(if is_fencing(code) { self.fenced() } else { ProducerError::Fatal { reason } })
    }

    fn classify(&self, error: &KafkaError) -> ProducerError {
        if error.rdkafka_error_code().is_some_and(is_fencing) {
            return self.fenced();
        }
        if let Some(fatal) = self.fatal_state() {
            return fatal;
        }
        let reason = error.to_string();
        match error {
            KafkaError::Transaction(detail) if detail.is_fatal() => ProducerError::Fatal { reason },
            KafkaError::Transaction(detail) if detail.txn_requires_abort() => ProducerError::Abortable { reason },
            KafkaError::Transaction(detail) if detail.is_retriable() => ProducerError::Transient { reason },
            KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut) => ProducerError::Transient { reason },
            // The transaction is in its error state already; what caused it came by a delivery report or from the coordinator.
            KafkaError::MessageProduction(_) if self.open => ProducerError::Abortable { reason },
            _ => ProducerError::Fatal { reason },
        }
    }
}

fn is_fencing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(code, C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch)
}
