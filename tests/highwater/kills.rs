//! Nothing is lost and nothing doubled, whoever is killed and whenever.

mod rows;

use std::process::Command;
use std::time::Duration;

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;
use highwater_demo::write::{self, Writers};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::process::Pipeline;
use crate::shop::{Shop, eventually, size};
use crate::stack::SHOPS;

/// Who dies beside every third pipeline, in turn. A walsender takes its server down with it, as every process of PostgreSQL does
/// that is killed.
const BESIDE: [&str; 10] =
    ["kafka", "redis", "walsender", "kafka", "redis", "primary", "kafka", "redis", "walsender", "primary"];

/// How often the pipeline is killed.
fn kills() -> usize {
    size("HIGHWATER_KILLS", 30) as usize
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_pipeline_kafka_redis_postgresql_and_walsender_under_load_loses_nothing_and_doubles_nothing() {
    let shop = Shop::open("kills", 500).await;
    let seed = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("HIGHWATER_SEED={seed} repeats the same moments");
    let mut random = SmallRng::seed_from_u64(seed);
    // The slot stands before the first write, so that the history must hold every one of them.
    let mut pipeline = shop.pipeline(&[]).await;
    let options = write::Options { rate: 200, connections: 4, seed };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    for kill in 0..kills() {
        // From its first moments to well after it is ready: every moment of a session has its turn, however slow the machine is.
        if kill % 2 == 1 {
            pipeline.is_ready().await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1800))).await;
        pipeline.kill();
        pipeline = Pipeline::start(&shop, &[]);
        if kill % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(500..2000))).await;
            kill_and_start(&shop, BESIDE[kill / 3 % BESIDE.len()]).await;
        }
    }
    pipeline.is_ready().await;
    let written = writers.stop().await.expect("the writers stop");
    assert!(written.committed > 500, "the load was too small to prove anything: {written:?}");
    let report = check::everything(&shop.endpoints, &check::Options::default()).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.last_lines());
    let sessions = pipeline.log().lines().filter(|line| line.contains("capture goes on from here")).count();
    assert!(sessions > kills() / 2, "capture was at work in {sessions} sessions alone");
    // While servers come and go nobody may be told of a gap that is none.
    let gaps = pipeline.log().lines().filter(|line| line.contains("between two marks")).count();
    assert_eq!(gaps, 0, "gaps were named that the check does not find");
    assert!(pipeline.terminate().success(), "{}", pipeline.last_lines());
    shop.close().await;
}

/// Waits until the slot is acknowledged behind all that the log has now.
async fn is_acknowledged(shop: &Shop, pipeline: &Pipeline, within: Duration) {
    let behind = format!(
        "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = '{}'",
        shop.value("SELECT pg_current_wal_insert_lsn()").await,
        shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"]
    );
    let acknowledged = eventually("all is acknowledged", async || shop.value(&behind).await == "t");
    tokio::time::timeout(within, acknowledged).await.unwrap_or_else(|_| panic!("{}", pipeline.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_leaves_its_progress_to_the_next_long_before_a_kafka_transaction_is_as_long_as_it_may_be() {
    let shop = Shop::open("moments", 20).await;
    let mut variables = shop.endpoints.variables.clone();
    let longest = Duration::from_mins(1);
    variables.insert("HIGHWATER_CAPTURE_TRANSACTION_MS".to_owned(), longest.as_millis().to_string());
    for stock in 1..=3 {
        let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
        pipeline.is_ready().await;
        let change = format!("UPDATE stock_levels SET current_stock = {stock}");
        shop.admin.batch_execute(&change).await.expect("a change");
        is_acknowledged(&shop, &pipeline, longest / 3).await;
        pipeline.kill();
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_backlog_a_kafka_transaction_that_is_due_ends_at_the_next_end_of_a_source_transaction() {
    let shop = Shop::open("backlog", 1000).await;
    let mut variables = shop.endpoints.variables.clone();
    // Due within every source transaction, by its records.
    variables.insert("HIGHWATER_CAPTURE_TRANSACTION_RECORDS".to_owned(), "1000".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    is_acknowledged(&shop, &pipeline, Duration::from_mins(1)).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    for stock in 1..=100 {
        let change = format!("UPDATE stock_levels SET current_stock = {stock}");
        shop.admin.batch_execute(&change).await.expect("a thousand changes");
    }
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    is_acknowledged(&shop, &pipeline, Duration::from_mins(1)).await;
    // Hardly a look at the clock falls between two of them.
    let commits = pipeline.metric("highwater_capture_commit_seconds_count", "").await;
    println!("{commits} commits");
    assert!(commits >= 6.0, "{commits} commits of 100 source transactions");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

async fn kill_and_start(shop: &Shop, victim: &'static str) {
    if victim != "walsender" {
        SHOPS.kill(victim);
        return SHOPS.start(victim);
    }
    let slot = &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"];
    let reading = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let mut walsender = None;
    eventually("somebody reads the slot", async || {
        let Ok(client) = Endpoints::connect(&shop.endpoints.admin_database).await else { return false };
        let Ok(row) = client.query_one(&reading, &[]).await else { return false };
        walsender = row.get::<_, Option<i32>>(0);
        walsender.is_some()
    })
    .await;
    let pid = walsender.expect("a process id").to_string();
    // It may be gone already, together with the pipeline's last session.
    Command::new("kill").args(["-KILL", &pid]).status().expect("kill runs");
    SHOPS.start("primary");
}
