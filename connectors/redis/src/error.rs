//! What can go wrong, and whether waiting mends it.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// A failure of the cache server or of the way to it. No message contains a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not one.
    #[error(
        "`{server}` is no address of a Redis server: {reason}; expected redis://host:port[/database] or rediss:// for TLS"
    )]
    Address {
        /// The address as configured, shortened to its scheme where it held a password.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A password stands in the address, from where it would get into logs and process lists.
    #[error("the address of the Redis server contains a password; give it separately, from the environment or a file")]
    PasswordInAddress,
    /// The server is too old to have functions.
    #[error("Redis at {server} has version {version}; functions need version 7.0 or newer: upgrade the server")]
    TooOld {
        /// Host and port.
        server: String,
        /// As the server names it.
        version: String,
    },
    /// The server may evict fences, which would revive old values.
    #[error(
        "Redis at {server} has maxmemory-policy {policy}, which may evict fences and so revive old values; set it to \
         noeviction or one of volatile-* (CONFIG SET maxmemory-policy volatile-lru, and in redis.conf)"
    )]
    Evicts {
        /// Host and port.
        server: String,
        /// The policy that the server has.
        policy: String,
    },
    /// The server is a node of a cluster, where a partition's progress and its entries would part.
    #[error(
        "Redis at {server} is a node of a cluster; progress and entries must be on one node: use a single server with replicas"
    )]
    Cluster {
        /// Host and port.
        server: String,
    },
    /// The server answered something else than the function library would.
    #[error(
        "Redis at {server} gave an answer that is not understood ({what}); does another program write to these keys?"
    )]
    Answer {
        /// Host and port.
        server: String,
        /// The answer to which call.
        what: &'static str,
    },
    /// The server refused a call or could not be reached.
    #[error("Redis at {server} {what}: {source}")]
    Server {
        /// Host and port.
        server: String,
        /// What was tried.
        what: &'static str,
        /// What the client library says.
        source: RedisError,
    },
}

impl Error {
    /// Tells whether the same call can succeed later without anybody changing anything: the server is away, starting,
    /// failing over, or full.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Server { source, .. } = self else {
            return false;
        };
        match source.kind() {
            ErrorKind::Io => true,
            ErrorKind::Server(kind) => matches!(
                kind,
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::TryAgain
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ReadOnly
            ),
            // BUSY: a long function runs; OOM: memory may be freed or granted; MISCONF: its disk is full; UNKILLABLE and
            // NOREPLICAS pass as well.
            _ => matches!(source.code(), Some("BUSY" | "OOM" | "MISCONF" | "UNKILLABLE" | "NOREPLICAS")),
        }
    }

    /// Returns a short constant name of the kind of failure, for the label of a metric.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } | Self::PasswordInAddress => "address",
            Self::TooOld { .. } => "version",
            Self::Evicts { .. } => "eviction_policy",
            Self::Cluster { .. } => "cluster",
            Self::Answer { .. } => "answer",
            Self::Server { source, .. } if source.is_timeout() => "timeout",
            Self::Server { source, .. } if source.is_io_error() => "connection",
            Self::Server { source, .. } if source.code() == Some("OOM") => "out_of_memory",
            Self::Server { .. } => "refused",
        }
    }
}
