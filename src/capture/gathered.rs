//! Events on their way to the producer, gathered: each request to a broker costs the same for one record as for hundreds, and
//! librdkafka makes one for each partition as soon as a record has waited for `linger.ms`.
//!
//! History waits for a moment always: nobody waits for it as a page waits for a price. State events wait only while the log
//! has more at hand anyway, or comes in a flood, as in a backlog.

use std::time::{Duration, Instant};

use crate::events::draft::Draft;

/// More than this is sent at once.
const RECORDS: usize = 2000;
/// More than these bytes are sent at once.
const BYTES: usize = 1024 * 1024;

/// Events that wait for others. Pure: it is told the time.
#[derive(Debug)]
pub(super) struct Gathered {
    pause: Duration,
    drafts: Vec<Draft>,
    bytes: usize,
    /// By when the first of them is to be sent.
    due: Option<Instant>,
}

impl Gathered {
    /// Lets an event wait up to `pause`.
    pub(super) fn new(pause: Duration) -> Self {
        Self { pause, drafts: Vec::new(), bytes: 0, due: None }
    }

    /// Adds an event; returns whether there are so many that all are to be sent now. The time is asked for the first of them
    /// alone: whoever sends what is due looks at it often enough.
    pub(super) fn push(&mut self, draft: Draft, now: impl FnOnce() -> Instant) -> bool {
        if self.due.is_none() {
            self.due = Some(now() + self.pause);
        }
        self.bytes += draft.value.len();
        self.drafts.push(draft);
        self.drafts.len() >= RECORDS || self.bytes >= BYTES
    }

    /// Returns how many events wait.
    pub(super) fn len(&self) -> usize {
        self.drafts.len()
    }

    /// Returns by when what waits is to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells whether that time has come.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Hands out what waits, in order.
    pub(super) fn take(&mut self) -> Vec<Draft> {
        self.due = None;
        self.bytes = 0;
        std::mem::take(&mut self.drafts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::draft::{Drafts, Heading, Stamp, Topic};
    use crate::events::json::commit_time;

    fn draft(seq: u32, bytes: usize) -> Draft {
        let stamp =
            Stamp { source: "/highwater/shop", timeline: 1, lsn: 16, time: commit_time(0), xid: None, ahead: false };
        let heading = Heading { id_tail: &[b"history"], subject: &[b"part/1"], entity: b"1" };
        let mut draft = Draft::begin(
            &mut Drafts::default(),
            Topic::History,
            &stamp,
            stamp.position(seq),
            &["history.insert"],
            heading,
        );
        draft.value.resize(bytes, b' ');
        draft
    }

    #[test]
    fn no_event_waits_longer_than_the_pause_and_all_keep_their_order() {
        let start = Instant::now();
        let ms = |count| start + Duration::from_millis(count);
        let mut gathered = Gathered::new(Duration::from_millis(25));
        assert_eq!(gathered.due(), None);
        assert!(!gathered.push(draft(0, 10), || ms(0)));
        assert!(!gathered.push(draft(2, 10), || ms(20)));
        assert!(!gathered.is_due(ms(24)) && gathered.is_due(ms(25)));
        let seqs: Vec<u32> = gathered.take().iter().map(|draft| draft.position.seq).collect();
        assert_eq!(seqs, [0, 2]);
        assert_eq!(gathered.due(), None);
        assert!(!gathered.push(draft(4, 10), || ms(30)));
        assert_eq!(gathered.due(), Some(ms(55)));
    }

    #[test]
    fn what_is_gathered_is_bounded_in_records_and_bytes() {
        let now = Instant::now();
        let mut gathered = Gathered::new(Duration::from_secs(1));
        assert_eq!((0..10_000).position(|seq| gathered.push(draft(seq, 10), || now)), Some(RECORDS - 1));
        gathered.take();
        assert!(gathered.push(draft(0, BYTES), || now));
    }

    #[test]
    fn without_a_pause_nothing_waits() {
        let now = Instant::now();
        let mut gathered = Gathered::new(Duration::ZERO);
        gathered.push(draft(0, 10), || now);
        assert!(gathered.is_due(now));
    }
}
