//! The section `[audit]`.

use std::time::Duration;

use highwater_postgres::{ConfigError, ConnectConfig};

use crate::config::{Section, Server};

/// How the audit worker finds its database and what it does there.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The database with `data_change_logs`.
    pub database: Server,
    /// Changes appended in one transaction at most.
    pub batch_rows: usize,
    /// How long a transaction may take before it is tried again on a new connection.
    pub answer_timeout: Duration,
}

impl Settings {
    /// Reads the section.
    pub fn read(section: &mut Section<'_>) -> Self {
        let default = "postgresql://highwater_audit@127.0.0.1:5432/shop";
        Self {
            database: section.server("database", default, &["postgresql", "postgres"]),
            batch_rows: section.number("batch_rows", 500, 1..=100_000),
            answer_timeout: section.millis("answer_timeout_ms", 30_000, 100..=600_000),
        }
    }

    /// Returns what the connector needs.
    ///
    /// # Errors
    /// A parameter of the URL that the connector does not know.
    pub fn connect_config(&self) -> Result<ConnectConfig, ConfigError> {
        self.database.postgres("highwater audit")
    }
}
