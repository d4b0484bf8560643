//! The way to the server: address and secrets, the checks of what it must be, and the function library on it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisError, TlsCertificates};

use crate::Error;

const FUNCTIONS: &str = include_str!("functions.lua");

/// A password. It has no text form, so that no log can hold it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes a password.
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where the cache is and how long to wait for it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `redis://[user@]host:port[/database]`, `rediss://…` for TLS, or `unix:///path`.
    pub server: String,
    /// The user's password, or that of the default user.
    pub password: Option<Secret>,
    /// Root certificates in PEM form for TLS, in place of those of the machine.
    pub root_certificates: Option<Vec<u8>>,
    /// What the names of fences and progress begin with; two pipelines on one server need two.
    pub prefix: String,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long the server may take to answer.
    pub answer_timeout: Duration,
}

impl Options {
    /// Options with prefix `highwater`, 2 s to connect and 5 s to answer.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            password: None,
            root_certificates: None,
            prefix: "highwater".to_owned(),
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(5),
        }
    }
}

/// Attempts to connect again, with growing pauses up to a second, before a call fails; a worker then waits on its own terms.
const RECONNECTS: usize = 3;

/// A connection to the cache. It is shared and cheap to clone, and connects again by itself.
#[derive(Clone)]
pub struct Cache {
    connection: ConnectionManager,
    shared: Arc<Shared>,
}

struct Shared {
    /// Host and port, for messages.
    server: String,
    prefix: String,
    library: String,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("server", &self.shared.server)
            .field("prefix", &self.shared.prefix)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Connects, checks that the server keeps what must be kept, and loads the functions.
    ///
    /// # Errors
    /// [`Error::is_transient`] where the server is away, which the caller may try again; everything else wants a person.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        let client = client(options)?;
        let server = client.get_connection_info().addr().to_string();
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(RECONNECTS)
            .set_max_delay(Duration::from_secs(1))
            .set_connection_timeout(Some(options.connect_timeout))
            .set_response_timeout(Some(options.answer_timeout));
        let connection = ConnectionManager::new_with_config(client, config).await.map_err(|source| Error::Server {
            server: server.clone(),
            what: "did not take the connection",
            source,
        })?;
        let cache = Self {
            connection,
            shared: Arc::new(Shared { server, prefix: options.prefix.clone(), library: library() }),
        };
        cache.prepare().await?;
        Ok(cache)
    }

    /// Returns host and port of the server, for messages.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.shared.server
    }

    /// Asks for the server's clock.
    ///
    /// # Errors
    /// A server that is away or refuses.
    pub async fn clock(&self) -> Result<SystemTime, Error> {
        let (seconds, micros): (u64, u64) = self.send(&redis::cmd("TIME"), "was asked for its clock").await?;
        Ok(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros))
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// Checks the server and loads the functions. Done again whenever they are missing, because then it is not the server
    /// that was checked before: one restarted without its files, or a replica of another making.
    async fn prepare(&self) -> Result<(), Error> {
        let info: String = self.send(&redis::cmd("INFO"), "was asked for its version and policy").await?;
        self.check(&info)?;
        let source = FUNCTIONS.replace("LIBRARY", &self.shared.library);
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(source);
        let _: String = self.send(&load, "did not load the function library").await?;
        tracing::debug!(server = %self.shared.server, library = %self.shared.library, "loaded functions");
        Ok(())
    }

    fn check(&self, info: &str) -> Result<(), Error> {
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or("unknown").trim().to_owned()
        };
        let server = self.shared.server.clone();
        let version = field("redis_version");
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(Error::TooOld { server, version });
        }
        if field("redis_mode") == "cluster" {
            return Err(Error::Cluster { server });
        }
        let policy = field("maxmemory_policy");
        if policy != "noeviction" && !policy.starts_with("volatile-") {
            return Err(Error::Evicts { server, policy });
        }
        Ok(())
    }

    /// Begins a call of one of the library's functions.
    pub(crate) fn function(&self, name: &str, keys: usize) -> Cmd {
        let mut call = redis::cmd("FCALL");
        call.arg(format!("{}_{name}", self.shared.library)).arg(keys);
        call
    }

    /// Calls a function, loading the library first where the server has lost it.
    pub(crate) async fn call<T: FromRedisValue>(&self, call: &Cmd, what: &'static str) -> Result<T, Error> {
        match self.send(call, what).await {
            Err(Error::Server { source, .. }) if is_missing(&source) => {
                tracing::warn!(server = %self.shared.server, "functions are missing, will load them again");
                self.prepare().await?;
                self.send(call, what).await
            }
            answer => answer,
        }
    }

    pub(crate) async fn send<T: FromRedisValue>(&self, command: &Cmd, what: &'static str) -> Result<T, Error> {
        let mut connection = self.connection.clone();
        command.query_async(&mut connection).await.map_err(|source| Error::Server {
            server: self.shared.server.clone(),
            what,
            source,
        })
    }
}

fn is_missing(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("Function not found"))
}

/// Returns the library's name. It carries a digest of the text, so that programs with different functions do not replace
/// each other's on a shared server (FNV-1a: it tells versions apart and guards nothing).
fn library() -> String {
    let digest = FUNCTIONS
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("highwater_{:08x}", digest >> 32)
}

fn client(options: &Options) -> Result<Client, Error> {
    let scheme = options.server.split("://").next().unwrap_or_default();
    let shown = if options.server.contains('@') { format!("{scheme}://…") } else { options.server.clone() };
    let refused = |source: RedisError| Error::Address { server: shown.clone(), reason: source.to_string() };
    let info = options.server.as_str().into_connection_info().map_err(refused)?;
    let mut settings = info.redis_settings().clone();
    if settings.password().is_some() {
        return Err(Error::PasswordInAddress);
    }
    if let Some(Secret(password)) = &options.password {
        settings = settings.set_password(password);
    }
    let info = info.set_redis_settings(settings);
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Client::open(info).map_err(refused);
    }
    // Fails only where the program has chosen a provider already, which then serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certificates = TlsCertificates { client_tls: None, root_cert: options.root_certificates.clone() };
    Client::build_with_tls(info, certificates).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_address_is_refused_and_never_shown() {
        let error = client(&Options::new("redis://user:hunter2@127.0.0.1:6379")).unwrap_err();
        assert!(matches!(error, Error::PasswordInAddress), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn an_address_that_is_none_is_named_without_its_password() {
        let error = client(&Options::new("rediz://user:hunter2@127.0.0.1:6379")).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(error.to_string().contains("rediz://"), "{error}");
    }

    #[test]
    fn options_hide_the_password() {
        let mut options = Options::new("redis://127.0.0.1:6379");
        options.password = Some(Secret::new("hunter2"));
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn every_name_in_the_library_carries_its_version() {
        let source = FUNCTIONS.replace("LIBRARY", &library());
        assert!(source.starts_with(&format!("#!lua name={}\n", library())));
        let names = source.matches("register_function").count();
        assert_eq!(source.matches(&format!("'{}_", library())).count(), names);
    }
}
