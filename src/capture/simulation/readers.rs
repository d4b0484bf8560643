//! What every reader must have seen in the end, whatever happened.

use rand::Rng;
use rand::rngs::SmallRng;

use super::broker::{Content, Record, Status};
use super::source::Event;
use crate::deliver::{Counted, NewerOnly};
use crate::position::Bound;

/// Compares what readers of a partition see with what the source committed.
pub(super) fn check(log: &[Record], expected: &[Event], random: &mut SmallRng) -> Result<(), String> {
    read_committed(log, expected).map_err(|what| format!("a read_committed reader {what}"))?;
    read_uncommitted(log, expected).map_err(|what| format!("a read_uncommitted reader {what}"))?;
    let middle = random.random_range(0..=log.len());
    one_that_begins_at(&log[middle..], expected)
        .map_err(|what| format!("a reader that begins at offset {middle} {what}"))?;
    one_that_resumes_at(log, middle, expected)
        .map_err(|what| format!("a reader that resumes at offset {middle} {what}"))
}

/// Each event once and in order; each mark tells the truth.
fn read_committed(log: &[Record], expected: &[Event]) -> Result<(), String> {
    let (mut seen, mut counted) = (Vec::new(), Counted::default());
    for record in log.iter().filter(|record| record.status == Status::Committed) {
        match record.content {
            Content::Event(event) => {
                seen.push(event);
                if event.live {
                    counted.event();
                }
            }
            Content::Mark { bound, count } => {
                is_true(bound, count, &seen, expected)?;
                if let Some(gap) = counted.mark(bound, count, true) {
                    return Err(format!("is told of a gap: {gap}"));
                }
            }
            Content::Enlist | Content::Progress(_) => {}
        }
    }
    same(&seen, expected)
}

/// The same through Highwater's own filter, also over what was never committed.
fn read_uncommitted(log: &[Record], expected: &[Event]) -> Result<(), String> {
    let mut reader = Reader::new(NewerOnly::default());
    for record in log {
        if let Some((bound, count)) = reader.take(record)? {
            is_true(bound, count, &reader.passed, expected)?;
        }
    }
    same(&reader.passed, expected)
}

/// From the first Position that passes on, none is missing. Of that one it may have missed some, and get them behind the
/// others when they are sent again: order is that of Positions.
fn one_that_begins_at(log: &[Record], expected: &[Event]) -> Result<(), String> {
    let mut reader = Reader::new(NewerOnly::default());
    for record in log {
        reader.take(record)?;
    }
    let Some(first) = reader.passed.first().map(|event| event.position) else { return Ok(()) };
    let (at_first, later): (Vec<Event>, Vec<Event>) = reader.passed.iter().partition(|event| event.position == first);
    if let Some(unknown) = at_first.iter().find(|event| !expected.contains(event)) {
        return Err(format!("sees {unknown:?}, which nobody committed"));
    }
    same(&later, &expected[expected.partition_point(|event| event.position <= first)..])
}

/// One that was stopped and goes on behind the newest Position that it applied: only what stands exactly there may come
/// once more.
fn one_that_resumes_at(log: &[Record], middle: usize, expected: &[Event]) -> Result<(), String> {
    let mut before = Reader::new(NewerOnly::default());
    for record in &log[..middle] {
        before.take(record)?;
    }
    let newest = before.newer.newest();
    let mut after = Reader::new(NewerOnly::behind(newest));
    for record in &log[middle..] {
        after.take(record)?;
    }
    let mut passed = before.passed;
    for event in after.passed {
        if Some(event.position) != newest || !passed.contains(&event) {
            passed.push(event);
        }
    }
    same(&passed, expected)
}

/// Highwater's own reader of one partition.
struct Reader {
    newer: NewerOnly,
    counted: Counted,
    passed: Vec<Event>,
}

impl Reader {
    fn new(newer: NewerOnly) -> Self {
        Self { newer, counted: Counted::default(), passed: Vec::new() }
    }

    /// Takes a record; returns a mark that passes.
    fn take(&mut self, record: &Record) -> Result<Option<(Bound, u64)>, String> {
        match record.content {
            Content::Event(event) => {
                if self.newer.event(event.position, event.id) {
                    self.passed.push(event);
                    if event.live {
                        self.counted.event();
                    }
                }
            }
            Content::Mark { bound, count } if self.newer.mark(bound) => {
                if let Some(gap) = self.counted.mark(bound, count, true) {
                    return Err(format!("is told of a gap: {gap}"));
                }
                return Ok(Some((bound, count)));
            }
            Content::Mark { .. } | Content::Enlist | Content::Progress(_) => {}
        }
        Ok(None)
    }
}

/// All that a mark contains stands before it, and its count is that of these events.
fn is_true(bound: Bound, count: u64, seen: &[Event], expected: &[Event]) -> Result<(), String> {
    let below = |events: &[Event]| events.iter().filter(|event| bound.contains(event.position)).count();
    if below(seen) != below(expected) {
        let (seen, expected) = (below(seen), below(expected));
        return Err(format!("has seen {seen} events at a mark that contains {expected}, {bound}"));
    }
    let live = expected.iter().filter(|event| event.live && bound.contains(event.position)).count() as u64;
    if live == count { Ok(()) } else { Err(format!("reads a mark with the count {count} where {live} were, {bound}")) }
}

fn same(seen: &[Event], expected: &[Event]) -> Result<(), String> {
    if seen == expected {
        return Ok(());
    }
    let show = |events: &[Event]| {
        let texts = events.iter().map(|event| format!("{}.{}/{}", event.position.lsn, event.position.seq, event.id));
        texts.collect::<Vec<_>>().join(" ")
    };
    Err(format!("sees [{}] where the source committed [{}]", show(seen), show(expected)))
}
