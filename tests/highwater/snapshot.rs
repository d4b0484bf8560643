//! Rows that stand in the tables already: read in chunks beside live writes, again where somebody asks for it or where changes
//! are missing, and deleted in the topics where they vanished unseen.

use std::time::{Duration, Instant};

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;
use highwater_demo::write::{self, Writers};
use tokio_postgres::error::SqlState;

use crate::compaction::compact;
use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually, size};
use crate::stack::Variables;

/// Only the newest state can be right: some changes never reached the topics.
pub(crate) const NEWEST: check::Options = check::Options {
    patience: Duration::from_mins(2),
    story: check::Story::Gap,
    audit: false,
    cache: true,
    compacted: false,
};

/// Small chunks, so that a small catalogue has many, and two readers at once.
fn in_small_chunks(shop: &Shop) -> Variables {
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_CHUNK_ROWS".to_owned(), "50".to_owned());
    variables.insert("HIGHWATER_CAPTURE_TRANSACTION_MS".to_owned(), "200".to_owned());
    variables
}

pub(crate) async fn is_right(shop: &Shop, options: &check::Options, log: &str) {
    let report = check::everything(&shop.endpoints, options).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{log}");
}

/// Deletes rows in such a way that the log does not tell.
async fn delete_unseen(shop: &Shop, statement: &str) {
    let unseen = format!(
        "ALTER PUBLICATION highwater SET (publish = 'insert, update, truncate'); {statement};
         ALTER PUBLICATION highwater SET (publish = 'insert, update, delete, truncate')"
    );
    shop.admin.batch_execute(&unseen).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// Rows of the tables that are read.
async fn rows(shop: &Shop) -> f64 {
    let tables = ["parts", "stock_levels", "part_prices", "prices", "part_images", "part_specifications", "categories"];
    let counts = tables.map(|table| format!("(SELECT count(*) FROM {table})"));
    shop.value(&format!("SELECT {}", counts.join(" + "))).await.parse().expect("a number")
}

/// Changes keys, deletes rows and has them come back, a thousand parts at a time: a statement that meets a writer's locks the
/// other way round is made again.
async fn change_oddly(shop: &Shop, parts: u32) {
    for from in (0..=parts).step_by(1000) {
        let among = |column: &str| format!("{column} BETWEEN {from} AND {}", from + 999);
        let odd = [
            format!("UPDATE part_images SET id = id + 100000000 WHERE part_id % 7 = 0 AND {}", among("part_id")),
            format!("DELETE FROM part_prices WHERE part_id % 11 = 0 AND {}", among("part_id")),
            format!(
                "INSERT INTO part_prices (part_id, price_type, price) SELECT id, 'sale', 5 FROM parts WHERE id % 11 = 0 AND {}",
                among("id")
            ),
            format!(
                "UPDATE part_specifications s SET part_id = s.part_id + 1, spec_name = s.spec_name || ' of the other' FROM parts p
                 WHERE s.part_id % 13 = 0 AND p.id = s.part_id + 1 AND {}",
                among("s.part_id")
            ),
        ];
        for statement in odd {
            let made = async || match shop.admin.batch_execute(&statement).await {
                Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => false,
                made => made.map_or_else(|error| panic!("{statement}: {error:?}"), |()| true),
            };
            eventually(&statement, made).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_beside_writes_and_kills_equals_the_database_also_when_the_topics_are_compacted() {
    // A run by hand takes more of both.
    let parts = size("HIGHWATER_SNAPSHOT_PARTS", 3000);
    let shop = Shop::open("chunks", parts.into()).await;
    let mut variables = in_small_chunks(&shop);
    variables.insert("HIGHWATER_CAPTURE_CHUNK_ROWS".to_owned(), (parts / 60).to_string());
    let all = rows(&shop).await;
    let (mut pipeline, mut read) = (Pipeline::start_with(&shop, &["capture", "cache"], &variables), 0.0);
    // The slot stands before the first write, so that the history must hold every one of them.
    let slot = format!("SELECT FROM pg_replication_slots WHERE slot_name = '{}'", variables["HIGHWATER_SOURCE_SLOT"]);
    let stands = async || !shop.admin.query(&slot, &[]).await.expect("the primary answers").is_empty();
    eventually("the slot stands", stands).await;
    let options = write::Options { rate: size("HIGHWATER_SNAPSHOT_WRITES", 500), connections: 8, seed: 10 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    let mut odd = true;
    for share in [0.1, 0.5, 0.9] {
        let (deadline, mut newly) = (Instant::now() + Duration::from_mins(10), 0.0);
        while read + newly < share * all {
            assert!(Instant::now() < deadline, "{} of {all} rows are read", read + newly);
            tokio::time::sleep(Duration::from_millis(2)).await;
            newly = pipeline.metric("highwater_capture_snapshot_rows_total", "").await;
        }
        pipeline.kill();
        read += newly;
        println!("killed after {read} of {all} rows");
        pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
        if std::mem::take(&mut odd) {
            change_oddly(&shop, parts).await;
        }
    }
    let done = "snapshot of a table is done";
    let written = writers.stop().await.expect("the writers stop");
    println!("beside it: {written}");
    let patience = Duration::from_mins(2) + Duration::from_secs(u64::from(parts / 1000));
    let options = check::Options { audit: false, patience, ..check::Options::default() };
    is_right(&shop, &options, &pipeline.last_lines()).await;
    assert!(pipeline.log().contains(done), "{}", pipeline.last_lines());
    assert!(pipeline.log().matches("snapshot begins").count() > 3, "a kill came behind the snapshot");
    compact(&shop).await;
    let compacted = check::Options { cache: false, compacted: true, ..options };
    is_right(&shop, &compacted, &pipeline.last_lines()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.last_lines());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_read_again_beside_writes_loses_what_vanished_from_it_and_nothing_else() {
    let shop = Shop::open("again", 1000).await;
    let variables = in_small_chunks(&shop);
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    // A price that nobody saw go, and one that came back as another.
    delete_unseen(&shop, "DELETE FROM part_prices WHERE part_id % 3 = 0").await;
    delete_unseen(&shop, "DELETE FROM part_images WHERE part_id = 5").await;
    let unwell = check::everything(&shop.endpoints, &NEWEST).await.expect("the check runs");
    assert!(!unwell.is_clean(), "the rows vanished unseen, so that the topics still hold them");
    let writers = Writers::start(&shop.endpoints, write::Options { rate: 200, connections: 4, seed: 4 }, None).await;
    let writers = writers.expect("writers");
    let asked = highwater(&variables).args(["snapshot", "part_prices", "part_images"]).output();
    let asked = tokio::task::spawn_blocking(move || asked.expect("the command runs")).await.expect("it ends");
    let told = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(asked.status.success(), "{told}{}", String::from_utf8_lossy(&asked.stderr));
    for table in ["part_prices", "part_images"] {
        assert!(told.contains(&format!("{table}  read again: ")), "{told}");
    }
    writers.stop().await.expect("the writers stop");
    assert!(pipeline.metric("highwater_capture_snapshot_vanished_total", "part_prices").await > 300.0);
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_waits_for_a_transaction_under_way_names_it_and_has_its_rows() {
    let shop = Shop::open("under_way", 20).await;
    let slot = &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"];
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    shop.admin.simple_query(&make).await.expect("a slot made by hand");
    let mut session = Endpoints::connect(&shop.endpoints.admin_database).await.expect("another session");
    let under_way = session.transaction().await.expect("a transaction");
    under_way.batch_execute("UPDATE stock_levels SET current_stock = 4713 WHERE part_id = 3").await.expect("an update");
    let pid: i32 = under_way.query_one("SELECT pg_backend_pid()", &[]).await.expect("its process").get(0);
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let named = format!("process {pid} of ");
    eventually("what is waited for is named", async || pipeline.log().contains(&named)).await;
    assert!(pipeline.metric("highwater_capture_snapshot_rows_total", "").await < 1.0, "no row is read before");
    under_way.commit().await.expect("it commits");
    let options = check::Options { cache: false, ..NEWEST };
    is_right(&shop, &options, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_no_entry_maps_is_not_read_and_the_nearest_name_is_told() {
    let shop = Shop::open("unmapped", 20).await;
    let asked = highwater(&shop.endpoints.variables).args(["snapshot", "part_price"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert_eq!(asked.status.code(), Some(1), "{told}");
    assert!(told.contains("maps table `part_price`; did you mean `part_prices`?"), "{told}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_too_long_for_a_chunk_are_read_in_bounded_memory() {
    let shop = Shop::open("wide", 300).await;
    // 300 rows of half a mebibyte each that do not compress, in chunks of about one.
    let wide = "ALTER TABLE part_specifications ALTER spec_value TYPE text;
        ALTER TABLE part_specifications ALTER spec_value SET STORAGE EXTERNAL; DELETE FROM part_specifications;
        INSERT INTO part_specifications (part_id, spec_name, spec_value)
          SELECT n, 'drawing', repeat(md5(n::text), 16384) FROM generate_series(1, 300) n";
    shop.admin.batch_execute(wide).await.expect("wide rows");
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_HISTORY".to_owned(), "false".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    eventually("every wide row is read", async || {
        pipeline.metric("highwater_capture_snapshot_rows_total", "part_specifications").await >= 300.0
            && pipeline.log().contains("snapshot of a table is done")
    })
    .await;
    let options = check::Options { cache: false, ..NEWEST };
    is_right(&shop, &options, &pipeline.log()).await;
    let peak = pipeline.peak_memory_kib();
    println!("peak: {peak} KiB");
    assert!(peak < 160 * 1024, "{peak} KiB at most for 150 MiB of rows");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_slot_is_lost_every_table_is_read_again_if_the_operator_wants_it() {
    let shop = Shop::open("resnapshot", 500).await;
    let mut variables = in_small_chunks(&shop);
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let slot = variables["HIGHWATER_SOURCE_SLOT"].clone();
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    eventually("the slot is dropped", async || shop.admin.simple_query(&drop).await.is_ok()).await;
    let unseen = "UPDATE stock_levels SET current_stock = current_stock + 1 WHERE part_id % 2 = 0;
        DELETE FROM part_prices WHERE part_id % 5 = 0; DELETE FROM parts WHERE id = 77;
        INSERT INTO part_prices (part_id, price_type, price) VALUES (3, 'sale', 1)";
    shop.admin.batch_execute(unseen).await.expect("changes that no slot sees");
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    assert!(pipeline.metric("highwater_capture_gaps_total", "lost_slot").await > 0.0);
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    let letters =
        highwater(&variables).args(["dead-letters", "list", "--worker", "capture"]).output().expect("it runs");
    let letters = String::from_utf8_lossy(&letters.stdout).into_owned();
    assert!(letters.contains("are missing: slot"), "the gap is named in the dead letters: {letters}");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
