//! Where a server is and how it is spoken to: what libpq calls a connection string.

mod parse;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The deadline for connecting where nobody set one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings that fix the text form of values, sent by every session at its start. There they stand above what roles
/// and databases have as their own, so that a snapshot and the stream write a value alike.
pub(crate) const TEXT_FORM: [(&str, &str); 7] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
];

/// A text that nobody may see: its `Debug` shows stars, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself, for the one place that sends it to its server.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// By name or address over TCP; with `hostaddr`, the name is only what TLS expects.
    Tcp {
        /// A host name or an address.
        name: String,
        /// The address to connect to, if it is not to be looked up.
        address: Option<IpAddr>,
    },
    /// By a folder of Unix sockets on this machine.
    Unix(PathBuf),
}

/// One place where the server can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The machine or folder.
    pub host: Host,
    /// The port, which for Unix sockets is part of the file's name.
    pub port: u16,
}

impl Endpoint {
    /// Returns whether the server is reached without a network.
    #[must_use]
    pub fn is_local_socket(&self) -> bool {
        matches!(self.host, Host::Unix(_))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

/// How private and how sure a TCP connection must be, as libpq has it. Unix sockets never use TLS.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server offers it, unverified. libpq's `allow` is read as this.
    Prefer,
    /// TLS; the certificate counts only if a root certificate is set, which makes this [`SslMode::VerifyCa`].
    Require,
    /// TLS with a certificate that a trusted authority signed.
    VerifyCa,
    /// The same, and made out to this host.
    VerifyFull,
}

/// Whether SCRAM is bound to the TLS channel, so that nobody in between can pass it on.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always; a server that does not offer it is refused.
    Require,
}

/// Which of several servers will do (libpq's `target_session_attrs`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TargetSession {
    /// The first that answers.
    Any,
    /// The first that takes writes.
    ReadWrite,
    /// The first that takes none.
    ReadOnly,
}

/// Settings of a connection that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

/// Everything needed to open a session, parsed from `postgresql://user@host:port/database?setting=value` or from
/// `host=… port=… user=…`.
///
/// Beside what [`Endpoint`] and the enums show: `application_name`, `connect_timeout` (seconds), `sslrootcert` (a file,
/// or `system`), `sslcert` and `sslkey` (files: a certificate to log in with), `options`. Several hosts are tried in turn. A setting that is not known is refused rather than ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectConfig {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: Option<Secret>,
    pub(crate) application_name: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) sslmode: SslMode,
    pub(crate) root_certificate: Option<PathBuf>,
    pub(crate) own_certificate: Option<PathBuf>,
    pub(crate) own_key: Option<PathBuf>,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) target: TargetSession,
    pub(crate) options: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
}

impl ConnectConfig {
    /// Reads a connection string of either form.
    ///
    /// # Errors
    ///
    /// Names the setting that is missing, unknown or wrong; a password in the text is never shown.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        parse::settings(text).and_then(parse::build)
    }

    /// Sets the password, in place of one in the text.
    #[must_use]
    pub fn with_password(mut self, password: Secret) -> Self {
        self.password = Some(password);
        self
    }

    /// Sets what the server's views and logs call the session.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> Self {
        self.application_name = Some(name.to_owned());
        self
    }

    /// Sets the deadline for opening a session, all its steps and all endpoints together; each endpoint has an equal
    /// share. The system's own time for looking up a name is not counted.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets a setting of the server for the session from its start, such as `wal_sender_timeout`; it stands above what
    /// roles and databases have as their own.
    #[must_use]
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.retain(|(set, _)| set != name);
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives the session deadlines of the server's own: so long for each statement, and half of that for each lock that it
    /// waits for, so that it says that it was a lock (SQLSTATE 55P03, and 57014 for the statement).
    #[must_use]
    pub fn with_statement_timeout(self, timeout: Duration) -> Self {
        let ms = timeout.as_millis().max(2);
        self.with_parameter("statement_timeout", &ms.to_string()).with_parameter("lock_timeout", &(ms / 2).to_string())
    }

    /// Returns the places where the server can be, in the order in which they are tried; at least one.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Returns the role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the database to connect to; by default it is called as the user is.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Returns whether there is a password to log in with.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Returns what the server's views and logs call the session.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// Returns the deadline for opening a session.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Returns one endpoint's share of the deadline.
    pub(crate) fn endpoint_timeout(&self) -> Duration {
        self.connect_timeout / u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Returns how private and how sure a TCP connection must be.
    #[must_use]
    pub fn sslmode(&self) -> SslMode {
        self.sslmode
    }

    /// Returns the settings that a session starts with: the caller's, then those of the text form, which nobody may
    /// change.
    pub(crate) fn session_settings(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        own.chain(TEXT_FORM)
    }
}

impl FromStr for ConnectConfig {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
