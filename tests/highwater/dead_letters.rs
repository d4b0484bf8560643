//! `highwater dead-letters` on real servers: what is shown, and that a retry loses nothing and puts no older over newer.

use std::process::Output;

use highwater::deliver::{Batch, Fault, Feed, Partition, Resume, Whence, Worker, deliver};
use highwater::running::{Readiness, Shutdown};
use highwater_kafka::{Connection, Writer};
use serde_json::Value;

use crate::process::highwater;
use crate::shop::{Shop, eventually};
use crate::stack::Variables;

/// A worker of another's name that can apply nothing: all that it is given goes to the dead letters.
struct Refusing {
    name: &'static str,
    /// It stops after so many.
    most: usize,
    refused: usize,
    shutdown: Shutdown,
}

impl Worker for Refusing {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn resume(&mut self, _: &Partition, _: i64) -> Result<Resume, Fault> {
        Ok(Resume { whence: Whence::Beginning, newest: None })
    }

    async fn apply(&mut self, batches: &[Batch<'_>]) -> Vec<Result<(), Fault>> {
        batches.iter().map(|batch| self.refuse(batch)).collect()
    }
}

impl Refusing {
    fn refuse(&mut self, batch: &Batch<'_>) -> Result<(), Fault> {
        let is_change =
            |item: &&highwater::deliver::Item<'_>| item.event.as_ref().is_some_and(|event| !event.is_mark());
        let Some(item) = batch.items.iter().find(is_change) else {
            if self.refused >= self.most {
                self.shutdown.cancel();
            }
            return Ok(());
        };
        self.refused += 1;
        Err(Fault::Poison { offset: item.record.offset, reason: "not today".to_owned() })
    }

    /// Puts the first events of a topic into the dead letters.
    async fn bury(shop: &Shop, name: &'static str, topic: &str, most: usize) {
        let connection = Connection::new(&shop.endpoints.brokers, "dead-letter-tests");
        let feed = Feed::new(connection, vec![shop.endpoints.topic(topic)], shop.endpoints.topic("dead-letters"));
        let shutdown = Shutdown::new();
        let mut worker = Self { name, most, refused: 0, shutdown: shutdown.clone() };
        let standing = Readiness::of(["cache"]).role("cache");
        let run = deliver(&mut worker, &feed, &shutdown, &standing);
        tokio::time::timeout(std::time::Duration::from_mins(1), run).await.expect("in time").expect("drained");
        assert_eq!(worker.refused, most, "as many events as stand in the topic");
    }
}

/// Runs the command; returns its exit code and lines.
fn dead_letters(variables: &Variables, arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let output: Output = highwater(variables).arg("dead-letters").args(arguments).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code(), text.lines().map(str::to_owned).collect())
}

