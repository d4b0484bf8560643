//! Apache Kafka as Highwater uses it: one transactional writer, readers without groups, topics with
//! exact settings. Knows nothing of shops.
//!
//! - [`producer`]: one transaction after another under one `transactional.id`. Promise: a commit
//!   that succeeded holds every record sent in it, and a fenced predecessor adds nothing.
//! - [`alternating`]: two of them that take turns, so that records never wait for a commit.
//! - [`consumer`]: partitions read from offsets the caller chose. Promise: never jumps; an offset
//!   that is gone is an error.
//! - [`last`]: the newest record of a partition, whatever aborted tail stands behind it.
//! - [`admin`]: topics made and compared with what they should be.
//! - [`cluster`]: who answers, and which topics are there, whole or not.
//! - [`writer`]: single records, such as dead letters.
//! - [`partition`]: which partition a key belongs to, as Java clients compute it.

pub mod admin;
pub mod alternating;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod last;
pub mod partition;
pub mod probe;
pub mod producer;
mod queue;
pub mod record;
pub mod writer;

pub use admin::{Admin, Difference, TopicSpec};
pub use alternating::AlternatingProducer;
pub use cluster::Cluster;
pub use connection::{Connection, Isolation};
pub use consumer::Consumer;
pub use error::{Error, ProducerError};
pub use last::last_record;
pub use partition::{murmur2, partition_for, partition_of_hash};
pub use probe::Probe;
pub use producer::{ProducerSettings, TransactionalProducer};
pub use record::{ConsumerSettings, Record, Start, Watermarks};
pub use writer::Writer;
