//! One connection of a writer, which prepares each statement once.

use std::collections::HashMap;

use anyhow::Result;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use crate::Endpoints;

pub(super) struct Session {
    client: Client,
    prepared: HashMap<&'static str, Statement>,
}

impl Session {
    pub(super) async fn open(database: &str) -> Result<Self> {
        Ok(Self { client: Endpoints::connect(database).await?, prepared: HashMap::new() })
    }

    /// Runs a statement that has neither parameters nor rows: BEGIN and its like.
    pub(super) async fn run(&self, statement: &str) -> Result<(), Error> {
        self.client.batch_execute(statement).await
    }

    pub(super) async fn execute(
        &mut self,
        statement: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        let statement = self.prepare(statement).await?;
        self.client.execute(&statement, values).await
    }

    pub(super) async fn query(
        &mut self,
        statement: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(statement).await?;
        self.client.query(&statement, values).await
    }

    async fn prepare(&mut self, statement: &'static str) -> Result<Statement, Error> {
        if let Some(known) = self.prepared.get(statement) {
            return Ok(known.clone());
        }
        let made = self.client.prepare(statement).await?;
        self.prepared.insert(statement, made.clone());
        Ok(made)
    }
}
