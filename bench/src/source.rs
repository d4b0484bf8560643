//! The database that all tools read: its connection, its slots, its addresses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use highwater_demo::{Endpoints, schema};
use tokio_postgres::Client;

use crate::cost::now_us;
use crate::process::Process;

/// How long a tool may take from its start until it reads the slot; a JVM takes its time.
const STARTS_WITHIN: Duration = Duration::from_mins(2);
/// Pause between two looks at a slot that nobody reads yet: the error of the clock's start.
const START_LOOK: Duration = Duration::from_millis(1);

pub(crate) struct Source {
    pub(crate) client: Client,
    pub(crate) endpoints: Endpoints,
}

/// How a tool reaches the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Path {
    Tcp,
    Socket,
}

/// A tool reads the slot from now on.
pub(crate) struct Started {
    pub(crate) at_us: i64,
    /// Process id of the server's side of it.
    pub(crate) walsender: u32,
}

impl Source {
    /// Connects as the superuser, and brings the database to the shop's schema.
    pub(crate) async fn open(endpoints: Endpoints) -> Result<Self> {
        let mut client = Endpoints::connect(&endpoints.admin_database).await?;
        schema::apply(&mut client).await?;
        schema::set_passwords(&client, endpoints.password.as_deref().context("no password in the env file")?).await?;
        Ok(Self { client, endpoints })
    }

    /// Returns a variable of the stack.
    pub(crate) fn variable(&self, name: &str) -> Result<&str> {
        self.endpoints.variables.get(name).map(String::as_str).with_context(|| format!("{name} is not in the env file"))
    }

    /// The address for the role of capture. Over the socket everybody is trusted; over TCP the password is in the variables.
    pub(crate) fn capture_address(&self, path: Path) -> Result<String> {
        let (port, folder) = (self.variable("PRIMARY_PORT")?, self.variable("PRIMARY_SOCKET_DIR")?);
        Ok(match path {
            Path::Tcp => format!("postgresql://highwater_capture@127.0.0.1:{port}/shop"),
            Path::Socket => format!("postgresql://highwater_capture@/shop?host={folder}&port={port}"),
        })
    }

    /// Reads one value as text.
    pub(crate) async fn text(&self, sql: &str) -> Result<String> {
        let row = self.client.query_one(&format!("SELECT ({sql})::text"), &[]).await;
        let row = row.with_context(|| format!("PostgreSQL refused: {sql}"))?;
        row.get::<_, Option<String>>(0).with_context(|| format!("nothing came of: {sql}"))
    }

    /// Copies a slot, so that the copy's reader gets the same log.
    pub(crate) async fn copy_slot(&self, from: &str, to: &str) -> Result<()> {
        self.drop_slot(to).await?;
        self.client.execute("SELECT pg_copy_logical_replication_slot($1, $2)", &[&from, &to]).await?;
        Ok(())
    }

    /// Makes a slot at the end of the log; returns where it goes on.
    pub(crate) async fn make_slot(&self, slot: &str) -> Result<String> {
        self.drop_slot(slot).await?;
        self.client.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
        self.text(&format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'")).await
    }

    /// Waits until the tool has made its slot, and somebody reads it.
    pub(crate) async fn slot_made(&self, slot: &str, tool: &mut Process) -> Result<Started> {
        let look = self.client.prepare("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1").await?;
        let deadline = Instant::now() + STARTS_WITHIN;
        let mut made = None;
        loop {
            if let Some(row) = self.client.query_opt(&look, &[&slot]).await? {
                let at_us = *made.get_or_insert_with(now_us);
                if let Some(pid) = row.get::<_, Option<i32>>(0) {
                    return Ok(Started { at_us, walsender: pid.try_into()? });
                }
            }
            tool.still_runs()?;
            if Instant::now() > deadline {
                bail!("it made no slot within {STARTS_WITHIN:?}\n{}", tool.last_lines());
            }
            tokio::time::sleep(START_LOOK).await;
        }
    }

    /// Drops the slot if there is one, waiting until nobody reads it.
    pub(crate) async fn drop_slot(&self, slot: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        while let Err(error) = self.client.execute(sql, &[&slot]).await {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("cannot drop slot {slot}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Waits until the tool reads the slot: the moment at which every tool's clock starts.
    pub(crate) async fn streaming(&self, slot: &str, tool: &mut Process) -> Result<Started> {
        let look = self.client.prepare("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1").await?;
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            let row = self.client.query_one(&look, &[&slot]).await?;
            if let Some(pid) = row.get::<_, Option<i32>>(0) {
                return Ok(Started { at_us: now_us(), walsender: pid.try_into()? });
            }
            // A tool that is quick may have read everything between two looks; the backlog is not that small.
            tool.still_runs()?;
            if Instant::now() > deadline {
                bail!("it did not read its slot within {STARTS_WITHIN:?}\n{}", tool.last_lines());
            }
            tokio::time::sleep(START_LOOK).await;
        }
    }

    /// Whether the slot's reader has acknowledged everything below `lsn`.
    pub(crate) async fn has_acknowledged(&self, slot: &str, lsn: &str) -> Result<bool> {
        let sql = "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1";
        Ok(self.client.query_one(sql, &[&slot, &lsn]).await?.get(0))
    }
}
