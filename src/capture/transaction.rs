//! One source transaction on its way out: its ordinals, who made it, and the last event of each topic, held back until
//! it is known to be the last.

use std::collections::BTreeMap;

use highwater_postgres::Lsn;
use highwater_postgres::pgoutput::Begin;

use crate::events::draft::{Draft, Stamp, Topic};
use crate::events::json::{TimeText, commit_time};
use crate::position::Bound;

/// A transaction between its Begin and its Commit.
#[derive(Debug)]
pub(super) struct Transaction {
    timeline: u32,
    /// Where its commit record starts.
    lsn: u64,
    time: TimeText,
    xid: u32,
    /// Whether the primary may not show it yet, or anything before it.
    ahead: bool,
    /// Who makes the changes from here on: JSON, empty while nobody has said so.
    pub(super) context: Vec<u8>,
    changes: u32,
    held: BTreeMap<Topic, Draft>,
}

impl Transaction {
    /// Begins one.
    pub(super) fn begin(timeline: u32, begin: &Begin, ahead: bool) -> Self {
        let (lsn, time) = (begin.final_lsn.0, commit_time(begin.commit_time.0));
        Self { timeline, lsn, time, xid: begin.xid, ahead, context: Vec::new(), changes: 0, held: BTreeMap::new() }
    }

    /// Returns its number and where its commit record starts.
    pub(super) fn number_and_commit(&self) -> (u32, Lsn) {
        (self.xid, Lsn(self.lsn))
    }

    /// Returns what its events share.
    pub(super) fn stamp<'a>(&self, source: &'a str) -> Stamp<'a> {
        Stamp {
            source,
            timeline: self.timeline,
            lsn: self.lsn,
            time: self.time,
            xid: Some(self.xid),
            ahead: self.ahead,
        }
    }

    /// Returns the bound that all of its changes are above, and all before it below.
    pub(super) fn bound(&self) -> Bound {
        Bound::at_lsn(self.timeline, self.lsn)
    }

    /// Returns the ordinal of the next change: steps of two, because a change can be a delete here and a create there.
    pub(super) fn next_seq(&mut self) -> u32 {
        let seq = self.changes.saturating_mul(2);
        self.changes += 1;
        seq
    }

    /// Returns how many changes of rows it made so far.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// Takes an event and returns the one of its topic that is now known not to be the last.
    pub(super) fn push(&mut self, draft: Draft) -> Option<Draft> {
        self.held.insert(draft.topic, draft)
    }

    /// Ends the transaction: returns the last event of each topic, marked as such.
    pub(super) fn end(self) -> impl Iterator<Item = Draft> {
        let total = self.changes;
        self.held.into_values().map(move |mut draft| {
            draft.mark_last(total);
            draft
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::draft::{Drafts, Heading};
    use crate::events::mapping::spec::Family;
    use highwater_postgres::Timestamp;

    fn begun() -> Transaction {
        let begin = Begin { final_lsn: Lsn(16), commit_time: Timestamp(0), xid: 7 };
        Transaction::begin(1, &begin, false)
    }

    fn event(transaction: &mut Transaction, topic: Topic) -> Draft {
        let seq = transaction.next_seq();
        let stamp = transaction.stamp("/highwater/shop");
        let heading = Heading { id_tail: &[b"x"], subject: &[b"part/1"], entity: b"1" };
        let mut draft =
            Draft::begin(&mut Drafts::default(), topic, &stamp, stamp.position(seq), &["stock.updated"], heading);
        draft.finish(|out| out.extend_from_slice(b"{}"));
        draft
    }

    fn is_last(draft: &Draft) -> bool {
        String::from_utf8_lossy(&draft.value).contains("\"last\":true")
    }

    #[test]
    fn only_the_last_event_of_each_topic_says_so() {
        let (stock, price) = (Topic::State(Family::Stock), Topic::State(Family::Price));
        let mut transaction = begun();
        let mut sent = Vec::new();
        for topic in [stock, price, stock, stock] {
            let draft = event(&mut transaction, topic);
            sent.extend(transaction.push(draft));
        }
        assert!(sent.iter().all(|draft| !is_last(draft) && draft.topic == stock));
        let last: Vec<Draft> = transaction.end().collect();
        assert!(last.iter().all(is_last));
        let places: Vec<_> = last.iter().map(|draft| (draft.topic, draft.position.seq)).collect();
        assert_eq!(places, [(stock, 6), (price, 2)]);
    }

    #[test]
    fn ordinals_go_in_steps_of_two_so_that_a_move_has_room_for_both_its_events() {
        let mut transaction = begun();
        assert_eq!([transaction.next_seq(), transaction.next_seq(), transaction.next_seq()], [0, 2, 4]);
    }
}
