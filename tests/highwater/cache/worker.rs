//! The cache worker behind the delivery loop, and the replay.

use std::time::{Duration, Instant};

use highwater::config::Document;
use highwater::deliver::{Stopped, deliver};
use highwater::operate::replay::replay;
use highwater::running::{Readiness, Shutdown};
use highwater::workers::cache::{CacheWorker, Plan, Settings};
use highwater_redis::{Cache, Lookup, Reading, Stamp};
use tokio::task::JoinHandle;

use super::log::{Log, position};
use super::server::Server;

const SOON: Duration = Duration::from_secs(20);
/// How often an idle log gets its marks.
const IDLE: Duration = Duration::from_millis(200);

/// A worker at work.
struct Running {
    stop: Shutdown,
    task: JoinHandle<Result<(), Stopped>>,
}

impl Running {
    async fn drain(self) {
        self.stop.cancel();
        self.task.await.expect("the worker does not panic").expect("the worker drains");
    }
}

fn settings(server: &Server) -> Settings {
    let text = format!("[cache]\nserver = \"{}\"", server.options().server);
    let document = Document::parse("test", &text, std::collections::BTreeMap::new());
    let settings = Settings::read(&mut document.section("cache"), &[]);
    document.finish().expect("right settings");
    settings
}

async fn start(server: &Server, log: &Log) -> Running {
    let settings = settings(server);
    let cache = Cache::connect(&settings.options()).await.expect("the cache connects");
    let feed = log.feed();
    let stop = Shutdown::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut worker = CacheWorker::new(cache, Plan::new(settings.rules));
        deliver(&mut worker, &feed, &stopped, &Readiness::of(["cache"]).role("cache")).await
    });
    Running { stop, task }
}

