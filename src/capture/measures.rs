//! How far behind the server each stage of capture is, in bytes of log and in seconds since the commit: read, visible,
//! sent, delivered to the brokers, committed there.

use std::time::{Duration, Instant};

use highwater_postgres::pgoutput::Begin;
use highwater_postgres::{Lsn, Timestamp};
use metrics::{Counter, Histogram, counter, gauge, histogram};

/// How often gauges are set: every message would cost more than it tells.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// A source transaction on its way through the stages.
#[derive(Debug, Clone, Copy)]
struct Underway {
    /// Where its commit record starts.
    lsn: u64,
    committed_at: Timestamp,
}

/// Looked up once: a transaction passes all of them, and there are many.
struct Handles {
    read: Histogram,
    visible: Histogram,
    sent: Histogram,
    delivered: Histogram,
    keepalives: Counter,
    acknowledgements: Counter,
}

/// What capture measures of itself, in one place beside the loop that it measures. Log positions, in bytes.
pub(super) struct Measures {
    handles: Handles,
    /// Newest end of the log that the server named.
    server: u64,
    read: u64,
    sent: u64,
    delivered: u64,
    committed: u64,
    /// Read, and not all of it sent.
    open: Option<Underway>,
    /// The newest that was sent and is not known to be on the brokers.
    in_flight: Option<Underway>,
    shown: Option<Instant>,
}

impl Measures {
    /// Begins at what is committed already.
    pub(super) fn beginning(Lsn(at): Lsn) -> Self {
        let stage = |stage: &'static str| histogram!("highwater_capture_stage_seconds", "stage" => stage);
        let handles = Handles {
            read: stage("read"),
            visible: stage("visible"),
            sent: stage("sent"),
            delivered: stage("delivered"),
            keepalives: counter!("highwater_capture_keepalives_total"),
            acknowledgements: counter!("highwater_capture_acknowledgements_total"),
        };
        Self {
            handles,
            server: at,
            read: at,
            sent: at,
            delivered: at,
            committed: at,
            open: None,
            in_flight: None,
            shown: None,
        }
    }

    /// A keepalive came. Where nothing is in the middle, everything below is read, and holds nothing to be sent.
    pub(super) fn keepalive(&mut self, Lsn(end): Lsn, inside: bool) {
        self.handles.keepalives.increment(1);
        gauge!("highwater_capture_server_lsn").set(as_f64(end));
        self.server = self.server.max(end);
        if !inside {
            self.sent();
            self.read = self.read.max(end);
            self.sent = self.sent.max(end);
        }
    }

    /// A transaction that is to be published has been read up to its Begin: the one before is sent.
    pub(super) fn began(&mut self, begin: &Begin) {
        self.sent();
        let Lsn(lsn) = begin.final_lsn;
        self.server = self.server.max(lsn);
        self.read = self.read.max(lsn);
        self.open = Some(Underway { lsn, committed_at: begin.commit_time });
        reached(&self.handles.read, begin.commit_time);
    }

    /// It is visible on the primary.
    pub(super) fn visible(&self) {
        if let Some(open) = &self.open {
            reached(&self.handles.visible, open.committed_at);
        }
    }

    /// Whether what is published may be ahead of what the primary shows.
    pub(super) fn note_ahead(ahead: bool) {
        gauge!("highwater_capture_ahead").set(if ahead { 1.0 } else { 0.0 });
    }

    fn sent(&mut self) {
        if let Some(open) = self.open.take() {
            self.sent = self.sent.max(open.lsn);
            self.in_flight = Some(open);
            reached(&self.handles.sent, open.committed_at);
        }
    }

    /// The producer was looked after: so many records wait for the brokers' word, and so much is committed. `inside` is
    /// whether a transaction is in the middle.
    pub(super) fn looked(&mut self, inside: bool, in_flight: usize, Lsn(committed): Lsn, now: Instant) {
        if !inside {
            self.sent();
        }
        if in_flight == 0 {
            self.delivered = self.delivered.max(self.sent);
            if let Some(done) = self.in_flight.take() {
                reached(&self.handles.delivered, done.committed_at);
            }
        }
        self.committed = self.committed.max(committed);
        if self.shown.is_none_or(|shown| now.saturating_duration_since(shown) >= SHOW_EVERY) {
            self.shown = Some(now);
            self.show(in_flight);
        }
    }

    /// The server was told what is durable.
    pub(super) fn acknowledged(&self, Lsn(durable): Lsn) {
        gauge!("highwater_capture_acknowledged_lsn").set(as_f64(durable));
        self.handles.acknowledgements.increment(1);
    }

    fn show(&self, in_flight: usize) {
        let stages =
            [("read", self.read), ("sent", self.sent), ("delivered", self.delivered), ("committed", self.committed)];
        for (stage, at) in stages {
            gauge!("highwater_capture_lag_bytes", "stage" => stage).set(as_f64(self.server.saturating_sub(at)));
        }
        gauge!("highwater_capture_in_flight_records").set(as_f64(in_flight as u64));
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

    #[test]
    fn each_stage_reaches_what_stands_before_it_and_none_goes_back() {
        let stages = |measures: &Measures| (measures.read, measures.sent, measures.delivered, measures.committed);
        let mut measures = Measures::beginning(Lsn(100));
        measures.keepalive(Lsn(150), false);
        let begin = |lsn| Begin { final_lsn: Lsn(lsn), commit_time: Timestamp::now(), xid: 7 };
        measures.began(&begin(200));
        measures.looked(true, 3, Lsn(100), Instant::now());
        assert_eq!(stages(&measures), (200, 150, 100, 100));
        // The next one's Begin says that the one before is sent.
        measures.began(&begin(300));
        assert_eq!(stages(&measures), (300, 200, 100, 100));
        measures.looked(false, 2, Lsn(150), Instant::now());
        assert_eq!(stages(&measures), (300, 300, 100, 150));
        measures.looked(false, 0, Lsn(300), Instant::now());
        assert_eq!((stages(&measures), measures.server), ((300, 300, 300, 300), 300));
        // After a reconnect keepalives go back.
        measures.keepalive(Lsn(250), false);
        assert_eq!((measures.read, measures.server), (300, 300));
        measures.keepalive(Lsn(400), true);
        assert_eq!((measures.read, measures.server), (300, 400), "in the middle it says nothing of what was read");
    }
}
