//! The command line of the demo.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use highwater_demo::{Endpoints, schema};

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
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let endpoints = Endpoints::read(arguments.env.as_deref())?;
    match arguments.command {
        Command::Schema => apply_schema(&endpoints).await,
    }
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
