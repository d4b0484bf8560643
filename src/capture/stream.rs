//! The loop of capture: read the log, publish what is visible, commit, acknowledge. One thread, because its order is its
//! meaning.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_postgres::Lsn;
use highwater_postgres::pgoutput::{Begin, Message, StreamCommit};
use highwater_postgres::replication::{Frame, Status};
use metrics::{counter, histogram};
use tracing::{info, warn};

use super::error::Error;
use super::marks::IDLE;
use super::measures::Measures;
use super::positions::Positions;
use super::publisher::QUIET_LOOK;
use super::replay::begin_of;
use super::session::Session;
use super::settings::Settings;
use super::visible::Visibility;
use super::work::{Step, decode};
use crate::running::Shutdown;

/// Messages of the log between two looks at the clock.
const MESSAGES_BETWEEN_LOOKS: u32 = 512;
/// Pauses between two questions whether a commit is visible.
const VISIBLE_PAUSES: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(5));

/// How long a drain goes on reading a source transaction that is in the middle; the process itself has
/// `[operate] drain_deadline_s`.
const COMMITS_WITHIN: Duration = Duration::from_secs(10);

/// How long a session's first Kafka transaction is kept open, and each one behind it twice as long, up to the setting: a session
/// that lives for a moment leaves progress behind, too. Without that, sessions that end before their first commit go over the
/// same log again and again, and it grows.
const FIRST_TRANSACTION: Duration = Duration::from_millis(100);

/// Pause between two looks whether the producer has room again.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Reads the log until it is told to stop.
pub(super) struct Loop<'a> {
    session: Session,
    settings: &'a Settings,
    shutdown: &'a Shutdown,
    visibility: Visibility,
    acknowledged: Lsn,
    last_status: Instant,
    /// When the server last sent anything.
    heard: Instant,
    slot: String,
    messages: u32,
    measures: Measures,
    /// How long the open Kafka transaction is kept open.
    transaction: Duration,
    /// It is to end, and what comes next must not be missed: it can only between two source transactions.
    is_due: bool,
    /// When a drain gives a source transaction up that is in the middle.
    leaves_at: Option<Instant>,
}

impl<'a> Loop<'a> {
    pub(super) fn new(
        session: Session,
        slot: String,
        settings: &'a Settings,
        shutdown: &'a Shutdown,
        positions: Arc<Positions>,
    ) -> Self {
        let long_ago = Instant::now().checked_sub(IDLE).unwrap_or_else(Instant::now);
        let acknowledged = Lsn(session.work.publisher.committed().lsn());
        let ahead = session.work.publisher.progress.ahead;
        Self {
            session,
            settings,
            shutdown,
            visibility: Visibility::new(settings.visible_first, ahead),
            acknowledged,
            last_status: long_ago,
            heard: Instant::now(),
            slot,
            messages: 0,
            measures: Measures::beginning(acknowledged, positions),
            transaction: FIRST_TRANSACTION.min(settings.transaction),
            is_due: false,
            leaves_at: None,
        }
    }

