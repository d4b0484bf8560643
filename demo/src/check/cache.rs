//! Redis against the database, read key by key and not through the pipeline's own code.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use super::report::Section;
use super::state::State;
use super::tables::{Rows, TABLES, Table};
use crate::Endpoints;

/// Keys asked for in one round trip.
const AT_ONCE: usize = 500;
/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(50);
/// Before the names of fences and progress.
const PREFIX: &str = "highwater";

/// Keys that each table's events drop, behind `part:{id}`.
const INVALIDATED: [(&str, &str); 4] =
    [("part_prices", ":prices"), ("prices", ":prices"), ("part_images", ":images"), ("part_specifications", ":specs")];

pub(super) async fn connect(endpoints: &Endpoints) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(endpoints.cache.as_str())?;
    let connection = client.get_multiplexed_async_connection().await;
    connection.with_context(|| format!("cannot reach Redis at {}", endpoints.cache))
}

/// Waits until Redis has taken in every partition up to the token.
pub(super) async fn wait(
    redis: &mut MultiplexedConnection,
    partitions: &[String],
    token: &str,
    deadline: Instant,
    section: &mut Section,
) -> Result<()> {
    for partition in partitions {
        section.compared();
        loop {
            let mark: Option<String> = redis.hget(format!("{PREFIX}:progress:{partition}"), "mark").await?;
            if mark.as_deref().is_some_and(|mark| mark >= token) {
                break;
            }
            if Instant::now() > deadline {
                section.differs(|| format!("Redis is at {mark:?} of {partition}, not at {token}"));
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Compares the written keys with the rows, both ways.
pub(super) async fn compare_written(
    redis: &mut MultiplexedConnection,
    rows: &Rows,
    section: &mut Section,
) -> Result<()> {
    for (table, suffix) in [("parts", ""), ("stock_levels", ":stock")] {
        let Some(table) = TABLES.iter().find(|known| known.name == table) else { continue };
        let keyed: Vec<(String, _)> = rows
            .get(table.name)
            .into_iter()
            .flat_map(HashMap::values)
            .filter_map(|row| Some((format!("part:{}{suffix}", table.part(row)?), row)))
            .collect();
        for some in keyed.chunks(AT_ONCE) {
            let keys: Vec<&String> = some.iter().map(|(key, _)| key).collect();
            let values = hget_all(redis, &keys, "v").await?;
            for ((key, row), value) in some.iter().zip(values) {
                section.compared();
                let differences = match value.as_deref().map(serde_json::from_str::<Value>) {
                    None => vec!["it is missing".to_owned()],
                    Some(Err(error)) => vec![error.to_string()],
                    Some(Ok(value)) => table.state_differences(row, &value),
                };
                if !differences.is_empty() {
                    section.differs(|| format!("{key}: {}", differences.join("; ")));
                }
            }
        }
    }
    find_strays(redis, rows, section).await
}

/// Finds entries of parts that the database does not have.
async fn find_strays(redis: &mut MultiplexedConnection, rows: &Rows, section: &mut Section) -> Result<()> {
    let of = |name: &str| -> HashSet<&str> {
        let table = TABLES.iter().find(|known| known.name == name);
        let rows = rows.get(name).into_iter().flat_map(HashMap::values);
        table.map(|table: &Table| rows.filter_map(|row| table.part(row)).collect()).unwrap_or_default()
    };
    let (parts, stocked) = (of("parts"), of("stock_levels"));
    let mut keys = redis.scan_match::<_, String>("part:*").await?;
    while let Some(key) = keys.next_item().await {
        let key = key?;
        section.compared();
        let name = key.trim_start_matches("part:");
        let known = match name.split_once(':') {
            Some((part, "stock")) => stocked.contains(part),
            Some((part, _)) => parts.contains(part),
            None => parts.contains(name),
        };
        if !known {
            section.differs(|| format!("{key} stands in Redis, its row is gone"));
        }
    }
    Ok(())
}

/// Compares the fences of invalidated keys with the newest event that touched them.
pub(super) async fn compare_fences(
    redis: &mut MultiplexedConnection,
    topics: &BTreeMap<&'static str, State>,
    section: &mut Section,
) -> Result<()> {
    let mut touched: BTreeMap<String, &str> = BTreeMap::new();
    for (key, position) in topics.iter().flat_map(|(topic, state)| fences(topic, state)) {
        let newest = touched.entry(key).or_default();
        *newest = position.max(*newest);
    }
    let touched: Vec<_> = touched.into_iter().collect();
    for some in touched.chunks(AT_ONCE) {
        let mut ask = redis::pipe();
        for (key, _) in some {
            ask.get(format!("{PREFIX}:fence:{key}"));
        }
        let fences: Vec<Option<String>> = ask.query_async(redis).await?;
        for ((key, position), fence) in some.iter().zip(fences) {
            section.compared();
            if fence.as_deref().is_none_or(|fence| fence < *position) {
                section.differs(|| format!("the fence of {key} is {fence:?}, below the event at {position}"));
            }
        }
    }
    Ok(())
}

/// Returns the invalidated keys that a topic's events touched, each with the Position.
fn fences<'a>(topic: &'a str, state: &'a State) -> impl Iterator<Item = (String, &'a str)> {
    state.touched.iter().filter_map(move |((_, entity), touch)| {
        let table = super::tables::table_of(topic, entity)?;
        let (_, suffix) = INVALIDATED.iter().find(|(name, _)| *name == table.name)?;
        Some((format!("part:{}{suffix}", touch.part.as_ref()?), touch.position.as_str()))
    })
}

async fn hget_all(redis: &mut MultiplexedConnection, keys: &[&String], field: &str) -> Result<Vec<Option<String>>> {
    let mut ask = redis::pipe();
    for key in keys {
        ask.hget(key, field);
    }
    Ok(ask.query_async(redis).await?)
}
