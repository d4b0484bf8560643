//! What METRICS.md says is what the code measures: every name in the one stands in the other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::process::{Pipeline, get};
use crate::shop::{Shop, eventually};
use crate::stack::root;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_measured_at_every_stage_and_the_lag_goes_back_to_nothing() {
    let shop = Shop::open("metrics_stages", 10).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let operate = shop.endpoints.variables["HIGHWATER_OPERATE_LISTEN"].clone();
    for stock in 0..20 {
        let sql = format!("UPDATE stock_levels SET current_stock = {stock} + 1 WHERE part_id = 1");
        shop.admin.batch_execute(&sql).await.expect("an update");
    }
    for (stage, least) in [("read", 20.0), ("visible", 20.0), ("sent", 20.0), ("delivered", 1.0)] {
        let label = format!("stage=\"{stage}\"");
        eventually(stage, async || {
            let count = labelled(&operate, "highwater_capture_stage_seconds_count", &label).await;
            count.is_some_and(|count| count >= least)
        })
        .await;
        let seconds = labelled(&operate, "highwater_capture_stage_seconds_sum", &label).await.expect("a sum");
        assert!((0.0..60.0).contains(&seconds), "{stage}: {seconds} s");
    }
    eventually("every stage has caught up", async || {
        let mut behind = 0.0;
        for stage in ["read", "sent", "delivered", "committed"] {
            let label = format!("stage=\"{stage}\"");
            behind += labelled(&operate, "highwater_capture_lag_bytes", &label).await.unwrap_or(f64::MAX);
        }
        behind == 0.0 && value(&operate, "highwater_capture_in_flight_records").await == Some(0.0)
    })
    .await;
    for name in ["highwater_capture_keepalives_total", "highwater_capture_acknowledgements_total"] {
        assert!(value(&operate, name).await.is_some_and(|count| count > 0.0), "{name}");
    }
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
