//! What capture measures of itself: how far each stage is in the log, which `watch` shows against the server's end of it, how
//! long each commit took to a stage, and what waits in its queues.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_postgres::pgoutput::Begin;
use highwater_postgres::{Lsn, Timestamp};
use metrics::{Counter, Histogram, counter, gauge, histogram};

use super::positions::{Positions, Stage};

/// How often gauges are set: every message would cost more than it tells.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// A source transaction on its way through the stages.
#[derive(Debug, Clone, Copy)]
struct Underway {
    /// Just behind the start of its commit record: a stage that it has passed is further than one that it has not, though a
    /// keepalive named that start before.
    bound: Lsn,
    committed_at: Timestamp,
}

/// Looked up once: a transaction passes all of them, and there are many.
struct Handles {
    read: Histogram,
    visible: Histogram,
    sent: Histogram,
    delivered: Histogram,
    committed: Histogram,
    keepalives: Counter,
    acknowledgements: Counter,
}

/// What a session measures, in one place beside the loop that it measures.
pub(super) struct Measures {
    handles: Handles,
    positions: Arc<Positions>,
    /// Read up to its Begin; its commit is waited for.
    waiting: Option<Underway>,
    /// Not all of it is sent.
    open: Option<Underway>,
    /// The newest that was sent and is not known to be on the brokers.
    in_flight: Option<Underway>,
    /// The newest that was sent in the Kafka transaction that is open.
    newest: Option<Underway>,
    /// The newest in the Kafka transaction that is being committed.
    committing: Option<Underway>,
    shown: Option<Instant>,
}

impl Measures {
    /// Begins at what is committed already.
    pub(super) fn beginning(at: Lsn, positions: Arc<Positions>) -> Self {
        positions.begin(at);
        let stage = |stage: Stage| histogram!("highwater_capture_stage_seconds", "stage" => stage.name());
        let handles = Handles {
            read: stage(Stage::Read),
            visible: stage(Stage::Visible),
            sent: stage(Stage::Sent),
            delivered: stage(Stage::Delivered),
            committed: stage(Stage::Committed),
            keepalives: counter!("highwater_capture_keepalives_total"),
            acknowledgements: counter!("highwater_capture_acknowledgements_total"),
        };
        Self {
            handles,
            positions,
            waiting: None,
            open: None,
            in_flight: None,
            newest: None,
            committing: None,
            shown: None,
        }
    }

    /// A keepalive came.
    pub(super) fn keepalive(&self) {
        self.handles.keepalives.increment(1);
    }

    /// A transaction that is to be published has been read up to its Begin: the one before is sent.
    pub(super) fn began(&mut self, begin: &Begin) {
        self.sent();
        let bound = Lsn(begin.final_lsn.0 + 1);
        self.positions.pass(Stage::Read, bound);
        self.waiting = Some(Underway { bound, committed_at: begin.commit_time });
        reached(&self.handles.read, begin.commit_time);
    }

    /// It is visible on the primary, and is sent now.
    pub(super) fn visible(&mut self) {
        if let Some(waiting) = &self.waiting {
            self.positions.pass(Stage::Visible, waiting.bound);
            reached(&self.handles.visible, waiting.committed_at);
        }
        self.sending();
    }

    /// It is sent now, visible or not.
    pub(super) fn sending(&mut self) {
        self.open = self.waiting.take();
    }

    /// Whether what is published may be ahead of what the primary shows.
    pub(super) fn note_ahead(ahead: bool) {
        gauge!("highwater_capture_ahead").set(if ahead { 1.0 } else { 0.0 });
    }

    fn sent(&mut self) {
        if let Some(open) = self.open.take() {
            // Where commits are not waited for, nothing waits at that stage either.
            self.positions.pass(Stage::Visible, open.bound);
            self.positions.pass(Stage::Sent, open.bound);
            (self.in_flight, self.newest) = (Some(open), Some(open));
            reached(&self.handles.sent, open.committed_at);
        }
    }

    /// The producer was looked after. Everything below `came` has come, and so much is committed; so many records wait for the
    /// brokers' word. `inside` is whether a transaction is in the middle.
    pub(super) fn looked(&mut self, inside: bool, came: Lsn, in_flight: usize, committed: Lsn) {
        if !inside {
            self.sent();
            // It moves with keepalives, too: what is below holds nothing more to be read, waited for or sent.
            for stage in [Stage::Read, Stage::Visible, Stage::Sent] {
                self.positions.pass(stage, came);
            }
        }
        if in_flight == 0 {
            self.positions.pass(Stage::Delivered, self.positions.of(Stage::Sent));
            if let Some(done) = self.in_flight.take() {
                reached(&self.handles.delivered, done.committed_at);
            }
        }
        // In a backlog some records are always on their way.
        self.positions.pass(Stage::Delivered, committed);
        self.positions.pass(Stage::Committed, committed);
        if let Some(done) = self.committing.take_if(|underway| underway.bound <= committed) {
            reached(&self.handles.committed, done.committed_at);
        }
    }

