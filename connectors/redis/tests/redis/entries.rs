//! The rules of fences, fills, tokens and progress, one by one.

use std::time::Duration;

use highwater_redis::{Applied, Cache, Change, Entry, Lookup, Outcome, Progress, Reading, Stamp};

use crate::clock::{at, stamp};
use crate::server::Server;

const READING: Reading<'static> = Reading { key: "k", groups: &[], partitions: &["p/0"] };
const IN_GROUP: Reading<'static> = Reading { key: "k", groups: &["g"], partitions: &["p/0", "p/1"] };

fn progress(offset: u64, mark: Stamp) -> Progress {
    Progress { offset, mark: Some(mark), newest: None, ahead: false }
}

fn write(value: &'static str, at: Stamp) -> Change<'static> {
    Change::Write { key: "k".into(), value: value.as_bytes(), at }
}

fn invalidate(at: Stamp) -> Change<'static> {
    Change::Invalidate { key: "k".into(), at }
}

fn fence(at: Stamp) -> Change<'static> {
    Change::Fence { group: "g".into(), at }
}

fn entry(value: &str, low: Stamp, high: Stamp) -> Entry {
    Entry { value: value.into(), low, high }
}

/// A cache whose partitions have marks at lsn 1, so that they are ready.
async fn ready(server: &Server) -> Cache {
    let cache = server.cache().await;
    for partition in ["p/0", "p/1"] {
        move_mark(&cache, partition, at(1)).await;
    }
    cache
}

async fn move_mark(cache: &Cache, partition: &str, mark: Stamp) {
    let from = cache.progress(partition).await.unwrap();
    let to = progress(from.map_or(0, |p| p.offset) + 1, mark);
    let applied = cache.apply(partition, from, to, &[]).await.unwrap();
    assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
}

/// Lets the worker of `p/0` read up to a change of another key.
async fn reads_up_to(cache: &Cache, lsn: u64, ahead: bool) {
    let from = cache.progress("p/0").await.unwrap();
    let offset = from.map_or(0, |p| p.offset) + 1;
    let to = Progress { newest: Some(at(lsn)), ahead, ..progress(offset, at(2)) };
    let applied = cache.apply("p/0", from, to, &[]).await.unwrap();
    assert!(matches!(applied, Applied::Done { progress, .. } if progress == to), "{applied:?}");
}

async fn served(cache: &Cache, reading: &Reading<'_>, token: Option<Stamp>) -> Option<String> {
    match cache.get(reading, token).await.unwrap() {
        Lookup::Hit { entry, .. } => Some(String::from_utf8(entry.value).unwrap()),
        Lookup::Miss { .. } | Lookup::Unready => None,
    }
}

#[tokio::test]
async fn older_never_overwrites_newer() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    let outcome = cache.replay(&[write("new", at(20)), write("old", at(10))]).await.unwrap();
    assert_eq!(outcome, Outcome { written: 1, older: 1, dropped: 0 });
    let hit = cache.get(&READING, None).await.unwrap();
    let bound = stamp(20, 1);
    assert_eq!(hit, Lookup::Hit { entry: entry("new", bound, bound), mark: at(1) });
}

#[tokio::test]
async fn an_invalidated_value_does_not_come_back() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    cache.replay(&[write("old", at(10)), invalidate(at(20)), write("old", at(10))]).await.unwrap();
    assert_eq!(served(&cache, &READING, None).await, None);
    // A fill that does not contain the change; at equal bounds it does not either.
    for low in [at(15), at(20)] {
        assert!(!cache.fill(&READING, &entry("stale", low, low), None).await.unwrap(), "{low}");
    }
    assert!(cache.fill(&READING, &entry("fresh", stamp(20, 1), at(21)), None).await.unwrap());
    assert_eq!(served(&cache, &READING, None).await.as_deref(), Some("fresh"));
}

#[tokio::test]
async fn a_value_that_contains_the_change_survives_its_invalidation() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    assert!(cache.fill(&READING, &entry("fresh", at(30), at(31)), None).await.unwrap());
    let outcome = cache.replay(&[invalidate(at(20))]).await.unwrap();
    assert_eq!((outcome.dropped, served(&cache, &READING, None).await.as_deref()), (0, Some("fresh")));
    // The write of an older change does not replace it either.
    cache.replay(&[write("old", at(25))]).await.unwrap();
    assert_eq!(served(&cache, &READING, None).await.as_deref(), Some("fresh"));
    let outcome = cache.replay(&[invalidate(at(30))]).await.unwrap();
    assert_eq!((outcome.dropped, served(&cache, &READING, None).await), (1, None));
}

