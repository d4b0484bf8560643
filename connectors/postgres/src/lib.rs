//! `PostgreSQL` from the wire up: what capture needs to follow a server's write-ahead log, and nothing about shops.
//!
//! The layers, from the ground:
//!
//! - [`Lsn`], [`Timestamp`], [`quote`], [`visibility`], [`pgoutput`]: values and pure functions over bytes and text.
//! - [`ConnectConfig`]: where the server is and how it is spoken to, from a URL. [`Error`]: what can go wrong, by what
//!   the caller does about it.
//! - [`Connection`]: an own blocking client, because a replication stream read by a task of an async runtime costs
//!   eleven times the CPU of one read by a thread. Every wait of it has a deadline.
//! - [`replication`]: slots, timelines, and the [`replication::ReplicationStream`] whose frames borrow from the one
//!   receive buffer.
//! - [`client`]: `tokio_postgres` sessions from the same [`ConnectConfig`], for everything that is not the stream.

pub mod client;
mod config;
mod connection;
mod cursor;
mod error;
mod lsn;
pub mod pgoutput;
pub mod quote;
pub mod replication;
mod socket;
mod time;
mod tls;
pub mod visibility;

pub use config::{ChannelBinding, ConfigError, ConnectConfig, Endpoint, Host, Secret, SslMode, TargetSession};
pub use connection::{ColumnDescription, Connection, DataRow, KeptRows, Rows, Session, TransactionStatus};
pub use error::{Error, Result, ServerError};
pub use lsn::{Lsn, ParseLsnError};
pub use time::Timestamp;
