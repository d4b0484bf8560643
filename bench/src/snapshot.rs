//! A table that stands there already: into Kafka while writes go on, beside a plain COPY to nowhere.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::backlog::{ORIGIN, fill, is_complete};
use crate::cost::{Cost, Meter, Watched, now_us};
use crate::latency;
use crate::process::Process;
use crate::report::{grouped, provenance, table};
use crate::rounds::{Outcome, take_turns, warm_up};
use crate::source::Path;
use crate::tools::debezium::{self, Debezium};
use crate::tools::highwater::{self, Highwater};
use crate::topics::Kafka;
use crate::{Arguments, Bench, PARTITIONS};

const RUN: &str = "bench_run";
const LOOK: Duration = Duration::from_millis(100);
const READ_WITHIN: Duration = Duration::from_mins(10);
/// Readings that do not count; each is as much for the broker as five drains.
const WARM_UPS: u32 = 4;
/// Connections of the plain COPY: as many as Highwater reads with.
const CONNECTIONS: u64 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Copy,
    Highwater,
    Debezium(Debezium),
}

impl Reader {
    const ALL: [Self; 4] =
        [Self::Copy, Self::Highwater, Self::Debezium(Debezium::Default), Self::Debezium(Debezium::Tuned)];

    fn name(self) -> String {
        match self {
            Self::Copy => format!("COPY to nowhere, {CONNECTIONS} connections"),
            Self::Highwater => "Highwater, as shipped".to_owned(),
            Self::Debezium(tool) => format!("Debezium, {}", tool.name()),
        }
    }
}

struct Run {
    rows_per_s: f64,
    cost: Cost,
    peak_mib: f64,
}

pub(crate) async fn measure(bench: &Bench, arguments: &Arguments) -> Result<String> {
    bench.source.drop_slot(ORIGIN).await?;
    fill(bench, arguments.snapshot_rows).await?;
    let readers = Reader::ALL.into_iter().filter(|reader| arguments.wants(&reader.name()));
    let told = |run: &Run| format!("{} rows/s, {:.0} MiB", grouped(run.rows_per_s), run.peak_mib);
    let run = async |reader: Reader| {
        bench.clean(RUN).await?;
        // Beside writes that end with the reading.
        tokio::select! {
            outcome = read(bench, reader, arguments.snapshot_rows) => outcome,
            written = latency::write(bench, READ_WITHIN) => {
                written.and_then(|_| bail!("it was not done within {READ_WITHIN:?}"))
            }
        }
    };
    warm_up(arguments.warm_ups(WARM_UPS), async || run(Reader::Highwater).await).await;
    let outcomes = take_turns(readers, arguments.runs, Reader::name, run, told).await;
    bench.clean(RUN).await?;
    Ok(section(bench, &outcomes, arguments))
}

async fn read(bench: &Bench, reader: Reader, rows: u64) -> Result<Run> {
    match reader {
        Reader::Copy => copy(bench, rows).await,
        Reader::Highwater => {
            let tool = Highwater::shipped(true, Path::Tcp);
            let process = highwater::start(bench, tool, RUN, RUN)?;
            let progress = format!("{RUN}.progress");
            let done = || Ok(bench.kafka.last_record(&progress)?.is_some_and(|(_, value)| is_complete(&value)));
            follow(bench, process, &format!("{RUN}.stock"), "stock.snapshot\"", rows, done).await
        }
        Reader::Debezium(tool) => {
            let process = debezium::start_with_snapshot(bench, tool, RUN, RUN).await?;
            let topic = debezium::topic(RUN);
            let asking = bench.kafka.asking()?;
            let done = || Ok(Kafka::appended(&asking, &topic, PARTITIONS)? >= rows);
            follow(bench, process, &topic, "\"op\":\"r\"", rows, done).await
        }
    }
}

/// Waits until a tool has read the table, and counts what it wrote: `row` stands in the records of rows that were read.
async fn follow(
    bench: &Bench,
    mut process: Process,
    topic: &str,
    row: &str,
    rows: u64,
    done: impl Fn() -> Result<bool>,
) -> Result<Run> {
    let began = bench.source.slot_made(RUN, &mut process).await?;
    let meter = Meter::start(Watched { tool: process.pid(), broker: bench.broker, walsender: began.walsender });
    let deadline = Instant::now() + READ_WITHIN;
    while !done()? {
        process.still_runs()?;
        ensure!(Instant::now() < deadline, "it was not done within {READ_WITHIN:?}\n{}", process.last_lines());
        tokio::time::sleep(LOOK).await;
    }
    let readings = meter.stop()?;
    process.terminate()?;
    let read = bench.kafka.count_of(topic, row)?;
    ensure!(read.entities >= rows, "{topic} holds {} rows of {rows}", read.entities);
    let last_us = read.last_ms * 1000;
    #[expect(clippy::cast_precision_loss, reason = "a rate and a size")]
    Ok(Run {
        rows_per_s: rows as f64 * 1e6 / (last_us - began.at_us) as f64,
        cost: readings.between(began.at_us, last_us),
        peak_mib: readings.peak_kib as f64 / 1024.0,
    })
}