fn listed(variables: &Variables, arguments: &[&str]) -> Vec<Value> {
    let (code, lines) = dead_letters(variables, &[&["list", "--json"], arguments].concat());
    assert_eq!(code, Some(0), "{lines:?}");
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

async fn stock_in_cache(shop: &Shop, part: u32) -> Option<Value> {
    let value: Option<String> = redis::cmd("HGET")
        .arg(format!("part:{part}:stock"))
        .arg("v")
        .query_async(&mut shop.cache().await)
        .await
        .expect("Redis answers");
    value.map(|value| serde_json::from_str(&value).expect("an event's data"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_letter_reaches_the_cache_and_never_covers_what_is_newer() {
    let shop = Shop::open("letters_cache", 3).await;
    let variables = &shop.endpoints.variables;
    assert_eq!(listed(variables, &[]), Vec::<Value>::new(), "no topic, no letters");
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let rows: usize = shop.value("SELECT count(*) FROM stock_levels").await.parse().expect("a number");
    Refusing::bury(&shop, "cache", "stock", rows).await;
    shop.admin
        .batch_execute("UPDATE stock_levels SET current_stock = 4711 WHERE part_id = 1")
        .await
        .expect("an update");
    // It reads from the beginning, so that the snapshot's rows come again.
    Refusing::bury(&shop, "cache", "stock", rows + 1).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());

    let letters = listed(variables, &["--worker", "cache", "--payload"]);
    assert_eq!(letters.len(), 2 * rows + 1);
    let offsets: Vec<i64> = letters.iter().filter_map(|letter| letter["offset"].as_i64()).collect();
    assert!(offsets.is_sorted_by(|a, b| a > b), "newest first: {offsets:?}");
    let newest = letters.iter().find(|letter| letter["payload"].as_str().is_some_and(|event| event.contains("4711")));
    let newest = newest.expect("the update");
    assert_eq!(newest["record"]["topic"], shop.endpoints.topic("stock").as_str());
    assert_eq!((&newest["reason"], &newest["settled"]), (&Value::from("not today"), &Value::from(false)));
    assert_eq!(newest["position"].as_str().map(str::len), Some(34));
    assert!(
        listed(variables, &[]).iter().all(|letter| letter.get("payload").is_none()),
        "row data only where asked for"
    );
    assert_eq!(listed(variables, &["--worker", "audit"]), Vec::<Value>::new());

    // A retry that fails leaves everything as it was.
    let mut away = variables.clone();
    away.insert("HIGHWATER_CACHE_SERVER".to_owned(), "redis://127.0.0.1:1".to_owned());
    let offset = newest["offset"].to_string();
    let (code, lines) = dead_letters(&away, &["retry", "--offset", &offset]);
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines[0].contains("not done, the letter stays"), "{lines:?}");
    assert_eq!(listed(variables, &["--worker", "cache"]).len(), 2 * rows + 1);

    // The newest alone, then all: the snapshot's older row of the part does not cover it.
    let (code, lines) = dead_letters(variables, &["retry", "--offset", &offset]);
    assert_eq!((code, lines.last().map(String::as_str)), (Some(0), Some("1 of 1 done")), "{lines:?}");
    assert_eq!(stock_in_cache(&shop, 1).await.expect("an entry")["current_stock"], 4711);
    let (code, lines) = dead_letters(variables, &["retry", "--worker", "cache"]);
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("knew something newer, which stays")), "{lines:?}");
    for part in 1..=3 {
        let expected = shop.value(&format!("SELECT current_stock FROM stock_levels WHERE part_id = {part}")).await;
        let found = stock_in_cache(&shop, part).await.map(|stock| stock["current_stock"].to_string());
        assert_eq!(found.unwrap_or_default(), expected, "part {part}");
    }
    assert_eq!(listed(variables, &[]), Vec::<Value>::new(), "all are settled");
    assert!(listed(variables, &["--all"]).iter().all(|letter| letter["settled"] == true));
    // Once more changes nothing.
    assert_eq!(dead_letters(variables, &["retry", "--offset", &offset]).0, Some(0));
    assert_eq!(stock_in_cache(&shop, 1).await.expect("an entry")["current_stock"], 4711);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_letter_of_the_audit_log_stands_there_once_and_in_its_place() {
    let shop = Shop::open("letters_audit", 3).await;
    let variables = &shop.endpoints.variables;
    let mut pipeline = shop.pipeline(&["capture", "audit"]).await;
    for stock in [11, 12, 13] {
        let sql = format!("UPDATE stock_levels SET current_stock = {stock} WHERE part_id = 2");
        shop.admin.batch_execute(&sql).await.expect("an update");
    }
    let count = "SELECT count(*) FROM data_change_logs";
    eventually("the audit log has all", async || shop.value(count).await == "3").await;
    Refusing::bury(&shop, "audit", "history", 3).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());

    // As if the worker had passed the second by.
    let second = "new_values ->> 'current_stock' = '12'";
    shop.admin.batch_execute(&format!("DELETE FROM data_change_logs WHERE {second}")).await.expect("a gap");
    let progress = "SELECT string_agg(next_offset || ' ' || position, ',') FROM highwater.audit_progress";
    let before = shop.value(progress).await;
    let (code, lines) = dead_letters(variables, &["retry", "--all"]);
    assert_eq!(code, Some(0), "{lines:?}");
    let said = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("appended to the audit log"), said("stands in the audit log already")), (1, 2), "{lines:?}");
    let order = "SELECT string_agg(new_values ->> 'current_stock', ',' ORDER BY position) FROM data_change_logs";
    assert_eq!(shop.value(order).await, "11,12,13");
    assert_eq!(shop.value(progress).await, before, "the worker's progress stays");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_retried_is_refused_with_the_reason_and_stays_and_captures_table_is_read_again() {
    let shop = Shop::open("letters_refused", 3).await;
    let variables = &shop.endpoints.variables;
    let mut pipeline = shop.pipeline(&[]).await;
    // No event: cache and storefront bury it.
    let connection = Connection::new(&shop.endpoints.brokers, "dead-letter-tests");
    let writer = Writer::new(&connection).expect("a writer");
    let topic = shop.endpoints.topic("stock");
    let stray = writer.send(&topic, 0, b"stray", Some(b"no event"), &[]);
    stray.await.expect("a stray record");
    // Larger than a record may be: capture buries it.
    let large = "UPDATE parts SET description = repeat('x', 17000000) WHERE id = 1";
    shop.admin.batch_execute(large).await.expect("a large row");
    eventually("all three have buried something", async || {
        let letters = listed(variables, &[]);
        let workers: Vec<&str> = letters.iter().filter_map(|letter| letter["worker"].as_str()).collect();
        ["cache", "storefront", "capture"].iter().all(|worker| workers.contains(worker))
    })
    .await;
    let letters = listed(variables, &["--payload"]);
    let of = |worker: &str| letters.iter().find(|letter| letter["worker"] == worker).expect("a letter");
    assert_eq!(of("cache")["payload"], "no event");
    for (of, row) in [("row", "parts/1"), ("history", "parts/1")] {
        assert!(
            letters.iter().any(|letter| letter["worker"] == "capture" && letter[of] == row),
            "{of} {row}: {letters:?}"
        );
    }

    let (code, lines) = dead_letters(variables, &["retry", "--all"]);
    assert_eq!(code, Some(1), "{lines:?}");
    let reasons = [
        "is no event",
        "its table will be read again",
        "history is written once",
        "keeps no copy",
        "not done, the letter stays",
    ];
    for reason in reasons {
        assert!(lines.iter().any(|line| line.contains(reason)), "`{reason}` is not in {lines:?}");
    }
    assert!(lines.iter().all(|line| !line.contains(": applied")), "{lines:?}");
    for worker in ["cache", "storefront"] {
        let (before, now) =
            (listed(variables, &["--worker", worker, "--all"]), listed(variables, &["--worker", worker]));
        assert_eq!(before, now, "those of {worker} stay");
    }
    let last = letters.iter().filter_map(|letter| letter["offset"].as_i64()).max();
    eventually("the table was read again, and its row is still too large", async || {
        let buried = listed(variables, &["--worker", "capture"]);
        buried.iter().any(|letter| letter["offset"].as_i64() > last)
    })
    .await;
    let (code, lines) = dead_letters(variables, &["retry", "--offset", "99999"]);
    assert_eq!(code, Some(1), "{lines:?}");
    let (code, _) = dead_letters(variables, &["retry"]);
    assert_eq!(code, Some(2), "which ones has to be said");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
