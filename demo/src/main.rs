//! The command line of the demo.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use highwater_demo::{Endpoints, check, generate, run, schema, write};

/// Fills a shop, writes to it, watches its copies and checks them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The file with the stack's addresses; the environment goes before it
    #[arg(long, global = true, env = "HIGHWATER_STACK_ENV")]
    env: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Applies the migrations and sets the passwords of the login roles
    Schema,
    /// Fills an empty shop with a believable catalogue
    Generate {
        /// Number of parts; the other tables follow
        #[arg(long, default_value_t = 10_000)]
        parts: u64,
        /// The same seed gives the same shop
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Compares every copy with the database; nobody may write meanwhile
    Check {
        /// How long the copies may take to catch up
        #[arg(long, default_value_t = 60)]
        patience_s: u64,
        /// Accept writes that were made before the pipeline first ran
        #[arg(long)]
        since_capture: bool,
    },
    /// Runs the pipeline with writers, observers and a page, until Ctrl-C
    Run {
        /// Ends by itself, without a terminal, and compares every copy with the database
        #[arg(long)]
        check: bool,
        /// Ends by itself after so long
        #[arg(long)]
        seconds: Option<u64>,
        /// Transactions per second
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Parts to fill an empty shop with
        #[arg(long, default_value_t = 10_000)]
        parts: u64,
        /// The pipeline's configuration
        #[arg(long, default_value = "config.toml")]
        config: PathBuf,
        /// Where the page listens, if that port is free
        #[arg(long, default_value = "127.0.0.1:8088")]
        page: SocketAddr,
    },
    /// Keeps writes going until Ctrl-C
    Write {
        /// Transactions per second
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Connections that write at the same time
        #[arg(long, default_value_t = 4)]
        connections: u32,
        /// Ends by itself after so long
        #[arg(long)]
        seconds: Option<u64>,
        /// The same seed plans the same writes
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let endpoints = Endpoints::read(arguments.env.as_deref())?;
    match arguments.command {
        Command::Schema => apply_schema(&endpoints).await?,
        Command::Generate { parts, seed } => fill(&endpoints, generate::Options { parts, seed }).await?,
        Command::Write { rate, connections, seconds, seed } => {
            keep_writing(&endpoints, write::Options { rate, connections, seed }, seconds).await?;
        }
        Command::Run { check, seconds, rate, parts, config, page } => {
            let options = run::Options {
                check,
                seconds,
                writes: write::Options { rate, ..write::Options::default() },
                catalogue: generate::Options { parts, ..generate::Options::default() },
                config,
                page,
            };
            let clean = run::run(endpoints, &options).await?;
            return Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Check { patience_s, since_capture } => {
            let options = check::Options {
                patience: Duration::from_secs(patience_s),
                story: if since_capture { check::Story::Late } else { check::Story::Whole },
                ..check::Options::default()
            };
            let report = check::everything(&endpoints, &options).await?;
            print!("{report}");
            return Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn apply_schema(endpoints: &Endpoints) -> Result<()> {
    let mut client = Endpoints::connect(&endpoints.admin_database).await?;
    for name in schema::apply(&mut client).await? {
        println!("applied {name}");
    }
    if let Some(password) = &endpoints.password {
        schema::set_passwords(&client, password).await?;
    }
    Ok(())
}

async fn fill(endpoints: &Endpoints, options: generate::Options) -> Result<()> {
    let client = Endpoints::connect(&endpoints.admin_database).await?;
    let summary = generate::fill(&client, &options).await?;
    for (table, rows) in &summary.rows {
        println!("{rows:>10} {table}");
    }
    println!("filled in {:.1} s", summary.took.as_secs_f64());
    Ok(())
}

async fn keep_writing(endpoints: &Endpoints, options: write::Options, seconds: Option<u64>) -> Result<()> {
    let writers = write::Writers::start(endpoints, options, None).await?;
    tokio::select! {
        ended = tokio::signal::ctrl_c() => ended?,
        () = tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(u64::MAX / 4))) => {}
    }
    print!("{}", writers.stop().await?);
    Ok(())
}
