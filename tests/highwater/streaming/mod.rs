//! Transactions of any size: what the server streams before the commit is published once, whole, in commit order, and only
//! what was not rolled back.

pub(crate) mod history;

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;

use crate::process::Pipeline;
use crate::shop::{Shop, eventually};

/// Opens a shop whose server streams a transaction as soon as it holds some 300 changes.
async fn streaming_shop(name: &str) -> Shop {
    let shop = Shop::open(name, 20).await;
    let database = shop.value("SELECT current_database()").await;
    let early = format!("ALTER ROLE highwater_capture IN DATABASE {database} SET logical_decoding_work_mem = '64kB'");
    shop.admin.batch_execute(&early).await.expect("a setting of the role");
    shop
}

/// Runs statements that begin with `BEGIN; SELECT pg_current_xact_id()`, and returns the transaction's id.
async fn transact(shop: &Shop, statements: &str) -> String {
    shop.value(&format!("BEGIN; SELECT pg_current_xact_id(); {statements}")).await
}

fn prices(count: u32) -> String {
    format!(
        "INSERT INTO part_prices (part_id, price_type, price) SELECT 1, 'sale', n FROM generate_series(1, {count}) n;"
    )
}

fn specifications(count: u32) -> String {
    format!(
        "INSERT INTO part_specifications (part_id, spec_name, spec_value)
         SELECT 2, gen_random_uuid(), repeat('x', 50) FROM generate_series(1, {count});"
    )
}

/// Runs statements in an open transaction, and waits until the server has streamed some of it.
async fn piece(shop: &Shop, session: &tokio_postgres::Client, statements: &str) {
    let before = pieces(shop).await;
    session.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error}"));
    eventually("the server streams what stands before a rollback", async || pieces(shop).await > before).await;
}

/// Begins a transaction and returns its id.
async fn begin(session: &tokio_postgres::Client) -> String {
    session.batch_execute("BEGIN").await.expect("a transaction");
    session.query_one("SELECT pg_current_xact_id()::text", &[]).await.expect("its id").get(0)
}

async fn connect(shop: &Shop) -> tokio_postgres::Client {
    Endpoints::connect(&shop.endpoints.admin_database).await.expect("another session")
}

/// Compares topics and history with the database, and proves that the server did stream.
async fn everything_streamed_equals_the_database(shop: &Shop) {
    let options =
        check::Options { patience: Duration::from_mins(3), audit: false, cache: false, ..check::Options::default() };
    let report = check::everything(&shop.endpoints, &options).await.expect("the check runs");
    assert!(report.is_clean(), "{report}");
    assert!(streamed(shop).await > 0, "the server streamed nothing, so that nothing was proved");
}

async fn streamed(shop: &Shop) -> u64 {
    of_slot(shop, "stream_txns").await
}

async fn pieces(shop: &Shop) -> u64 {
    of_slot(shop, "stream_count").await
}

