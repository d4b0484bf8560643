//! A transactional producer of the client: queues in order, retries without duplicates, and what is left of it on the wire.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::SmallRng;

use super::broker::{Content, Refused, Ticket};
use super::session::Ended;
use super::{ALL, HISTORY, Mutation, Servers};
use crate::position::Bound;

/// What became of a commit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Committed,
    Fenced,
    /// No answer within the deadline.
    Unknown,
}

/// A turn that has ended.
pub(super) struct Committing {
    pub(super) producer: usize,
    pub(super) bound: Bound,
    /// How likely it is tried at a given moment: some commits take long.
    pub(super) eagerness: f64,
    pub(super) outcome: Option<Outcome>,
}

struct Pending {
    content: Content,
    /// The broker has it, though the answer was lost: it knows the record by its number when it comes again.
    appended: bool,
}

type Queues<T> = [VecDeque<T>; ALL];

pub(super) struct Producer {
    pub(super) ticket: Ticket,
    queues: Queues<Pending>,
    /// A record was given up in this partition: the broker refuses what follows it (`OUT_OF_ORDER_SEQUENCE_NUMBER`).
    stuck: [bool; ALL],
    failed: bool,
    fenced: bool,
}

impl Producer {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self { ticket, queues: Queues::default(), stuck: Default::default(), failed: false, fenced: false }
    }

    pub(super) fn send(&mut self, partition: usize, content: Content) {
        self.queues[partition].push_back(Pending { content, appended: false });
    }

    pub(super) fn is_drained(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Fails where a record can never be delivered.
    pub(super) fn check(&self, servers: &Servers) -> Result<(), Ended> {
        match servers.mutation {
            _ if self.fenced => Err(Ended::Fenced),
            Some(Mutation::IgnoreFailedDeliveries) => Ok(()),
            _ if self.failed => Err(Ended::Failed),
            _ => Ok(()),
        }
    }

    /// Tells whether nothing is on its way that the next turn could overtake: of history and progress it waits itself.
    pub(super) fn may_rest(&self) -> bool {
        self.queues[..HISTORY].iter().all(VecDeque::is_empty)
    }

    pub(super) fn can_deliver(&self, partition: usize) -> bool {
        !self.stuck[partition] && !self.queues[partition].is_empty()
    }

    /// Brings the oldest record of a partition to its broker, or fails to.
    pub(super) fn deliver(&mut self, partition: usize, servers: &mut Servers, random: &mut SmallRng) {
        let Some(head) = self.queues[partition].front_mut() else { return };
        let (timed_out, lost) = (servers.fails(random, 0.02), servers.fails(random, 0.1));
        if !head.appended && (!timed_out || random.random_bool(0.5)) {
            match servers.broker.append(self.ticket, partition, head.content.clone()) {
                Ok(()) => head.appended = true,
                Err(Refused::Busy) => return,
                Err(Refused::Fenced) => {
                    self.fenced = true;
                    return;
                }
            }
        }
        if timed_out {
            self.failed = true;
            self.stuck[partition] = servers.mutation.is_none_or(|mutation| !mutation.leaves_gaps());
            self.queues[partition].pop_front();
        } else if !lost {
            self.queues[partition].pop_front();
        }
    }

    /// Returns what may still reach the brokers after the process is gone: the oldest records, or a commit.
    pub(super) fn into_flight(self, commits: bool, random: &mut SmallRng) -> InFlight {
        let mut records: Queues<Content> = Queues::default();
        for (partition, queue) in self.queues.into_iter().enumerate().filter(|(at, _)| !self.stuck[*at]) {
            let most = random.random_range(0..=queue.len());
            let fresh = queue.into_iter().take(most).filter(|pending| !pending.appended);
            records[partition].extend(fresh.map(|pending| pending.content));
        }
        InFlight { ticket: self.ticket, records, commits }
    }
}

/// Requests of a producer that is gone.
pub(super) struct InFlight {
    ticket: Ticket,
    records: Queues<Content>,
    commits: bool,
}

impl InFlight {
    /// One of them arrives.
    pub(super) fn arrive(&mut self, servers: &mut Servers, random: &mut SmallRng) {
        if self.commits {
            self.commits = false;
            // Nobody hears the answer.
            let _ = servers.broker.commit(self.ticket);
            return;
        }
        let partition = random.random_range(0..ALL);
        if let Some(content) = self.records[partition].front() {
            match servers.broker.append(self.ticket, partition, content.clone()) {
                Err(Refused::Busy) => {}
                Ok(()) | Err(Refused::Fenced) => drop(self.records[partition].pop_front()),
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        !self.commits && self.records.iter().all(VecDeque::is_empty)
    }
}

impl Mutation {
    fn leaves_gaps(self) -> bool {
        matches!(self, Self::TakeRecordsBehindAGap | Self::IgnoreFailedDeliveries)
    }
}
