//! Two transactional producers that take turns, so that records never wait for a commit.
//!
//! A commit takes the broker several round trips, and behind it the broker still writes the markers of the old
//! transaction; until those stand it refuses the producer's next one (`CONCURRENT_TRANSACTIONS`), and librdkafka asks again
//! only after 20 ms. Here the other producer has begun by then.
//!
//! Promise: transactions commit in the order in which they ended, because a turn that ends waits for the commit of the one
//! before. Records stand in each partition in the order in which they were sent, if the caller sees to it where turns meet:
//! what was sent before [`TransactionalProducer::drain`] is on the brokers when the next turn begins; what is sent between
//! that and [`AlternatingProducer::end`] is on its way still, so that the next turn sends to the same partitions only once
//! [`AlternatingProducer::is_delivered`]. So records never wait for the last words of the turn before either.
//!
//! Nor need they wait for the first words of their own: the first record that a transaction sends to a partition enlists it
//! at the coordinator, and the broker verifies that (KIP-98, KIP-890), one partition of a connection after the other. The
//! producer that rests can do so ahead, see [`AlternatingProducer::resting`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::error::{Error, ProducerError};
use crate::producer::{ProducerSettings, TransactionalProducer};

/// The one writer, as two producers; see the module's promise.
pub struct AlternatingProducer {
    active: TransactionalProducer,
    /// `None` while it commits.
    resting: Option<TransactionalProducer>,
    /// Whether all records of the turns that ended are on the brokers.
    delivered: Arc<AtomicBool>,
    commits: SyncSender<(TransactionalProducer, Duration)>,
    outcomes: Receiver<(TransactionalProducer, Result<(), ProducerError>)>,
}

impl AlternatingProducer {
    /// Makes both clients; their ids are the settings' with `-0` and `-1` behind. Nothing is sent before [`Self::init`].
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] or [`Error::Refused`] for settings that librdkafka does not take.
    pub fn new(connection: &Connection, settings: &ProducerSettings) -> Result<Self, Error> {
        let producer = |number: u8| {
            let transactional_id = format!("{}-{number}", settings.transactional_id);
            TransactionalProducer::new(connection, ProducerSettings { transactional_id, ..settings.clone() })
        };
        let (commits, to_commit) = sync_channel(1);
        let (ended, outcomes) = sync_channel(1);
        let delivered = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&delivered);
        thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || commit_each(&to_commit, &told, &ended))
            .map_err(|error| Error::Refused { what: "start a thread".to_owned(), reason: error.to_string() })?;
        Ok(Self { active: producer(0)?, resting: Some(producer(1)?), delivered, commits, outcomes })
    }

    /// Takes both transactional ids: fences every predecessor and aborts what it left open.
    ///
    /// A predecessor that has lost one id can still commit a transaction of the other, until that is taken as well. It
    /// has lost nothing then: it ends a turn only after the commit of the one before. So what is read as committed after
    /// this call is the last word.
    ///
    /// After [`ProducerError::Transient`] the same call goes on where it stopped.
    ///
    /// # Errors
    ///
    /// Transient while the brokers do not answer within `timeout`, otherwise as classified.
    pub fn init(&self, timeout: Duration) -> Result<(), ProducerError> {
        let Some(resting) = &self.resting else { return self.active.init(timeout) };
        // Each takes a while, and neither waits for the other: a predecessor is fenced once both are done.
        std::thread::scope(|scope| {
            let other = scope.spawn(|| resting.init(timeout));
            let own = self.active.init(timeout);
            let other = other.join().unwrap_or_else(|_| Err(no_thread()));
            own.and(other)
        })
    }

    /// Returns the producer whose turn it is: to begin, to send, to ask for failures.
    pub fn active(&mut self) -> &mut TransactionalProducer {
        &mut self.active
    }

    /// Returns the producer whose turn is next, unless its last transaction is still being committed. It may begin the next
    /// one now, and enlist partitions by sending records that may stand anywhere between those of the active one.
    pub fn resting(&mut self) -> Option<&mut TransactionalProducer> {
        self.resting.as_mut()
    }

    /// Ends the open transaction: in the background, waits until its records are on the brokers and commits it. The turn of
    /// the [resting](Self::resting) one has come at once; [`Self::committed`] tells the outcome.
    ///
    /// # Errors
    ///
    /// As [`TransactionalProducer::check`]. Nothing was ended then.
    ///
    /// # Panics
    ///
    /// If the commit before is not known to be done.
    pub fn end(&mut self, timeout: Duration) -> Result<(), ProducerError> {
        self.active.check()?;
        let next = self.resting.take().expect("the outcome of the commit before was not taken");
        let ended = std::mem::replace(&mut self.active, next);
        self.delivered.store(false, Ordering::Release);
        self.commits.send((ended, timeout)).map_err(|_| no_thread())
    }

    /// Tells whether all records of the turns that ended are on the brokers. It stays false where that fails, which
    /// [`Self::committed`] tells.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.delivered.load(Ordering::Acquire)
    }

    /// Tells whether the transaction that was ended last is committed, waiting for that up to `wait`.
    ///
    /// # Errors
    ///
    /// As the commit failed: every record since the last commit is in doubt, so that both producers are of no more use.
    pub fn committed(&mut self, wait: Duration) -> Result<bool, ProducerError> {
        if self.resting.is_some() {
            return Ok(true);
        }
        let outcome = if wait.is_zero() {
            self.outcomes.try_recv().map_err(|error| error == TryRecvError::Empty)
        } else {
            self.outcomes.recv_timeout(wait).map_err(|error| error == RecvTimeoutError::Timeout)
        };
        match outcome {
            Ok((producer, Ok(()))) => {
                self.resting = Some(producer);
                Ok(true)
            }
            // That producer never rests again: no later question may take its failure for a commit.
            Ok((_, Err(error))) => Err(error),
            Err(true) => Ok(false),
            Err(false) => Err(no_thread()),
        }
    }
}

fn no_thread() -> ProducerError {
    ProducerError::Fatal { reason: "the thread that commits has ended".to_owned() }
}

/// The committing thread: ends with its owner.
fn commit_each(
    commits: &Receiver<(TransactionalProducer, Duration)>,
    delivered: &AtomicBool,
    outcomes: &SyncSender<(TransactionalProducer, Result<(), ProducerError>)>,
) {
    while let Ok((mut producer, timeout)) = commits.recv() {
        let deadline = Instant::now() + timeout;
        let outcome = producer.drain(timeout).and_then(|()| {
            delivered.store(true, Ordering::Release);
            commit(&mut producer, timeout, deadline)
        });
        if outcomes.send((producer, outcome)).is_err() {
            return;
        }
    }
}

fn commit(producer: &mut TransactionalProducer, timeout: Duration, deadline: Instant) -> Result<(), ProducerError> {
    loop {
        match producer.commit(timeout) {
            // The outcome is open: only asking again tells.
            Err(ProducerError::Transient { .. }) if Instant::now() < deadline => {}
            outcome => return outcome,
        }
    }
}