#[tokio::test]
async fn a_fill_does_not_replace_a_value_at_least_as_new() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    assert!(cache.fill(&READING, &entry("first", at(30), at(31)), None).await.unwrap());
    assert!(!cache.fill(&READING, &entry("second", at(30), at(40)), None).await.unwrap());
    assert!(cache.fill(&READING, &entry("third", at(32), at(33)), None).await.unwrap());
    assert_eq!(served(&cache, &READING, None).await.as_deref(), Some("third"));
}

#[tokio::test]
async fn a_group_makes_all_its_entries_stale_at_once() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    cache.replay(&[write("value", at(10)), fence(at(10))]).await.unwrap();
    assert_eq!(served(&cache, &IN_GROUP, None).await.as_deref(), Some("value"));
    cache.replay(&[fence(at(12))]).await.unwrap();
    assert_eq!(served(&cache, &IN_GROUP, None).await, None);
    assert!(!cache.fill(&IN_GROUP, &entry("stale", at(12), at(12)), None).await.unwrap());
    assert_eq!(served(&cache, &READING, None).await.as_deref(), Some("value"), "who does not ask for the group");
}

#[tokio::test]
async fn what_was_seen_at_the_miss_is_the_bound_of_a_fill_from_the_primary() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    reads_up_to(&cache, 20, false).await;
    let Lookup::Miss { seen, mark } = cache.get(&READING, None).await.unwrap() else { panic!("a hit") };
    assert_eq!((seen, mark), (Some(stamp(20, 1)), at(2)));
    let seen = seen.expect("it is not ahead");
    // A change that arrives between the miss and the fill is not surely in the value.
    cache.replay(&[invalidate(at(21))]).await.unwrap();
    assert!(!cache.fill(&READING, &entry("stale", seen, at(30)), None).await.unwrap());
    let Lookup::Miss { seen, .. } = cache.get(&READING, None).await.unwrap() else { panic!("a hit") };
    assert_eq!(seen, Some(stamp(20, 1)), "what a replay brings before the partition is not seen yet");
    // What the partition has read of other keys is seen as well.
    reads_up_to(&cache, 25, false).await;
    let Lookup::Miss { seen, .. } = cache.get(&READING, None).await.unwrap() else { panic!("a hit") };
    assert_eq!(seen, Some(stamp(25, 1)));
    assert!(cache.fill(&READING, &entry("fresh", stamp(25, 1), at(30)), None).await.unwrap());
}

#[tokio::test]
async fn while_a_partition_is_ahead_of_the_primary_a_miss_names_no_bound_for_a_fill_from_it() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    let seen = async |reading: &Reading<'_>| match cache.get(reading, None).await.unwrap() {
        Lookup::Miss { seen, .. } => seen,
        answer => panic!("{answer:?}"),
    };
    reads_up_to(&cache, 20, true).await;
    assert!(cache.progress("p/0").await.unwrap().unwrap().ahead, "it is kept beside the data");
    assert_eq!(seen(&READING).await, None);
    assert_eq!(seen(&IN_GROUP).await, None, "one of its partitions is");
    // A replica tells by itself what its value contains.
    assert!(cache.fill(&READING, &entry("from a replica", at(22), at(22)), None).await.unwrap());
    assert_eq!(served(&cache, &READING, None).await.as_deref(), Some("from a replica"));
    cache.replay(&[invalidate(at(23))]).await.unwrap();
    reads_up_to(&cache, 24, false).await;
    assert_eq!(seen(&READING).await, Some(stamp(24, 1)));
}

#[tokio::test]
async fn a_token_is_met_by_the_value_or_by_the_least_mark_of_all_feeding_partitions() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    cache.replay(&[write("value", at(10))]).await.unwrap();
    assert!(served(&cache, &IN_GROUP, Some(stamp(10, 1))).await.is_some(), "its own bound");
    assert!(served(&cache, &IN_GROUP, Some(at(11))).await.is_none());
    move_mark(&cache, "p/0", at(50)).await;
    assert!(served(&cache, &IN_GROUP, Some(at(11))).await.is_none(), "the other partition may still bring a change");
    move_mark(&cache, "p/1", at(40)).await;
    assert!(served(&cache, &IN_GROUP, Some(at(40))).await.is_some());
    assert!(served(&cache, &IN_GROUP, Some(stamp(40, 1))).await.is_none());
}

