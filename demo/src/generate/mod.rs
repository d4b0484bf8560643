//! A believable catalogue from a seed: the same seed and size give the same rows, whatever machine fills it.
//!
//! Every row is a function of the seed, its table and its part, so that each table is written on its own, in any size,
//! without holding the others.

mod lines;
mod rows;
mod shelves;
mod words;

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::SinkExt;
use tokio_postgres::Client;

/// Bytes that go to PostgreSQL in one piece of a COPY.
const PIECE: usize = 256 * 1024;

/// What to fill a shop with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of parts; the other tables follow.
    pub parts: u64,
    /// The same seed gives the same shop.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { parts: 10_000, seed: 1 }
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Rows of each table, in the order of writing.
    pub rows: Vec<(&'static str, u64)>,
    /// How long it took.
    pub took: Duration,
}

/// Tells whether the shop has no part yet.
///
/// # Errors
/// What PostgreSQL said.
pub async fn is_empty(client: &Client) -> Result<bool> {
    let row = client.query_one("SELECT NOT EXISTS (SELECT FROM parts)", &[]).await?;
    Ok(row.get(0))
}

/// Fills an empty shop, wholly or not at all. Needs a superuser.
///
/// # Errors
/// A shop that has parts already, or what PostgreSQL said.
pub async fn fill(client: &Client, options: &Options) -> Result<Summary> {
    if !is_empty(client).await? {
        bail!("the shop has parts already: fill an empty database");
    }
    let started = Instant::now();
    client.batch_execute("BEGIN").await?;
    let filled = fill_tables(client, options).await;
    client.batch_execute(if filled.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    let rows = filled?;
    for (table, _) in &rows {
        client.batch_execute(&format!("ANALYZE {table}")).await?;
    }
    Ok(Summary { rows, took: started.elapsed() })
}

async fn fill_tables(client: &Client, options: &Options) -> Result<Vec<(&'static str, u64)>> {
    // The rows are right by construction; checking each foreign key would take longer than writing them.
    client.batch_execute("SET LOCAL session_replication_role = replica").await?;
    let mut written = Vec::new();
    for table in rows::TABLES {
        let count = copy(client, table, options).await.with_context(|| format!("cannot fill {}", table.name))?;
        let sequence = format!("SELECT setval(pg_get_serial_sequence('{0}', 'id'), max(id)) FROM {0}", table.name);
        client.batch_execute(&sequence).await?;
        written.push((table.name, count));
    }
    client.batch_execute("SET LOCAL session_replication_role = origin").await?;
    Ok(written)
}

async fn copy(client: &Client, table: &rows::Table, options: &Options) -> Result<u64> {
    let statement = format!("COPY {} ({}) FROM STDIN", table.name, table.columns);
    let mut sink = pin!(client.copy_in::<_, bytes::Bytes>(&statement).await?);
    let mut piece = lines::Writer::default();
    for number in 1..=(table.steps)(options) {
        (table.write)(&mut piece, options, number);
        if piece.len() >= PIECE {
            sink.send(piece.take()).await?;
        }
    }
    sink.send(piece.take()).await?;
    Ok(sink.finish().await?)
}
