//! The command line: parse, load configuration, run roles, drain.

mod run;
mod start;
mod telemetry;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use highwater::operate::{check, dead_letters, replay, snapshot, status};
use highwater::roles::{Config, Role};
use highwater::running::told;

/// For librdkafka, too: each record is allocated by one thread and freed by another.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Keeps every copy of a shop's catalogue at the primary's high-water mark.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Where the settings stand; any of them also comes from `HIGHWATER_<SECTION>_<KEY>`.
    #[arg(long, global = true, env = "HIGHWATER_CONFIG", default_value = "config.toml", value_name = "PATH")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs roles until SIGTERM or Ctrl-C; a second one ends at once.
    Run {
        /// What this process is; everything if none is named.
        roles: Vec<RoleName>,
    },
    /// Reads the topics again from their beginning, beside live traffic, and ends by itself.
    Replay {
        /// Which copy is rebuilt.
        #[arg(long)]
        into: Copied,
    },
    /// Reads tables again while the pipeline runs, deletes in the topics what vanished from them, and ends when that is done.
    Snapshot {
        /// Their names, as the mapping has them.
        #[arg(required = true)]
        tables: Vec<String>,
        /// Asks for it, and does not wait.
        #[arg(long)]
        no_wait: bool,
    },
    /// Says what would go wrong at the start, and the command that mends it. Exit code 1 if something would.
    Check {
        /// What the process will be; everything if none is named.
        roles: Vec<RoleName>,
    },
    /// What could not be applied, and its second chance.
    DeadLetters {
        #[command(subcommand)]
        command: DeadLetters,
    },
    /// Shows how far capture and the workers are. Exit code 1 if a server did not answer.
    Status {
        /// Shows it as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// Shows the newest fifty that wait, newest first.
    List {
        /// Only those of one worker: capture, cache, audit or storefront.
        #[arg(long)]
        worker: Option<String>,
        /// All of them, also those whose retry has worked.
        #[arg(long)]
        all: bool,
        /// One JSON object for each line.
        #[arg(long)]
        json: bool,
        /// Also the original bytes, which hold row data.
        #[arg(long)]
        payload: bool,
    },
    /// Applies letters again, each by its worker's way. Exit code 1 if one could not be; it stays.
    Retry {
        /// Those at these offsets of the dead letters, as `list` shows them.
        #[arg(long, num_args = 1.., conflicts_with_all = ["worker", "all"])]
        offset: Vec<i64>,
        /// All that wait of one worker.
        #[arg(long, conflicts_with = "all")]
        worker: Option<String>,
        /// All that wait.
        #[arg(long, required_unless_present_any = ["offset", "worker"])]
        all: bool,
    },
}

/// A copy that can be rebuilt from the topics.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Copied {
    Cache,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    Capture,
    Cache,
    Audit,
    Storefront,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Capture => Self::Capture,
            RoleName::Cache => Self::Cache,
            RoleName::Audit => Self::Audit,
            RoleName::Storefront => Self::Storefront,
        }
    }
}

/// Exit code where the configuration, like the command line, is not one that can run.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(&cli.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(REFUSED);
        }
    };
    match execute(cli.command, config) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("highwater: {}", told(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, config: Config) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = match command {
        Command::Run { roles } => {
            telemetry::start_logs(&config.operate)?;
            let metrics = telemetry::start_metrics()?;
            runtime.block_on(run::run(config, &chosen(roles), metrics))
        }
        Command::Replay { into: Copied::Cache } => {
            telemetry::start_logs(&config.operate)?;
            let show = |advance| println!("{advance}");
            let summary = runtime.block_on(replay::replay(&config.topics, &config.cache, show));
            summary
                .map(|summary| {
                    println!("{summary}");
                    ExitCode::SUCCESS
                })
                .context("the replay ended early; what it did stands, and it can be started again")
        }
        Command::Snapshot { tables, no_wait } => {
            telemetry::start_logs(&config.operate)?;
            let show = |advance: &snapshot::Advance| println!("{advance}");
            runtime.block_on(snapshot::snapshot(&config.source, &config.topics, &tables, !no_wait, show))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { roles } => {
            let report = runtime.block_on(check::check(&config, &chosen(roles)));
            println!("{report}");
            Ok(if report.can_start() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::DeadLetters { command } => runtime.block_on(dead_letters(&config, command)),
        Command::Status { json } => {
            let status = runtime.block_on(status::status(&config));
            if json {
                println!("{}", serde_json::to_string(&status)?);
            } else {
                print!("{status}");
            }
            Ok(if status.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    };
    // What hangs past its deadline must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn dead_letters(config: &Config, command: DeadLetters) -> Result<ExitCode> {
    match command {
        DeadLetters::List { worker, all, json, payload } => {
            let show = |letter: &dead_letters::Letter| {
                let line = if json { serde_json::to_string(letter) } else { Ok(letter.to_string()) };
                println!("{}", line.unwrap_or_else(|error| error.to_string()));
            };
            dead_letters::list(&config.topics, &dead_letters::List { worker, all, payload }, show).await?;
            Ok(ExitCode::SUCCESS)
        }
        DeadLetters::Retry { offset, worker, all: _ } => {
            let chosen = match worker {
                Some(worker) => dead_letters::Chosen::Worker(worker),
                None if offset.is_empty() => dead_letters::Chosen::All,
                None => dead_letters::Chosen::Offsets(offset),
            };
            let outcomes = dead_letters::retry(config, &chosen, |outcome| println!("{outcome}")).await?;
            let done = outcomes.iter().filter(|outcome| outcome.result.is_ok()).count();
            println!("{done} of {} done", outcomes.len());
            Ok(if done == outcomes.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// Returns the named roles once each, in the order in which a change reaches them.
fn chosen(names: Vec<RoleName>) -> Vec<Role> {
    if names.is_empty() {
        return Role::ALL.to_vec();
    }
    let mut roles: Vec<Role> = names.into_iter().map(Role::from).collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}
