//! A session that publishes: what `stream`, `publisher` and `AlternatingProducer` do, over the real progress and marks.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::SmallRng;

use super::broker::{Content, Refused, Ticket};
use super::producer::{Committing, Outcome, Producer};
use super::source::Event;
use super::{ALL, HISTORY, Mutation, PARTITIONS, PROGRESS, Servers};
use crate::capture::marks::Schedule;
use crate::capture::progress::Progress;
use crate::events::mapping::spec::Family;
use crate::position::Bound;

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The connection to the source is gone.
    Disconnected,
    /// A record was not delivered, or a commit has no known outcome.
    Failed,
    /// A successor has taken over.
    Fenced,
}

enum Sent {
    Commit(usize),
    Keepalive(u64),
}

pub(super) struct Session {
    pub(super) connection: u32,
    /// The first commit that the server has not sent yet.
    next_sent: usize,
    inbox: VecDeque<Sent>,
    pub(super) progress: Progress,
    committed: Bound,
    acknowledged: u64,
    schedule: Schedule,
    /// History that waits for more of it.
    history: Vec<Event>,
    producers: [Producer; 2],
    active: usize,
    opened: bool,
    /// The next transaction has enlisted its partitions; the turn ends once its state events are delivered.
    ending: bool,
    committing: Vec<Committing>,
    /// A commit of the source that is being sent, and its next event.
    inside: Option<(usize, usize)>,
}

impl Session {
    pub(super) fn new(connection: u32, first: usize, tickets: [Ticket; 2], progress: Progress, now: Instant) -> Self {
        Self {
            connection,
            next_sent: first,
            inbox: VecDeque::new(),
            committed: progress.bound,
            acknowledged: progress.bound.lsn(),
            progress,
            schedule: Schedule::new(3, Duration::from_millis(50), now),
            history: Vec::new(),
            producers: tickets.map(Producer::new),
            active: 0,
            opened: false,
            ending: false,
            committing: Vec::new(),
            inside: None,
        }
    }

    /// Does one thing of what could come next.
    pub(super) fn step(&mut self, servers: &mut Servers, random: &mut SmallRng, now: Instant) -> Result<(), Ended> {
        match random.random_range(0..10) {
            // The client's own threads and that of the commits go on whatever the loop does.
            0..=2 => self.deliver(servers, random),
            3 => self.commit(servers, random),
            4 => self.hear(servers, random),
            _ if self.ending => self.end_turn(servers, random)?,
            5 | 6 => self.read(servers)?,
            7 if random.random_bool(0.5) => self.mark(now),
            7 => self.send_history(servers),
            8 => self.begin_to_end(servers),
            _ => self.look_around(servers, random)?,
        }
        Ok(())
    }

    /// The server sends.
    fn hear(&mut self, servers: &Servers, random: &mut SmallRng) {
        let source = &servers.source;
        if !source.is_connected(self.connection) {
            return;
        }
        if self.next_sent < source.commits.len() {
            self.inbox.push_back(Sent::Commit(self.next_sent));
            self.next_sent += 1;
        } else if random.random_bool(0.8) {
            self.inbox.push_back(Sent::Keepalive(source.end));
        } else {
            // After a reconnect a keepalive can be lower than before.
            let sent = source.commits.last().map_or(0, |commit| commit.end);
            self.inbox.push_back(Sent::Keepalive(sent));
        }
    }

    fn read(&mut self, servers: &Servers) -> Result<(), Ended> {
        if let Some((at, next)) = self.inside {
            let commit = &servers.source.commits[at];
            if let Some(event) = commit.events.get(next) {
                if !self.begin_if_needed() {
                    return Ok(());
                }
                self.producers[self.active].send(event.partition, Content::Event(*event));
                self.history.extend(event.in_history());
                if event.live {
                    self.progress.count(Family::ALL[event.partition], 0);
                }
                self.inside = Some((at, next + 1));
            } else {
                self.inside = None;
                self.progress.reach(Bound::at_lsn(1, commit.end));
            }
            return Ok(());
        }
        match self.inbox.pop_front() {
            Some(Sent::Commit(at)) => {
                let start = servers.source.commits[at].start;
                if !self.progress.covers(1, start) {
                    self.progress.reach(Bound::at_lsn(1, start));
                    self.inside = Some((at, 0));
                }
            }
            Some(Sent::Keepalive(lsn)) => self.progress.reach(Bound::at_lsn(1, lsn)),
            None if !servers.source.is_connected(self.connection) => return Err(Ended::Disconnected),
            None => {}
        }
        Ok(())
    }

    fn mark(&mut self, now: Instant) {
        let bound = self.progress.bound;
        if self.inside.is_some() {
            return;
        }
        while let Some(partition) = self.schedule.next(bound, now) {
            if !self.begin_if_needed() {
                return;
            }
            self.progress.marks += 1;
            let count = self.progress.live_events(Family::ALL[partition], 0);
            self.producers[self.active].send(partition, Content::Mark { bound, count });
        }
    }

    /// A turn cannot begin before the last commit of the same producer is done.
    fn begin_if_needed(&mut self) -> bool {
        let free = self.committing.iter().all(|committing| committing.producer != self.active);
        self.opened |= free;
        self.opened
    }

    /// History is sent behind that of the turn before.
    fn send_history(&mut self, servers: &Servers) {
        let before = &self.producers[1 - self.active];
        // What the other one has to send behind its commit enlists the next turn.
        let delivered = self.committing.is_empty() || (before.is_drained() && before.check(servers).is_ok());
        if delivered || servers.mutation == Some(Mutation::SendHistoryAtOnce) {
            let producer = &mut self.producers[self.active];
            self.history.drain(..).for_each(|event| producer.send(HISTORY, Content::Event(event)));
        }
    }

