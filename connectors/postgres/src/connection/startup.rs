//! Opening a session: socket, TLS, log-in (manual: Start-up; SASL Authentication).

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{Connection, Session, TransactionStatus, Wait};
use crate::config::{ChannelBinding, ConfigError, ConnectConfig, Endpoint, Host, SslMode, TargetSession};
use crate::cursor::{Cursor, Short};
use crate::error::{Error, Result, ServerError};
use crate::socket::{Channel, Socket, Whole, left};
use crate::tls;

/// Tries the endpoints in turn.
pub(super) fn connect(config: &ConnectConfig, session: Session) -> Result<Connection> {
    // A host that swallows everything leaves time for those after it.
    let share = config.endpoint_timeout();
    let tls = match config.sslmode {
        SslMode::Disable => None,
        _ => Some(Arc::new(tls::client_config(config)?)),
    };
    let mut failure = None;
    for endpoint in &config.endpoints {
        let wait = Wait::new("opening a session", share);
        let opening = Opening { config, endpoint, tls: tls.clone(), wait: &wait };
        match opening.open(session) {
            Ok(connection) => return Ok(connection),
            // The next server has the same users.
            Err(error @ (Error::Refused { .. } | Error::Config(_))) => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Config(ConfigError("no endpoint is configured".to_owned()))))
}

/// One attempt at one endpoint.
struct Opening<'a> {
    config: &'a ConnectConfig,
    endpoint: &'a Endpoint,
    tls: Option<Arc<ClientConfig>>,
    wait: &'a Wait,
}

