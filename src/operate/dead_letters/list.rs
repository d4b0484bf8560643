//! Shows letters.

use highwater_kafka::Error;

use super::letter::Letter;
use super::topic::Reader;
use crate::topics::Topics;

/// Shown without `all`.
const NEWEST: usize = 50;

/// Which letters are shown, and what of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// Those of one worker; of every one otherwise.
    pub worker: Option<String>,
    /// All, settled ones among them, and not only the newest that still wait.
    pub all: bool,
    /// Their payloads, too.
    pub payload: bool,
}

/// Returns letters, newest first.
///
/// # Errors
/// What Kafka says.
pub async fn list(topics: &Topics, which: &List) -> Result<Vec<Letter>, Error> {
    let of_worker = |letter: &Letter| which.worker.as_ref().is_none_or(|worker| *worker == letter.worker);
    let mut letters = Reader::new(topics)?.letters(of_worker, which.payload).await?;
    letters.reverse();
    if !which.all {
        letters.retain(|letter| !letter.settled);
        letters.truncate(NEWEST);
    }
    Ok(letters)
}
