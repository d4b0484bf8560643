//! A slot that is made while the catalogue changes. `PostgreSQL` waits twice while it makes one; a transaction that begins behind the
//! first wait, and writes to a table that was created during it, can never be decoded by that slot.

use highwater_demo::endpoints::Endpoints;
use tokio_postgres::Client;

use crate::process::Pipeline;
use crate::shop::{Shop, eventually};
use crate::snapshot::{NEWEST, is_right};

/// A transaction that is open.
struct Open {
    session: Client,
    xid: String,
}

impl Open {
    async fn begin(shop: &Shop) -> Self {
        let session = Endpoints::connect(&shop.endpoints.admin_database).await.expect("a session");
        session.batch_execute("BEGIN").await.expect("a transaction");
        let xid = session.query_one("SELECT pg_current_xact_id()::text", &[]).await.expect("its id").get(0);
        Self { session, xid }
    }

    /// Waits until whoever makes a slot waits for its end.
    async fn is_waited_for(&self, shop: &Shop) {
        let waiting = format!(
            "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid::text = '{}'",
            self.xid
        );
        eventually("the new slot waits", async || shop.value(&waiting).await == "t").await;
    }

    async fn commit(self) {
        self.session.batch_execute("COMMIT").await.expect("it is committed");
    }
}

/// Creates a table while a slot is made that waits for `older`, and returns a transaction that writes to it and is open when the
/// slot is there.
async fn create_beside(shop: &Shop, older: Open) -> Open {
    older.is_waited_for(shop).await;
    let between = Open::begin(shop).await;
    shop.admin.batch_execute("CREATE TABLE beside (id int PRIMARY KEY)").await.expect("a table");
    older.commit().await;
    between.is_waited_for(shop).await;
    let late = Open::begin(shop).await;
    late.session.batch_execute("INSERT INTO beside VALUES (1)").await.expect("a row");
    between.commit().await;
    late
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_during_whose_making_a_table_was_created_is_made_again_since_it_could_not_be_decoded() {
    let shop = Shop::open("made_again", 20).await;
    let older = Open::begin(&shop).await;
    let mut pipeline = Pipeline::start(&shop, &["capture", "cache"]);
    let late = create_beside(&shop, older).await;
    eventually("the slot is made again", async || pipeline.log().contains("`beside` was created, altered")).await;
    late.commit().await;
    pipeline.is_ready().await;
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = current_stock + 1").await.expect("changes");
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_cannot_be_decoded_is_named_or_replaced_if_wanted() {
    let shop = Shop::open("undecodable", 20).await;
    let slot = shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"].clone();
    let older = Open::begin(&shop).await;
    let by_hand = Endpoints::connect(&shop.endpoints.admin_database).await.expect("a session");
    let sql = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    let making = tokio::spawn(async move { by_hand.simple_query(&sql).await.map(drop) });
    let late = create_beside(&shop, older).await;
    making.await.expect("the session ends").expect("a slot made by hand");
    late.commit().await;

    let mut pipeline = Pipeline::start(&shop, &["capture"]);
    assert_eq!(pipeline.ended().code(), Some(1));
    for expected in ["cannot decode its log for slot", "goes on without streaming", "on_lost_slot = \"resnapshot\""] {
        assert!(pipeline.log().contains(expected), "`{expected}` is not in:\n{}", pipeline.log());
    }
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    eventually("the slot is replaced", async || pipeline.log().contains("slot made")).await;
    pipeline.is_ready().await;
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = current_stock + 1").await.expect("changes");
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.metric("highwater_capture_sessions_ended_total", "decoding").await > 0.0);
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
