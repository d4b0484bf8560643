//! A capture process: opens sessions in the order of `session`, over the real decision how to start.

use std::time::Instant;

use rand::Rng;
use rand::rngs::SmallRng;

use super::broker::Ticket;
use super::session::Session;
use super::{Mutation, Servers};
use crate::capture::progress::Progress;
use crate::capture::start::{Lost, Serving, SlotState, Start, decide_start};
use crate::position::Bound;

/// What a process is at.
pub(super) enum Process {
    /// Between two sessions, or dead.
    Idle,
    Opening(Box<Opening>),
    Running(Box<Session>),
}

/// The steps of a start; between any two of them the world moves on.
#[derive(Clone, Copy, Debug)]
enum Step {
    Decide,
    FenceForGap,
    DecideAgain,
    MakeSlot,
    TakeSlot,
    Fence(usize),
    ReadProgress,
}

pub(super) struct Opening {
    next: Step,
    slot_bound: Option<Bound>,
    /// The connection that holds the slot, and the first commit that is sent to it.
    taken: Option<(u32, usize)>,
    tickets: Vec<Ticket>,
    /// Read before the slot was taken.
    before: Option<Progress>,
}

impl Process {
    /// Begins a session.
    pub(super) fn start() -> Self {
        let next = Step::Decide;
        Self::Opening(Box::new(Opening { next, slot_bound: None, taken: None, tickets: Vec::new(), before: None }))
    }

    /// Does one thing; what ends a session is followed by a new one.
    pub(super) fn step(&mut self, servers: &mut Servers, random: &mut SmallRng, now: Instant) {
        match self {
            Self::Idle => {
                if random.random_bool(0.3) {
                    *self = Self::start();
                }
            }
            Self::Opening(opening) => {
                let taken = opening.taken;
                match opening.step(servers) {
                    Ok(None) => {}
                    Ok(Some((progress, tickets))) => {
                        let (connection, first) = taken.expect("the slot was taken first");
                        *self = Self::Running(Box::new(Session::new(connection, first, tickets, progress, now)));
                    }
                    Err(()) => self.die(servers, random),
                }
            }
            Self::Running(session) => {
                if let Err(ended) = session.step(servers, random, now) {
                    servers.note(|| format!("a session ends: {ended:?}"));
                    self.die(servers, random);
                }
            }
        }
    }

    /// Dies as by kill -9: the server hears of it, the brokers may still get what was on its way.
    pub(super) fn die(&mut self, servers: &mut Servers, random: &mut SmallRng) {
        match std::mem::replace(self, Self::Idle) {
            Self::Idle => {}
            Self::Opening(opening) => opening.taken.iter().for_each(|taken| servers.source.disconnect(taken.0)),
            Self::Running(session) => {
                servers.source.disconnect(session.connection);
                session.die(servers, random);
            }
        }
    }

    /// Tells whether it runs and has nothing left to do.
    pub(super) fn is_done(&self, end: u64) -> bool {
        matches!(self, Self::Running(session) if session.is_done(end))
    }
}

impl Opening {
    /// Returns what a session starts with, once it may publish.
    fn step(&mut self, servers: &mut Servers) -> Result<Option<(Progress, [Ticket; 2])>, ()> {
        servers.note(|| format!("a start: {:?}", self.next));
        match self.next {
            Step::Decide => {
                self.before = servers.read_progress();
                self.next = match self.decide(servers)? {
                    Ok(start) => self.with(&start),
                    Err(Lost::Gap { .. }) => Step::FenceForGap,
                    Err(lost) => return servers.refused(&lost),
                };
            }
            Step::FenceForGap => {
                servers.broker.init(0);
                servers.broker.init(1);
                self.next = Step::DecideAgain;
            }
            Step::DecideAgain => {
                self.before = servers.read_progress();
                self.next = match self.decide(servers)? {
                    Ok(start) => self.with(&start),
                    Err(lost) => return servers.refused(&lost),
                };
            }
            Step::MakeSlot => {
                if servers.source.slot.is_some() {
                    return Err(());
                }
                self.slot_bound = Some(servers.make_slot());
                self.next = Step::TakeSlot;
            }
            Step::TakeSlot => {
                self.taken = Some(servers.source.take_slot().ok_or(())?);
                self.next = Step::Fence(0);
            }
            Step::Fence(id) => {
                let spared = id == 1 && servers.mutation == Some(Mutation::FenceOneIdOnly);
                let ticket = if spared { servers.broker.ticket(id) } else { servers.broker.init(id) };
                self.tickets.push(ticket);
                self.next = if id == 0 { Step::Fence(1) } else { Step::ReadProgress };
            }
            Step::ReadProgress => {
                let early = servers.mutation == Some(Mutation::ReadProgressBeforeFence);
                let read = if early { self.before.take() } else { servers.read_progress() };
                let beginning = |bound| Progress::beginning(super::SYSTEM.to_owned(), bound, 1);
                let progress = read.or_else(|| self.slot_bound.map(beginning)).ok_or(())?;
                return Ok(Some((progress, [self.tickets[0], self.tickets[1]])));
            }
        }
        Ok(None)
    }

    fn with(&mut self, start: &Start) -> Step {
        match start {
            Start::Fresh => Step::MakeSlot,
            Start::AtSlot(bound) => {
                self.slot_bound = Some(*bound);
                Step::TakeSlot
            }
            Start::Resume(_) => Step::TakeSlot,
        }
    }

    /// Decides as the real start does; fails where another capture holds the slot.
    fn decide(&self, servers: &Servers) -> Result<Result<Start, Lost>, ()> {
        let slot = match servers.source.slot {
            Some(slot) if slot.holder.is_some() => return Err(()),
            Some(slot) => SlotState::At(Bound::at_lsn(1, slot.confirmed)),
            None => SlotState::Missing,
        };
        let from = Serving { slot: "slot", server: "server", system: super::SYSTEM, timeline: 1 };
        Ok(decide_start(from, "progress", slot, self.before.clone()))
    }
}
