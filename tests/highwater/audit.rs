//! The audit log on a real PostgreSQL: rows and progress in one transaction, nothing double, nothing that can be rewritten.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater::config::Document;
use highwater::deliver::{Batch, Fault, Item, Partition, Whence, Worker as _};
use highwater::events::envelope::Envelope;
use highwater::workers::audit::{Settings, Worker};
use highwater_demo::{Endpoints, schema};
use highwater_kafka::Record;
use tokio_postgres::Client;

use crate::stack;

/// A database of one test, with the schema and a worker's settings.
struct Shop {
    client: Client,
    settings: Settings,
    audit_url: String,
}

impl Shop {
    async fn new() -> Self {
        let variables = stack::SHARED.with(&["primary"]);
        let name = stack::fresh("audit").replace('-', "_");
        let in_new = |url: &str| format!("{}/{name}", url.rsplit_once('/').unwrap().0);
        let admin = Endpoints::connect(&variables["ADMIN_DATABASE"]).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let mut client = Endpoints::connect(&in_new(&variables["ADMIN_DATABASE"])).await.unwrap();
        schema::apply(&mut client).await.unwrap();
        schema::set_passwords(&client, &variables["HIGHWATER_PASSWORD"]).await.unwrap();
        let url = in_new(&variables["HIGHWATER_AUDIT_DATABASE"]);
        let environment =
            BTreeMap::from([("HIGHWATER_AUDIT_PASSWORD".to_owned(), variables["HIGHWATER_PASSWORD"].clone())]);
        let document = Document::parse("test.toml", &format!("[audit]\ndatabase = \"{url}\""), environment);
        let mut section = document.section("audit");
        let settings = Settings::read(&mut section);
        section.finish();
        document.finish().unwrap();
        let audit_url = url.replacen('@', &format!(":{}@", variables["HIGHWATER_PASSWORD"]), 1);
        Self { client, settings, audit_url }
    }

    fn worker(&self) -> Worker {
        Worker::new(&self.settings).unwrap()
    }

    async fn count(&self, from: &str) -> i64 {
        self.client.query_one(&format!("SELECT count(*) FROM {from}"), &[]).await.unwrap().get(0)
    }
}

fn partition() -> Partition {
    Partition { topic: Arc::from("catalog.history"), index: 0 }
}

/// An event of the history as its record.
fn record(offset: i64, day: &str, new: &str) -> Record {
    let position = format!("00000001-{:016X}-00000000", offset + 1);
    let event = format!(
        r#"{{"specversion":"1.0","id":"{position}/history","source":"/highwater/shop","type":"history.insert",
        "time":"{day}T10:00:00.123456Z","position":"{position}","xid":"7","last":true,
        "data":{{"table":"parts","key":{{"id":{offset}}},"old":null,"new":{new},"context":{{"user_id":5}},"total":1}}}}"#
    );
    Record {
        topic: Arc::from("catalog.history"),
        partition: 0,
        offset,
        timestamp_ms: None,
        key: format!("parts/{offset}").into(),
        value: Some(event.into()),
        headers: Vec::new(),
    }
}

