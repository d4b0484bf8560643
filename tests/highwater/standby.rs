//! The log read from a standby: the primary decodes nothing, and the promises are the same.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;
use highwater_demo::write::{self, Writers};
use tokio::sync::{Mutex, MutexGuard};

use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually, within_a_minute};
use crate::stack::{READ_FROM_STANDBY, Variables, followed, on_the_standby};

const STANDBY: &str = "replica1";
/// Each test wipes the servers, which is before its shop is alone.
static ONE: Mutex<()> = Mutex::const_new(());

/// A shop with a standby whose log is read.
struct Read {
    shop: Shop,
    /// The settings of its pipeline.
    variables: Variables,
    /// The shop as the standby has it.
    on_standby: Endpoints,
    standby: tokio_postgres::Client,
    _alone: MutexGuard<'static, ()>,
}

impl Read {
    async fn open(name: &str) -> Self {
        let alone = ONE.lock().await;
        // A promotion cannot be taken back: what an earlier test left is of no use.
        READ_FROM_STANDBY.with_standby(STANDBY).await;
        let shop = Shop::open_on(&READ_FROM_STANDBY, &["primary", STANDBY, "redis", "kafka"], name, 300).await;
        let of_primary = &shop.endpoints.variables;
        let moved = on_the_standby(of_primary);
        let mut variables = of_primary.clone();
        let source = moved["HIGHWATER_SOURCE_DATABASE"].clone();
        variables.insert("HIGHWATER_SOURCE_STANDBY".to_owned(), source);
        // Whichever of the two is the primary.
        let at_primary = format!(":{}/", of_primary["PRIMARY_PORT"]);
        let both = format!(":{},127.0.0.1:{}/", of_primary["PRIMARY_PORT"], of_primary["REPLICA1_PORT"]);
        for database in ["HIGHWATER_SOURCE_DATABASE", "HIGHWATER_AUDIT_DATABASE"] {
            let of_both = of_primary[database].replace(&at_primary, &both) + "?target_session_attrs=read-write";
            variables.insert(database.to_owned(), of_both);
        }
        let on_standby = Endpoints::from_variables(moved).expect("all addresses");
        let standby = followed(&on_standby).await;
        Self { shop, variables, on_standby, standby, _alone: alone }
    }

    async fn pipeline(&self, roles: &[&str]) -> Pipeline {
        let mut pipeline = Pipeline::start_with(&self.shop, roles, &self.variables);
        pipeline.is_ready().await;
        pipeline
    }

    /// Returns whether `highwater check` finds nothing that fails, and what it says.
    fn check(&self) -> (bool, String) {
        let output = highwater(&self.variables).args(["check", "capture"]).output().expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Moves a running capture from the primary's log to the standby's, as README.md has it.
    async fn move_to_the_standby(&mut self, pipeline: &mut Pipeline) {
        let slot = format!("{}_standby", self.variables["HIGHWATER_SOURCE_SLOT"]);
        let creation = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        let urge = async || {
            self.shop.admin.batch_execute("SELECT pg_log_standby_snapshot()").await.expect("the primary logs it");
            false
        };
        tokio::select! {
            made = self.standby.batch_execute(&creation) => made.expect("a slot on the standby"),
            _ = within_a_minute(urge) => panic!("no slot within a minute"),
        }
        let place = format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let place: String = self.standby.query_one(&place, &[]).await.expect("the slot").get(0);
        let beyond = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE active AND confirmed_flush_lsn >= '{place}' AND slot_type = 'logical'"
        );
        eventually("what is published is beyond it", async || self.shop.value(&beyond).await == "1").await;
        self.variables.insert("HIGHWATER_SOURCE_SLOT".to_owned(), slot);
        assert!(pipeline.terminate().success(), "{}", pipeline.log());
        let (sound, found) = self.check();
        assert!(sound, "{found}");
    }