    /// The Kafka transaction was ended, between two source transactions, behind the commit of the one before.
    pub(super) fn ended(&mut self) {
        self.sent();
        if let Some(done) = self.committing.take() {
            reached(&self.handles.committed, done.committed_at);
        }
        self.committing = self.newest.take();
    }

    /// The server was told what is durable.
    pub(super) fn acknowledged(&self, Lsn(durable): Lsn) {
        gauge!("highwater_capture_acknowledged_lsn").set(as_f64(durable));
        self.handles.acknowledgements.increment(1);
    }

    /// Whether [`Self::show_queues`] is due.
    pub(super) fn is_time_to_show(&mut self, now: Instant) -> bool {
        let is_time = self.shown.is_none_or(|shown| now.saturating_duration_since(shown) >= SHOW_EVERY);
        if is_time {
            self.shown = Some(now);
        }
        is_time
    }

    /// Shows how many records wait for the brokers and how many bytes of the stream to be decoded.
    pub(super) fn show_queues(records: usize, bytes: usize) {
        gauge!("highwater_capture_in_flight_records").set(as_f64(records as u64));
        gauge!("highwater_capture_undecoded_bytes").set(as_f64(bytes as u64));
    }
}

impl Drop for Measures {
    /// What waited in a session's queues is gone with it.
    fn drop(&mut self) {
        Self::show_queues(0, 0);
    }
}

/// Records how long ago the commit was.
fn reached(stage: &Histogram, committed_at: Timestamp) {
    let micros = u64::try_from(Timestamp::now().0.saturating_sub(committed_at.0)).unwrap_or(0);
    stage.record(Duration::from_micros(micros).as_secs_f64());
}

/// A count or a number of bytes as a measurement; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "gauges are f64")]
pub(super) fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Read, visible, sent, delivered, committed.
    fn stages(measures: &Measures) -> [u64; 5] {
        Stage::ALL.map(|stage| measures.positions.of(stage).0)
    }

    fn begin(lsn: u64) -> Begin {
        Begin { final_lsn: Lsn(lsn), commit_time: Timestamp::now(), xid: 7 }
    }

    #[test]
    fn each_stage_reaches_what_stands_before_it_and_none_goes_back() {
        let mut measures = Measures::beginning(Lsn(100), Arc::default());
        measures.looked(false, Lsn(200), 3, Lsn(100));
        assert_eq!(stages(&measures), [200, 200, 200, 100, 100]);
        measures.began(&begin(200));
        measures.looked(false, Lsn(200), 3, Lsn(100));
        assert_eq!(stages(&measures), [201, 200, 200, 100, 100], "its commit is waited for");
        measures.visible();
        measures.looked(true, Lsn(200), 3, Lsn(100));
        assert_eq!(stages(&measures), [201, 201, 200, 100, 100]);
        // The next one's Begin says that the one before is sent; nobody waits for its commit.
        measures.began(&begin(300));
        measures.sending();
        measures.looked(true, Lsn(240), 2, Lsn(150));
        assert_eq!(stages(&measures), [301, 201, 201, 150, 150], "what is committed is delivered");
        measures.looked(false, Lsn(340), 2, Lsn(150));
        assert_eq!(stages(&measures), [340, 340, 340, 150, 150]);
        measures.looked(false, Lsn(340), 0, Lsn(200));
        assert_eq!(stages(&measures), [340, 340, 340, 340, 200]);
        measures.looked(true, Lsn(900), 1, Lsn(340));
        assert_eq!(stages(&measures), [340; 5], "in the middle nothing more is read");
    }

    #[test]
    fn beside_a_busy_database_keepalives_move_every_stage() {
        let mut measures = Measures::beginning(Lsn(100), Arc::default());
        measures.looked(false, Lsn(900), 0, Lsn(100));
        assert_eq!(stages(&measures), [900, 900, 900, 900, 100]);
        measures.looked(false, Lsn(900), 1, Lsn(900));
        assert_eq!(stages(&measures), [900; 5]);
    }

    #[test]
    fn a_commit_is_committed_to_the_topics_with_the_kafka_transaction_that_it_was_sent_in() {
        let mut measures = Measures::beginning(Lsn(100), Arc::default());
        let newest = |underway: Option<Underway>| underway.map(|underway| underway.bound.0);
        let mut send = |lsn, ended: bool| {
            measures.began(&begin(lsn));
            measures.visible();
            if ended {
                measures.ended();
            }
        };
        send(200, true);
        send(300, false);
        measures.looked(false, Lsn(340), 0, Lsn(200));
        assert_eq!((newest(measures.committing), newest(measures.newest)), (Some(201), Some(301)));
        measures.looked(false, Lsn(340), 0, Lsn(240));
        assert_eq!((newest(measures.committing), newest(measures.newest)), (None, Some(301)));
        measures.ended();
        measures.ended();
        assert_eq!((newest(measures.committing), newest(measures.newest)), (None, None), "the next one was empty");
    }
}