fn records(offsets: std::ops::Range<i64>) -> Vec<Record> {
    offsets.map(|offset| record(offset, "2026-11-21", r#"{"id":1,"part_name":"a"}"#)).collect()
}

async fn apply(worker: &mut Worker, records: &[Record]) -> Result<(), Fault> {
    let partition = partition();
    let items: Vec<Item<'_>> = records
        .iter()
        .map(|record| Item { record, event: record.value.as_deref().map(|bytes| Envelope::parse(bytes).unwrap()) })
        .collect();
    let next_offset = records.last().map_or(0, |record| record.offset + 1);
    let batches = [Batch { partition: &partition, items: &items, next_offset }];
    worker.apply(&batches).await.remove(0)
}

#[tokio::test]
async fn rows_and_progress_move_in_one_transaction_and_a_restart_goes_on_behind_them() {
    let shop = Shop::new().await;
    let mut worker = shop.worker();
    assert_eq!(worker.resume(&partition(), 0).await.unwrap().whence, Whence::Beginning);
    apply(&mut worker, &records(0..3)).await.unwrap();
    apply(&mut worker, &records(3..5)).await.unwrap();

    assert_eq!(shop.count("data_change_logs").await, 5);
    let row = shop
        .client
        .query_one(
            "SELECT table_name, record_id, operation, new_values ->> 'part_name', changed_by, attributed,
                           changed_at = '2026-11-21 10:00:00.123456+00' FROM data_change_logs WHERE record_id = '4'",
            &[],
        )
        .await
        .unwrap();
    let texts: Vec<String> = (0..5).map(|column| row.get(column)).collect();
    assert_eq!(texts, ["parts", "4", "INSERT", "a", "5"]);
    assert!(row.get::<_, bool>(5) && row.get::<_, bool>(6));

    let resume = shop.worker().resume(&partition(), 5).await.unwrap();
    assert_eq!(resume.whence, Whence::Offset(5));
    assert_eq!(resume.newest.map(|newest| newest.lsn), Some(5));
}

#[tokio::test]
async fn of_two_workers_one_appends_and_the_other_goes_on_where_it_stands() {
    let shop = Shop::new().await;
    let (mut first, mut second) = (shop.worker(), shop.worker());
    first.resume(&partition(), 0).await.unwrap();
    second.resume(&partition(), 0).await.unwrap();
    let together = records(0..4);
    let outcomes = tokio::join!(apply(&mut first, &together), apply(&mut second, &together));
    let applied = [&outcomes.0, &outcomes.1].iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(applied, 1, "{outcomes:?}");
    assert!([outcomes.0, outcomes.1].contains(&Err(Fault::Rewind)));
    assert_eq!(shop.count("data_change_logs").await, 4);
}

#[tokio::test]
async fn a_log_that_stands_beside_an_older_progress_gets_no_row_twice() {
    let shop = Shop::new().await;
    let mut worker = shop.worker();
    worker.resume(&partition(), 0).await.unwrap();
    apply(&mut worker, &records(0..3)).await.unwrap();
    shop.client.batch_execute("UPDATE highwater.audit_progress SET next_offset = 1").await.unwrap();
    assert_eq!(apply(&mut worker, &records(3..4)).await, Err(Fault::Rewind));
    assert_eq!(worker.resume(&partition(), 0).await.unwrap().whence, Whence::Offset(1));
    apply(&mut worker, &records(1..5)).await.unwrap();
    assert_eq!(shop.count("data_change_logs").await, 5);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_replaced_and_nothing_is_lost_or_doubled() {
    let shop = Shop::new().await;
    let mut worker = shop.worker();
    worker.resume(&partition(), 0).await.unwrap();
    apply(&mut worker, &records(0..2)).await.unwrap();
    let cut = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
               WHERE usename = 'highwater_audit' AND datname = current_database()";
    assert_eq!(shop.client.query_one(cut, &[]).await.unwrap().get::<_, i64>(0), 1);
    let lost = apply(&mut worker, &records(2..4)).await;
    assert!(matches!(lost, Err(Fault::Transient(_))), "{lost:?}");
    apply(&mut worker, &records(2..4)).await.unwrap();
    assert_eq!(shop.count("data_change_logs").await, 4);
}

#[tokio::test]
async fn a_value_that_jsonb_cannot_hold_is_kept_as_text_beside_its_neighbours() {
    let shop = Shop::new().await;
    let mut worker = shop.worker();
    worker.resume(&partition(), 0).await.unwrap();
    let hostile = r#"{"id":1,"settings":{"nul":"\u0000","huge":1e999999}}"#;
    let mut batch = records(0..3);
    batch[1] = record(1, "2026-11-21", hostile);
    apply(&mut worker, &batch).await.unwrap();
    let kept = shop
        .client
        .query_one("SELECT new_values #>> '{}' FROM data_change_logs WHERE record_id = '1'", &[])
        .await
        .unwrap();
    assert_eq!(kept.get::<_, String>(0), hostile);
    assert_eq!(shop.count("data_change_logs WHERE jsonb_typeof(new_values) = 'object'").await, 2);
}

#[tokio::test]
async fn a_change_of_another_day_finds_its_partition() {
    let shop = Shop::new().await;
    let mut worker = shop.worker();
    worker.resume(&partition(), 0).await.unwrap();
    let batch = [record(0, "2019-02-28", r#"{"id":0}"#), record(1, "2031-12-31", r#"{"id":1}"#)];
    apply(&mut worker, &batch).await.unwrap();
    assert_eq!(shop.count("highwater.data_change_logs_20190228").await, 1);
    assert_eq!(shop.count("highwater.data_change_logs_20311231").await, 1);
    let ahead = "(SELECT 1 WHERE to_regclass(format('highwater.data_change_logs_%s',
                 to_char((now() AT TIME ZONE 'UTC')::date + 2, 'YYYYMMDD'))) IS NOT NULL) AS made";
    assert_eq!(shop.count(ahead).await, 1);
}

#[tokio::test]
async fn the_role_that_appends_can_neither_read_nor_rewrite_the_log() {
    let shop = Shop::new().await;
    let mut worker = shop.worker();
    worker.resume(&partition(), 0).await.unwrap();
    apply(&mut worker, &records(0..1)).await.unwrap();
    let role = Endpoints::connect(&shop.audit_url).await.unwrap();
    for forbidden in [
        "UPDATE data_change_logs SET changed_by = 'nobody'",
        "DELETE FROM data_change_logs",
        "TRUNCATE data_change_logs",
        "SELECT new_values FROM data_change_logs",
        "DROP TABLE highwater.data_change_logs_20261121",
        "SELECT * FROM parts",
    ] {
        let error = role.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42501"), "{forbidden}: {error}");
    }
}
