//! Ordinary asynchronous sessions, by `tokio_postgres`, from the same configuration.

use std::time::Duration;

use tokio_postgres::config::{ChannelBinding as Binding, SslMode as Mode, TargetSessionAttrs};
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{ChannelBinding, ConfigError, ConnectConfig, Endpoint, Host, SslMode, TargetSession};
use crate::error::{Error, Result, ServerError};
use crate::tls;

/// Opens a session at the first of the configured endpoints that takes it.
///
/// Its connection runs as a task of the current runtime and ends with the client. The text form of values is that of
/// [`crate::Connection`].
///
/// # Errors
///
/// As [`crate::Connection::connect`].
pub async fn connect(config: &ConnectConfig) -> Result<Client> {
    let after = config.endpoint_timeout();
    let mut outcome = Err(Error::Config(ConfigError("no endpoint is configured".to_owned())));
    for endpoint in &config.endpoints {
        outcome = tokio::time::timeout(after, at(config, endpoint)).await.unwrap_or_else(|_| {
            Err(Error::Timeout { waiting_for: format!("opening a session (PostgreSQL at {endpoint})"), after })
        });
        // The next server has the same users.
        if matches!(outcome, Ok(_) | Err(Error::Refused { .. } | Error::Config(_))) {
            break;
        }
    }
    outcome
}

async fn at(config: &ConnectConfig, endpoint: &Endpoint) -> Result<Client> {
    let settings = settings(config, endpoint);
    let fault = |error| explain(error, config, endpoint);
    if endpoint.is_local_socket() || config.sslmode == SslMode::Disable {
        let (client, connection) = settings.connect(NoTls).await.map_err(fault)?;
        spawn(connection);
        return Ok(client);
    }
    let tls = MakeRustlsConnect::new(tls::client_config(config)?);
    let (client, connection) = settings.connect(tls).await.map_err(fault)?;
    spawn(connection);
    Ok(client)
}

fn spawn<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        // Whoever waits for an answer gets the failure, too; without one, it is news to nobody else.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to PostgreSQL ended");
        }
    });
}

fn settings(config: &ConnectConfig, endpoint: &Endpoint) -> tokio_postgres::Config {
    let mut settings = tokio_postgres::Config::new();
    settings.user(&config.user).dbname(&config.database).port(endpoint.port);
    settings.connect_timeout(config.endpoint_timeout());
    settings
        .keepalives_idle(Duration::from_secs(30))
        .keepalives_interval(Duration::from_secs(10))
        .keepalives_retries(3);
    if let Some(password) = &config.password {
        settings.password(password.expose());
    }
    if let Some(name) = &config.application_name {
        settings.application_name(name);
    }
    match &endpoint.host {
        Host::Unix(folder) => drop(settings.host_path(folder)),
        Host::Tcp { name, address } => {
            settings.host(name);
            if let Some(address) = address {
                settings.hostaddr(*address);
            }
        }
    }
    settings.ssl_mode(match config.sslmode {
        _ if endpoint.is_local_socket() => Mode::Disable,
        SslMode::Disable => Mode::Disable,
        SslMode::Prefer => Mode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Mode::Require,
    });
    settings.channel_binding(match config.channel_binding {
        ChannelBinding::Disable => Binding::Disable,
        ChannelBinding::Prefer => Binding::Prefer,
        ChannelBinding::Require => Binding::Require,
    });
    settings.target_session_attrs(match config.target {
        TargetSession::Any => TargetSessionAttrs::Any,
        TargetSession::ReadWrite => TargetSessionAttrs::ReadWrite,
        TargetSession::ReadOnly => TargetSessionAttrs::ReadOnly,
    });
    settings.options(options(config));
    settings
}

/// Writes the session's settings as command-line options, the one place that `tokio_postgres` has for them. Of several
/// values the last counts, so that the text form stands above all.
fn options(config: &ConnectConfig) -> String {
    let mut options = config.options.clone().unwrap_or_default();
    for (name, value) in config.session_settings() {
        options.push_str(" -c ");
        options.push_str(name);
        options.push('=');
        for c in value.chars() {
            if c == '\\' || c.is_whitespace() {
                options.push('\\');
            }
            options.push(c);
        }
    }
    options
}

/// Adds to a failed attempt what it was an attempt at.
fn explain(error: tokio_postgres::Error, config: &ConnectConfig, endpoint: &Endpoint) -> Error {
    let address = endpoint.to_string();
    // The library keeps its kinds to itself; their words are all it shows.
    let kind = error.to_string();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let refused = |reason| {
        let (user, database) = (config.user.clone(), config.database.clone());
        Error::Refused { address: address.clone(), user, database, reason }
    };
    match Error::from(error) {
        Error::Server(reason) if reason.is_login_failure() => refused(reason),
        Error::Lost { source, .. } if !kind.starts_with("error performing TLS") => {
            Error::Unreachable { address, source }
        }
        _ if kind.starts_with("error performing TLS") => Error::Tls { address, reason: source.unwrap_or(kind) },
        _ if kind.starts_with("invalid configuration") || kind.starts_with("authentication error") => {
            refused(Box::new(ServerError { message: kind, ..ServerError::default() }))
        }
        other => other,
    }
}
