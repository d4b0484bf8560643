//! What can go wrong with a server, sorted by what the caller does about it.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::config::ConfigError;
use crate::cursor::Cursor;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure in speaking with `PostgreSQL`. No message holds a password or a row's values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings cannot work, whatever the server does.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody answered at the address.
    #[error("PostgreSQL at {address} cannot be reached")]
    Unreachable {
        /// Host and port, or the socket's path.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The channel could not be made private, or the server's certificate is not the expected one.
    #[error("no TLS connection to PostgreSQL at {address}: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The server knows this user not, or not with this password, or not for this database.
    #[error("PostgreSQL at {address} refused user \"{user}\" for database \"{database}\": {reason}")]
    Refused {
        /// Host and port, or the socket's path.
        address: String,
        /// As whom.
        user: String,
        /// For what.
        database: String,
        /// The server's words, or what is missing here.
        reason: Box<ServerError>,
    },
    /// The server answered with an error; the connection can be used further.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The connection broke.
    #[error("the connection to {server} broke")]
    Lost {
        /// `PostgreSQL`, with its address where that is known.
        server: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server ended the replication stream in good order, as it does when it shuts down.
    #[error("PostgreSQL at {address} ended the replication stream")]
    Ended {
        /// Host and port, or the socket's path.
        address: String,
    },
    /// The deadline passed.
    #[error("{waiting_for} took longer than {after:?}")]
    Timeout {
        /// What was waited for.
        waiting_for: String,
        /// How long.
        after: Duration,
    },
    /// The other side does not speak the protocol as the manual has it.
    #[error("unexpected from PostgreSQL: {0}")]
    Protocol(String),
}

impl Error {
    /// Returns whether the same attempt can succeed later without anyone changing anything here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Ended { .. } | Self::Timeout { .. } => true,
            Self::Server(error) => error.is_transient(),
            Self::Config(_) | Self::Tls { .. } | Self::Refused { .. } | Self::Protocol(_) => false,
        }
    }

    /// Returns the server's own words, if it is the server that refused.
    #[must_use]
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) | Self::Refused { reason: error, .. } => Some(error),
            _ => None,
        }
    }

    /// Returns the SQLSTATE (manual: `PostgreSQL` Error Codes), if it is the server that refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }
}

/// An `ErrorResponse` (manual: Error and Notice Message Fields).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`; for notices `WARNING`, `NOTICE` and the like. Never translated.
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// What went wrong, in a sentence.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl ServerError {
    /// Returns whether the error comes from the server's state rather than from what was asked.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        // 55006: the slot is in use by another; 53: out of connections, memory, disk; 57P: shutting down or starting up.
        const CODES: [&str; 3] = ["40001", "40P01", "55006"];
        const CLASSES: [&str; 4] = ["08", "53", "57P", "58"];
        // 58P01 is a file that is not there, such as a timeline's history or the WAL that a slot needed.
        self.code != "58P01"
            && (CODES.contains(&self.code.as_str()) || CLASSES.iter().any(|class| self.code.starts_with(class)))
    }

    /// Returns whether the log-in itself was refused: class 28, a database that is not there, a privilege it needs.
    pub(crate) fn is_login_failure(&self) -> bool {
        self.code.starts_with("28") || self.code == "3D000" || self.code == "42501"
    }

    /// Reads the fields of an `ErrorResponse` or `NoticeResponse`; unknown ones are passed over.
    pub(crate) fn read(body: &[u8]) -> Self {
        let mut error = Self::default();
        let mut cursor = Cursor::new(body);
        while let Ok(field @ 1..) = cursor.u8() {
            let Ok(value) = cursor.string() else { break };
            let value = String::from_utf8_lossy(value).into_owned();
            match field {
                b'V' => error.severity = value,
                // The translated one, from servers before 9.6.
                b'S' if error.severity.is_empty() => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the detail: it can hold a row's values.
        f.write_str(&self.message)?;
        if !self.code.is_empty() {
            write!(f, " (SQLSTATE {})", self.code)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::Server(Box::new(ServerError {
                severity: server.severity().to_owned(),
                code: server.code().code().to_owned(),
                message: server.message().to_owned(),
                detail: server.detail().map(ToOwned::to_owned),
                hint: server.hint().map(ToOwned::to_owned),
            }));
        }
        let broken = error.is_closed()
            || std::error::Error::source(&error).is_some_and(<dyn std::error::Error>::is::<io::Error>);
        if broken {
            return Self::Lost { server: "PostgreSQL".to_owned(), source: io::Error::other(error) };
        }
        Self::Protocol(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_an_error_response_are_found() {
        let body = b"SFEHLER\0VERROR\0C55006\0Mreplication slot \"s\" is active\0Dpid 7\0Fslot.c\0Hwait\0\0";
        let error = ServerError::read(body);
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "55006"));
        assert_eq!(error.detail.as_deref(), Some("pid 7"));
        assert_eq!(error.to_string(), "replication slot \"s\" is active (SQLSTATE 55006); hint: wait");
    }

    #[test]
    fn an_error_response_that_is_cut_keeps_what_was_read() {
        assert_eq!(ServerError::read(b"C42601\0Mhalf").code, "42601");
        assert_eq!(ServerError::read(b""), ServerError::default());
    }

    #[test]
    fn only_what_may_pass_by_itself_is_transient() {
        let transient = |code: &str| ServerError { code: code.to_owned(), ..ServerError::default() }.is_transient();
        for code in ["08006", "40001", "53300", "55006", "57P01", "57P03", "58030"] {
            assert!(transient(code), "{code}");
        }
        for code in ["28P01", "3D000", "42704", "55000", "57014", "58P01"] {
            assert!(!transient(code), "{code}");
        }
    }
}