    /// Runs until the shutdown, then commits what was sent, acknowledges it and leaves.
    ///
    /// # Errors
    /// Whatever ends the session; what was sent and not committed is aborted by the next session's fence.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let was_ahead = self.session.work.publisher.progress.ahead;
        self.note_what_is_ahead()?;
        let publisher = &mut self.session.work.publisher;
        Measures::note_ahead(publisher.progress.ahead);
        if publisher.progress.ahead && !was_ahead {
            // Whoever goes on from here has to know it before the first event is sent, whatever becomes of that.
            publisher.commit_progress()?;
        }
        while !self.shutdown.is_cancelled() || self.goes_on_to_the_commit() {
            self.step()?;
        }
        if self.session.work.inside {
            // It is not published: the next session finds it in the log.
            warn!("a source transaction is left in the middle; readers of committed records wait for the next start");
        } else {
            self.session.work.publisher.close()?;
            self.acknowledge(false)?;
        }
        info!(acknowledged = %self.acknowledged, "capture drained");
        Ok(())
    }

    /// Whether a source transaction is in the middle, and is read to its end although the shutdown has come: what is left
    /// open on the brokers hides from readers of committed records all that stands behind its first record.
    fn goes_on_to_the_commit(&mut self) -> bool {
        let until = *self.leaves_at.get_or_insert_with(|| Instant::now() + COMMITS_WITHIN);
        self.session.work.inside && Instant::now() < until
    }

    /// Reads one message, does what it asks for, and then what is due.
    fn step(&mut self) -> Result<(), Error> {
        match self.read()? {
            Step::On => {}
            Step::Begin(begin) => self.begin(&begin)?,
            Step::Replay(commit) => self.replay(&commit)?,
            Step::Announce(relation) => self.announce(&relation)?,
        }
        self.messages += 1;
        let at_hand = self.session.stream.has_buffered();
        if !at_hand && !self.session.stream.is_flooded() {
            self.session.work.publisher.send_events()?;
        }
        if self.messages >= MESSAGES_BETWEEN_LOOKS || !at_hand || (self.is_due && !self.session.work.inside) {
            self.messages = 0;
            self.look_around()?;
        }
        Ok(())
    }

    /// Reads one message.
    fn read(&mut self) -> Result<Step, Error> {
        // What was received already is taken without looking at the clock: in a backlog that is nearly all.
        let at_hand = self.session.stream.has_buffered();
        let wait = if at_hand { Duration::ZERO } else { self.next_deadline() };
        let Session { stream, work } = &mut self.session;
        let step = match stream.next(wait).map_err(|error| Error::of_stream(error, &self.slot))? {
            Some(Frame::XLogData { payload, .. }) => work.message(payload)?,
            Some(Frame::Keepalive { wal_end, reply_requested, .. }) => {
                let in_flight = work.inside || work.in_piece();
                self.measures.keepalive();
                // It counts only when nothing is in flight: between a Begin and its Commit it says nothing, nor inside of a
                // piece of a transaction in progress. Between pieces it does: their commit records are still to come.
                if !in_flight {
                    work.reach(wal_end)?;
                }
                if reply_requested {
                    self.acknowledge(false)?;
                }
                Step::On
            }
            None if self.heard.elapsed() > self.settings.answer_timeout => {
                // Keepalives are asked for every second: a server that hangs, or is cut off, answers none of them.
                let waiting_for = format!("a sign of life on the replication stream of slot `{}`", self.slot);
                let after = self.settings.answer_timeout;
                return Err(highwater_postgres::Error::Timeout { waiting_for, after }.into());
            }
            None => return Ok(Step::On),
        };
        if !at_hand {
            self.heard = Instant::now();
        }
        Ok(step)
    }

    /// How long the next read may block: until a mark, a commit or a keepalive is due.
    fn next_deadline(&self) -> Duration {
        let now = Instant::now();
        let work = &self.session.work;
        let mut next = self.last_status + IDLE;
        if let Some(poll) = work.publisher.next_poll(now) {
            next = next.min(poll);
        }
        if work.inside {
            // Marks and commits stand between transactions only.
            return next.saturating_duration_since(now);
        }
        next = next.min(work.publisher.next_mark());
        if let Some((opened, _)) = work.publisher.open_transaction() {
            next = next.min((opened + self.transaction).max(now + QUIET_LOOK));
        }
        if !work.snapshot.is_done() {
            next = next.min(now + Duration::from_millis(5));
        }
        next.saturating_duration_since(now)
    }

    /// Everything that is due by the clock.
    fn look_around(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let work = &mut self.session.work;
        work.publisher.poll()?;
        let committed = Lsn(work.publisher.committed().lsn());
        let came = Lsn(work.publisher.progress.bound.lsn());
        self.measures.looked(work.inside, came, work.publisher.in_flight(), committed);
        if self.measures.is_time_to_show(now) {
            Measures::show_queues(work.publisher.queued(), self.session.stream.undecoded_bytes());
        }
        work.advance_snapshot()?;
        self.is_due = work.publisher.open_transaction().is_some_and(|(opened, records)| {
            now >= opened + self.transaction
                || records >= self.settings.transaction_records
                || work.snapshot.needs_commit(work.publisher.ended())
        });
        if !work.inside {
            self.between_transactions(now)?;
        }
        if self.acknowledged.0 < self.session.work.publisher.committed().lsn() {
            self.acknowledge(false)?;
        }
        if now >= self.last_status + IDLE {
            // A keepalive is asked for: none comes unasked in quiet seconds.
            self.acknowledge(true)?;
        }
        Ok(())
    }

    /// What is due and can only be done between two source transactions: marks, and the end of the Kafka transaction.
    fn between_transactions(&mut self, now: Instant) -> Result<(), Error> {
        self.note_what_is_ahead()?;
        let work = &mut self.session.work;
        work.publisher.mark(work.complete(), now)?;
        if self.is_due && work.publisher.is_time_to_end(now)? {
            work.publisher.end_transaction()?;
            self.measures.ended();
            self.is_due = false;
            self.transaction = (self.transaction * 2).min(self.settings.transaction);
        }
        Ok(())
    }

    /// Tells the server what is durable: committed progress, and nothing else.
    fn acknowledge(&mut self, ask: bool) -> Result<(), Error> {
        let durable = Lsn(self.session.work.publisher.committed().lsn());
        assert!(self.acknowledged <= durable, "acknowledged {} before it was durable", self.acknowledged);
        self.acknowledged = durable;
        let status = Status { written: durable, flushed: durable, applied: durable, reply_requested: ask };
        self.session.stream.send_status(status)?;
        self.measures.acknowledged(durable);
        if ask {
            self.last_status = Instant::now();
        }
        Ok(())
    }

    /// Takes note whether anything published may be ahead of the primary: events and marks say so.
    fn note_what_is_ahead(&mut self) -> Result<(), Error> {
        let work = &mut self.session.work;
        if work.publisher.progress.ahead != self.visibility.is_ahead(&mut work.primary, work.timeout)? {
            let ahead = &mut work.publisher.progress.ahead;
            *ahead = !*ahead;
            Measures::note_ahead(*ahead);
            if *ahead {
                warn!("commits are published before the primary shows them: a cache takes no fills from it");
            } else {
                info!("the primary shows all that is published");
            }
        }
        Ok(())
    }

    fn begin(&mut self, begin: &Begin) -> Result<(), Error> {
        let publish = !self.session.work.is_published(begin)?;
        // Chunks of a snapshot are right only behind commits that they could see.
        let waits = self.settings.visible_first || !self.session.work.snapshot.is_done();
        if publish && !waits {
            self.measures.began(begin);
            self.measures.sending();
        } else if publish && !self.await_visible(begin)? {
            return Ok(());
        }
        // Nothing was read while it was waited for.
        self.heard = Instant::now();
        self.session.work.begin(begin, publish)
    }

    /// Takes note of a table as of here in the log. What only the catalogue knows of it is asked of the primary: if that has other
    /// columns, it may have to show first what this transaction did to them.
    fn announce(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Message::Relation(relation) = decode(payload, false)? else {
            return Err(Error::Unexpected("something else where a table was to be announced".to_owned()));
        };
        self.session.work.describe_announced(&relation)?;
        if let Some((xid, commit)) = self.session.work.ahead_of_the_catalogue(&relation)
            && self.await_shown(xid, commit)?
        {
            self.session.work.describe_announced(&relation)?;
            // Nothing was read meanwhile.
            self.heard = Instant::now();
        }
        let piece = self.session.work.piece;
        self.session.work.announced(&relation, piece);
        Ok(())
    }

    /// Publishes a streamed transaction. If the shutdown comes and it takes longer than a drain may, it is left in the middle and
    /// never committed: the next session finds it in the log.
    fn replay(&mut self, commit: &StreamCommit) -> Result<(), Error> {
        let begin = begin_of(commit);
        let publish = !self.session.work.is_published(&begin)?;
        if publish && !self.await_visible(&begin)? {
            return Ok(());
        }
        let mut replaying = self.session.work.begin_replay(commit, publish)?;
        while self.session.work.replay(&mut replaying, MESSAGES_BETWEEN_LOOKS)? {
            if !self.await_room()? {
                return Ok(());
            }
        }
        self.session.work.end_replay(replaying)?;
        // Nothing was read meanwhile.
        self.heard = Instant::now();
        Ok(())
    }

    /// Does what is due until the producer has room; `false` if a drain's time ran out first. A send that waits for brokers
    /// would keep the server waiting, too.
    fn await_room(&mut self) -> Result<bool, Error> {
        loop {
            self.look_around()?;
            if self.shutdown.is_cancelled() && !self.goes_on_to_the_commit() {
                return Ok(false);
            }
            if self.session.work.publisher.has_room() {
                return Ok(true);
            }
            std::thread::sleep(ROOM_PAUSE);
        }
    }

    /// Waits until the primary shows the commit of a transaction that begins; `false` if the shutdown came first.
    fn await_visible(&mut self, begin: &Begin) -> Result<bool, Error> {
        self.measures.began(begin);
        let started = Instant::now();
        let shown = self.await_shown(begin.xid, begin.final_lsn)?;
        if shown {
            self.measures.visible();
            histogram!("highwater_capture_visible_wait_seconds").record(started.elapsed().as_secs_f64());
        }
        Ok(shown)
    }

    /// Waits until the primary shows a commit; `false` if there is no more time for it.
    fn await_shown(&mut self, xid: u32, commit: Lsn) -> Result<bool, Error> {
        let started = Instant::now();
        let mut pause = VISIBLE_PAUSES.0;
        let mut warned = false;
        loop {
            let work = &mut self.session.work;
            if self.visibility.finished(&mut work.primary, xid, work.timeout)? {
                if warned {
                    info!(xid, waited = ?started.elapsed(), "the commit is visible now");
                }
                return Ok(true);
            }
            if self.shutdown.is_cancelled() && !self.goes_on_to_the_commit() {
                return Ok(false);
            }
            if !warned && started.elapsed() > self.settings.visible_warning {
                warned = true;
                counter!("highwater_capture_visible_late_total").increment(1);
                warn!(
                    xid,
                    %commit,
                    "a commit is in the log, but the primary does not show it yet: it waits for a synchronous standby, \
                     see pg_stat_replication and synchronous_standby_names"
                );
            }
            self.session.work.publisher.send_events()?;
            self.look_around()?;
            // Nothing announces visibility: it can only be asked for.
            std::thread::sleep(pause);
            pause = (pause * 2).min(VISIBLE_PAUSES.1);
        }
    }
}