async fn of_slot(shop: &Shop, statistic: &str) -> u64 {
    let slot = &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"];
    let sql = format!("SELECT {statistic} FROM pg_stat_replication_slots WHERE slot_name = '{slot}'");
    shop.value(&sql).await.parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rolled_back_inside_a_streamed_transaction_is_never_published() {
    let shop = streaming_shop("savepoints").await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let rolled_back = async || pipeline.metric("highwater_capture_streamed_changes_rolled_back_total", "").await;
    let (session, other) = (connect(&shop).await, connect(&shop).await);
    let (a, b) = (prices(500), prices(5));
    piece(&shop, &other, &format!("BEGIN; {}", specifications(700))).await;

    let plain = begin(&session).await;
    piece(&shop, &session, &a).await;
    piece(&shop, &session, &format!("SAVEPOINT s; {a}")).await;
    session.batch_execute(&format!("ROLLBACK TO s; {b} COMMIT")).await.expect("it commits");
    eventually("changes of a savepoint were streamed and dropped", async || rolled_back().await >= 200.0).await;

    let nested = begin(&session).await;
    piece(&shop, &session, &a).await;
    piece(&shop, &session, &format!("SAVEPOINT outer_one; {a} SAVEPOINT inner_one; {a} RELEASE inner_one")).await;
    piece(&shop, &session, &format!("SAVEPOINT inner_two; {a}")).await;
    session.batch_execute(&format!("ROLLBACK TO outer_one; {b} SAVEPOINT kept")).await.expect("a savepoint");
    piece(&shop, &session, &a).await;
    session.batch_execute("RELEASE kept; COMMIT").await.expect("it commits");

    piece(&shop, &other, &specifications(700)).await;
    let caught = begin(&session).await;
    let block = "DO $$ BEGIN FOR i IN 1..6 LOOP BEGIN INSERTS
                   IF i % 2 = 0 THEN PERFORM pg_sleep(0.5); RAISE EXCEPTION 'no'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;";
    piece(&shop, &session, &format!("{} {b} COMMIT", block.replace("INSERTS", &a))).await;
    other.batch_execute("ROLLBACK").await.expect("it is rolled back");

    everything_streamed_equals_the_database(&shop).await;
    for (xid, expected) in [(&plain, 505), (&nested, 1005), (&caught, 1505)] {
        let changes = history::of(&shop, xid).await;
        assert_eq!(changes.len(), expected, "changes of transaction {xid}");
        let seqs = changes.iter().map(|change| u32::from_str_radix(&change.position[26..], 16).expect("an ordinal"));
        assert!(seqs.eq((0..).step_by(2).take(expected)), "ordinals count what survived");
        let last = changes.last().expect("changes");
        assert_eq!((last.last, last.data.total), (true, Some(expected as u64)));
    }
    eventually("nothing is spilled any more", async || {
        pipeline.metric("highwater_capture_spilled_bytes", "").await == 0.0
            && pipeline.metric("highwater_capture_streamed_transactions", "").await == 0.0
    })
    .await;
    assert!(rolled_back().await >= 1000.0, "{} streamed changes were rolled back", rolled_back().await);
    assert!(!pipeline.log().contains("without streaming"), "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_it_inside_a_savepoint_that_was_rolled_back_never_was() {
    let shop = streaming_shop("who").await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let session = connect(&shop).await;
    let says =
        |who: u32| format!("SELECT pg_logical_emit_message(true, 'highwater.context', '{{\"user_id\": {who}}}');");
    let (a, b) = (prices(500), prices(5));

    let told = begin(&session).await;
    piece(&shop, &session, &format!("{} {a}", says(1))).await;
    piece(&shop, &session, &format!("SAVEPOINT s; {a}")).await;
    piece(&shop, &session, &format!("{} {a}", says(2))).await;
    session.batch_execute(&format!("ROLLBACK TO s; {b} COMMIT")).await.expect("it commits");
    eventually("it is published", async || history::of(&shop, &told).await.len() == 505).await;
    // Whoever says the same again, as at each savepoint, leaves nothing unclear.
    let again = begin(&session).await;
    piece(&shop, &session, &format!("{} {a}", says(1))).await;
    piece(&shop, &session, &format!("SAVEPOINT s; {} {a}", says(1))).await;
    session.batch_execute(&format!("ROLLBACK TO s; {b} COMMIT")).await.expect("it commits");
    eventually("it is published", async || history::of(&shop, &again).await.len() == 505).await;
    assert!(!pipeline.log().contains("without streaming"), "{}", pipeline.log());

    // The stream does not tell whether the message stands in the savepoint or before it.
    let unclear = begin(&session).await;
    piece(&shop, &session, &format!("{} {a}", says(1))).await;
    piece(&shop, &session, &format!("SAVEPOINT s; {} {a}", says(2))).await;
    session.batch_execute(&format!("ROLLBACK TO s; {b} COMMIT")).await.expect("it commits");
    everything_streamed_equals_the_database(&shop).await;
    assert!(pipeline.log().contains("capture goes on without streaming"), "{}", pipeline.log());
    for xid in [&told, &again, &unclear] {
        let changes = history::of(&shop, xid).await;
        assert_eq!(changes.len(), 505);
        let by_one = |change: &history::Change| change.data.context.as_ref().is_some_and(|who| who["user_id"] == 1);
        assert!(changes.iter().all(by_one), "transaction {xid}: {:?}", changes.last());
    }
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_first_touched_in_a_savepoint_that_is_rolled_back_is_known_outside_of_it() {
    let shop = streaming_shop("relation").await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let (session, other) = (connect(&shop).await, connect(&shop).await);
    let (a, b) = (prices(500), specifications(700));
    let first = begin(&session).await;
    piece(&shop, &session, &a).await;
    piece(&shop, &session, &format!("SAVEPOINT s; {b}")).await;
    let outside = "ROLLBACK TO s; UPDATE part_specifications SET spec_value = 'after'";
    session.batch_execute(&format!("{outside}; {a} COMMIT")).await.expect("it commits");

    // The same, with a table that another session changes once the savepoint has let go of it.
    piece(&shop, &other, &format!("BEGIN; {} SAVEPOINT s; {b}", prices(10))).await;
    other.batch_execute("ROLLBACK TO s").await.expect("the savepoint is rolled back");
    let note = "ALTER TABLE part_specifications ADD COLUMN note text DEFAULT 'new'";
    shop.admin.batch_execute(note).await.expect("another shape");
    let before = transact(&shop, &format!("{} COMMIT", specifications(1))).await;
    piece(&shop, &other, &a).await;
    other.batch_execute("COMMIT").await.expect("it commits");
    let behind = transact(&shop, &format!("{} COMMIT", specifications(1))).await;
    // And a shape that only a savepoint had.
    piece(&shop, &other, &format!("BEGIN; {a} SAVEPOINT s; {}; {b}", note.replace("note", "never"))).await;
    other.batch_execute(&format!("ROLLBACK TO s; {} COMMIT", specifications(1))).await.expect("it commits");
    let last = transact(&shop, &format!("{} COMMIT", specifications(1))).await;
    shop.admin.batch_execute("ALTER TABLE part_specifications DROP COLUMN note").await.expect("the shape of before");

    everything_streamed_equals_the_database(&shop).await;
    let changes = history::of(&shop, &first).await;
    let updated = changes.iter().filter(|change| change.data.table == "part_specifications").count();
    assert!(updated > 0 && changes.len() == 1000 + updated, "{updated} of {}", changes.len());
    for xid in [&before, &behind, &last] {
        let changes = history::of(&shop, xid).await;
        let rows: Vec<_> = changes.iter().filter_map(|change| change.data.new.as_ref()).collect();
        assert!(rows.len() == 1 && rows[0]["note"] == "new" && rows[0].get("never").is_none(), "{rows:?}");
    }
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interleaved_streamed_and_ordinary_transactions_come_in_commit_order_and_hold_no_bound_back() {
    let shop = streaming_shop("interleaved").await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let (one, two) = (connect(&shop).await, connect(&shop).await);
    let (a, b) = (begin(&one).await, begin(&two).await);
    let mut ordinary = Vec::new();
    for _ in 0..2 {
        one.batch_execute(&prices(700)).await.expect("a piece");
        two.batch_execute(&specifications(700)).await.expect("a piece");
        ordinary.push(transact(&shop, "UPDATE stock_levels SET current_stock = current_stock + 1; COMMIT").await);
    }
    eventually("both are streamed", async || {
        pipeline.metric("highwater_capture_streamed_transactions", "").await >= 2.0
    })
    .await;
    let lsn = shop.value("SELECT pg_current_wal_flush_lsn()").await;
    let slot = &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"];
    let passed = format!("SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
    eventually("what was committed is acknowledged while both are open", async || shop.value(&passed).await == "t")
        .await;
    two.batch_execute("COMMIT").await.expect("the second commits first");
    ordinary.push(transact(&shop, "UPDATE stock_levels SET current_stock = current_stock + 1; COMMIT").await);
    one.batch_execute("COMMIT").await.expect("the first commits last");
    everything_streamed_equals_the_database(&shop).await;
    let mut order: Vec<String> = history::read(&shop).await.into_iter().map(|change| change.xid).collect();
    order.dedup();
    assert_eq!(order, [&ordinary[0], &ordinary[1], &b, &ordinary[2], &a].map(String::clone));
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_a_drain_in_the_middle_of_a_streamed_transaction_loses_and_doubles_nothing() {
    const ROWS: u32 = 40_000;
    let shop = streaming_shop("halfway").await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let xid = transact(&shop, &format!("{} COMMIT", prices(ROWS))).await;
    let topic = shop.endpoints.topic("history");
    for death in ["kill", "kill", "drain"] {
        let mut sent = 0.0;
        eventually("a part of it is sent", async || {
            sent = pipeline.metric("highwater_capture_events_total", &topic).await;
            sent > 1000.0
        })
        .await;
        assert!(sent < f64::from(ROWS), "all of it was sent before the {death}");
        if death == "kill" {
            pipeline.kill();
        } else {
            assert!(pipeline.terminate().success(), "{}", pipeline.log());
        }
        // A kill shows nothing of it; a drain goes on to its end.
        let expected = if death == "kill" { 0 } else { ROWS as usize };
        let seen = history::of(&shop, &xid).await.len();
        assert_eq!(seen, expected, "what a reader of committed records sees after a {death}");
        pipeline = Pipeline::start(&shop, &["capture"]);
    }
    pipeline.is_ready().await;
    everything_streamed_equals_the_database(&shop).await;
    let changes = history::of(&shop, &xid).await;
    assert_eq!(changes.len(), ROWS as usize);
    assert!(changes.is_sorted_by(|a, b| a.position < b.position), "each change once, in order");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_above_the_spill_limit_is_published_without_streaming() {
    let shop = streaming_shop("limit").await;
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_SPILL_MIB".to_owned(), "1".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    let small = transact(&shop, &format!("{} COMMIT", prices(1000))).await;
    let large = transact(&shop, &format!("{} COMMIT", prices(15_000))).await;
    let next = transact(&shop, &format!("{} COMMIT", prices(1000))).await;
    everything_streamed_equals_the_database(&shop).await;
    for (xid, expected) in [(&small, 1000), (&large, 15_000), (&next, 1000)] {
        assert_eq!(history::of(&shop, xid).await.len(), expected, "changes of transaction {xid}");
    }
    let given_up = pipeline.log().matches("capture goes on without streaming").count();
    assert_eq!(given_up, 1, "{}", pipeline.log());
    assert!(pipeline.log().contains("streamed transactions need more than 1048576 bytes in"), "{}", pipeline.log());
    let counted = pipeline.metric("highwater_capture_streaming_given_up_total", "reason=\"full\"").await;
    assert!((counted - 1.0).abs() < f64::EPSILON, "counted {counted} times");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_transaction_leaves_capture_below_64_mb() {
    const ROWS: u32 = 300_000;
    let shop = streaming_shop("memory").await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let small = transact(&shop, &format!("{} COMMIT", prices(1000))).await;
    eventually("a small one is committed", async || history::of(&shop, &small).await.len() == 1000).await;
    let before = pipeline.peak_memory_kib();
    transact(&shop, &format!("{} COMMIT", prices(ROWS))).await;
    let replayed = async || pipeline.metric("highwater_capture_replay_seconds_count", "").await >= 2.0;
    let deadline = std::time::Instant::now() + Duration::from_mins(5);
    while !replayed().await {
        assert!(std::time::Instant::now() < deadline, "not within five minutes:\n{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = pipeline.metric("highwater_capture_replay_seconds_sum", "").await;
    let peak = pipeline.peak_memory_kib();
    println!("peak memory {before} KiB before, {peak} KiB after {ROWS} rows, {:.0} rows/s", f64::from(ROWS) / took);
    assert!(peak < 64 * 1000, "{peak} KiB, {before} KiB before");
    assert!(streamed(&shop).await > 0, "the server streamed nothing, so that nothing was proved");
    eventually("all of it is committed", async || history::read(&shop).await.len() == 1000 + ROWS as usize).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
