//! A source and a Kafka of a few hundred lines, so that the real decisions of progress, resuming, marks and readers can be
//! driven through any number of random histories: crashes, kills, processes that were stopped and wake up, refusals,
//! duplicates, delays. The protocol around them ("slot, fence, read progress, publish", two producers that take turns) is
//! modelled after `session`, `stream`, `publisher` and `AlternatingProducer`, whose own code is I/O; what the model leaves
//! out is tested on real servers.
//!
//! `HIGHWATER_SEED` replays one history, with its story; `HIGHWATER_HISTORIES` asks for another number of them.

mod broker;
mod process;
mod producer;
mod readers;
mod session;
mod source;

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::progress::Progress;
use super::start::Lost;
use crate::position::Bound;
use broker::Broker;
use process::Process;
use producer::InFlight;
use source::Source;

/// State partitions: one of each family.
const PARTITIONS: usize = 3;
/// Behind them, where the history of all changes stands.
const HISTORY: usize = PARTITIONS;
/// Behind it, where the progress stands.
const PROGRESS: usize = HISTORY + 1;
/// All partitions.
const ALL: usize = PROGRESS + 1;
const SYSTEM: &str = "7";
/// How many histories run where nobody asks for more.
const HISTORIES: u64 = 5_000;

/// A protocol that is wrong in one point, to show that the simulation would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    ReadProgressBeforeFence,
    FenceOneIdOnly,
    AcknowledgeBeforeCommit,
    EndTurnsBeforeDelivery,
    CommitOutOfTurn,
    IgnoreFailedDeliveries,
    TakeRecordsBehindAGap,
    SplitSourceTransactions,
    SendHistoryAtOnce,
}

/// Everything that outlives a process.
struct Servers {
    source: Source,
    broker: Broker,
    /// Requests of producers that are gone.
    in_flight: Vec<InFlight>,
    mutation: Option<Mutation>,
    /// Nothing fails any more: the history comes to its end.
    calm: bool,
    /// Where the slot was made.
    began: Option<Bound>,
    violation: Option<String>,
    /// What happened, where somebody wants to read it.
    story: Option<Vec<String>>,
}

impl Servers {
    fn fails(&self, random: &mut SmallRng, chance: f64) -> bool {
        !self.calm && random.random_bool(chance)
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(what());
        }
    }

    fn read_progress(&self) -> Option<Progress> {
        self.broker.committed_progress().map(|progress| (*progress).clone())
    }

    fn make_slot(&mut self) -> Bound {
        let bound = self.source.make_slot();
        *self.began.get_or_insert(bound)
    }

    /// The slot is acknowledged; never past what is committed for certain.
    fn acknowledge(&mut self, connection: u32, lsn: u64) {
        let before = self.source.slot.map_or(0, |slot| slot.confirmed);
        self.source.acknowledge(connection, lsn);
        let confirmed = self.source.slot.map_or(0, |slot| slot.confirmed);
        if confirmed > before && confirmed > self.broker.durable().lsn() {
            let durable = self.broker.durable();
            self.violation.get_or_insert(format!("the slot is acknowledged up to {confirmed}, committed is {durable}"));
        }
    }

    /// A start was refused, although nothing of the slot and nothing of Kafka was ever lost.
    fn refused<T>(&mut self, lost: &Lost) -> Result<T, ()> {
        self.violation.get_or_insert(format!("a start is refused: {lost}"));
        Err(())
    }
}

struct Capture {
    process: Process,
    /// Stopped (SIGSTOP); it may wake up long after its successor took over.
    stopped: bool,
}

struct World {
    servers: Servers,
    captures: [Capture; 2],
    random: SmallRng,
    now: Instant,
}

impl World {
    fn new(seed: u64, mutation: Option<Mutation>, tell: bool) -> Self {
        let servers = Servers {
            source: Source::new(),
            broker: Broker::default(),
            in_flight: Vec::new(),
            mutation,
            calm: false,
            began: None,
            violation: None,
            story: tell.then(Vec::new),
        };
        let captures = [(); 2].map(|()| Capture { process: Process::Idle, stopped: false });
        Self { servers, captures, random: SmallRng::seed_from_u64(seed), now: Instant::now() }
    }

    /// One thing happens, anywhere.
    fn step(&mut self) {
        let Self { servers, captures, random, now } = self;
        *now += Duration::from_millis(random.random_range(0..5));
        let capture = random.random_range(0..captures.len());
        let Capture { process, stopped } = &mut captures[capture];
        match random.random_range(0..100) {
            0..70 if !*stopped => process.step(servers, random, *now),
            0..70 => {}
            70..78 => {
                let id = random.random_range(0..2);
                servers.broker.write_marker(id, random.random_range(0..ALL));
            }
            78..82 => arrive(servers, random),
            _ if servers.calm => {}
            82..88 => servers.source.commit(random),
            88..90 => servers.source.other_work(),
            90..92 => servers.source.checkpoint(),
            92..94 => {
                servers.note(|| format!("process {capture} dies"));
                process.die(servers, random);
                *stopped = false;
            }
            94..96 => {
                servers.note(|| format!("process {capture} is stopped"));
                *stopped = true;
            }
            96 | 97 => {
                servers.note(|| format!("process {capture} wakes up"));
                *stopped = false;
            }
            98 => {
                servers.note(|| "the server gives the slot's reader up".to_owned());
                if let Some(holder) = servers.source.slot.and_then(|slot| slot.holder) {
                    servers.source.disconnect(holder);
                }
            }
            _ => {
                servers.note(|| "the server crashes".to_owned());
                servers.source.crash();
            }
        }
    }

