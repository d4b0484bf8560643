//! A part of a snapshot on its way from being asked for to being published.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use highwater_postgres::KeptRows;

use super::overtaken::{Overtaken, Place, Touched};
use super::pass::{Advance, Pass};
use super::reader::Read;
use super::vanished::{Found, Search, Vanished};
use crate::capture::error::Error;
use crate::capture::progress::TableSnapshot;
use crate::events::draft::{Draft, Topic};
use crate::position::Bound;

/// A chunk, or the search for what vanished, on its way.
pub(super) struct Piece {
    pub(super) number: u64,
    pub(super) pass: Arc<Pass>,
    pub(super) advance: Option<Advance>,
    pub(super) state: State,
}

pub(super) enum State {
    Reading {
        overtaken: Overtaken,
    },
    Read {
        overtaken: Overtaken,
        read: Read,
    },
    /// Until the stream reaches `high`.
    Waiting {
        overtaken: Overtaken,
        read: Read,
        high: u64,
    },
    /// Until everything below `behind` is committed.
    Unsearched {
        touched: Touched,
        since: Bound,
        behind: u64,
    },
    Searching {
        touched: Touched,
        since: Bound,
        answer: Receiver<Result<Found, highwater_kafka::Error>>,
    },
    Found {
        touched: Touched,
        since: Bound,
        found: Found,
    },
    /// Until the stream reaches `high`.
    Deleting {
        touched: Touched,
        since: Bound,
        found: Found,
        high: u64,
    },
}

/// What has to be published now.
pub(in crate::capture) struct Ready {
    pub(in crate::capture) pass: Arc<Pass>,
    /// Its exclusive bound.
    pub(in crate::capture) high: u64,
    pub(in crate::capture) content: Content,
    /// How far the table is afterwards.
    pub(in crate::capture) progress: TableSnapshot,
}

/// Rows or deletions, with those of them that are old by now.
pub(in crate::capture) enum Content {
    Rows(KeptRows, Overtaken),
    Vanished(Vec<Vanished>),
}

/// What a piece has to know of the stream.
enum Seen<'a> {
    Rows(&'a mut Overtaken),
    Entities(&'a mut Touched),
}

impl Piece {
    pub(super) fn step(&mut self, next: impl FnOnce(State) -> State) {
        self.state = next(std::mem::take(&mut self.state));
    }

    /// Makes it wait for a bound of its own again.
    pub(super) fn lose_bound(&mut self) {
        self.step(|state| match state {
            State::Waiting { overtaken, read, .. } => State::Read { overtaken, read },
            State::Deleting { touched, since, found, .. } => State::Found { touched, since, found },
            other => other,
        });
    }

    /// Takes note that the stream published these events, of these rows of the table.
    pub(super) fn overtake(&mut self, places: &[Place], events: &[Draft]) {
        match self.state.seen() {
            Seen::Rows(overtaken) => places.iter().for_each(|place| overtaken.add(place)),
            Seen::Entities(touched) => {
                let states = events.iter().filter(|event| event.topic != Topic::History);
                states.for_each(|event| touched.add(&event.key));
            }
        }
    }

    /// Takes note that the stream emptied the table.
    pub(super) fn overtake_all(&mut self) {
        match self.state.seen() {
            Seen::Rows(overtaken) => overtaken.add_all(),
            Seen::Entities(touched) => touched.add_all(),
        }
    }

    /// Begins the search for what vanished once everything before it is committed, and takes what it found.
    pub(super) fn search(
        &mut self,
        committed: Bound,
        of: impl FnOnce(&Arc<Pass>, Bound) -> Search,
    ) -> Result<(), Error> {
        self.state = match std::mem::take(&mut self.state) {
            State::Unsearched { touched, since, behind } if committed.lsn() >= behind => {
                let answer = of(&self.pass, since).start();
                let answer = answer
                    .map_err(|error| Error::Unexpected(format!("could not start the snapshot's thread: {error}")))?;
                State::Searching { touched, since, answer }
            }
            State::Searching { touched, since, answer } => match answer.try_recv() {
                Ok(found) => State::Found { touched, since, found: found? },
                Err(TryRecvError::Empty) => State::Searching { touched, since, answer },
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::Unexpected("the search for vanished rows ended without an answer".to_owned()));
                }
            },
            other => other,
        };
        Ok(())
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Reading { overtaken: Overtaken::default() }
    }
}

impl State {
    fn seen(&mut self) -> Seen<'_> {
        match self {
            Self::Reading { overtaken } | Self::Read { overtaken, .. } | Self::Waiting { overtaken, .. } => {
                Seen::Rows(overtaken)
            }
            Self::Unsearched { touched, .. }
            | Self::Searching { touched, .. }
            | Self::Found { touched, .. }
            | Self::Deleting { touched, .. } => Seen::Entities(touched),
        }
    }
}