/// The ceiling: PostgreSQL's own client throws the rows away.
async fn copy(bench: &Bench, rows: u64) -> Result<Run> {
    let folder = std::env::var("PG_BIN").map(PathBuf::from).context("PG_BIN is not set; run scripts/bench-capture")?;
    let began = now_us();
    let mut readers = Vec::new();
    for connection in 0..CONNECTIONS {
        let (from, to) = (rows * connection / CONNECTIONS, rows * (connection + 1) / CONNECTIONS);
        let sql = format!("COPY (SELECT * FROM stock_levels WHERE id > {from} AND id <= {to} ORDER BY id) TO STDOUT");
        let reader = Command::new(folder.join("psql"))
            .args(["-XqAt", "-c", &sql, &bench.source.capture_address(Path::Tcp)?])
            .env("PGPASSWORD", bench.source.variable("HIGHWATER_SOURCE_PASSWORD")?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("psql could not be started")?;
        readers.push(reader);
    }
    let ended = tokio::task::spawn_blocking(move || {
        readers.iter_mut().map(std::process::Child::wait).collect::<std::io::Result<Vec<_>>>()
    });
    let ended = ended.await??;
    ensure!(ended.iter().all(std::process::ExitStatus::success), "psql failed: {ended:?}");
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rows_per_s = rows as f64 * 1e6 / (now_us() - began) as f64;
    Ok(Run { rows_per_s, cost: Cost::default(), peak_mib: 0.0 })
}

fn section(bench: &Bench, outcomes: &[Outcome<Reader, Run>], arguments: &Arguments) -> String {
    let speed = |wanted: fn(Reader) -> bool| {
        let wanted = outcomes.iter().filter(|outcome| wanted(outcome.tool));
        wanted
            .filter_map(|outcome| outcome.median(|run| run.rows_per_s))
            .map(|median| median.middle)
            .max_by(f64::total_cmp)
    };
    let (ceiling, debezium) =
        (speed(|reader| reader == Reader::Copy), speed(|reader| matches!(reader, Reader::Debezium(_))));
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let reader = outcome.tool;
            let Some(rate) = outcome.median(|run| run.rows_per_s) else { return vec![reader.name(), outcome.why()] };
            let ratio = |to: Option<f64>| to.map_or("–".to_owned(), |to| format!("{:.2}", rate.middle / to));
            let figure = |of: fn(&Run) -> f64, digits: usize| {
                let median = outcome.median(of).filter(|_| reader != Reader::Copy);
                median.map_or("–".to_owned(), |median| format!("{:.digits$}", median.middle))
            };
            vec![
                reader.name(),
                format!("{} ({}–{})", grouped(rate.middle), grouped(rate.least), grouped(rate.most)),
                ratio(ceiling),
                ratio(debezium),
                figure(|run| run.cost.tool, 1),
                figure(|run| run.cost.broker, 1),
                figure(|run| run.cost.others, 1),
                figure(|run| run.peak_mib, 0),
            ]
        })
        .collect();
    let head = ["reader", "rows/s", "× COPY", "× Debezium", "CPU s", "broker", "others", "peak MiB"];
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    let count = grouped(arguments.snapshot_rows as f64);
    let mut text = format!("## Snapshot of {count} rows beside {} commits a second\n\n", latency::COMMITS_PER_S);
    text += &provenance(&bench.machine);
    let _ = write!(
        text,
        "{} runs of each, in turns. The clock starts when the tool's slot is there, and stops at the broker's append of the last row \
         that was read; for COPY it is the run of the clients, which start at the same time. Every topic was read afterwards and held \
         every row. {} readings before the first do not count: they warm the broker's virtual machine, for all tools. `others` has the server's side of the reading, and the writers.\n\n",
        arguments.runs,
        arguments.warm_ups(WARM_UPS)
    );
    text + &table(&head, &rows)
}
