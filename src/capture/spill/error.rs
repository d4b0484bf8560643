//! Why the spill gave up. Nothing is lost by it: the slot sends all again.

use std::io;
use std::path::PathBuf;

/// Why streamed transactions could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    /// The files would pass their limit.
    #[error("streamed transactions need more than {limit} bytes in {folder} ([capture] spill_mib)")]
    Full {
        /// Where the files are.
        folder: PathBuf,
        /// The limit over all files, bytes.
        limit: u64,
    },
    /// More savepoints were rolled back than are remembered.
    #[error("streamed transactions rolled back more than {limit} savepoints")]
    Savepoints {
        /// How many are remembered.
        limit: usize,
    },
    /// The log does not tell who made some changes.
    #[error(
        "streamed transaction {xid} says who makes its changes at the beginning of a savepoint that was rolled back: inside of \
         it or before cannot be told apart"
    )]
    Unclear {
        /// The transaction.
        xid: u32,
    },
    /// What was read is not what was written.
    #[error("{file} is damaged at offset {offset}: {what}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the block begins, bytes.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The system refused.
    #[error("cannot {what} {file} at offset {offset}: {reason}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        file: PathBuf,
        /// Where in it, bytes.
        offset: u64,
        /// What the system said.
        reason: io::Error,
    },
    /// Others could read or change what stands in the folder.
    #[error(
        "{folder} belongs to another user, or others may write into it; name another one as [capture] spill_folder"
    )]
    Shared {
        /// The folder.
        folder: PathBuf,
    },
}

impl SpillError {
    /// Returns the word by which metrics count it.
    pub(in crate::capture) fn kind(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::Savepoints { .. } => "savepoints",
            Self::Unclear { .. } => "unclear",
            Self::Damaged { .. } => "damaged",
            Self::Disk { .. } => "disk",
            Self::Shared { .. } => "shared",
        }
    }
}
