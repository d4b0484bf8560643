//! Measures this project's capture beside its peers: same servers, same backlog, one run, taking turns.
//!
//! `scripts/bench-capture` installs what is needed, starts servers of its own and runs this.

mod backlog;
mod cost;
mod drain;
mod large;
mod latency;
mod machine;
mod process;
mod report;
mod rounds;
mod settings;
mod snapshot;
mod source;
mod tools;
mod topics;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use highwater_demo::Endpoints;

use machine::Machine;
use source::Source;
use topics::Kafka;

/// Partitions of every topic that rows go to.
const PARTITIONS: i32 = 8;

#[derive(Parser)]
#[command(version, about = "Measures this project's capture beside its peers")]
struct Arguments {
    /// What to measure; everything, unless named
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// The file with the stack's addresses
    #[arg(long, env = "HIGHWATER_STACK_ENV", default_value = "build/bench/env")]
    env: PathBuf,
    /// Runs of each tool; medians are reported
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Row changes of the backlog
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Changes of the one large transaction
    #[arg(long, default_value_t = 5_000_000)]
    large_rows: u64,
    /// Rows of the table that snapshots read
    #[arg(long, default_value_t = 5_000_000)]
    snapshot_rows: u64,
    /// Length of a run under steady load, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs that warm a broker which was just started, and do not count; otherwise as many as each scenario has
    #[arg(long)]
    warm_ups: Option<u32>,
    /// Only tools whose name contains one of these, comma-separated; then nothing is written to the results
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Settings of Highwater other than the shipped ones, such as `HIGHWATER_CAPTURE_LINGER_MS=5`; then nothing is written either
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Folder with the jars of Kafka Connect and Debezium
    #[arg(long, default_value = "build/debezium/libs")]
    connect_libs: PathBuf,
    /// The file that the tables are written to
    #[arg(long, default_value = "bench/RESULTS.md")]
    results: PathBuf,
}

impl Arguments {
    /// How many runs do not count, where a scenario usually has so many.
    fn warm_ups(&self, usual: u32) -> u32 {
        self.warm_ups.unwrap_or(usual)
    }

    /// Whether a tool is to be measured.
    fn wants(&self, tool: &str) -> bool {
        let name = tool.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|part| name.contains(&part.to_lowercase()))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// A backlog of small transactions, as fast as each tool can
    Drain,
    /// A steady load, and how late its changes are
    Latency,
    /// One transaction of millions of changes
    Large,
    /// A table that stands there already
    Snapshot,
    /// What the length of a Kafka transaction costs, and the wait for visibility
    Settings,
}

/// What every measurement needs.
struct Bench {
    source: Source,
    kafka: Kafka,
    machine: Machine,
    /// Where logs and configurations of the tools go.
    folder: PathBuf,
    /// The `highwater` binary that stands beside this one.
    highwater: PathBuf,
    connect_libs: PathBuf,
    /// Settings of Highwater other than the shipped ones.
    settings: Vec<(String, String)>,
    /// Process id of the broker.
    broker: u32,
}

impl Bench {
    async fn new(arguments: &Arguments) -> Result<Self> {
        let endpoints = Endpoints::read(Some(&arguments.env))?;
        let stack = PathBuf::from(endpoints.variables.get("HIGHWATER_STACK_DIR").context("no stack in the env file")?);
        let folder = stack.join("tools");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let pid_file = stack.join("run/kafka.pid");
        let pid = std::fs::read_to_string(&pid_file).with_context(|| format!("cannot read {}", pid_file.display()))?;
        let broker = pid.split_whitespace().next().and_then(|pid| pid.parse().ok()).context("no pid of the broker")?;
        let highwater = std::env::current_exe()?.with_file_name("highwater");
        let kafka = Kafka::new(&endpoints.brokers);
        let source = Source::open(endpoints).await?;
        let machine = Machine::read(&source, &arguments.connect_libs).await?;
        let (connect_libs, settings) = (arguments.connect_libs.clone(), arguments.set.clone());
        Ok(Self { source, kafka, machine, folder, highwater, connect_libs, settings, broker })
    }
}

impl Bench {
    /// Removes what a run left: its slot, its topics.
    async fn clean(&self, run: &str) -> Result<()> {
        self.source.drop_slot(run).await?;
        self.kafka.delete_prefix(run).await
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let bench = Bench::new(arguments).await?;
    let all = arguments.scenarios.is_empty();
    let wanted = |scenario: Scenario| all || arguments.scenarios.contains(&scenario);
    let as_shipped = arguments.only.is_empty() && arguments.set.is_empty() && arguments.warm_ups.is_none();
    let publishable = as_shipped && arguments.runs >= 3;
    let mut sections = Vec::new();
    if wanted(Scenario::Drain) {
        sections.push(drain::measure(&bench, arguments).await?);
    }
    if wanted(Scenario::Latency) {
        sections.push(latency::measure(&bench, arguments).await?);
    }
    if wanted(Scenario::Large) {
        sections.push(large::measure(&bench, arguments).await?);
    }
    if wanted(Scenario::Snapshot) {
        sections.push(snapshot::measure(&bench, arguments).await?);
    }
    if wanted(Scenario::Settings) {
        sections.push(settings::measure(&bench, arguments).await?);
    }
    for section in &sections {
        println!("\n{section}");
    }
    if publishable {
        report::write(&arguments.results, &sections)?;
        eprintln!("bench: written to {}", arguments.results.display());
    } else {
        eprintln!(
            "bench: not written to {}: not every tool as shipped, fewer than 3 runs, or other warm-ups",
            arguments.results.display()
        );
    }
    Ok(())
}