    fn begin_to_end(&mut self, servers: &Servers) {
        let between = self.inside.is_none() || servers.mutation == Some(Mutation::SplitSourceTransactions);
        let settled = self.committing.is_empty() || servers.mutation == Some(Mutation::CommitOutOfTurn);
        if self.opened && between && settled && !self.ending {
            self.ending = true;
            (0..PARTITIONS).for_each(|partition| self.producers[1 - self.active].send(partition, Content::Enlist));
        }
    }

    fn end_turn(&mut self, servers: &Servers, random: &mut SmallRng) -> Result<(), Ended> {
        self.note_commits()?;
        self.check(servers)?;
        let settled = self.committing.is_empty() || servers.mutation == Some(Mutation::CommitOutOfTurn);
        let delivered =
            self.producers[self.active].may_rest() || servers.mutation == Some(Mutation::EndTurnsBeforeDelivery);
        if settled && delivered {
            self.send_history(servers);
            let record = Content::Progress(Rc::new(self.progress.clone()));
            self.producers[self.active].send(PROGRESS, record);
            let eagerness = random.random_range(0.02..1.0);
            let committing = Committing { producer: self.active, bound: self.progress.bound, eagerness, outcome: None };
            self.committing.push(committing);
            self.active = 1 - self.active;
            // The next one is open since it enlisted its partitions.
            self.ending = false;
        }
        Ok(())
    }

    fn look_around(&mut self, servers: &mut Servers, random: &mut SmallRng) -> Result<(), Ended> {
        self.check(servers)?;
        self.note_commits()?;
        if !servers.source.is_connected(self.connection) && random.random_bool(0.5) {
            return Err(Ended::Disconnected);
        }
        let durable = match servers.mutation {
            Some(Mutation::AcknowledgeBeforeCommit) if self.inside.is_none() => self.progress.bound,
            Some(Mutation::AcknowledgeBeforeCommit) => return Ok(()),
            _ => self.committed,
        };
        assert!(self.acknowledged <= durable.lsn(), "an acknowledgement goes back");
        if !servers.fails(random, 0.1) {
            servers.acknowledge(self.connection, durable.lsn());
        }
        self.acknowledged = durable.lsn();
        Ok(())
    }

    fn check(&self, servers: &Servers) -> Result<(), Ended> {
        self.producers[self.active].check(servers)
    }

    fn note_commits(&mut self) -> Result<(), Ended> {
        while let Some(at) = self.committing.iter().position(|committing| committing.outcome.is_some()) {
            let done = self.committing.remove(at);
            match done.outcome {
                Some(Outcome::Committed) => self.committed = self.committed.max(done.bound),
                Some(Outcome::Fenced) => return Err(Ended::Fenced),
                Some(Outcome::Unknown) | None => return Err(Ended::Failed),
            }
        }
        Ok(())
    }

    /// The client delivers the oldest record of some partition.
    fn deliver(&mut self, servers: &mut Servers, random: &mut SmallRng) {
        let first = random.random_range(0..2 * ALL);
        let places = (0..2 * ALL).map(|at| (first + at) % (2 * ALL));
        let mut places = places.map(|at| (at % 2, at / 2));
        if let Some((producer, partition)) = places.find(|(producer, at)| self.producers[*producer].can_deliver(*at)) {
            self.producers[producer].deliver(partition, servers, random);
        }
    }

    /// The thread that commits asks, and asks again where the answer is lost.
    fn commit(&mut self, servers: &mut Servers, random: &mut SmallRng) {
        if self.committing.is_empty() {
            return;
        }
        let at = random.random_range(0..self.committing.len());
        let committing = &mut self.committing[at];
        let producer = &self.producers[committing.producer];
        if let Err(ended) = producer.check(servers) {
            committing.outcome = Some(if matches!(ended, Ended::Fenced) { Outcome::Fenced } else { Outcome::Unknown });
        }
        if committing.outcome.is_some() || !producer.is_drained() || !random.random_bool(committing.eagerness) {
            return;
        }
        let lost = servers.fails(random, 0.2);
        let arrives = !lost || random.random_bool(0.5);
        let answer = arrives.then(|| servers.broker.commit(producer.ticket));
        committing.outcome = match answer {
            Some(Ok(())) if !lost => Some(Outcome::Committed),
            Some(Err(Refused::Fenced)) if !lost => Some(Outcome::Fenced),
            // It is given up after a while.
            _ if servers.fails(random, 0.3) => Some(Outcome::Unknown),
            _ => None,
        };
    }

    /// Leaves behind what was on its way to the brokers when the process died.
    pub(super) fn die(self, servers: &mut Servers, random: &mut SmallRng) {
        for (number, producer) in self.producers.into_iter().enumerate() {
            let committing = self.committing.iter().any(|c| c.producer == number && c.outcome.is_none());
            // Nothing is committed of which a record was given up.
            let commits = committing && producer.is_drained() && producer.check(servers).is_ok();
            let commits = commits && random.random_bool(0.5);
            servers.in_flight.push(producer.into_flight(commits, random));
        }
    }

    /// Tells whether everything up to `end` is committed and acknowledged.
    pub(super) fn is_done(&self, end: u64) -> bool {
        self.committing.is_empty() && self.committed.lsn() >= end && self.acknowledged >= end
    }
}
