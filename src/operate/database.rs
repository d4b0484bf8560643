//! An ordinary connection for a question or two.

use std::time::Duration;

use highwater_postgres::{Error, client};
use tokio_postgres::Client;

use crate::config::Server;

/// Longest wait for one answer of a server.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// Connects with the password that belongs to the server.
///
/// # Errors
/// A URL that the connector does not know, or what the server says.
pub async fn connect(server: &Server, application_name: &str) -> Result<Client, Error> {
    client::connect(&server.postgres(application_name)?.with_connect_timeout(ANSWER)).await
}
