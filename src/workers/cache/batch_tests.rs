//! How records become calls.

use super::*;
use crate::workers::cache::plan::{Fed, Rule};
use crate::workers::cache::template::Template;

fn at(lsn: u64) -> Stamp {
    format!("00000001-{lsn:016X}-00000000").parse().unwrap()
}

fn plan() -> Plan {
    Plan::new(vec![Rule { key: Template::parse("part:{part_id}").unwrap(), fed: Fed::Written("part".into()) }])
}

fn event(lsn: u64, verb: &str, part: u64) -> String {
    format!(
        r#"{{"id":"{at}/part","source":"s","type":"content.{verb}","time":"2026-11-21T10:00:00.000000Z","position":"{at}",
            "data":{{"part_id":{part}}}}}"#,
        at = at(lsn)
    )
}

fn mark(lsn: u64, complete: bool) -> String {
    format!(
        r#"{{"id":"m","source":"s","type":"mark","time":"2026-11-21T10:00:00.000000Z","position":"{}","count":"0","complete":{complete}}}"#,
        at(lsn)
    )
}

fn parse(values: &[String]) -> Vec<Envelope<'_>> {
    values.iter().map(|value| Envelope::parse(value.as_bytes()).unwrap()).collect()
}

/// Every third offset holds a record: in a compacted topic they are not dense.
fn incoming<'a>(events: &'a [Envelope<'a>]) -> Vec<Incoming<'a>> {
    (0..).step_by(3).zip(events).map(|(offset, event)| Incoming { offset, event: Some(event) }).collect()
}

#[test]
fn a_batch_moves_the_progress_to_its_end_and_its_newest_complete_mark() {
    let values = [event(10, "updated", 1), mark(20, true), event(30, "snapshot", 2), mark(15, true), mark(40, false)];
    let events = parse(&values);
    let (calls, poison) = divide(&plan(), None, 0, &incoming(&events), 0);
    assert_eq!((calls.len(), poison), (1, None));
    let to = Progress { offset: 13, mark: Some(at(20)), newest: Some(at(30)), ahead: false };
    assert_eq!((calls[0].to, calls[0].events, calls[0].changes.len()), (to, 2, 2));
    assert_eq!(calls[0].times.len(), 1, "the time of a snapshot row is no commit's");
}

#[test]
fn marks_below_the_offset_that_an_emptied_cache_must_reach_are_ignored() {
    let values = [mark(10, true), event(11, "updated", 1), mark(12, true)];
    for (marks_from, expected) in [(0, Some(at(12))), (6, Some(at(12))), (7, None)] {
        let events = parse(&values);
        let (calls, _) = divide(&plan(), None, marks_from, &incoming(&events), 0);
        assert_eq!(calls[0].to.mark, expected, "{marks_from}");
    }
}

#[test]
fn a_batch_is_ahead_of_the_primary_from_an_event_that_says_so_up_to_a_mark_that_does_not() {
    let ahead = |value: String| value.replacen(r#""id""#, r#""ahead":true,"id""#, 1);
    let to = |from, values: &[String]| {
        let from = Progress { offset: 0, mark: Some(at(1)), newest: None, ahead: from };
        divide(&plan(), Some(from), 0, &incoming(&parse(values)), 0).0[0].to.ahead
    };
    assert!(to(false, &[mark(2, true), ahead(event(3, "updated", 1)), event(4, "updated", 1)]));
    assert!(to(false, &[ahead(mark(2, false))]), "also while the snapshot is not complete");
    assert!(to(true, &[event(3, "updated", 1)]), "only a mark speaks of what stands before it");
    assert!(!to(true, &[ahead(event(3, "updated", 1)), mark(4, false)]));
}

#[test]
fn a_tombstone_moves_the_offset_alone() {
    let before = Progress { offset: 4, mark: Some(at(1)), newest: Some(at(2)), ahead: false };
    let (calls, _) = divide(&plan(), Some(before), 0, &[Incoming { offset: 9, event: None }], 10);
    assert_eq!((calls.len(), calls[0].to), (1, Progress { offset: 10, ..before }));
}

#[test]
fn records_that_nobody_needs_move_the_offset_and_nothing_else_makes_a_call() {
    let before = Progress { offset: 4, mark: Some(at(1)), newest: Some(at(2)), ahead: false };
    let (calls, _) = divide(&plan(), Some(before), 0, &[], 7);
    assert_eq!((calls.len(), calls[0].to), (1, Progress { offset: 7, ..before }));
    let values = [mark(20, true)];
    let events = parse(&values);
    let records = [Incoming { offset: 5, event: events.first() }];
    assert_eq!(divide(&plan(), Some(before), 0, &records, 9).0[0].to.offset, 9);
    assert!(divide(&plan(), Some(before), 0, &[], 4).0.is_empty());
}

#[test]
fn what_stands_before_a_record_that_cannot_be_applied_is_applied() {
    let no_object = event(20, "updated", 1).replace("{\"part_id\":1}", "7");
    let values = [event(10, "updated", 1), no_object, event(30, "updated", 2)];
    let events = parse(&values);
    let (calls, poison) = divide(&plan(), None, 0, &incoming(&events), 0);
    let reason = "the event's data is no JSON object".to_owned();
    assert_eq!((calls.len(), calls[0].to.offset, poison), (1, 1, Some(Poison { offset: 3, reason })));
}

#[test]
fn a_long_batch_is_divided_so_that_redis_serves_others_in_between() {
    let count = MOST_CHANGES as u64 + 10;
    let values: Vec<String> = (0..count).map(|i| event(i + 1, "updated", i)).collect();
    let events = parse(&values);
    let (calls, _) = divide(&plan(), None, 0, &incoming(&events), 0);
    assert_eq!(calls.iter().map(|call| call.changes.len()).collect::<Vec<_>>(), [MOST_CHANGES, 10]);
    assert_eq!(calls[0].to.newest, Some(at(MOST_CHANGES as u64)));
    assert_eq!(calls[1].to.offset, (count - 1) * 3 + 1);
}

#[test]
fn records_of_several_partitions_are_all_replayed_whatever_their_offsets() {
    let values: Vec<String> = (0..=MOST_CHANGES as u64).map(|i| event(i + 1, "updated", i)).collect();
    let events = parse(&values);
    let mut records = incoming(&events);
    records.reverse();
    let changes = changes_of(&plan(), &records);
    assert_eq!((changes.events, changes.passed), (values.len() as u64, values.len()));
    assert_eq!(changes.calls.iter().map(Vec::len).sum::<usize>(), values.len());
}