#[tokio::test]
async fn without_a_mark_of_every_partition_nothing_is_served_or_filled() {
    let server = Server::start(&[]).await;
    let cache = server.cache().await;
    cache.replay(&[write("value", at(10))]).await.unwrap();
    assert_eq!(cache.get(&READING, None).await.unwrap(), Lookup::Unready);
    let unmarked = Progress { offset: 5, mark: None, newest: Some(at(10)), ahead: false };
    cache.apply("p/0", None, unmarked, &[]).await.unwrap();
    assert_eq!(cache.get(&READING, None).await.unwrap(), Lookup::Unready);
    assert!(!cache.fill(&READING, &entry("other", at(99), at(99)), None).await.unwrap());
    move_mark(&cache, "p/0", at(10)).await;
    assert!(served(&cache, &READING, None).await.is_some());
    assert_eq!(cache.get(&IN_GROUP, None).await.unwrap(), Lookup::Unready, "p/1 has none");
    let nobody = Reading { partitions: &[], ..READING };
    assert_eq!(cache.get(&nobody, None).await.unwrap(), Lookup::Unready);
}

#[tokio::test]
async fn a_batch_that_builds_on_another_state_changes_nothing() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    let stands = cache.progress("p/0").await.unwrap().unwrap();
    for from in [None, Some(progress(7, at(1))), Some(progress(1, at(2)))] {
        let applied = cache.apply("p/0", from, progress(8, at(9)), &[write("lost", at(5))]).await.unwrap();
        assert_eq!(applied, Applied::Elsewhere(Some(stands)));
    }
    assert_eq!(served(&cache, &READING, None).await, None);
    assert_eq!(cache.progress("p/0").await.unwrap(), Some(stands));
    let applied = cache.apply("new", Some(stands), progress(8, at(9)), &[]).await.unwrap();
    assert_eq!(applied, Applied::Elsewhere(None));
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_can_be_sent_again() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    let from = cache.progress("p/0").await.unwrap();
    let to = Progress { offset: 9, mark: Some(at(30)), newest: Some(at(29)), ahead: false };
    for written in [1, 0] {
        let applied = cache.apply("p/0", from, to, &[write("value", at(29))]).await.unwrap();
        let outcome = Outcome { written, ..Outcome::default() };
        assert_eq!(applied, Applied::Done { progress: to, outcome });
    }
}

#[tokio::test]
async fn a_mark_never_goes_back() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    move_mark(&cache, "p/0", at(50)).await;
    let from = cache.progress("p/0").await.unwrap();
    let to = Progress { offset: 9, mark: None, newest: Some(at(3)), ahead: false };
    let applied = cache.apply("p/0", from, to, &[]).await.unwrap();
    let progress = Progress { mark: Some(at(50)), ..to };
    assert_eq!(applied, Applied::Done { progress, outcome: Outcome::default() });
    assert_eq!(cache.progress("p/0").await.unwrap(), Some(progress));
}

#[tokio::test]
async fn a_fill_expires_and_a_write_over_it_does_not() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    let life = Some(Duration::from_mins(5));
    assert!(cache.fill(&READING, &entry("filled", at(5), at(5)), life).await.unwrap());
    let left: i64 = server.run(&["PTTL", "k"]).await;
    assert!((1..=300_000).contains(&left), "{left}");
    cache.replay(&[write("written", at(10))]).await.unwrap();
    assert_eq!(server.run::<i64>(&["PTTL", "k"]).await, -1);
    assert_eq!(server.run::<i64>(&["PTTL", "highwater:fence:k"]).await, -1);
    assert!(cache.fill(&READING, &entry("for ever", at(20), at(20)), Some(Duration::MAX)).await.unwrap());
}

#[tokio::test]
async fn what_another_program_left_at_a_key_is_never_served_and_gives_way() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    server.run::<()>(&["SET", "k", "foreign"]).await;
    assert_eq!(served(&cache, &READING, None).await, None);
    cache.replay(&[write("ours", at(10))]).await.unwrap();
    assert_eq!(served(&cache, &READING, None).await.as_deref(), Some("ours"));
    server.run::<()>(&["SET", "k", "foreign"]).await;
    cache.replay(&[invalidate(at(11))]).await.unwrap();
    assert_eq!(server.run::<i64>(&["EXISTS", "k"]).await, 0);
}

#[tokio::test]
async fn a_point_at_the_end_of_its_count_is_not_served_as_if_it_contained_itself() {
    let server = Server::start(&[]).await;
    let cache = ready(&server).await;
    cache.replay(&[write("value", stamp(10, u32::MAX))]).await.unwrap();
    assert_eq!(served(&cache, &READING, None).await, None);
}