    /// Waits until the standby has everything that the primary has.
    async fn standby_follows(&self) {
        let behind = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{STANDBY}'
             AND replay_lsn >= pg_current_wal_flush_lsn()"
        );
        eventually("the standby has everything so far", async || self.shop.value(&behind).await == "1").await;
    }
}

async fn all_is_right(endpoints: &Endpoints, options: &check::Options, pipeline: &Pipeline) {
    let report = check::everything(endpoints, options).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_standby_hands_out_is_published_once_through_kills_and_its_own_promotion() {
    const ROLES: [&str; 3] = ["capture", "cache", "audit"];
    let mut read = Read::open("standby").await;
    let mut pipeline = read.shop.pipeline(&ROLES).await;
    let options = write::Options { rate: 100, connections: 4, seed: 9 };
    let writers = Writers::start(&read.shop.endpoints, options, None).await.expect("writers");
    read.move_to_the_standby(&mut pipeline).await;
    let pipeline = read.pipeline(&ROLES).await;
    let drop = format!("SELECT pg_drop_replication_slot('{}')", read.shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"]);
    read.shop.admin.batch_execute(&drop).await.expect("the primary's slot is of no use any more");
    check::caught_up(&read.shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    pipeline.kill();
    let mut pipeline = read.pipeline(&ROLES).await;
    READ_FROM_STANDBY.kill(STANDBY);
    READ_FROM_STANDBY.start(STANDBY);
    let caught_up = check::caught_up(&read.shop.endpoints, Duration::from_mins(1)).await;
    caught_up.unwrap_or_else(|error| panic!("capture goes on: {error}\n{}", pipeline.log()));
    writers.stop().await.expect("the writers stop");
    all_is_right(&read.shop.endpoints, &check::Options::default(), &pipeline).await;
    let status = highwater(&read.variables).arg("status").output().expect("it runs");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains(" is held, confirmed ") && status.contains(" behind"), "{status}");

    read.standby_follows().await;
    READ_FROM_STANDBY.kill("primary");
    // A promotion behind all that was published is no gap.
    let read_to_its_end = "SELECT FROM pg_replication_slots WHERE confirmed_flush_lsn >= pg_last_wal_replay_lsn()";
    eventually("the slot is at the end of the log", async || {
        let standby = Endpoints::connect(&read.on_standby.admin_database).await.expect("the standby answers");
        !standby.query(read_to_its_end, &[]).await.expect("it tells").is_empty()
    })
    .await;
    let promoted = Endpoints::connect(&read.on_standby.admin_database).await.expect("the standby answers");
    promoted.batch_execute("SELECT pg_promote()").await.expect("a promotion");
    promoted.batch_execute("UPDATE stock_levels SET current_stock = 5 WHERE part_id = 11").await.expect("life goes on");
    all_is_right(&read.on_standby, &check::Options::default(), &pipeline).await;
    assert!(!pipeline.log().contains("are missing"), "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    READ_FROM_STANDBY.wipe();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_has_not_replayed_yet_who_may_log_in_is_waited_for() {
    let read = Read::open("newborn").await;
    let mut pipeline = read.pipeline(&["capture", "cache"]).await;
    check::caught_up(&read.shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    // The standby will start from here, and answer before it has replayed what comes next.
    read.shop
        .admin
        .batch_execute("ALTER ROLE highwater_capture NOLOGIN; CHECKPOINT")
        .await
        .expect("the role is locked out");
    read.standby_follows().await;
    read.standby.batch_execute("CHECKPOINT").await.expect("a restartpoint");
    read.standby.batch_execute("ALTER SYSTEM SET recovery_min_apply_delay = '10min'").await.expect("a setting");
    read.shop.admin.batch_execute("ALTER ROLE highwater_capture LOGIN").await.expect("the role is let in");
    read.standby_follows().await;
    READ_FROM_STANDBY.kill(STANDBY);
    READ_FROM_STANDBY.start(STANDBY);
    let is_refused = async || pipeline.log().contains("is not permitted to log in");
    assert!(within_a_minute(is_refused).await, "{}", pipeline.log());
    let standby = Endpoints::connect(&read.on_standby.admin_database).await.expect("the standby answers");
    standby.batch_execute("ALTER SYSTEM RESET recovery_min_apply_delay").await.expect("a setting");
    standby.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    read.shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 5").await.expect("life goes on");
    let options = check::Options { audit: false, ..check::Options::default() };
    all_is_right(&read.shop.endpoints, &options, &pipeline).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    READ_FROM_STANDBY.wipe();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_standby_writes_after_its_promotion_is_not_published_while_another_is_the_primary() {
    let mut read = Read::open("split").await;
    let of_primary = read.shop.endpoints.variables["HIGHWATER_SOURCE_DATABASE"].clone();
    read.variables.insert("HIGHWATER_SOURCE_DATABASE".to_owned(), of_primary);
    read.variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = read.pipeline(&["capture", "cache"]).await;
    check::caught_up(&read.shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    read.standby.batch_execute("SELECT pg_promote()").await.expect("a promotion");
    // Both servers give out the same transaction numbers from here on, so that what the primary shows says nothing.
    for _ in 0..20 {
        let update = "UPDATE stock_levels SET current_stock = 0 WHERE part_id = 1";
        read.shop.admin.batch_execute(update).await.expect("an update");
    }
    let only_there = "UPDATE stock_levels SET current_stock = 666666 WHERE part_id = 7";
    read.standby.batch_execute(only_there).await.expect("an update that the primary does not have");
    let refused = async || pipeline.metric("highwater_capture_sessions_ended_total", "standby").await >= 2.0;
    assert!(within_a_minute(refused).await, "{}", pipeline.log());
    assert!(pipeline.log().contains("is no standby any more") || pipeline.log().contains("is on timeline 2"));
    assert!(pipeline.terminate().success(), "{}", pipeline.log());

    // The operator gives the standby up.
    read.variables.remove("HIGHWATER_SOURCE_STANDBY");
    let mut pipeline = read.pipeline(&["capture", "cache"]).await;
    let newest = check::Options { story: check::Story::Gap, audit: false, ..check::Options::default() };
    all_is_right(&read.shop.endpoints, &newest, &pipeline).await;
    let published = check::events_with(&read.shop.endpoints, "666666").await.expect("the topics are read");
    assert_eq!(published, 0, "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    READ_FROM_STANDBY.wipe();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_a_vacuum_took_from_the_standby_is_named_and_every_table_is_read_again_if_wanted() {
    let mut read = Read::open("vacuumed").await;
    read.variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    read.standby.batch_execute("ALTER SYSTEM SET hot_standby_feedback = off").await.expect("a setting");
    // The primary forgets soon what it was told before.
    read.standby.batch_execute("ALTER SYSTEM SET wal_receiver_status_interval = '1s'").await.expect("a setting");
    read.standby.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    let is_said = async || read.check().1.contains("SET hot_standby_feedback = on");
    eventually("the danger is said beforehand", is_said).await;
    let mut pipeline = read.pipeline(&["capture", "cache"]).await;
    check::caught_up(&read.shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    let behind_a_gap = async || {
        let catalogue = "CREATE TABLE passing (); DROP TABLE passing";
        read.shop.admin.batch_execute(catalogue).await.expect("a table that comes and goes");
        read.shop.admin.batch_execute("VACUUM pg_class").await.expect("a vacuum");
        pipeline.metric("highwater_capture_gaps_total", "lost_slot").await > 0.0
    };
    assert!(within_a_minute(behind_a_gap).await, "{}", pipeline.log());
    read.shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 5").await.expect("life goes on");
    let newest = check::Options { story: check::Story::Gap, audit: false, ..check::Options::default() };
    all_is_right(&read.shop.endpoints, &newest, &pipeline).await;
    assert!(pipeline.log().contains("is lost: the primary removed rows that it needed"), "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    READ_FROM_STANDBY.wipe();
}