/// Polls a part's stock until the cache answers as expected. `token` says how fresh it has to be. As capture does, marks go
/// on in an idle log.
async fn until_stock(server: &Server, log: &mut Log, part: u64, token: Option<u64>, expected: Option<u64>) {
    let cache = server.cache().await;
    let key = format!("part:{part}:stock");
    let partition = format!("{}/0", log.topics.state(highwater::events::mapping::spec::Family::Stock));
    let reading = Reading { key: &key, groups: &["event:stock"], partitions: &[&partition] };
    let token: Option<Stamp> = token.map(|lsn| position(lsn).parse().expect("a position"));
    let expected = expected.map(|stock| format!(r#"{{"part_id":{part},"current_stock":{stock}}}"#));
    let (mut marked, until) = (Instant::now(), Instant::now() + SOON);
    loop {
        let found = cache.get(&reading, token).await.expect("the cache answers");
        let value = match &found {
            Lookup::Hit { entry, .. } => Some(String::from_utf8(entry.value.clone()).expect("JSON")),
            Lookup::Miss { .. } => None,
            Lookup::Unready => Some("unready".to_owned()),
        };
        if value == expected {
            return;
        }
        assert!(Instant::now() < until, "{key} stays {found:?}; expected {expected:?}");
        if marked.elapsed() > IDLE {
            log.mark(true);
            marked = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_write_invalidate_and_fence_and_marks_meet_tokens() {
    let (server, mut log) = (Server::start(&[]).await, Log::new("events").await);
    let worker = start(&server, &log).await;
    log.stock(42, 5);
    log.stock(42, 6);
    log.stock(43, 1);
    log.mark(true);
    let token = Some(log.last() + 8);
    until_stock(&server, &mut log, 42, token, Some(6)).await;
    let fence: String = server.run(&["GET", "highwater:fence:parts:list"]).await;
    assert_eq!(fence, position(log.last()));

    log.commit("stock.deleted", "stock", "", r#"{"part_id":42}"#);
    log.mark(true);
    let token = Some(log.last() + 8);
    until_stock(&server, &mut log, 42, token, None).await;
    let token = Some(log.last() + 8);
    until_stock(&server, &mut log, 43, token, Some(1)).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncation_makes_every_entry_of_its_event_stale() {
    let (server, mut log) = (Server::start(&[]).await, Log::new("truncation").await);
    let worker = start(&server, &log).await;
    log.stock(42, 5);
    log.mark(true);
    until_stock(&server, &mut log, 42, None, Some(5)).await;
    let at = position(log.last() + 8);
    let truncated = format!(
        r#"{{"specversion":"1.0","id":"{at}/stock/0","source":"/highwater/shop","type":"catalog.truncated","time":"2026-11-21T10:00:00.000000Z","position":"{at}","entity":"truncate/stock_levels","data":{{"table":"stock_levels"}}}}"#
    );
    log.write(&[("stock", &truncated)]);
    until_stock(&server, &mut log, 42, None, None).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_cache_serves_nothing_until_it_is_where_it_was() {
    let (server, mut log) = (Server::start(&[]).await, Log::new("emptied").await);
    let worker = start(&server, &log).await;
    for stock in 0..50 {
        log.stock(42, stock);
        log.mark(true);
    }
    until_stock(&server, &mut log, 42, None, Some(49)).await;
    // The next mark of the idle log brings it to light.
    server.run::<()>(&["FLUSHALL"]).await;
    let cache = server.cache().await;
    let partition = format!("{}.stock/0", log.topics.prefix);
    let reading = Reading { key: "part:42:stock", groups: &[], partitions: &[&partition] };
    let (mut marked, until) = (Instant::now(), Instant::now() + SOON);
    loop {
        if marked.elapsed() > IDLE {
            log.mark(true);
            marked = Instant::now();
        }
        match cache.get(&reading, None).await.expect("the cache answers") {
            Lookup::Unready => assert!(Instant::now() < until, "the cache stays empty"),
            Lookup::Hit { entry, .. } => {
                assert_eq!(entry.value, br#"{"part_id":42,"current_stock":49}"#, "the log's past was served");
                break;
            }
            Lookup::Miss { .. } => panic!("a mark before the newest value"),
        }
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_killed_under_load_ends_equal_to_the_log() {
    let durable = ["--appendonly", "yes", "--appendfsync", "no"];
    let (mut server, mut log) = (Server::start(&durable).await, Log::new("killed").await);
    let worker = start(&server, &log).await;
    for round in 0..3 {
        for part in 0..20 {
            log.stock(part, round);
            if part == 10 {
                server.kill();
                server.start_again().await;
            }
        }
    }
    log.mark(true);
    for part in 0..20 {
        let token = Some(log.last() + 8);
        until_stock(&server, &mut log, part, token, Some(2)).await;
    }
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_started_again_goes_on_behind_what_is_applied() {
    let (server, mut log) = (Server::start(&[]).await, Log::new("restart").await);
    let worker = start(&server, &log).await;
    log.stock(42, 1);
    log.mark(true);
    let token = Some(log.last());
    until_stock(&server, &mut log, 42, token, Some(1)).await;
    worker.drain().await;
    // Were it read again, it would be written again.
    server.run::<()>(&["DEL", "part:42:stock"]).await;
    log.stock(43, 2);
    let worker = start(&server, &log).await;
    until_stock(&server, &mut log, 43, None, Some(2)).await;
    until_stock(&server, &mut log, 42, None, None).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_fills_an_emptied_cache_ends_by_itself_and_leaves_the_progress_alone() {
    let (server, mut log) = (Server::start(&[]).await, Log::new("replay").await);
    for part in 0..30 {
        log.stock(part, 1);
        log.stock(part, 2);
    }
    log.commit("price.updated", "price", "parts:list", r#"{"part_id":7}"#);
    log.write(&[("content", "garbage")]);
    log.mark(true);
    let summary = replay(&log.topics, &settings(&server), |_| ()).await.expect("the replay ends");
    // 30 stock entries, one of prices, and the list.
    let did = (summary.events, summary.names, summary.written, summary.refused);
    assert_eq!(did, (61, 32, 30, 1), "{summary}");
    let value: String = server.run(&["HGET", "part:29:stock", "v"]).await;
    assert_eq!(value, r#"{"part_id":29,"current_stock":2}"#);
    let progress: Vec<String> = server.run(&["KEYS", "highwater:progress:*"]).await;
    assert_eq!(progress, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_beside_a_live_worker_never_brings_the_past_back() {
    let (server, mut log) = (Server::start(&[]).await, Log::new("beside").await);
    let worker = start(&server, &log).await;
    for stock in 0..40 {
        log.stock(42, stock);
    }
    log.mark(true);
    let token = Some(log.last());
    until_stock(&server, &mut log, 42, token, Some(39)).await;
    let (topics, settings) = (log.topics.clone(), settings(&server));
    let replaying = tokio::spawn(async move { replay(&topics, &settings, |_| ()).await });
    for stock in 40..80 {
        log.stock(42, stock);
    }
    log.mark(true);
    let token = Some(log.last());
    until_stock(&server, &mut log, 42, token, Some(79)).await;
    let summary = replaying.await.expect("no panic").expect("the replay ends");
    assert!(summary.events >= 40, "{summary}");
    let token = Some(log.last());
    until_stock(&server, &mut log, 42, token, Some(79)).await;
    worker.drain().await;
}
