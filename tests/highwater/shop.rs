//! A shop of one test: a database, topics and a Redis database that no other test has, on the servers of the run.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use highwater_demo::endpoints::Endpoints;
use highwater_demo::{generate, schema};
use highwater_kafka::{Admin, Connection};
use tokio::sync::{Mutex, MutexGuard};

use crate::process::Pipeline;
use crate::stack::{SHOPS, Stack, Variables, fresh};

/// One shop at a time: a test that kills a server would disturb the others, and two cores carry one pipeline.
static ONE: Mutex<()> = Mutex::const_new(());

pub(crate) struct Shop {
    pub(crate) endpoints: Endpoints,
    pub(crate) admin: tokio_postgres::Client,
    name: String,
    _alone: MutexGuard<'static, ()>,
}

impl Shop {
    /// Opens a shop with so many parts.
    pub(crate) async fn open(name: &str, parts: u64) -> Self {
        Self::open_on(&SHOPS, &["primary", "redis", "kafka"], name, parts).await
    }

    /// Opens a shop on servers of another stack.
    pub(crate) async fn open_on(servers: &Stack, needed: &[&'static str], name: &str, parts: u64) -> Self {
        let alone = ONE.lock().await;
        let stack = servers.with(needed);
        // Slots and databases have no dashes in their names.
        let name = fresh(name).replace('-', "_");
        let variables = variables(&stack, &name);
        let server = Endpoints::connect(&stack["ADMIN_DATABASE"]).await.expect("the primary answers");
        server.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let endpoints = Endpoints::from_variables(variables).expect("all addresses");
        let mut admin = Endpoints::connect(&endpoints.admin_database).await.expect("the shop's database answers");
        schema::apply(&mut admin).await.expect("the schema");
        let password = endpoints.password.as_deref().expect("the stack's password");
        schema::set_passwords(&admin, password).await.expect("passwords");
        generate::fill(&admin, &generate::Options { parts, seed: 1 }).await.expect("a catalogue");
        let shop = Self { endpoints, admin, name, _alone: alone };
        shop.flush_cache().await;
        shop
    }

    /// Empties this shop's Redis.
    pub(crate) async fn flush_cache(&self) {
        let _: () = redis::cmd("FLUSHDB").query_async(&mut self.cache().await).await.expect("Redis is emptied");
    }

    /// Opens a connection to this shop's Redis.
    pub(crate) async fn cache(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.endpoints.cache.as_str()).expect("an address");
        client.get_multiplexed_async_connection().await.expect("Redis answers")
    }

    /// Starts the binary with these roles, all if none is named, and waits until it is ready.
    pub(crate) async fn pipeline(&self, roles: &[&str]) -> Pipeline {
        let mut pipeline = Pipeline::start(self, roles);
        pipeline.is_ready().await;
        pipeline
    }

    /// Returns the settings of a process of this shop that runs beside the first one.
    pub(crate) fn variables_beside(&self) -> Variables {
        let mut variables = self.endpoints.variables.clone();
        listen_on_free_ports(&mut variables);
        variables
    }

    /// Returns one value that the primary holds.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let rows = self.admin.simple_query(sql).await.expect("the primary answers");
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.and_then(|row| row.get(0)).unwrap_or_default().to_owned()
    }

    /// Gives back what would keep the primary's WAL for ever, and what makes each restart of the broker longer.
    pub(crate) async fn close(self) {
        // The first connection may have died with the server in between.
        let admin = Endpoints::connect(&self.endpoints.admin_database).await.expect("the primary answers");
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}' AND NOT active",
            self.name
        );
        let left = format!("SELECT FROM pg_replication_slots WHERE slot_name = '{}'", self.name);
        eventually("the slot is given back", async || {
            admin.simple_query(&sql).await.expect("the slot is dropped");
            admin.query(&left, &[]).await.expect("the primary answers").is_empty()
        })
        .await;
        let topics = ["stock", "prices", "content", "history", "progress", "dead-letters"];
        let topics = topics.map(|name| self.endpoints.topic(name));
        let kafka = Admin::new(&Connection::new(&self.endpoints.brokers, "test")).expect("an admin client");
        // A broker that a test left stopped keeps them, which harms nobody.
        let _ = kafka.delete_topics(&topics.each_ref().map(String::as_str), Duration::from_secs(20)).await;
    }
}

/// How large or long a test is: the number in this variable, which a run by hand sets, else what suits every run.
pub(crate) fn size(variable: &str, usual: u32) -> u32 {
    std::env::var(variable)
        .map_or(usual, |size| size.parse().unwrap_or_else(|_| panic!("{variable}={size}: no number")))
}

/// Polls until the condition holds, and fails by its name if it does not within a minute.
pub(crate) async fn eventually(condition: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(within_a_minute(holds).await, "not within a minute: {condition}");
}

/// Polls until the condition holds; `false` if it does not within a minute.
pub(crate) async fn within_a_minute(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

fn variables(of_stack: &Variables, name: &str) -> Variables {
    static NEXT_CACHE: AtomicU32 = AtomicU32::new(1);
    let mut variables = of_stack.clone();
    for database in ["HIGHWATER_SOURCE_DATABASE", "HIGHWATER_AUDIT_DATABASE", "SHOP_DATABASE", "ADMIN_DATABASE"] {
        let (server, _) = of_stack[database].rsplit_once('/').expect("an address with a database");
        variables.insert(database.to_owned(), format!("{server}/{name}"));
    }
    // Redis has sixteen databases.
    let cache = 1 + NEXT_CACHE.fetch_add(1, Ordering::Relaxed) % 15;
    let server = format!("{}/{cache}", of_stack["HIGHWATER_CACHE_SERVER"]);
    variables.insert("HIGHWATER_CACHE_SERVER".to_owned(), server);
    variables.insert("HIGHWATER_SOURCE_SLOT".to_owned(), name.to_owned());
    variables.insert("HIGHWATER_SOURCE_TOPIC_PREFIX".to_owned(), name.to_owned());
    let spill = SHOPS.path().join("spill").to_string_lossy().into_owned();
    variables.insert("HIGHWATER_CAPTURE_SPILL_FOLDER".to_owned(), spill);
    listen_on_free_ports(&mut variables);
    variables
}

fn listen_on_free_ports(variables: &mut Variables) {
    for listener in ["HIGHWATER_OPERATE_LISTEN", "HIGHWATER_STOREFRONT_LISTEN"] {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        variables.insert(listener.to_owned(), free.expect("a free port").to_string());
    }
}