impl Opening<'_> {
    fn open(&self, session: Session) -> Result<Connection> {
        let channel = Channel::open(self.endpoint, self.wait.deadline).map_err(|source| self.unreachable(source))?;
        let socket = self.encrypt(Socket::new(channel))?;
        let mut connection = Connection {
            socket,
            address: self.endpoint.to_string(),
            parameters: BTreeMap::new(),
            backend_pid: 0,
            status: TransactionStatus::Idle,
            broken: false,
        };
        self.log_in(&mut connection, session)?;
        self.check_target(&connection)?;
        Ok(connection)
    }

    fn unreachable(&self, source: io::Error) -> Error {
        Error::Unreachable { address: self.endpoint.to_string(), source }
    }

    fn tls_error(&self, reason: &impl ToString) -> Error {
        Error::Tls { address: self.endpoint.to_string(), reason: reason.to_string() }
    }

    fn refused(&self, reason: ServerError) -> Error {
        Error::Refused {
            address: self.endpoint.to_string(),
            user: self.config.user.clone(),
            database: self.config.database.clone(),
            reason: Box::new(reason),
        }
    }

    /// The same, for what is missing on this side.
    fn refused_here(&self, reason: &str) -> Error {
        self.refused(ServerError { message: reason.to_owned(), ..ServerError::default() })
    }

    fn encrypt(&self, mut socket: Socket) -> Result<Socket> {
        let (Some(tls), Host::Tcp { name, .. }) = (&self.tls, &self.endpoint.host) else { return Ok(socket) };
        let deadline = self.wait.deadline;
        let answer = socket_request(&mut socket, deadline).map_err(|source| self.unreachable(source))?;
        match (answer, self.config.sslmode) {
            (b'S', _) => {}
            (b'N', SslMode::Prefer | SslMode::Disable) => return Ok(socket),
            (b'N', mode) => return Err(self.tls_error(&format!("the server offers none, and sslmode is {mode:?}"))),
            // An error from before any authentication is nobody's word (CVE-2024-10977): it is not shown.
            _ => return Err(self.unreachable(io::Error::other("the server could not answer the request for TLS"))),
        }
        let server = ServerName::try_from(name.clone()).map_err(|error| self.tls_error(&error))?;
        let client = ClientConnection::new(Arc::clone(tls), server).map_err(|error| self.tls_error(&error))?;
        let encrypted = socket.map_channel(|channel| match channel {
            Channel::Tcp(stream) => handshake(client, stream, deadline),
            other => Ok(other),
        });
        encrypted.map_err(|error| self.tls_error(&error))
    }

    fn log_in(&self, connection: &mut Connection, session: Session) -> Result<()> {
        let own = [("user", self.config.user.as_str()), ("database", self.config.database.as_str())];
        let replication = (session == Session::Replication).then_some(("replication", "database"));
        let name = self.config.application_name.as_deref().map(|name| ("application_name", name));
        let options = self.config.options.as_deref().map(|options| ("options", options));
        let parameters = own.into_iter().chain(replication).chain(name).chain(options);
        let parameters = parameters.chain(self.config.session_settings());
        connection.send_message(|buffer| frontend::startup_message(parameters, buffer))?;
        loop {
            let message = connection.receive(self.wait)?;
            match message.kind {
                b'R' => self.authenticate(connection, message)?,
                b'K' => {
                    let pid = Cursor::new(connection.socket.body(message)).i32();
                    connection.backend_pid = pid.map_err(|Short| connection.protocol("a BackendKeyData cut short"))?;
                }
                b'E' => {
                    connection.broken = true;
                    return Err(self.start_error(ServerError::read(connection.socket.body(message))));
                }
                // The server knows only an older minor version, or not all of our options; neither was asked for.
                b'v' => {}
                b'Z' => return connection.ready(message),
                other => return Err(connection.protocol(&format!("message {:?} at the start", char::from(other)))),
            }
        }
    }

    fn start_error(&self, error: ServerError) -> Error {
        if error.is_login_failure() { self.refused(error) } else { Error::Server(Box::new(error)) }
    }

    fn password(&self) -> Result<&str> {
        let password = self.config.password.as_ref().map(crate::Secret::expose);
        password.ok_or_else(|| self.refused_here("the server asks for a password, and none is configured"))
    }

    fn authenticate(&self, connection: &mut Connection, message: Whole) -> Result<()> {
        let body = connection.socket.body(message);
        let mut cursor = Cursor::new(body);
        match cursor.u32() {
            Ok(0) => self.check_binding(false),
            Ok(3) => {
                let password = self.password()?;
                self.check_binding(false)?;
                if !connection.is_encrypted() && !self.endpoint.is_local_socket() {
                    return Err(self.refused_here(
                        "the server asks for the password in clear over an unencrypted connection; \
                         use sslmode=require, or scram-sha-256 in pg_hba.conf",
                    ));
                }
                connection.send_message(|buffer| frontend::password_message(password.as_bytes(), buffer))
            }
            Ok(5) => {
                let salt = cursor.rest().first_chunk::<4>().copied();
                let salt = salt.ok_or_else(|| connection.protocol("an md5 request without its salt"))?;
                self.check_binding(false)?;
                let hash = md5_hash(self.config.user.as_bytes(), self.password()?.as_bytes(), salt);
                connection.send_message(|buffer| frontend::password_message(hash.as_bytes(), buffer))
            }
            Ok(10) => {
                let mechanisms = mechanisms(cursor);
                self.scram(connection, &mechanisms)
            }
            Ok(method) => Err(self.refused_here(&format!(
                "the server asks for authentication method {method}, which is not known here; \
                 scram-sha-256 in pg_hba.conf is"
            ))),
            Err(Short) => Err(connection.protocol("an authentication request that is cut short")),
        }
    }

    /// Refuses a log-in without channel binding, if it is required. A log-in by SCRAM has seen to it by itself.
    fn check_binding(&self, bound: bool) -> Result<()> {
        if self.config.channel_binding == ChannelBinding::Require && !bound {
            return Err(self.refused_here("channel_binding is required, and the server does not offer it here"));
        }
        Ok(())
    }

    /// Runs the whole exchange (RFC 5802, RFC 7677), up to the server's proof that it knows the password, too.
    fn scram(&self, connection: &mut Connection, offered: &[String]) -> Result<()> {
        let password = self.password()?.as_bytes();
        let offers = |mechanism: &str| offered.iter().any(|name| name == mechanism);
        let end_point = match (&connection.socket.channel(), self.config.channel_binding) {
            (_, ChannelBinding::Disable) => None,
            (Channel::Tls(stream), _) => {
                stream.conn.peer_certificates().and_then(<[_]>::first).and_then(tls::server_end_point)
            }
            _ => None,
        };
        let (mechanism, binding) = match end_point {
            Some(hash) if offers(sasl::SCRAM_SHA_256_PLUS) => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
            }
            // Says that we could have: whoever struck the offer out on the way is found out.
            Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        self.check_binding(mechanism == sasl::SCRAM_SHA_256_PLUS)?;
        if !offers(mechanism) {
            return Err(self.refused_here(&format!("the server offers {}, not {mechanism}", offered.join(", "))));
        }
        let mut scram = ScramSha256::new(password, binding);
        connection.send_message(|buffer| frontend::sasl_initial_response(mechanism, scram.message(), buffer))?;
        let challenge = self.scram_step(connection, 11)?;
        scram.update(&challenge).map_err(|error| connection.protocol(&format!("SCRAM: {error}")))?;
        connection.send_message(|buffer| frontend::sasl_response(scram.message(), buffer))?;
        let proof = self.scram_step(connection, 12)?;
        scram.finish(&proof).map_err(|error| connection.protocol(&format!("SCRAM: {error}")))?;
        let done = connection.receive(self.wait)?;
        match (done.kind, connection.socket.body(done)) {
            (b'R', [0, 0, 0, 0]) => Ok(()),
            (b'E', body) => Err(self.start_error(ServerError::read(body))),
            _ => Err(connection.protocol("no end of the SCRAM exchange")),
        }
    }

    fn scram_step(&self, connection: &mut Connection, expected: u32) -> Result<Vec<u8>> {
        let message = connection.receive(self.wait)?;
        let body = connection.socket.body(message);
        if message.kind == b'E' {
            let error = ServerError::read(body);
            connection.broken = true;
            return Err(self.start_error(error));
        }
        let mut cursor = Cursor::new(body);
        if message.kind == b'R' && cursor.u32() == Ok(expected) {
            return Ok(cursor.rest().to_vec());
        }
        Err(connection.protocol("a message that does not belong to the SCRAM exchange"))
    }

    /// Both settings are reported by PostgreSQL 14 and newer at the start of a session.
    fn check_target(&self, connection: &Connection) -> Result<()> {
        let on = |name: &str| connection.parameter(name) == Some("on");
        let read_only = on("in_hot_standby") || on("default_transaction_read_only");
        let (fits, wanted) = match self.config.target {
            TargetSession::Any => (true, ""),
            TargetSession::ReadWrite => (!read_only, "takes no writes"),
            TargetSession::ReadOnly => (read_only, "takes writes"),
        };
        if fits {
            return Ok(());
        }
        Err(self.unreachable(io::Error::other(format!("the server {wanted}, which target_session_attrs rules out"))))
    }
}

fn socket_request(socket: &mut Socket, deadline: Instant) -> io::Result<u8> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.send(&request, left(deadline)?)?;
    socket.byte(deadline)
}

/// Completes the handshake here, where its deadline and its errors belong.
fn handshake(mut client: ClientConnection, mut stream: TcpStream, deadline: Instant) -> io::Result<Channel> {
    while client.is_handshaking() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        stream.set_write_timeout(Some(left(deadline)?))?;
        match client.complete_io(&mut stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => drop(other?),
        }
    }
    Ok(Channel::Tls(Box::new(StreamOwned::new(client, stream))))
}

/// Reads the names that a server's list ends with an empty one.
fn mechanisms(mut list: Cursor<'_>) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok(name @ [_, ..]) = list.string() {
        names.push(String::from_utf8_lossy(name).into_owned());
    }
    names
}
