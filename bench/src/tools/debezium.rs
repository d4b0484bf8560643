//! Debezium's connector on Kafka Connect standalone.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::{Bench, PARTITIONS};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Debezium {
    /// The connector's own defaults; the worker as in Kafka's `connect-standalone.properties`, JSON with schemas.
    Default,
    /// For throughput: larger batches and queues, a producer that waits for and compresses batches, JSON without schemas.
    Tuned,
    /// For latency: nothing waits, JSON without schemas.
    Latency,
}

impl Debezium {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Tuned => "tuned",
            Self::Latency => "tuned for latency",
        }
    }

    /// Settings of the worker, and of the connector.
    fn tuning(self) -> (&'static str, &'static str) {
        match self {
            Self::Default => ("", ""),
            Self::Tuned => (TUNED_WORKER, TUNED_CONNECTOR),
            Self::Latency => ("producer.linger.ms=0\n", "poll.interval.ms=1\n"),
        }
    }
}

/// What the tuned worker has beside its converters.
const TUNED_WORKER: &str = "\
producer.linger.ms=20
producer.batch.size=524288
producer.buffer.memory=134217728
producer.compression.type=lz4
";
/// What the tuned connector has on top.
const TUNED_CONNECTOR: &str = "\
max.batch.size=16384
max.queue.size=65536
poll.interval.ms=10
";
/// Those of Kafka's own `connect-standalone.sh` (`KAFKA_HEAP_OPTS`, `KAFKA_JVM_PERFORMANCE_OPTS`).
const JVM: [&str; 8] = [
    "-Xms256M",
    "-Xmx2G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
];

/// The topic that the changes of the table go to.
pub(crate) fn topic(run: &str) -> String {
    format!("{run}.public.stock_levels")
}

/// Starts worker and connector on a slot, into a topic with the prefix `run`.
pub(crate) async fn start(bench: &Bench, tool: Debezium, slot: &str, run: &str) -> Result<Process> {
    start_in(bench, tool, slot, run, "no_data").await
}

/// Starts them so that they make the slot, and read the table first.
pub(crate) async fn start_with_snapshot(bench: &Bench, tool: Debezium, slot: &str, run: &str) -> Result<Process> {
    start_in(bench, tool, slot, run, "initial").await
}

async fn start_in(bench: &Bench, tool: Debezium, slot: &str, run: &str, mode: &str) -> Result<Process> {
    let libs = &bench.connect_libs;
    ensure!(libs.is_dir(), "there is no Debezium in {}; run scripts/install bench", libs.display());
    bench.kafka.make(&topic(run), PARTITIONS, &[("max.message.bytes", "16777216")]).await?;
    let (worker, connector) = (bench.folder.join("worker.properties"), bench.folder.join("connector.properties"));
    let offsets = bench.folder.join("connect.offsets");
    if offsets.exists() {
        std::fs::remove_file(&offsets).context("cannot remove the offsets of the run before")?;
    }
    write(&worker, &worker_properties(bench, tool, &offsets))?;
    write(&connector, &connector_properties(bench, tool, slot, run, mode)?)?;
    let mut command = Command::new("java");
    command
        .args(JVM)
        .arg(format!("-Dlog4j2.configurationFile={}", Path::new("scripts/kafka/log4j2.properties").display()))
        .arg("-cp")
        .arg(libs.join("*"))
        .arg("org.apache.kafka.connect.cli.ConnectStandalone")
        .args([&worker, &connector]);
    Process::spawn(&mut command, &bench.folder.join("debezium.log"))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn worker_properties(bench: &Bench, tool: Debezium, offsets: &Path) -> String {
    let schemas = tool == Debezium::Default;
    let mut text = format!(
        "bootstrap.servers={}\n\
         key.converter=org.apache.kafka.connect.json.JsonConverter\n\
         value.converter=org.apache.kafka.connect.json.JsonConverter\n\
         key.converter.schemas.enable={schemas}\n\
         value.converter.schemas.enable={schemas}\n\
         offset.storage.file.filename={}\n\
         offset.flush.interval.ms=10000\n\
         listeners=http://127.0.0.1:0\n\
         plugin.discovery=service_load\n",
        bench.kafka.brokers,
        offsets.display()
    );
    text.push_str(tool.tuning().0);
    text
}

fn connector_properties(bench: &Bench, tool: Debezium, slot: &str, run: &str, mode: &str) -> Result<String> {
    let source = &bench.source;
    let mut text = format!(
        "name={run}\n\
         connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
         database.hostname=127.0.0.1\n\
         database.port={}\n\
         database.user=highwater_capture\n\
         database.password={}\n\
         database.dbname=shop\n\
         plugin.name=pgoutput\n\
         publication.name=highwater\n\
         publication.autocreate.mode=disabled\n\
         slot.name={slot}\n\
         topic.prefix={run}\n\
         table.include.list=public.stock_levels\n\
         snapshot.mode={mode}\n",
        source.variable("PRIMARY_PORT")?,
        source.variable("HIGHWATER_SOURCE_PASSWORD")?
    );
    text.push_str(tool.tuning().1);
    Ok(text)
}
