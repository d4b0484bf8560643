//! Shows letters.

use highwater_kafka::{Error, Record};

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

/// Shows letters, newest first.
///
/// # Errors
/// What Kafka says.
pub async fn list(topics: &Topics, which: &List, mut show: impl FnMut(&Letter)) -> Result<(), Error> {
    let of_worker = |letter: &Letter| which.worker.as_ref().is_none_or(|worker| *worker == letter.worker);
    let mut reader = Reader::new(topics)?;
    let mut letters = reader.letters(of_worker).await?;
    letters.reverse();
    if !which.all {
        letters.retain(|letter| !letter.settled);
        letters.truncate(NEWEST);
    }
    for mut letter in letters {
        if which.payload {
            // One at a time: each may have 16 MiB.
            letter.payload = reader.record(letter.offset).await?.map(payload);
        }
        show(&letter);
    }
    Ok(())
}

fn payload(record: Record) -> String {
    String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned()
}
