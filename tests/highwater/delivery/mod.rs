//! The delivery loop on a real broker: what a worker is given, and what becomes of each fault.

mod lost_client;
mod source;
mod witness;

use std::time::Duration;

use highwater::deliver::{Fault, Resume, Whence};
use highwater_kafka::{Connection, Isolation, last_record};

use source::Source;
use witness::{Seen, Witness};

use crate::stack;

const TIMEOUT: Duration = Duration::from_secs(20);

fn connection() -> Connection {
    Connection::new(&stack::SHARED.with(&["kafka"])["HIGHWATER_TOPICS_BROKERS"], "delivery-tests")
}

fn events(range: std::ops::Range<u64>) -> Vec<Seen> {
    range.map(Seen::event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_aborted_transaction_left_is_given_once_and_in_order() {
    let source = Source::new(&connection(), 1).await;
    let mut first = source.producer();
    source.commit(&mut first, |s| s.events(0..5));
    source.abort(&mut first, |s| s.events(5..8));
    let mut second = source.producer();
    // It starts from committed progress, and has more to say.
    source.commit(&mut second, |s| s.events(5..10));

    let mut witness = Witness::default();
    let seen = witness.run_until(&source, |seen| seen.len() == 10).await;
    assert_eq!(seen, events(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_fault_brings_the_same_batch_again_and_other_partitions_go_on() {
    let source = Source::new(&connection(), 2).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..3));
    source.commit(&mut producer, |s| s.in_partition(1).events(10..13));

    let mut witness = Witness::default();
    witness.fault(0, Fault::Transient("down".to_owned()));
    witness.fault(0, Fault::Transient("still down".to_owned()));
    let seen = witness.run_until(&source, |seen| seen.len() == 6).await;
    assert_eq!(seen, [events(10..13), events(0..3)].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letters_with_its_bytes_and_the_rest_goes_on() {
    let connection = connection();
    let source = Source::new(&connection, 1).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..4));

    let mut witness = Witness::default();
    witness.fault(0, Fault::Poison { offset: 2, reason: "cannot be".to_owned() });
    let seen = witness.run_until(&source, |seen| seen.len() == 3).await;
    assert_eq!(seen, [events(0..2), events(3..4)].concat());

    let letter = last_record(&connection, source.dead_letters(), 0, Isolation::ReadCommitted, TIMEOUT).await;
    let letter = letter.expect("an answer").expect("a dead letter");
    assert_eq!(letter.value.as_deref(), Some(source::event(2).as_bytes()));
    let header = |name| letter.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    assert_eq!(header("reason").as_deref(), Some("cannot be"));
    assert_eq!(header("worker").as_deref(), Some("witness"));
    assert_eq!(header("topic").as_deref(), Some(source.topic()));
    assert_eq!(header("offset").as_deref(), Some("2"));
    assert_eq!(header("content-type").as_deref(), Some("application/cloudevents+json; charset=UTF-8"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_event_goes_to_the_dead_letters_and_the_offset_passes_it() {
    let connection = connection();
    let source = Source::new(&connection, 1).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..2));
    source.commit(&mut producer, |s| s.raw("{\"not\":\"an event\"}"));

    let mut witness = Witness::default();
    // Two events, a marker, the record at offset 3.
    witness.run_until_offset(&source, 4).await;
    let letter = last_record(&connection, source.dead_letters(), 0, Isolation::ReadCommitted, TIMEOUT).await;
    assert_eq!(
        letter.expect("an answer").expect("a dead letter").value.as_deref(),
        Some(&b"{\"not\":\"an event\"}"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_reads_again_from_where_the_worker_stands() {
    let source = Source::new(&connection(), 1).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..6));

    let mut witness = Witness::default();
    let seen = witness.run_until(&source, |seen| seen.len() == 6).await;
    assert_eq!(seen, events(0..6));
    // Its copy is restored from a backup that held the first two.
    witness.restore(Resume { whence: Whence::Offset(2), newest: Some(source::at(1)) });
    witness.fault(0, Fault::Rewind);
    source.commit(&mut producer, |s| s.events(6..8));
    let seen = witness.run_until(&source, |seen| seen.len() == 6).await;
    assert_eq!(seen, events(2..8));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_kafka_no_longer_holds_stops_the_worker() {
    let source = Source::new(&connection(), 1).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..2));
    let mut witness = Witness::default();
    witness.restore(Resume { whence: Whence::Offset(900), newest: None });
    let stopped = witness.run_to_its_end(&source).await.expect_err("nothing to go on from");
    assert!(stopped.to_string().contains("should go on at offset 900"), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_at_rest_is_passed_to_its_end_so_that_deleted_records_are_not_missed() {
    let source = Source::new(&connection(), 1).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..2));
    source.abort(&mut producer, |s| s.events(2..3));
    // Two events, a marker, an event that was aborted, a marker.
    let mut witness = Witness::default();
    witness.run_until_offset(&source, 5).await;
    assert_eq!(witness.seen(), events(0..3), "the tail is read once more, and nothing is given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_older_than_the_compaction_lag_is_named_and_not_resumed() {
    let mut source = Source::new(&connection(), 1).await;
    source.compaction_lag = Duration::ZERO;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..2));
    let mut witness = Witness::default();
    witness.needs_deletes("empty it");
    witness.restore(Resume { whence: Whence::Offset(1), newest: None });
    let stopped = witness.run_to_its_end(&source).await.expect_err("a record may be gone");
    assert!(stopped.to_string().contains("compaction lag") && stopped.to_string().contains("empty it"), "{stopped}");
    // All is applied: nothing stands behind the marker.
    witness.restore(Resume { whence: Whence::Offset(3), newest: None });
    witness.stop();
    witness.run_to_its_end(&source).await.expect("drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_fault_stops_the_worker_and_says_why() {
    let source = Source::new(&connection(), 1).await;
    let mut producer = source.producer();
    source.commit(&mut producer, |s| s.events(0..2));
    let mut witness = Witness::default();
    witness.fault(0, Fault::Fatal("the table is gone".to_owned()));
    let stopped = witness.run_to_its_end(&source).await.expect_err("fatal");
    assert!(stopped.to_string().contains("the table is gone"), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_drains() {
    let source = Source::new(&connection(), 1).await;
    let mut witness = Witness::default();
    witness.stop();
    witness.run_to_its_end(&source).await.expect("drained");
}
