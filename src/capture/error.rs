//! Why a capture session ended, and whether beginning again can mend it.

use highwater_kafka::ProducerError;

use super::spill::SpillError;
use super::start::Lost;
use crate::events::mapping::compile::MappingError;

/// Why a capture session ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PostgreSQL could not be reached, refused, or broke off.
    #[error("PostgreSQL: {0}")]
    Source(#[from] highwater_postgres::Error),
    /// The server failed by a fault of its own (SQLSTATE XX000) while it decoded its log.
    #[error(
        "the server cannot decode its log for slot `{slot}`: {reason}; where it cannot map a file (XX000) without streaming either, \
         the slot is broken, as one that was made by hand while tables were created or truncated can be: to have it replaced, and every \
         mapped table read again, set [capture] on_lost_slot = \"resnapshot\""
    )]
    Decoding {
        /// The slot.
        slot: String,
        /// What the server said.
        reason: highwater_postgres::Error,
    },
    /// The catalogue changed while a slot was made, which could not be decoded then.
    #[error(
        "slot `{slot}` has to be made again: `{altered}` was created, altered, truncated or published while it was made; where this \
         does not end, pause what does so until capture is ready"
    )]
    AlteredMeanwhile {
        /// The slot.
        slot: String,
        /// One of the tables, enums, publications or schemas.
        altered: String,
    },
    /// Rows could not be read for the snapshot.
    #[error("reading rows for the snapshot: {0}")]
    Snapshot(highwater_postgres::Error),
    /// The producer's transaction could not be completed.
    #[error("Kafka: {0}")]
    Producer(#[from] ProducerError),
    /// Kafka could not be reached or refused.
    #[error("Kafka: {0}")]
    Topics(#[from] highwater_kafka::Error),
    /// Another capture holds the slot.
    #[error("slot `{slot}` is in use by the server's process {pid}: another capture is at work, waiting for its end")]
    SlotBusy {
        /// The slot.
        slot: String,
        /// Process id of its walsender.
        pid: i32,
    },
    /// Slot and progress do not fit together.
    #[error("{lost}; {choices}")]
    Lost {
        /// What is lost.
        lost: Lost,
        /// What the operator can do.
        choices: String,
    },
    /// Topics are not as they have to be.
    #[error("topics differ from what they have to be: {0}")]
    TopicSettings(String),
    /// The configuration's mapping does not fit the tables.
    #[error("the mapping does not fit the tables:{}", list(.0))]
    Mapping(Vec<MappingError>),
    /// Streamed transactions could not be kept; the server has to keep them in the next session.
    #[error("{0}")]
    Spill(#[from] SpillError),
    /// The standby whose log is read does not go with the primary that is asked what is visible: they are on two timelines, or it is
    /// too far behind.
    #[error("{0}")]
    NotOneLog(String),
    /// What the server sent contradicts the protocol, or a record in the progress topic is none.
    #[error("{0}")]
    Unexpected(String),
    /// Something that the configuration or the database must provide.
    #[error("{0}")]
    Setup(String),
}

fn list(errors: &[MappingError]) -> String {
    errors.iter().fold(String::new(), |list, error| list + "\n  " + &error.to_string())
}

impl Error {
    /// Whether another capture holds the slot.
    #[must_use]
    pub fn is_slot_busy(&self) -> bool {
        // SQLSTATE object_in_use: it took the slot between our question and our attempt.
        matches!(self, Self::SlotBusy { .. }) || matches!(self, Self::Source(error) if error.code() == Some("55006"))
    }

    /// Whether a server did not let us in. That passes where a standby was just started: it answers before it has replayed what made
    /// the role, its password or its rights.
    #[must_use]
    pub fn is_refused_login(&self) -> bool {
        matches!(self, Self::Source(highwater_postgres::Error::Refused { .. }))
    }

    /// Names what ended a stream.
    pub(super) fn of_stream(error: highwater_postgres::Error, slot: &str) -> Self {
        if error.code() == Some("XX000") {
            return Self::Decoding { slot: slot.to_owned(), reason: error };
        }
        Self::Source(error)
    }

    /// Tells, as a label, why the next session does without streaming. Some servers fail while they stream a transaction in progress,
    /// such as 15 behind a rolled-back TRUNCATE ("could not map filenode"), and not behind its commit.
    #[must_use]
    pub fn forbids_streaming(&self) -> Option<&'static str> {
        match self {
            Self::Spill(reason) => Some(reason.kind()),
            Self::Decoding { .. } => Some("decoding"),
            // Functions that look something up fail so where it is dropped beside them: that passes, and is worth another session.
            Self::Source(error) if error.code() == Some("XX000") => Some("decoding"),
            _ => None,
        }
    }

    /// Whether changes cannot be decoded because the catalogue changed while their slot was made. A server that says it in
    /// another language is not understood, and capture ends.
    pub(super) fn is_of_a_slot_made_wrongly(&self) -> bool {
        // "filenode" before PostgreSQL 16.
        matches!(self, Self::Decoding { reason, .. } if reason.to_string().contains("could not map filen"))
    }

    /// Whether a new session may succeed without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            // undefined_column, undefined_table: the table was altered; a new session looks at it again, or refuses it.
            Self::Snapshot(error) => error.is_transient() || matches!(error.code(), Some("42703" | "42P01")),
            Self::Source(error) => error.is_transient() || self.is_slot_busy(),
            Self::Topics(error) => error.is_transient(),
            // A new session fences whatever is left of this one; a fenced one waits for the slot like any other.
            Self::Producer(error) => !matches!(error, ProducerError::Fatal { .. }),
            // A promotion takes its time to reach every server, and every address.
            Self::SlotBusy { .. } | Self::Spill(_) | Self::NotOneLog(_) | Self::AlteredMeanwhile { .. } => true,
            Self::Lost { .. }
            | Self::Decoding { .. }
            | Self::TopicSettings(_)
            | Self::Mapping(_)
            | Self::Unexpected(_)
            | Self::Setup(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_postgres::{Error as Source, ServerError};

    use super::*;

    fn server(code: &str) -> ServerError {
        ServerError { code: code.to_owned(), ..ServerError::default() }
    }

    #[test]
    fn a_fault_of_the_server_while_it_streams_is_tried_without_streaming_and_a_refused_login_is_told_apart() {
        let of_stream = |code| Error::of_stream(Source::Server(server(code).into()), "s");
        let fault = of_stream("XX000");
        assert_eq!((fault.forbids_streaming(), fault.is_transient()), (Some("decoding"), false));
        assert_eq!(of_stream("42704").forbids_streaming(), None);
        assert!(!fault.is_of_a_slot_made_wrongly(), "not every fault is the slot's");
        let (address, user, database) = ("db:5432".to_owned(), "highwater_capture".to_owned(), "shop".to_owned());
        let refused = Error::Source(Source::Refused { address, user, database, reason: server("28000").into() });
        assert!(refused.is_refused_login() && !refused.is_transient() && !fault.is_refused_login());
    }
}