    /// Lets everything come to its end: both processes live, and one of them publishes all.
    fn settle(&mut self) -> Result<(), String> {
        self.servers.calm = true;
        self.captures.iter_mut().for_each(|capture| capture.stopped = false);
        let end = self.servers.source.end;
        for _ in 0..20_000 {
            // In time, the last marks go out as well.
            for _ in 0..10 {
                self.step();
            }
            let done = self.captures.iter().any(|capture| capture.process.is_done(end));
            if done && self.servers.in_flight.is_empty() && self.servers.broker.is_settled() {
                return Ok(());
            }
        }
        Err("it does not come to its end".to_owned())
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.servers.violation.take() {
            return Err(violation);
        }
        let from = self.servers.began.map_or(u64::MAX, Bound::lsn);
        for partition in 0..=HISTORY {
            let expected = self.servers.source.expected(from, partition);
            let log = &self.servers.broker.logs[partition];
            readers::check(log, &expected, &mut self.random)
                .map_err(|what| format!("partition {partition}: {what}"))?;
        }
        Ok(())
    }
}

/// A request of a producer that is gone arrives, or is lost for ever.
fn arrive(servers: &mut Servers, random: &mut SmallRng) {
    if servers.in_flight.is_empty() {
        return;
    }
    let at = random.random_range(0..servers.in_flight.len());
    let mut flight = servers.in_flight.swap_remove(at);
    flight.arrive(servers, random);
    if !flight.is_over() && !random.random_bool(0.1) {
        servers.in_flight.push(flight);
    }
}

/// Runs one history; returns what is wrong with it, with its story if that is wanted.
fn history(seed: u64, mutation: Option<Mutation>, tell: bool) -> Result<(), String> {
    let mut world = World::new(seed, mutation, tell);
    for _ in 0..world.random.random_range(50..400) {
        world.step();
    }
    let outcome = world.settle().and_then(|()| world.check());
    outcome.map_err(|what| match world.servers.story {
        Some(story) => format!("{}\n{what}", story.join("\n")),
        None => what,
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn no_history_of_crashes_and_refusals_loses_or_doubles_an_event() {
    if let Some(seed) = number("HIGHWATER_SEED") {
        history(seed, None, true).unwrap_or_else(|what| panic!("HIGHWATER_SEED={seed}: {what}"));
        return;
    }
    let (first, histories) = (rand::random::<u32>().into(), number("HIGHWATER_HISTORIES").unwrap_or(HISTORIES));
    let began = Instant::now();
    for seed in first..first + histories {
        history(seed, None, false).unwrap_or_else(|what| panic!("HIGHWATER_SEED={seed} replays this: {what}"));
    }
    println!("{histories} histories from seed {first} in {:?}", began.elapsed());
}

/// Tells whether a wrong protocol is found out, and after how many histories.
fn finds(mutation: Mutation) {
    let found = (0..50_000).find_map(|seed| history(seed, Some(mutation), false).err().map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{mutation:?} is not found"));
    println!("{mutation:?} is found in history {seed}: {what}");
}

#[test]
fn the_simulation_finds_progress_that_is_read_before_the_fence() {
    finds(Mutation::ReadProgressBeforeFence);
}

#[test]
fn the_simulation_finds_a_fence_of_one_of_the_two_producers() {
    finds(Mutation::FenceOneIdOnly);
}

#[test]
fn the_simulation_finds_an_acknowledgement_before_the_commit() {
    finds(Mutation::AcknowledgeBeforeCommit);
}

#[test]
fn the_simulation_finds_a_turn_that_begins_before_the_records_of_the_last_are_delivered() {
    finds(Mutation::EndTurnsBeforeDelivery);
}

#[test]
fn the_simulation_finds_a_turn_that_ends_before_the_last_is_committed() {
    finds(Mutation::CommitOutOfTurn);
}

#[test]
fn the_simulation_finds_a_delivery_failure_that_is_ignored() {
    finds(Mutation::IgnoreFailedDeliveries);
}

#[test]
fn the_simulation_finds_a_broker_that_takes_records_behind_a_gap() {
    finds(Mutation::TakeRecordsBehindAGap);
}

#[test]
fn the_simulation_finds_a_kafka_transaction_that_ends_inside_a_source_transaction() {
    finds(Mutation::SplitSourceTransactions);
}

#[test]
fn the_simulation_finds_history_that_is_sent_before_that_of_the_last_turn_is_delivered() {
    finds(Mutation::SendHistoryAtOnce);
}
