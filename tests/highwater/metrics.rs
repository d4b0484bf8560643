//! What METRICS.md says is what the code measures: every name in the one stands in the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::ahead::{UPDATE, Waiting};
use crate::process::{Pipeline, get};
use crate::shop::{Shop, eventually, within_a_minute};
use crate::stack::{SHOPS, root};

/// Kind of metric by name, as the code's macros name them.
fn in_the_code(folder: &Path, found: &mut BTreeMap<String, &'static str>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            in_the_code(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            for kind in ["counter", "gauge", "histogram"] {
                for (at, call) in text.match_indices(&format!("{kind}!(")) {
                    let behind = &text[at + call.len()..];
                    let name = behind.trim_start().strip_prefix('"').and_then(|name| name.split_once('"'));
                    let (name, _) =
                        name.unwrap_or_else(|| panic!("{}: a {kind} without a literal name", path.display()));
                    let other = found.insert(name.to_owned(), kind);
                    assert!(other.is_none_or(|other| other == kind), "{name} is {kind} and {other:?}");
                }
            }
        }
    }
}

/// The rows of the table: name and kind, and whether every cell says something.
fn in_the_table() -> BTreeMap<String, String> {
    let path = root().join("docs/METRICS.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "name, type, unit, labels, meaning, alarm: {line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {line}");
        let name = cells[0].trim_matches('`').to_owned();
        assert!(rows.insert(name.clone(), cells[1].to_owned()).is_none(), "{name} stands there twice");
    }
    rows
}

#[test]
fn every_metric_of_the_code_stands_in_the_table_with_its_type_and_the_other_way_round() {
    let mut code = BTreeMap::new();
    in_the_code(&root().join("src"), &mut code);
    in_the_code(&root().join("connectors"), &mut code);
    assert!(code.len() > 20, "the search finds what there is: {code:?}");
    let table = in_the_table();
    let of_code: BTreeSet<&String> = code.keys().collect();
    let of_table: BTreeSet<&String> = table.keys().collect();
    assert_eq!(of_code, of_table, "left: the code, right: docs/METRICS.md");
    for (name, kind) in &code {
        assert_eq!(table[name], *kind, "{name}");
    }
}

/// Returns the value of a metric without labels; `None` while there is none.
async fn value(address: &str, name: &str) -> Option<f64> {
    let text = get(address, "/metrics").await?;
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_measured_also_by_a_capture_that_stands_by() {
    let shop = Shop::open("metrics_slot", 10).await;
    let mut first = shop.pipeline(&["capture"]).await;
    let operate = shop.endpoints.variables["HIGHWATER_OPERATE_LISTEN"].clone();
    eventually("the slot is measured", async || value(&operate, "highwater_slot_active").await == Some(1.0)).await;
    assert_eq!(value(&operate, "highwater_capture_sessions_started_total").await, Some(1.0));
    assert!(first.terminate().success());

    // Somebody else holds the slot, and reads nothing.
    let variables = shop.variables_beside();
    let operate = variables["HIGHWATER_OPERATE_LISTEN"].clone();
    let holder = shop.pipeline(&["capture"]).await;
    let standby = Pipeline::start_with(&shop, &["capture"], &variables);
    eventually("the one that stands by measures", async || {
        value(&operate, "highwater_slot_measured_timestamp_seconds").await.is_some()
            && value(&operate, "highwater_slot_retained_bytes").await.is_some()
    })
    .await;
    // What the one at work acknowledges has passed every stage.
    caught_up(&operate).await;
    eventually("it says why it has no session", async || {
        let metrics = get(&operate, "/metrics").await.unwrap_or_default();
        metrics.contains("highwater_capture_sessions_ended_total{reason=\"slot_busy\"}")
    })
    .await;
    holder.kill();
    drop(standby);
    shop.close().await;
}

/// Returns the value of a metric with one label; `None` while there is none.
async fn labelled(address: &str, name: &str, label: &str) -> Option<f64> {
    let text = get(address, "/metrics").await?;
    let start = format!("{name}{{{label}}} ");
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

/// How far a stage is behind: bytes and seconds; `None` while that is not told.
async fn lag(address: &str, stage: &str) -> Option<(f64, f64)> {
    let label = format!("stage=\"{stage}\"");
    let bytes = labelled(address, "highwater_capture_lag_bytes", &label).await?;
    Some((bytes, labelled(address, "highwater_capture_lag_seconds", &label).await?))
}

/// Whether every one of these stages is behind by so much at least.
async fn all_behind(address: &str, stages: &[&str], bytes: f64, seconds: f64) -> bool {
    for stage in stages {
        if !lag(address, stage).await.is_some_and(|behind| behind.0 >= bytes && behind.1 >= seconds) {
            return false;
        }
    }
    true
}

async fn caught_up(address: &str) {
    for stage in ["read", "visible", "sent", "delivered", "committed"] {
        eventually(&format!("{stage} has caught up"), async || lag(address, stage).await == Some((0.0, 0.0))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_primary_does_not_show_is_behind_at_visible_for_as_long() {
    let shop = Shop::open("metrics_visible", 10).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let operate = shop.endpoints.variables["HIGHWATER_OPERATE_LISTEN"].clone();
    caught_up(&operate).await;
    let waiting = Waiting::begin(&shop, UPDATE).await;
    let seen = within_a_minute(async || {
        let (Some((read, _)), Some((visible, _))) = (lag(&operate, "read").await, lag(&operate, "visible").await)
        else {
            return false;
        };
        visible > read && all_behind(&operate, &["visible", "sent", "delivered", "committed"], 1.0, 5.0).await
    })
    .await;
    // First of all the setting goes: the other tests share the server.
    waiting.end(&shop).await;
    let metrics = get(&operate, "/metrics").await.unwrap_or_default();
    assert!(seen, "the commit is read, and nothing behind that moves: {metrics}");
    caught_up(&operate).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_hangs_nothing_more_is_delivered_or_committed_and_the_lag_says_so() {
    let shop = Shop::open("metrics_hang", 10).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let operate = shop.endpoints.variables["HIGHWATER_OPERATE_LISTEN"].clone();
    caught_up(&operate).await;
    SHOPS.signal("kafka", "STOP");
    let updated = shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 77").await;
    let seen = within_a_minute(async || all_behind(&operate, &["delivered", "committed"], 1.0, 5.0).await).await;
    SHOPS.signal("kafka", "CONT");
    updated.expect("an update");
    let metrics = get(&operate, "/metrics").await.unwrap_or_default();
    assert!(seen, "both stages stand still: {metrics}");
    caught_up(&operate).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_session_works_every_stage_is_behind_by_all_that_is_written() {
    const WRITTEN: u32 = 8_000_000;
    let shop = Shop::open("metrics_away", 10).await;
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ANSWER_TIMEOUT_S".to_owned(), "3".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    let operate = variables["HIGHWATER_OPERATE_LISTEN"].clone();
    caught_up(&operate).await;
    SHOPS.signal("kafka", "STOP");
    let updated = shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 77").await;
    let ended = async || pipeline.metric("highwater_capture_sessions_ended_total", "kafka").await > 0.0;
    let ended = within_a_minute(ended).await;
    let write = format!("SELECT pg_logical_emit_message(true, 'unrelated', repeat('x', {WRITTEN}))");
    let written = shop.admin.batch_execute(&write).await;
    let stages = ["read", "visible", "sent", "delivered", "committed"];
    let seen = within_a_minute(async || all_behind(&operate, &stages, f64::from(WRITTEN), 5.0).await).await;
    SHOPS.signal("kafka", "CONT");
    updated.and(written).expect("the server writes");
    let metrics = get(&operate, "/metrics").await.unwrap_or_default();
    assert!(ended && seen, "the session has ended ({ended}), and every stage stands still: {metrics}");
    caught_up(&operate).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_measured_at_every_stage_and_the_lag_goes_back_to_nothing() {
    let shop = Shop::open("metrics_stages", 10).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let operate = shop.endpoints.variables["HIGHWATER_OPERATE_LISTEN"].clone();
    for stock in 0..20 {
        let sql = format!("UPDATE stock_levels SET current_stock = {stock} + 1 WHERE part_id = 1");
        shop.admin.batch_execute(&sql).await.expect("an update");
    }
    for (stage, least) in [("read", 20.0), ("visible", 20.0), ("sent", 20.0), ("delivered", 1.0), ("committed", 1.0)] {
        let label = format!("stage=\"{stage}\"");
        eventually(stage, async || {
            let count = labelled(&operate, "highwater_capture_stage_seconds_count", &label).await;
            count.is_some_and(|count| count >= least)
        })
        .await;
        let seconds = labelled(&operate, "highwater_capture_stage_seconds_sum", &label).await.expect("a sum");
        assert!((0.0..60.0).contains(&seconds), "{stage}: {seconds} s");
    }
    caught_up(&operate).await;
    eventually("nothing waits", async || {
        value(&operate, "highwater_capture_in_flight_records").await == Some(0.0)
            && value(&operate, "highwater_capture_undecoded_bytes").await == Some(0.0)
    })
    .await;
    for name in ["highwater_capture_keepalives_total", "highwater_capture_acknowledgements_total"] {
        assert!(value(&operate, name).await.is_some_and(|count| count > 0.0), "{name}");
    }
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
